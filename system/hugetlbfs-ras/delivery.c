/*
 * Telling the guest, the operator and a running migration
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "exec/address-spaces.h"
#include "qapi/qapi-events-hugetlbfs-ras.h"
#include "system/hugetlbfs-ras.h"
#include "system/kvm.h"
#include "system/memory-failure.h"
#include "system/runstate.h"
#include "ras.h"
#include "trace.h"

/*
 * Time for a virtual CPU that touched a page to be told of it first, since a
 * guest that is told twice blames the page twice; and then between two
 * attempts: the guest acknowledges in milliseconds, or after minutes (AMD
 * guests poll).
 */
#define RAS_OPTIONAL_FIRST_MS 500
#define RAS_OPTIONAL_MIN_MS 10
#define RAS_OPTIONAL_MAX_MS 1000

/* How long an MMIO exit is held back for a guest that does not acknowledge. */
#define RAS_MMIO_HOLD_NS (5 * NANOSECONDS_PER_SECOND)

/*
 * Marks up to MEMORY_FAILURE_INFORM_MAX lost pages that the guest does not
 * know of as told.  Returns how many.
 */
static size_t ras_take_untold(HugetlbfsRas *ras, hwaddr *gpas)
{
    RasBackend *backend;
    RasPage *page;
    size_t n = 0;

    QTAILQ_FOREACH(backend, &ras->backends, next) {
        QTAILQ_FOREACH(page, &backend->pages, next) {
            uint64_t at = page->offset;

            for (; n < MEMORY_FAILURE_INFORM_MAX &&
                   ras_page_next_untold(page, &at); at += RAS_TOLD_SIZE) {
                if (ras_gpa(backend, at, &gpas[n])) {
                    ras_page_set_told(page, at, true);
                    n++;
                }
            }
        }
    }
    return n;
}

/*
 * The lock is dropped while the guest is told, since that may stop virtual
 * CPUs; the BQL keeps pages from being removed.
 */
static MemoryFailureResult ras_tell_some(HugetlbfsRas *ras)
{
    hwaddr gpas[MEMORY_FAILURE_INFORM_MAX];
    MemoryFailureResult result;
    size_t count, told;

    WITH_QEMU_LOCK_GUARD(&ras->lock) {
        count = ras_take_untold(ras, gpas);
    }
    if (!count) {
        return MEMORY_FAILURE_UNABLE;
    }
    result = memory_failure_inform(gpas, count, &told);
    trace_hugetlbfs_ras_optional(gpas[0], count, told, result);
    for (size_t i = told; i < count; i++) {
        hugetlbfs_ras_untell(gpas[i]);
    }
    if (result == MEMORY_FAILURE_UNABLE) {
        warn_report_once("hugetlbfs-ras: this guest cannot be told of lost "
                         "memory that it does not touch");
    }
    return result;
}

static void ras_delivery_timer(void *opaque)
{
    HugetlbfsRas *ras = opaque;
    MemoryFailureResult result = ras_tell_some(ras);

    while (result == MEMORY_FAILURE_TOLD) {
        ras->retry_ms = RAS_OPTIONAL_MIN_MS;
        result = ras_tell_some(ras);
    }
    if (result == MEMORY_FAILURE_UNABLE) {
        timer_del(ras->timer);
        return;
    }
    timer_mod(ras->timer, qemu_clock_get_ms(QEMU_CLOCK_VIRTUAL) +
              ras->retry_ms);
    ras->retry_ms = MIN(ras->retry_ms * 2, RAS_OPTIONAL_MAX_MS);
}

void ras_delivery_kick(HugetlbfsRas *ras)
{
    ras->retry_ms = RAS_OPTIONAL_MIN_MS;
    timer_mod(ras->timer, qemu_clock_get_ms(QEMU_CLOCK_VIRTUAL) +
              RAS_OPTIONAL_FIRST_MS);
}

