/*
 * Benchmark of the ways to rescue a poisoned huge page: who touches it
 *
 * Each touch is timed by the clock at its end and at the end of the one
 * before, so that no time is missed.  Threads that are on the processor too
 * much would only measure how the scheduler divides it: each works in bursts.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "hugepage-bench.h"

#define BURST_NS (50 * SCALE_US)
#define MAX_STALLS (1 << 18)
/* 30 seconds */
#define MAX_SLOTS (30 * (NANOSECONDS_PER_SECOND / BENCH_SLOT_NS))

typedef struct BenchToucher {
    BenchTouchers *all;
    unsigned id;
    QemuThread thread;
    uint64_t random;
    BenchStall *stalls;
    size_t stall_count;
    uint32_t *reads;
} BenchToucher;

/**
 * BenchTouchers: all of them
 *
 * @first, @count: those that there are
 * @gate: set if they may go on
 * @stop: every toucher goes to the gate
 * @waiting: how many are there
 * @wrong: a word that did not hold what it should, plus one
 */
struct BenchTouchers {
    BenchMemory *memory;
    unsigned busy;
    unsigned on_page;
    unsigned first;
    unsigned count;
    int64_t start;
    QemuEvent gate;
    bool stop;
    bool end;
    unsigned waiting;
    size_t wrong;
    BenchToucher toucher[BENCH_TOUCHERS];
};

/* For the signal handler: who is it? */
static __thread BenchToucher *self;

static void wait_at_gate(BenchTouchers *all)
{
    qatomic_inc(&all->waiting);
    qemu_event_wait(&all->gate);
    qatomic_dec(&all->waiting);
}

/* A load or store of our own raised it, so nothing is interrupted midway. */
static void page_is_away(int sig, siginfo_t *info, void *context)
{
    const HugepageRange *range;

    if (self) {
        range = &self->all->memory->range;
        if ((uintptr_t)info->si_addr - (uintptr_t)range->host < range->size) {
            wait_at_gate(self->all);
            return;
        }
    }
    signal(sig, SIG_DFL);
}

/*
 * Half of the touches go to the huge page, if at all, the others to its
 * neighbour.
 */
static size_t toucher_page(BenchToucher *t)
{
    const BenchMemory *memory = t->all->memory;
    size_t pages = memory->range.size / memory->range.small;
    uint64_t random = bench_random(&t->random);
    size_t page = (random >> 8) & (pages - 1);

    if (t->id >= t->all->on_page || (random & 1)) {
        return page;
    }
    return pages + (page == memory->bad ? page + 1 : page);
}

static void toucher_touch(BenchToucher *t, int64_t now)
{
    BenchMemory *memory = t->all->memory;
    size_t words = memory->range.small / sizeof(uint64_t);
    size_t page = toucher_page(t);
    size_t word;

    if (t->id < BENCH_WRITERS) {
        uint32_t version = *bench_version(memory, page, t->id) + 1;

        word = bench_own_word(memory, page, t->id);
        qatomic_set(&memory->base[word], bench_word(word, version));
        *bench_version(memory, page, t->id) = version;
        return;
    }
    word = page * words + (bench_random(&t->random) & (words - 1));
    if ((qatomic_read(&memory->base[word]) ^ bench_word(word, 0)) >> 24) {
        qatomic_set(&t->all->wrong, word + 1);
    }
    if (t->id != BENCH_NEIGHBOUR) {
        t->reads[MIN((now - t->all->start) / BENCH_SLOT_NS, MAX_SLOTS - 1)]++;
    }
}

static int64_t toucher_burst(BenchToucher *t, int64_t last)
{
    BenchTouchers *all = t->all;
    int64_t end = last + BURST_NS;

    while (last < end) {
        int64_t now;

        if (qatomic_read(&all->stop)) {
            wait_at_gate(all);
        }
        toucher_touch(t, last);
        now = get_clock();
        if (now - last > BENCH_STALL_NS && t->stall_count < MAX_STALLS) {
            t->stalls[t->stall_count++] = (BenchStall) { last, now - last };
        }
        last = now;
    }
    return last;
}

