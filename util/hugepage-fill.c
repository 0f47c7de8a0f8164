/*
 * Replace poisoned huge pages at once and fill them behind everybody's back
 *
 * The contract is in include/qemu/hugepage-fill.h.  Here is what its callers
 * do; the filling is in hugepage-filler.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qemu/userfaultfd.h"
#include "hugepage-filler.h"
#include "hugepage-internal.h"

/* Pieces that one read may bring */
#define FILL_AT_ONCE 8

/* What is brought at once of a range that no huge mapping will cover */
#define FILL_SMALL (64 * KiB)

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FillJob, fill_job_free)

static FillJob *job_new(HugepageFill *fill, const HugepageRange *range,
                        const unsigned long *known_lost, void *opaque)
{
    g_autoptr(FillJob) job = g_try_new0(FillJob, 1);

    if (!job) {
        return NULL;
    }
    job->range = *range;
    job->opaque = opaque;
    job->piece = hugepage_extent(range);
    job->move = fill->can_move;
    if (job->piece == range->size) {
        /* No huge mapping will cover it; who waits waits for a whole piece. */
        job->piece = MIN(MAX(FILL_SMALL, range->small), range->size);
        job->move = false;
    }
    job->pieces = range->size / job->piece;
    job->left = job->pieces;
    job->at_once = MIN(fill->ops->at_once ?: FILL_AT_ONCE, job->pieces);
    job->lost = bitmap_try_new(fill_job_pages(job));
    job->started = bitmap_try_new(job->pieces);
    job->filled = bitmap_try_new(job->pieces);
    job->urgent = bitmap_try_new(job->pieces);
    job->queue = g_try_new(size_t, job->pieces);
    job->start = hugepage_clock_now(NULL);
    if (!job->lost || !job->started || !job->filled || !job->urgent ||
        !job->queue) {
        return NULL;
    }
    if (known_lost) {
        bitmap_copy(job->lost, known_lost, fill_job_pages(job));
    }
    return g_steal_pointer(&job);
}

static int fill_open(uint64_t *features, Error **errp)
{
    ERRP_GUARD();
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = UFFD_FEATURE_POISON | UFFD_FEATURE_EVENT_REMAP |
                    (*features & UFFD_FEATURE_MOVE),
    };
    int uffd = uffd_open(O_CLOEXEC | O_NONBLOCK);

    if (uffd < 0) {
        error_setg_errno(errp, errno, "Cannot serve page faults of the kernel");
        error_append_hint(errp, "Give QEMU access to /dev/userfaultfd (libvirt:"
                          " cgroup_device_acl in qemu.conf), or set "
                          "vm.unprivileged_userfaultfd=1.\n");
        return -1;
    }
    if (ioctl(uffd, UFFDIO_API, &api)) {
        error_setg_errno(errp, errno, "Cannot use userfaultfd");
        error_append_hint(errp, "UFFD_FEATURE_POISON needs Linux 6.6 or "
                          "later.\n");
        uffd_close_fd(uffd);
        return -1;
    }
    return uffd;
}

HugepageFill *hugepage_fill_new(const HugepageFillOps *ops,
                                const HugepageReader *reader, Error **errp)
{
    HugepageFill *fill;
    uint64_t features;
    int uffd, pagemap;

    if (uffd_query_features(&features) < 0) {
        features = 0;
    }
    uffd = fill_open(&features, errp);
    if (uffd < 0) {
        return NULL;
    }
    pagemap = qemu_open("/proc/self/pagemap", O_RDONLY, errp);
    if (pagemap < 0) {
        uffd_close_fd(uffd);
        return NULL;
    }
    fill = g_new0(HugepageFill, 1);
    fill->ops = ops;
    fill->reader = reader;
    fill->uffd = uffd;
    fill->pagemap = pagemap;
    fill->can_move = features & UFFD_FEATURE_MOVE;
    if (event_notifier_init(&fill->wakeup, false) < 0) {
        error_setg(errp, "Cannot create an event descriptor");
        uffd_close_fd(uffd);
        close(pagemap);
        g_free(fill);
        return NULL;
    }
    qemu_mutex_init(&fill->lock);
    qemu_cond_init(&fill->work);
    qemu_cond_init(&fill->gone);
    QTAILQ_INIT(&fill->jobs);
    fill->threads = ops->threads ?: FILL_THREADS;
    for (unsigned i = 0; i < fill->threads; i++) {
        FillWorker *worker = &fill->workers[i];

        worker->fill = fill;
        worker->buffer = i;
        qemu_thread_create(&worker->thread, "hugepage-fill", fill_thread,
                           worker, QEMU_THREAD_JOINABLE);
    }
    qemu_thread_create(&fill->events, "hugepage-fault", fill_events_thread,
                       fill, QEMU_THREAD_JOINABLE);
    return fill;
}

