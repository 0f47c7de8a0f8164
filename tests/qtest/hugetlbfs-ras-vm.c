/*
 * Tests of the recovery from memory failures: the machine under test
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hugetlbfs-ras-vm.h"
#include "qobject/qjson.h"
#include "qobject/qnum.h"

/* Not g_error(), which would leave QEMU behind. */
static G_NORETURN void ras_fail(const char *expected, const char *got)
{
    fprintf(stderr, "expected: %s\ngot: %s\n", expected, got);
    abort();
}

static bool ras_vm_event(QTestState *qts, const char *name, QDict *event,
                         void *opaque)
{
    RasVm *vm = opaque;

    g_ptr_array_add(vm->events, qobject_ref(event));
    return true;
}

static void ras_event_free(gpointer event)
{
    qobject_unref((QDict *)event);
}

/* What QEMU said last, if the test fails */
static void ras_vm_abort(void *opaque)
{
    RasVm *vm = opaque;
    g_autofree char *log = ras_vm_log(vm);

    fprintf(stderr, "QEMU's log:\n%s", log);
    unlink(vm->log);
}

static bool ras_is_arm(void)
{
    return !strcmp(qtest_get_arch(), "aarch64");
}

const char *ras_machine(void)
{
    return ras_is_arm() ? "virt,ras=on" : "q35";
}

/* The memory map of hw/arm/virt.c: VIRT_MEM */
uint64_t ras_base(void)
{
    return ras_is_arm() ? 1 * GiB : 0;
}

RasVm *ras_vm_start_raw(long pages, const char *args)
{
    g_autofree char *bios = ras_guest_bios();
    RasVm *vm;
    int fd;

    if (!ras_pool_have(pages)) {
        return NULL;
    }
    vm = g_new0(RasVm, 1);
    vm->events = g_ptr_array_new_with_free_func(ras_event_free);
    fd = g_file_open_tmp("hugetlbfs-ras-XXXXXX", &vm->log, NULL);
    g_assert(fd >= 0);
    close(fd);
    qtest_add_abrt_handler(ras_vm_abort, vm);
    vm->qts = qtest_initf("-nodefaults -vga none -net none -bios %s "
                          "%s %s 2>%s", bios,
                          ras_is_arm() ? "-cpu cortex-a57" : "", args, vm->log);
    qtest_qmp_set_event_callback(vm->qts, ras_vm_event, vm);
    return vm;
}

RasVm *ras_vm_start(const char *backend, const char *args)
{
    /* All tests must pass in either way. */
    const char *mode = g_getenv("HUGETLBFS_RAS_MODE") ?: "auto";
    g_autofree char *all = g_strdup_printf(
        "-machine %s,memory-backend=mem0 -m 64M -object memory-backend-memfd,"
        "id=mem0,size=64M,hugetlb=on,hugetlbsize=2M,x-hugetlbfs-ras-mode=%s%s "
        "%s", ras_machine(), mode, backend, args);

    return ras_vm_start_raw(RAS_VM_PAGES + 1, all);
}

RasVm *ras_vm_start_dimm(void)
{
    /* Twice, as RAM is given back some time after its backend is deleted */
    return ras_vm_start_raw(RAS_VM_PAGES + 2 * DIMM_PAGES + 1,
        "-machine q35,memory-backend=mem0 -m 64M,slots=2,maxmem=1G "
        "-object memory-backend-memfd,id=mem0,size=64M,hugetlb=on,"
        "hugetlbsize=2M -object memory-backend-memfd,id=mem1,size=16M,"
        "hugetlb=on,hugetlbsize=2M -device pc-dimm,id=dimm,memdev=mem1,"
        "addr=0x100000000 -device pcie-root-port,id=slot0,chassis=1");
}

void ras_unplug_dimm(RasVm *vm)
{
    /* docs/specs/acpi_mem_hotplug.rst: slot selector, control: eject */
    const uint16_t base = 0xa00;

    qobject_unref(ras_qmp(vm, "{ 'execute': 'device_del',"
                          "  'arguments': { 'id': 'dimm' } }"));
    qtest_outl(vm->qts, base, 0);
    qtest_outb(vm->qts, base + 0x14, 8);
    ras_event_wait(vm, "DEVICE_DELETED", 1);
}

static void ras_vm_free(RasVm *vm)
{
    qtest_remove_abrt_handler(vm);
    g_ptr_array_unref(vm->events);
    unlink(vm->log);
    g_free(vm->log);
    g_free(vm);
}

