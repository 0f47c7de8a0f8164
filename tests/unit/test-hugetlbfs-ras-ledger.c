/*
 * Tests of the ledger of memory failures
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/resource.h>
#include "qemu/bitmap.h"
#include "qemu/lockable.h"
#include "qemu/units.h"
#include "exec/address-spaces.h"
#include "system/hugetlbfs-ras/ras.h"

#define HUGE_PAGE (2 * MiB)
#define NPAGES 8
#define AT(page, small) ((page) * HUGE_PAGE + (small) * 4 * KiB)

/* Guest memory: @map_offset of the backend is at @map_gpa. */
AddressSpace address_space_memory;
static const MemoryRegion *map_mr;
static uint64_t map_offset, map_size;
static hwaddr map_gpa;

void flatview_for_each_range(FlatView *fv, flatview_cb cb, void *opaque)
{
    if (map_mr) {
        cb(int128_make64(map_gpa), int128_make64(map_size), map_mr,
           map_offset, opaque);
    }
}

typedef struct Ledger {
    HugetlbfsRas ras;
    RasBackend backend;
    HostMemoryBackend hostmem;
    MemoryRegion mr;
    uint8_t *memory;
} Ledger;

static void ledger_init(Ledger *l, size_t small)
{
    memset(l, 0, sizeof(*l));
    QTAILQ_INIT(&l->ras.backends);
    QTAILQ_INIT(&l->backend.pages);
    qemu_mutex_init(&l->ras.lock);
    qemu_cond_init(&l->ras.idle);
    /* Addresses only; nothing is read there. */
    l->memory = (uint8_t *)(uintptr_t)(1 * GiB);
    l->backend.id = (char *)"mem0";
    l->backend.mr = &l->mr;
    l->backend.hostmem = &l->hostmem;
    l->backend.host = l->memory;
    l->backend.size = NPAGES * HUGE_PAGE;
    l->backend.page_size = HUGE_PAGE;
    l->backend.range = (HugepageRange) {
        .size = HUGE_PAGE, .small = small, .fd = 7, .fd_offset = 16 * MiB,
    };
    QTAILQ_INSERT_TAIL(&l->ras.backends, &l->backend, next);
}

static void ledger_destroy(Ledger *l)
{
    RasPage *page, *next;

    QTAILQ_FOREACH_SAFE(page, &l->backend.pages, next, next) {
        ras_page_free(&l->ras, page);
    }
    g_assert_cmpint(l->ras.split_pages, ==, 0);
    g_assert_cmpint(l->ras.lost_pages, ==, 0);
    qemu_cond_destroy(&l->ras.idle);
    qemu_mutex_destroy(&l->ras.lock);
}

/* A split page that lost @n small pages from @first on */
static RasPage *split_page(Ledger *l, uint64_t offset, size_t first, size_t n)
{
    unsigned long *lost = bitmap_new(HUGE_PAGE / l->backend.range.small);
    RasPage *page = ras_page_get(&l->backend, offset);
    unsigned generation = l->ras.generation;

    bitmap_set(lost, first, n);
    ras_page_set_state(page, HUGETLBFS_RAS_STATE_SPLITTING, NULL);
    ras_work_begin(&l->ras, page);
    g_assert_cmpint(l->ras.generation, !=, generation);
    ras_page_set_replaced(&l->ras, page, lost);
    ras_page_set_split(&l->ras, page);
    g_assert_cmpint(page->busy, ==, 0);
    g_assert_cmpint(l->ras.busy, ==, 0);
    return page;
}

static bool transition_is_legal(int from, int to)
{
    return (from == HUGETLBFS_RAS_STATE_REPORTED &&
            (to == HUGETLBFS_RAS_STATE_SPLITTING ||
             to == HUGETLBFS_RAS_STATE_REFUSED)) ||
           (from == HUGETLBFS_RAS_STATE_SPLITTING &&
            (to == HUGETLBFS_RAS_STATE_SPLIT ||
             to == HUGETLBFS_RAS_STATE_FAILED));
}

