/*
 * Tests of the recovery from memory failures in guest RAM on huge pages
 *
 * x-hugetlbfs-ras-inject takes the path of a real error, except that the
 * page counts as lost although it is healthy.  This file: what becomes of the
 * page, and what management sees.
 *
 * A lost page is never read here: like any access of QEMU to lost memory that
 * ends it (/recovery/touch-by-qemu checks just that).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/resource.h>
#include "hugetlbfs-ras-vm.h"

/* Lost pages in the tests are at an offset of 3 and 5 small pages. */
#define AT(page, small) ((page) * HUGE_PAGE + (small) * SMALL_PAGE)

/* Every small page but the @n in @lost, in ascending order, has the pattern. */
static void check_healthy(RasVm *vm, uint64_t gpa, const int *lost, int n,
                          uint64_t seed)
{
    int from = 0;

    for (int i = 0; i <= n; i++) {
        int to = i < n ? lost[i] : SMALL_PAGES;

        if (to > from) {
            ras_pattern_check(vm, gpa + from * SMALL_PAGE,
                              (to - from) * SMALL_PAGE, seed);
        }
        from = to + 1;
    }
}

static void write_healthy(RasVm *vm, uint64_t gpa, int lost, uint64_t seed)
{
    ras_pattern_write(vm, gpa, lost * SMALL_PAGE, seed);
    ras_pattern_write(vm, gpa + (lost + 1) * SMALL_PAGE,
                      (SMALL_PAGES - lost - 1) * SMALL_PAGE, seed);
}

static void expect_running(RasVm *vm, bool running)
{
    QDict *rsp = ras_qmp(vm, "{ 'execute': 'query-status' }");

    g_assert(qdict_get_bool(qdict_get_qdict(rsp, "return"), "running") ==
             running);
    qobject_unref(rsp);
}

static void test_split(gconstpointer small)
{
    int lost = GPOINTER_TO_INT(small);
    const RasExpect expect = {
        AT(4, 0), { { AT(4, lost), SMALL_PAGE } }, .untold = 1
    };
    RasVm *vm = ras_vm_start("", "");

    if (!vm) {
        return;
    }
    ras_expect_backend(vm, NULL);
    ras_expect_no_pages(vm);
    ras_pattern_write(vm, AT(3, 0), 3 * HUGE_PAGE, 1);
    /* Not aligned, as the kernel reports it */
    ras_inject_one(vm, AT(4, lost) + 0x123);

    ras_expect_query(vm, &expect, 1);
    ras_event_wait(vm, "HUGETLBFS_RAS", 1);
    ras_expect_page(qdict_get_qdict(ras_event_last(vm, "HUGETLBFS_RAS"),
                                    "page"), &expect);
    g_assert_cmpint(ras_vm_log_count(vm, "memory failure in a 2 MiB huge page "
                                     "of 'mem0' at offset 0x800000: 4 KiB "
                                     "lost, the rest is saved"), ==, 1);
    ras_pattern_check(vm, AT(3, 0), HUGE_PAGE, 1);
    check_healthy(vm, AT(4, 0), &lost, 1, 1);
    ras_pattern_check(vm, AT(5, 0), HUGE_PAGE, 1);
    write_healthy(vm, AT(4, 0), lost, 2);
    check_healthy(vm, AT(4, 0), &lost, 1, 2);
    g_assert_cmpint(ras_kernel_page_size(vm, AT(3, 0)), ==, HUGE_PAGE);
    g_assert_cmpint(ras_kernel_page_size(vm, AT(4, 0)), ==, SMALL_PAGE);
    g_assert_cmpint(ras_kernel_page_size(vm, AT(5, 0)), ==, HUGE_PAGE);
    g_assert_cmpint(ras_event_count(vm, "HUGETLBFS_RAS"), ==, 1);
    g_assert_cmpint(ras_event_count(vm, "STOP"), ==, 0);
    g_assert_cmpint(ras_event_count(vm, "RESUME"), ==, 0);
    ras_vm_quit(vm);
}

static void test_hmp(void)
{
    RasVm *vm = ras_vm_start("", "");
    g_autofree char *text = NULL;
    g_autofree char *lost = NULL;

    if (!vm) {
        return;
    }
    ras_inject_one(vm, AT(4, 3));
    text = qtest_hmp(vm->qts, "info hugetlbfs-ras");
    g_test_message("%s", text);
    g_assert(strstr(text, "mem0: 2 MiB pages, recovery possible"));
    g_assert(strstr(text, "mem0+0x800000 (2 MiB): split; 2093056 bytes saved, "
                    "1 pages untold"));
    lost = g_strdup_printf("lost: offset 0x803000 size 0x1000 at guest address "
                           "0x%" PRIx64, ras_base() + AT(4, 3));
    g_assert(strstr(text, lost));
    g_assert(strstr(text, "lost pages: 1, saved: 2093056 bytes, signals: 1 "
                    "(0 dropped)"));
    ras_vm_quit(vm);
}

