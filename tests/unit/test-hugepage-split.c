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
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "hugepage-split-helpers.h"

/* From <linux/mempolicy.h> */
#define TEST_MPOL_BIND 2
#define TEST_MPOL_F_ADDR 2

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
        g_assert_false(hugepage_split_undo(&bad[i], NULL, &undo_err));
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
        split_page(&page, lost);
        assert_split(&page, lost);
        g_assert(hugepage_split_undo(&page.range, NULL, &error_abort));
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

/* What can be read of the small pages goes into the huge page. */
static void test_undo_keeps(const TestMemory *memory, const void *opaque)
{
    size_t unknown = 9;
    Resources before;
    TestPage page;

    if (!test_page_init(&page, memory)) {
        return;
    }
    g_autofree unsigned long *lost = some_lost(&page);
    g_autofree unsigned long *known = bitmap_new(page.pages);

    g_assert_false(test_bit(unknown, lost));
    bitmap_copy(known, lost, page.pages);
    split_page(&page, lost);
    g_assert(hugepage_split_lose(page.range.host + unknown * page.range.small,
                                 page.range.small, &error_abort));
    set_bit(unknown, lost);
    assert_split(&page, lost);

    /* Without memory for it: the small pages stay as they are. */
    faults_arm(4, 1, ENOMEM);
    if (!hugepage_split_undo(&page.range, known, NULL)) {
        assert_split(&page, lost);
    }
    faults_disarm();
    g_assert(hugepage_split_undo(&page.range, known, &error_abort));
    before = resources_count(&page);
    assert_copied_back(&page, lost);
    assert_no_leak(&page, &before);
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

    split_page(&page, lost);
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
    g_assert(hugepage_split_undo(&page.range, NULL, &error_abort));
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
    for (i = 0; i < ARRAY_SIZE(hesitations); i++) {
        faults_arm(1, 1000, hesitations[i]);
        g_assert(hugepage_split_is_lost(page.range.host, page.range.small));
        g_assert(faults_disarm());
    }
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

static void settings_case(TestPage *page, const unsigned long *lost)
{
    static const unsigned long node0 = 1;
    HugepageSettings *settings = &page->range.settings;

    settings->numa_nodes = &node0;
    settings->numa_maxnode = 64;
    split_page(page, lost);
    assert_split(page, lost);
    assert_settings(page, true);
    assert_numa(page->range.host + page->range.small, settings->numa_mode);
    g_assert(hugepage_split_zero(page->range.host, page->range.size,
                                 &error_abort));
    assert_zeroed_copy(page);
    g_assert(hugepage_split_undo(&page->range, NULL, &error_abort));
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

int main(int argc, char **argv)
{
    size_t i;

    g_test_init(&argc, &argv, NULL);
    for (i = 0; i < ARRAY_SIZE(salvage_cases); i++) {
        add_test("salvage/", salvage_cases[i].name, test_salvage,
                 &salvage_cases[i]);
    }
    add_test("refused", "", test_refused, NULL);
    add_test("undo", "", test_undo, NULL);
    add_test("undo-keeps", "", test_undo_keeps, NULL);
    add_test("lose", "", test_lose, NULL);
    add_test("is-lost", "", test_is_lost, NULL);
    add_test("settings", "", test_settings, NULL);
    add_test("settings", "/mlockall", test_settings, (void *)1);
    return g_test_run();
}
