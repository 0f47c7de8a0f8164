/*
 * Tests of the recovery from memory failures: reset, settings, files,
 * hotplug
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mount.h>
#include <sys/resource.h>
#include "hugetlbfs-ras-vm.h"

#define LOST (4 * HUGE_PAGE + 3 * SMALL_PAGE)

/* Only what was lost, @size bytes at @lost, is zeros after a reset. */
static void check_kept(RasVm *vm, uint64_t lost, uint64_t size, int pattern)
{
    uint64_t start = QEMU_ALIGN_DOWN(lost, HUGE_PAGE);

    ras_pattern_check(vm, start, lost - start, pattern);
    ras_zero_check(vm, lost, size);
    ras_pattern_check(vm, lost + size, start + HUGE_PAGE - lost - size,
                      pattern);
}

static void check_huge_page_works(RasVm *vm, uint64_t gpa)
{
    ras_pattern_write(vm, gpa, HUGE_PAGE, 3);
    ras_pattern_check(vm, gpa, HUGE_PAGE, 3);
    g_assert_cmpint(ras_kernel_page_size(vm, gpa), ==, HUGE_PAGE);
}

static void test_reset(void)
{
    const uint64_t gpas[] = { LOST, LOST + HUGE_PAGE, LOST + SMALL_PAGE };
    RasVm *vm = ras_vm_start("", "");

    if (!vm) {
        return;
    }
    ras_pattern_write(vm, 3 * HUGE_PAGE, 4 * HUGE_PAGE, 1);
    for (int round = 0; round < 3; round++) {
        ras_inject(vm, gpas, ARRAY_SIZE(gpas), false);
        ras_event_wait(vm, "HUGETLBFS_RAS", 2);
        ras_events_clear(vm);
        ras_reset(vm);
        ras_expect_no_pages(vm);
        check_kept(vm, LOST, 2 * SMALL_PAGE, round ? 3 : 1);
        check_kept(vm, LOST + HUGE_PAGE, SMALL_PAGE, round ? 3 : 1);
        check_huge_page_works(vm, 4 * HUGE_PAGE);
        check_huge_page_works(vm, 5 * HUGE_PAGE);
        g_assert_cmpint(ras_event_count(vm, "HUGETLBFS_RAS"), ==, 0);
    }
    /* The others keep what they hold. */
    ras_pattern_check(vm, 3 * HUGE_PAGE, HUGE_PAGE, 1);
    ras_pattern_check(vm, 6 * HUGE_PAGE, HUGE_PAGE, 1);
    ras_vm_quit(vm);
}

static void expect_kept(RasVm *vm)
{
    QDict *page = qdict_get_qdict(ras_event_last(vm, "HUGETLBFS_RAS"), "page");

    g_assert_cmpstr(qdict_get_str(page, "state"), ==, "split");
    g_assert_cmpint(qdict_get_int(page, "offset"), ==, 4 * HUGE_PAGE);
    g_test_message("%s", qdict_get_str(page, "reason"));
    g_assert_cmpint(qlist_size(qdict_get_qlist(page, "lost")), ==, 0);
    g_assert_cmpint(qdict_get_int(page, "untold"), ==, 0);
}

static void test_reset_empty_pool(void)
{
    RasVm *vm = ras_vm_start("", "");

    if (!vm) {
        return;
    }
    ras_pattern_write(vm, 3 * HUGE_PAGE, 3 * HUGE_PAGE, 1);
    ras_inject_one(vm, LOST);
    if (!ras_pool_exhaust()) {
        goto out;
    }
    ras_events_clear(vm);
    ras_reset(vm);
    ras_event_wait(vm, "HUGETLBFS_RAS", 1);
    expect_kept(vm);
    g_assert_cmpint(ras_vm_log_count(vm, "memory backend 'mem0' stays on small "
                                     "pages at offset 0x800000 after the "
                                     "reset"), ==, 1);
    check_kept(vm, LOST, SMALL_PAGE, 1);
    g_assert_cmpint(ras_kernel_page_size(vm, LOST), ==, SMALL_PAGE);
    ras_pattern_write(vm, 4 * HUGE_PAGE, HUGE_PAGE, 2);
    ras_pattern_check(vm, 3 * HUGE_PAGE, HUGE_PAGE, 1);
    ras_pattern_check(vm, 4 * HUGE_PAGE, HUGE_PAGE, 2);
    ras_pattern_check(vm, 5 * HUGE_PAGE, HUGE_PAGE, 1);

    /* An error in it is an error of a small page now. */
    ras_inject_one(vm, LOST);
    g_assert_cmpint(ras_untold(vm), ==, 1);

    /* Another reset without a page in the pool */
    ras_reset(vm);
    ras_event_wait(vm, "HUGETLBFS_RAS", 3);
    expect_kept(vm);
    check_kept(vm, LOST, SMALL_PAGE, 2);

    ras_pool_refill();
    ras_reset(vm);
    ras_expect_no_pages(vm);
    check_kept(vm, LOST, SMALL_PAGE, 2);
    check_huge_page_works(vm, 4 * HUGE_PAGE);
    ras_pattern_check(vm, 5 * HUGE_PAGE, HUGE_PAGE, 1);
out:
    ras_vm_quit(vm);
}