static void ras_log(const HugetlbfsRasPage *info)
{
    g_autofree char *size = size_to_str(info->page_size);

    if (info->state == HUGETLBFS_RAS_STATE_SPLIT && info->reason &&
        !info->lost) {
        /* Still on small pages after a reset, which has warned. */
    } else if (info->state == HUGETLBFS_RAS_STATE_SPLIT) {
        uint64_t lost = 0;

        for (HugetlbfsRasLostRangeList *l = info->lost; l; l = l->next) {
            lost += l->value->size;
        }
        warn_report("memory failure in a %s huge page of '%s' at offset 0x%"
                    PRIx64 ": %" PRIu64 " KiB lost, the rest is saved",
                    size, info->backend, info->offset, lost / 1024);
    } else {
        warn_report("memory failure in a %s huge page of '%s' at offset 0x%"
                    PRIx64 ": not recovered, %s", size, info->backend,
                    info->offset, info->reason);
    }
}

/* Takes the next page to announce out of the ledger; NULL if there is none. */
static HugetlbfsRasPage *ras_next_announcement(HugetlbfsRas *ras)
{
    RasBackend *backend;
    RasPage *page;

    QEMU_LOCK_GUARD(&ras->lock);
    QTAILQ_FOREACH(backend, &ras->backends, next) {
        QTAILQ_FOREACH(page, &backend->pages, next) {
            if (page->announce) {
                page->announce = false;
                return ras_page_info(page);
            }
        }
    }
    return NULL;
}

static void ras_bh(void *opaque)
{
    HugetlbfsRas *ras = opaque;
    HugetlbfsRasPage *info;
    bool news = false;

    while ((info = ras_next_announcement(ras))) {
        ras_log(info);
        qapi_event_send_hugetlbfs_ras(info);
        qapi_free_HugetlbfsRasPage(info);
        news = true;
    }
    if (news && qatomic_read(&ras->split_pages)) {
        ras_fail_migration();
        ras_delivery_kick(ras);
    }

    for (;;) {
        void *addr;

        WITH_QEMU_LOCK_GUARD(&ras->lock) {
            addr = g_queue_pop_head(&ras->stock);
        }
        if (!addr) {
            break;
        }
        if (kvm_enabled()) {
            kvm_on_sigbus(BUS_MCEERR_AO, addr);
        }
    }
}

void ras_delivery_init(HugetlbfsRas *ras)
{
    ras->bh = qemu_bh_new(ras_bh, ras);
    ras->timer = timer_new_ms(QEMU_CLOCK_VIRTUAL, ras_delivery_timer, ras);
}

/* Lock held. */
static RasPage *ras_lost_page_at(HugetlbfsRas *ras, void *host,
                                 uint64_t *offset)
{
    RasBackend *backend = ras_backend_at(ras, host);
    RasPage *page;

    if (!backend) {
        return NULL;
    }
    *offset = QEMU_ALIGN_DOWN((uint8_t *)host - backend->host, RAS_TOLD_SIZE);
    page = ras_page_at(backend, *offset);
    return page && ras_page_is_lost(page, *offset) ? page : NULL;
}

void *ras_gpa_to_host(hwaddr gpa)
{
    MemoryRegion *mr;
    hwaddr offset, len = 1;

    RCU_READ_LOCK_GUARD();
    mr = address_space_translate(&address_space_memory, gpa, &offset, &len,
                                 false, MEMTXATTRS_UNSPECIFIED);
    if (!memory_region_is_ram(mr)) {
        return NULL;
    }
    return (uint8_t *)memory_region_get_ram_ptr(mr) + offset;
}

/* Lock held.  Returns false if nothing is lost there. */
static bool ras_set_told(HugetlbfsRas *ras, hwaddr gpa, bool told)
{
    void *host = ras_gpa_to_host(gpa);
    uint64_t offset;
    RasPage *page = host ? ras_lost_page_at(ras, host, &offset) : NULL;

    if (page) {
        ras_page_set_told(page, offset, told);
    }
    return page;
}