/* The guest has not enabled machine checks, so what it touches resets it. */
static void test_action_required(void)
{
    RasVm *vm = ras_vm_start("", "");
    /* The CPU may be faster than the event. */
    const RasExpect expect = {
        AT(4, 0), { { AT(4, 3), SMALL_PAGE } }, .untold = RAS_ANY
    };
    uint64_t gpa = AT(4, 3);

    if (!vm) {
        return;
    }
    ras_pattern_write(vm, AT(4, 0), HUGE_PAGE, 1);
    ras_inject(vm, &gpa, 1, true);
    ras_event_wait(vm, "RESET", 1);
    ras_expect_page(qdict_get_qdict(ras_event_last(vm, "HUGETLBFS_RAS"),
                                    "page"), &expect);
    g_assert_cmpstr(qdict_get_str(ras_event_last(vm, "MEMORY_FAILURE"),
                                  "action"), ==, "reset");
    ras_expect_no_pages(vm);
    g_assert_cmpint(ras_event_count(vm, "HUGETLBFS_RAS"), ==, 1);
    ras_pattern_check(vm, AT(4, 0), 3 * SMALL_PAGE, 1);
    ras_zero_check(vm, gpa, SMALL_PAGE);
    ras_pattern_check(vm, AT(4, 4), 508 * SMALL_PAGE, 1);
    ras_vm_quit(vm);
}

static void test_second_error(void)
{
    const RasExpect first = {
        AT(4, 0), { { AT(4, 3), SMALL_PAGE } }, .untold = 1
    };
    const RasExpect second = {
        AT(4, 0), { { AT(4, 3), SMALL_PAGE }, { AT(4, 5), SMALL_PAGE } },
        .untold = 2
    };
    const RasExpect third = {
        AT(4, 0), { { AT(4, 3), 3 * SMALL_PAGE } }, .untold = 3
    };
    int lost[] = { 3, 4, 5 };
    RasVm *vm = ras_vm_start("", "");

    if (!vm) {
        return;
    }
    ras_pattern_write(vm, AT(4, 0), HUGE_PAGE, 1);
    ras_inject_one(vm, AT(4, 3));
    ras_event_wait(vm, "HUGETLBFS_RAS", 1);
    /* What is written after the split is what must be kept. */
    write_healthy(vm, AT(4, 0), 3, 2);

    /* The same address again: nothing new */
    ras_inject_one(vm, AT(4, 3));
    ras_expect_query(vm, &first, 1);
    g_assert_cmpint(ras_event_count(vm, "HUGETLBFS_RAS"), ==, 1);

    ras_inject_one(vm, AT(4, 5));
    ras_expect_query(vm, &second, 1);
    ras_event_wait(vm, "HUGETLBFS_RAS", 2);
    ras_expect_page(qdict_get_qdict(ras_event_last(vm, "HUGETLBFS_RAS"),
                                    "page"), &second);

    ras_inject_one(vm, AT(4, 4));
    ras_expect_query(vm, &third, 1);
    ras_event_wait(vm, "HUGETLBFS_RAS", 3);
    check_healthy(vm, AT(4, 0), lost, 3, 2);
    ras_vm_quit(vm);
}

/* Two errors, and one of them twice, before anything was split */
static void test_double_error(void)
{
    const RasExpect expect = {
        AT(4, 0), { { AT(4, 3), SMALL_PAGE }, { AT(4, 511), SMALL_PAGE } },
        .untold = 2
    };
    const uint64_t gpas[] = { AT(4, 511), AT(4, 3), AT(4, 511) };
    int lost[] = { 3, 511 };
    RasVm *vm = ras_vm_start("", "");

    if (!vm) {
        return;
    }
    ras_pattern_write(vm, AT(4, 0), HUGE_PAGE, 1);
    ras_inject(vm, gpas, ARRAY_SIZE(gpas), false);
    ras_expect_query(vm, &expect, 1);
    check_healthy(vm, AT(4, 0), lost, 2, 1);
    ras_expect_page(qdict_get_qdict(ras_event_last(vm, "HUGETLBFS_RAS"),
                                    "page"), &expect);
    ras_vm_quit(vm);
}