void ras_vm_quit(RasVm *vm)
{
    if (g_test_verbose()) {
        g_autofree char *log = ras_vm_log(vm);

        g_test_message("%s", log);
    }
    qtest_quit(vm->qts);
    ras_pool_release();
    ras_vm_free(vm);
}

char *ras_vm_log(RasVm *vm)
{
    char *text;

    g_assert(g_file_get_contents(vm->log, &text, NULL, NULL));
    return text;
}

static int ras_count(const char *text, const char *part)
{
    int count = 0;

    while ((text = strstr(text, part))) {
        text += strlen(part);
        count++;
    }
    return count;
}

int ras_vm_log_count(RasVm *vm, const char *text)
{
    g_autofree char *log = ras_vm_log(vm);

    return ras_count(log, text);
}

char *ras_vm_fails(long pages, const char *args)
{
    g_autofree char *bios = ras_guest_bios();
    g_autofree char *command = NULL;
    g_autoptr(GError) err = NULL;
    char *text;
    int status;

    if (!ras_pool_have(pages)) {
        return NULL;
    }
    command = g_strdup_printf("timeout 60 %s -nodefaults -vga none -net none "
                              "-display none -accel qtest -bios %s %s",
                              getenv("QTEST_QEMU_BINARY"), bios, args);
    g_assert(g_spawn_command_line_sync(command, NULL, &text, &status, &err));
    ras_pool_release();
    g_test_message("%s", text);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 1);
    return text;
}

QDict *ras_qmp(RasVm *vm, const char *fmt, ...)
{
    va_list ap;
    QDict *rsp;

    va_start(ap, fmt);
    rsp = qtest_vqmp(vm->qts, fmt, ap);
    va_end(ap);
    if (!qdict_haskey(rsp, "return")) {
        g_autoptr(GString) text = qobject_to_json_pretty(QOBJECT(rsp), true);

        ras_fail("not expected", text->str);
    }
    return rsp;
}

char *ras_qmp_error(RasVm *vm, const char *fmt, ...)
{
    va_list ap;
    QDict *rsp;
    char *text;

    va_start(ap, fmt);
    rsp = qtest_vqmp(vm->qts, fmt, ap);
    va_end(ap);
    g_assert(qdict_haskey(rsp, "error"));
    text = g_strdup(qdict_get_str(qdict_get_qdict(rsp, "error"), "desc"));
    g_test_message("%s", text);
    qobject_unref(rsp);
    return text;
}

void ras_inject(RasVm *vm, const uint64_t *offsets, size_t n,
                bool action_required)
{
    QList *list = qlist_new();

    for (size_t i = 0; i < n; i++) {
        qlist_append(list, qnum_from_uint(ras_base() + offsets[i]));
    }
    qobject_unref(ras_qmp(vm, "{ 'execute': 'x-hugetlbfs-ras-inject',"
                          "  'arguments': { 'addresses': %p,"
                          "                 'action-required': %i } }",
                          list, action_required));
}

void ras_inject_one(RasVm *vm, uint64_t offset)
{
    ras_inject(vm, &offset, 1, false);
}

/* An answer comes behind the events that were sent before it. */
static void ras_events_read(RasVm *vm)
{
    qobject_unref(ras_qmp(vm, "{ 'execute': 'query-status' }"));
}

static int ras_event_scan(RasVm *vm, const char *name, QDict **last)
{
    int count = 0;

    for (int i = 0; i < vm->events->len; i++) {
        QDict *event = g_ptr_array_index(vm->events, i);

        if (!strcmp(qdict_get_str(event, "event"), name)) {
            *last = qdict_get_qdict(event, "data");
            count++;
        }
    }
    return count;
}

int ras_event_count(RasVm *vm, const char *name)
{
    QDict *last;

    ras_events_read(vm);
    return ras_event_scan(vm, name, &last);
}

void ras_event_wait(RasVm *vm, const char *name, int count)
{
    for (int i = 0; ras_event_count(vm, name) < count; i++) {
        g_assert_cmpint(i, <, 2000);
        g_usleep(10000);
    }
}

void ras_reset(RasVm *vm)
{
    int count = ras_event_count(vm, "RESET");

    qobject_unref(ras_qmp(vm, "{ 'execute': 'system_reset' }"));
    ras_event_wait(vm, "RESET", count + 1);
}

QDict *ras_event_last(RasVm *vm, const char *name)
{
    QDict *last = NULL;

    g_assert_cmpint(ras_event_scan(vm, name, &last), >, 0);
    return last;
}

void ras_events_clear(RasVm *vm)
{
    ras_events_read(vm);
    g_ptr_array_set_size(vm->events, 0);
}

