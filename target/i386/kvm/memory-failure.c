/*
 * Delivery of a memory failure to an x86 guest: machine check
 *
 * References are to the Intel SDM volume 3B, chapter "Machine-Check
 * Architecture" (SDM), and the AMD64 APM volume 2, chapter 9 (APM).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "cpu.h"
#include "kvm/kvm_i386.h"
#include "system/hugetlbfs-ras.h"
#include "system/hw_accel.h"
#include "system/memory-failure.h"
#include "system/hugetlbfs-ras/trace.h"

/* kvm_mce_inject() reports in this bank. */
#define MCE_BANK 9

/*
 * How long an access is held back for a guest that does not finish the
 * previous machine check, in nanoseconds of its own time.  Linux waits one
 * second for its other CPUs and finishes in milliseconds.  Afterwards the
 * error is injected all the same: the architecture then shuts the CPU down.
 */
#define MCE_HOLD_NS (5 * NANOSECONDS_PER_SECOND)

/**
 * X86LastFault: the error that a virtual CPU left the guest with
 *
 * A guest that touches a missing page may be told "not present" by KVM and
 * run something else; if the page turns out to be poisoned, KVM raises the
 * error while that something else runs.  Injected there it would hit the idle
 * loop or the wrong process.  An error counts as synchronous only if it comes
 * again, with the same address and from the same instruction, after the
 * guest was entered once more.
 */
typedef struct X86LastFault {
    bool valid;
    hwaddr gpa;
    uint64_t rip;
    int64_t since;
} X86LastFault;

/* By cpu_index; protected by the BQL. */
static GHashTable *last_faults;

static X86LastFault *x86_last_fault(CPUState *cs)
{
    gpointer key = GINT_TO_POINTER(cs->cpu_index);
    X86LastFault *last;

    if (!last_faults) {
        last_faults = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    }
    last = g_hash_table_lookup(last_faults, key);
    if (!last) {
        last = g_new0(X86LastFault, 1);
        g_hash_table_insert(last_faults, key, last);
    }
    return last;
}

static uint64_t *x86_bank(CPUX86State *env)
{
    return env->mce_banks + 4 * MCE_BANK;
}

/* SDM "IA32_MCG_STATUS MSR", "IA32_MCi_STATUS MSRs"; APM 9.3.2. */
static bool x86_mce_busy(CPUState *cs)
{
    CPUX86State *env = &X86_CPU(cs)->env;

    cpu_synchronize_state(cs);
    return (env->mcg_status & MCG_STATUS_MCIP) ||
           (cs->interrupt_request & CPU_INTERRUPT_MCE) ||
           (x86_bank(env)[1] & MCI_STATUS_VAL);
}

static bool x86_mce_broadcasts(CPUState *cs)
{
    CPUX86State *env = &X86_CPU(cs)->env;

    return cpu_x86_support_mca_broadcast(env) &&
           !(env->mcg_ext_ctl & MCG_EXT_CTL_LMCE_EN);
}

/* A broadcast machine check concerns every CPU, so each must be ready. */
static bool x86_any_cpu(CPUState *cs, bool (*test)(CPUState *cs))
{
    CPUState *other;

    if (test(cs)) {
        return true;
    }
    if (!x86_mce_broadcasts(cs)) {
        return false;
    }
    CPU_FOREACH(other) {
        if (other != cs && test(other)) {
            return true;
        }
    }
    return false;
}

/*
 * A machine check while CR4.MCE is clear shuts the CPU down (SDM "CR4").  An
 * error that nobody touched can wait for a guest that is still booting.
 */
static bool x86_mce_disabled(CPUState *cs)
{
    return x86_mce_busy(cs) || !(X86_CPU(cs)->env.cr[4] & CR4_MCE_MASK);
}

/*
 * An AMD guest finds an action-optional error by polling, after minutes.  An
 * access cannot wait that long, and with the bank still valid it would
 * overflow, which panics Linux.  Nobody has seen the waiting error: take it
 * back, it will be reported again.
 */
