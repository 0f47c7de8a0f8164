/*
 * Ranges, touching threads and checks for the tests of the filler
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include <sys/syscall.h>
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/bitmap.h"
#include "hugepage-fill-helpers.h"

/* Words of a line that a writer owns one of; the others never change. */
#define OWNERS 8

static FillRange *range_at(FillTest *test, off_t offset)
{
    size_t i;

    for (i = 0; i < test->n; i++) {
        HugepageRange *range = &test->ranges[i].page.range;

        if (offset - range->fd_offset < range->size) {
            return &test->ranges[i];
        }
    }
    g_assert_not_reached();
}

ssize_t fill_piece_id(const FillRange *range, size_t piece)
{
    return (range - range->test->ranges) * FILL_ORDER + piece;
}

static void hold(FillTest *test, ssize_t id)
{
    if (qatomic_read(&test->hold) == id) {
        qemu_sem_post(&test->held);
        qemu_sem_wait(&test->release);
    }
}

static ssize_t fill_test_read(void *opaque, void *buf, size_t count,
                              off_t offset)
{
    FillTest *test = opaque;
    FillRange *range = range_at(test, offset);
    size_t pos = offset - range->page.range.fd_offset;
    size_t piece = pos / FILL_PIECE(&range->page);
    ssize_t id = fill_piece_id(range, piece);

    if (!test->reads || test->order[(test->reads - 1) % FILL_ORDER] != id) {
        test->order[test->reads++ % FILL_ORDER] = id;
        if (test->on_piece) {
            test->on_piece(range, piece, buf);
        }
        hold(test, id);
    }
    return fake_reader_read(&range->fake, buf, count, offset);
}

/* Callbacks */

static void on_lost(void *opaque, size_t page)
{
    FillRange *range = opaque;

    g_assert(test_bit(page, range->unreadable));
    g_assert_false(test_bit(page, range->known));
    g_assert_false(range->told[page]);
    g_assert(hugepage_fill_is_missing(range->test->fill, range->page.range.host
                                      + page * range->page.range.small));
    range->told[page] = true;
    if (qatomic_xchg(&range->test->hold_lost, false)) {
        qemu_sem_post(&range->test->held);
        qemu_sem_wait(&range->test->release);
    }
    qatomic_set(&range->may_fail[page], true);
}

static void on_filled(void *opaque, HugepageSplitResult *result)
{
    FillRange *range = opaque;

    g_assert_false(hugepage_fill_is_missing(range->test->fill,
                                            range->page.range.host));
    g_assert_false(hugepage_fill_lose(range->test->fill,
                                      range->page.range.host));
    range->result = *result;
    range->filled++;
    qemu_sem_post(&range->done);
}

static void on_stuck(void *opaque, Error *err)
{
    FillRange *range = opaque;

    g_assert_nonnull(err);
    qatomic_inc(&range->stuck);
}

static const HugepageFillOps ops = {
    .lost = on_lost,
    .filled = on_filled,
    .stuck = on_stuck,
    .at_once = 1,
    .threads = 1,
};

/* Ranges */

static bool range_init(FillTest *test, const TestMemory *memory)
{
    FillRange *range = &test->ranges[test->n];
    size_t pages, pos;

    if (!test_page_init(&range->page, memory)) {
        return false;
    }
    test->n++;
    pages = range->page.pages;
    range->test = test;
    fake_reader_init(&range->fake, &range->page);
    range->known = bitmap_new(pages);
    range->unreadable = bitmap_new(pages);
    range->lose = bitmap_new(pages);
    range->cut = bitmap_new(pages);
    range->told = g_new0(bool, pages);
    range->may_fail = g_new0(bool, pages);
    range->must_fail = g_new0(bool, pages);
    range->pattern = g_malloc(memory->size);
    range->words = g_malloc(memory->size);
    for (pos = 0; pos < memory->size; pos += sizeof(uint64_t)) {
        range->pattern[pos / 8] = test_page_word(&range->page, pos);
    }
    memcpy(range->words, range->pattern, memory->size);
    qemu_sem_init(&range->done, 0);
    return true;
}

static void range_destroy(FillRange *range)
{
    fake_reader_destroy(&range->fake);
    test_page_destroy(&range->page);
    g_free(range->known);
    g_free(range->unreadable);
    g_free(range->lose);
    g_free(range->cut);
    g_free(range->told);
    g_free(range->may_fail);
    g_free(range->must_fail);
    g_free(range->pattern);
    g_free(range->words);
    hugepage_split_result_destroy(&range->result);
    qemu_sem_destroy(&range->done);
}

void fill_test_restart(FillTest *test, unsigned threads)
{
    hugepage_fill_free(test->fill);
    test->ops.threads = threads;
    test->fill = hugepage_fill_new(&test->ops, &test->reader, &error_abort);
}

