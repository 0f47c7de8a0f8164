/*
 * Back to huge pages: reset, and guest RAM that is discarded
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "block/block.h"
#include "exec/ramblock.h"
#include "system/hugetlbfs-ras.h"
#include "system/memory-failure.h"
#include "system/reset.h"
#include "ras.h"
#include "trace.h"

/* The lost pages become plain zeroed memory. */
static bool ras_zero_lost(RasPage *page, const HugepageRange *range,
                          Error **errp)
{
    size_t pages = range->size / range->small;
    size_t first = find_first_bit(page->lost, pages);

    while (first < pages) {
        size_t end = find_next_zero_bit(page->lost, pages, first);

        if (!hugepage_split_zero(range->host + first * range->small,
                                 (end - first) * range->small, errp)) {
            return false;
        }
        first = find_next_bit(page->lost, pages, end);
    }
    return true;
}

/*
 * Small pages stay: most often the pool has no free huge page, since the
 * poisoned one never returns to it.
 */
static void ras_keep_split(HugetlbfsRas *ras, RasPage *page, Error *why)
{
    RasBackend *backend = page->backend;
    HugepageRange range = ras_range(backend, page->offset);
    Error *err = NULL;

    warn_report("memory backend '%s' stays on small pages at offset 0x%"
                PRIx64 " after the reset: %s", backend->id, page->offset,
                error_get_pretty(why));
    g_free(page->reason);
    page->reason = g_strdup(error_get_pretty(why));
    page->announce = true;
    error_free(why);

    if (ras_zero_lost(page, &range, &err)) {
        ras_page_clear_lost(ras, page, page->offset, backend->page_size);
    } else {
        /* The guest meets the same lost pages again and is told again. */
        warn_reportf_err(err, "lost pages stay lost: ");
        bitmap_zero(page->told, backend->page_size / RAS_TOLD_SIZE);
    }
}

static void ras_reset_page(HugetlbfsRas *ras, RasPage *page)
{
    HugepageRange range = ras_range(page->backend, page->offset);
    Error *err = NULL;
    bool huge;

    if (!ras_page_is_replaced(page)) {
        /* QEMU remaps what its own list of poisoned pages holds. */
        ras_page_free(ras, page);
        return;
    }
    /* RAM keeps its content over a reset; firmware may run from it. */
    huge = hugepage_split_undo(&range, page->lost, &err);
    trace_hugetlbfs_ras_undo(page->backend->id, page->offset, huge);
    if (huge) {
        ras_page_free(ras, page);
    } else {
        ras_keep_split(ras, page, err);
    }
}

static bool ras_any_page(HugetlbfsRas *ras)
{
    RasBackend *backend;

    QEMU_LOCK_GUARD(&ras->lock);
    QTAILQ_FOREACH(backend, &ras->backends, next) {
        if (!QTAILQ_EMPTY(&backend->pages)) {
            return true;
        }
    }
    return false;
}

/*
 * Virtual CPUs are stopped.  Registered with the first backend, long before
 * the loaders of ROMs, so what they write goes to the new memory.
 */
static void ras_reset(void *opaque)
{
    HugetlbfsRas *ras = opaque;
    RasBackend *backend;
    RasPage *page, *next;

    memory_failure_reset();
    if (!ras_any_page(ras)) {
        return;
    }
    /*
     * This runs before the devices are reset.  A write to a disk that is under
     * way must not find zeros where the guest left data.
     */
    bdrv_drain_all_begin();
    WITH_QEMU_LOCK_GUARD(&ras->lock) {
        ras_stop_work(ras, NULL);
        QTAILQ_FOREACH(backend, &ras->backends, next) {
            QTAILQ_FOREACH_SAFE(page, &backend->pages, next, next) {
                ras_reset_page(ras, page);
            }
        }
    }
    bdrv_drain_all_end();
    timer_del(ras->timer);
    qemu_bh_schedule(ras->bh);
}

void ras_reset_init(HugetlbfsRas *ras)
{
    qemu_register_reset(ras_reset, ras);
}

/* Zeroes [start, start + length) of a backend, all of it in @page. */
static int ras_discard_split(HugetlbfsRas *ras, RasPage *page, uint64_t start,
                             uint64_t length)
{
    Error *err = NULL;
    void *host = page->backend->host + start;

    trace_hugetlbfs_ras_discard(host, length);
    if (!hugepage_split_zero(host, length, &err)) {
        error_report_err(err);
        return -EINVAL;
    }
    ras_page_clear_lost(ras, page, start, length);
    return 0;
}

/*
 * Discards the piece at @start that lies in one huge page; sets @length to
 * its size.  False if that huge page is not split.
 */
static bool ras_discard_piece(HugetlbfsRas *ras, RAMBlock *rb, uint64_t start,
                              uint64_t end, uint64_t *length, int *ret)
{
    RasBackend *backend;
    RasPage *page;

    QEMU_LOCK_GUARD(&ras->lock);
    *length = MIN(end, QEMU_ALIGN_DOWN(start, rb->page_size) + rb->page_size) -
              start;
    backend = ras_backend_at(ras, rb->host + start);
    page = backend ? ras_page_at(backend, start) : NULL;
    if (page && page->busy) {
        *ret = -EBUSY;
        return true;
    }
    if (!page || !ras_page_is_replaced(page)) {
        return false;
    }
    *ret = ras_discard_split(ras, page, start, *length);
    return true;
}

bool hugetlbfs_ras_discard(RAMBlock *rb, uint64_t start, size_t length,
                           int *ret)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    uint64_t end = start + length;
    uint64_t piece;

    if (likely(!qatomic_read(&ras->split_pages) &&
               !qatomic_read(&ras->busy)) || end < start ||
        end > rb->max_length ||
        !ras_range_is_split(ras, rb, start, length)) {
        return false;
    }
    for (*ret = 0; start < end && *ret == 0; start += piece) {
        if (!ras_discard_piece(ras, rb, start, end, &piece, ret)) {
            *ret = ram_block_discard_range(rb, start, piece);
        }
    }
    return true;
}
