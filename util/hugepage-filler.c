/*
 * The threads that fill replaced huge pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "qemu/userfaultfd.h"
#include "hugepage-filler.h"
#include "hugepage-internal.h"

/* Pause after a failed attempt, in milliseconds: memory may come back. */
#define FILL_RETRY_MS 10

/*
 * Who was waited for soon waits for the next piece.  Until then no other one is
 * begun, but not for longer than this share of the time of a read.
 */
#define FILL_CALM_SHARE 4
/* How long a page fault may go unseen meanwhile */
#define FILL_CALM_NS (100 * SCALE_US)

size_t fill_job_pages(const FillJob *job)
{
    return job->range.size / job->range.small;
}

size_t fill_buffer_size(const FillJob *job)
{
    return FILL_THREADS * job->at_once * job->piece;
}

void fill_job_free(FillJob *job)
{
    if (job) {
        g_free(job->lost);
        g_free(job->started);
        g_free(job->filled);
        g_free(job->urgent);
        g_free(job->queue);
        g_free(job);
    }
}

FillJob *fill_job_at(HugepageFill *fill, const void *host)
{
    FillJob *job;

    QTAILQ_FOREACH(job, &fill->jobs, next) {
        if ((const uint8_t *)host - (const uint8_t *)job->range.host <
            job->range.size) {
            return job;
        }
    }
    return NULL;
}

/*
 * Reads pieces into @buffer and tells the owner what cannot be read.
 *
 * Returns: a bit per small page of them, lost
 */
static unsigned long *fill_read(HugepageFill *fill, const FillTask *task,
                                uint8_t *buffer)
{
    FillJob *job = task->job;
    const HugepageReader reader = {
        .read = hugepage_read_fd, .opaque = GINT_TO_POINTER(job->range.fd),
    };
    size_t start = task->piece * job->piece;
    size_t end = start + task->count * job->piece;
    size_t first = start / job->range.small;
    size_t pages = (end - start) / job->range.small;
    g_autofree unsigned long *before = bitmap_new(pages);
    unsigned long *lost = bitmap_new(pages);
    size_t page;

    WITH_QEMU_LOCK_GUARD(&fill->lock) {
        bitmap_copy_with_src_offset(before, job->lost, first, pages);
    }
    bitmap_copy(lost, before, pages);
    hugepage_read_extent(&job->range, fill->reader ?: &reader, buffer, start,
                         end, lost);
    WITH_QEMU_LOCK_GUARD(&fill->lock) {
        fill->reading = false;
        qemu_cond_signal(&fill->work);
    }
    for (page = find_first_bit(lost, pages); page < pages;
         page = find_next_bit(lost, pages, page + 1)) {
        if (test_bit(page, before)) {
            continue;
        }
        fill->ops->lost(job->opaque, first + page);
        WITH_QEMU_LOCK_GUARD(&fill->lock) {
            set_bit(first + page, job->lost);
        }
    }
    return lost;
}

/* Returns: true to try again */
static bool fill_stuck(HugepageFill *fill, FillJob *job, int ret)
{
    Error *err = NULL;

    if (qatomic_read(&job->cancelled)) {
        return false;
    }

    if (!qatomic_xchg(&job->stuck, true)) {
        error_setg_errno(&err, -ret, "Cannot bring %zu bytes, trying again",
                         job->piece);
        fill->ops->stuck(job->opaque, err);
        error_free(err);
    }
    g_usleep(FILL_RETRY_MS * 1000);
    return true;
}

/* With the lock held: somebody waits for @piece */
static void fill_make_urgent(HugepageFill *fill, FillJob *job, size_t piece)
{
    if (test_and_set_bit(piece, job->urgent) || test_bit(piece, job->started)) {
        return;
    }
    /* Once for each piece at most, so there is room. */
    job->queue[job->queue_tail++] = piece;
    qemu_cond_signal(&fill->work);
}