static void x86_withdraw_deferred(CPUState *cs)
{
    CPUX86State *env = &X86_CPU(cs)->env;
    uint64_t *bank = x86_bank(env);

    cpu_synchronize_state(cs);
    if ((bank[1] & (MCI_STATUS_VAL | MCI_STATUS_UC | MCI_STATUS_DEFERRED)) ==
        (MCI_STATUS_VAL | MCI_STATUS_DEFERRED)) {
        trace_memory_failure_withdraw(cs->cpu_index, bank[2]);
        hugetlbfs_ras_untell(bank[2]);
        bank[1] = 0;
    }
}

static void x86_warn_amd(CPUX86State *env)
{
    if (IS_AMD_CPU(env) && !(env->features[FEAT_8000_0007_EBX] &
                             CPUID_8000_0007_EBX_SUCCOR)) {
        warn_report_once("The guest's CPU model lacks 'succor': an AMD guest "
                         "panics on a memory error instead of killing the "
                         "process that touched it; use -cpu host or add "
                         "succor=on to the model");
    }
}

/* One machine check reports one page. */
MemoryFailureResult memory_failure_inform(const hwaddr *gpas, size_t count,
                                          size_t *told)
{
    CPUState *cs;

    *told = 0;

    CPU_FOREACH(cs) {
        X86CPU *cpu = X86_CPU(cs);
        CPUX86State *env = &cpu->env;

        if (!(env->mcg_cap & MCG_SER_P)) {
            return MEMORY_FAILURE_UNABLE;
        }
        if (!x86_any_cpu(cs, x86_mce_disabled)) {
            kvm_mce_inject(cpu, gpas[0], BUS_MCEERR_AO);
            trace_memory_failure_told(cs->cpu_index, gpas[0], false);
            *told = 1;
            return MEMORY_FAILURE_TOLD;
        }
        if (!IS_AMD_CPU(env)) {
            /* A machine check, on the first CPU as QEMU always did. */
            break;
        }
        /* Each AMD CPU polls its own banks: use one that is free. */
    }
    return MEMORY_FAILURE_BUSY;
}

static bool x86_same_fault(CPUState *cs, hwaddr gpa)
{
    CPUX86State *env = &X86_CPU(cs)->env;
    X86LastFault *last = x86_last_fault(cs);

    if (last->valid && last->gpa == gpa && last->rip == env->eip) {
        return true;
    }
    *last = (X86LastFault) {
        .valid = true,
        .gpa = gpa,
        .rip = env->eip,
        .since = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL),
    };
    return false;
}

MemoryFailureResult memory_failure_deliver(CPUState *cs, const hwaddr *gpas,
                                           size_t count, size_t *told,
                                           MemoryFailureKind kind)
{
    X86CPU *cpu = X86_CPU(cs);
    const hwaddr gpa = gpas[0];
    X86LastFault *last;

    *told = 1;
    if (!(cpu->env.mcg_cap & MCG_SER_P)) {
        return MEMORY_FAILURE_UNABLE;
    }
    x86_warn_amd(&cpu->env);
    cpu_synchronize_state(cs);
    if (!x86_same_fault(cs, gpa) && kind == MEMORY_FAILURE_FAULT) {
        trace_memory_failure_first(cs->cpu_index, gpa, cpu->env.eip);
        return MEMORY_FAILURE_LATER;
    }

    last = x86_last_fault(cs);
    x86_withdraw_deferred(cs);
    if (x86_any_cpu(cs, x86_mce_busy)) {
        if (qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) - last->since < MCE_HOLD_NS) {
            trace_memory_failure_busy(cs->cpu_index, gpa);
            return MEMORY_FAILURE_BUSY;
        }
        warn_report("CPU %d touched lost memory at guest address 0x%"
                    HWADDR_PRIx " and did not finish its previous machine "
                    "check for %d s", cs->cpu_index, gpa,
                    (int)(MCE_HOLD_NS / NANOSECONDS_PER_SECOND));
    }
    kvm_mce_inject(cpu, gpa, BUS_MCEERR_AR);
    last->valid = false;
    trace_memory_failure_told(cs->cpu_index, gpa, true);
    return MEMORY_FAILURE_TOLD;
}

void memory_failure_reset(void)
{
    g_clear_pointer(&last_faults, g_hash_table_unref);
}