static bool transition_aborts(RasPage *page, int to)
{
    const struct rlimit no_core = {};
    int status;
    pid_t pid = fork();

    g_assert(pid >= 0);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &no_core);
        close(STDERR_FILENO);
        ras_page_set_state(page, to, NULL);
        _exit(0);
    }
    g_assert(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_transitions(void)
{
    Ledger l;

    ledger_init(&l, 4 * KiB);
    for (int from = 0; from < HUGETLBFS_RAS_STATE__MAX; from++) {
        for (int to = 0; to < HUGETLBFS_RAS_STATE__MAX; to++) {
            RasPage *page = ras_page_get(&l.backend, 0);
            bool legal = transition_is_legal(from, to);

            page->state = from;
            g_assert(hugetlbfs_ras_transition_valid(from, to) == legal);
            g_assert(transition_aborts(page, to) == !legal);
            if (legal) {
                ras_page_set_state(page, to, g_strdup("why"));
                g_assert_cmpint(page->state, ==, to);
                g_assert_cmpstr(page->reason, ==, "why");
                /* That the work began is not worth an event. */
                g_assert(page->announce ==
                         (to != HUGETLBFS_RAS_STATE_SPLITTING));
            }
            page->state = HUGETLBFS_RAS_STATE_REPORTED;
            ras_page_free(&l.ras, page);
        }
    }
    ledger_destroy(&l);
}

static void test_lookup(void)
{
    static const int order[] = { 5, 0, 7, 3, 1 };
    RasPage *page;
    uint64_t last = 0;
    int n = 0;
    Ledger l;

    ledger_init(&l, 4 * KiB);
    g_assert(ras_backend_at(&l.ras, l.memory) == &l.backend);
    g_assert(ras_backend_at(&l.ras, l.memory + l.backend.size - 1) ==
             &l.backend);
    g_assert(!ras_backend_at(&l.ras, l.memory - 1));
    g_assert(!ras_backend_at(&l.ras, l.memory + l.backend.size));

    for (int i = 0; i < ARRAY_SIZE(order); i++) {
        uint64_t offset = AT(order[i], 100) + 17;

        g_assert(!ras_page_at(&l.backend, offset));
        page = ras_page_get(&l.backend, offset);
        g_assert_cmpint(page->offset, ==, AT(order[i], 0));
        g_assert_cmpint(page->state, ==, HUGETLBFS_RAS_STATE_REPORTED);
        g_assert(ras_page_get(&l.backend, AT(order[i], 0)) == page);
        g_assert(ras_page_at(&l.backend, AT(order[i] + 1, 0) - 1) == page);
        g_assert(!ras_page_is_lost(page, offset));
    }
    QTAILQ_FOREACH(page, &l.backend.pages, next) {
        g_assert(!n++ || page->offset > last);
        last = page->offset;
    }
    g_assert_cmpint(n, ==, ARRAY_SIZE(order));
    ledger_destroy(&l);
}

static void test_counters(void)
{
    RasPage *one, *two;
    Ledger l;

    ledger_init(&l, 4 * KiB);
    one = split_page(&l, AT(1, 0), 10, 1);
    two = split_page(&l, AT(3, 0), 0, 3);
    g_assert_cmpint(l.ras.split_pages, ==, 2);
    g_assert_cmpint(l.ras.lost_pages, ==, 4);
    g_assert_cmpint(one->salvaged, ==, 511 * 4 * KiB);
    g_assert(one->announce);
    one->announce = false;

    g_assert(ras_page_is_lost(one, AT(1, 10)));
    g_assert(ras_page_is_lost(one, AT(1, 11) - 1));
    g_assert(!ras_page_is_lost(one, AT(1, 9)));
    g_assert(!ras_page_is_lost(one, AT(1, 11)));

    /* A second error counts once, and is news once. */
    ras_page_set_lost(&l.ras, one, AT(1, 10));
    g_assert(!one->announce);
    g_assert_cmpint(l.ras.lost_pages, ==, 4);
    ras_page_set_lost(&l.ras, one, AT(1, 11) + 5);
    g_assert(one->announce);
    g_assert(ras_page_is_lost(one, AT(1, 11)));
    g_assert_cmpint(one->lost_pages, ==, 2);
    g_assert_cmpint(one->salvaged, ==, 510 * 4 * KiB);
    g_assert_cmpint(l.ras.lost_pages, ==, 5);

    /* Discarded: only what was lost counts. */
    ras_page_clear_lost(&l.ras, two, AT(3, 1), 100 * 4 * KiB);
    g_assert(ras_page_is_lost(two, AT(3, 0)));
    g_assert(!ras_page_is_lost(two, AT(3, 1)));
    g_assert(!ras_page_is_lost(two, AT(3, 2)));
    g_assert_cmpint(two->lost_pages, ==, 1);
    g_assert_cmpint(l.ras.lost_pages, ==, 3);
    ras_page_clear_lost(&l.ras, two, AT(3, 0), HUGE_PAGE);
    g_assert_cmpint(two->lost_pages, ==, 0);
    g_assert_cmpint(l.ras.lost_pages, ==, 2);
    g_assert_cmpint(l.ras.split_pages, ==, 2);

    ras_page_free(&l.ras, one);
    g_assert_cmpint(l.ras.lost_pages, ==, 0);
    g_assert_cmpint(l.ras.split_pages, ==, 1);
    /* While it is filled, a loss counts but is no news. */
    one = ras_page_get(&l.backend, AT(5, 0));
    ras_page_set_state(one, HUGETLBFS_RAS_STATE_SPLITTING, NULL);
    g_assert(!ras_page_is_replaced(one));
    ras_page_set_replaced(&l.ras, one, bitmap_new(512));
    g_assert(ras_page_is_replaced(one));
    ras_page_set_lost(&l.ras, one, AT(5, 7));
    g_assert(!one->announce);
    g_assert_cmpint(one->salvaged, ==, 0);
    g_assert_cmpint(l.ras.lost_pages, ==, 1);
    g_assert_cmpint(l.ras.split_pages, ==, 2);
    /* The swap has failed. */
    ras_page_clear_replaced(&l.ras, one);
    g_assert(!ras_page_is_replaced(one));
    g_assert_cmpint(one->lost_pages, ==, 0);
    g_assert_cmpint(l.ras.lost_pages, ==, 0);
    g_assert_cmpint(l.ras.split_pages, ==, 1);
    ras_page_free(&l.ras, one);
    /* A page that was not split was never counted. */
    one = ras_page_get(&l.backend, AT(6, 0));
    ras_page_set_state(one, HUGETLBFS_RAS_STATE_REFUSED, g_strdup("no"));
    ras_page_free(&l.ras, one);
    g_assert_cmpint(l.ras.split_pages, ==, 1);
    ledger_destroy(&l);
}

static void test_untold(void)
{
    uint64_t at = AT(1, 0);
    RasPage *page;
    Ledger l;

    ledger_init(&l, 4 * KiB);
    page = ras_page_get(&l.backend, at);
    g_assert(!ras_page_next_untold(page, &at));
    page = split_page(&l, AT(1, 0), 509, 3);
    ras_page_set_lost(&l.ras, page, AT(1, 0));

    /* In ascending order, from @at on */
    for (int i = 0; i < 4; i++) {
        static const int lost[] = { 0, 509, 510, 511 };

        g_assert(ras_page_next_untold(page, &at));
        g_assert_cmpint(at, ==, AT(1, lost[i]));
        at += RAS_TOLD_SIZE;
    }
    g_assert(!ras_page_next_untold(page, &at));

    at = AT(1, 0);
    ras_page_set_told(page, AT(1, 0), true);
    ras_page_set_told(page, AT(1, 510) + 8, true);
    g_assert(ras_page_next_untold(page, &at));
    g_assert_cmpint(at, ==, AT(1, 509));
    at += RAS_TOLD_SIZE;
    g_assert(ras_page_next_untold(page, &at));
    g_assert_cmpint(at, ==, AT(1, 511));

    at = AT(1, 0);
    ras_page_set_told(page, AT(1, 0), false);
    g_assert(ras_page_next_untold(page, &at));
    g_assert_cmpint(at, ==, AT(1, 0));

    /* Lost, told, discarded and lost again: the guest does not know. */
    ras_page_clear_lost(&l.ras, page, AT(1, 510), 4 * KiB);
    at = AT(1, 510);
    g_assert(ras_page_next_untold(page, &at));
    g_assert_cmpint(at, ==, AT(1, 511));
    ras_page_set_lost(&l.ras, page, AT(1, 510));
    at = AT(1, 510);
    g_assert(ras_page_next_untold(page, &at));
    g_assert_cmpint(at, ==, AT(1, 510));
    ledger_destroy(&l);
}

/* Nothing could be saved: the guest learns of each page when it touches it. */
static void test_all_lost(void)
{
    uint64_t at = AT(2, 0);
    RasPage *page;
    Ledger l;

    ledger_init(&l, 4 * KiB);
    page = split_page(&l, AT(2, 0), 0, 512);
    g_assert_cmpint(page->salvaged, ==, 0);
    g_assert(!ras_page_next_untold(page, &at));
    g_assert_cmpint(l.ras.lost_pages, ==, 512);
    ledger_destroy(&l);
}

/* A host with 64 KiB pages loses 16 pages of the guest at a time. */
static void test_large_small_pages(void)
{
    uint64_t at = AT(2, 0);
    RasPage *page;
    int n = 0;
    Ledger l;

    ledger_init(&l, 64 * KiB);
    page = split_page(&l, AT(2, 0), 31, 1);
    g_assert(ras_page_is_lost(page, AT(2, 511)));
    g_assert(!ras_page_is_lost(page, AT(2, 495)));
    g_assert_cmpint(page->salvaged, ==, 31 * 64 * KiB);
    for (; ras_page_next_untold(page, &at); at += RAS_TOLD_SIZE) {
        g_assert_cmpint(at, ==, AT(2, 496 + n));
        ras_page_set_told(page, at, n % 2);
        n++;
    }
    g_assert_cmpint(n, ==, 16);
    at = AT(2, 0);
    for (n = 0; ras_page_next_untold(page, &at); at += RAS_TOLD_SIZE) {
        n++;
    }
    g_assert_cmpint(n, ==, 8);
    ras_page_clear_lost(&l.ras, page, AT(2, 496), 64 * KiB);
    g_assert_cmpint(l.ras.lost_pages, ==, 0);
    g_assert(bitmap_empty(page->told, 512));
    ledger_destroy(&l);
}

/* The first 6 fit in a record: none may be left out again and again. */
static void test_touched_pages(void)
{
    static const size_t sizes[] = { 4 * KiB, 16 * KiB, 64 * KiB };
    const hwaddr gpa = 3 * GiB + 64 * KiB;

    for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
        const size_t count = sizes[s] / (4 * KiB);
        hwaddr before[MEMORY_FAILURE_INFORM_MAX], gpas[ARRAY_SIZE(before)];

        for (unsigned first = 0; first < 32; first++) {
            uint32_t seen = 0;

            for (unsigned turn = first; turn < first + 3; turn++) {
                g_assert_cmpint(memory_failure_pages(gpa, sizes[s], turn,
                                                     gpas), ==, count);
                for (size_t i = 0; i < MIN(count, 6); i++) {
                    g_assert_cmphex(gpas[i] % (4 * KiB), ==, 0);
                    seen |= 1 << (gpas[i] - gpa) / (4 * KiB);
                }
                g_assert(count == 1 || turn == first ||
                         memcmp(before, gpas, sizeof(*gpas)));
                memcpy(before, gpas, sizeof(gpas));
            }
            g_assert_cmphex(seen, ==, (1 << count) - 1);
        }
    }
}

