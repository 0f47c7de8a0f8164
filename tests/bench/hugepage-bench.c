/*
 * Benchmark of the ways to rescue a poisoned huge page
 *
 * Interleaved: the algorithm of the patches of 2024, the eager and the lazy way
 * of qemu/hugepage-split.h, and the lazy way with nobody but one reader.  After
 * each rescue every word of the memory is verified.  The output has one value
 * per line; scripts/bench.py makes a table and pictures of it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <math.h>
#include <sys/mman.h>
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/hugepage-fill.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "hugepage-bench.h"

/* The touchers run that long before and after what is measured of them. */
#define SETTLE_NS (250 * SCALE_MS)
#define CALM_NS (150 * SCALE_MS)
#define MAX_SIZES 4

/**
 * Rescue: one rescue
 *
 * @on_page: how many touchers touch the huge page
 * @start: when the huge page became inaccessible
 * @filled: when all that can be read was in its place
 * @page_ns: how long the huge page as a whole was inaccessible
 * @standstill_ns: how long everybody stood still; an upper bound
 * @lost_pages: how many small pages were found lost
 * @done: @filled and @lost_pages are set
 */
typedef struct Rescue {
    BenchMemory *memory;
    BenchTouchers *touchers;
    HugepageFill *fill;
    unsigned on_page;
    int64_t start;
    int64_t filled;
    int64_t page_ns;
    int64_t standstill_ns;
    size_t lost_pages;
    QemuEvent done;
} Rescue;

typedef struct Way {
    const char *name;
    bool (*run)(Rescue *rescue, Error **errp);
    bool marks;
    bool lone;
} Way;

/*
 * What a run is told from the command line
 *
 * @busy: percentage of its time in which each toucher is to touch memory, or 0
 */
typedef struct Bench {
    unsigned rounds;
    unsigned busy;
    unsigned on_page;
    size_t warm;
    unsigned sizes;
    BenchMemory *memory[MAX_SIZES];
    HugepageFill *fill[MAX_SIZES];
} Bench;

/*
 * Everybody is stopped, the huge page is unmapped, populated small pages take
 * its place, and one pread() after the other fills them.  What the algorithm
 * does about the lost page is left out, in its favour.
 */
static bool rescue_2024(Rescue *rescue, Error **errp)
{
    const HugepageRange *range = &rescue->memory->range;
    const HugepageReader *reader = &rescue->memory->reader;
    size_t pos;

    bench_touchers_stop(rescue->touchers);
    munmap(range->host, range->size);
    if (mmap(range->host, range->size, PROT_READ | PROT_WRITE, MAP_PRIVATE |
             MAP_ANONYMOUS | MAP_FIXED | MAP_POPULATE, -1, 0) == MAP_FAILED) {
        error_setg_errno(errp, errno, "Cannot map small pages");
        return false;
    }
    for (pos = 0; pos < range->size; pos += range->small) {
        if (reader->read(reader->opaque, (uint8_t *)range->host + pos,
                         range->small, range->fd_offset + pos) < 0) {
            rescue->lost_pages++;
        }
    }
    rescue->filled = get_clock();
    rescue->page_ns = rescue->standstill_ns = rescue->filled - rescue->start;
    bench_touchers_go(rescue->touchers);
    qemu_event_set(&rescue->done);
    return true;
}

static bool rescue_eager(Rescue *rescue, Error **errp)
{
    HugepageSplitResult result;

    if (!hugepage_split(&rescue->memory->range, NULL, &rescue->memory->reader,
                        NULL, &result, errp)) {
        return false;
    }
    rescue->filled = get_clock();
    rescue->page_ns = rescue->filled - rescue->start;
    bench_touchers_go(rescue->touchers);
    rescue->lost_pages = result.lost_pages;
    hugepage_split_result_destroy(&result);
    qemu_event_set(&rescue->done);
    return true;
}

static void lazy_lost(void *opaque, size_t page)
{
}

static void lazy_filled(void *opaque, HugepageSplitResult *result)
{
    Rescue *rescue = opaque;

    rescue->filled = get_clock();
    rescue->lost_pages = result->lost_pages;
    hugepage_split_result_destroy(result);
    qemu_event_set(&rescue->done);
}

static void lazy_stuck(void *opaque, Error *err)
{
    warn_report("%s", error_get_pretty(err));
}

static const HugepageFillOps lazy_ops = {
    .lost = lazy_lost,
    .filled = lazy_filled,
    .stuck = lazy_stuck,
};

