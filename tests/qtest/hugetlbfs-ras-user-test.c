/*
 * Tests of the recovery from memory failures: others that read or drop RAM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <zlib.h>
#include "elf.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "libqos/virtio-pci.h"
#include "standard-headers/linux/virtio_config.h"
#include "hugetlbfs-ras-vm.h"

#define LOST (4 * HUGE_PAGE + 3 * SMALL_PAGE)

static char *dump_guest(RasVm *vm, const char *format)
{
    g_autofree char *uri = NULL;
    char *path;
    int fd = g_file_open_tmp("hugetlbfs-ras-XXXXXX", &path, NULL);

    g_assert(fd >= 0);
    close(fd);
    uri = g_strdup_printf("file:%s", path);
    qobject_unref(ras_qmp(vm, "{ 'execute': 'dump-guest-memory', 'arguments': {"
                          "  'paging': false, 'protocol': %s, 'format': %s } }",
                          uri, format));
    return path;
}

/* Finds a page of the guest in the dump of an ELF file. */
static void elf_page(const char *dump, size_t size, uint64_t gpa, void *page)
{
    const Elf64_Ehdr *ehdr = (const Elf64_Ehdr *)dump;

    for (int i = 0; i < ehdr->e_phnum; i++) {
        const Elf64_Phdr *p = (const Elf64_Phdr *)(dump + ehdr->e_phoff) + i;

        if (p->p_type == PT_LOAD && gpa - p->p_paddr < p->p_filesz) {
            g_assert_cmpint(p->p_offset + p->p_filesz, <=, size);
            memcpy(page, dump + p->p_offset + (gpa - p->p_paddr), SMALL_PAGE);
            return;
        }
    }
    g_assert_not_reached();
}

/* Offsets of include/system/dump.h: DiskDumpHeader64, PageDescriptor */
#define KDUMP_SUB_HDR_BLOCKS 432
#define KDUMP_BITMAP_BLOCKS 436

typedef struct KdumpPage {
    uint64_t offset;
    uint32_t size;
    uint32_t flags;
    uint64_t page_flags;
} KdumpPage;

/* The same in a kdump: descriptors of the pages whose bit is set, then data */
static void kdump_page(const char *dump, size_t size, uint64_t gpa, void *page)
{
    uint32_t sub = *(const uint32_t *)(dump + KDUMP_SUB_HDR_BLOCKS);
    uint32_t bitmap = *(const uint32_t *)(dump + KDUMP_BITMAP_BLOCKS);
    const char *bits = dump + (1 + sub + bitmap / 2) * SMALL_PAGE;
    const KdumpPage *desc = (const void *)(dump + (1 + sub + bitmap) *
                                           SMALL_PAGE);
    uLongf length = SMALL_PAGE;

    for (uint64_t pfn = 0; pfn < gpa / SMALL_PAGE; pfn++) {
        desc += bits[pfn / 8] >> (pfn % 8) & 1;
    }
    g_assert_cmpint(desc->offset + desc->size, <=, size);
    if (desc->flags) {
        g_assert(uncompress(page, &length, (void *)(dump + desc->offset),
                            desc->size) == Z_OK);
        g_assert_cmpint(length, ==, SMALL_PAGE);
    } else {
        g_assert_cmpint(desc->size, ==, SMALL_PAGE);
        memcpy(page, dump + desc->offset, SMALL_PAGE);
    }
}

static void check_dump(const char *path,
                       void (*get)(const char *, size_t, uint64_t, void *))
{
    g_autofree char *dump = NULL;
    uint64_t page[SMALL_PAGE / sizeof(uint64_t)];
    gsize size;

    g_assert(g_file_get_contents(path, &dump, &size, NULL));
    for (uint64_t gpa = 3 * HUGE_PAGE; gpa < 6 * HUGE_PAGE;
         gpa += SMALL_PAGE) {
        get(dump, size, gpa, page);
        if (gpa == LOST || gpa == LOST + HUGE_PAGE) {
            g_assert(buffer_is_zero(page, SMALL_PAGE));
        } else {
            ras_pattern_check_buffer(page, gpa, SMALL_PAGE, 1);
        }
    }
}

static void test_dump(void)
{
    const uint64_t lost[] = { LOST, LOST + HUGE_PAGE };
    g_autofree char *elf = NULL, *raw = NULL, *zlib = NULL;
    RasVm *vm = ras_vm_start("", "");

    if (!vm) {
        return;
    }
    ras_pattern_write(vm, 3 * HUGE_PAGE, 3 * HUGE_PAGE, 1);
    ras_inject(vm, lost, 2, false);
    elf = dump_guest(vm, "elf");
    raw = dump_guest(vm, "kdump-raw-zlib");
    zlib = dump_guest(vm, "kdump-zlib");
    g_assert_cmpint(ras_vm_log_count(vm, "warning: dump-guest-memory: 2 lost "
                                     "pages of guest RAM are written as zeros"),
                    ==, 3);
    ras_vm_quit(vm);
    check_dump(elf, elf_page);
    check_dump(raw, kdump_page);
    unlink(elf);
    unlink(raw);
    unlink(zlib);
}

