/*
 * The memory backends that can be recovered
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qapi/qapi-visit-common.h"
#include "qemu/error-report.h"
#include "exec/ramblock.h"
#include "hw/boards.h"
#include "system/hugetlbfs-ras.h"
#include "system/qtest.h"
#include "system/runstate.h"
#include "system/system.h"
#include "ras.h"
#include "trace.h"

HugetlbfsRas hugetlbfs_ras = {
    .backends = QTAILQ_HEAD_INITIALIZER(hugetlbfs_ras.backends),
    .stock = G_QUEUE_INIT,
};

static void ras_get_property(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    OnOffAuto value = MEMORY_BACKEND(obj)->hugetlbfs_ras;

    visit_type_OnOffAuto(v, name, &value, errp);
}

static void ras_set_property(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(obj);

    if (host_memory_backend_mr_inited(backend)) {
        error_setg(errp, "cannot change property '%s' of %s", name,
                   object_get_typename(obj));
        return;
    }
    visit_type_OnOffAuto(v, name, &backend->hugetlbfs_ras, errp);
}

static int ras_get_mode(Object *obj, Error **errp)
{
    return MEMORY_BACKEND(obj)->hugetlbfs_ras_mode;
}

static void ras_set_mode(Object *obj, int mode, Error **errp)
{
    MEMORY_BACKEND(obj)->hugetlbfs_ras_mode = mode;
}

void hugetlbfs_ras_add_property(ObjectClass *oc)
{
    object_class_property_add_enum(oc, "x-hugetlbfs-ras-mode",
                                   "HugetlbfsRasMode",
                                   &HugetlbfsRasMode_lookup,
                                   ras_get_mode, ras_set_mode);
    object_class_property_add(oc, "hugetlbfs-ras", "OnOffAuto",
                              ras_get_property, ras_set_property, NULL, NULL);
    object_class_property_set_description(oc, "hugetlbfs-ras",
        "Lose only the unreadable 4 KiB of a huge page with a memory failure");
}

char *ras_unfit(RAMBlock *rb)
{
    Error *err = NULL;
    char *reason;

    if (qemu_ram_get_fd(rb) < 0) {
        return g_strdup("the memory has no file to read it from");
    }
    if (rb->guest_memfd >= 0) {
        return g_strdup("the guest's private memory is a guest_memfd");
    }
    if (!qemu_ram_is_shared(rb)) {
        /* read() would return the file, not what the guest wrote. */
        return g_strdup("the mapping is private (share=off), so the file "
                        "does not hold what the guest wrote");
    }
    if (rb->flags & (RAM_READONLY | RAM_READONLY_FD)) {
        return g_strdup("the memory is read-only");
    }
    if (!hugepage_split_supported(&err)) {
        reason = g_strdup(error_get_pretty(err));
        error_free(err);
        return reason;
    }
    return NULL;
}

static void ras_init_settings(RasBackend *b, HostMemoryBackend *backend)
{
    HugepageSettings *settings = &b->range.settings;
    unsigned long last = find_last_bit(backend->host_nodes, MAX_NODES);

    settings->locked = should_mlock(mlock_state);
    /* As ram_block_add() does. */
    settings->nofork = !qtest_enabled();
    settings->numa_mode = backend->policy;
    bitmap_copy(b->numa_nodes, backend->host_nodes, MAX_NODES + 1);
    settings->numa_nodes = b->numa_nodes;
    /* One more than the bits used, as host_memory_backend_memory_complete() */
    settings->numa_maxnode = last == MAX_NODES ? 0 : last + 2;
}

static RasBackend *ras_backend_new(HostMemoryBackend *backend)
{
    RasBackend *b = g_new0(RasBackend, 1);
    RAMBlock *rb = backend->mr.ram_block;

    b->id = host_memory_backend_get_name(backend);
    b->hostmem = backend;
    b->mr = &backend->mr;
    b->rb = rb;
    b->host = qemu_ram_get_host_addr(rb);
    b->size = memory_region_size(&backend->mr);
    b->page_size = qemu_ram_pagesize(rb);
    b->required = backend->hugetlbfs_ras == ON_OFF_AUTO_ON;
    b->mode = backend->hugetlbfs_ras_mode;
    b->unfit = ras_unfit(rb);
    b->range = (HugepageRange) {
        .size = b->page_size,
        .small = qemu_real_host_page_size(),
        .fd = qemu_ram_get_fd(rb),
        .fd_offset = rb->fd_offset,
    };
    ras_init_settings(b, backend);
    QTAILQ_INIT(&b->pages);
    return b;
}

static void ras_backend_free(RasBackend *b)
{
    g_free(b->id);
    g_free(b->unfit);
    g_free(b);
}

/* The RAM block goes away; BQL. */
static void ras_block_removed(RAMBlockNotifier *n, void *host, size_t size,
                              size_t max_size)
{
    HugetlbfsRas *ras = container_of(n, HugetlbfsRas, notifier);
    RasPage *page, *next;
    RasBackend *b;

    QEMU_LOCK_GUARD(&ras->lock);
    b = ras_backend_at(ras, host);
    if (!b) {
        return;
    }
    ras_stop_work(ras, b);
    QTAILQ_FOREACH_SAFE(page, &b->pages, next, next) {
        ras_page_free(ras, page);
    }
    QTAILQ_REMOVE(&ras->backends, b, next);
    ras_backend_free(b);
}

