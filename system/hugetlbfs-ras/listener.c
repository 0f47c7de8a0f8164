/*
 * The listener thread: from a report to a verdict
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "ras.h"
#include "trace.h"

/*
 * Replaces the huge page.  The lock is dropped meanwhile; the page cannot go
 * away, because who wants to remove it waits until the engine is done.
 */
static void ras_split(HugetlbfsRas *ras, RasPage *page,
                      const SigbusReport *report)
{
    HugepageRange range = ras_range(page->backend, page->offset);
    size_t bits = range.size / range.small;
    g_autofree unsigned long *known = NULL;
    HugepageSplitResult result = { 0 };
    Error *err = NULL;
    bool ok;

    if (report->injected) {
        known = bitmap_new(bits);
        set_bit((report->addr - range.host) / range.small, known);
    }

    ras_page_set_state(page, HUGETLBFS_RAS_STATE_SPLITTING, NULL);
    ras->busy = page;
    qemu_mutex_unlock(&ras->lock);
    ok = hugepage_split(&range, known, NULL, NULL, &result, &err);
    qemu_mutex_lock(&ras->lock);
    ras->busy = NULL;
    qemu_cond_broadcast(&ras->idle);

    if (!ok) {
        ras_page_set_state(page, HUGETLBFS_RAS_STATE_FAILED,
                           g_strdup(error_get_pretty(err)));
        error_free(err);
        return;
    }
    trace_hugetlbfs_ras_split(range.host, range.size, result.lost_pages,
                              result.salvage_ns, result.commit_ns);
    ras_page_set_split(ras, page, &result);
    hugepage_split_result_destroy(&result);
}

static void ras_first_error(HugetlbfsRas *ras, RasPage *page,
                            const SigbusReport *report)
{
    char *refusal = ras_refusal(ras, page->backend);

    if (refusal) {
        ras_page_set_state(page, HUGETLBFS_RAS_STATE_REFUSED, refusal);
    } else {
        ras_split(ras, page, report);
    }
}

/*
 * An error in a range that is split already.  Many are old ones, raised by a
 * thread that touched the huge page before it was replaced, so the kernel is
 * asked what the page is now.
 */
static void ras_second_error(HugetlbfsRas *ras, RasPage *page, uint64_t offset,
                             const SigbusReport *report)
{
    size_t small = page->backend->range.small;
    void *host = page->backend->host + QEMU_ALIGN_DOWN(offset, small);
    Error *err = NULL;

    if (ras_page_is_lost(page, offset)) {
        return;
    }
    if (report->injected && !hugepage_split_lose(host, small, &err)) {
        warn_reportf_err(err, "hugetlbfs-ras: cannot inject: ");
        return;
    }
    if (hugepage_split_is_lost(host, small)) {
        ras_page_set_lost(ras, page, offset);
        trace_hugetlbfs_ras_second(host, true);
    } else {
        trace_hugetlbfs_ras_second(host, false);
    }
}

static SigbusVerdict ras_decide(HugetlbfsRas *ras, RasPage *page,
                                uint64_t offset, const SigbusReport *report)
{
    switch (page->state) {
    case HUGETLBFS_RAS_STATE_REPORTED:
        ras_first_error(ras, page, report);
        break;
    case HUGETLBFS_RAS_STATE_SPLIT:
        ras_second_error(ras, page, offset, report);
        break;
    default:
        break;
    }
    if (page->state != HUGETLBFS_RAS_STATE_SPLIT) {
        return SIGBUS_VERDICT_STOCK;
    }
    return ras_page_is_lost(page, offset) ? SIGBUS_VERDICT_LOST
                                          : SIGBUS_VERDICT_RETRY;
}

static SigbusVerdict ras_handle(HugetlbfsRas *ras, const SigbusReport *report)
{
    SigbusVerdict verdict = SIGBUS_VERDICT_STOCK;
    RasPage *page = NULL;
    RasBackend *backend;

    QEMU_LOCK_GUARD(&ras->lock);
    backend = ras_backend_at(ras, report->addr);
    if (backend) {
        uint64_t offset = (uint8_t *)report->addr - backend->host;

        page = ras_page_get(backend, offset);
        verdict = ras_decide(ras, page, offset, report);
    }

    if (report->since) {
        int64_t stall = get_clock() - report->since;

        trace_hugetlbfs_ras_verdict(report->addr, verdict, stall);
        if (page) {
            page->longest_stall = MAX(page->longest_stall, stall);
        }
    }
    if (verdict == SIGBUS_VERDICT_STOCK && !report->action_required &&
        !report->injected) {
        g_queue_push_tail(&ras->stock, report->addr);
    }
    qemu_bh_schedule(ras->bh);
    return verdict;
}

static void *ras_listen(void *opaque)
{
    HugetlbfsRas *ras = opaque;
    SigbusReport report;

    rcu_register_thread();
    for (;;) {
        SigbusVerdict verdict;

        sigbus_intake_next(&report);
        trace_hugetlbfs_ras_report(report.addr, report.lsb,
                                   report.action_required, report.injected);
        verdict = ras_handle(ras, &report);
        sigbus_intake_answer(&report, verdict);
    }
    return NULL;
}

void ras_listener_start(HugetlbfsRas *ras)
{
    qemu_thread_create(&ras->thread, "hugetlbfs-ras", ras_listen, ras,
                       QEMU_THREAD_DETACHED);
}