static void migrate(RasVm *vm)
{
    qobject_unref(ras_qmp(vm, "{ 'execute': 'migrate', 'arguments': {"
                          "  'uri': 'exec:cat >/dev/null' } }"));
}

static char *migrate_fails(RasVm *vm)
{
    return ras_qmp_error(vm, "{ 'execute': 'migrate', 'arguments': {"
                         "  'uri': 'exec:cat >/dev/null' } }");
}

static void set_bandwidth(RasVm *vm, uint64_t bytes)
{
    qobject_unref(ras_qmp(vm, "{ 'execute': 'migrate-set-parameters',"
                          "  'arguments': {"
                          "    'max-bandwidth': %" PRIu64 ","
                          "    'max-postcopy-bandwidth': %" PRIu64 " } }",
                          bytes, bytes));
}

/* Returns the error, if any. */
static char *wait_migration(RasVm *vm, const char *status)
{
    for (int i = 0; i < 3000; i++) {
        QDict *rsp = ras_qmp(vm, "{ 'execute': 'query-migrate' }");
        QDict *info = qdict_get_qdict(rsp, "return");
        bool there = !strcmp(qdict_get_try_str(info, "status") ?: "", status);
        char *error = g_strdup(qdict_get_try_str(info, "error-desc"));

        qobject_unref(rsp);
        if (there) {
            return error;
        }
        g_free(error);
        g_usleep(10000);
    }
    g_assert_not_reached();
}

static void expect_running(RasVm *vm)
{
    QDict *rsp = ras_qmp(vm, "{ 'execute': 'query-status' }");

    g_assert(qdict_get_bool(qdict_get_qdict(rsp, "return"), "running"));
    qobject_unref(rsp);
}

static void test_migration_blocked(void)
{
    g_autofree char *error = NULL;
    RasVm *vm = ras_vm_start("", "");

    if (!vm) {
        return;
    }
    ras_inject_one(vm, LOST);
    error = migrate_fails(vm);
    g_assert(strstr(error, "hardware poisoned memory"));
    expect_running(vm);
    ras_reset(vm);
    set_bandwidth(vm, 1 * GiB);
    migrate(vm);
    g_free(wait_migration(vm, "completed"));
    ras_vm_quit(vm);
}

/* Waits until the empty pages before the pattern are sent. */
static void wait_sent(RasVm *vm)
{
    for (int i = 0; i < 3000; i++) {
        QDict *rsp = ras_qmp(vm, "{ 'execute': 'query-migrate' }");
        QDict *ram = qdict_get_qdict(qdict_get_qdict(rsp, "return"), "ram");
        bool sent = ram && qdict_get_int(ram, "normal") > 0;

        qobject_unref(rsp);
        if (sent) {
            return;
        }
        g_usleep(10000);
    }
    g_assert_not_reached();
}

static void test_migration_running(void)
{
    const uint64_t sent = HUGE_PAGE + 3 * SMALL_PAGE;
    const RasExpect expect[] = {
        { HUGE_PAGE, { { sent, SMALL_PAGE } }, 1 },
        { 5 * HUGE_PAGE, { { LOST + HUGE_PAGE, SMALL_PAGE } }, 1 },
    };
    g_autofree char *error = NULL;
    RasVm *vm = ras_vm_start("", "");

    if (!vm) {
        return;
    }
    ras_pattern_write(vm, 3 * HUGE_PAGE, 3 * HUGE_PAGE, 1);
    set_bandwidth(vm, 64 * KiB);
    migrate(vm);
    wait_sent(vm);
    ras_events_clear(vm);

    /* Not in what is to be sent, but the guest may write there. */
    ras_inject_one(vm, sent);
    error = wait_migration(vm, "failed");
    g_assert_cmpstr(error, ==, "a memory failure hit guest RAM during the "
                    "migration; the VM goes on here");
    expect_running(vm);
    g_assert_cmpint(ras_event_count(vm, "STOP"), ==, 0);
    g_assert_cmpint(ras_event_count(vm, "RESUME"), ==, 0);
    ras_inject_one(vm, LOST + HUGE_PAGE);
    ras_expect_query(vm, expect, 2);
    ras_pattern_check(vm, 3 * HUGE_PAGE, 2 * HUGE_PAGE, 1);

    ras_reset(vm);
    set_bandwidth(vm, 1 * GiB);
    migrate(vm);
    g_free(wait_migration(vm, "completed"));
    ras_vm_quit(vm);
}

