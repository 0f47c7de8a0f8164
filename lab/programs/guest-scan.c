/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two regions of locked 4 KiB pages.  Region A is scanned for ever: each
 * word is compared with a pattern that depends on the page, the word and the
 * page's round, then written anew for the next round.  Region B is filled
 * once and left alone.
 *
 * A page lost to a memory failure is replaced in the SIGBUS handler by a
 * fresh one with the same pattern, so that the access that failed repeats
 * and the scan goes on.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "guest.h"

#define MAX_BLOCKS 4096
#define MAX_LOST 8192

struct page {
    uint64_t gpa;
    uint32_t round;
    unsigned lost;              /* 0, 1: being replaced, 2: replaced */
};

struct area {
    char name;
    uint8_t *base;
    size_t pages;
    struct page *page;
};

struct lost {
    uint64_t gpa;
    int code, lsb;
    uint64_t accessed;          /* guest-physical, what the thread was at */
    char area;
};

enum mode { SCAN, IDLE, HAMMER };

static struct area areas[2] = { { .name = 'A' }, { .name = 'B' } };
static struct lost lost[MAX_LOST];
static unsigned n_lost, n_signals, n_stray, n_corrupt;
static struct scanner {
    pthread_t thread;
    unsigned rounds;
    enum mode in_mode;
    double longest;             /* seconds, check of one page */
    double said;
} scanners[MAX_THREADS];
static unsigned n_scanners;
static double longest_beat;     /* seconds in which nothing ran in the guest */
static volatile enum mode mode;
static uint64_t hammer_gpa;
static __thread uint8_t * volatile accessing;

uint64_t pattern_seed(uint64_t who, uint64_t page, uint64_t round)
{
    uint64_t x = (who << 56) ^ (round << 32) ^ page;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

void pattern_fill(volatile uint64_t *page, uint64_t seed)
{
    for (size_t k = 0; k < WORDS; k++, seed += STEP) {
        page[k] = seed;
    }
}

unsigned pattern_check(volatile uint64_t *page, uint64_t seed)
{
    unsigned bad = 0;

    for (size_t k = 0; k < WORDS; k++, seed += STEP) {
        bad += page[k] != seed;
    }
    return bad;
}

uint64_t gpa_of(const volatile void *addr)
{
    static int fd = -1;
    uint64_t entry = 0;

    if (fd < 0) {
        fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    }
    if (pread(fd, &entry, 8, (uintptr_t)addr / PAGE * 8) != 8 ||
        !(entry >> 63)) {
        return 0;
    }
    return (entry & ((1ULL << 55) - 1)) * PAGE;
}

static uint64_t seed_of(struct area *a, size_t i)
{
    return pattern_seed(a->name, i, a->page[i].round);
}

static volatile uint64_t *words(struct area *a, size_t i)
{
    return (volatile uint64_t *)(a->base + i * PAGE);
}

/*
 * The kernel did not take the bad page away: keep it where nobody touches it,
 * so that it never gets to another process.
 */
static void bury(void *page)
{
    if (mremap(page, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP) ==
        MAP_FAILED) {
        _exit(5);
    }
}

/* At once: another thread finds the bad page or the pattern, never zeros. */
static void replace(struct area *a, size_t i)
{
    void *fresh = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE |
                       MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (fresh == MAP_FAILED) {
        _exit(3);
    }
    pattern_fill(fresh, seed_of(a, i));
    if (mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
               a->base + i * PAGE) == MAP_FAILED) {
        _exit(3);
    }
}

static struct area *area_at(const uint8_t *addr)
{
    for (int k = 0; k < 2; k++) {
        struct area *a = &areas[k];

        if (addr >= a->base && addr < a->base + a->pages * PAGE) {
            return a;
        }
    }
    return NULL;
}

/* What make_area() or scan_blocks() has found; 0: no page of ours */
static uint64_t gpa_known(const uint8_t *addr)
{
    struct area *a = area_at(addr);

    return a ? a->page[(addr - a->base) / PAGE].gpa : 0;
}