/* Devices that pin or share guest RAM exist now. */
static void ras_machine_done(Notifier *n, void *opaque)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    RasBackend *b;

    QTAILQ_FOREACH(b, &ras->backends, next) {
        g_autofree char *reason = NULL;

        if (!b->required || runstate_check(RUN_STATE_INMIGRATE)) {
            continue;
        }
        reason = ras_refusal(ras, b);
        if (reason) {
            error_report("hugetlbfs-ras=on is not possible for memory backend "
                         "'%s': %s", b->id, reason);
            error_printf("Use hugetlbfs-ras=auto to run without recovery.\n");
            exit(1);
        }
    }
}

static void ras_init(HugetlbfsRas *ras)
{
    if (!ras->initialized) {
        qemu_mutex_init(&ras->lock);
        qemu_cond_init(&ras->idle);
        ras->notifier.ram_block_removed = ras_block_removed;
        ram_block_notifier_add(&ras->notifier);
        ras->initialized = true;
    }
}

static bool ras_start(HugetlbfsRas *ras, HugetlbfsRasMode mode, Error **errp)
{
    static Notifier machine_done = { .notify = ras_machine_done };

    if (!ras_fill_init(ras, mode, errp)) {
        return false;
    }
    if (ras->started) {
        return true;
    }
    if (!sigbus_intake_start(errp)) {
        return false;
    }
    ras_delivery_init(ras);
    ras_reset_init(ras);
    ras_listener_start(ras);
    ras_watch_devices();
    ras->started = true;
    qemu_add_machine_init_done_notifier(&machine_done);
    return true;
}

/* Has no huge pages, or never can be recovered: an error only if required. */
static bool ras_register_unfit(const RasBackend *b, Error **errp)
{
    if (b->required) {
        error_setg(errp, "hugetlbfs-ras=on is not possible for memory "
                   "backend '%s': %s", b->id, b->unfit);
        error_append_hint(errp, "Use hugetlbfs-ras=auto to run without "
                          "recovery.\n");
        return false;
    }
    warn_report("memory backend '%s': a memory failure will cost the guest a "
                "whole huge page: %s", b->id, b->unfit);
    return true;
}

bool hugetlbfs_ras_register(HostMemoryBackend *backend, Error **errp)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    RAMBlock *rb = backend->mr.ram_block;
    RasBackend *b;

    if (backend->hugetlbfs_ras == ON_OFF_AUTO_OFF) {
        return true;
    }
    if (qemu_ram_pagesize(rb) <= qemu_real_host_page_size()) {
        if (backend->hugetlbfs_ras == ON_OFF_AUTO_ON) {
            error_setg(errp, "hugetlbfs-ras=on needs memory on huge pages");
            error_append_hint(errp, "Use a mem-path on hugetlbfs, or "
                              "hugetlb=on.\n");
            return false;
        }
        return true;
    }

    ras_init(ras);
    b = ras_backend_new(backend);
    trace_hugetlbfs_ras_register(b->id, b->page_size, b->unfit ?: "no");
    if (!(b->unfit ? ras_register_unfit(b, errp)
                   : ras_start(ras, b->mode, errp))) {
        ras_backend_free(b);
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&ras->lock) {
        QTAILQ_INSERT_TAIL(&ras->backends, b, next);
    }
    return true;
}

bool hugetlbfs_ras_share_backend(HostMemoryBackend *backend, Error **errp)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    RasPage *page;
    RasBackend *b;

    if (!ras->initialized) {
        return true;
    }
    QEMU_LOCK_GUARD(&ras->lock);
    ras_wait_idle(ras);
    b = ras_backend_at(ras, memory_region_get_ram_ptr(&backend->mr));
    if (!b) {
        return true;
    }
    QTAILQ_FOREACH(page, &b->pages, next) {
        if (page->state == HUGETLBFS_RAS_STATE_SPLIT) {
            error_setg(errp, "memory backend '%s' has a memory failure and "
                       "does not reach its file any more", b->id);
            return false;
        }
    }
    qatomic_set(&b->shared, true);
    return true;
}

bool hugetlbfs_ras_peer_add(Error **errp)
{
    qatomic_inc(&hugetlbfs_ras.peers);
    return hugetlbfs_ras_peer_allowed(errp);
}

bool hugetlbfs_ras_peer_allowed(Error **errp)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;

    if (!ras->initialized) {
        return true;
    }
    QEMU_LOCK_GUARD(&ras->lock);
    ras_wait_idle(ras);
    if (ras->split_pages) {
        error_setg(errp, "guest RAM has a memory failure and does not reach "
                   "its file any more, so another process cannot map it");
        error_append_hint(errp, "Reset the VM to get the huge pages back.\n");
        return false;
    }
    return true;
}

void hugetlbfs_ras_peer_del(void)
{
    qatomic_dec(&hugetlbfs_ras.peers);
}