static void set_capability(RasVm *vm, const char *name, bool on)
{
    qobject_unref(ras_qmp(vm, "{ 'execute': 'migrate-set-capabilities',"
                          "  'arguments': { 'capabilities': [ {"
                          "    'capability': %s, 'state': %i } ] } }",
                          name, on));
}

typedef struct Postcopy {
    RasVm *from;
    RasVm *to;
    char *path;
} Postcopy;

/* The guest runs there while most of its memory is still at the source. */
static bool postcopy_start(Postcopy *p)
{
    static const char capability[] = "postcopy-ram";
    g_autofree char *uri = NULL;

    if (!ras_pool_have(2 * (RAS_VM_PAGES + 1))) {
        return false;
    }
    p->path = g_strdup_printf("%s/hugetlbfs-ras-%d", g_get_tmp_dir(),
                              getpid());
    uri = g_strdup_printf("unix:%s", p->path);
    p->from = ras_vm_start("", "");
    p->to = ras_vm_start("", "-incoming defer");
    ras_pattern_write(p->from, 5 * HUGE_PAGE, 10 * HUGE_PAGE, 1);
    set_bandwidth(p->from, 64 * KiB);
    set_capability(p->from, capability, true);
    set_capability(p->to, capability, true);
    qobject_unref(ras_qmp(p->to, "{ 'execute': 'migrate-incoming',"
                          "  'arguments': { 'uri': %s } }", uri));
    qobject_unref(ras_qmp(p->from, "{ 'execute': 'migrate',"
                          "  'arguments': { 'uri': %s } }", uri));
    wait_sent(p->from);
    qobject_unref(ras_qmp(p->from, "{ 'execute': 'migrate-start-postcopy' }"));
    ras_event_wait(p->to, "RESUME", 1);
    expect_running(p->to);
    return true;
}

static void postcopy_end(Postcopy *p)
{
    ras_vm_quit(p->to);
    ras_vm_quit(p->from);
    unlink(p->path);
    g_free(p->path);
}

static void test_migration_postcopy(void)
{
    const RasExpect expect = {
        4 * HUGE_PAGE, { { LOST, SMALL_PAGE } }, .untold = 1
    };
    Postcopy p;

    if (!postcopy_start(&p)) {
        return;
    }
    ras_expect_backend(p.to, "an incoming migration is filling guest RAM");
    set_bandwidth(p.from, 1 * GiB);
    g_free(wait_migration(p.from, "completed"));
    g_free(wait_migration(p.to, "completed"));

    ras_expect_backend(p.to, NULL);
    ras_inject_one(p.to, LOST);
    ras_expect_query(p.to, &expect, 1);
    ras_pattern_check(p.to, 5 * HUGE_PAGE, 10 * HUGE_PAGE, 1);
    postcopy_end(&p);
}

/* The VM cannot go on at the source, but nothing wrong is sent. */
static void test_migration_postcopy_source(void)
{
    Postcopy p;

    if (!postcopy_start(&p)) {
        return;
    }
    ras_inject_one(p.from, LOST);
    g_free(wait_migration(p.from, "postcopy-paused"));
    g_free(wait_migration(p.to, "postcopy-paused"));
    expect_running(p.to);
    postcopy_end(&p);
}

/* Nothing is lost, but the file does not hold what the guest has. */
static void check_not_handed_over(RasVm *vm)
{
    g_autofree char *error = NULL;

    set_capability(vm, "x-ignore-shared", true);
    error = migrate_fails(vm);
    g_assert_cmpstr(error, ==, "guest RAM has a memory failure and does not "
                    "reach its file any more, so it cannot be handed over by "
                    "it");
    set_capability(vm, "x-ignore-shared", false);
    set_bandwidth(vm, 1 * GiB);
    migrate(vm);
    g_free(wait_migration(vm, "completed"));
}

typedef struct Balloon {
    QGuestAllocator alloc;
    QPCIBus *bus;
    QVirtioPCIDevice *dev;
    QVirtQueue *inflate;
} Balloon;

static void balloon_init(Balloon *b, RasVm *vm)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(4, 0) };

    pc_alloc_init(&b->alloc, vm->qts, ALLOC_NO_FLAGS);
    b->bus = qpci_new_pc(vm->qts, &b->alloc);
    b->dev = virtio_pci_new(b->bus, &addr);
    g_assert(b->dev);
    qvirtio_pci_device_enable(b->dev);
    qvirtio_start_device(&b->dev->vdev);
    qvirtio_set_features(&b->dev->vdev, qvirtio_get_features(&b->dev->vdev) &
                         ((1ull << VIRTIO_F_VERSION_1) |
                          (1ull << VIRTIO_F_ANY_LAYOUT)));
    b->inflate = qvirtqueue_setup(&b->dev->vdev, &b->alloc, 0);
    qvirtio_set_driver_ok(&b->dev->vdev);
}

