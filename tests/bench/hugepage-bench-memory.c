/*
 * Benchmark of the ways to rescue a poisoned huge page: the memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <math.h>
#include <sys/mman.h>
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/memfd.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "hugepage-bench.h"

#define READ_RATE_NS (200 * SCALE_MS)

/* The time that this thread was on the processor: what it was given is luck. */
static int64_t thread_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * NANOSECONDS_PER_SECOND + ts.tv_nsec;
}

static size_t memory_size(const BenchMemory *memory)
{
    return memory->range.size * BENCH_HUGE_PAGES;
}

/* File offset at which nothing can be read, for a small page */
static off_t bad_offset(const BenchMemory *memory)
{
    return memory->range.fd_offset + memory->bad * memory->range.small;
}

static ssize_t memory_read(void *opaque, void *buf, size_t count, off_t offset)
{
    BenchMemory *memory = opaque;
    off_t bad = bad_offset(memory);

    if (offset < bad) {
        count = MIN(count, bad - offset);
    } else if (offset < bad + memory->range.small) {
        errno = EIO;
        return -1;
    }
    return pread(memory->range.fd, buf, count, offset);
}

static void memory_fill(BenchMemory *memory, size_t start, size_t size)
{
    size_t word = start / sizeof(uint64_t);
    size_t end = word + size / sizeof(uint64_t);
    size_t pages = size / memory->range.small;

    for (; word < end; word++) {
        memory->base[word] = bench_word(word, 0);
    }
    memset(bench_version(memory, start / memory->range.small, 0), 0,
           pages * BENCH_WRITERS * sizeof(uint32_t));
}

void bench_memory_refill(BenchMemory *memory)
{
    size_t word;

    memory_fill(memory, memory->range.fd_offset, memory->range.size);
    /* A virtual machine's host may have to map all of it again. */
    for (word = 0; word < memory_size(memory) / sizeof(uint64_t);
         word += memory->range.small / sizeof(uint64_t)) {
        (void)qatomic_read(&memory->base[word]);
    }
}

BenchMemory *bench_memory_new(size_t size, Error **errp)
{
    ERRP_GUARD();
    BenchMemory *memory = g_new0(BenchMemory, 1);
    size_t small = qemu_real_host_page_size();
    int fd = qemu_memfd_create("hugepage-bench", BENCH_HUGE_PAGES * size, true,
                               size, 0, errp);
    void *base = MAP_FAILED;

    if (fd >= 0) {
        base = mmap(NULL, BENCH_HUGE_PAGES * size, PROT_READ | PROT_WRITE,
                    MAP_SHARED, fd, 0);
        if (base == MAP_FAILED) {
            error_setg_errno(errp, errno, "Cannot map %d huge pages of "
                             "%zu MiB", BENCH_HUGE_PAGES, size / MiB);
            error_append_hint(errp, "Reserve more of them, see "
                              "/sys/kernel/mm/hugepages.\n");
        }
    }
    if (base == MAP_FAILED) {
        if (fd >= 0) {
            close(fd);
        }
        g_free(memory);
        return NULL;
    }
    memory->base = base;
    memory->range = (HugepageRange) {
        .host = (uint8_t *)base + BENCH_RESCUED * size,
        .size = size,
        .small = small,
        .fd = fd,
        .fd_offset = BENCH_RESCUED * size,
    };
    memory->bad = size / small / 3;
    memory->reader = (HugepageReader) { memory_read, memory };
    memory->versions = g_new0(uint32_t, memory_size(memory) / small *
                                        BENCH_WRITERS);
    memory_fill(memory, 0, memory_size(memory));
    return memory;
}

void bench_memory_free(BenchMemory *memory)
{
    munmap(memory->base, memory_size(memory));
    close(memory->range.fd);
    g_free(memory->versions);
    g_free(memory);
}

static bool verify_small(BenchMemory *memory, size_t page, Error **errp)
{
    size_t words = memory->range.small / sizeof(uint64_t);
    size_t word;

    for (word = page * words; word < (page + 1) * words; word++) {
        size_t writer = word - bench_own_word(memory, page, 0);
        uint32_t version = 0;

        if (writer < BENCH_WRITERS) {
            version = *bench_version(memory, page, writer);
        }
        if (memory->base[word] != bench_word(word, version)) {
            error_setg(errp, "Corrupt: word %zu is 0x%" PRIx64 ", but 0x%"
                       PRIx64 " was written", word, memory->base[word],
                       bench_word(word, version));
            return false;
        }
    }
    return true;
}

