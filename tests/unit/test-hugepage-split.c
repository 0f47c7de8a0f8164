/*
 * Tests for the engine that replaces a poisoned huge page
 *
 * Every test runs on hugetlbfs pages and on ordinary files.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include <sys/syscall.h>
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/bitmap.h"
#include "qemu/thread.h"
#include "qemu/units.h"
#include "hugepage-split-helpers.h"

/* From <linux/mempolicy.h> */
#define TEST_MPOL_BIND 2
#define TEST_MPOL_F_ADDR 2

static const TestMemory memories[] = {
    { .name = "hugetlb", .hugetlb = true, .size = 2 * MiB },
    { .name = "file", .size = 2 * MiB },
    /* More than one page table of small pages */
    { .name = "file-4m", .size = 4 * MiB },
};

/* Split @page with these small pages lost, and check the result. */
static void split(TestPage *page, const unsigned long *lost)
{
    HugepageSplitResult result = { 0 };

    g_assert(hugepage_split(&page->range, lost, NULL, NULL, &result,
                            &error_abort));
    g_assert(bitmap_equal(result.lost, lost, page->pages));
    hugepage_split_result_destroy(&result);
    g_assert_null(result.lost);
}

/* A few lost pages, for the tests that need just some */
static unsigned long *some_lost(const TestPage *page)
{
    unsigned long *lost = bitmap_new(page->pages);

    set_bit(0, lost);
    set_bit(page->pages / 2, lost);
    set_bit(page->pages / 2 + 1, lost);
    set_bit(page->pages - 1, lost);
    return lost;
}

/* Salvage: what a reader can do wrong, and what it must cost */

typedef enum Bad {
    NONE, FIRST, LAST, MIDDLE, ENDS, PAIR, TAIL, BUT_ONE, ALL
} Bad;

typedef struct SalvageCase {
    const char *name;
    Bad bad;
    FakeReader fake;
    size_t bad_from;
    Bad known;
    size_t calls;
} SalvageCase;

static const SalvageCase salvage_cases[] = {
    { "none", NONE, { .error = EIO }, .calls = 1 },
    { "first", FIRST, { .error = EIO }, .calls = 2 },
    { "last", LAST, { .error = EIO }, .calls = 2 },
    { "middle", MIDDLE, { .error = EIO }, .calls = 3 },
    { "both-ends", ENDS, { .error = EIO }, .calls = 3 },
    { "neighbours", PAIR, { .error = EIO } },
    { "second-half", TAIL, { .error = EIO } },
    { "all-but-one", BUT_ONE, { .error = EIO } },
    { "all", ALL, { .error = EIO } },
    { "errno-enxio", PAIR, { .error = ENXIO } },
    { "errno-efault", MIDDLE, { .error = EFAULT } },
    { "errno-enomem", MIDDLE, { .error = ENOMEM } },
    { "errno-eagain", MIDDLE, { .error = EAGAIN } },
    { "end-of-file", TAIL, { .error = 0 } },
    { "end-of-file-once", MIDDLE, { .error = 0 } },
    { "too-long", MIDDLE, { .error = EIO, .too_long = true } },
    { "short-1", FIRST, { .error = EIO, .shortest = 1 }, .bad_from = 4000 },
    { "short-4095", ENDS, { .error = EIO, .shortest = 4095 } },
    { "short-4097", ENDS, { .error = EIO, .shortest = 4097 } },
    { "short-12345", MIDDLE, { .error = EIO, .shortest = 12345 } },
    { "short-sometimes", PAIR,
      { .error = EIO, .shortest = 4095, .alternate = true } },
    { "storm", PAIR, { .error = EIO, .shortest = 65537, .storm = 1000 } },
    { "storm-healthy", NONE, { .error = EIO, .storm = 100000 } },
    { "within-page", PAIR, { .error = EIO }, .bad_from = 1 },
    { "within-page-end", ENDS, { .error = EIO }, .bad_from = 4095 },
    { "within-page-short", PAIR, { .error = EIO, .shortest = 777 },
      .bad_from = 2222 },
    { "within-page-eof", LAST, { .error = 0 }, .bad_from = 100 },
    { "known", NONE, { .error = EIO }, .known = PAIR, .calls = 2 },
    { "known-and-read", ENDS, { .error = EIO }, .known = MIDDLE, .calls = 4 },
    { "known-same", MIDDLE, { .error = EIO }, .known = MIDDLE, .calls = 2 },
    { "known-all", NONE, { .error = EIO }, .known = ALL },
};

