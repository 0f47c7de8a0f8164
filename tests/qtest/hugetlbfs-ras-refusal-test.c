/*
 * Tests of the recovery from memory failures: when it is refused
 *
 * Each refusal has its reason, and leaves what QEMU does without recovery.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mount.h>
#include "qapi/error.h"
#include "qobject/qjson.h"
#include "hugetlbfs-ras-host.h"
#include "hugetlbfs-ras-vm.h"

#define LOST (4 * HUGE_PAGE + 3 * SMALL_PAGE)
#define INJECT "{ 'execute': 'x-hugetlbfs-ras-inject', 'arguments': "
#define INJECT_LOST INJECT \
    "{ 'addresses': [ 8400896 ], 'action-required': false } }"

#define OBJECT "-object memory-backend-memfd,id=mem0,size=64M,hugetlb=on," \
    "hugetlbsize=2M"
#define MACHINE "-machine q35,memory-backend=mem0 -m 64M "

static void expect_text(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        fprintf(stderr, "expected: %s\ngot: %s\n", part, text);
        abort();
    }
}

/* A backend of which it is clear at once */
static void test_unfit(void)
{
    g_autofree char *error = NULL;
    RasVm *vm = ras_vm_start(",share=off", "");

    if (!vm) {
        return;
    }
    ras_expect_backend(vm, "the mapping is private (share=off)");
    g_assert_cmpint(ras_vm_log_count(vm, "warning: memory backend 'mem0': a "
                                     "memory failure will cost the guest a "
                                     "whole huge page: the mapping is private "
                                     "(share=off)"), ==, 1);
    error = ras_qmp_error(vm, INJECT_LOST);
    g_assert_cmpstr(error, ==, "there is no memory on huge pages with "
                    "recovery");
    ras_reset(vm);
    g_assert_cmpint(ras_vm_log_count(vm, "warning: memory backend"), ==, 1);
    ras_vm_quit(vm);
}

static void test_off(void)
{
    g_autofree char *error = NULL;
    RasVm *vm = ras_vm_start(",hugetlbfs-ras=off", "");
    QDict *rsp, *info;

    if (!vm) {
        return;
    }
    rsp = ras_qmp(vm, "{ 'execute': 'query-hugetlbfs-ras' }");
    info = qdict_get_qdict(rsp, "return");
    g_assert(qlist_empty(qdict_get_qlist(info, "backends")));
    g_assert(qlist_empty(qdict_get_qlist(info, "pages")));
    qobject_unref(rsp);
    error = ras_qmp_error(vm, INJECT_LOST);
    g_assert_cmpint(ras_vm_log_count(vm, "memory backend"), ==, 0);
    ras_vm_quit(vm);
}

/* Small pages are nobody's business unless asked for. */
static void test_small_pages(void)
{
    g_autofree char *error = NULL;
    RasVm *vm = ras_vm_start_raw(0, MACHINE "-object memory-backend-memfd,"
                                 "id=mem0,size=64M");
    QDict *rsp;

    g_assert(vm);
    rsp = ras_qmp(vm, "{ 'execute': 'query-hugetlbfs-ras' }");
    g_assert(qlist_empty(qdict_get_qlist(qdict_get_qdict(rsp, "return"),
                                         "backends")));
    qobject_unref(rsp);
    error = ras_qmp_error(vm, INJECT_LOST);
    g_assert_cmpint(ras_vm_log_count(vm, "memory backend"), ==, 0);
    ras_vm_quit(vm);
}

/* Recovery is on for another backend, but not for the one that is hit. */
static void test_inject_elsewhere(void)
{
    g_autofree char *error = NULL;
    RasVm *vm = ras_vm_start_raw(RAS_VM_PAGES + 1, "-machine q35 -m 64M "
                                 OBJECT ",hugetlbfs-ras=on");
    if (!vm) {
        return;
    }
    error = ras_qmp_error(vm, INJECT_LOST);
    g_assert_cmpstr(error, ==, "guest address 0x803000 is not in memory on "
                    "huge pages with recovery");
    ras_vm_quit(vm);
}