/* Page faults become urgent pieces; the mover of a range waits for its event */
static void fill_events(HugepageFill *fill)
{
    struct uffd_msg msgs[16];
    int count;

    while ((count = uffd_read_events(fill->uffd, msgs, ARRAY_SIZE(msgs))) > 0) {
        QEMU_LOCK_GUARD(&fill->lock);
        for (int i = 0; i < count; i++) {
            void *host = (void *)(uintptr_t)msgs[i].arg.pagefault.address;
            FillJob *job;
            size_t piece;

            if (msgs[i].event != UFFD_EVENT_PAGEFAULT) {
                continue;
            }
            job = fill_job_at(fill, host);
            piece = job ? (host - job->range.host) / job->piece : 0;
            if (job && !test_bit(piece, job->filled)) {
                fill_make_urgent(fill, job, piece);
            } else {
                /*
                 * Filled since: the thread only has to look again.  It may
                 * have gone to sleep when the page was in its place already,
                 * since Linux takes a marker for a missing page there.
                 */
                uffd_wakeup(fill->uffd, QEMU_ALIGN_PTR_DOWN(host,
                            qemu_real_host_page_size()),
                            qemu_real_host_page_size());
            }
        }
    }
}

/* The processor's time that this thread has had */
static int64_t fill_cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * NANOSECONDS_PER_SECOND + ts.tv_nsec;
}

/* Memory for the next read, unless cancelled */
static void fill_populate(HugepageFill *fill, FillJob *job, FillBuffer *buffer)
{
    int64_t start = fill_cpu_ns();
    size_t count = MIN(buffer->batch, job->at_once);
    int ret;

    while ((ret = hugepage_populate(buffer->start, count * job->piece,
                                    MADV_POPULATE_WRITE)) < 0) {
        /* This memory may have gone bad itself. */
        madvise(buffer->start, count * job->piece, MADV_DONTNEED_LOCKED);
        if (count > 1) {
            count = 1;
        } else if (!fill_stuck(fill, job, ret)) {
            return;
        }
    }
    buffer->populated = count;
    buffer->populate_ns = fill_cpu_ns() - start;
}

/*
 * @lost: a bit per small page; @first is the first one of @piece
 *
 * Returns: false if cancelled
 */
static bool fill_place(HugepageFill *fill, FillJob *job, size_t piece,
                       const unsigned long *lost, size_t first, uint8_t *buffer)
{
    size_t pos = piece * job->piece;
    bool waited_for;
    int ret;

    while ((ret = hugepage_place(fill->uffd, fill->pagemap, job->move,
                                 &job->range, lost, first, buffer, pos,
                                 pos + job->piece)) < 0) {
        if (ret != -EAGAIN && !fill_stuck(fill, job, ret)) {
            return false;
        }
    }
    WITH_QEMU_LOCK_GUARD(&fill->lock) {
        set_bit(piece, job->filled);
        job->left--;
        waited_for = test_bit(piece, job->urgent);
    }
    if (waited_for) {
        /* As above, for who came between two attempts to place. */
        uffd_wakeup(fill->uffd, job->range.host + pos, job->piece);
        /* They shall have this processor at once, not after our time slice. */
        sched_yield();
    }
    return true;
}

/*
 * Before Linux copies a byte it looks at each small page from there to the end
 * of the huge page, or to the next one that it knows is bad, and takes a mutex
 * each time (adjust_range_hwpoison() in fs/hugetlbfs/inode.c).  In a gigantic
 * page that takes longer than to copy a piece, so one thread reads at a time,
 * and a read that is slow beside the rest of the work shall bring more of them.
 */
static void fill_pieces(HugepageFill *fill, FillTask *task, FillBuffer *buffer)
{
    FillJob *job = task->job;
    g_autofree unsigned long *lost = NULL;
    int64_t start = fill_cpu_ns();
    int64_t other_ns;
    size_t i;

    lost = fill_read(fill, task, buffer->start);
    task->read_ns = fill_cpu_ns() - start;
    for (i = 0; i < task->count; i++) {
        size_t pos = i * job->piece;

        if (!fill_place(fill, job, task->piece + i, lost,
                        pos / job->range.small, buffer->start + pos)) {
            return;
        }
    }
    buffer->populated = 0;
    other_ns = fill_cpu_ns() - start - task->read_ns + buffer->populate_ns;
    if (task->alone) {
        buffer->batch = 1;
    } else if (task->read_ns > 2 * other_ns) {
        buffer->batch = MIN(2 * buffer->batch, job->at_once);
    } else if (task->read_ns < other_ns) {
        buffer->batch = MAX(buffer->batch / 2, 1);
    }
}

/* Returns: false if the owner has cancelled and waits for just this. */
static bool fill_job_remove(HugepageFill *fill, FillJob *job)
{
    QEMU_LOCK_GUARD(&fill->lock);
    QTAILQ_REMOVE(&fill->jobs, job, next);
    qemu_cond_broadcast(&fill->gone);
    qemu_cond_broadcast(&fill->work);
    return !job->cancelled;
}