bool fill_test_init(FillTest *test, const TestMemory *memories, size_t n)
{
    g_autoptr(Error) err = NULL;
    size_t i;

    memset(test, 0, sizeof(*test));
    test->reader = (HugepageReader) { fill_test_read, test };
    test->hold = -1;
    test->ops = ops;
    test->fill = hugepage_fill_new(&test->ops, &test->reader, &err);
    if (!test->fill) {
        g_test_skip(error_get_pretty(err));
        return false;
    }
    test->rand = g_rand_new_with_seed(g_test_rand_int());
    qemu_sem_init(&test->held, 0);
    qemu_sem_init(&test->release, 0);
    for (i = 0; i < n; i++) {
        if (!range_init(test, &memories[i])) {
            fill_test_destroy(test);
            return false;
        }
    }
    return true;
}

void fill_test_destroy(FillTest *test)
{
    size_t i;

    hugepage_fill_free(test->fill);
    for (i = 0; i < test->n; i++) {
        range_destroy(&test->ranges[i]);
    }
    g_rand_free(test->rand);
    qemu_sem_destroy(&test->held);
    qemu_sem_destroy(&test->release);
}

void fill_range_renew(FillRange *range)
{
    const HugepageRange *at = &range->page.range;
    size_t pages = range->page.pages;

    g_assert(mmap(at->host, at->size, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_FIXED, at->fd, at->fd_offset) == at->host);
    memcpy(range->words, range->pattern, at->size);
    memcpy(at->host, range->pattern, at->size);
    bitmap_clear(range->known, 0, pages);
    bitmap_clear(range->unreadable, 0, pages);
    bitmap_clear(range->lose, 0, pages);
    bitmap_clear(range->cut, 0, pages);
    memset(range->told, 0, pages);
    memset(range->may_fail, 0, pages);
    memset(range->must_fail, 0, pages);
    range->cancelled = false;
    range->filled = 0;
    range->stuck = 0;
    hugepage_split_result_destroy(&range->result);
    fake_reader_destroy(&range->fake);
    fake_reader_init(&range->fake, &range->page);
}

void fill_range_set_unreadable(FillRange *range, size_t page)
{
    set_bit(page, range->unreadable);
    range->fake.bad_from[page] = 0;
}

void fill_range_set_known(FillRange *range, size_t page)
{
    set_bit(page, range->known);
    range->may_fail[page] = true;
}

void fill_range_swap(FillRange *range)
{
    size_t page;

    g_assert(hugepage_fill_swap(range->test->fill, &range->page.range,
                                range->known, range, &error_abort));
    for (page = 0; page < range->page.pages; page++) {
        if (test_bit(page, range->known) || test_bit(page, range->unreadable)) {
            qatomic_set(&range->must_fail[page], true);
        }
    }
}

void fill_range_lose(FillRange *range, size_t page)
{
    void *host = range->page.range.host + page * range->page.range.small;

    qatomic_set(&range->may_fail[page], true);
    if (hugepage_fill_lose(range->test->fill, host)) {
        set_bit(page, range->lose);
    } else {
        g_assert(hugepage_split_lose(host, range->page.range.small,
                                     &error_abort));
        set_bit(page, range->cut);
    }
    qatomic_set(&range->must_fail[page], true);
}

bool fill_range_cancel(FillRange *range)
{
    qatomic_set(&range->cancelled, true);
    if (!hugepage_fill_cancel(range->test->fill, range->page.range.host)) {
        qatomic_set(&range->cancelled, false);
        return false;
    }
    g_assert_cmpuint(range->filled, ==, 0);
    return true;
}

void fill_range_wait(FillRange *range)
{
    g_assert(qemu_sem_timedwait(&range->done, FILL_PATIENCE) == 0);
}

size_t fill_range_allocated(const FillRange *range)
{
    struct stat st;

    /* All of the first page is there. */
    g_assert(fstat(range->page.range.fd, &st) == 0);
    return st.st_blocks * 512 - range->page.range.size;
}

static void check_page(FillRange *range, size_t page, bool lost)
{
    size_t small = range->page.range.small;
    uint8_t *host = range->page.range.host + page * small;
    uint64_t word;

    g_assert(hugepage_split_is_lost(host, small) == lost);
    if (lost) {
        g_assert_false(try_load(host + small - sizeof(word), &word));
        g_assert_false(try_store(host, 1));
    } else {
        g_assert(memcmp(host, range->words + page * small / sizeof(word),
                        small) == 0);
    }
}

void fill_range_check(FillRange *range)
{
    Resources resources = resources_count(&range->page);
    size_t pages = range->page.pages;
    g_autofree unsigned long *lost = bitmap_new(pages);
    size_t page;

    g_assert_cmpuint(range->filled, ==, 1);
    bitmap_or(lost, range->known, range->unreadable, pages);
    bitmap_or(lost, lost, range->lose, pages);
    g_assert(bitmap_equal(range->result.lost, lost, pages));
    g_assert_cmpuint(range->result.lost_pages, ==,
                     bitmap_count_one(lost, pages));
    g_assert_cmpuint(range->result.salvaged, ==, range->page.range.size -
                     range->result.lost_pages * range->page.range.small);
    for (page = 0; page < pages; page++) {
        bool told = test_bit(page, range->unreadable) &&
                    !test_bit(page, range->known) &&
                    !test_bit(page, range->lose);

        g_assert_cmpint(range->told[page], ==, told);
        check_page(range, page,
                   test_bit(page, lost) || test_bit(page, range->cut));
    }
    g_assert_cmpuint(fill_range_allocated(range), ==, 0);
    if (bitmap_empty(range->cut, pages)) {
        g_assert_cmpuint(resources.mappings, ==, 2);
    }
}

