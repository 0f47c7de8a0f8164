/*
 * Tests for the filler that replaces poisoned huge pages at once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/bitmap.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "hugepage-fill-helpers.h"

static const TestMemory huge = { .name = "hugetlb", .hugetlb = true,
                                 .size = 2 * MiB };
static const TestMemory file4 = { .name = "file", .size = 4 * MiB };
static const TestMemory files[] = {
    { .name = "file-8m", .size = 8 * MiB },
    { .name = "file-16m", .size = 16 * MiB },
};
static const TestMemory all[] = {
    { .name = "hugetlb", .hugetlb = true, .size = 2 * MiB },
    { .name = "file", .size = 4 * MiB },
    { .name = "file-8m", .size = 8 * MiB },
    { .name = "file-16m", .size = 16 * MiB },
};

static void hold_at(FillTest *test, FillRange *range, size_t piece)
{
    test->reads = 0;
    qatomic_set(&test->hold, fill_piece_id(range, piece));
}

static void wait_held(FillTest *test)
{
    g_assert(qemu_sem_timedwait(&test->held, FILL_PATIENCE) == 0);
    qatomic_set(&test->hold, -1);
}

static void assert_order(FillTest *test, const size_t *order, size_t n)
{
    size_t i;

    g_assert_cmpuint(test->reads, ==, n);
    for (i = 0; i < n; i++) {
        g_assert_cmpuint(test->order[i], ==, order[i]);
    }
}

typedef struct Load {
    FillRange *range;
    size_t pos;
} Load;

static void load(void *opaque)
{
    const Load *load = opaque;
    uint64_t word;

    g_assert(try_load(load->range->page.range.host + load->pos, &word));
    g_assert_cmphex(word, ==, load->range->pattern[load->pos / sizeof(word)]);
}

/*
 * Both in their place, and the filler waits in the second piece of @a.  A swap
 * need not wait for a filler that is busy.
 */
static void swap_both(FillTest *test, FillRange *a, FillRange *b)
{
    hold_at(test, a, 0);
    fill_range_swap(a);
    wait_held(test);
    fill_range_swap(b);
    qatomic_set(&test->hold, fill_piece_id(a, 1));
    qemu_sem_post(&test->release);
    wait_held(test);
}

/* What is waited for comes first, whatever range it is in, as it was asked. */
static void test_urgent(void)
{
    FillTest test;
    FillRange *a = &test.ranges[0], *b = &test.ranges[1];
    Load loads[] = { { a, 3 * 2 * MiB + 8 }, { b, 6 * 2 * MiB },
                     { b, 5 * 2 * MiB - 8 } };
    Waiter waiters[ARRAY_SIZE(loads)];
    size_t order[12], n = 0, i;

    if (!fill_test_init(&test, files, ARRAY_SIZE(files))) {
        return;
    }
    swap_both(&test, a, b);
    for (i = 0; i < ARRAY_SIZE(loads); i++) {
        waiter_start(&waiters[i], load, &loads[i]);
    }
    qatomic_set(&test.hold, fill_piece_id(b, 7));
    qemu_sem_post(&test.release);
    for (i = 0; i < ARRAY_SIZE(loads); i++) {
        waiter_join(&waiters[i]);
    }
    wait_held(&test);
    g_assert_cmpuint(a->filled, ==, 1);
    g_assert_cmpuint(b->filled, ==, 0);
    g_assert_cmpuint(fill_range_allocated(a), ==, 0);
    g_assert_cmpuint(fill_range_allocated(b), ==, b->page.range.size);
    g_assert_false(hugepage_fill_is_missing(test.fill, b->page.range.host));
    g_assert(hugepage_fill_is_missing(test.fill, b->page.range.host +
                                      b->page.range.size - 1));
    qemu_sem_post(&test.release);
    fill_range_wait(a);
    fill_range_wait(b);

    order[n++] = fill_piece_id(a, 0);
    order[n++] = fill_piece_id(a, 1);
    order[n++] = fill_piece_id(a, 3);
    order[n++] = fill_piece_id(b, 6);
    order[n++] = fill_piece_id(b, 4);
    order[n++] = fill_piece_id(a, 2);
    for (i = 0; i < 8; i++) {
        if (i != 4 && i != 6) {
            order[n++] = fill_piece_id(b, i);
        }
    }
    assert_order(&test, order, n);
    fill_range_check(a);
    fill_range_check(b);
    fill_test_destroy(&test);
}