static void ras_assert_equal(QDict *got, QDict *expected)
{
    g_autoptr(GString) got_text = qobject_to_json_pretty(QOBJECT(got), true);
    g_autoptr(GString) text = qobject_to_json_pretty(QOBJECT(expected), true);

    if (!qobject_is_equal(QOBJECT(got), QOBJECT(expected))) {
        ras_fail(text->str, got_text->str);
    }
}

void ras_expect_page(QDict *page, const RasExpect *expect)
{
    QDict *got = qdict_clone_shallow(page);
    QDict *expected;
    QList *lost = qlist_new();
    uint64_t size = 0;

    for (const RasLost *l = expect->lost; l->size; l++) {
        qlist_append(lost, qdict_from_jsonf_nofail(
            "{ 'offset': %" PRIu64 ", 'gpa': %" PRIu64 ", 'size': %" PRIu64
            "}", l->offset, ras_base() + l->offset, l->size));
        size += l->size;
    }
    expected = qdict_from_jsonf_nofail(
        "{ 'backend': 'mem0', 'offset': %" PRIu64 ", 'gpa': %" PRIu64 ","
        "  'page-size': %" PRIu64 ", 'state': 'split', 'lost': %p,"
        "  'untold': %" PRIu64 ", 'salvaged': %" PRIu64 " }",
        expect->offset, ras_base() + expect->offset, (uint64_t)HUGE_PAGE,
        lost, expect->untold, (uint64_t)HUGE_PAGE - size);

    /* Whatever it is, it is there. */
    g_assert_cmpint(qdict_get_int(got, "longest-stall"), >=, 0);
    qdict_del(got, "longest-stall");
    if (expect->untold == RAS_ANY) {
        qdict_put_int(expected, "untold", qdict_get_int(got, "untold"));
    }
    ras_assert_equal(got, expected);
    qobject_unref(got);
    qobject_unref(expected);
}

static QDict *ras_query(RasVm *vm)
{
    return ras_qmp(vm, "{ 'execute': 'query-hugetlbfs-ras' }");
}

void ras_expect_query(RasVm *vm, const RasExpect *expect, size_t n)
{
    QDict *rsp = ras_query(vm);
    QDict *info = qdict_get_qdict(rsp, "return");
    QList *pages = qdict_get_qlist(info, "pages");
    uint64_t lost = 0;
    QListEntry *entry;

    g_assert_cmpint(qlist_size(pages), ==, n);
    QLIST_FOREACH_ENTRY(pages, entry) {
        ras_expect_page(qobject_to(QDict, qlist_entry_obj(entry)), expect);
        for (const RasLost *l = expect->lost; l->size; l++) {
            lost += l->size;
        }
        expect++;
    }
    g_assert_cmpint(qdict_get_int(info, "lost-pages"), ==, lost / SMALL_PAGE);
    g_assert_cmpint(qdict_get_int(info, "salvaged"), ==,
                    n * HUGE_PAGE - lost);
    g_assert_cmpint(qdict_get_int(info, "dropped"), ==, 0);
    qobject_unref(rsp);
}

void ras_expect_no_pages(RasVm *vm)
{
    ras_expect_query(vm, NULL, 0);
}

uint64_t ras_untold(RasVm *vm)
{
    QDict *rsp = ras_query(vm);
    QList *pages = qdict_get_qlist(qdict_get_qdict(rsp, "return"), "pages");
    uint64_t untold = 0;
    QListEntry *entry;

    QLIST_FOREACH_ENTRY(pages, entry) {
        untold += qdict_get_int(qobject_to(QDict, qlist_entry_obj(entry)),
                                "untold");
    }
    qobject_unref(rsp);
    return untold;
}

void ras_expect_backend(RasVm *vm, const char *reason)
{
    QDict *rsp = ras_query(vm);
    QList *list = qdict_get_qlist(qdict_get_qdict(rsp, "return"), "backends");
    QDict *backend;

    g_assert_cmpint(qlist_size(list), ==, 1);
    backend = qobject_to(QDict, qlist_peek(list));
    g_assert_cmpstr(qdict_get_str(backend, "id"), ==, "mem0");
    g_assert_cmpint(qdict_get_int(backend, "page-size"), ==, HUGE_PAGE);
    g_assert_cmpint(qdict_get_int(backend, "size"), ==,
                    RAS_VM_PAGES * HUGE_PAGE);
    g_assert(qdict_get_bool(backend, "eligible") == !reason);
    g_assert(qdict_haskey(backend, "reason") == !!reason);
    if (reason && !strstr(qdict_get_str(backend, "reason"), reason)) {
        ras_fail(reason, qdict_get_str(backend, "reason"));
    }
    qobject_unref(rsp);
}