static bool is_bad(Bad bad, size_t i, size_t pages)
{
    switch (bad) {
    case NONE:
        return false;
    case FIRST:
        return i == 0;
    case LAST:
        return i == pages - 1;
    case MIDDLE:
        return i == pages / 2 - 7;
    case ENDS:
        return i == 0 || i == pages - 1;
    case PAIR:
        return i == pages / 2 - 7 || i == pages / 2 - 6;
    case TAIL:
        return i >= pages / 2 + 3;
    case BUT_ONE:
        return i != pages / 2;
    case ALL:
        return true;
    }
    g_assert_not_reached();
}

static int64_t ticks(void *opaque)
{
    int64_t *now = opaque;

    *now = *now * 10 + 7;
    return *now;
}

static void salvage(const SalvageCase *test, TestPage *page, FakeReader *fake,
                    const unsigned long *known, const unsigned long *lost)
{
    int64_t now = 0;
    HugepageReader reader = { fake_reader_read, fake };
    HugepageClock clock = { ticks, &now };
    HugepageSplitResult result = { 0 };

    g_assert(hugepage_split(&page->range, test->known ? known : NULL, &reader,
                            &clock, &result, &error_abort));
    g_assert(bitmap_equal(result.lost, lost, page->pages));
    g_assert_cmpuint(result.lost_pages, ==,
                     bitmap_count_one(lost, page->pages));
    g_assert_cmpuint(result.salvaged, ==, page->range.size -
                     result.lost_pages * page->range.small);
    g_assert_cmpint(result.salvage_ns, ==, 77 - 7);
    g_assert_cmpint(result.commit_ns, ==, 777 - 77);
    hugepage_split_result_destroy(&result);
    if (test->calls && page->range.size == 2 * MiB) {
        g_assert_cmpuint(fake->calls, ==, test->calls);
    }
}

static void test_salvage(const TestMemory *memory, const void *opaque)
{
    const SalvageCase *test = opaque;
    FakeReader fake;
    TestPage page;
    size_t i;

    if (!test_page_init(&page, memory)) {
        return;
    }
    g_autofree unsigned long *known = bitmap_new(page.pages);
    g_autofree unsigned long *lost = bitmap_new(page.pages);

    fake_reader_init(&fake, &page);
    fake.error = test->fake.error;
    fake.shortest = test->fake.shortest;
    fake.alternate = test->fake.alternate;
    fake.storm = test->fake.storm;
    fake.too_long = test->fake.too_long;
    for (i = 0; i < page.pages; i++) {
        if (is_bad(test->bad, i, page.pages)) {
            fake.bad_from[i] = test->bad_from;
            set_bit(i, lost);
        }
        if (is_bad(test->known, i, page.pages)) {
            set_bit(i, known);
            set_bit(i, lost);
        }
    }
    salvage(test, &page, &fake, known, lost);
    assert_split(&page, lost);
    fake_reader_destroy(&fake);
    test_page_destroy(&page);
}

/* What is no huge page is refused. */
static void test_refused(const TestMemory *memory, const void *opaque)
{
    TestPage page;
    size_t i;

    if (!test_page_init(&page, memory)) {
        return;
    }
    HugepageRange bad[] = {
        page.range, page.range, page.range, page.range, page.range, page.range,
    };

    bad[0].host += page.range.small;
    bad[1].fd_offset = -page.range.size;
    bad[2].fd_offset += page.range.small;
    bad[3].size -= page.range.small;
    bad[4].small = page.range.small / 2;
    bad[5].small = page.range.size;
    for (i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autoptr(Error) split_err = NULL;
        g_autoptr(Error) undo_err = NULL;
        HugepageSplitResult result;

        g_assert_false(hugepage_split(&bad[i], NULL, NULL, NULL, &result,
                                      &split_err));
        g_assert_nonnull(split_err);
        g_assert_false(hugepage_split_undo(&bad[i], &undo_err));
        g_assert_nonnull(undo_err);
        assert_untouched(&page);
    }
    test_page_destroy(&page);
}

