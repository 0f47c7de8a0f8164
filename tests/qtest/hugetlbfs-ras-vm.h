/*
 * Tests of the recovery from memory failures: the machine under test
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_HUGETLBFS_RAS_VM_H
#define TESTS_HUGETLBFS_RAS_VM_H

#include "libqtest.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qemu/units.h"

#define HUGE_PAGE (2 * MiB)
#define SMALL_PAGE (4 * KiB)
#define SMALL_PAGES (HUGE_PAGE / SMALL_PAGE)

/* Huge pages of mem0 of ras_vm_start() */
#define RAS_VM_PAGES 32

/**
 * ras_machine: the machine type under test, with its options
 * ras_base: guest-physical address of mem0
 *
 * The other functions here take offsets in mem0 for addresses.
 */
const char *ras_machine(void);
uint64_t ras_base(void);

/**
 * RasVm: a QEMU, every event it sent, and what it printed
 *
 * @events: QDict, oldest first; filled while QMP replies are read
 * @log: file with its standard error
 */
typedef struct RasVm {
    QTestState *qts;
    GPtrArray *events;
    char *log;
} RasVm;

/**
 * ras_pool_have: are @pages huge pages of 2 MiB free?
 *
 * Adds them to the pool, until the process ends in whatever way.  They stay
 * free until ras_pool_release() unless QEMU takes them.  Skips the test if
 * there are none.
 */
bool ras_pool_have(long pages);
void ras_pool_release(void);

/**
 * ras_pool_exhaust: no huge page is free, nor will be when one is given back
 *
 * As after a real error, which takes a page from the pool for good.
 * ras_pool_refill() ends it.
 */
bool ras_pool_exhaust(void);
void ras_pool_refill(void);
/* Free huge pages that nobody reserved. */
long ras_pool_free(void);

/**
 * ras_vm_start: a machine with 64 MiB of "mem0" on huge pages
 *
 * @backend: more properties of mem0, with a comma before each, or ""
 * @args: more arguments, or ""
 *
 * Returns: NULL if the test was skipped.
 */
RasVm *ras_vm_start(const char *backend, const char *args);
/* The same with @pages huge pages of the test's own backends. */
RasVm *ras_vm_start_raw(long pages, const char *args);

/* 16 MiB of "mem1" on huge pages in DIMM "dimm", besides mem0 */
#define DIMM_BASE (4 * GiB)
#define DIMM_PAGES 8
RasVm *ras_vm_start_dimm(void);
/* The guest lets the DIMM go; mem1 stays. */
void ras_unplug_dimm(RasVm *vm);

void ras_vm_quit(RasVm *vm);
char *ras_vm_log(RasVm *vm);
/* How often @text is in the log. */
int ras_vm_log_count(RasVm *vm, const char *text);

/**
 * ras_vm_fails: QEMU must end with status 1
 *
 * Returns: what it printed; NULL if the test was skipped.
 */
char *ras_vm_fails(long pages, const char *args);

/* Executes a command that must succeed. */
QDict *ras_qmp(RasVm *vm, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* Executes a command that must fail, and returns the text. */
char *ras_qmp_error(RasVm *vm, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

void ras_inject(RasVm *vm, const uint64_t *offsets, size_t n,
                bool action_required);
/* One page, action optional. */
void ras_inject_one(RasVm *vm, uint64_t offset);

int ras_event_count(RasVm *vm, const char *name);
void ras_event_wait(RasVm *vm, const char *name, int count);
/* qtest_system_reset() would take events away. */
void ras_reset(RasVm *vm);
/* The data of the newest event of this name, not owned. */
QDict *ras_event_last(RasVm *vm, const char *name);
/* Forget the events so far. */
void ras_events_clear(RasVm *vm);

/**
 * RasLost: a run of lost pages, bytes
 */
typedef struct RasLost {
    uint64_t offset;
    uint64_t size;
} RasLost;

/**
 * RasExpect: what the query and the event must say of a huge page
 *
 * @offset: in mem0
 * @lost: lost ranges in it, ended by a size of 0
 * @untold: pages, or RAS_ANY
 */
typedef struct RasExpect {
    uint64_t offset;
    RasLost lost[4];
    uint64_t untold;
} RasExpect;

#define RAS_ANY UINT64_MAX

/* The event's data, or an element of the query's pages, of a split page. */
void ras_expect_page(QDict *page, const RasExpect *expect);
/* The whole answer of query-hugetlbfs-ras.  Takes @n split pages. */
void ras_expect_query(RasVm *vm, const RasExpect *expect, size_t n);
/* The only backend is eligible, or not for a reason that contains @reason. */
void ras_expect_backend(RasVm *vm, const char *reason);
void ras_expect_no_pages(RasVm *vm);
uint64_t ras_untold(RasVm *vm);

/**
 * ras_smaps: the entry of the QEMU process for a piece of mem0
 *
 * Returns: the text of the entry of /proc/PID/smaps.
 */
char *ras_smaps(RasVm *vm, uint64_t offset);
uint64_t ras_kernel_page_size(RasVm *vm, uint64_t offset);
bool ras_vm_flag(RasVm *vm, uint64_t offset, const char *flag);

/**
 * ras_guest_bios: what the guest runs if the accelerator is not qtest
 *
 * Returns: an allocated path, valid while this process lives.
 */
char *ras_guest_bios(void);

/* Guest-physical address of what the guest was told to do */
#define GUEST_FLAGS 0x1000
#define GUEST_START 1           /* enable machine checks */
#define GUEST_SMP 4             /* start CPU 1 as well */

/* Offsets in the data of a CPU, at GUEST_CPU(index) */
#define GUEST_CPU(n) (0x2000 + (n) * 0x1000)
#define GUEST_COUNT 0           /* entries in the log, 2 bytes */
#define GUEST_READY 4           /* machine checks are enabled */
#define GUEST_POLL 8            /* set it to have the banks logged now */
#define GUEST_ACK 12            /* acknowledge what is logged */
#define GUEST_LOG 64

typedef struct GuestMce {
    uint64_t status;            /* MC9 */
    uint64_t addr;
    uint64_t misc;
    uint64_t other_status;      /* MC1 */
    uint64_t mcg_status;
    uint64_t pad[3];
} GuestMce;

/* The pattern: every word tells its offset and @seed. */
void ras_pattern_write(RasVm *vm, uint64_t offset, size_t size, uint64_t seed);
void ras_pattern_check(RasVm *vm, uint64_t offset, size_t size, uint64_t seed);
void ras_pattern_check_buffer(const void *buf, uint64_t offset, size_t size,
                              uint64_t seed);
void ras_zero_check(RasVm *vm, uint64_t offset, size_t size);

/* Cases in the other files */
void ras_add_refusal_tests(void);
void ras_add_reset_tests(void);
void ras_add_user_tests(void);
void ras_add_mce_tests(void);
void ras_add_ghes_tests(void);

#endif /* TESTS_HUGETLBFS_RAS_VM_H */