static bool has_numa_policy(RasVm *vm, uint64_t gpa, const char *policy)
{
    g_autofree char *smaps = ras_smaps(vm, gpa);
    g_autofree char *path = g_strdup_printf("/proc/%d/numa_maps",
                                            (int)qtest_pid(vm->qts));
    g_autofree char *start = g_strndup(smaps, strcspn(smaps, "-"));
    g_autofree char *head = g_strdup_printf("%s %s", start, policy);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return true;            /* A kernel without NUMA */
    }
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        if (g_str_has_prefix(*line, head)) {
            return true;
        }
    }
    return false;
}

/**
 * SettingsCase: a setting, and the flag of smaps that shows it
 *
 * @small_only: the kernel ignores it for huge pages
 */
typedef struct SettingsCase {
    const char *backend;
    const char *args;
    const char *flag;
    bool set;
    const char *numa;
    bool small_only;
} SettingsCase;

static const SettingsCase settings_cases[] = {
    { ",dump=off", "", "dd", true },
    { ",dump=on", "", "dd", false },
    { ",merge=on", "", "mg", true, .small_only = true },
    { ",merge=off", "", "mg", false },
    { "", "-overcommit mem-lock=on", "lo", true, .small_only = true },
    { "", "", "lo", false },
    { ",policy=bind,host-nodes=0", "", "wr", true, "bind:0" },
    { ",policy=interleave,host-nodes=0", "", "wr", true, "interleave:0" },
    { ",prealloc=on", "", "wr", true },
};

static void check_settings(RasVm *vm, const SettingsCase *c, bool split)
{
    if (split || !c->small_only) {
        g_assert(ras_vm_flag(vm, LOST, c->flag) == c->set);
    }
    if (c->numa) {
        g_assert(has_numa_policy(vm, LOST, c->numa));
    }
    /* QEMU keeps all of guest RAM out of children. */
    g_assert(ras_vm_flag(vm, LOST, "dc") == ras_vm_flag(vm, 0, "dc"));
}

static void test_settings(gconstpointer data)
{
    const SettingsCase *c = data;
    struct rlimit limit;
    RasVm *vm;

    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (strstr(c->args, "mem-lock") && geteuid() &&
        limit.rlim_cur != RLIM_INFINITY) {
        g_test_skip("QEMU may not lock its memory");
        return;
    }
    vm = ras_vm_start(c->backend, c->args);
    if (!vm) {
        return;
    }
    check_settings(vm, c, false);
    ras_inject_one(vm, LOST);
    g_assert_cmpint(ras_kernel_page_size(vm, LOST), ==, SMALL_PAGE);
    check_settings(vm, c, true);
    ras_reset(vm);
    g_assert_cmpint(ras_kernel_page_size(vm, LOST), ==, HUGE_PAGE);
    check_settings(vm, c, false);
    ras_vm_quit(vm);
}