#define STORM 64

static void test_storm_pages(void)
{
    RasExpect expect[STORM] = {};
    uint64_t gpas[STORM];
    g_autofree char *args = g_strdup_printf(
        "-m 144M -machine %s,memory-backend=mem0 -object "
        "memory-backend-memfd,id=mem0,size=144M,hugetlb=on,hugetlbsize=2M",
        ras_machine());
    RasVm *vm = ras_vm_start_raw(STORM + 9, args);

    if (!vm) {
        return;
    }
    ras_pattern_write(vm, AT(3, 0), HUGE_PAGE, 1);
    ras_pattern_write(vm, AT(STORM + 4, 0), HUGE_PAGE, 1);
    for (int i = 0; i < STORM; i++) {
        uint64_t gpa = AT(i + 4, i * 8);

        /* All of every page would take long. */
        qtest_memset(vm->qts, ras_base() + AT(i + 4, 0), i + 1, HUGE_PAGE);
        expect[i] = (RasExpect) { AT(i + 4, 0), { { gpa, SMALL_PAGE } }, 1 };
        /* In no order: 27 and 64 have no common divisor. */
        gpas[i * 27 % STORM] = gpa;
    }
    ras_inject(vm, gpas, STORM, false);
    ras_expect_query(vm, expect, STORM);
    ras_event_wait(vm, "HUGETLBFS_RAS", STORM);
    for (int i = 0; i < STORM; i++) {
        for (int k = 0; k < SMALL_PAGES; k++) {
            if (k != i * 8 && (k - i * 8 < 16 || k % 64 == 0)) {
                g_assert_cmpint(qtest_readb(vm->qts, ras_base() + AT(i + 4, k)),
                                ==, i + 1);
            }
        }
    }
    ras_pattern_check(vm, AT(3, 0), HUGE_PAGE, 1);
    ras_pattern_check(vm, AT(STORM + 4, 0), HUGE_PAGE, 1);
    g_assert_cmpint(ras_event_count(vm, "HUGETLBFS_RAS"), ==, STORM);
    ras_vm_quit(vm);
}

static void test_storm_one_page(void)
{
    const RasExpect expect = {
        AT(4, 0), { { AT(4, 64), STORM * SMALL_PAGE } }, .untold = STORM
    };
    uint64_t gpas[STORM];
    int lost[STORM];
    RasVm *vm = ras_vm_start("", "");

    if (!vm) {
        return;
    }
    ras_pattern_write(vm, AT(4, 0), HUGE_PAGE, 1);
    for (int i = 0; i < STORM; i++) {
        lost[i] = STORM + i;
        gpas[i * 27 % STORM] = AT(4, lost[i]);
    }
    ras_inject(vm, gpas, STORM, false);
    ras_expect_query(vm, &expect, 1);
    check_healthy(vm, AT(4, 0), lost, STORM, 1);
    ras_event_wait(vm, "HUGETLBFS_RAS", 1);
    ras_expect_page(qdict_get_qdict(ras_event_last(vm, "HUGETLBFS_RAS"),
                                    "page"), &expect);
    ras_vm_quit(vm);
}

static void test_stopped(void)
{
    const RasExpect expect = {
        AT(4, 0), { { AT(4, 3), SMALL_PAGE } }, .untold = 1
    };
    int lost = 3;
    RasVm *vm = ras_vm_start("", "");

    if (!vm) {
        return;
    }
    ras_pattern_write(vm, AT(4, 0), HUGE_PAGE, 1);
    qobject_unref(ras_qmp(vm, "{ 'execute': 'stop' }"));
    ras_event_wait(vm, "STOP", 1);
    ras_events_clear(vm);

    ras_inject_one(vm, AT(4, 3));
    expect_running(vm, false);
    ras_expect_query(vm, &expect, 1);
    check_healthy(vm, AT(4, 0), &lost, 1, 1);
    ras_event_wait(vm, "HUGETLBFS_RAS", 1);
    g_assert_cmpint(ras_event_count(vm, "STOP"), ==, 0);
    g_assert_cmpint(ras_event_count(vm, "RESUME"), ==, 0);

    qobject_unref(ras_qmp(vm, "{ 'execute': 'cont' }"));
    ras_inject_one(vm, AT(5, 3));
    expect_running(vm, true);
    g_assert_cmpint(ras_event_count(vm, "STOP"), ==, 0);
    g_assert_cmpint(ras_event_count(vm, "RESUME"), ==, 1);
    ras_vm_quit(vm);
}