static bool rescue_lazy(Rescue *rescue, Error **errp)
{
    if (!hugepage_fill_swap(rescue->fill, &rescue->memory->range, NULL, rescue,
                            errp)) {
        return false;
    }
    rescue->page_ns = rescue->standstill_ns = get_clock() - rescue->start;
    bench_touchers_go(rescue->touchers);
    return true;
}

static const Way ways[] = {
    { "2024", rescue_2024 },
    { "eager", rescue_eager, .marks = true },
    { "lazy", rescue_lazy, .marks = true },
    { "lone", rescue_lazy, .marks = true, .lone = true },
};

/* One line of the output */
typedef struct Label {
    size_t size;
    const char *way;
    unsigned round;
} Label;

static void print_value(const Label *label, const char *item, int64_t at,
                        double value)
{
    printf("%zu,%s,%u,%s,%" PRId64 ",%.15g\n", label->size, label->way,
           label->round, item, at, value);
}

static void print_stalls(const Label *label, const Rescue *rescue)
{
    for (unsigned i = 0; i < BENCH_TOUCHERS; i++) {
        size_t count;
        const BenchStall *stall = bench_touchers_stalls(rescue->touchers, i,
                                                        &count);

        for (; count; count--, stall++) {
            const char *item = i < rescue->on_page ? "stall_ns"
                                                  : "neighbour_stall_ns";

            if (stall->start < rescue->start - CALM_NS ||
                stall->start >= rescue->filled) {
                continue;
            }
            if (stall->start + stall->ns <= rescue->start) {
                item = "calm_stall_ns";
            }
            print_value(label, item, stall->start - rescue->start, stall->ns);
        }
    }
}

static void print_reads(const Label *label, const Rescue *rescue)
{
    int64_t start;
    uint64_t reads;

    for (size_t slot = 0;
         bench_touchers_reads(rescue->touchers, slot, &start, &reads); slot++) {
        if (reads && start >= rescue->start - CALM_NS &&
            start < rescue->filled + CALM_NS) {
            print_value(label, "reads", start - rescue->start, reads);
        }
    }
}

/* All touchers together leave one processor free. */
static unsigned bench_busy(const Bench *bench, const Way *way)
{
    long free_cpus = sysconf(_SC_NPROCESSORS_ONLN) - 1;
    unsigned touchers = way->lone ? 1 : BENCH_TOUCHERS;

    return bench->busy ?: MIN(MAX(100 * free_cpus / touchers, 10), 100);
}

/* The rescue itself, and what is measured while the touchers run */
static bool bench_rescue(Bench *bench, const Way *way, const Label *label,
                         Rescue *rescue, Error **errp)
{
    size_t resident;
    bool ok;

    bench_warm(bench->warm);
    rescue->on_page = way->lone ? BENCH_PAGE_TOUCHERS : bench->on_page;
    rescue->touchers = bench_touchers_new(rescue->memory,
                                           bench_busy(bench, way),
                                           rescue->on_page, way->lone);
    g_usleep((SETTLE_NS + CALM_NS) / SCALE_US);
    ok = bench_resident_peak_reset(errp);
    resident = bench_resident();
    if (ok) {
        bench_touchers_page_away(rescue->touchers);
        rescue->start = get_clock();
        ok = way->run(rescue, errp);
    }
    if (!ok) {
        /* The huge page is gone for the touchers; there is no way on. */
        return false;
    }
    qemu_event_wait(&rescue->done);
    print_value(label, "extra_bytes", 0, bench_resident_peak() - resident);
    g_usleep(CALM_NS / SCALE_US);
    bench_touchers_end(rescue->touchers);

    print_value(label, "standstill_ns", 0, rescue->standstill_ns);
    print_value(label, "page_ns", 0, rescue->page_ns);
    print_value(label, "fill_ns", 0, rescue->filled - rescue->start);
    print_value(label, "touchers", 0, way->lone ? 1 : rescue->on_page);
    print_stalls(label, rescue);
    print_reads(label, rescue);
    ok = bench_touchers_check(rescue->touchers, errp);
    bench_touchers_free(rescue->touchers);
    return ok;
}

