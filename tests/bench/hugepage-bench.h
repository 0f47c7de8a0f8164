/*
 * Benchmark of the ways to rescue a poisoned huge page: memory and touchers
 *
 * The memory is two huge pages of a file; the second is rescued.
 * Every word of it tells where it belongs and how often it was written, so
 * that each byte can be verified afterwards.  The touchers are threads that
 * read and write it meanwhile, as a guest would.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HUGEPAGE_BENCH_H
#define HUGEPAGE_BENCH_H

#include "qemu/hugepage-split.h"

enum {
    BENCH_HUGE_PAGES = 2,
    BENCH_RESCUED = 1,
    BENCH_WRITERS = 2,
    BENCH_READERS = 2,
    /* A reader */
    BENCH_LONE = BENCH_WRITERS,
    BENCH_PAGE_TOUCHERS = BENCH_WRITERS + BENCH_READERS,
    /* Reads the healthy huge page only. */
    BENCH_NEIGHBOUR = BENCH_PAGE_TOUCHERS,
    BENCH_TOUCHERS,
};

/**
 * BenchMemory: the memory
 *
 * @range: the huge page to be rescued
 * @base: where the memory starts
 * @bad: the small page of @range that cannot be read
 * @reader: pread() on the file, but EIO for @bad
 * @versions: what each writer wrote last into each small page, each writer's
 *            own; see bench_version()
 */
typedef struct BenchMemory {
    HugepageRange range;
    uint64_t *base;
    size_t bad;
    HugepageReader reader;
    uint32_t *versions;
} BenchMemory;

/* Each writer has one word of its own in each small page; its index in words */
static inline size_t bench_own_word(const BenchMemory *memory, size_t page,
                                    unsigned writer)
{
    size_t words = memory->range.small / sizeof(uint64_t);

    return page * words + (page * 8 + writer) % words;
}

static inline uint32_t *bench_version(BenchMemory *memory, size_t page,
                                      unsigned writer)
{
    return &memory->versions[page * BENCH_WRITERS + writer];
}

/* The place in the upper bits, the version in the lower */
static inline uint64_t bench_word(size_t word, uint32_t version)
{
    return (word * 0x9E3779B97F4A7C15ULL) << 24 | (version & 0xFFFFFF);
}

static inline uint64_t bench_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

BenchMemory *bench_memory_new(size_t size, Error **errp);
void bench_memory_free(BenchMemory *memory);

/* Write the huge page that is rescued anew, and touch every small page. */
void bench_memory_refill(BenchMemory *memory);

/**
 * bench_memory_verify: is every word as it was written last?
 *
 * @marked: a touch of the bad small page must raise SIGBUS
 */
bool bench_memory_verify(BenchMemory *memory, bool marked, Error **errp);

/* Nanoseconds of one memcpy() of the huge page into populated memory */
int64_t bench_memory_copy(const BenchMemory *memory);

/* Random reads of the huge page by one thread, per second of its CPU time */
double bench_memory_read_rate(const BenchMemory *memory);

/**
 * bench_memory_huge_share: transparent huge pages where they could be
 *
 * @mappings: set to the count of mappings
 *
 * Returns: their share of the extents without the bad small page, or NAN
 */
double bench_memory_huge_share(const BenchMemory *memory, unsigned *mappings);

/* Small pages of this process, in bytes, now and at most since the reset */
size_t bench_resident(void);
size_t bench_resident_peak(void);
bool bench_resident_peak_reset(Error **errp);

/* Make sure that the host's memory is there before it is measured. */
void bench_warm(size_t size);

/**
 * BenchStall: a touch that took longer than BENCH_STALL_NS, in nanoseconds
 */
typedef struct BenchStall {
    int64_t start;
    int64_t ns;
} BenchStall;

#define BENCH_STALL_NS 5000
/* Reads are counted per this time. */
#define BENCH_SLOT_NS 100000

typedef struct BenchTouchers BenchTouchers;

/**
 * bench_touchers_new: start them
 *
 * @busy: percentage of its time in which each touches memory
 * @on_page: how many of them touch the huge page that is rescued, up to
 *     BENCH_PAGE_TOUCHERS; the others keep to its neighbour
 * @lone: only one reader, of the huge page that is rescued and its neighbour
 */
BenchTouchers *bench_touchers_new(BenchMemory *memory, unsigned busy,
                                  unsigned on_page, bool lone);

/**
 * bench_touchers_page_away: make the huge page inaccessible, as poison would
 *
 * Who touches it from now on waits in a signal handler, as a vCPU does, until
 * bench_touchers_go().
 */
void bench_touchers_page_away(BenchTouchers *touchers);

/*
 * Stop every toucher, wherever it is, and wait until they stand; only after
 * bench_touchers_page_away().
 */
void bench_touchers_stop(BenchTouchers *touchers);

/* Let all go on. */
void bench_touchers_go(BenchTouchers *touchers);

/* End the threads; what they measured stays. */
void bench_touchers_end(BenchTouchers *touchers);
void bench_touchers_free(BenchTouchers *touchers);

/* Did a reader see a word that is not from its place? */
bool bench_touchers_check(const BenchTouchers *touchers, Error **errp);

const BenchStall *bench_touchers_stalls(const BenchTouchers *touchers,
                                        unsigned toucher, size_t *count);

/**
 * bench_touchers_reads: reads of all readers within a time slot
 *
 * @start: set to the time at which the slot began
 *
 * Returns: false if there is no such slot.
 */
bool bench_touchers_reads(const BenchTouchers *touchers, size_t slot,
                          int64_t *start, uint64_t *reads);

#endif /* HUGEPAGE_BENCH_H */