/* Commands in one go, so that the answers overlap the work */
static void test_stop_cont_race(void)
{
    RasVm *vm = ras_vm_start("", "");
    const int rounds = 20;

    if (!vm) {
        return;
    }
    for (int i = 0; i < rounds; i++) {
        uint64_t gpa = AT(1 + i % 30, i);
        static const char *const order[2][3] = {
            { "stop", "x", "cont" }, { "x", "stop", "cont" },
        };

        for (int k = 0; k < 3; k++) {
            const char *command = order[i % 2][k];

            if (command[0] == 'x') {
                qtest_qmp_send(vm->qts, "{ 'execute': 'x-hugetlbfs-ras-inject',"
                               "  'arguments': { 'addresses': [ %" PRIu64 " ],"
                               "  'action-required': false } }",
                               ras_base() + gpa);
            } else {
                qtest_qmp_send(vm->qts, "{ 'execute': %s }", command);
            }
        }
        for (int k = 0; k < 3; k++) {
            QDict *rsp = qtest_qmp_receive(vm->qts);

            g_assert(qdict_haskey(rsp, "return"));
            qobject_unref(rsp);
        }
        expect_running(vm, true);
    }
    ras_event_wait(vm, "HUGETLBFS_RAS", rounds);
    g_assert_cmpint(ras_event_count(vm, "STOP"), ==, rounds);
    g_assert_cmpint(ras_event_count(vm, "RESUME"), ==, rounds);
    ras_vm_quit(vm);
}

/* As without recovery: who touches lost memory is ended by SIGBUS. */
static void test_touch_by_qemu(void)
{
    const struct rlimit no_core = {};
    uint8_t byte;
    RasVm *vm;

    if (g_test_subprocess()) {
        setrlimit(RLIMIT_CORE, &no_core);
        vm = ras_vm_start("", "");
        ras_inject_one(vm, AT(4, 3));
        qtest_memread(vm->qts, ras_base() + AT(4, 3), &byte, 1);
        return;
    }
    if (!ras_pool_have(RAS_VM_PAGES + 1)) {
        return;
    }
    ras_pool_release();
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*QEMU death from signal 7 *");
}

static int count_threads(RasVm *vm, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task",
                                            (int)qtest_pid(vm->qts));
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *task;
    int count = 0;

    while ((task = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, task, "comm", NULL);
        g_autofree char *comm = NULL;

        if (g_file_get_contents(file, &comm, NULL, NULL)) {
            count += !strcmp(g_strchomp(comm), name);
        }
    }
    return count;
}

static void test_threads(void)
{
    static const struct {
        const char *backend;
        int count;
    } cases[] = {
        { "", 1 }, { ",hugetlbfs-ras=off", 0 }, { ",share=off", 0 },
    };

    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        RasVm *vm = ras_vm_start(cases[i].backend,
                                 "-name x,debug-threads=on");
        if (!vm) {
            return;
        }
        g_assert_cmpint(count_threads(vm, "hugetlbfs-ras"), ==,
                        cases[i].count);
        ras_vm_quit(vm);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_data_func("/hugetlbfs-ras/split/first", GINT_TO_POINTER(0),
                        test_split);
    qtest_add_data_func("/hugetlbfs-ras/split/middle", GINT_TO_POINTER(3),
                        test_split);
    qtest_add_data_func("/hugetlbfs-ras/split/last", GINT_TO_POINTER(511),
                        test_split);
    qtest_add_func("/hugetlbfs-ras/hmp", test_hmp);
    qtest_add_func("/hugetlbfs-ras/second-error", test_second_error);
    qtest_add_func("/hugetlbfs-ras/double-error", test_double_error);
    qtest_add_func("/hugetlbfs-ras/storm/pages", test_storm_pages);
    qtest_add_func("/hugetlbfs-ras/storm/one-page", test_storm_one_page);
    qtest_add_func("/hugetlbfs-ras/stopped", test_stopped);
    qtest_add_func("/hugetlbfs-ras/stop-cont-race", test_stop_cont_race);
    qtest_add_func("/hugetlbfs-ras/touch-by-qemu", test_touch_by_qemu);
    qtest_add_func("/hugetlbfs-ras/threads", test_threads);
    ras_add_reset_tests();
    if (!strcmp(qtest_get_arch(), "aarch64")) {
        ras_add_ghes_tests();
        return g_test_run();
    }
    /* What these look at does not depend on the target, or is x86's. */
    qtest_add_func("/hugetlbfs-ras/action-required", test_action_required);
    ras_add_refusal_tests();
    ras_add_user_tests();
    ras_add_mce_tests();
    return g_test_run();
}