void hugepage_fill_free(HugepageFill *fill)
{
    WITH_QEMU_LOCK_GUARD(&fill->lock) {
        fill->stop = true;
        qemu_cond_broadcast(&fill->work);
    }
    for (unsigned i = 0; i < fill->threads; i++) {
        qemu_thread_join(&fill->workers[i].thread);
    }
    event_notifier_set(&fill->wakeup);
    qemu_thread_join(&fill->events);
    event_notifier_cleanup(&fill->wakeup);
    uffd_close_fd(fill->uffd);
    close(fill->pagemap);
    qemu_cond_destroy(&fill->work);
    qemu_cond_destroy(&fill->gone);
    qemu_mutex_destroy(&fill->lock);
    g_free(fill);
}

/*
 * The empty region, registered and with what is known to be lost marked; the
 * buffer of @job follows it.
 */
static void *fill_region(HugepageFill *fill, FillJob *job, Error **errp)
{
    void *region = hugepage_staging_new(&job->range, fill_buffer_size(job),
                                        errp);
    size_t pages = fill_job_pages(job);
    size_t page;
    int ret = 0;

    if (!region) {
        return NULL;
    }
    if (uffd_register_memory(fill->uffd, region, job->range.size,
                             UFFDIO_REGISTER_MODE_MISSING, NULL)) {
        ret = -errno;
    }
    for (page = find_first_bit(job->lost, pages); !ret && page < pages;
         page = find_next_bit(job->lost, pages, page + 1)) {
        ssize_t done;

        do {
            done = hugepage_uffd_poison(fill->uffd,
                                        region + page * job->range.small,
                                        job->range.small);
        } while (done == -EAGAIN);
        ret = MIN(done, 0);
    }
    if (ret) {
        error_setg_errno(errp, -ret, "Cannot prepare empty memory");
        munmap(region, job->range.size + fill_buffer_size(job));
        return NULL;
    }
    for (unsigned i = 0; i < FILL_THREADS; i++) {
        job->buffers[i] = (FillBuffer) {
            .start = region + job->range.size + i * job->at_once * job->piece,
            .batch = 1,
        };
    }
    return region;
}

/* Faults may come before mremap() is back, so the filler must know the job. */
static int fill_commit(HugepageFill *fill, FillJob *job, void *region)
{
    int64_t start = hugepage_clock_now(NULL);
    int ret;

    WITH_QEMU_LOCK_GUARD(&fill->lock) {
        QTAILQ_INSERT_TAIL(&fill->jobs, job, next);
    }
    ret = hugepage_move_over(region, job->range.host, job->range.size);
    WITH_QEMU_LOCK_GUARD(&fill->lock) {
        if (ret == 0) {
            job->swap_ns = hugepage_clock_now(NULL) - start;
            job->swapped = true;
        } else {
            QTAILQ_REMOVE(&fill->jobs, job, next);
        }
    }
    return ret;
}

/* Returns: false if the range was left as it was */
static bool fill_swap(HugepageFill *fill, FillJob *job, Error **errp)
{
    void *region = fill_region(fill, job, errp);
    int ret;

    if (!region) {
        return false;
    }
    ret = fill_commit(fill, job, region);
    if (ret) {
        hugepage_range_restore(&job->range);
        munmap(region, job->range.size + fill_buffer_size(job));
        error_setg_errno(errp, -ret, "Cannot move empty memory over the huge "
                         "page");
        return false;
    }
    return true;
}

