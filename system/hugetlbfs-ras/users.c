/*
 * What the rest of QEMU asks before it reads or hands over guest RAM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/rcu.h"
#include "qemu/units.h"
#include "exec/ramblock.h"
#include "migration/migration.h"
#include "migration/misc.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "system/hugetlbfs-ras.h"
#include "ras.h"

#define RAS_READABLE_MAX (64 * KiB)

size_t hugetlbfs_ras_lost_pages(void)
{
    return qatomic_read(&hugetlbfs_ras.lost_pages);
}

/*
 * Lock held.  Is any byte of [host, host + length) lost?  While a page is being
 * copied nobody knows.
 */
static bool ras_any_lost(HugetlbfsRas *ras, uint8_t *host, size_t length)
{
    RasBackend *backend;
    uint64_t start, at;

    ras_wait_idle(ras);
    backend = ras_backend_at(ras, host);
    if (!backend) {
        return false;
    }
    start = host - backend->host;
    at = QEMU_ALIGN_DOWN(start, backend->range.small);
    for (; at < start + length; at += backend->range.small) {
        RasPage *page = ras_page_at(backend, at);

        if (page && ras_page_is_lost(page, at)) {
            return true;
        }
    }
    return false;
}

/* Lock held. */
static RasPage *ras_split_page_at(HugetlbfsRas *ras, uint8_t *host)
{
    RasBackend *backend = ras_backend_at(ras, host);
    RasPage *page;

    if (!backend) {
        return NULL;
    }
    page = ras_page_at(backend, host - backend->host);
    return page && ras_page_is_replaced(page) ? page : NULL;
}

size_t hugetlbfs_ras_pagesize(RAMBlock *rb, ram_addr_t offset)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;

    if (likely(!qatomic_read(&ras->split_pages))) {
        return rb->page_size;
    }
    QEMU_LOCK_GUARD(&ras->lock);
    return ras_split_page_at(ras, rb->host + offset)
        ? qemu_real_host_page_size() : rb->page_size;
}

bool ras_range_is_split(HugetlbfsRas *ras, RAMBlock *rb, uint64_t start,
                        uint64_t length)
{
    uint64_t at = QEMU_ALIGN_DOWN(start, rb->page_size);

    QEMU_LOCK_GUARD(&ras->lock);
    for (; at < start + length; at += rb->page_size) {
        RasBackend *backend = ras_backend_at(ras, rb->host + at);
        RasPage *page = backend ? ras_page_at(backend, at) : NULL;

        if (page && (page->busy || ras_page_is_replaced(page))) {
            return true;
        }
    }
    return false;
}

static bool ras_file_is_handed_over(void)
{
    return migrate_ignore_shared() ||
           migrate_mode() == MIG_MODE_CPR_REBOOT ||
           migrate_mode() == MIG_MODE_CPR_TRANSFER;
}

bool hugetlbfs_ras_migratable(Error **errp)
{
    if (qatomic_read(&hugetlbfs_ras.split_pages) &&
        ras_file_is_handed_over()) {
        error_setg(errp, "guest RAM has a memory failure and does not reach "
                   "its file any more, so it cannot be handed over by it");
        error_append_hint(errp, "Migrate without x-ignore-shared and CPR, or "
                          "reset the VM first.\n");
        return false;
    }
    return true;
}

/* Fails the outgoing migration; the first error given wins. */
static void ras_migration_error(const char *text)
{
    MigrationState *s = migrate_get_current();
    Error *err = NULL;

    WITH_QEMU_LOCK_GUARD(&s->qemu_file_lock) {
        if (s->to_dst_file) {
            error_setg(&err, "%s", text);
            qemu_file_set_error_obj(s->to_dst_file, -EIO, err);
        }
    }
}

int hugetlbfs_ras_check_save(RAMBlock *rb, ram_addr_t offset, size_t length)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;

    if (likely(!qatomic_read(&ras->split_pages))) {
        return 0;
    }
    WITH_QEMU_LOCK_GUARD(&ras->lock) {
        if (!ras_any_lost(ras, rb->host + offset, length)) {
            return 0;
        }
    }
    ras_migration_error("a page of guest RAM was lost to a memory failure "
                        "before it could be sent");
    return -EIO;
}

void ras_fail_migration(void)
{
    if (migration_is_running()) {
        ras_migration_error("a memory failure hit guest RAM during the "
                            "migration; the VM goes on here");
    }
}

void *hugetlbfs_ras_readable(void *host, size_t length)
{
    static uint8_t copy[RAS_READABLE_MAX];
    HugetlbfsRas *ras = &hugetlbfs_ras;
    size_t small = qemu_real_host_page_size();

    if (likely(!qatomic_read(&ras->split_pages))) {
        return host;
    }
    assert(length <= sizeof(copy));
    QEMU_LOCK_GUARD(&ras->lock);
    if (!ras_any_lost(ras, host, length)) {
        return host;
    }
    for (size_t done = 0, n; done < length; done += n) {
        uint8_t *from = (uint8_t *)host + done;

        n = MIN(length - done, small - ((uintptr_t)from & (small - 1)));
        if (ras_any_lost(ras, from, n)) {
            memset(copy + done, 0, n);
        } else {
            memcpy(copy + done, from, n);
        }
    }
    return copy;
}

void hugetlbfs_ras_warn_dump(void)
{
    size_t lost = hugetlbfs_ras_lost_pages();

    if (lost) {
        warn_report("dump-guest-memory: %zu lost pages of guest RAM are "
                    "written as zeros; query-hugetlbfs-ras lists them", lost);
    }
}
