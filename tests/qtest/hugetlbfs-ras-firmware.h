/*
 * Tests of the recovery from memory failures: what firmware does for ACPI
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_HUGETLBFS_RAS_FIRMWARE_H
#define TESTS_HUGETLBFS_RAS_FIRMWARE_H

#include "hugetlbfs-ras-vm.h"

/* Where it puts its files: offset in mem0, bytes */
#define RAS_FIRMWARE_AT (1 * MiB)
#define RAS_FIRMWARE_SIZE (1 * MiB)

/**
 * ras_firmware_run: load the tables of the machine as firmware does
 *
 * Executes etc/table-loader (see hw/acpi/bios-linker-loader.c); only for
 * machines with a memory-mapped fw_cfg at the address of virt.
 *
 * Returns: file name: guest-physical address (a pointer to uint64_t)
 */
GHashTable *ras_firmware_run(RasVm *vm);

/* Guest-physical address of a file that ras_firmware_run() has loaded */
uint64_t ras_firmware_file(GHashTable *files, const char *name);

/**
 * ras_firmware_table: find a table of the RSDP's XSDT, or the DSDT
 *
 * @size: set to its size, bytes
 *
 * Returns: the table, NULL if there is none; g_free() it.
 */
void *ras_firmware_table(RasVm *vm, GHashTable *files, const char *signature,
                         size_t *size);

#endif /* TESTS_HUGETLBFS_RAS_FIRMWARE_H */