static void test_undo(const TestMemory *memory, const void *opaque)
{
    Resources before = { 0 };
    TestPage page;
    unsigned i;

    if (!test_page_init(&page, memory)) {
        return;
    }
    g_autofree unsigned long *lost = some_lost(&page);

    for (i = 0; i < 4; i++) {
        split(&page, lost);
        assert_split(&page, lost);
        g_assert(hugepage_split_undo(&page.range, &error_abort));
        assert_undone(&page);
        if (i == 0) {
            /* From now on, the second page may be a mapping of its own. */
            before = resources_count(&page);
        }
        assert_no_leak(&page, &before);
        test_page_renew(&page);
    }
    test_page_destroy(&page);
}

static void test_lose(const TestMemory *memory, const void *opaque)
{
    static const size_t more[] = { 7, 8, 1, 100 };
    TestPage page;
    unsigned i;

    if (!test_page_init(&page, memory)) {
        return;
    }
    g_autofree unsigned long *lost = some_lost(&page);

    split(&page, lost);
    for (i = 0; i < ARRAY_SIZE(more); i++) {
        g_assert(hugepage_split_lose(page.range.host +
                                     more[i] * page.range.small,
                                     page.range.small, &error_abort));
        set_bit(more[i], lost);
        assert_split(&page, lost);
    }
    /* Once more: already lost. */
    g_assert(hugepage_split_lose(page.range.host, page.range.small,
                                 &error_abort));
    assert_split(&page, lost);
    g_assert(hugepage_split_zero(page.range.host, page.range.size,
                                 &error_abort));
    assert_zeroed_copy(&page);
    for (i = 0; i < page.pages; i++) {
        g_assert_false(hugepage_split_is_lost(page.range.host +
                                              i * page.range.small,
                                              page.range.small));
    }
    g_assert(hugepage_split_undo(&page.range, &error_abort));
    assert_undone(&page);
    test_page_destroy(&page);
}

/* Is a page lost?  On real poison, and when the kernel hesitates */
static void test_is_lost(const TestMemory *memory, const void *opaque)
{
    static const int hesitations[] = { EINTR, EAGAIN };
    TestPage page;
    size_t i;

    if (!test_page_init(&page, memory)) {
        return;
    }
    for (i = 0; i < ARRAY_SIZE(hesitations); i++) {
        faults_arm(1, 1000, hesitations[i]);
        g_assert_false(hugepage_split_is_lost(page.range.host,
                                              page.range.small));
        g_assert(faults_disarm());
    }
    faults_arm(1, 1, ENOMEM);
    g_assert_false(hugepage_split_is_lost(page.range.host, page.range.small));
    g_assert(faults_disarm());
    test_page_poison(&page);
    for (i = 0; i < page.pages; i++) {
        g_assert(hugepage_split_is_lost(page.range.host + i * page.range.small,
                                        page.range.small));
    }
    test_page_destroy(&page);
}

/* Settings of the owner, on the replacement and on the fresh huge page */

static void assert_numa(void *ptr, int expected)
{
    unsigned long nodes = 0;
    int mode = -1;

    g_assert(syscall(__NR_get_mempolicy, &mode, &nodes, sizeof(nodes) * 8, ptr,
                     TEST_MPOL_F_ADDR) == 0);
    g_assert_cmpint(mode, ==, expected);
    g_assert_cmphex(nodes, ==, expected ? 1 : 0);
}

