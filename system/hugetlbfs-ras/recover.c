/*
 * The first error in a huge page: refuse it, or replace it by one of two ways
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "ras.h"
#include "trace.h"

/* The kernel names the exact small page only in its first signal: look. */
static bool ras_unreadable(const HugepageRange *range, size_t small_page)
{
    g_autofree void *buffer = g_malloc(range->small);
    ssize_t got;

    got = RETRY_ON_EINTR(pread(range->fd, buffer, range->small,
                               range->fd_offset + small_page * range->small));
    return got != range->small;
}

/* Which small pages are known to be lost before anything is copied. */
static unsigned long *ras_known_lost(const HugepageRange *range,
                                     const SigbusReport *report)
{
    unsigned long *known = bitmap_new(range->size / range->small);
    size_t page = (report->addr - range->host) / range->small;

    if (report->injected || ras_unreadable(range, page)) {
        set_bit(page, known);
    }
    return known;
}

/* Copy, then replace. */
static bool ras_split(HugetlbfsRas *ras, RasPage *page,
                      const HugepageRange *range, const unsigned long *known,
                      Error **errp)
{
    HugepageSplitResult result = { 0 };
    bool ok;

    qemu_mutex_unlock(&ras->lock);
    ok = hugepage_split(range, known, NULL, NULL, &result, errp);
    qemu_mutex_lock(&ras->lock);
    if (ok) {
        trace_hugetlbfs_ras_split(range->host, range->size, result.lost_pages,
                                  result.salvage_ns, result.commit_ns);
        ras_page_set_replaced(ras, page, g_steal_pointer(&result.lost));
        ras_page_set_split(ras, page);
    }
    return ok;
}

/*
 * Replace, then copy.  The ledger must hold what is known before a thread can
 * meet it.
 */
static bool ras_swap(HugetlbfsRas *ras, RasPage *page,
                     const HugepageRange *range, const unsigned long *known,
                     Error **errp)
{
    size_t bits = range->size / range->small;
    unsigned long *lost = bitmap_new(bits);
    bool ok;

    bitmap_copy(lost, known, bits);
    ras_page_set_replaced(ras, page, lost);
    /* It may be filled, and reset, before we look at it again. */
    ras_work_begin(ras, page);
    qemu_mutex_unlock(&ras->lock);
    ok = hugepage_fill_swap(ras->fill, range, known, page, errp);
    qemu_mutex_lock(&ras->lock);
    ras_work_end(ras, page);
    if (!ok) {
        ras_page_clear_replaced(ras, page);
    }
    return ok;
}

void ras_recover(HugetlbfsRas *ras, RasPage *page, const SigbusReport *report)
{
    HugepageRange range = ras_range(page->backend, page->offset);
    g_autofree unsigned long *known = NULL;
    char *refusal = ras_refusal(ras, page->backend);
    Error *err = NULL;

    if (refusal) {
        ras_page_set_state(page, HUGETLBFS_RAS_STATE_REFUSED, refusal);
        return;
    }
    ras_page_set_state(page, HUGETLBFS_RAS_STATE_SPLITTING, NULL);
    ras_work_begin(ras, page);
    known = ras_known_lost(&range, report);
    if (ras->fill && page->backend->mode != HUGETLBFS_RAS_MODE_EAGER) {
        if (ras_swap(ras, page, &range, known, &err)) {
            return;
        }
        warn_reportf_err(err, "hugetlbfs-ras: copying first instead: ");
        err = NULL;
    }
    if (!ras_split(ras, page, &range, known, &err)) {
        ras_page_set_state(page, HUGETLBFS_RAS_STATE_FAILED,
                           g_strdup(error_get_pretty(err)));
        error_free(err);
        ras_work_end(ras, page);
    }
}

/* One that is stuck, if any */
static RasPage *ras_busy_page(HugetlbfsRas *ras, RasBackend *only)
{
    RasPage *page, *busy = NULL;
    RasBackend *backend;

    QTAILQ_FOREACH(backend, &ras->backends, next) {
        if (only && backend != only) {
            continue;
        }
        QTAILQ_FOREACH(page, &backend->pages, next) {
            if (page->stuck) {
                return page;
            }
            if (page->busy) {
                busy = page;
            }
        }
    }
    return busy;
}

void ras_stop_work(HugetlbfsRas *ras, RasBackend *gone)
{
    RasPage *page;

    while ((page = ras_busy_page(ras, gone))) {
        unsigned finished = ras->finished;
        bool cancelled = false;

        if (ras->fill && ras_page_is_replaced(page) && (gone || page->stuck)) {
            qemu_mutex_unlock(&ras->lock);
            cancelled = hugepage_fill_cancel(ras->fill, page->backend->host +
                                             page->offset);
            qemu_mutex_lock(&ras->lock);
        }
        if (cancelled) {
            ras_page_set_split(ras, page);
        } else if (ras->finished == finished) {
            qemu_cond_wait(&ras->idle, &ras->lock);
        }
    }
}

/* In the filler's threads. */

static void ras_fill_lost(void *opaque, size_t small_page)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    RasPage *page = opaque;

    QEMU_LOCK_GUARD(&ras->lock);
    ras_page_set_lost(ras, page, page->offset +
                      small_page * page->backend->range.small);
}

static void ras_fill_filled(void *opaque, HugepageSplitResult *result)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    RasPage *page = opaque;

    WITH_QEMU_LOCK_GUARD(&ras->lock) {
        trace_hugetlbfs_ras_split(page->backend->host + page->offset,
                                  page->backend->page_size, page->lost_pages,
                                  result->salvage_ns, result->commit_ns);
        ras_page_set_split(ras, page);
    }
    hugepage_split_result_destroy(result);
    qemu_bh_schedule(ras->bh);
}

static void ras_fill_stuck(void *opaque, Error *err)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    RasPage *page = opaque;

    warn_report("hugetlbfs-ras: memory backend '%s' at offset 0x%" PRIx64
                ": %s; free some memory", page->backend->id, page->offset,
                error_get_pretty(err));
    QEMU_LOCK_GUARD(&ras->lock);
    g_free(page->reason);
    page->reason = g_strdup(error_get_pretty(err));
    page->stuck = true;
    ras->finished++;
    qemu_cond_broadcast(&ras->idle);
}

static const HugepageFillOps ras_fill_ops = {
    .lost = ras_fill_lost,
    .filled = ras_fill_filled,
    .stuck = ras_fill_stuck,
};

bool ras_fill_init(HugetlbfsRas *ras, HugetlbfsRasMode mode, Error **errp)
{
    HugepageFill *fill;
    Error *err = NULL;

    if (ras->fill || mode == HUGETLBFS_RAS_MODE_EAGER ||
        (ras->fill_tried && mode == HUGETLBFS_RAS_MODE_AUTO)) {
        return true;
    }
    fill = hugepage_fill_new(&ras_fill_ops, NULL, &err);
    WITH_QEMU_LOCK_GUARD(&ras->lock) {
        ras->fill = fill;
        ras->fill_tried = !fill;
    }
    if (fill) {
        return true;
    }
    if (mode == HUGETLBFS_RAS_MODE_LAZY) {
        error_propagate(errp, err);
        return false;
    }
    warn_report("hugetlbfs-ras: a virtual CPU that touches a poisoned huge "
                "page will wait until all of it is copied (%s); for less, give "
                "QEMU access to /dev/userfaultfd (libvirt: cgroup_device_acl "
                "in qemu.conf) or set vm.unprivileged_userfaultfd=1",
                error_get_pretty(err));
    error_free(err);
    return true;
}