static void test_readonly(void)
{
    g_autofree char *dir = g_dir_make_tmp("hugetlbfs-ras-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "mem", NULL);
    g_autofree char *args = NULL;
    RasVm *vm;
    int fd;

    if (mount("none", dir, "hugetlbfs", 0, "pagesize=2M")) {
        g_test_skip("cannot mount hugetlbfs");
        rmdir(dir);
        return;
    }
    fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    umount2(dir, MNT_DETACH);
    rmdir(dir);
    g_assert(fd >= 0 && ftruncate(fd, 64 * MiB) == 0);
    args = g_strdup_printf("-machine q35 -m 64M -object memory-backend-file,"
                           "id=mem0,size=64M,mem-path=/proc/%d/fd/%d,share=on,"
                           "readonly=on", (int)getpid(), fd);
    vm = ras_vm_start_raw(RAS_VM_PAGES, args);
    if (vm) {
        ras_expect_backend(vm, "the memory is read-only");
        ras_vm_quit(vm);
    }
    close(fd);
}

static void test_incoming(void)
{
    RasVm *vm = ras_vm_start("", "-incoming defer");

    if (!vm) {
        return;
    }
    ras_expect_backend(vm, "an incoming migration is filling guest RAM");
    ras_vm_quit(vm);
}

static void test_ivshmem(void)
{
    RasVm *vm;

    if (!qtest_has_device("ivshmem-plain")) {
        g_test_skip("no ivshmem-plain");
        return;
    }
    vm = ras_vm_start_raw(RAS_VM_PAGES + 1, "-machine q35 -m 64M " OBJECT
                          " -device ivshmem-plain,memdev=mem0");
    if (!vm) {
        return;
    }
    ras_expect_backend(vm, "another VM maps this memory (ivshmem)");
    ras_vm_quit(vm);
}

/* What the guest writes is to be in the file, even after QEMU has ended. */
static void test_persistent(gconstpointer device)
{
    static const char reason[] = "the memory is to last in its file (nvdimm or "
                                 "virtio-pmem)";
    g_autofree char *args = NULL;
    RasVm *vm;

    if (!qtest_has_device(device)) {
        g_test_skip("no such device");
        return;
    }
    args = g_strdup_printf("-machine q35,nvdimm=on -m 64M,slots=1,maxmem=1G "
                           OBJECT " -device %s,memdev=mem0,id=d",
                           (const char *)device);
    vm = ras_vm_start_raw(RAS_VM_PAGES + 1, args);
    if (!vm) {
        return;
    }
    ras_expect_backend(vm, reason);
    ras_vm_quit(vm);
}

/* hugetlbfs-ras=on: QEMU does not start without recovery. */
static void test_required(void)
{
    static const struct {
        const char *args;
        const char *reason;
    } cases[] = {
        { MACHINE OBJECT ",share=off,hugetlbfs-ras=on",
          "hugetlbfs-ras=on is not possible for memory backend 'mem0': the "
          "mapping is private (share=off)" },
        { MACHINE "-object memory-backend-memfd,id=mem0,size=64M,"
          "hugetlbfs-ras=on", "hugetlbfs-ras=on needs memory on huge pages" },
        { "-machine q35 " OBJECT ",hugetlbfs-ras=on "
          "-device ivshmem-plain,memdev=mem0",
          "hugetlbfs-ras=on is not possible for memory backend 'mem0': another "
          "VM maps this memory (ivshmem)" },
        { MACHINE OBJECT ",hugetlbfs-ras=perhaps",
          "does not accept value 'perhaps'" },
        { MACHINE "-object memory-backend-ram,id=mem0,size=64M,"
          "hugetlbfs-ras=auto", "'hugetlbfs-ras'" },
    };

    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autofree char *text = ras_vm_fails(RAS_VM_PAGES + 1, cases[i].args);

        if (!text) {
            return;
        }
        expect_text(text, cases[i].reason);
    }
}

static void expect_refused(RasVm *vm, const char *reason)
{
    QDict *page = qdict_get_qdict(ras_event_last(vm, "HUGETLBFS_RAS"), "page");

    g_assert_cmpstr(qdict_get_str(page, "state"), ==, "refused");
    expect_text(qdict_get_str(page, "reason"), reason);
    g_assert_cmpint(qdict_get_int(page, "offset"), ==, 4 * HUGE_PAGE);
    g_assert_cmpint(qdict_get_int(page, "page-size"), ==, HUGE_PAGE);
    g_assert(qlist_empty(qdict_get_qlist(page, "lost")));
    g_assert_cmpint(qdict_get_int(page, "untold"), ==, 0);
    g_assert_cmpint(qdict_get_int(page, "salvaged"), ==, 0);
}

/* Refused at the error, and stays so until a reset */
static void check_refused(RasVm *vm, const char *reason)
{
    ras_pattern_write(vm, 4 * HUGE_PAGE, HUGE_PAGE, 1);
    ras_inject_one(vm, LOST);
    ras_event_wait(vm, "HUGETLBFS_RAS", 1);
    expect_refused(vm, reason);
    g_assert_cmpint(ras_vm_log_count(vm, "at offset 0x800000: not recovered, "),
                    ==, 1);
    ras_inject_one(vm, LOST + SMALL_PAGE);
    g_assert_cmpint(ras_event_count(vm, "HUGETLBFS_RAS"), ==, 1);
    /* As it was; only the injector knows that it is lost. */
    g_assert_cmpint(ras_kernel_page_size(vm, LOST), ==, HUGE_PAGE);
    ras_pattern_check(vm, 4 * HUGE_PAGE, HUGE_PAGE, 1);
}