/* Two of them can be changed at any time. */
static void test_settings_changed(void)
{
    RasVm *vm = ras_vm_start(",dump=on,merge=off", "");

    if (!vm) {
        return;
    }
    qobject_unref(ras_qmp(vm, "{ 'execute': 'qom-set', 'arguments': {"
                          "  'path': '/objects/mem0', 'property': 'dump',"
                          "  'value': false } }"));
    qobject_unref(ras_qmp(vm, "{ 'execute': 'qom-set', 'arguments': {"
                          "  'path': '/objects/mem0', 'property': 'merge',"
                          "  'value': true } }"));
    ras_inject_one(vm, LOST);
    g_assert(ras_vm_flag(vm, LOST, "dd") && ras_vm_flag(vm, LOST, "mg"));
    qobject_unref(ras_qmp(vm, "{ 'execute': 'qom-set', 'arguments': {"
                          "  'path': '/objects/mem0', 'property': 'dump',"
                          "  'value': true } }"));
    g_assert(!ras_vm_flag(vm, LOST, "dd"));
    ras_reset(vm);
    g_assert(!ras_vm_flag(vm, LOST, "dd"));
    ras_vm_quit(vm);
}

/* A file that nobody else sees; nothing is left of the mount. */
static int open_on_hugetlbfs(off_t size)
{
    g_autofree char *dir = g_dir_make_tmp("hugetlbfs-ras-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "mem", NULL);
    g_autofree char *why = NULL;
    int fd = -1;

    if (mount("none", dir, "hugetlbfs", 0, "pagesize=2M") == 0) {
        fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
        umount2(dir, MNT_DETACH);
        g_assert(fd >= 0 && ftruncate(fd, size) == 0);
    } else {
        why = g_strdup_printf("cannot mount hugetlbfs: %s", strerror(errno));
        g_test_skip(why);
    }
    rmdir(dir);
    return fd;
}

static void test_file_offset(void)
{
    const RasExpect expect = {
        4 * HUGE_PAGE, { { LOST, SMALL_PAGE } }, .untold = 1
    };
    g_autofree char *args = NULL;
    uint64_t word;
    RasVm *vm;
    int fd = open_on_hugetlbfs(66 * MiB);

    if (fd < 0) {
        return;
    }
    args = g_strdup_printf("-machine %s,memory-backend=mem0 -m 64M -object "
                           "memory-backend-file,id=mem0,size=64M,offset=2M,"
                           "mem-path=/proc/%d/fd/%d,share=on,hugetlbfs-ras=on",
                           ras_machine(), (int)getpid(), fd);
    vm = ras_vm_start_raw(RAS_VM_PAGES + 2, args);
    if (vm) {
        ras_pattern_write(vm, 3 * HUGE_PAGE, 3 * HUGE_PAGE, 1);
        ras_inject_one(vm, LOST);
        ras_expect_query(vm, &expect, 1);
        ras_pattern_check(vm, 3 * HUGE_PAGE, LOST - 3 * HUGE_PAGE, 1);
        ras_pattern_check(vm, LOST + SMALL_PAGE,
                          6 * HUGE_PAGE - LOST - SMALL_PAGE, 1);

        ras_reset(vm);
        ras_expect_no_pages(vm);
        check_kept(vm, LOST, SMALL_PAGE, 1);
        check_huge_page_works(vm, 4 * HUGE_PAGE);
        ras_pattern_check(vm, 3 * HUGE_PAGE, HUGE_PAGE, 1);
        ras_pattern_check(vm, 5 * HUGE_PAGE, HUGE_PAGE, 1);
        /* The huge page is the file's again. */
        g_assert(pread(fd, &word, sizeof(word), 5 * HUGE_PAGE) ==
                 sizeof(word));
        g_assert_cmphex(word, ==, qtest_readq(vm->qts,
                                              ras_base() + 4 * HUGE_PAGE));
        ras_vm_quit(vm);
    }
    close(fd);
}

static QDict *only_page(QDict *rsp)
{
    QList *pages = qdict_get_qlist(qdict_get_qdict(rsp, "return"), "pages");

    g_assert_cmpint(qlist_size(pages), ==, 1);
    return qobject_to(QDict, qlist_peek(pages));
}

/* RAM is freed after a grace period. */
static void wait_backends(RasVm *vm, int count)
{
    for (int i = 0; i < 1000; i++) {
        QDict *rsp = ras_qmp(vm, "{ 'execute': 'query-hugetlbfs-ras' }");
        QDict *info = qdict_get_qdict(rsp, "return");
        bool there = qlist_size(qdict_get_qlist(info, "backends")) == count;

        qobject_unref(rsp);
        if (there) {
            return;
        }
        g_usleep(10000);
    }
    g_assert_not_reached();
}

static void test_dimm(void)
{
    uint64_t at = HUGE_PAGE + 3 * SMALL_PAGE;
    QDict *rsp, *page, *lost;
    RasVm *vm = ras_vm_start_dimm();

    if (!vm) {
        return;
    }
    ras_pattern_write(vm, DIMM_BASE + HUGE_PAGE, HUGE_PAGE, 1);
    ras_inject_one(vm, DIMM_BASE + at);
    ras_pattern_check(vm, DIMM_BASE + at + SMALL_PAGE,
                      2 * HUGE_PAGE - at - SMALL_PAGE, 1);
    rsp = ras_qmp(vm, "{ 'execute': 'query-hugetlbfs-ras' }");
    page = only_page(rsp);
    lost = qobject_to(QDict, qlist_peek(qdict_get_qlist(page, "lost")));
    g_assert_cmpstr(qdict_get_str(page, "backend"), ==, "mem1");
    g_assert_cmpint(qdict_get_int(page, "offset"), ==, HUGE_PAGE);
    g_assert_cmpint(qdict_get_int(page, "gpa"), ==, DIMM_BASE + HUGE_PAGE);
    g_assert_cmpint(qdict_get_int(lost, "offset"), ==, at);
    g_assert_cmpint(qdict_get_int(lost, "gpa"), ==, DIMM_BASE + at);
    qobject_unref(rsp);

    /* Not in the guest any more, so there is no address */
    ras_unplug_dimm(vm);
    rsp = ras_qmp(vm, "{ 'execute': 'query-hugetlbfs-ras' }");
    page = only_page(rsp);
    lost = qobject_to(QDict, qlist_peek(qdict_get_qlist(page, "lost")));
    g_assert(!qdict_haskey(page, "gpa"));
    g_assert(!qdict_haskey(lost, "gpa"));
    g_assert_cmpint(qdict_get_int(lost, "offset"), ==, at);
    qobject_unref(rsp);

    /* The ledger forgets what is gone. */
    qobject_unref(ras_qmp(vm, "{ 'execute': 'object-del',"
                          "  'arguments': { 'id': 'mem1' } }"));
    wait_backends(vm, 1);
    ras_expect_backend(vm, NULL);
    ras_expect_no_pages(vm);

    qobject_unref(ras_qmp(vm, "{ 'execute': 'object-add', 'arguments': {"
                          "  'qom-type': 'memory-backend-memfd', 'id': 'mem1',"
                          "  'size': 16777216, 'hugetlb': true,"
                          "  'hugetlbsize': 2097152, 'hugetlbfs-ras': 'on' }"
                          "}"));
    qobject_unref(ras_qmp(vm, "{ 'execute': 'device_add', 'arguments': {"
                          "  'driver': 'pc-dimm', 'id': 'dimm',"
                          "  'memdev': 'mem1', 'addr': %" PRIu64 " } }",
                          (uint64_t)DIMM_BASE));
    ras_inject_one(vm, DIMM_BASE + at);
    rsp = ras_qmp(vm, "{ 'execute': 'query-hugetlbfs-ras' }");
    g_assert_cmpint(qdict_get_int(only_page(rsp), "untold"), ==, 1);
    qobject_unref(rsp);
    ras_reset(vm);
    ras_zero_check(vm, DIMM_BASE + HUGE_PAGE, HUGE_PAGE);
    ras_vm_quit(vm);
}

void ras_add_reset_tests(void)
{
    if (!strcmp(qtest_get_arch(), "x86_64")) {
        qtest_add_func("/hugetlbfs-ras/dimm", test_dimm);
    }
    qtest_add_func("/hugetlbfs-ras/reset/huge-page-back", test_reset);
    qtest_add_func("/hugetlbfs-ras/reset/empty-pool", test_reset_empty_pool);
    qtest_add_func("/hugetlbfs-ras/file-offset", test_file_offset);
    qtest_add_func("/hugetlbfs-ras/settings/changed", test_settings_changed);
    for (int i = 0; i < ARRAY_SIZE(settings_cases); i++) {
        g_autofree char *name = g_strdup_printf("/hugetlbfs-ras/settings/%d",
                                                i);

        qtest_add_data_func(name, &settings_cases[i], test_settings);
    }
}