static void assert_settings(TestPage *page, bool copy)
{
    const HugepageSettings *settings = &page->range.settings;
    uint8_t *host = page->range.host;
    size_t i;

    for (i = 0; i < page->range.size; i += page->range.size / 2) {
        g_assert(has_vm_flag(host + i, "mg") == (settings->mergeable && copy));
        g_assert(has_vm_flag(host + i, "dd") == settings->nodump);
        g_assert(has_vm_flag(host + i, "dc") == settings->nofork);
        /* Memory of hugetlbfs is never locked: it cannot be swapped. */
        if (copy) {
            g_assert(has_vm_flag(host + i, "lo") == settings->locked);
        }
    }
}

static void settings_case(TestPage *page, const unsigned long *lost)
{
    static const unsigned long node0 = 1;
    HugepageSettings *settings = &page->range.settings;

    settings->numa_nodes = &node0;
    settings->numa_maxnode = 64;
    split(page, lost);
    assert_split(page, lost);
    assert_settings(page, true);
    assert_numa(page->range.host + page->range.small, settings->numa_mode);
    g_assert(hugepage_split_zero(page->range.host, page->range.size,
                                 &error_abort));
    assert_zeroed_copy(page);
    g_assert(hugepage_split_undo(&page->range, &error_abort));
    assert_undone(page);
    assert_settings(page, false);
    assert_numa(page->range.host, settings->numa_mode);
    test_page_renew(page);
}

static void test_settings(const TestMemory *memory, const void *opaque)
{
    bool future = opaque;
    unsigned i;
    TestPage page;

    if (!test_page_init(&page, memory)) {
        return;
    }
    g_autofree unsigned long *lost = some_lost(&page);
    HugepageSettings *settings = &page.range.settings;

    if (mlock2(page.range.host, page.range.small, MLOCK_ONFAULT) ||
        (future && mlockall(MCL_FUTURE))) {
        g_test_skip("memory cannot be locked");
    } else {
        for (i = 0; i < 6; i++) {
            settings->mergeable = i == 1 || i == 5;
            settings->nodump = i == 2 || i == 5;
            settings->nofork = i == 3 || i == 5;
            settings->locked = i == 4 || i == 5;
            settings->numa_mode = i == 5 ? TEST_MPOL_BIND : 0;
            settings_case(&page, lost);
        }
        munlockall();
    }
    test_page_destroy(&page);
}

/* Failures: each system call and allocation in turn */

typedef bool Operation(TestPage *page, Error **errp);

static bool do_split(TestPage *page, Error **errp)
{
    g_autofree unsigned long *lost = some_lost(page);
    HugepageSplitResult result = { 0 };
    bool ok = hugepage_split(&page->range, lost, NULL, NULL, &result, errp);

    g_assert(ok == !!result.lost);
    hugepage_split_result_destroy(&result);
    return ok;
}

static bool do_undo(TestPage *page, Error **errp)
{
    return hugepage_split_undo(&page->range, errp);
}

static bool do_lose(TestPage *page, Error **errp)
{
    return hugepage_split_lose(page->range.host + 5 * page->range.small,
                               page->range.small, errp);
}

static bool do_zero(TestPage *page, Error **errp)
{
    return hugepage_split_zero(page->range.host, page->range.size, errp);
}

typedef struct FailureCase {
    const char *name;
    Operation *run;
    int error;
    unsigned times;
    bool transient;
} FailureCase;

static const FailureCase failure_cases[] = {
    { "split-enomem", do_split, ENOMEM, 1 },
    { "split-eagain", do_split, EAGAIN, 3, .transient = true },
    { "split-eintr", do_split, EINTR, 5, .transient = true },
    { "split-eexist", do_split, EEXIST, 1, .transient = true },
    { "split-eperm", do_split, EPERM, 1 },
    { "undo-enomem", do_undo, ENOMEM, 1 },
    { "undo-eintr", do_undo, EINTR, 5, .transient = true },
    { "undo-efault", do_undo, EFAULT, 1 },
    { "lose-enomem", do_lose, ENOMEM, 1 },
    { "lose-eintr", do_lose, EINTR, 1, .transient = true },
    { "zero-einval", do_zero, EINVAL, 1 },
};