/* Who touches a huge page without huge mappings does not wait for all of it. */
static void test_urgent_small(void)
{
    FillTest test;
    FillRange *range = &test.ranges[0];
    Load wanted = { range };
    size_t order[32] = { 0, 20 }, n = 2, i;
    Waiter waiter;

    if (!fill_test_init(&test, &huge, 1)) {
        return;
    }
    wanted.pos = 20 * FILL_PIECE(&range->page) + 8;
    hold_at(&test, range, 0);
    fill_range_swap(range);
    wait_held(&test);
    waiter_start(&waiter, load, &wanted);
    qatomic_set(&test.hold, fill_piece_id(range, 1));
    qemu_sem_post(&test.release);
    waiter_join(&waiter);
    wait_held(&test);
    g_assert_cmpuint(hugepage_fill_missing(test.fill), ==,
                     range->page.range.size - 2 * FILL_PIECE(&range->page));
    qemu_sem_post(&test.release);
    fill_range_wait(range);
    for (i = 1; i < ARRAY_SIZE(order); i++) {
        if (i != 20) {
            order[n++] = i;
        }
    }
    assert_order(&test, order, n);
    fill_range_check(range);
    fill_test_destroy(&test);
}

/* Which pages are lost, by each of the ways to find out */

typedef enum Lost { NONE, FIRST, LAST, ENDS, PIECE, ODD, ALL } Lost;

static const char *const lost_names[] = {
    "none", "first", "last", "ends", "piece", "odd", "all"
};

static bool is_lost(Lost lost, size_t i, const FillRange *range)
{
    size_t last = range->page.pages - 1;

    return (lost == FIRST && i == 0) || (lost == LAST && i == last) ||
           (lost == ENDS && (i == 0 || i == last)) ||
           (lost == PIECE && i < FILL_PIECE(&range->page) /
                                 range->page.range.small) ||
           (lost == ODD && i % 2) || lost == ALL;
}

/* While the filler waits in the first piece */
static void lost_case(FillTest *test, FillRange *range, Lost lost, unsigned way)
{
    size_t i;

    fill_range_renew(range);
    for (i = 0; i < range->page.pages; i++) {
        if (is_lost(lost, i, range)) {
            if (way & 1) {
                fill_range_set_known(range, i);
            }
            if (way & 2) {
                fill_range_set_unreadable(range, i);
            }
        }
    }
    if (way & 4) {
        hold_at(test, range, 0);
        fill_range_swap(range);
        wait_held(test);
        for (i = 0; i < range->page.pages; i++) {
            if (is_lost(lost, i, range)) {
                fill_range_lose(range, i);
            }
        }
        qemu_sem_post(&test->release);
    } else {
        fill_range_swap(range);
    }
    fill_range_wait(range);
    fill_range_check(range);
}

static void test_lost(const void *opaque)
{
    FillTest test;
    Lost lost;

    if (!fill_test_init(&test, opaque, 1)) {
        return;
    }
    for (lost = NONE; lost <= ALL; lost++) {
        unsigned way;

        g_test_message("%s", lost_names[lost]);
        for (way = 1; way < 8; way++) {
            /* With all known there is no read to wait in. */
            if (lost < PIECE || (way & 5) != 5) {
                lost_case(&test, &test.ranges[0], lost, way);
            }
        }
    }
    fill_test_destroy(&test);
}

/*
 * Threads that are about to wait for a page when it becomes a marker: nothing
 * but the filler will wake them, and it is busy with another piece.
 */
typedef struct Chaser {
    QemuThread thread;
    FillRange *range;
    QemuSemaphore *done;
} Chaser;

static void *chaser_thread(void *opaque)
{
    Chaser *chaser = opaque;
    TestPage *page = &chaser->range->page;
    size_t i;

    for (i = 1; i < FILL_PIECE(page) / page->range.small; i += 2) {
        uint64_t word;

        g_assert_false(try_load(page->range.host + i * page->range.small,
                                &word));
    }
    qemu_sem_post(chaser->done);
    return NULL;
}

