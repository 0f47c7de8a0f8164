/*
 * Ranges, touching threads and checks for the tests of the filler
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HUGEPAGE_FILL_HELPERS_H
#define HUGEPAGE_FILL_HELPERS_H

#include "qemu/hugepage-fill.h"
#include "qemu/thread.h"
#include "hugepage-split-helpers.h"

/* What is brought at once where a small page has 4 KiB, as on most hosts */
#define FILL_HUGE(page) ((page)->range.small / 8 * (page)->range.small)
#define FILL_PIECE(page) \
    ((page)->range.size > FILL_HUGE(page) ? FILL_HUGE(page) : 65536)

/* How long the filler may take, in milliseconds, however busy the machine */
#define FILL_PATIENCE 120000

typedef struct FillTest FillTest;

/**
 * FillRange: a range to be swapped, and what must come of it
 *
 * @fake: what cannot be read of it, and how reading goes wrong
 * @pattern: its bytes at first
 * @words: its bytes now; each word is written by one thread at most
 * @known, @unreadable, @lose, @cut: small pages given to hugepage_fill_swap();
 *     with an error in the file; taken by hugepage_fill_lose(); refused by it,
 *     so that hugepage_split_lose() replaced them
 * @told: the owner was told that the page is lost
 * @may_fail, @must_fail: a touch that ends now may raise SIGBUS; one that
 *     starts now must
 * @cancelled: its content does not matter any more
 * @filled, @stuck: calls of these
 */
typedef struct FillRange {
    FillTest *test;
    TestPage page;
    FakeReader fake;
    uint64_t *pattern;
    uint64_t *words;
    unsigned long *known;
    unsigned long *unreadable;
    unsigned long *lose;
    unsigned long *cut;
    bool *told;
    bool *may_fail;
    bool *must_fail;
    bool cancelled;
    unsigned filled;
    unsigned stuck;
    HugepageSplitResult result;
    QemuSemaphore done;
} FillRange;

#define FILL_RANGES 4
#define FILL_ORDER 64

/**
 * FillTest: a filler and its ranges, all of different sizes
 *
 * Each range is the second half of a file of its own, so that their file
 * offsets differ and tell the reader which one is meant.
 *
 * @ops: one piece at once, by one thread, unless a test changes it
 * @on_piece: called in the filler's thread before it reads a piece
 * @order: pieces in the order of reading, numbered through all ranges by
 *         fill_piece_id()
 * @hold: fill_piece_id() of a piece at which the filler waits, or -1
 * @hold_lost: it waits when it has told of a lost page, once
 * @held, @release: the filler waits; let it go on
 */
struct FillTest {
    HugepageFill *fill;
    HugepageFillOps ops;
    HugepageReader reader;
    FillRange ranges[FILL_RANGES];
    size_t n;
    void (*on_piece)(FillRange *range, size_t piece, void *buffer);
    GRand *rand;
    size_t order[FILL_ORDER];
    size_t reads;
    ssize_t hold;
    bool hold_lost;
    QemuSemaphore held;
    QemuSemaphore release;
};

/* False, and the test is skipped, without permission or such memory. */
bool fill_test_init(FillTest *test, const TestMemory *memories, size_t n);
void fill_test_destroy(FillTest *test);
/* A new filler, when the old one is done; 0 threads: as many as usual */
void fill_test_restart(FillTest *test, unsigned threads);

ssize_t fill_piece_id(const FillRange *range, size_t piece);

/* The range as it was at first, nothing lost */
void fill_range_renew(FillRange *range);
void fill_range_set_unreadable(FillRange *range, size_t page);
void fill_range_set_known(FillRange *range, size_t page);
void fill_range_swap(FillRange *range);
/* The page turns out lost, whatever is done with its piece just now. */
void fill_range_lose(FillRange *range, size_t page);
void fill_range_wait(FillRange *range);
/* Returns: false if it was filled before. */
bool fill_range_cancel(FillRange *range);
/* After it is filled: every byte, every call, what is left of the old page */
void fill_range_check(FillRange *range);

/* Bytes of the range that its file still has */
size_t fill_range_allocated(const FillRange *range);

/**
 * Toucher: a thread that loads and stores all over some ranges
 *
 * @id: of a writer: which words are its own; negative: a reader
 * @kernel: pipe by which a system call does it every now and then
 */
typedef struct Toucher {
    QemuThread thread;
    FillRange **ranges;
    size_t n;
    int id;
    bool stop;
    uint64_t state;
    int kernel[2];
} Toucher;

void toucher_start(Toucher *toucher, int id, uint64_t seed, FillRange **ranges,
                   size_t n);
void toucher_stop(Toucher *toucher);

/**
 * Waiter: a thread that calls something that has to wait for the filler
 */
typedef struct Waiter {
    QemuThread thread;
    void (*run)(void *opaque);
    void *opaque;
    int tid;
} Waiter;

/* Returns when the thread sleeps. */
void waiter_start(Waiter *waiter, void (*run)(void *opaque), void *opaque);
void waiter_join(Waiter *waiter);

#endif /* HUGEPAGE_FILL_HELPERS_H */
