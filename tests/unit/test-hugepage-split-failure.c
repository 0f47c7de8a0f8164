/*
 * Tests for the engine that replaces a poisoned huge page: failing system
 * calls, and other threads that look on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/bitmap.h"
#include "qemu/thread.h"
#include "hugepage-split-helpers.h"

/* From <linux/mempolicy.h> */
#define TEST_MPOL_BIND 2

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
    return hugepage_split_undo(&page->range, NULL, errp);
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

    split_page(&page, lost);
    faults_arm_torn_mremap();
    g_assert(hugepage_split_undo(&page.range, NULL, &error_abort));
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

int main(int argc, char **argv)
{
    size_t i;

    g_test_init(&argc, &argv, NULL);
    for (i = 0; i < ARRAY_SIZE(failure_cases); i++) {
        add_test("failure/", failure_cases[i].name, test_failure,
                 &failure_cases[i]);
    }
    add_test("failure/", "torn", test_torn, NULL);
    add_test("concurrent", "", test_concurrent, NULL);
    return g_test_run();
}