static void test_gpa(void)
{
    MemoryRegion other;
    hwaddr gpa;
    Ledger l;

    ledger_init(&l, 4 * KiB);
    map_mr = &other;
    map_size = l.backend.size;
    g_assert(!ras_gpa(&l.backend, 0, &gpa));
    /* An alias of the second half, above 4 GiB */
    map_mr = &l.mr;
    map_offset = AT(4, 0);
    map_size = AT(4, 0);
    map_gpa = 4 * GiB;
    g_assert(!ras_gpa(&l.backend, AT(4, 0) - 1, &gpa));
    g_assert(ras_gpa(&l.backend, AT(4, 0), &gpa));
    g_assert_cmphex(gpa, ==, 4 * GiB);
    g_assert(ras_gpa(&l.backend, AT(7, 511) + 9, &gpa));
    g_assert_cmphex(gpa, ==, 4 * GiB + AT(3, 511) + 9);
    g_assert(!ras_gpa(&l.backend, AT(8, 0), &gpa));
    map_mr = NULL;
    ledger_destroy(&l);
}

static void test_range(void)
{
    HugepageRange range;
    Ledger l;

    ledger_init(&l, 4 * KiB);
    range = ras_range(&l.backend, AT(3, 17) + 1);
    g_assert(range.host == l.memory + AT(3, 0));
    g_assert_cmpint(range.fd_offset, ==, 16 * MiB + AT(3, 0));
    g_assert_cmpint(range.size, ==, HUGE_PAGE);
    g_assert_cmpint(range.small, ==, 4 * KiB);
    g_assert_cmpint(range.fd, ==, 7);

    /* Settings that may change while the VM runs */
    l.hostmem.merge = true;
    l.hostmem.dump = true;
    range = ras_range(&l.backend, 0);
    g_assert(range.settings.mergeable && !range.settings.nodump);
    l.hostmem.merge = false;
    l.hostmem.dump = false;
    range = ras_range(&l.backend, 0);
    g_assert(!range.settings.mergeable && range.settings.nodump);
    ledger_destroy(&l);
}