static void test_woken(void)
{
    FillTest test;
    FillRange *range = &test.ranges[0];
    QemuSemaphore done;
    Chaser chasers[3];
    size_t round, i;

    if (!fill_test_init(&test, &file4, 1)) {
        return;
    }
    qemu_sem_init(&done, 0);
    for (round = 0; round < 60; round++) {
        fill_range_renew(range);
        for (i = 1; i < range->page.pages; i += 2) {
            fill_range_set_unreadable(range, i);
        }
        hold_at(&test, range, 1);
        fill_range_swap(range);
        for (i = 0; i < ARRAY_SIZE(chasers); i++) {
            chasers[i].range = range;
            chasers[i].done = &done;
            qemu_thread_create(&chasers[i].thread, "chaser", chaser_thread,
                               &chasers[i], QEMU_THREAD_JOINABLE);
        }
        for (i = 0; i < ARRAY_SIZE(chasers); i++) {
            g_assert(qemu_sem_timedwait(&done, FILL_PATIENCE / 4) == 0);
        }
        wait_held(&test);
        qemu_sem_post(&test.release);
        fill_range_wait(range);
        for (i = 0; i < ARRAY_SIZE(chasers); i++) {
            qemu_thread_join(&chasers[i].thread);
        }
        fill_range_check(range);
    }
    qemu_sem_destroy(&done);
    fill_test_destroy(&test);
}

/* On how many processors each thread of this process may run */
static char *threads_affinity(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/task", 0, NULL);
    GString *all = g_string_new(NULL);
    const char *name;

    g_assert(dir);
    while ((name = g_dir_read_name(dir))) {
        cpu_set_t cpus;

        g_assert(!sched_getaffinity(atoi(name), sizeof(cpus), &cpus));
        g_string_append_printf(all, "%s: %d\n", name, CPU_COUNT(&cpus));
    }
    return g_string_free(all, false);
}

/* A swap that fails leaves the range as it was, and the filler in order. */

static bool swap_fails(FillRange *range, unsigned nth)
{
    g_autoptr(Error) err = NULL;
    Resources before;
    bool ok, failed;

    fill_range_renew(range);
    fill_range_set_known(range, 7);
    before = resources_count(&range->page);
    if (nth) {
        faults_arm(nth, 1, ENOMEM);
    } else {
        faults_arm_torn_mremap();
    }
    ok = hugepage_fill_swap(range->test->fill, &range->page.range,
                            range->known, range, &err);
    g_assert(!ok || faults_advisory() || nth);
    failed = faults_disarm();
    g_assert(ok == !err);
    g_assert(ok || failed);
    if (ok) {
        fill_range_wait(range);
        fill_range_check(range);
    } else {
        if (nth) {
            assert_no_leak(&range->page, &before);
        }
        assert_untouched(&range->page);
        g_assert_false(hugepage_fill_is_missing(range->test->fill,
                                                range->page.range.host));
        g_assert_cmpuint(range->filled, ==, 0);
    }
    return failed;
}

static void test_swap_fails(const void *opaque)
{
    FillTest test;
    FillRange *range = &test.ranges[0];
    g_autofree char *before = NULL;
    g_autofree char *after = NULL;
    HugepageRange bad;
    unsigned nth = 1;

    if (!fill_test_init(&test, opaque, 1)) {
        return;
    }
    before = threads_affinity();
    range->page.range.settings.nodump = true;
    while (swap_fails(range, nth)) {
        nth++;
    }
    g_test_message("%u calls failed in turn", nth - 1);
    g_assert_cmpuint(nth, >, 10);
    g_assert(swap_fails(range, 0));

    bad = range->page.range;
    bad.host += bad.small;
    g_assert_false(hugepage_fill_swap(test.fill, &bad, NULL, range, NULL));
    bad = range->page.range;
    bad.fd_offset += bad.small;
    g_assert_false(hugepage_fill_swap(test.fill, &bad, NULL, range, NULL));
    bad = range->page.range;
    bad.size += bad.small;
    g_assert_false(hugepage_fill_swap(test.fill, &bad, NULL, range, NULL));
    fill_range_renew(range);
    fill_range_swap(range);
    fill_range_wait(range);
    fill_range_check(range);
    after = threads_affinity();
    g_assert_cmpstr(after, ==, before);
    fill_test_destroy(&test);
}