static MemoryFailureResult ras_deliver(CPUState *cpu, void *host,
                                       MemoryFailureKind kind)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    hwaddr gpas[MEMORY_FAILURE_INFORM_MAX];
    MemoryFailureResult result;
    size_t size = RAS_TOLD_SIZE;
    size_t count, told;
    uint64_t offset;
    RasPage *page;
    hwaddr gpa;

    WITH_QEMU_LOCK_GUARD(&ras->lock) {
        page = ras_lost_page_at(ras, host, &offset);
        if (page && kind == MEMORY_FAILURE_FAULT) {
            size = page->backend->range.small;
            offset = QEMU_ALIGN_DOWN(offset, size);
        }
        if (!page || !ras_gpa(page->backend, offset, &gpa)) {
            /* Discarded or unplugged meanwhile. */
            return MEMORY_FAILURE_LATER;
        }
        count = memory_failure_pages(gpa, size, ras->touches, gpas);
    }
    result = memory_failure_deliver(cpu, gpas, count, &told, kind);
    trace_hugetlbfs_ras_touch(cpu->cpu_index, host, gpa, result);
    if (result == MEMORY_FAILURE_TOLD) {
        QEMU_LOCK_GUARD(&ras->lock);
        ras->touches++;
        for (size_t i = 0; i < told; i++) {
            ras_set_told(ras, gpas[i], true);
        }
    } else if (result == MEMORY_FAILURE_UNABLE) {
        error_report("CPU %d touched lost memory at guest address 0x%"
                     HWADDR_PRIx " and cannot be told of it", cpu->cpu_index,
                     gpa);
        qemu_system_guest_panicked(NULL);
    }
    return result;
}

/* As ras_deliver(), without the BQL; waits a little if the guest is busy. */
static MemoryFailureResult ras_deliver_unlocked(CPUState *cpu, void *host,
                                                MemoryFailureKind kind)
{
    MemoryFailureResult result;

    bql_lock();
    result = ras_deliver(cpu, host, kind);
    bql_unlock();
    if (result == MEMORY_FAILURE_BUSY) {
        g_usleep(1000);
    }
    return result;
}

MemoryFailureResult ras_touch(CPUState *cpu, void *host)
{
    return ras_deliver_unlocked(cpu, host, MEMORY_FAILURE_FAULT);
}

void hugetlbfs_ras_touch(CPUState *cpu, void *host)
{
    ras_touch(cpu, host);
}

void hugetlbfs_ras_untell(hwaddr gpa)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;

    QEMU_LOCK_GUARD(&ras->lock);
    if (ras_set_told(ras, gpa, false)) {
        timer_mod(ras->timer, qemu_clock_get_ms(QEMU_CLOCK_VIRTUAL) +
                  RAS_OPTIONAL_MAX_MS);
    }
}

bool hugetlbfs_ras_lost_at(hwaddr gpa, size_t length)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    hwaddr end = gpa + length;

    if (likely(!qatomic_read(&ras->lost_pages))) {
        return false;
    }
    for (; gpa < end; gpa = QEMU_ALIGN_DOWN(gpa, RAS_TOLD_SIZE) +
                            RAS_TOLD_SIZE) {
        void *host = ras_gpa_to_host(gpa);
        uint64_t offset;

        QEMU_LOCK_GUARD(&ras->lock);
        if (host && ras_lost_page_at(ras, host, &offset)) {
            return true;
        }
    }
    return false;
}

bool hugetlbfs_ras_mmio(CPUState *cpu, hwaddr gpa, void *data, unsigned len,
                        bool is_write)
{
    MemoryFailureResult result;
    int64_t start;
    void *host;

    if (likely(!hugetlbfs_ras_lost_at(gpa, 1))) {
        return false;
    }

    /* KVM finishes the instruction with this, so the error must come first. */
    host = ras_gpa_to_host(gpa);
    start = get_clock();
    do {
        result = ras_deliver_unlocked(cpu, host, MEMORY_FAILURE_ACCESS);
    } while (result == MEMORY_FAILURE_BUSY &&
             get_clock() - start < RAS_MMIO_HOLD_NS);
    if (result != MEMORY_FAILURE_TOLD) {
        error_report("CPU %d touched lost memory at guest address 0x%"
                     HWADDR_PRIx " and the guest did not acknowledge its "
                     "previous error", cpu->cpu_index, gpa);
        qemu_system_reset_request(SHUTDOWN_CAUSE_GUEST_RESET);
    }
    if (!is_write) {
        memset(data, 0xff, len);
    }
    qatomic_set(&cpu->exit_request, 1);
    return true;
}