/* Touching */

static uint64_t next_random(Toucher *toucher)
{
    toucher->state = toucher->state * UINT64_C(6364136223846793005) + 1;
    return toucher->state >> 20;
}

static bool kernel_load(Toucher *toucher, void *ptr, uint64_t *word)
{
    /* Not write(): TSan would take it for a load that is not atomic. */
    if (syscall(__NR_write, toucher->kernel[1], ptr, sizeof(*word)) !=
        sizeof(*word)) {
        return false;
    }
    g_assert(read(toucher->kernel[0], word, sizeof(*word)) == sizeof(*word));
    return true;
}

static bool touch(Toucher *toucher, FillRange *range, size_t index, bool store)
{
    uint64_t *ptr = (uint64_t *)range->page.range.host + index;
    size_t page = index * sizeof(*ptr) / range->page.range.small;
    bool must_fail = qatomic_load_acquire(&range->must_fail[page]);
    uint64_t word, changed;
    bool ok;

    if (store) {
        range->words[index] = range->pattern[index] ^
                              (next_random(toucher) & 0xff);
        ok = try_store(ptr, range->words[index]);
    } else if (next_random(toucher) % 8 == 0) {
        ok = kernel_load(toucher, ptr, &word);
    } else {
        ok = try_load(ptr, &word);
    }
    if (qatomic_read(&range->cancelled)) {
        return ok;
    }
    if (!ok) {
        g_assert(qatomic_load_acquire(&range->may_fail[page]));
        return false;
    }
    g_assert_false(must_fail);
    if (!store && index % OWNERS == toucher->id) {
        g_assert_cmphex(word, ==, range->words[index]);
    } else if (!store) {
        changed = word ^ range->pattern[index];
        g_assert_cmphex(changed, <=, index % OWNERS < 2 ? 0xff : 0);
    }
    return true;
}

static void *toucher_thread(void *opaque)
{
    Toucher *toucher = opaque;

    while (!qatomic_read(&toucher->stop)) {
        FillRange *range = toucher->ranges[next_random(toucher) % toucher->n];
        size_t words = range->page.range.size / sizeof(uint64_t);
        size_t index = next_random(toucher) % words;

        if (next_random(toucher) % 32 == 0) {
            /* The filler needs a processor, too. */
            g_usleep(50);
        }
        if (toucher->id >= 0 && next_random(toucher) % 4) {
            index = QEMU_ALIGN_DOWN(index, OWNERS) + toucher->id;
            /* Either may be what meets a missing page first. */
            if (next_random(toucher) % 2 &&
                !touch(toucher, range, index, true)) {
                continue;
            }
        }
        touch(toucher, range, index, false);
    }
    return NULL;
}

void toucher_start(Toucher *toucher, int id, uint64_t seed, FillRange **ranges,
                   size_t n)
{
    *toucher = (Toucher) {
        .id = id, .state = seed, .ranges = ranges, .n = n,
    };
    g_assert(g_unix_open_pipe(toucher->kernel, FD_CLOEXEC, NULL));
    qemu_thread_create(&toucher->thread, "toucher", toucher_thread, toucher,
                       QEMU_THREAD_JOINABLE);
}

void toucher_stop(Toucher *toucher)
{
    qatomic_set(&toucher->stop, true);
    qemu_thread_join(&toucher->thread);
    close(toucher->kernel[0]);
    close(toucher->kernel[1]);
}

static void *waiter_thread(void *opaque)
{
    Waiter *waiter = opaque;

    qatomic_set(&waiter->tid, qemu_get_thread_id());
    waiter->run(waiter->opaque);
    return NULL;
}

static bool sleeps(int tid)
{
    g_autofree char *path = g_strdup_printf("/proc/self/task/%d/stat", tid);
    g_autofree char *text = NULL;
    const char *end;

    g_assert(g_file_get_contents(path, &text, NULL, NULL));
    end = strrchr(text, ')');
    return g_str_has_prefix(end, ") S") || g_str_has_prefix(end, ") D");
}

void waiter_start(Waiter *waiter, void (*run)(void *opaque), void *opaque)
{
    unsigned times = 0;

    *waiter = (Waiter) { .run = run, .opaque = opaque };
    qemu_thread_create(&waiter->thread, "waiter", waiter_thread, waiter,
                       QEMU_THREAD_JOINABLE);
    /* It may also sleep for a lock, but not for long. */
    while (times < 10) {
        int tid = qatomic_read(&waiter->tid);

        times = tid && sleeps(tid) ? times + 1 : 0;
        g_usleep(2000);
    }
}

void waiter_join(Waiter *waiter)
{
    qemu_thread_join(&waiter->thread);
}
