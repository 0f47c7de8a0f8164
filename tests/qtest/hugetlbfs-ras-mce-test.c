/*
 * Tests of the recovery from memory failures: the guest is told
 *
 * A guest under TCG logs its machine checks, see hugetlbfs-ras-guest.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "hugetlbfs-ras-vm.h"

/* SDM "IA32_MCi_STATUS MSRS"; APM 9.3.2.1 */
#define ST_VAL BIT_ULL(63)
#define ST_OVER BIT_ULL(62)
#define ST_UC BIT_ULL(61)
#define ST_EN BIT_ULL(60)
#define ST_MISCV BIT_ULL(59)
#define ST_ADDRV BIT_ULL(58)
#define ST_S BIT_ULL(56)
#define ST_AR BIT_ULL(55)
#define ST_DEFERRED BIT_ULL(44)
#define ST_POISON BIT_ULL(43)
#define ST_COMMON (ST_VAL | ST_EN | ST_MISCV | ST_ADDRV)
/* SDM "Machine-Check Architecture", SRAO: memory scrubbing; SRAR: data load */
#define INTEL_AO (ST_COMMON | ST_UC | ST_S | 0xc0)
#define INTEL_AR (ST_COMMON | ST_UC | ST_S | ST_AR | 0x134)
#define AMD_AO (ST_COMMON | ST_DEFERRED | ST_POISON)
#define AMD_AR (ST_COMMON | ST_UC | ST_POISON)

#define MCG_RIPV 1
#define MCG_EIPV 2
#define MCG_MCIP 4

/* Physical address, 4 KiB */
#define MISC_4K ((2 << 6) | 12)

#define PAGE(n) (((n) + 4) * HUGE_PAGE + ((n) + 3) * SMALL_PAGE)

/* Long enough for a wrong delivery, which is tried every second at least */
#define QUIET_US (1500 * 1000)

static RasVm *guest_start(const char *args)
{
    g_autofree char *all = g_strdup_printf("-accel tcg -S %s", args);
    RasVm *vm;

    if (!qtest_has_accel("tcg")) {
        g_test_skip("no TCG");
        return NULL;
    }
    vm = ras_vm_start("", all);
    if (vm) {
        for (int i = 0; i < 2; i++) {
            qtest_writeb(vm->qts, GUEST_CPU(i) + GUEST_ACK, 1);
        }
    }
    return vm;
}

static void guest_run(RasVm *vm, uint8_t flags, int cpus)
{
    qtest_writeb(vm->qts, GUEST_FLAGS, flags);
    qobject_unref(ras_qmp(vm, "{ 'execute': 'cont' }"));
    for (int i = 0; flags & GUEST_START && i < cpus; i++) {
        for (int k = 0; !qtest_readb(vm->qts, GUEST_CPU(i) + GUEST_READY);
             k++) {
            g_assert_cmpint(k, <, 10000);
            g_usleep(1000);
        }
    }
    ras_event_wait(vm, "RESUME", 1);
    ras_events_clear(vm);
}

static int guest_count(RasVm *vm, int cpu)
{
    return qtest_readw(vm->qts, GUEST_CPU(cpu) + GUEST_COUNT);
}

static GuestMce guest_entry(RasVm *vm, int cpu, int i)
{
    GuestMce mce;

    qtest_memread(vm->qts, GUEST_CPU(cpu) + GUEST_LOG + i * sizeof(mce), &mce,
                  sizeof(mce));
    g_test_message("CPU %d #%d: status %" PRIx64 " addr %" PRIx64 " misc %"
                   PRIx64 " MC1 %" PRIx64 " MCG %" PRIx64, cpu, i, mce.status,
                   mce.addr, mce.misc, mce.other_status, mce.mcg_status);
    return mce;
}

/* Waits for entry @i, the last one so far, and checks it. */
static void expect_entry(RasVm *vm, int i, uint64_t status, uint64_t addr,
                         uint64_t mcg_status)
{
    GuestMce mce;

    for (int k = 0; guest_count(vm, 0) <= i; k++) {
        g_assert_cmpint(k, <, 10000);
        g_usleep(1000);
    }
    mce = guest_entry(vm, 0, i);
    g_assert_cmphex(mce.status, ==, status);
    g_assert_cmphex(mce.addr, ==, addr);
    g_assert_cmphex(mce.misc, ==, MISC_4K);
    g_assert_cmphex(mce.mcg_status, ==, mcg_status);
}

static void expect_ao(RasVm *vm, int i, uint64_t addr)
{
    expect_entry(vm, i, INTEL_AO, addr, MCG_MCIP | MCG_RIPV);
}

