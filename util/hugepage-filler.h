/*
 * The filler's jobs and its threads
 *
 * Shared by the two halves of qemu/hugepage-fill.h: hugepage-fill.c swaps and
 * answers the callers, hugepage-filler.c fills, in threads of its own.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef UTIL_HUGEPAGE_FILLER_H
#define UTIL_HUGEPAGE_FILLER_H

#include "qemu/event_notifier.h"
#include "qemu/hugepage-fill.h"
#include "qemu/queue.h"
#include "qemu/thread.h"

/* Threads that bring pieces: while one reads, the other gets memory. */
#define FILL_THREADS 2

/**
 * FillBuffer: what one thread reads into
 *
 * @start: FillJob.at_once pieces
 * @populated: how many of them have memory
 * @batch: how many the next read is to bring
 * @populate_ns: processor's time that their memory has cost
 */
typedef struct FillBuffer {
    uint8_t *start;
    size_t populated;
    size_t batch;
    int64_t populate_ns;
} FillBuffer;

/**
 * FillJob: one range being filled
 *
 * A piece is what is brought at once: the memory that one huge mapping of the
 * processor covers, or less if none will cover the range.
 *
 * @lost: a bit per small page
 * @started, @filled, @urgent: a bit per piece: being brought or further; in its
 *     place; waited for
 * @queue: the urgent pieces as they came; before @queue_head: dealt with
 * @left: pieces not filled
 * @move: pieces are moved, not copied, and so stay huge
 * @buffers: one for each thread
 * @at_once: pieces that one read may bring at most
 * @active: threads that work for it
 * @swapped: the range is in its place
 * @cancelled: its content is not needed any more; atomic
 * @stuck: the owner knows that there is a difficulty
 */
typedef struct FillJob {
    HugepageRange range;
    void *opaque;
    size_t piece;
    size_t pieces;
    size_t left;
    bool move;
    unsigned long *lost;
    unsigned long *started;
    unsigned long *filled;
    unsigned long *urgent;
    size_t *queue;
    size_t queue_head;
    size_t queue_tail;
    FillBuffer buffers[FILL_THREADS];
    size_t at_once;
    unsigned active;
    bool swapped;
    bool cancelled;
    bool stuck;
    int64_t start;
    int64_t swap_ns;
    QTAILQ_ENTRY(FillJob) next;
} FillJob;

/**
 * FillTask: what a thread does
 *
 * @count: pieces to bring from @piece on; 0: populate the buffer, or nothing
 * @alone: somebody waits for it, and it does not follow another one
 * @read_ns: processor's time of the read
 */
typedef struct FillTask {
    FillJob *job;
    size_t piece;
    size_t count;
    bool alone;
    int64_t read_ns;
} FillTask;

typedef struct FillWorker {
    HugepageFill *fill;
    unsigned buffer;
    FillTask task;
    QemuThread thread;
} FillWorker;

/**
 * HugepageFill: a filler
 *
 * @lock: protects @jobs, @reading, @calm_at, the tasks, and all that changes in
 *     a job but its buffers
 * @work: signalled when there may be something to do
 * @gone: signalled when a job is removed
 * @uffd: one for all jobs
 * @pagemap: /proc/self/pagemap
 * @workers: bring what is missing, @threads of them
 * @reading: one of them reads
 * @calm_at: until then only pieces that somebody waits for are begun
 * @events: reads the page faults, and lets mremap() pass
 * @wakeup: @events is to look at @swapping, or to end
 * @swapping: an event of mremap() is about to come; atomic
 * @can_move: the kernel has UFFDIO_MOVE
 */
struct HugepageFill {
    const HugepageFillOps *ops;
    const HugepageReader *reader;
    QemuMutex lock;
    QemuCond work;
    QemuCond gone;
    FillWorker workers[FILL_THREADS];
    unsigned threads;
    bool reading;
    int64_t calm_at;
    QemuThread events;
    EventNotifier wakeup;
    bool swapping;
    int uffd;
    int pagemap;
    bool can_move;
    bool stop;
    QTAILQ_HEAD(, FillJob) jobs;
};

/* Small pages in the range */
size_t fill_job_pages(const FillJob *job);

/* Bytes of all buffers together */
size_t fill_buffer_size(const FillJob *job);

void fill_job_free(FillJob *job);

/* The range that @host is in, or NULL; with the lock held. */
FillJob *fill_job_at(HugepageFill *fill, const void *host);

/* Of a FillWorker; ends when @stop is set and there is no job left. */
void *fill_thread(void *opaque);
/* Of a HugepageFill; ends so, too, when it is told by @wakeup. */
void *fill_events_thread(void *opaque);

#endif /* UTIL_HUGEPAGE_FILLER_H */
