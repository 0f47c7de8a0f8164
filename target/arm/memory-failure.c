/*
 * Delivery of a memory failure to an Arm guest
 *
 * A virtual CPU that touched a lost page takes a synchronous external abort.
 * A guest with ACPI finds the address in the record of its SEA error source;
 * without, it decides by the exception alone.  Pages that nobody touched are
 * in the records of an asynchronous source.  An SError is never used: Linux
 * has no error source for it, and panics.
 *
 * References are to the Arm Architecture Reference Manual, DDI 0487 (ARM).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qapi/qapi-events-run-state.h"
#include "cpu.h"
#include "hw/acpi/ghes-source.h"
#include "internals.h"
#include "syndrome.h"
#include "system/hw_accel.h"
#include "system/memory-failure.h"
#include "system/hugetlbfs-ras/trace.h"

/*
 * How long an access is held back for a guest that does not acknowledge the
 * previous record, in nanoseconds of its own time.  Linux does so while it
 * handles the exception.
 */
#define SEA_HOLD_NS NANOSECONDS_PER_SECOND

/* Between two attempts to tell a guest that did not acknowledge yet */
#define BUSY_PAUSE_US 1000

/* ARM, ESR_ELx, ISS encoding for a Data Abort, DFSC: synchronous external */
#define DFSC_SYNC_EXTERNAL 0x10

/**
 * ArmHeldFault: an access that waits for an acknowledgement
 *
 * @page: the page of the host that it is in
 */
typedef struct ArmHeldFault {
    hwaddr page;
    int64_t since;
} ArmHeldFault;

/* By cpu_index; protected by the BQL. */
static GHashTable *held_faults;

/* ARM, "Synchronous external abort": FnV says that FAR is not valid */
static void arm_inject_sea(CPUState *cs)
{
    CPUARMState *env = &ARM_CPU(cs)->env;

    cs->exception_index = EXCP_DATA_ABORT;
    env->exception.target_el = 1;
    env->exception.syndrome = syn_data_abort_no_iss(arm_current_el(env) == 1,
                                                    1, 0, 0, 0, 0,
                                                    DFSC_SYNC_EXTERNAL);
    arm_cpu_do_interrupt(cs);
}

static void arm_told(CPUState *cs, hwaddr gpa, bool action_required)
{
    MemoryFailureFlags flags = { .action_required = action_required };

    trace_memory_failure_told(cs ? cs->cpu_index : -1, gpa, action_required);
    qapi_event_send_memory_failure(MEMORY_FAILURE_RECIPIENT_GUEST,
                                   MEMORY_FAILURE_ACTION_INJECT, &flags);
}

/* Returns: true as long as the access may be held back */
static bool arm_hold(CPUState *cs, hwaddr gpa)
{
    const hwaddr page = QEMU_ALIGN_DOWN(gpa, qemu_real_host_page_size());
    gpointer key = GINT_TO_POINTER(cs->cpu_index);
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    ArmHeldFault *held;

    if (!held_faults) {
        held_faults = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    }
    held = g_hash_table_lookup(held_faults, key);
    if (!held || held->page != page) {
        held = g_new(ArmHeldFault, 1);
        *held = (ArmHeldFault) { .page = page, .since = now };
        g_hash_table_insert(held_faults, key, held);
    }
    return now - held->since < SEA_HOLD_NS;
}

static void arm_release(CPUState *cs)
{
    if (held_faults) {
        g_hash_table_remove(held_faults, GINT_TO_POINTER(cs->cpu_index));
    }
}

MemoryFailureResult memory_failure_deliver(CPUState *cs, const hwaddr *gpas,
                                           size_t count, size_t *told,
                                           MemoryFailureKind kind)
{
    const uint64_t toucher = ARM_CPU(cs)->mp_affinity;
    const hwaddr gpa = gpas[0];
    size_t named = 0;
    bool later = true;

    switch (ghes_source_state(ACPI_HEST_SRC_ID_SEA)) {
    case GHES_SOURCE_READY:
        named = ghes_source_memory_errors(ACPI_HEST_SRC_ID_SEA, gpas, count,
                                          &toucher);
        break;
    case GHES_SOURCE_BUSY:
        if (arm_hold(cs, gpa)) {
            trace_memory_failure_busy(cs->cpu_index, gpa);
            return MEMORY_FAILURE_BUSY;
        }
        warn_report("CPU %d touched lost memory at guest address 0x%"
                    HWADDR_PRIx " and the guest did not acknowledge its "
                    "previous error for %d s: it is not told the address",
                    cs->cpu_index, gpa,
                    (int)(SEA_HOLD_NS / NANOSECONDS_PER_SECOND));
        break;
    default:
        /* The guest decides by the exception: there will be no record. */
        later = false;
        break;
    }
    arm_release(cs);
    cpu_synchronize_state(cs);
    arm_inject_sea(cs);
    for (size_t i = 0; i < MAX(named, 1); i++) {
        arm_told(cs, gpas[i], true);
    }
    *told = later ? named : count;
    return MEMORY_FAILURE_TOLD;
}

MemoryFailureResult memory_failure_inform(const hwaddr *gpas, size_t count,
                                          size_t *told)
{
    *told = 0;
    if (ghes_source_state(ACPI_HEST_SRC_ID_ASYNC) == GHES_SOURCE_ABSENT) {
        return MEMORY_FAILURE_UNABLE;
    }
    *told = ghes_source_memory_errors(ACPI_HEST_SRC_ID_ASYNC, gpas, count,
                                      NULL);
    for (size_t i = 0; i < *told; i++) {
        arm_told(NULL, gpas[i], false);
    }
    return *told ? MEMORY_FAILURE_TOLD : MEMORY_FAILURE_BUSY;
}

void memory_failure_unrecovered(CPUState *cs, hwaddr gpa, bool touched)
{
    static unsigned turn;
    const size_t size = qemu_real_host_page_size();
    hwaddr gpas[MEMORY_FAILURE_INFORM_MAX];
    size_t count = memory_failure_pages(QEMU_ALIGN_DOWN(gpa, size), size,
                                        turn, gpas);
    size_t told;

    if (!touched) {
        memory_failure_inform(gpas, count, &told);
        return;
    }
    if (memory_failure_deliver(cs, gpas, count, &told,
                               MEMORY_FAILURE_FAULT) == MEMORY_FAILURE_BUSY) {
        /* It comes again at once. */
        bql_unlock();
        g_usleep(BUSY_PAUSE_US);
        bql_lock();
    } else {
        turn++;
    }
}

void memory_failure_reset(void)
{
    g_clear_pointer(&held_faults, g_hash_table_unref);
}