/* Nothing more happens to a guest with @count entries in its log. */
static void expect_quiet(RasVm *vm, int count, uint64_t untold)
{
    g_usleep(QUIET_US);
    g_assert_cmpint(guest_count(vm, 0), ==, count);
    g_assert_cmpint(ras_untold(vm), ==, untold);
    g_assert_cmpint(ras_event_count(vm, "RESET"), ==, 0);
    g_assert_cmpint(ras_event_count(vm, "STOP"), ==, 0);
    g_assert_cmpint(ras_event_count(vm, "RESUME"), ==, 0);
}

static void guest_poll(RasVm *vm, int cpu)
{
    int count = guest_count(vm, cpu);

    qtest_writeb(vm->qts, GUEST_CPU(cpu) + GUEST_POLL, 1);
    for (int k = 0; guest_count(vm, cpu) == count; k++) {
        g_assert_cmpint(k, <, 10000);
        g_usleep(1000);
    }
}

static void wait_told(RasVm *vm, uint64_t untold)
{
    for (int k = 0; ras_untold(vm) != untold; k++) {
        g_assert_cmpint(k, <, 10000);
        g_usleep(1000);
    }
}

static void inject_two(RasVm *vm)
{
    ras_inject(vm, (uint64_t[]) { PAGE(0), PAGE(1) }, 2, false);
}

static void test_optional(void)
{
    const uint64_t gpas[] = { PAGE(1), PAGE(0), PAGE(2) };
    RasVm *vm = guest_start("-cpu Haswell");

    if (!vm) {
        return;
    }
    guest_run(vm, GUEST_START, 1);
    ras_inject(vm, gpas, ARRAY_SIZE(gpas), false);
    for (int i = 0; i < 3; i++) {
        expect_ao(vm, i, PAGE(i));
    }
    expect_quiet(vm, 3, 0);
    g_assert_cmpint(ras_event_count(vm, "MEMORY_FAILURE"), ==, 3);
    ras_vm_quit(vm);
}

static void test_no_acknowledgement(void)
{
    RasVm *vm = guest_start("-cpu Haswell");
    GuestMce mce;

    if (!vm) {
        return;
    }
    qtest_writeb(vm->qts, GUEST_CPU(0) + GUEST_ACK, 0);
    guest_run(vm, GUEST_START, 1);
    inject_two(vm);
    expect_ao(vm, 0, PAGE(0));
    expect_quiet(vm, 1, 1);
    g_assert_cmpint(ras_event_count(vm, "MEMORY_FAILURE"), ==, 1);

    /* The bank is as it was. */
    qtest_writeb(vm->qts, GUEST_CPU(0) + GUEST_ACK, 1);
    guest_poll(vm, 0);
    mce = guest_entry(vm, 0, 1);
    g_assert_cmphex(mce.status, ==, INTEL_AO);
    g_assert_cmphex(mce.addr, ==, PAGE(0));
    expect_ao(vm, 2, PAGE(1));
    expect_quiet(vm, 3, 0);
    ras_vm_quit(vm);
}

static void test_before_cr4_mce(void)
{
    RasVm *vm = guest_start("-cpu Haswell");

    if (!vm) {
        return;
    }
    guest_run(vm, 0, 1);
    ras_inject_one(vm, PAGE(0));
    expect_quiet(vm, 0, 1);
    qtest_writeb(vm->qts, GUEST_FLAGS, GUEST_START);
    expect_ao(vm, 0, PAGE(0));
    expect_quiet(vm, 1, 0);
    ras_vm_quit(vm);
}

static void test_stopped(void)
{
    RasVm *vm = guest_start("-cpu Haswell");

    if (!vm) {
        return;
    }
    guest_run(vm, GUEST_START, 1);
    qobject_unref(ras_qmp(vm, "{ 'execute': 'stop' }"));
    ras_event_wait(vm, "STOP", 1);
    ras_events_clear(vm);
    /* A guest that runs would add to the log. */
    qtest_writeb(vm->qts, GUEST_CPU(0) + GUEST_POLL, 1);
    ras_inject_one(vm, PAGE(0));
    expect_quiet(vm, 0, 1);
    qtest_writeb(vm->qts, GUEST_CPU(0) + GUEST_POLL, 0);
    qobject_unref(ras_qmp(vm, "{ 'execute': 'cont' }"));
    expect_ao(vm, 0, PAGE(0));
    ras_event_wait(vm, "RESUME", 1);
    ras_events_clear(vm);
    expect_quiet(vm, 1, 0);
    ras_vm_quit(vm);
}

