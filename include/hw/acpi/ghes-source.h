/*
 * Error sources of the guest's HEST: their state, and records for them
 *
 * A Generic Hardware Error Source version 2 (ACPI 6.5, 18.3.2.8) is one block
 * of guest memory and one register in which the guest acknowledges that it
 * has read the block.  Only this module writes blocks.  It never writes one
 * that is not acknowledged, and keeps no record for later: who has more to
 * tell asks again.
 *
 * The tables and the layout of etc/hardware_errors are built in ghes.c.
 *
 * Context: unless stated otherwise the functions need the BQL.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_ACPI_GHES_SOURCE_H
#define HW_ACPI_GHES_SOURCE_H

#include "exec/hwaddr.h"
#include "hw/acpi/aml-build.h"
#include "hw/acpi/ghes.h"

/**
 * GhesSourceState: may a record be written?
 *
 * @GHES_SOURCE_ABSENT: this machine has no such source
 * @GHES_SOURCE_UNSET: the guest's firmware did not say yet where the block
 *     is, or it is in lost memory
 * @GHES_SOURCE_BUSY: the guest did not acknowledge the previous record
 * @GHES_SOURCE_READY: it may
 */
typedef enum GhesSourceState {
    GHES_SOURCE_ABSENT,
    GHES_SOURCE_UNSET,
    GHES_SOURCE_BUSY,
    GHES_SOURCE_READY,
} GhesSourceState;

/* Memory sections that one block of ACPI_GHES_MAX_RAW_DATA_LENGTH holds */
#define GHES_SOURCE_MAX_PAGES 6

/**
 * ghes_source_count: sources in the tables of a machine with GHES
 *
 * Part of the guest's ABI: machine types up to 10.0 have one.
 */
unsigned ghes_source_count(const AcpiGhesState *ags);

/**
 * ghes_source_init: the machine has GHES
 *
 * From now on a reset forgets where the blocks are, until the firmware has
 * said it again.
 *
 * Context: main thread, machine creation.
 */
void ghes_source_init(AcpiGhesState *ags);

/**
 * ghes_source_state: state of a source
 *
 * @source_id: ACPI_HEST_SRC_ID_*
 */
GhesSourceState ghes_source_state(uint16_t source_id);

/**
 * ghes_source_memory_errors: tell of uncorrected errors in memory
 *
 * Writes one record with a section for each page and, for the asynchronous
 * source, notifies the guest.
 *
 * @source_id: ACPI_HEST_SRC_ID_*
 * @gpas: guest-physical addresses, each of 4 KiB
 * @count: how many; no more than GHES_SOURCE_MAX_PAGES of them are taken
 * @toucher: affinity (MPIDR) of the CPU that touches them; NULL if none does
 *
 * Returns: how many were taken; 0 if the source is not GHES_SOURCE_READY or
 * guest memory could not be written.
 */
size_t ghes_source_memory_errors(uint16_t source_id, const hwaddr *gpas,
                                 size_t count, const uint64_t *toucher);

/**
 * ghes_source_ged_event: what the GED of a machine with GHES needs besides
 *
 * Returns: ACPI_GED_ERROR_EVT if there is an asynchronous source, else 0.
 */
uint32_t ghes_source_ged_event(const AcpiGhesState *ags);

/**
 * ghes_source_aml_device: the device on which the guest is notified
 *
 * ACPI 6.5, 18.3.2.7.2: error device, PNP0C33
 */
Aml *ghes_source_aml_device(void);

#endif /* HW_ACPI_GHES_SOURCE_H */