static void *idle_thread(void *opaque)
{
    HugetlbfsRas *ras = opaque;

    g_usleep(20000);
    qemu_mutex_lock(&ras->lock);
    ras_work_end(ras, QTAILQ_FIRST(&QTAILQ_FIRST(&ras->backends)->pages));
    qemu_mutex_unlock(&ras->lock);
    return NULL;
}

static void test_wait_idle(void)
{
    QemuThread thread;
    Ledger l;

    ledger_init(&l, 4 * KiB);
    ras_work_begin(&l.ras, ras_page_get(&l.backend, 0));
    qemu_thread_create(&thread, "engine", idle_thread, &l.ras,
                       QEMU_THREAD_JOINABLE);
    WITH_QEMU_LOCK_GUARD(&l.ras.lock) {
        ras_wait_idle(&l.ras);
        g_assert(!l.ras.busy);
    }
    qemu_thread_join(&thread);
    ledger_destroy(&l);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hugetlbfs-ras/ledger/transitions", test_transitions);
    g_test_add_func("/hugetlbfs-ras/ledger/lookup", test_lookup);
    g_test_add_func("/hugetlbfs-ras/ledger/counters", test_counters);
    g_test_add_func("/hugetlbfs-ras/ledger/untold", test_untold);
    g_test_add_func("/hugetlbfs-ras/ledger/all-lost", test_all_lost);
    g_test_add_func("/hugetlbfs-ras/ledger/large-small-pages",
                    test_large_small_pages);
    g_test_add_func("/hugetlbfs-ras/ledger/touched-pages", test_touched_pages);
    g_test_add_func("/hugetlbfs-ras/ledger/gpa", test_gpa);
    g_test_add_func("/hugetlbfs-ras/ledger/range", test_range);
    g_test_add_func("/hugetlbfs-ras/ledger/wait-idle", test_wait_idle);
    return g_test_run();
}