static void test_required(gconstpointer cpu)
{
    g_autofree char *args = g_strdup_printf("-cpu %s", (const char *)cpu);
    bool amd = g_str_has_prefix(cpu, "EPYC");
    RasVm *vm = guest_start(args);
    QDict *event, *flags;

    if (!vm) {
        return;
    }
    guest_run(vm, GUEST_START, 1);
    ras_inject(vm, (uint64_t[]) { PAGE(0) + 0x678 }, 1, true);
    expect_entry(vm, 0, amd ? AMD_AR : INTEL_AR, PAGE(0),
                 MCG_MCIP | MCG_RIPV | MCG_EIPV);
    expect_quiet(vm, 1, 0);
    g_assert_cmpint(ras_event_count(vm, "MEMORY_FAILURE"), ==, 1);
    event = ras_event_last(vm, "MEMORY_FAILURE");
    flags = qdict_get_qdict(event, "flags");
    g_assert_cmpstr(qdict_get_str(event, "recipient"), ==, "guest");
    g_assert_cmpstr(qdict_get_str(event, "action"), ==, "inject");
    g_assert(qdict_get_bool(flags, "action-required") == !amd);
    g_assert_cmpint(ras_vm_log_count(vm, "lacks 'succor'"), ==, amd);

    /* The guest touches another one, and once more the same one. */
    ras_inject(vm, (uint64_t[]) { PAGE(1) }, 1, true);
    expect_entry(vm, 1, amd ? AMD_AR : INTEL_AR, PAGE(1),
                 MCG_MCIP | MCG_RIPV | MCG_EIPV);
    ras_inject(vm, (uint64_t[]) { PAGE(0) }, 1, true);
    expect_entry(vm, 2, amd ? AMD_AR : INTEL_AR, PAGE(0),
                 MCG_MCIP | MCG_RIPV | MCG_EIPV);
    g_assert_cmpint(ras_vm_log_count(vm, "lacks 'succor'"), ==, amd);
    ras_vm_quit(vm);
}

/* The guest is still busy with one page when it touches the other. */
static void test_required_while_busy(void)
{
    RasVm *vm = guest_start("-cpu Haswell");

    if (!vm) {
        return;
    }
    qtest_writeb(vm->qts, GUEST_CPU(0) + GUEST_ACK, 0);
    guest_run(vm, GUEST_START, 1);
    ras_inject_one(vm, PAGE(0));
    expect_ao(vm, 0, PAGE(0));
    ras_inject(vm, (uint64_t[]) { PAGE(1) }, 1, true);
    expect_quiet(vm, 1, 1);
    /* The access is still there, and much faster than the background. */
    qtest_writeb(vm->qts, GUEST_CPU(0) + GUEST_ACK, 1);
    guest_poll(vm, 0);
    expect_entry(vm, 2, INTEL_AR, PAGE(1), MCG_MCIP | MCG_RIPV | MCG_EIPV);
    expect_quiet(vm, 3, 0);
    ras_vm_quit(vm);
}

static void test_amd_deferred(void)
{
    RasVm *vm = guest_start("-cpu EPYC");

    if (!vm) {
        return;
    }
    qtest_writeb(vm->qts, GUEST_CPU(0) + GUEST_ACK, 0);
    guest_run(vm, GUEST_START, 1);
    ras_inject_one(vm, PAGE(0));
    wait_told(vm, 0);
    g_assert_cmpint(guest_count(vm, 0), ==, 0);
    guest_poll(vm, 0);
    expect_entry(vm, 0, AMD_AO, PAGE(0), 0);

    /* An access must not overflow the bank: the other one is taken back. */
    ras_inject(vm, (uint64_t[]) { PAGE(1) }, 1, true);
    expect_entry(vm, 1, AMD_AR, PAGE(1), MCG_MCIP | MCG_RIPV | MCG_EIPV);
    expect_quiet(vm, 2, 1);
    qtest_writeb(vm->qts, GUEST_CPU(0) + GUEST_ACK, 1);
    guest_poll(vm, 0);
    expect_entry(vm, 2, AMD_AR, PAGE(1), MCG_MCIP | MCG_RIPV | MCG_EIPV);
    wait_told(vm, 0);
    guest_poll(vm, 0);
    expect_entry(vm, 3, AMD_AO, PAGE(0), 0);
    expect_quiet(vm, 4, 0);
    ras_vm_quit(vm);
}