/* The filler meets difficulties, and goes on when they are over. */

static unsigned fail_from;

static void fail_in_first_piece(FillRange *range, size_t piece, void *buffer)
{
    faults_disarm();
    if (piece == 0) {
        faults_arm(fail_from, 6, ENOMEM);
    }
}

static void test_stuck(void)
{
    FillTest test;
    FillRange *range = &test.ranges[0];
    unsigned stuck = 0;

    if (!fill_test_init(&test, &file4, 1)) {
        return;
    }
    test.on_piece = fail_in_first_piece;
    for (fail_from = 1; fail_from <= 8; fail_from++) {
        fill_range_renew(range);
        fill_range_set_unreadable(range, 3);
        fill_range_set_known(range, 5);
        fill_range_swap(range);
        fill_range_wait(range);
        fill_range_check(range);
        g_assert_cmpuint(range->stuck, <=, 1);
        stuck += range->stuck;
    }
    g_assert_cmpuint(stuck, >=, 5);
    fill_test_destroy(&test);
}

/* The owner wants it no more: nobody waits for it any longer. */

static void cancel(void *opaque)
{
    FillRange *range = opaque;

    g_assert(fill_range_cancel(range));
}

static void load_any(void *opaque)
{
    const Load *load = opaque;
    uint64_t word;

    try_load(load->range->page.range.host + load->pos, &word);
}

static void test_cancel(void)
{
    FillTest test;
    FillRange *a = &test.ranges[0], *b = &test.ranges[1];
    Load missing = { b, 7 * 2 * MiB };
    Waiter toucher, canceller;
    uint64_t word;

    if (!fill_test_init(&test, files, ARRAY_SIZE(files))) {
        return;
    }
    g_assert_false(fill_range_cancel(a));
    swap_both(&test, a, b);
    g_assert_cmpuint(hugepage_fill_missing(test.fill), ==,
                     a->page.range.size - 2 * MiB + b->page.range.size);
    waiter_start(&toucher, load_any, &missing);
    waiter_start(&canceller, cancel, b);
    qemu_sem_post(&test.release);
    waiter_join(&canceller);
    waiter_join(&toucher);
    g_assert_false(hugepage_fill_is_missing(test.fill, b->page.range.host));
    g_assert(try_load(b->page.range.host, &word));
    g_assert_false(fill_range_cancel(b));
    g_assert(hugepage_split_undo(&b->page.range, NULL, &error_abort));
    assert_undone(&b->page);

    /* The other is none the worse for it. */
    fill_range_wait(a);
    fill_range_check(a);
    g_assert_false(fill_range_cancel(a));
    g_assert_cmpuint(hugepage_fill_missing(test.fill), ==, 0);

    /* And again: nothing is left of the first time. */
    fill_range_renew(b);
    fill_range_swap(b);
    fill_range_wait(b);
    fill_range_check(b);
    fill_test_destroy(&test);
}

static void fail_for_long(FillRange *range, size_t piece, void *buffer)
{
    if (piece == 1) {
        faults_arm(1, 500, ENOMEM);
    }
}

