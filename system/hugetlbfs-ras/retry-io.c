/*
 * What fails, or gets lost, without a signal when guest RAM is recovered
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <scsi/sg.h>
#include <sys/ioctl.h>
#include "qemu/event_notifier.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "system/hugetlbfs-ras.h"
#include "system/hugetlbfs-ras-io.h"
#include "ras.h"
#include "trace.h"

/* The kernel's signal may be later than the failure that it explains. */
#define RAS_SIGNAL_NS (100 * SCALE_MS)
/* Who failed may find out only after the page is recovered. */
#define RAS_RECENT_NS (2 * NANOSECONDS_PER_SECOND)
#define RAS_LOOK_US 10000

/*
 * A queue that waits to be kicked
 *
 * @fd: what the device has, only to know it again
 * @kick: a descriptor of our own for it, as the device may go
 */
typedef struct RasVring {
    int fd;
    int kick;
} RasVring;

/* All in the main thread; @vrings_since: when the last one came, nanoseconds */
static GArray *vrings;
static QEMUTimer *vrings_timer;
static int64_t vrings_since;

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

unsigned hugetlbfs_ras_generation(void)
{
    return qatomic_read(&hugetlbfs_ras.generation);
}

int hugetlbfs_ras_ioctl(int fd, unsigned long request, void *arg)
{
    const sg_io_hdr_t *hdr = arg;
    bool again;
    int ret;

    if (request != SG_IO || !hdr->iovec_count) {
        return ioctl(fd, request, arg);
    }
    do {
        unsigned before = hugetlbfs_ras_generation();

        ret = ioctl(fd, request, arg);
        again = ret < 0
            ? hugetlbfs_ras_retry_io(hdr->dxferp, hdr->iovec_count)
            : hdr->dxfer_direction == SG_DXFER_FROM_DEV &&
              hugetlbfs_ras_generation() != before;
    } while (again);
    return ret;
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

static void ras_vrings_look(void *opaque)
{
    HugetlbfsRas *ras = opaque;
    int64_t now = get_clock();
    bool recent = ras_is_recent(ras);

    if (!recent && now - vrings_since < RAS_SIGNAL_NS) {
        timer_mod(vrings_timer, now + RAS_LOOK_US * SCALE_US);
        return;
    }
    trace_hugetlbfs_ras_vrings(vrings->len, recent);
    for (unsigned i = 0; i < vrings->len; i++) {
        EventNotifier kick;

        event_notifier_init_fd(&kick, g_array_index(vrings, RasVring, i).kick);
        if (recent) {
            event_notifier_set(&kick);
        }
        close(event_notifier_get_fd(&kick));
    }
    g_array_set_size(vrings, 0);
}

void hugetlbfs_ras_retry_vring(EventNotifier *kick)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    RasVring vring = { .fd = event_notifier_get_fd(kick) };

    if (!ras->started) {
        return;
    }
    if (!vrings) {
        vrings = g_array_new(false, false, sizeof(RasVring));
        vrings_timer = timer_new_ns(QEMU_CLOCK_REALTIME, ras_vrings_look, ras);
    }
    for (unsigned i = 0; i < vrings->len; i++) {
        if (g_array_index(vrings, RasVring, i).fd == vring.fd) {
            return;
        }
    }
    vring.kick = qemu_dup(vring.fd);
    if (vring.kick < 0) {
        return;
    }
    g_array_append_val(vrings, vring);
    vrings_since = get_clock();
    timer_mod(vrings_timer, vrings_since + RAS_LOOK_US * SCALE_US);
}