static void expect_broadcast(RasVm *vm, int i)
{
    GuestMce mce;

    for (int k = 0; guest_count(vm, 1) <= i; k++) {
        g_assert_cmpint(k, <, 10000);
        g_usleep(1000);
    }
    mce = guest_entry(vm, 1, i);
    g_assert_cmphex(mce.status, ==, 0);
    g_assert_cmphex(mce.other_status, ==, ST_VAL | ST_UC);
    g_assert_cmphex(mce.mcg_status, ==, MCG_MCIP | MCG_RIPV);
}

static void test_broadcast(void)
{
    RasVm *vm = guest_start("-cpu Haswell -smp 2");

    if (!vm) {
        return;
    }
    qtest_writeb(vm->qts, GUEST_CPU(1) + GUEST_ACK, 0);
    guest_run(vm, GUEST_START | GUEST_SMP, 2);
    inject_two(vm);
    expect_ao(vm, 0, PAGE(0));
    expect_broadcast(vm, 0);
    /* Every CPU must be done with the first one. */
    expect_quiet(vm, 1, 1);
    qtest_writeb(vm->qts, GUEST_CPU(1) + GUEST_ACK, 1);
    guest_poll(vm, 1);
    expect_ao(vm, 1, PAGE(1));
    expect_broadcast(vm, 2);
    expect_quiet(vm, 2, 0);
    g_assert_cmpint(guest_count(vm, 1), ==, 3);
    ras_vm_quit(vm);
}

/* CPU 1 was never started: a machine check would shut it down. */
static void test_broadcast_not_started(void)
{
    RasVm *vm = guest_start("-cpu Haswell -smp 2");

    if (!vm) {
        return;
    }
    guest_run(vm, GUEST_START, 1);
    ras_inject_one(vm, PAGE(0));
    expect_quiet(vm, 0, 1);
    ras_vm_quit(vm);
}

static void test_no_recovery_in_cpu(void)
{
    RasVm *vm = guest_start("-cpu pentium");

    if (!vm) {
        return;
    }
    guest_run(vm, 0, 1);
    inject_two(vm);
    expect_quiet(vm, 0, 2);
    g_assert_cmpint(ras_vm_log_count(vm, "this guest cannot be told of lost "
                                     "memory that it does not touch"), ==, 1);
    ras_vm_quit(vm);
}

/* What the guest was not told before a reset, it need not know after it. */
static void test_reset(void)
{
    RasVm *vm = guest_start("-cpu Haswell");

    if (!vm) {
        return;
    }
    qtest_writeb(vm->qts, GUEST_CPU(0) + GUEST_ACK, 0);
    guest_run(vm, GUEST_START, 1);
    inject_two(vm);
    expect_ao(vm, 0, PAGE(0));
    qtest_writeb(vm->qts, GUEST_FLAGS, 0);
    ras_reset(vm);
    ras_events_clear(vm);
    ras_expect_no_pages(vm);
    qtest_writeb(vm->qts, GUEST_CPU(0) + GUEST_ACK, 1);
    qtest_writeb(vm->qts, GUEST_FLAGS, GUEST_START);
    expect_quiet(vm, 1, 0);
    g_assert_cmpint(ras_event_count(vm, "MEMORY_FAILURE"), ==, 0);
    ras_vm_quit(vm);
}

void ras_add_mce_tests(void)
{
    qtest_add_func("/hugetlbfs-ras/mce/optional", test_optional);
    qtest_add_func("/hugetlbfs-ras/mce/no-acknowledgement",
                   test_no_acknowledgement);
    qtest_add_func("/hugetlbfs-ras/mce/before-cr4-mce", test_before_cr4_mce);
    qtest_add_func("/hugetlbfs-ras/mce/stopped", test_stopped);
    qtest_add_data_func("/hugetlbfs-ras/mce/required/intel", "Haswell",
                        test_required);
    qtest_add_data_func("/hugetlbfs-ras/mce/required/amd", "EPYC",
                        test_required);
    qtest_add_func("/hugetlbfs-ras/mce/required/busy",
                   test_required_while_busy);
    qtest_add_func("/hugetlbfs-ras/mce/amd-deferred", test_amd_deferred);
    qtest_add_func("/hugetlbfs-ras/mce/broadcast", test_broadcast);
    qtest_add_func("/hugetlbfs-ras/mce/broadcast-not-started",
                   test_broadcast_not_started);
    qtest_add_func("/hugetlbfs-ras/mce/no-recovery-in-cpu",
                   test_no_recovery_in_cpu);
    qtest_add_func("/hugetlbfs-ras/mce/reset", test_reset);
}