static bool bench_one(Bench *bench, unsigned which, const Way *way,
                      unsigned round, Error **errp)
{
    ERRP_GUARD();
    BenchMemory *memory = bench->memory[which];
    const Label label = { memory->range.size, way->name, round };
    Rescue rescue = { .memory = memory, .fill = bench->fill[which] };
    unsigned mappings;
    double share;
    bool ok;

    bench_memory_refill(memory);
    print_value(&label, "copy_ns", 0, bench_memory_copy(memory));
    print_value(&label, "rate_before", 0, bench_memory_read_rate(memory));
    qemu_event_init(&rescue.done, false);
    ok = bench_rescue(bench, way, &label, &rescue, errp);
    qemu_event_destroy(&rescue.done);
    if (ok && rescue.lost_pages != 1) {
        error_setg(errp, "Lost %zu small pages instead of one",
                   rescue.lost_pages);
        ok = false;
    }
    if (!ok || !bench_memory_verify(memory, way->marks, errp)) {
        error_prepend(errp, "%s, %zu MiB: ", way->name,
                      memory->range.size / MiB);
        return false;
    }
    print_value(&label, "rate_after", 0, bench_memory_read_rate(memory));
    share = bench_memory_huge_share(memory, &mappings);
    if (!isnan(share)) {
        print_value(&label, "huge_share", 0, share);
    }
    print_value(&label, "mappings", 0, mappings);
    print_value(&label, "verified", 0, 1);
    fflush(stdout);
    return hugepage_split_undo(&memory->range, NULL, errp);
}

static bool bench_all(Bench *bench, Error **errp)
{
    for (unsigned round = 0; round < bench->rounds; round++) {
        for (unsigned which = 0; which < bench->sizes; which++) {
            for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
                /* No way always comes first. */
                const Way *way = &ways[(i + round) % ARRAY_SIZE(ways)];

                if (!bench_one(bench, which, way, round, errp)) {
                    return false;
                }
            }
        }
    }
    return true;
}

static void usage(const char *name)
{
    printf("Usage: %s [-r ROUNDS] [-b PERCENT] [-t COUNT] [-w SIZE] SIZE...\n"
           "  SIZE  of the huge pages, e.g. 2M 1G\n"
           "  -r    how often each way is measured (5)\n"
           "  -b    time in which each thread touches memory (all of them\n"
           "        together leave one processor free)\n"
           "  -t    how many threads touch the huge page (%d); the others\n"
           "        keep to its neighbour\n"
           "  -w    memory to touch before each rescue, e.g. 4G\n", name,
           BENCH_PAGE_TOUCHERS);
}

static bool bench_add(Bench *bench, const char *arg, Error **errp)
{
    unsigned which = bench->sizes;
    uint64_t size;

    if (which == MAX_SIZES || qemu_strtosz(arg, NULL, &size) < 0) {
        error_setg(errp, "'%s': no size, or too many of them", arg);
        return false;
    }
    bench->memory[which] = bench_memory_new(size, errp);
    if (!bench->memory[which]) {
        return false;
    }
    bench->fill[which] = hugepage_fill_new(&lazy_ops,
                                           &bench->memory[which]->reader, errp);
    bench->sizes += bench->fill[which] != NULL;
    return bench->fill[which];
}

static void bench_options(Bench *bench, int argc, char **argv)
{
    int c;

    bench->rounds = 5;
    bench->on_page = BENCH_PAGE_TOUCHERS;
    bench->warm = 4 * GiB;
    while ((c = getopt(argc, argv, "r:b:t:w:")) != -1) {
        bool ok = false;
        uint64_t size;

        switch (c) {
        case 'r':
            ok = qemu_strtoui(optarg, NULL, 10, &bench->rounds) == 0;
            break;
        case 'b':
            ok = qemu_strtoui(optarg, NULL, 10, &bench->busy) == 0 &&
                 bench->busy >= 1 && bench->busy <= 100;
            break;
        case 't':
            ok = qemu_strtoui(optarg, NULL, 10, &bench->on_page) == 0 &&
                 bench->on_page >= 1 && bench->on_page <= BENCH_PAGE_TOUCHERS;
            break;
        case 'w':
            ok = qemu_strtosz(optarg, NULL, &size) == 0;
            bench->warm = size;
            break;
        }
        if (!ok) {
            usage(argv[0]);
            exit(1);
        }
    }
    if (optind == argc) {
        usage(argv[0]);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    Bench bench = { 0 };
    Error *err = NULL;

    error_init(argv[0]);
    bench_options(&bench, argc, argv);
    for (; optind < argc; optind++) {
        if (!bench_add(&bench, argv[optind], &err)) {
            error_report_err(err);
            return 1;
        }
    }
    printf("size,way,round,item,at,value\n");
    if (!bench_all(&bench, &err)) {
        error_report_err(err);
        return 1;
    }
    while (bench.sizes--) {
        hugepage_fill_free(bench.fill[bench.sizes]);
        bench_memory_free(bench.memory[bench.sizes]);
    }
    return 0;
}
