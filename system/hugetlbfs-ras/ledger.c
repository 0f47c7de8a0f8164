/*
 * The ledger: which huge page is in which state, and what of it is lost
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/rcu.h"
#include "exec/address-spaces.h"
#include "ras.h"
#include "trace.h"

/*
 * A page that was refused or has failed stays so: the kernel will not give
 * it back before a reset, which removes the page from the ledger.
 */
static const struct {
    HugetlbfsRasState from;
    HugetlbfsRasState to;
} ras_transitions[] = {
    { HUGETLBFS_RAS_STATE_REPORTED, HUGETLBFS_RAS_STATE_SPLITTING },
    { HUGETLBFS_RAS_STATE_REPORTED, HUGETLBFS_RAS_STATE_REFUSED },
    { HUGETLBFS_RAS_STATE_SPLITTING, HUGETLBFS_RAS_STATE_SPLIT },
    { HUGETLBFS_RAS_STATE_SPLITTING, HUGETLBFS_RAS_STATE_FAILED },
};

bool hugetlbfs_ras_transition_valid(HugetlbfsRasState from,
                                    HugetlbfsRasState to)
{
    for (int i = 0; i < ARRAY_SIZE(ras_transitions); i++) {
        if (ras_transitions[i].from == from && ras_transitions[i].to == to) {
            return true;
        }
    }
    return false;
}

RasBackend *ras_backend_at(HugetlbfsRas *ras, const void *host)
{
    RasBackend *backend;

    QTAILQ_FOREACH(backend, &ras->backends, next) {
        if ((const uint8_t *)host - backend->host < backend->size) {
            return backend;
        }
    }
    return NULL;
}

RasPage *ras_page_at(RasBackend *backend, uint64_t offset)
{
    RasPage *page;

    QTAILQ_FOREACH(page, &backend->pages, next) {
        if (offset - page->offset < backend->page_size) {
            return page;
        }
    }
    return NULL;
}

RasPage *ras_page_get(RasBackend *backend, uint64_t offset)
{
    RasPage *page = ras_page_at(backend, offset);
    RasPage *after;

    if (page) {
        return page;
    }
    page = g_new0(RasPage, 1);
    page->backend = backend;
    page->offset = QEMU_ALIGN_DOWN(offset, backend->page_size);
    page->state = HUGETLBFS_RAS_STATE_REPORTED;
    QTAILQ_FOREACH(after, &backend->pages, next) {
        if (after->offset > page->offset) {
            QTAILQ_INSERT_BEFORE(after, page, next);
            return page;
        }
    }
    QTAILQ_INSERT_TAIL(&backend->pages, page, next);
    return page;
}

void ras_page_set_state(RasPage *page, HugetlbfsRasState state, char *reason)
{
    assert(hugetlbfs_ras_transition_valid(page->state, state));
    trace_hugetlbfs_ras_state(page->backend->id, page->offset,
                              HugetlbfsRasState_str(page->state),
                              HugetlbfsRasState_str(state));
    page->state = state;
    g_free(page->reason);
    page->reason = reason;
    page->announce |= state != HUGETLBFS_RAS_STATE_SPLITTING;
}

static size_t ras_small(const RasPage *page)
{
    return page->backend->range.small;
}

static size_t ras_told_bits(const RasPage *page)
{
    return page->backend->page_size / RAS_TOLD_SIZE;
}

bool ras_page_is_replaced(const RasPage *page)
{
    return page->lost;
}

void ras_page_set_replaced(HugetlbfsRas *ras, RasPage *page,
                           unsigned long *lost)
{
    page->lost = lost;
    page->lost_pages = bitmap_count_one(lost, page->backend->page_size /
                                        ras_small(page));
    page->told = bitmap_new(ras_told_bits(page));
    qatomic_set(&ras->split_pages, ras->split_pages + 1);
    qatomic_set(&ras->lost_pages, ras->lost_pages + page->lost_pages);
}

void ras_page_clear_replaced(HugetlbfsRas *ras, RasPage *page)
{
    qatomic_set(&ras->split_pages, ras->split_pages - 1);
    qatomic_set(&ras->lost_pages, ras->lost_pages - page->lost_pages);
    g_clear_pointer(&page->lost, g_free);
    g_clear_pointer(&page->told, g_free);
    page->lost_pages = 0;
}

void ras_work_begin(HugetlbfsRas *ras, RasPage *page)
{
    page->busy++;
    qatomic_set(&ras->generation, ras->generation + 1);
    qatomic_set(&ras->last_work, get_clock());
    qatomic_set(&ras->busy, ras->busy + 1);
}