/*
 * Nothing is to be brought any more, and nobody waits for it.  Unless this is
 * done a page that is discarded later would be missing for ever.
 */
static void fill_release(HugepageFill *fill, FillJob *job)
{
    while (uffd_unregister_memory(fill->uffd, job->range.host,
                                  job->range.size)) {
        /* No memory: as in fill_stuck() */
        g_usleep(FILL_RETRY_MS * 1000);
    }
    /* Linux wakes all before it unregisters; who faults in between sleeps. */
    uffd_wakeup(fill->uffd, job->range.host, job->range.size);
    munmap(job->buffers[0].start, fill_buffer_size(job));
}

static void fill_finish(HugepageFill *fill, FillJob *job)
{
    HugepageSplitResult result = {
        .lost_pages = bitmap_count_one(job->lost, fill_job_pages(job)),
        .commit_ns = job->swap_ns,
        .salvage_ns = hugepage_clock_now(NULL) - job->start,
    };

    result.salvaged = job->range.size - result.lost_pages * job->range.small;
    result.lost = g_steal_pointer(&job->lost);
    fill_release(fill, job);
    hugepage_settings_finish(&job->range);
    RETRY_ON_EINTR(fallocate(job->range.fd, FALLOC_FL_PUNCH_HOLE |
                             FALLOC_FL_KEEP_SIZE, job->range.fd_offset,
                             job->range.size));
    if (fill_job_remove(fill, job)) {
        fill->ops->filled(job->opaque, &result);
    } else {
        hugepage_split_result_destroy(&result);
    }
    fill_job_free(job);
}

/* The range is the owner's again, who wants nothing of it. */
static void fill_give_up(HugepageFill *fill, FillJob *job)
{
    fill_release(fill, job);
    fill_job_remove(fill, job);
    fill_job_free(job);
}

/* What came first, or nothing: then @pieces is returned */
static size_t fill_next_urgent(FillJob *job)
{
    while (job->queue_head < job->queue_tail) {
        size_t piece = job->queue[job->queue_head];

        if (!test_bit(piece, job->started)) {
            return piece;
        }
        job->queue_head++;
    }
    return job->pieces;
}

/*
 * The job of the next piece to bring, one that somebody waits for, or any; or
 * one that was cancelled, as who cancels waits as well.
 */
static FillJob *fill_next(HugepageFill *fill, size_t *piece)
{
    FillJob *job;

    QTAILQ_FOREACH(job, &fill->jobs, next) {
        if (!job->swapped || (job->cancelled && job->active)) {
            /* Its mover, or another thread, is not done with it. */
            continue;
        }
        *piece = fill_next_urgent(job);
        if (*piece < job->pieces || job->cancelled) {
            return job;
        }
    }
    QTAILQ_FOREACH(job, &fill->jobs, next) {
        if (job->swapped && !job->cancelled) {
            *piece = find_first_zero_bit(job->started, job->pieces);
            if (*piece < job->pieces) {
                return job;
            }
        }
    }
    return NULL;
}

/* With the lock held: does somebody wait for a piece of @task? */
static bool fill_is_urgent(const FillTask *task)
{
    size_t end = task->piece + task->count;

    return task->count &&
           find_next_bit(task->job->urgent, end, task->piece) < end;
}

/* With the lock held: is a piece that nobody waits for to be left alone? */
static bool fill_is_held(HugepageFill *fill)
{
    for (unsigned i = 0; i < fill->threads; i++) {
        if (fill_is_urgent(&fill->workers[i].task)) {
            return true;
        }
    }
    return get_clock() < fill->calm_at;
}

/* Wait for a page fault for @ns, but not for long */
static void fill_wait_fault(HugepageFill *fill, int64_t ns)
{
    const struct timespec timeout = { .tv_nsec = MIN(ns, FILL_CALM_NS) };
    struct pollfd pfd = { .fd = fill->uffd, .events = POLLIN };

    qemu_mutex_unlock(&fill->lock);
    ppoll(&pfd, 1, &timeout, NULL);
    fill_events(fill);
    qemu_mutex_lock(&fill->lock);
}

/*
 * With the lock held.  First a buffer is populated, and only then it is decided
 * for which piece, as somebody may have come who waits for another one.
 *
 * Returns: false if there is nothing to do now
 */
