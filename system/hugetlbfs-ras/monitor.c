/*
 * What an operator sees and, for tests, does
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-hugetlbfs-ras.h"
#include "qemu/cutils.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "exec/address-spaces.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qobject/qdict.h"
#include "system/cpus.h"
#include "system/hugetlbfs-ras.h"
#include "system/runstate.h"
#include "ras.h"

static HugetlbfsRasLostRangeList *ras_lost_ranges(const RasPage *page)
{
    const RasBackend *backend = page->backend;
    size_t small = backend->range.small;
    size_t bits = backend->page_size / small;
    HugetlbfsRasLostRangeList *list = NULL, **tail = &list;
    size_t start, end;

    if (!page->lost) {
        return NULL;
    }
    for (start = find_first_bit(page->lost, bits); start < bits;
         start = find_next_bit(page->lost, bits, end)) {
        HugetlbfsRasLostRange *range = g_new0(HugetlbfsRasLostRange, 1);

        end = find_next_zero_bit(page->lost, bits, start);
        range->offset = page->offset + start * small;
        range->size = (end - start) * small;
        range->has_gpa = ras_gpa(backend, range->offset, &range->gpa);
        QAPI_LIST_APPEND(tail, range);
    }
    return list;
}

HugetlbfsRasPage *ras_page_info(RasPage *page)
{
    HugetlbfsRasPage *info = g_new0(HugetlbfsRasPage, 1);
    uint64_t at = page->offset;

    info->backend = g_strdup(page->backend->id);
    info->offset = page->offset;
    info->has_gpa = ras_gpa(page->backend, page->offset, &info->gpa);
    info->page_size = page->backend->page_size;
    info->state = page->state;
    info->reason = g_strdup(page->reason);
    info->lost = ras_lost_ranges(page);
    for (; ras_page_next_untold(page, &at); at += RAS_TOLD_SIZE) {
        info->untold++;
    }
    info->salvaged = page->salvaged;
    info->longest_stall = page->longest_stall;
    return info;
}

static HugetlbfsRasBackend *ras_backend_info(HugetlbfsRas *ras,
                                             RasBackend *backend)
{
    HugetlbfsRasBackend *info = g_new0(HugetlbfsRasBackend, 1);

    info->id = g_strdup(backend->id);
    info->reason = ras_refusal(ras, backend);
    info->eligible = !info->reason;
    info->page_size = backend->page_size;
    info->size = backend->size;
    return info;
}

HugetlbfsRasInfo *qmp_query_hugetlbfs_ras(Error **errp)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    HugetlbfsRasInfo *info = g_new0(HugetlbfsRasInfo, 1);
    HugetlbfsRasBackendList **backends = &info->backends;
    HugetlbfsRasPageList **pages = &info->pages;
    RasBackend *backend;
    RasPage *page;

    if (!ras->initialized) {
        return info;
    }
    info->reports = sigbus_intake_taken();
    info->dropped = sigbus_intake_dropped();

    QEMU_LOCK_GUARD(&ras->lock);
    QTAILQ_FOREACH(backend, &ras->backends, next) {
        QAPI_LIST_APPEND(backends, ras_backend_info(ras, backend));
        QTAILQ_FOREACH(page, &backend->pages, next) {
            QAPI_LIST_APPEND(pages, ras_page_info(page));
            info->salvaged += page->salvaged;
        }
    }
    info->lost_pages = ras->lost_pages;
    return info;
}

static void ras_hmp_page(Monitor *mon, const HugetlbfsRasPage *page)
{
    g_autofree char *size = size_to_str(page->page_size);

    monitor_printf(mon, "%s+0x%" PRIx64 " (%s): %s", page->backend,
                   page->offset, size, HugetlbfsRasState_str(page->state));
    if (page->reason) {
        monitor_printf(mon, ", %s", page->reason);
    }
    monitor_printf(mon, "; %" PRIu64 " bytes saved, %" PRIu64 " pages untold, "
                   "longest stall %" PRIu64 " us\n", page->salvaged,
                   page->untold, page->longest_stall / SCALE_US);
    for (HugetlbfsRasLostRangeList *l = page->lost; l; l = l->next) {
        monitor_printf(mon, "  lost: offset 0x%" PRIx64 " size 0x%" PRIx64,
                       l->value->offset, l->value->size);
        if (l->value->has_gpa) {
            monitor_printf(mon, " at guest address 0x%" PRIx64, l->value->gpa);
        }
        monitor_printf(mon, "\n");
    }
}

void hmp_info_hugetlbfs_ras(Monitor *mon, const QDict *qdict)
{
    g_autoptr(HugetlbfsRasInfo) info = qmp_query_hugetlbfs_ras(NULL);

    for (HugetlbfsRasBackendList *l = info->backends; l; l = l->next) {
        g_autofree char *size = size_to_str(l->value->page_size);

        monitor_printf(mon, "%s: %s pages, %s\n", l->value->id, size,
                       l->value->reason ?: "recovery possible");
    }
    for (HugetlbfsRasPageList *l = info->pages; l; l = l->next) {
        ras_hmp_page(mon, l->value);
    }
    monitor_printf(mon, "lost pages: %" PRIu64 ", saved: %" PRIu64 " bytes, "
                   "signals: %" PRIu64 " (%" PRIu64 " dropped)\n",
                   info->lost_pages, info->salvaged, info->reports,
                   info->dropped);
}

/* The host address behind each of @addresses; NULL with @errp set. */
static GPtrArray *ras_inject_hosts(HugetlbfsRas *ras, uint64List *addresses,
                                   Error **errp)
{
    g_autoptr(GPtrArray) hosts = g_ptr_array_new();

    for (; addresses; addresses = addresses->next) {
        void *host = ras_gpa_to_host(addresses->value);

        QEMU_LOCK_GUARD(&ras->lock);
        if (!host || !ras_backend_at(ras, host)) {
            error_setg(errp, "guest address 0x%" PRIx64 " is not in memory on "
                       "huge pages with recovery", addresses->value);
            error_append_hint(errp, "query-hugetlbfs-ras lists the memory "
                              "backends.\n");
            return NULL;
        }
        g_ptr_array_add(hosts, host);
    }
    if (hosts->len > SIGBUS_RING_SIZE / 2) {
        error_setg(errp, "at most %d addresses can be injected at once",
                   SIGBUS_RING_SIZE / 2);
        return NULL;
    }
    return g_steal_pointer(&hosts);
}