/* After a failure: as it was.  After success: as it should be. */
static void check_outcome(TestPage *page, Operation *run, bool ok)
{
    g_autofree unsigned long *lost = some_lost(page);

    if (run == do_split && !ok) {
        assert_untouched(page);
    } else if (run == do_undo && ok) {
        assert_undone(page);
    } else if (run == do_zero && ok) {
        assert_zeroed_copy(page);
    } else {
        if (run == do_lose && ok) {
            set_bit(5, lost);
        }
        assert_split(page, lost);
    }
}

/* Returns: was there an @nth call that could fail? */
static bool fail_nth(TestPage *page, const FailureCase *test, unsigned nth)
{
    g_autoptr(Error) err = NULL;
    Resources before;
    bool ok, failed, tolerable;

    test_page_renew(page);
    if (test->run != do_split) {
        do_split(page, &error_abort);
    }
    before = resources_count(page);
    faults_arm(nth, test->times, test->error);
    ok = test->run(page, &err);
    tolerable = faults_advisory() || test->transient;
    failed = faults_disarm();
    g_assert(ok == !err);
    g_assert(ok || failed);
    g_assert(!ok || !failed || tolerable);
    if (!ok) {
        assert_no_leak(page, &before);
    }
    g_assert_cmpint(faults_mapped(), ==, before.mapped);
    check_outcome(page, test->run, ok);
    return failed;
}

static void test_failure(const TestMemory *memory, const void *opaque)
{
    static const unsigned long node0 = 1;
    const FailureCase *test = opaque;
    unsigned nth = 1;
    TestPage page;

    if (!test_page_init(&page, memory)) {
        return;
    }
    page.range.settings = (HugepageSettings) {
        .mergeable = true, .nodump = true, .nofork = true,
        .numa_mode = TEST_MPOL_BIND, .numa_nodes = &node0, .numa_maxnode = 64,
    };
    /* What is allocated once and kept would look like a leak. */
    fail_nth(&page, test, INT_MAX);
    while (fail_nth(&page, test, nth)) {
        nth++;
    }
    g_test_message("%u calls failed in turn", nth - 1);
    g_assert_cmpuint(nth, >, 1);
    test_page_destroy(&page);
}

/* The kernel ran out of memory when it had unmapped the target already. */
static void test_torn(const TestMemory *memory, const void *opaque)
{
    g_autoptr(Error) err = NULL;
    TestPage page;

    if (!test_page_init(&page, memory)) {
        return;
    }
    g_autofree unsigned long *lost = some_lost(&page);

    page.range.settings.nodump = true;
    faults_arm_torn_mremap();
    g_assert_false(do_split(&page, &err));
    g_assert(faults_disarm());
    g_assert_nonnull(err);
    assert_untouched(&page);
    assert_settings(&page, false);

    split(&page, lost);
    faults_arm_torn_mremap();
    g_assert(hugepage_split_undo(&page.range, &error_abort));
    g_assert(faults_disarm());
    assert_undone(&page);
    assert_settings(&page, false);
    test_page_destroy(&page);
}

/* Other threads look on: poison before, the final bytes after, nothing else. */

typedef struct Hammer {
    QemuThread thread;
    TestPage *page;
    bool may_be_zero;
    bool stop;
    uint64_t loads;
    uint64_t wrong;
    uint64_t sigbus;
} Hammer;

static void *hammer_thread(void *opaque)
{
    Hammer *hammer = opaque;
    TestPage *page = hammer->page;
    uint64_t state = (uintptr_t)hammer | 1;

    while (!qatomic_read(&hammer->stop)) {
        uint64_t word;
        size_t pos;

        state = state * UINT64_C(6364136223846793005) + 1;
        pos = (state >> 20) % page->range.size & -sizeof(word);
        if (!try_load(page->range.host + pos, &word)) {
            hammer->sigbus++;
        } else if (word != test_page_word(page, pos) &&
                   !(word == 0 && hammer->may_be_zero)) {
            hammer->wrong++;
        }
        qatomic_set(&hammer->loads, hammer->loads + 1);
    }
    return NULL;
}