static bool fill_choose(HugepageFill *fill, FillWorker *worker)
{
    FillTask *task = &worker->task;
    FillJob *job = fill_next(fill, &task->piece);
    FillBuffer *buffer;
    bool urgent;
    size_t end;

    if (!job) {
        return false;
    }
    buffer = &job->buffers[worker->buffer];
    task->job = job;
    if (job->cancelled || !buffer->populated) {
        return true;
    }
    urgent = test_bit(task->piece, job->urgent);
    if (fill->reading || (!urgent && fill_is_held(fill))) {
        return false;
    }
    task->alone = urgent &&
                  !(task->piece && test_bit(task->piece - 1, job->started));
    end = MIN(task->piece + (task->alone ? 1 : buffer->populated), job->pieces);
    end = find_next_bit(job->started, end, task->piece);
    task->count = end - task->piece;
    /* From here on hugepage_fill_lose() comes too late for them. */
    bitmap_set(job->started, task->piece, task->count);
    fill->reading = true;
    /* Another thread may get memory. */
    qemu_cond_signal(&fill->work);
    return true;
}

/* With the lock held: are the threads to end? */
static bool fill_is_ended(HugepageFill *fill)
{
    return fill->stop && QTAILQ_EMPTY(&fill->jobs);
}

/* Returns: false if the thread is to end */
static bool fill_take(HugepageFill *fill, FillWorker *worker)
{
    /* The thread that reads page faults may be waiting for a processor. */
    fill_events(fill);
    QEMU_LOCK_GUARD(&fill->lock);
    for (;;) {
        /* Nobody signals the end of it, so it must not come in between. */
        int64_t ns = fill->calm_at - get_clock();

        if (fill_choose(fill, worker)) {
            break;
        }
        if (fill_is_ended(fill)) {
            return false;
        }
        if (ns > 0) {
            fill_wait_fault(fill, ns);
        } else {
            qemu_cond_wait(&fill->work, &fill->lock);
        }
    }
    worker->task.job->active++;
    return true;
}

/* Returns: false if another thread works for the job, or work is left */
static bool fill_is_over(HugepageFill *fill, FillTask *task)
{
    FillJob *job = task->job;

    QEMU_LOCK_GUARD(&fill->lock);
    if (fill_is_urgent(task)) {
        fill->calm_at = get_clock() + task->read_ns / FILL_CALM_SHARE;
        qemu_cond_signal(&fill->work);
    }
    task->count = 0;
    if (job->active == 1 && (!job->left || job->cancelled)) {
        return true;
    }
    job->active--;
    return false;
}

void *fill_thread(void *opaque)
{
    FillWorker *worker = opaque;
    HugepageFill *fill = worker->fill;
    FillTask *task = &worker->task;

    while (fill_take(fill, worker)) {
        FillBuffer *buffer = &task->job->buffers[worker->buffer];

        if (task->count) {
            fill_pieces(fill, task, buffer);
        } else if (!qatomic_read(&task->job->cancelled)) {
            fill_populate(fill, task->job, buffer);
        }
        if (fill_is_over(fill, task)) {
            if (!task->job->left) {
                fill_finish(fill, task->job);
            } else {
                fill_give_up(fill, task->job);
            }
        }
    }
    return NULL;
}

/*
 * mremap() is not back until its event is read, and meanwhile all who touch the
 * range wait.  So this thread is awake when the event comes, but leaves the
 * processor to the caller; and it is this one that starts the filling, as who
 * is woken may take the processor of who wakes.
 *
 * Returns: false if the thread is to end
 */
static bool fill_attend_swap(HugepageFill *fill)
{
    event_notifier_test_and_clear(&fill->wakeup);
    while (qatomic_read(&fill->swapping)) {
        fill_events(fill);
        sched_yield();
    }
    QEMU_LOCK_GUARD(&fill->lock);
    qemu_cond_signal(&fill->work);
    return !fill_is_ended(fill);
}

void *fill_events_thread(void *opaque)
{
    HugepageFill *fill = opaque;
    struct pollfd pfd[] = {
        { .fd = fill->uffd, .events = POLLIN },
        { .fd = event_notifier_get_fd(&fill->wakeup), .events = POLLIN },
    };

    do {
        RETRY_ON_EINTR(poll(pfd, ARRAY_SIZE(pfd), -1));
        fill_events(fill);
    } while (!pfd[1].revents || fill_attend_swap(fill));
    return NULL;
}