static void ras_inject_touch_on_cpu(void *host);

/* In the thread of a virtual CPU, as if it had left the guest at the page */
static void ras_inject_touch(CPUState *cpu, run_on_cpu_data data)
{
    MemoryFailureResult result;

    bql_unlock();
    result = ras_touch(cpu, data.host_ptr);
    if (result == MEMORY_FAILURE_LATER) {
        /* The first time could be an asynchronous page fault. */
        result = ras_touch(cpu, data.host_ptr);
    }
    bql_lock();
    if (result == MEMORY_FAILURE_BUSY) {
        /* It would not get past the page; but it must be able to stop. */
        aio_bh_schedule_oneshot(qemu_get_aio_context(),
                                ras_inject_touch_on_cpu, data.host_ptr);
    }
}

static void ras_inject_touch_on_cpu(void *host)
{
    async_run_on_cpu(first_cpu, ras_inject_touch, RUN_ON_CPU_HOST_PTR(host));
}

void qmp_x_hugetlbfs_ras_inject(uint64List *addresses, bool action_required,
                                Error **errp)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    g_autoptr(GPtrArray) hosts = NULL;
    SigbusReport last;

    if (!ras->started) {
        error_setg(errp, "there is no memory on huge pages with recovery");
        return;
    }
    hosts = ras_inject_hosts(ras, addresses, errp);
    if (!hosts || !hosts->len) {
        return;
    }

    /*
     * The kernel unmaps a page that it poisons.  This one stays in use, so
     * the guest must stand still lest it writes what was copied already.
     */
    pause_all_vcpus();
    for (int i = 0; i < hosts->len; i++) {
        last = (SigbusReport) {
            .addr = g_ptr_array_index(hosts, i),
            .action_required = action_required,
            .injected = true,
        };
        if (i + 1 < hosts->len) {
            sigbus_intake_post(&last);
        }
    }
    sigbus_intake_ask(&last);
    WITH_QEMU_LOCK_GUARD(&ras->lock) {
        ras_wait_idle(ras);
    }
    if (runstate_is_running()) {
        resume_all_vcpus();
    }

    for (int i = 0; action_required && i < hosts->len; i++) {
        ras_inject_touch_on_cpu(g_ptr_array_index(hosts, i));
    }
}