/**
 * FillBinding: a thread bound to a processor for a while
 *
 * @cpus: where it may run otherwise
 * @bound: it was possible; "-sandbox resourcecontrol=deny" forbids it
 */
typedef struct FillBinding {
    pthread_t thread;
    cpu_set_t cpus;
    bool bound;
} FillBinding;

/* Not by qemu_thread_set_affinity(), which ends QEMU if there is no memory */
static void fill_bind(FillBinding *binding, pthread_t thread, int cpu)
{
    cpu_set_t here;

    CPU_ZERO(&here);
    CPU_SET(cpu, &here);
    binding->thread = thread;
    binding->bound = pthread_getaffinity_np(thread, sizeof(binding->cpus),
                                            &binding->cpus) == 0 &&
                     pthread_setaffinity_np(thread, sizeof(here), &here) == 0;
}

static void fill_unbind(const FillBinding *binding)
{
    if (binding->bound) {
        pthread_setaffinity_np(binding->thread, sizeof(binding->cpus),
                               &binding->cpus);
    }
}

bool hugepage_fill_swap(HugepageFill *fill, const HugepageRange *range,
                        const unsigned long *known_lost, void *opaque,
                        Error **errp)
{
    g_autoptr(FillJob) job = NULL;
    FillBinding caller, events;
    int cpu;
    bool ok;

    if (!hugepage_range_check(range, errp)) {
        return false;
    }
    job = job_new(fill, range, known_lost, opaque);
    if (!job) {
        error_setg(errp, "Cannot allocate memory for a huge page of %zu bytes",
                   range->size);
        return false;
    }
    /*
     * mremap() and the thread that lets it pass wait for each other.  Both on
     * one processor, neither waits for another one that sleeps or is busy.
     */
    cpu = sched_getcpu();
    fill_bind(&events, fill->events.thread, cpu);
    fill_bind(&caller, pthread_self(), cpu);
    qatomic_set(&fill->swapping, true);
    event_notifier_set(&fill->wakeup);
    ok = fill_swap(fill, job, errp);
    qatomic_set(&fill->swapping, false);
    fill_unbind(&events);
    fill_unbind(&caller);
    if (ok) {
        /* The filler's now. */
        job = NULL;
    }
    return ok;
}

bool hugepage_fill_lose(HugepageFill *fill, void *host)
{
    FillJob *job;

    QEMU_LOCK_GUARD(&fill->lock);
    job = fill_job_at(fill, host);
    if (!job || test_bit((host - job->range.host) / job->piece, job->started)) {
        return false;
    }
    set_bit((host - job->range.host) / job->range.small, job->lost);
    return true;
}

bool hugepage_fill_cancel(HugepageFill *fill, void *host)
{
    FillJob *job;

    QEMU_LOCK_GUARD(&fill->lock);
    job = fill_job_at(fill, host);
    if (!job || !job->swapped) {
        return false;
    }
    qatomic_set(&job->cancelled, true);
    qemu_cond_signal(&fill->work);
    while (fill_job_at(fill, host) == job) {
        qemu_cond_wait(&fill->gone, &fill->lock);
    }
    return true;
}

uint64_t hugepage_fill_missing(HugepageFill *fill)
{
    uint64_t bytes = 0;
    FillJob *job;

    QEMU_LOCK_GUARD(&fill->lock);
    QTAILQ_FOREACH(job, &fill->jobs, next) {
        bytes += job->left * job->piece;
    }
    return bytes;
}

bool hugepage_fill_is_missing(HugepageFill *fill, void *host)
{
    FillJob *job;

    QEMU_LOCK_GUARD(&fill->lock);
    job = fill_job_at(fill, host);
    return job && !test_bit((host - job->range.host) / job->piece, job->filled);
}