static void *toucher_thread(void *opaque)
{
    BenchToucher *t = opaque;
    BenchTouchers *all = t->all;
    int64_t idle = BURST_NS * (100 - all->busy) / all->busy;
    sigset_t set;

    /* qemu_thread_create() blocks every signal. */
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    self = t;
    while (!qatomic_read(&all->end)) {
        toucher_burst(t, get_clock());
        if (idle) {
            g_usleep(idle / SCALE_US);
        }
    }
    return NULL;
}

/* Memory that costs nothing while the touchers run */
static void *log_new(size_t size)
{
    void *log = g_malloc(size);

    memset(log, 0, size);
    return log;
}

BenchTouchers *bench_touchers_new(BenchMemory *memory, unsigned busy,
                                  unsigned on_page, bool lone)
{
    BenchTouchers *all = g_new0(BenchTouchers, 1);
    const struct sigaction action = {
        .sa_sigaction = page_is_away,
        .sa_flags = SA_SIGINFO,
    };

    sigaction(SIGSEGV, &action, NULL);
    all->memory = memory;
    all->busy = busy;
    all->on_page = on_page;
    all->start = get_clock();
    qemu_event_init(&all->gate, true);
    all->first = lone ? BENCH_LONE : 0;
    all->count = lone ? 1 : BENCH_TOUCHERS;
    for (unsigned i = all->first; i < all->first + all->count; i++) {
        BenchToucher *t = &all->toucher[i];

        t->all = all;
        t->id = i;
        t->random = 88172645463325252ULL * (i + 1);
        t->stalls = log_new(MAX_STALLS * sizeof(BenchStall));
        t->reads = log_new(MAX_SLOTS * sizeof(uint32_t));
        qemu_thread_create(&t->thread, "toucher", toucher_thread, t,
                           QEMU_THREAD_JOINABLE);
    }
    return all;
}

void bench_touchers_page_away(BenchTouchers *touchers)
{
    const HugepageRange *range = &touchers->memory->range;

    qemu_event_reset(&touchers->gate);
    mprotect(range->host, range->size, PROT_NONE);
}

void bench_touchers_stop(BenchTouchers *touchers)
{
    qatomic_set(&touchers->stop, true);
    while (qatomic_read(&touchers->waiting) < touchers->count) {
        g_usleep(1);
    }
}

void bench_touchers_go(BenchTouchers *touchers)
{
    qatomic_set(&touchers->stop, false);
    qemu_event_set(&touchers->gate);
}

void bench_touchers_end(BenchTouchers *touchers)
{
    qatomic_set(&touchers->end, true);
    for (unsigned i = 0; i < touchers->count; i++) {
        qemu_thread_join(&touchers->toucher[touchers->first + i].thread);
    }
}

void bench_touchers_free(BenchTouchers *touchers)
{
    for (unsigned i = 0; i < BENCH_TOUCHERS; i++) {
        g_free(touchers->toucher[i].stalls);
        g_free(touchers->toucher[i].reads);
    }
    qemu_event_destroy(&touchers->gate);
    g_free(touchers);
}

bool bench_touchers_check(const BenchTouchers *touchers, Error **errp)
{
    if (touchers->wrong) {
        error_setg(errp, "Corrupt: word %zu was read wrong",
                   touchers->wrong - 1);
        return false;
    }
    for (unsigned i = 0; i < BENCH_TOUCHERS; i++) {
        if (touchers->toucher[i].stall_count == MAX_STALLS) {
            error_setg(errp, "More than %d touches took over %d ns",
                       MAX_STALLS, BENCH_STALL_NS);
            return false;
        }
    }
    return true;
}

const BenchStall *bench_touchers_stalls(const BenchTouchers *touchers,
                                        unsigned toucher, size_t *count)
{
    *count = touchers->toucher[toucher].stall_count;
    return touchers->toucher[toucher].stalls;
}

bool bench_touchers_reads(const BenchTouchers *touchers, size_t slot,
                          int64_t *start, uint64_t *reads)
{
    if (slot >= MAX_SLOTS) {
        return false;
    }
    *start = touchers->start + slot * BENCH_SLOT_NS;
    *reads = 0;
    for (unsigned i = touchers->first;
         i < touchers->first + touchers->count; i++) {
        *reads += touchers->toucher[i].reads[slot];
    }
    return true;
}