static void lose(struct area *a, size_t i, siginfo_t *info)
{
    struct page *p = &a->page[i];
    unsigned state = 0;

    if (!__atomic_compare_exchange_n(&p->lost, &state, 1, false,
                                     __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        /* another thread touched it too */
        while (__atomic_load_n(&p->lost, __ATOMIC_SEQ_CST) == 1) {
            sched_yield();
        }
        return;
    }
    unsigned n = __atomic_fetch_add(&n_lost, 1, __ATOMIC_SEQ_CST);
    if (n < MAX_LOST) {
        lost[n] = (struct lost) {
            .gpa = p->gpa, .code = info->si_code, .lsb = info->si_addr_lsb,
            .accessed = gpa_known(accessing), .area = a->name,
        };
    }
    if (info->si_code == BUS_OBJERR) {
        bury(a->base + i * PAGE);
    }
    replace(a, i);
    __atomic_store_n(&p->lost, 2, __ATOMIC_SEQ_CST);
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    uint8_t *addr = info->si_addr;
    struct area *a;

    __atomic_fetch_add(&n_signals, 1, __ATOMIC_SEQ_CST);
    if (info->si_code == BUS_OBJERR && !addr) {
        addr = accessing;   /* synchronous, of an unknown address */
    }
    a = area_at(addr);
    if (a) {
        lose(a, (addr - a->base) / PAGE, info);
        return;
    }
    /* not our memory: blaming it again and again would help nobody */
    if (__atomic_fetch_add(&n_stray, 1, __ATOMIC_SEQ_CST) > 100) {
        _exit(4);
    }
}

static unsigned check(struct area *a, size_t i)
{
    unsigned bad;

    accessing = a->base + i * PAGE;
    bad = pattern_check(words(a, i), seed_of(a, i));
    if (bad) {
        if (__atomic_fetch_add(&n_corrupt, bad, __ATOMIC_SEQ_CST) < 100000) {
            say("# corrupt: area %c page %zu gpa 0x%llx round %u: %u words,"
                " word 0 is 0x%llx", a->name, i,
                (unsigned long long)a->page[i].gpa, a->page[i].round, bad,
                (unsigned long long)words(a, i)[0]);
        }
        pattern_fill(words(a, i), seed_of(a, i));
    }
    return bad;
}

static void next_round(struct area *a, size_t i)
{
    unsigned before;

    a->page[i].round++;
    do {
        /* a replacement in the middle has the new pattern all over */
        before = __atomic_load_n(&a->page[i].lost, __ATOMIC_SEQ_CST);
        pattern_fill(words(a, i), seed_of(a, i));
    } while (before != __atomic_load_n(&a->page[i].lost, __ATOMIC_SEQ_CST));
}

static void visit(struct scanner *s, struct area *a, size_t i, bool write)
{
    double start = now(), took;

    check(a, i);
    if (write) {
        next_round(a, i);
    }
    took = now() - start;
    s->longest = took > s->longest ? took : s->longest;
}

/* Neighbouring pages go to different vCPUs: all work in each huge page. */
static void one_round(struct scanner *s, enum mode m)
{
    struct area *a = &areas[0];
    size_t self = s - scanners, step = m == HAMMER ? 1 : n_scanners;

    for (size_t i = m == HAMMER ? 0 : self; i < a->pages; i += step) {
        if (mode != m) {
            return;
        }
        if (m == SCAN) {
            visit(s, a, i, true);
        } else if (a->page[i].gpa / HUGE == hammer_gpa / HUGE) {
            visit(s, a, i, false);
        }
    }
    s->rounds++;
    if (now() - s->said > 0.5) {
        s->said = now();
        say("# round %u of vCPU %zu: lost %u corrupt %u longest %.0f us",
            s->rounds, self, n_lost, n_corrupt, s->longest * 1e6);
    }
}

static void *scanner_main(void *opaque)
{
    struct scanner *s = opaque;
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(s - scanners, &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
    for (;;) {
        enum mode m = mode;

        __atomic_store_n(&s->in_mode, m, __ATOMIC_SEQ_CST);
        if (m == IDLE) {
            usleep(1000);
        } else {
            one_round(s, m);
        }
    }
    return NULL;
}

/* Does anything run?  The scanners, one per vCPU, leave it a processor. */
static void *beat_main(void *opaque)
{
    double last = now();

    for (;;) {
        usleep(1000);
        double time = now();

        longest_beat = time - last > longest_beat ? time - last : longest_beat;
        last = time;
    }
    return NULL;
}

static int make_area(struct area *a, size_t mib)
{
    a->pages = (mib << 20) / PAGE;
    a->page = calloc(a->pages, sizeof(*a->page));
    a->base = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!a->page || a->base == MAP_FAILED ||
        madvise(a->base, mib << 20, MADV_NOHUGEPAGE) ||
        mlock(a->base, mib << 20)) {
        perror("lab: region");
        return -1;
    }
    for (size_t i = 0; i < a->pages; i++) {
        pattern_fill(words(a, i), seed_of(a, i));
        a->page[i].gpa = gpa_of(words(a, i));
    }
    return 0;
}

int scan_start(size_t scanned_mib, size_t quiet_mib)
{
    struct sigaction act = { .sa_sigaction = on_sigbus,
                             .sa_flags = SA_SIGINFO };
    pthread_t beat;

    n_scanners = sysconf(_SC_NPROCESSORS_ONLN);
    n_scanners = n_scanners < MAX_THREADS ? n_scanners : MAX_THREADS;
    sigaction(SIGBUS, &act, NULL);
    if (make_area(&areas[1], quiet_mib) || make_area(&areas[0], scanned_mib)) {
        return -1;
    }
    for (size_t i = 0; i < n_scanners; i++) {
        pthread_create(&scanners[i].thread, NULL, scanner_main, &scanners[i]);
    }
    pthread_create(&beat, NULL, beat_main, NULL);
    return 0;
}

static struct area *area_named(int argc, char **argv)
{
    return &areas[argc > 0 && argv[0][0] == 'B'];
}

/* blocks A|B: guest-physical addresses of huge pages that the region fills */
void scan_blocks(int argc, char **argv)
{
    static uint16_t count[MAX_BLOCKS];
    static char out[MAX_BLOCKS * 12];
    struct area *a = area_named(argc, argv);
    size_t len = 0;

    memset(count, 0, sizeof(count));
    for (size_t i = 0; i < a->pages; i++) {
        if (!a->page[i].lost) {
            a->page[i].gpa = gpa_of(words(a, i));
            count[a->page[i].gpa / HUGE % MAX_BLOCKS]++;
        }
    }
    out[0] = 0;
    for (size_t b = 0; b < MAX_BLOCKS; b++) {
        if (count[b] == HUGE_PAGES) {
            len += sprintf(out + len, " 0x%llx", (unsigned long long)b * HUGE);
        }
    }
    say("ok%s", out);
}

void scan_stat(int argc, char **argv)
{
    unsigned rounds = -1U;
    double longest = 0, still = longest_beat;
    int reset = argc && !strcmp(argv[0], "reset");

    if (reset) {
        longest_beat = 0;
    }
    for (size_t i = 0; i < n_scanners; i++) {
        struct scanner *s = &scanners[i];

        rounds = s->rounds < rounds ? s->rounds : rounds;
        longest = s->longest > longest ? s->longest : longest;
        if (reset) {
            s->longest = 0;
        }
    }
    say("ok lost=%u corrupt=%u signals=%u stray=%u rounds=%u vcpus=%u"
        " longest_us=%.0f still_us=%.0f", n_lost, n_corrupt, n_signals, n_stray,
        rounds, n_scanners, longest * 1e6, still * 1e6);
}

/* wait N: for N complete rounds of every vCPU that start after now */
void scan_wait(int argc, char **argv)
{
    unsigned more = argc ? atoi(argv[0]) : 1, target[MAX_THREADS];

    for (size_t i = 0; i < n_scanners; i++) {
        target[i] = scanners[i].rounds + more + 1;
    }
    for (size_t i = 0; i < n_scanners; i++) {
        while (*(volatile unsigned *)&scanners[i].rounds < target[i]) {
            usleep(10000);
        }
    }
    scan_stat(0, NULL);
}

/* lost: area:gpa:si_code:lsb:(gpa that was accessed) of each lost page */
void scan_lost(int argc, char **argv)
{
    static char out[MAX_LOST * 56];
    unsigned n = n_lost < MAX_LOST ? n_lost : MAX_LOST;
    size_t len = 0;

    out[0] = 0;
    for (unsigned i = 0; i < n; i++) {
        len += sprintf(out + len, " %c:0x%llx:%d:%d:0x%llx", lost[i].area,
                       (unsigned long long)lost[i].gpa, lost[i].code,
                       lost[i].lsb, (unsigned long long)lost[i].accessed);
    }
    say("ok%s", out);
}

void scan_check(int argc, char **argv)
{
    struct area *a = &areas[1];
    unsigned bad = 0;

    for (size_t i = 0; i < a->pages; i++) {
        bad += check(a, i);
    }
    say("ok pages=%zu corrupt=%u lost=%u", a->pages, bad, n_lost);
}

static void set_mode(enum mode m)
{
    mode = m;
    for (size_t i = 0; i < n_scanners; i++) {
        while (__atomic_load_n(&scanners[i].in_mode, __ATOMIC_SEQ_CST) != m) {
            usleep(1000);
        }
    }
}

void scan_mode(int argc, char **argv)
{
    set_mode(IDLE);
    if (argc > 1 && !strcmp(argv[0], "hammer")) {
        hammer_gpa = strtoull(argv[1], NULL, 0);
        set_mode(HAMMER);
    } else if (argc && !strcmp(argv[0], "scan")) {
        set_mode(SCAN);
    }
    say("ok");
}

static size_t quiet_index(uint64_t gpa)
{
    size_t i = 0;

    while (i < areas[1].pages && areas[1].page[i].gpa / PAGE != gpa / PAGE) {
        i++;
    }
    return i;
}

volatile uint64_t *scan_quiet_page(uint64_t gpa)
{
    size_t i = quiet_index(gpa);

    return i < areas[1].pages ? words(&areas[1], i) : NULL;
}

void scan_quiet_refill(uint64_t gpa)
{
    size_t i = quiet_index(gpa);

    if (i < areas[1].pages) {
        pattern_fill(words(&areas[1], i), seed_of(&areas[1], i));
    }
}