static void test_no_memory(gconstpointer cgroup)
{
    const char *limit = cgroup ? "current" : "meminfo";
    const char *plenty = cgroup ? "0\n" : "MemAvailable:   9999999 kB\n";
    const char *none = cgroup ? "999999999\n" : "MemAvailable:   18431 kB\n";
    const char *reason = cgroup
        ? "not enough free memory for a copy: 18 MiB needed, 0 MiB available "
          "in the control group"
        : "not enough free memory for a copy: 18 MiB needed, 17 MiB available "
          "on the host";
    const RasExpect expect = {
        4 * HUGE_PAGE, { { LOST, SMALL_PAGE } }, .untold = 1
    };
    FakeHost host;
    RasVm *vm;

    if (!fake_host_start(&host, cgroup ?
                    "echo 0::/x >$D/meminfo && "
                    "mount --bind $D/meminfo /proc/$$/cgroup && "
                    "mount -t tmpfs none /sys/fs/cgroup && "
                    "mkdir /sys/fs/cgroup/x && "
                    "ln -s $D/max /sys/fs/cgroup/x/memory.max && "
                    "ln -s $D/current /sys/fs/cgroup/x/memory.current" :
                    "mount --bind $D/meminfo /proc/meminfo")) {
        return;
    }
    fake_host_file(&host, "max", "99999999\n");
    fake_host_file(&host, limit, plenty);
    vm = ras_vm_start("", "");
    if (vm) {
        ras_expect_backend(vm, NULL);
        fake_host_file(&host, limit, none);
        ras_expect_backend(vm, reason);
        check_refused(vm, reason);
        fake_host_file(&host, limit, plenty);
        ras_reset(vm);
        ras_expect_no_pages(vm);
        ras_events_clear(vm);
        ras_inject_one(vm, LOST);
        ras_event_wait(vm, "HUGETLBFS_RAS", 1);
        ras_expect_query(vm, &expect, 1);
        ras_vm_quit(vm);
    }
    fake_host_end(&host);
}

static void test_vhost_user(void)
{
    g_autofree char *args = NULL, *required = NULL, *text = NULL;
    FakePeer peer;
    RasVm *vm;

    if (!fake_peer_start(&peer)) {
        return;
    }
    args = g_strdup_printf("-chardev socket,id=c,path=%s "
                           "-netdev vhost-user,id=n,chardev=c", peer.path);
    vm = ras_vm_start("", args);
    if (vm) {
        ras_expect_backend(vm, "a vhost-user process maps guest RAM");
        check_refused(vm, "a vhost-user process maps guest RAM");
        qobject_unref(ras_qmp(vm, "{ 'execute': 'netdev_del',"
                              "  'arguments': { 'id': 'n' } }"));
        ras_expect_backend(vm, NULL);
        ras_vm_quit(vm);

        required = g_strdup_printf(MACHINE OBJECT ",hugetlbfs-ras=on %s", args);
        text = ras_vm_fails(RAS_VM_PAGES + 1, required);
        expect_text(text, "hugetlbfs-ras=on is not possible for memory backend "
                    "'mem0': a vhost-user process maps guest RAM");
    }
    fake_peer_end(&peer);
}

/* A page is split: whoever maps the file now would see something else. */
static void test_vhost_user_after_split(void)
{
    static const char refused[] =
        "guest RAM has a memory failure and does not reach its file any more, "
        "so another process cannot map it";
    g_autofree char *text = NULL;
    g_autofree char *net = NULL;
    FakePeer peer;
    RasVm *vm;

    if (!fake_peer_start(&peer)) {
        return;
    }
    vm = ras_vm_start("", "-device pcie-root-port,id=slot0,chassis=1");
    if (vm) {
        ras_inject_one(vm, LOST);
        qobject_unref(ras_qmp(vm, "{ 'execute': 'chardev-add', 'arguments': {"
                              "  'id': 'c', 'backend': { 'type': 'socket',"
                              "  'data': { 'server': false, 'addr': {"
                              "    'type': 'unix', 'data': { 'path': %s"
                              "  } } } } } }", peer.path));
        text = ras_qmp_error(vm, "{ 'execute': 'device_add', 'arguments': {"
                             "  'driver': 'vhost-user-rng-pci', 'id': 'd',"
                             "  'chardev': 'c', 'bus': 'slot0' } }");
        expect_text(text, refused);
        /* This one would try for ever. */
        net = ras_qmp_error(vm, "{ 'execute': 'netdev_add', 'arguments': {"
                            "  'type': 'vhost-user', 'id': 'n',"
                            "  'chardev': 'c' } }");
        expect_text(net, refused);
        ras_reset(vm);
        ras_expect_backend(vm, NULL);
        ras_vm_quit(vm);
    }
    fake_peer_end(&peer);
}