void ras_work_end(HugetlbfsRas *ras, RasPage *page)
{
    page->busy--;
    qatomic_set(&ras->last_work, get_clock());
    qatomic_set(&ras->busy, ras->busy - 1);
    ras->finished++;
    qemu_cond_broadcast(&ras->idle);
}

void ras_page_set_split(HugetlbfsRas *ras, RasPage *page)
{
    ras_page_set_state(page, HUGETLBFS_RAS_STATE_SPLIT, NULL);
    page->stuck = false;
    page->salvaged = page->backend->page_size -
                     page->lost_pages * ras_small(page);
    if (!page->salvaged) {
        /*
         * Thousands of notices would do the guest more harm than to learn of
         * each page when it is touched.
         */
        bitmap_fill(page->told, ras_told_bits(page));
    }
    ras_work_end(ras, page);
}

bool ras_page_is_lost(const RasPage *page, uint64_t offset)
{
    return page->lost &&
           test_bit((offset - page->offset) / ras_small(page), page->lost);
}

void ras_page_set_lost(HugetlbfsRas *ras, RasPage *page, uint64_t offset)
{
    if (!ras_page_is_lost(page, offset)) {
        set_bit((offset - page->offset) / ras_small(page), page->lost);
        page->lost_pages++;
        if (page->state == HUGETLBFS_RAS_STATE_SPLIT) {
            page->salvaged -= MIN(page->salvaged, ras_small(page));
            page->announce = true;
        }
        qatomic_set(&ras->lost_pages, ras->lost_pages + 1);
    }
}

void ras_page_clear_lost(HugetlbfsRas *ras, RasPage *page, uint64_t start,
                         uint64_t length)
{
    size_t small = ras_small(page);
    size_t first = (start - page->offset) / small;

    for (size_t i = first; i < first + length / small; i++) {
        if (test_and_clear_bit(i, page->lost)) {
            page->lost_pages--;
            qatomic_set(&ras->lost_pages, ras->lost_pages - 1);
        }
    }
    bitmap_clear(page->told, first * small / RAS_TOLD_SIZE,
                 length / RAS_TOLD_SIZE);
}

bool ras_page_next_untold(const RasPage *page, uint64_t *offset)
{
    size_t bit = (*offset - page->offset) / RAS_TOLD_SIZE;

    if (!page->told) {
        return false;
    }
    for (; bit < ras_told_bits(page); bit++) {
        uint64_t at = page->offset + bit * RAS_TOLD_SIZE;

        if (ras_page_is_lost(page, at) && !test_bit(bit, page->told)) {
            *offset = at;
            return true;
        }
    }
    return false;
}

void ras_page_set_told(RasPage *page, uint64_t offset, bool told)
{
    size_t bit = (offset - page->offset) / RAS_TOLD_SIZE;

    if (told) {
        set_bit(bit, page->told);
    } else {
        clear_bit(bit, page->told);
    }
}

void ras_page_free(HugetlbfsRas *ras, RasPage *page)
{
    if (ras_page_is_replaced(page)) {
        ras_page_clear_replaced(ras, page);
    }
    QTAILQ_REMOVE(&page->backend->pages, page, next);
    g_free(page->reason);
    g_free(page);
}

void ras_wait_idle(HugetlbfsRas *ras)
{
    while (ras->busy) {
        qemu_cond_wait(&ras->idle, &ras->lock);
    }
}

typedef struct RasFindGpa {
    const MemoryRegion *mr;
    uint64_t offset;
    hwaddr gpa;
    bool found;
} RasFindGpa;

static bool ras_find_gpa(Int128 start, Int128 len, const MemoryRegion *mr,
                         hwaddr offset_in_region, void *opaque)
{
    RasFindGpa *find = opaque;

    if (mr != find->mr ||
        find->offset - offset_in_region >= int128_get64(len)) {
        return false;
    }
    find->gpa = int128_get64(start) + (find->offset - offset_in_region);
    find->found = true;
    return true;
}

bool ras_gpa(const RasBackend *backend, uint64_t offset, hwaddr *gpa)
{
    RasFindGpa find = { .mr = backend->mr, .offset = offset };

    RCU_READ_LOCK_GUARD();
    flatview_for_each_range(address_space_to_flatview(&address_space_memory),
                            ras_find_gpa, &find);
    *gpa = find.gpa;
    return find.found;
}

HugepageRange ras_range(const RasBackend *backend, uint64_t offset)
{
    HugepageRange range = backend->range;

    offset = QEMU_ALIGN_DOWN(offset, backend->page_size);
    range.host = backend->host + offset;
    range.fd_offset += offset;
    /* These two can be set while the VM runs. */
    range.settings.mergeable = backend->hostmem->merge;
    range.settings.nodump = !backend->hostmem->dump;
    return range;
}