/* No memory comes for long; a reset need not wait for it. */
static void test_cancel_stuck(void)
{
    FillTest test;
    FillRange *range = &test.ranges[0];
    int64_t end = g_get_monotonic_time() + FILL_PATIENCE * 1000LL;

    if (!fill_test_init(&test, &file4, 1)) {
        return;
    }
    test.on_piece = fail_for_long;
    fill_range_swap(range);
    while (!qatomic_read(&range->stuck)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
    g_assert(fill_range_cancel(range));
    g_assert_cmpuint(range->filled, ==, 0);
    g_assert_cmpuint(range->stuck, ==, 1);
    fill_test_destroy(&test);
}

/* A page of the filler's own memory goes bad; it costs nobody anything. */
static void spoil_buffer(FillRange *range, size_t piece, void *buffer)
{
    if (piece == 0) {
        g_assert(hugepage_split_lose(buffer, range->page.range.small,
                                     &error_abort));
    }
}

static void test_buffer(void)
{
    FillTest test;

    if (!fill_test_init(&test, &file4, 1)) {
        return;
    }
    test.on_piece = spoil_buffer;
    /* Of the first piece nothing is needed. */
    lost_case(&test, &test.ranges[0], PIECE, 2);
    fill_test_destroy(&test);
}

/* A read that costs much, whatever it brings, brings more the next time. */

static void burn(int64_t ns)
{
    struct timespec ts;
    int64_t now, end = 0;

    do {
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
        now = ts.tv_sec * NANOSECONDS_PER_SECOND + ts.tv_nsec;
        end = end ?: now + ns;
    } while (now < end);
}

static void read_slowly(FillRange *range, size_t piece, void *buffer)
{
    burn(100 * SCALE_MS);
}

static void fill_in_order(FillRange *range, const size_t *order, size_t n)
{
    fill_range_swap(range);
    fill_range_wait(range);
    fill_range_check(range);
    assert_order(range->test, order, n);
}

static void test_slow_reads(void)
{
    static const size_t doubled[] = { 0, 1, 3, 7 };
    /* One that is waited for comes alone; then few again, what was left out. */
    static const size_t around[] = { 0, 2, 1, 3, 5 };
    /* A read ends before a page that cannot be read; the next one behind it. */
    static const size_t interrupted[] = { 0, 1, 3, 4, 5, 7 };
    FillTest test;
    FillRange *range = &test.ranges[0];
    Load wanted = { range, 2 * 2 * MiB + 8 };
    Waiter waiter;

    if (!fill_test_init(&test, &files[1], 1)) {
        return;
    }
    test.ops.at_once = 0;
    test.on_piece = read_slowly;
    fill_in_order(range, doubled, ARRAY_SIZE(doubled));

    fill_range_renew(range);
    hold_at(&test, range, 0);
    fill_range_swap(range);
    wait_held(&test);
    waiter_start(&waiter, load, &wanted);
    qemu_sem_post(&test.release);
    waiter_join(&waiter);
    fill_range_wait(range);
    fill_range_check(range);
    assert_order(&test, around, ARRAY_SIZE(around));

    fill_range_renew(range);
    fill_range_set_unreadable(range, 4 * 512 + 511);
    fill_range_set_known(range, 5 * 512);
    test.reads = 0;
    fill_in_order(range, interrupted, ARRAY_SIZE(interrupted));
    fill_test_destroy(&test);
}

/* Pieces that are copied, so that the buffer keeps its memory */
static void test_slow_reads_small(void)
{
    static const size_t doubled[] = { 0, 1, 3, 7, 15, 23, 31 };
    FillTest test;

    if (!fill_test_init(&test, &huge, 1)) {
        return;
    }
    test.ops.at_once = 0;
    test.on_piece = read_slowly;
    fill_in_order(&test.ranges[0], doubled, ARRAY_SIZE(doubled));
    fill_test_destroy(&test);
}

/* No memory for many: it is taken piece by piece, and nobody is told. */

static bool has_failed;

static void fail_once(FillRange *range, size_t piece, void *buffer)
{
    burn(100 * SCALE_MS);
    has_failed |= faults_disarm();
    if (piece == 1) {
        /* Two pieces are placed by a call each, then four are populated. */
        faults_arm(3, 1, ENOMEM);
    }
}

static void test_slow_reads_short(void)
{
    static const size_t order[] = { 0, 1, 3, 4 };
    FillTest test;
    FillRange *range = &test.ranges[0];

    if (!fill_test_init(&test, &files[1], 1)) {
        return;
    }
    test.ops.at_once = 0;
    test.on_piece = fail_once;
    fill_in_order(range, order, ARRAY_SIZE(order));
    g_assert(has_failed);
    g_assert_cmpuint(range->stuck, ==, 0);
    fill_test_destroy(&test);
}

/* One thread is kept by what it has read; the other brings all the rest. */

static void test_two(void)
{
    FillTest test;
    FillRange *range = &test.ranges[0];
    int64_t end = g_get_monotonic_time() + FILL_PATIENCE * 1000LL;
    Waiter canceller;
    unsigned round;

    if (!fill_test_init(&test, &files[0], 1)) {
        return;
    }
    fill_test_restart(&test, 2);
    for (round = 0; round < 2; round++) {
        fill_range_renew(range);
        fill_range_set_unreadable(range, 3);
        qatomic_set(&test.hold_lost, true);
        fill_range_swap(range);
        g_assert(qemu_sem_timedwait(&test.held, FILL_PATIENCE) == 0);
        while (hugepage_fill_missing(test.fill) > 2 * MiB) {
            g_assert_cmpint(g_get_monotonic_time(), <, end);
            g_usleep(1000);
        }
        if (round) {
            waiter_start(&canceller, cancel, range);
        }
        g_usleep(20 * 1000);
        g_assert_cmpuint(range->filled, ==, 0);
        g_assert(hugepage_fill_is_missing(test.fill, range->page.range.host));
        qemu_sem_post(&test.release);
        if (round) {
            waiter_join(&canceller);
        } else {
            fill_range_wait(range);
            fill_range_check(range);
        }
    }
    fill_test_destroy(&test);
}

/*
 * Who waits for one piece and then for the next one finds both threads free:
 * meanwhile neither begins with what nobody waits for.
 */

static void read_very_slowly(FillRange *range, size_t piece, void *buffer)
{
    burn(400 * SCALE_MS);
}

static void load_two(void *opaque)
{
    load(&((Load *)opaque)[0]);
    load(&((Load *)opaque)[1]);
}

static void test_calm(void)
{
    static const size_t order[] = { 0, 3, 2, 1 };
    FillTest test;
    FillRange *range = &test.ranges[0];
    Load loads[] = { { range, 3 * 2 * MiB }, { range, 2 * 2 * MiB } };
    Waiter waiter;

    if (!fill_test_init(&test, &files[0], 1)) {
        return;
    }
    fill_test_restart(&test, 2);
    test.on_piece = read_very_slowly;
    hold_at(&test, range, 0);
    fill_range_swap(range);
    wait_held(&test);
    waiter_start(&waiter, load_two, loads);
    qemu_sem_post(&test.release);
    waiter_join(&waiter);
    fill_range_wait(range);
    fill_range_check(range);
    assert_order(&test, order, ARRAY_SIZE(order));
    fill_test_destroy(&test);
}

/* Torture */

static void trouble(FillRange *range, size_t piece, void *buffer)
{
    static const size_t shortest[] = { 0, 0, 0, 999, 4096, 65537, 500000 };
    static const int errors[] = { EIO, EIO, EHWPOISON, EFAULT, ENXIO, 0 };
    GRand *rand = range->test->rand;
    int dice = g_rand_int_range(rand, 0, 64);

    range->fake.shortest = shortest[dice % ARRAY_SIZE(shortest)];
    range->fake.alternate = dice & 8;
    range->fake.storm = dice % 5 == 0 ? 3 : 0;
    range->fake.error = errors[g_rand_int_range(rand, 0, ARRAY_SIZE(errors))];
    if (dice < 16) {
        faults_arm(1, 1 + dice % 3, dice == 7 ? ENOMEM : EAGAIN);
    }
    if (dice % 8 == 1) {
        burn(SCALE_MS);
    }
    if (dice >= 60) {
        g_usleep(g_rand_int_range(rand, 0, 1000));
    }
}

static void plan(FillRange *range, GRand *rand)
{
    size_t pages = range->page.pages;
    int runs = g_rand_int_range(rand, -2, 6);

    fill_range_renew(range);
    for (; runs > 0; runs--) {
        size_t page = g_rand_int_range(rand, 0, pages);
        size_t end = page + 1;

        if (g_rand_int_range(rand, 0, 8) == 0) {
            end = MIN(pages, page + g_rand_int_range(rand, 1, 700));
        }
        for (; page < end; page++) {
            int dice = g_rand_int_range(rand, 0, 8);

            if (dice < 6) {
                fill_range_set_unreadable(range, page);
            }
            if (dice > 4) {
                fill_range_set_known(range, page);
            }
        }
    }
}

static size_t choose(FillTest *test, FillRange **active, GRand *rand)
{
    size_t n = 0, i;

    for (i = 0; i < test->n; i++) {
        /* The smaller the more often */
        if (g_rand_int_range(rand, 0, 1 << 2 * i) == 0) {
            active[n++] = &test->ranges[i];
        }
    }
    for (i = 0; i < n; i++) {
        plan(active[i], rand);
    }
    return n;
}

static void pause_some(GRand *rand)
{
    if (g_rand_boolean(rand)) {
        g_usleep(g_rand_int_range(rand, 0, 600));
    }
}

static void round_run(FillTest *test, GRand *rand, FillRange **active, size_t n)
{
    size_t i;
    int lose;

    for (i = 0; i < n; i++) {
        pause_some(rand);
        fill_range_swap(active[i]);
    }
    for (lose = g_rand_int_range(rand, -2, 4); lose > 0; lose--) {
        FillRange *range = active[g_rand_int_range(rand, 0, n)];

        pause_some(rand);
        fill_range_lose(range, g_rand_int_range(rand, 0, range->page.pages));
    }
    if (g_rand_int_range(rand, 0, 3) == 0) {
        fill_test_restart(test, 0);
        for (i = 0; i < n; i++) {
            g_assert_cmpuint(active[i]->filled, ==, 1);
        }
    }
    if (g_rand_int_range(rand, 0, 8) == 0) {
        pause_some(rand);
        fill_range_cancel(active[0]);
    }
    for (i = 0; i < n; i++) {
        if (!active[i]->cancelled) {
            fill_range_wait(active[i]);
        }
    }
}

static void torture(const TestMemory *memories, size_t n, unsigned rounds)
{
    GRand *rand = g_rand_new_with_seed(g_test_rand_int());
    FillTest test;
    unsigned round;

    if (fill_test_init(&test, memories, n)) {
        test.on_piece = trouble;
        test.ops.at_once = 0;
        fill_test_restart(&test, 0);
        for (round = 0; round < rounds; round++) {
            FillRange *active[FILL_RANGES];
            size_t count = choose(&test, active, rand);
            Toucher touchers[4];
            size_t i;

            for (i = 0; i < ARRAY_SIZE(touchers); i++) {
                toucher_start(&touchers[i], i < 2 ? i : -1, g_rand_int(rand),
                              active, count);
            }
            round_run(&test, rand, active, count);
            for (i = 0; i < ARRAY_SIZE(touchers); i++) {
                toucher_stop(&touchers[i]);
            }
            for (i = 0; i < count; i++) {
                if (!active[i]->cancelled) {
                    fill_range_check(active[i]);
                }
            }
        }
        fill_test_destroy(&test);
    }
    g_rand_free(rand);
}

static void test_torture_hugetlb(void)
{
    torture(all, ARRAY_SIZE(all), 800);
}

static void test_torture_file(void)
{
    torture(all + 1, ARRAY_SIZE(all) - 1, 300);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hugepage-fill/urgent", test_urgent);
    g_test_add_func("/hugepage-fill/urgent/small", test_urgent_small);
    g_test_add_data_func("/hugepage-fill/lost/hugetlb", &huge, test_lost);
    g_test_add_data_func("/hugepage-fill/lost/file", &file4, test_lost);
    g_test_add_func("/hugepage-fill/woken", test_woken);
    g_test_add_data_func("/hugepage-fill/swap-fails/hugetlb", &huge,
                         test_swap_fails);
    g_test_add_data_func("/hugepage-fill/swap-fails/file", &file4,
                         test_swap_fails);
    g_test_add_func("/hugepage-fill/stuck", test_stuck);
    g_test_add_func("/hugepage-fill/cancel/waiters", test_cancel);
    g_test_add_func("/hugepage-fill/cancel/stuck", test_cancel_stuck);
    g_test_add_func("/hugepage-fill/buffer", test_buffer);
    g_test_add_func("/hugepage-fill/two", test_two);
    g_test_add_func("/hugepage-fill/calm", test_calm);
    g_test_add_func("/hugepage-fill/slow-reads", test_slow_reads);
    g_test_add_func("/hugepage-fill/slow-reads/small", test_slow_reads_small);
    g_test_add_func("/hugepage-fill/slow-reads/short", test_slow_reads_short);
    g_test_add_func("/hugepage-fill/torture/hugetlb", test_torture_hugetlb);
    g_test_add_func("/hugepage-fill/torture/file", test_torture_file);
    return g_test_run();
}