static void balloon_take(Balloon *b, RasVm *vm, uint64_t gpa)
{
    uint64_t buf = guest_alloc(&b->alloc, 4);
    uint32_t head;

    qtest_writel(vm->qts, buf, gpa / SMALL_PAGE);
    head = qvirtqueue_add(vm->qts, b->inflate, buf, 4, false, false);
    qvirtqueue_kick(vm->qts, &b->dev->vdev, b->inflate, head);
    qvirtio_wait_used_elem(vm->qts, &b->dev->vdev, b->inflate, head, NULL,
                           10 * G_USEC_PER_SEC);
}

static void balloon_destroy(Balloon *b)
{
    qvirtqueue_cleanup(b->dev->vdev.bus, b->inflate, &b->alloc);
    qvirtio_pci_device_disable(b->dev);
    qos_object_destroy((QOSGraphObject *)b->dev);
    qpci_free_pc(b->bus);
    alloc_destroy(&b->alloc);
}

static void test_balloon(void)
{
    uint64_t healthy = LOST + 10 * SMALL_PAGE;
    Balloon balloon;
    RasVm *vm = ras_vm_start_raw(RAS_VM_PAGES + 1,
        "-machine pc,memory-backend=mem0 -m 64M -object memory-backend-memfd,"
        "id=mem0,size=64M,hugetlb=on,hugetlbsize=2M "
        "-device virtio-balloon-pci,addr=4");
    QDict *rsp, *page;

    if (!vm) {
        return;
    }
    balloon_init(&balloon, vm);
    ras_pattern_write(vm, 3 * HUGE_PAGE, 3 * HUGE_PAGE, 1);

    /* A piece of a huge page is kept, as ever. */
    balloon_take(&balloon, vm, healthy);
    ras_pattern_check(vm, 3 * HUGE_PAGE, 3 * HUGE_PAGE, 1);

    /* The lost page becomes plain memory again, and nothing else changes. */
    ras_inject_one(vm, LOST);
    balloon_take(&balloon, vm, LOST);
    rsp = ras_qmp(vm, "{ 'execute': 'query-hugetlbfs-ras' }");
    page = qobject_to(QDict, qlist_peek(qdict_get_qlist(
        qdict_get_qdict(rsp, "return"), "pages")));
    g_assert_cmpstr(qdict_get_str(page, "state"), ==, "split");
    g_assert_cmpint(qlist_size(qdict_get_qlist(page, "lost")), ==, 0);
    g_assert_cmpint(qdict_get_int(qdict_get_qdict(rsp, "return"),
                                  "lost-pages"), ==, 0);
    qobject_unref(rsp);
    g_assert_cmpint(ras_untold(vm), ==, 0);
    ras_zero_check(vm, LOST, SMALL_PAGE);
    ras_pattern_check(vm, 3 * HUGE_PAGE, LOST - 3 * HUGE_PAGE, 1);
    ras_pattern_check(vm, LOST + SMALL_PAGE,
                      6 * HUGE_PAGE - LOST - SMALL_PAGE, 1);

    /* Now there are small pages, so that a healthy one can be taken. */
    balloon_take(&balloon, vm, healthy);
    ras_zero_check(vm, healthy, SMALL_PAGE);
    ras_pattern_check(vm, LOST + SMALL_PAGE, healthy - LOST - SMALL_PAGE, 1);
    ras_pattern_check(vm, healthy + SMALL_PAGE,
                      6 * HUGE_PAGE - healthy - SMALL_PAGE, 1);
    ras_pattern_write(vm, LOST, SMALL_PAGE, 2);
    ras_pattern_check(vm, LOST, SMALL_PAGE, 2);
    balloon_destroy(&balloon);
    check_not_handed_over(vm);
    ras_vm_quit(vm);
}

void ras_add_user_tests(void)
{
    qtest_add_func("/hugetlbfs-ras/dump", test_dump);
    qtest_add_func("/hugetlbfs-ras/migration/blocked", test_migration_blocked);
    qtest_add_func("/hugetlbfs-ras/migration/running", test_migration_running);
    qtest_add_func("/hugetlbfs-ras/migration/postcopy",
                   test_migration_postcopy);
    qtest_add_func("/hugetlbfs-ras/migration/postcopy-source",
                   test_migration_postcopy_source);
    qtest_add_func("/hugetlbfs-ras/balloon", test_balloon);
}