/*
 * A backend is either RAM or ivshmem's, so the split page is in a DIMM that is
 * unplugged again.
 */
static void test_ivshmem_after_split(void)
{
    static const char add[] = "{ 'execute': 'device_add', 'arguments': {"
        "  'driver': 'ivshmem-plain', 'id': 'd', 'memdev': 'mem1',"
        "  'bus': 'slot0' } }";
    g_autofree char *text = NULL;
    RasVm *vm;

    if (!qtest_has_device("ivshmem-plain")) {
        g_test_skip("no ivshmem-plain");
        return;
    }
    vm = ras_vm_start_dimm();
    if (!vm) {
        return;
    }
    ras_inject_one(vm, DIMM_BASE + SMALL_PAGE);
    ras_unplug_dimm(vm);
    text = ras_qmp_error(vm, add);
    g_assert_cmpstr(text, ==, "memory backend 'mem1' has a memory failure and "
                    "does not reach its file any more");
    ras_reset(vm);
    ras_expect_no_pages(vm);
    qobject_unref(ras_qmp(vm, add));
    ras_vm_quit(vm);
}

static char *inject_error(RasVm *vm, const char *addresses)
{
    g_autofree char *json = g_strdup_printf(INJECT "{ 'addresses': [ %s ],"
                                            "'action-required': false } }",
                                            addresses);
    QObject *request = qobject_from_json(json, &error_abort);

    return ras_qmp_error(vm, "%p", request);
}

static void test_bad_arguments(void)
{
    static const struct {
        const char *addresses;
        const char *error;
    } cases[] = {
        /* 64 MiB; the reset vector; one good and one bad; no number */
        { "67108864", "guest address 0x4000000 is not in memory on huge "
          "pages with recovery" },
        { "4294967280", "guest address 0xfffffff0 is not in memory" },
        { "8400896, -1", "address 0xffffffffffffffff is not in memory" },
        { "'x'", "expects uint64" },
    };
    g_autofree char *many = g_strnfill(513 * 8, ' ');
    g_autofree char *error = NULL;
    RasVm *vm = ras_vm_start("", "");

    if (!vm) {
        return;
    }
    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autofree char *text = inject_error(vm, cases[i].addresses);

        expect_text(text, cases[i].error);
    }
    for (int i = 0; i < 513; i++) {
        memcpy(many + 8 * i, i ? ",8400896" : " 8400896", 8);
    }
    error = inject_error(vm, many);
    expect_text(error, "at most 512 addresses can be injected at once");

    ras_inject(vm, NULL, 0, false);
    ras_expect_no_pages(vm);
    g_assert_cmpint(ras_event_count(vm, "HUGETLBFS_RAS"), ==, 0);
    ras_vm_quit(vm);
}

void ras_add_refusal_tests(void)
{
    qtest_add_func("/hugetlbfs-ras/bad-arguments", test_bad_arguments);
    qtest_add_func("/hugetlbfs-ras/refused/private", test_unfit);
    qtest_add_func("/hugetlbfs-ras/refused/off", test_off);
    qtest_add_func("/hugetlbfs-ras/refused/small-pages", test_small_pages);
    qtest_add_func("/hugetlbfs-ras/refused/elsewhere", test_inject_elsewhere);
    qtest_add_func("/hugetlbfs-ras/refused/readonly", test_readonly);
    qtest_add_func("/hugetlbfs-ras/refused/incoming", test_incoming);
    qtest_add_func("/hugetlbfs-ras/refused/ivshmem", test_ivshmem);
    qtest_add_data_func("/hugetlbfs-ras/refused/nvdimm", "nvdimm",
                        test_persistent);
    qtest_add_data_func("/hugetlbfs-ras/refused/virtio-pmem", "virtio-pmem-pci",
                        test_persistent);
    qtest_add_func("/hugetlbfs-ras/refused/required", test_required);
    qtest_add_data_func("/hugetlbfs-ras/refused/no-memory/host",
                        GINT_TO_POINTER(false), test_no_memory);
    qtest_add_data_func("/hugetlbfs-ras/refused/no-memory/cgroup",
                        GINT_TO_POINTER(true), test_no_memory);
    qtest_add_func("/hugetlbfs-ras/refused/vhost-user", test_vhost_user);
    qtest_add_func("/hugetlbfs-ras/after-split/vhost-user",
                   test_vhost_user_after_split);
    qtest_add_func("/hugetlbfs-ras/after-split/ivshmem",
                   test_ivshmem_after_split);
}
