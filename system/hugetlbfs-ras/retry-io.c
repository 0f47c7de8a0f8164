/*
 * What fails without a signal because guest RAM is being recovered
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "system/hugetlbfs-ras.h"
#include "system/hugetlbfs-ras-io.h"
#include "ras.h"

/* The kernel's signal may be later than the failure that it explains. */
#define RAS_SIGNAL_NS (100 * SCALE_MS)
/* Who failed may find out only after the page is recovered. */
#define RAS_RECENT_NS (2 * NANOSECONDS_PER_SECOND)
#define RAS_LOOK_US 10000

/*
 * How far from @host to the end of its huge page, or of @length if that is
 * less; @ours tells whether it can be recovered at all.
 */
static size_t ras_piece(HugetlbfsRas *ras, uint8_t *host, size_t length,
                        bool *ours)
{
    RasBackend *backend;
    uint64_t offset;

    QEMU_LOCK_GUARD(&ras->lock);
    backend = ras_backend_at(ras, host);
    *ours = backend;
    if (!backend) {
        return length;
    }
    offset = host - backend->host;
    return MIN(length, backend->page_size - offset % backend->page_size);
}

/* The first byte of [host, host + length) that cannot be touched, or NULL. */
static uint8_t *ras_first_poison(uint8_t *host, size_t length)
{
    size_t small = qemu_real_host_page_size();
    uint8_t *end = host + length;

    for (; host < end; host = (uint8_t *)QEMU_ALIGN_PTR_UP(host + 1, small)) {
        if (hugepage_split_is_lost(QEMU_ALIGN_PTR_DOWN(host, small), small)) {
            return host;
        }
    }
    return NULL;
}

/*
 * Is something being recovered, or was it just now?  Then a failure may be of
 * the time before, though nothing is wrong any more.
 */
static bool ras_is_recent(HugetlbfsRas *ras)
{
    int64_t last = qatomic_read(&ras->last_work);

    return qatomic_read(&ras->busy) ||
           (last && get_clock() - last < RAS_RECENT_NS);
}

/*
 * Returns false if bytes are lost for good; @ours is set if some can be
 * recovered, @recovered if some were.
 */
static bool ras_retry_buffer(HugetlbfsRas *ras, uint8_t *host, size_t length,
                             bool *ours, bool *recovered)
{
    for (size_t n; length; host += n, length -= n) {
        bool here;
        uint8_t *bad;

        n = ras_piece(ras, host, length, &here);
        *ours |= here;
        bad = here ? ras_first_poison(host, n) : NULL;
        if (bad) {
            SigbusReport report = { .addr = bad, .action_required = true };

            if (sigbus_intake_ask(&report) != SIGBUS_VERDICT_RETRY) {
                return false;
            }
            *recovered = true;
            /* Look at the rest again: it may hold a page lost for good. */
            n = 0;
        }
    }
    return true;
}

bool hugetlbfs_ras_retry_io(const struct iovec *iov, int iovcnt)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    bool recovered = false;
    bool ours = false;
    bool lost = false;

    if (errno != EFAULT || !ras->started) {
        return false;
    }
    for (int i = 0; i < iovcnt && !lost; i++) {
        lost = !ras_retry_buffer(ras, iov[i].iov_base, iov[i].iov_len,
                                 &ours, &recovered);
    }
    errno = EFAULT;
    return !lost && (recovered || (ours && ras_is_recent(ras)));
}

bool hugetlbfs_ras_retry_emulation(void)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    int64_t start = get_clock();

    while (ras->started && get_clock() - start < RAS_SIGNAL_NS) {
        g_usleep(RAS_LOOK_US);
        if (ras_is_recent(ras)) {
            return true;
        }
    }
    return false;
}
