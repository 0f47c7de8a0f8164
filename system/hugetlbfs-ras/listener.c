/*
 * The listener thread: from a report to a verdict
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "ras.h"
#include "trace.h"

/* Touches of a page that seems healthy, until it counts as lost */
#define RAS_DOUBTS 100

static bool ras_lose(HugetlbfsRas *ras, void *host, size_t small, Error **errp)
{
    return (ras->fill && hugepage_fill_lose(ras->fill, host)) ||
           hugepage_split_lose(host, small, errp);
}

/*
 * A small page that the kernel still maps: is it bad all the same?  It may be
 * unable to take the page away, for instance from a transparent huge page that
 * it cannot split.
 *
 * An action-optional error names the bad page itself.  A touch does not: most
 * are old ones, by a thread that met the huge page before it was replaced.  But
 * each thread does so once, and a bad page is met again and again.
 */
static bool ras_believe(RasPage *page, uint64_t offset,
                        const SigbusReport *report)
{
    if (report->injected || !report->action_required) {
        return true;
    }
    offset = QEMU_ALIGN_DOWN(offset, page->backend->range.small);
    if (page->doubtful != offset) {
        page->doubtful = offset;
        page->doubts = 0;
    }
    return ++page->doubts >= RAS_DOUBTS;
}

/* An error in a range that is split already */
static void ras_second_error(HugetlbfsRas *ras, RasPage *page, uint64_t offset,
                             const SigbusReport *report)
{
    size_t small = page->backend->range.small;
    void *host = page->backend->host + QEMU_ALIGN_DOWN(offset, small);
    Error *err = NULL;
    bool lost;

    if (ras_page_is_lost(page, offset)) {
        return;
    }
    if (!report->injected && ras->fill &&
        hugepage_fill_is_missing(ras->fill, host)) {
        /* Will be found when it is brought. */
        lost = false;
    } else if (!report->injected && hugepage_split_is_lost(host, small)) {
        lost = true;
    } else {
        lost = ras_believe(page, offset, report);
        if (lost && !ras_lose(ras, host, small, &err)) {
            warn_reportf_err(err, "hugetlbfs-ras: a lost page can still be "
                             "read: ");
            return;
        }
    }
    trace_hugetlbfs_ras_second(host, lost);
    if (lost) {
        ras_page_set_lost(ras, page, offset);
    }
}

static SigbusVerdict ras_decide(HugetlbfsRas *ras, RasPage *page,
                                uint64_t offset, const SigbusReport *report)
{
    if (page->state == HUGETLBFS_RAS_STATE_REPORTED) {
        ras_recover(ras, page, report);
    } else if (ras_page_is_replaced(page)) {
        ras_second_error(ras, page, offset, report);
    }
    if (!ras_page_is_replaced(page)) {
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