static void hammer_wait(Hammer *hammers, size_t n, uint64_t more)
{
    size_t i;

    for (i = 0; i < n; i++) {
        uint64_t start = qatomic_read(&hammers[i].loads);

        while (qatomic_read(&hammers[i].loads) - start < more) {
            g_usleep(10);
        }
    }
}

static void hammer_during(TestPage *page, Operation *run, bool may_be_zero)
{
    Hammer hammers[2] = { };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(hammers); i++) {
        hammers[i].page = page;
        hammers[i].may_be_zero = may_be_zero;
        qemu_thread_create(&hammers[i].thread, "hammer", hammer_thread,
                           &hammers[i], QEMU_THREAD_JOINABLE);
    }
    hammer_wait(hammers, ARRAY_SIZE(hammers), 100);
    run(page, &error_abort);
    hammer_wait(hammers, ARRAY_SIZE(hammers), 1000);
    for (i = 0; i < ARRAY_SIZE(hammers); i++) {
        qatomic_set(&hammers[i].stop, true);
        qemu_thread_join(&hammers[i].thread);
        g_assert_cmpuint(hammers[i].wrong, ==, 0);
        g_assert_cmpuint(hammers[i].sigbus, <, hammers[i].loads);
        if (run == do_split) {
            /* All that were waited for before it. */
            g_assert_cmpuint(hammers[i].sigbus, >=, 100);
        }
    }
}

static void test_concurrent(const TestMemory *memory, const void *opaque)
{
    TestPage page;
    unsigned i;

    if (!test_page_init(&page, memory)) {
        return;
    }
    g_autofree unsigned long *lost = some_lost(&page);

    set_bit(5, lost);
    for (i = 0; i < 20; i++) {
        test_page_poison(&page);
        hammer_during(&page, do_split, false);
        hammer_during(&page, do_lose, false);
        assert_split(&page, lost);
        hammer_during(&page, do_undo, true);
        assert_undone(&page);
        test_page_renew(&page);
    }
    test_page_destroy(&page);
}

/* Registration: each test body for each kind of memory */

typedef struct Test {
    const TestMemory *memory;
    void (*run)(const TestMemory *memory, const void *opaque);
    const void *opaque;
} Test;

static void run_test(const void *opaque)
{
    const Test *test = opaque;

    test->run(test->memory, test->opaque);
}

static void add_test(const char *name, const char *variant,
                     void (*run)(const TestMemory *memory, const void *opaque),
                     const void *opaque)
{
    size_t i;

    for (i = 0; i < ARRAY_SIZE(memories); i++) {
        g_autofree char *path = g_strdup_printf("/hugepage-split/%s/%s%s",
                                                memories[i].name, name,
                                                variant);
        Test test = { &memories[i], run, opaque };

        g_test_add_data_func_full(path, g_memdup2(&test, sizeof(test)),
                                  (GTestDataFunc)run_test, g_free);
    }
}

int main(int argc, char **argv)
{
    size_t i;

    g_test_init(&argc, &argv, NULL);
    for (i = 0; i < ARRAY_SIZE(salvage_cases); i++) {
        add_test("salvage/", salvage_cases[i].name, test_salvage,
                 &salvage_cases[i]);
    }
    for (i = 0; i < ARRAY_SIZE(failure_cases); i++) {
        add_test("failure/", failure_cases[i].name, test_failure,
                 &failure_cases[i]);
    }
    add_test("failure/", "torn", test_torn, NULL);
    add_test("refused", "", test_refused, NULL);
    add_test("undo", "", test_undo, NULL);
    add_test("lose", "", test_lose, NULL);
    add_test("is-lost", "", test_is_lost, NULL);
    add_test("settings", "", test_settings, NULL);
    add_test("settings", "/mlockall", test_settings, (void *)1);
    add_test("concurrent", "", test_concurrent, NULL);
    return g_test_run();
}