bool bench_memory_verify(BenchMemory *memory, bool marked, Error **errp)
{
    size_t small = memory->range.small;
    size_t bad = bad_offset(memory) / small;
    size_t page;

    for (page = 0; page < memory_size(memory) / small; page++) {
        if (page != bad && !verify_small(memory, page, errp)) {
            return false;
        }
    }
    if (marked && !hugepage_split_is_lost((uint8_t *)memory->base + bad * small,
                                          small)) {
        error_setg(errp, "Corrupt: the lost page can be read");
        return false;
    }
    return true;
}

/* Anonymous memory that is there already; as large as the caller asked for */
static void *populated(size_t size)
{
    void *ptr = mmap(NULL, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (ptr == MAP_FAILED) {
        error_setg(&error_fatal, "Cannot allocate %zu MiB", size / MiB);
    }
    madvise(ptr, size, MADV_HUGEPAGE);
    memset(ptr, 0xff, size);
    return ptr;
}

int64_t bench_memory_copy(const BenchMemory *memory)
{
    size_t size = memory->range.size;
    void *copy = populated(size);
    int64_t start = get_clock();

    memcpy(copy, memory->range.host, size);
    start = get_clock() - start;
    munmap(copy, size);
    return start;
}

void bench_warm(size_t size)
{
    munmap(populated(size), size);
}

double bench_memory_read_rate(const BenchMemory *memory)
{
    const uint64_t *data = memory->range.host;
    size_t words = memory->range.size / sizeof(uint64_t);
    size_t first_bad = memory->bad * memory->range.small / sizeof(uint64_t);
    size_t bad_words = memory->range.small / sizeof(uint64_t);
    uint64_t random = 88172645463325252ULL;
    int64_t start = thread_ns();
    int64_t end = start;
    uint64_t reads = 0;

    while (end - start < READ_RATE_NS) {
        for (unsigned i = 0; i < 4096; i++) {
            size_t word = bench_random(&random) & (words - 1);

            if (word - first_bad >= bad_words) {
                (void)qatomic_read(&data[word]);
                reads++;
            }
        }
        end = thread_ns();
    }
    return reads * (double)NANOSECONDS_PER_SECOND / (end - start);
}

double bench_memory_huge_share(const BenchMemory *memory, unsigned *mappings)
{
    uintptr_t start = (uintptr_t)memory->range.host;
    size_t small = memory->range.small;
    size_t extent = small / sizeof(uint64_t) * small;
    size_t healthy = MAX(memory->range.size, extent) - extent;
    g_autofree char *smaps = NULL;
    char *line, *next;
    size_t huge = 0;
    bool inside = false;

    *mappings = 0;
    if (!g_file_get_contents("/proc/self/smaps", &smaps, NULL, NULL)) {
        return NAN;
    }
    for (line = smaps; line && *line; line = next) {
        uintptr_t from, to;
        size_t kib;

        next = strchr(line, '\n');
        next = next ? next + 1 : NULL;
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2) {
            inside = from - start < memory->range.size;
            *mappings += inside;
        } else if (inside && sscanf(line, "AnonHugePages: %zu", &kib) == 1) {
            huge += kib * KiB;
        }
    }
    return healthy ? (double)huge / healthy : NAN;
}

static size_t status_bytes(const char *key)
{
    g_autofree char *status = NULL;
    const char *at;
    size_t kib;

    if (!g_file_get_contents("/proc/self/status", &status, NULL, NULL)) {
        return 0;
    }
    at = strstr(status, key);
    return at && sscanf(at + strlen(key), "%zu", &kib) == 1 ? kib * KiB : 0;
}

size_t bench_resident(void)
{
    return status_bytes("\nVmRSS:");
}

size_t bench_resident_peak(void)
{
    return status_bytes("\nVmHWM:");
}

bool bench_resident_peak_reset(Error **errp)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, "5", 1) == 1;

    if (!ok) {
        error_setg_errno(errp, errno, "Cannot reset the peak of the memory "
                         "in use");
    }
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}
