/*
 * Tests of the recovery from memory failures: a guest with error sources
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_HUGETLBFS_RAS_GHES_H
#define TESTS_HUGETLBFS_RAS_GHES_H

#include "hugetlbfs-ras-firmware.h"

/* Offset in mem0 of a page to lose, in another huge page for each @n */
#define PAGE(n) (((n) + 4) * HUGE_PAGE + ((n) + 3) * SMALL_PAGE)

/* Error sources of the machine, as in docs/specs/acpi_hest_ghes.rst */
enum { SEA, ASYNC, SOURCES };
#define BLOCK_SIZE 1024
#define MAX_SECTIONS 6

/* hw/arm/virt.c: VIRT_ACPI_GED; the event selector is its first register */
#define GED_SELECTOR 0x09080000
#define GED_ERROR 0x10

/**
 * Guest: what the test plays
 *
 * @files: what its firmware has loaded
 * @sources: how many error sources the machine has
 * @errors: guest-physical address of etc/hardware_errors
 * @told: MEMORY_FAILURE events expected so far
 */
typedef struct Guest {
    RasVm *vm;
    GHashTable *files;
    int sources;
    uint64_t errors;
    uint64_t told;
} Guest;

/* False if the test was skipped; @args: more arguments, or "" */
bool guest_start(Guest *g, const char *args);
/* Without the source that would tell of a page whose touch is held back */
bool guest_start_sea_only(Guest *g);
/* Its firmware loads the tables. */
void guest_boot(Guest *g);
void guest_quit(Guest *g);

/* Guest-physical address of the Read Ack Register */
uint64_t guest_ack_at(Guest *g, int source);
bool guest_acknowledged(Guest *g, int source);
/* What Linux does: invalidate the block, then write the register. */
void guest_acknowledge(Guest *g, int source);
/* BLOCK_SIZE bytes */
void guest_block_read(Guest *g, int source, uint8_t *block);
/* Addresses, acknowledgements, blocks: all as the firmware leaves them */
void guest_expect_errors_file(Guest *g);
uint64_t guest_pc(Guest *g);

/* A virtual CPU touches the page, which is lost then. */
void guest_touch(Guest *g, uint64_t offset);
/* Let the main loop tell of what nobody touched. */
void guest_tell(Guest *g);

/* The last one of g->told MEMORY_FAILURE events */
void guest_expect_events(Guest *g, bool action_required);
/* The block tells of @n pages, and the guest was told of no others. */
void guest_expect_block(Guest *g, int source, const uint64_t *offsets, int n);
void guest_expect_touched(Guest *g, uint64_t offset);
/* Time for a wrong delivery: milliseconds of the guest, and some of ours */
void guest_expect_quiet(Guest *g, int64_t guest_ms);

void ras_add_hest_tests(void);

#endif /* TESTS_HUGETLBFS_RAS_GHES_H */
