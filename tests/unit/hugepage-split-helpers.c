/*
 * Memory and checks for the tests of the huge page engine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <setjmp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/memfd.h"
#include "qemu/units.h"
#include "qemu/userfaultfd.h"
#include "hugepage-split-helpers.h"

/* Of a reader that is told to be short, before it reads at length */
#define SHORT_READS 100000

static uint64_t file_word(size_t offset)
{
    return (offset + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

uint64_t test_page_word(const TestPage *page, size_t pos)
{
    return file_word(page->range.fd_offset + pos);
}

static void write_pattern(int fd, size_t size)
{
    uint8_t *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    size_t pos;

    g_assert(map != MAP_FAILED);
    for (pos = 0; pos < size; pos += sizeof(uint64_t)) {
        *(uint64_t *)(map + pos) = file_word(pos);
    }
    munmap(map, size);
}

void test_page_renew(TestPage *page)
{
    size_t size = page->range.size;

    write_pattern(page->range.fd, 2 * size);
    g_assert(mmap(page->area, 2 * size, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_FIXED, page->range.fd, 0) == page->area);
}

bool test_page_init(TestPage *page, const TestMemory *memory)
{
    g_autoptr(Error) err = NULL;
    size_t size = memory->size;
    uint8_t *ptr;

    memset(page, 0, sizeof(*page));
    if (!hugepage_split_supported(&err)) {
        g_test_skip(error_get_pretty(err));
        return false;
    }
    if (memory->hugetlb && !test_pool_ready()) {
        g_test_skip("no free huge pages of 2 MiB, and none can be added");
        return false;
    }
    page->range.fd = qemu_memfd_create("test", 2 * size, memory->hugetlb,
                                       memory->hugetlb ? size : 0, 0, &err);
    if (page->range.fd < 0) {
        g_test_skip(error_get_pretty(err));
        return false;
    }
    ptr = mmap(NULL, 3 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert(ptr != MAP_FAILED);
    page->area = QEMU_ALIGN_PTR_UP(ptr, size);
    if (page->area > ptr) {
        munmap(ptr, page->area - ptr);
    }
    munmap(page->area + 2 * size, ptr + size - page->area);
    page->range.small = qemu_real_host_page_size();
    page->range.size = size;
    page->range.fd_offset = size;
    page->range.host = page->area + size;
    page->pages = size / page->range.small;
    test_page_renew(page);
    return true;
}

void test_page_destroy(TestPage *page)
{
    munmap(page->area, 2 * page->range.size);
    close(page->range.fd);
}

void test_page_poison(TestPage *page)
{
    const HugepageRange *range = &page->range;
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = UFFD_FEATURE_POISON,
    };
    struct uffdio_poison poison = {
        .range.start = (uintptr_t)range->host,
        .range.len = range->size,
    };
    int uffd = uffd_open(O_CLOEXEC | UFFD_USER_MODE_ONLY);

    g_assert(uffd >= 0);
    g_assert(ioctl(uffd, UFFDIO_API, &api) == 0);
    g_assert(uffd_register_memory(uffd, range->host, range->size,
                                  UFFDIO_REGISTER_MODE_MISSING, NULL) == 0);
    g_assert(madvise(range->host, range->size, MADV_DONTNEED) == 0);
    g_assert(ioctl(uffd, UFFDIO_POISON, &poison) == 0);
    uffd_close_fd(uffd);
}

void fake_reader_init(FakeReader *fake, TestPage *page)
{
    size_t i;

    memset(fake, 0, sizeof(*fake));
    fake->page = page;
    fake->error = EIO;
    fake->bad_from = g_new(size_t, page->pages);
    for (i = 0; i < page->pages; i++) {
        fake->bad_from[i] = NOT_BAD;
    }
}

void fake_reader_destroy(FakeReader *fake)
{
    g_free(fake->bad_from);
}

/* Bytes that can be read from @pos on, as a poisoned hugetlbfs page has it */
static size_t readable(const FakeReader *fake, size_t pos, size_t count)
{
    size_t small = fake->page->range.small;
    size_t i;

    for (i = pos / small; i * small < pos + count; i++) {
        size_t bad = i * small + fake->bad_from[i];

        if (fake->bad_from[i] != NOT_BAD && bad < pos + count) {
            return bad > pos ? bad - pos : 0;
        }
    }
    return count;
}

ssize_t fake_reader_read(void *opaque, void *buf, size_t count, off_t offset)
{
    FakeReader *fake = opaque;
    size_t good;

    if (fake->interrupted < fake->storm) {
        fake->interrupted++;
        errno = EINTR;
        return -1;
    }
    fake->interrupted = 0;
    fake->calls++;
    good = readable(fake, offset - fake->page->range.fd_offset, count);
    if (good == 0) {
        errno = fake->error;
        return fake->too_long ? count + 1 : fake->error ? -1 : 0;
    }
    if (fake->shortest && fake->calls < SHORT_READS &&
        !(fake->alternate && fake->calls % 2)) {
        good = MIN(good, fake->shortest);
    }
    return pread(fake->page->range.fd, buf, good, offset);
}

static __thread sigjmp_buf sigbus_env;
static __thread volatile sig_atomic_t sigbus_expected;

static void sigbus_handler(int sig)
{
    if (!sigbus_expected) {
        abort();
    }
    siglongjmp(sigbus_env, 1);
}

static void __attribute__((constructor)) sigbus_init(void)
{
    struct sigaction action = { .sa_handler = sigbus_handler };

    sigaction(SIGBUS, &action, NULL);
}

#ifdef CONFIG_TSAN
/*
 * ThreadSanitizer cannot follow a jump out of a handler: let the kernel try.
 * volatile: as below
 */
static bool try_access(volatile uint64_t *ptr, uint64_t *word, bool store)
{
    struct iovec local = { word, sizeof(*word) };
    struct iovec remote = { (void *)ptr, sizeof(*ptr) };

    return (store ? process_vm_writev(getpid(), &local, 1, &remote, 1, 0)
                  : process_vm_readv(getpid(), &local, 1, &remote, 1, 0)) ==
           sizeof(*word);
}
#else
/* volatile: the access is what is tested, not its value */
static bool try_access(volatile uint64_t *ptr, uint64_t *word, bool store)
{
    bool ok = false;

    if (sigsetjmp(sigbus_env, 1) == 0) {
        sigbus_expected = 1;
        if (store) {
            *ptr = *word;
        }
        *word = *ptr;
        ok = true;
    }
    sigbus_expected = 0;
    return ok;
}
#endif

bool try_load(void *ptr, uint64_t *word)
{
    return try_access(ptr, word, false);
}

bool try_store(void *ptr, uint64_t word)
{
    return try_access(ptr, &word, true);
}

static void assert_small_page(TestPage *page, size_t index, bool lost)
{
    size_t small = page->range.small;
    uint8_t *ptr = page->range.host + index * small;
    uint64_t word;
    size_t pos;

    g_assert(hugepage_split_is_lost(ptr, small) == lost);
    if (lost) {
        g_assert_false(try_load(ptr, &word));
        g_assert_false(try_load(ptr + small - sizeof(word), &word));
        g_assert_false(try_store(ptr + small / 2, 0));
        return;
    }
    g_assert(try_load(ptr, &word));
    for (pos = 0; pos < small; pos += sizeof(word)) {
        g_assert_cmphex(*(uint64_t *)(ptr + pos), ==,
                        test_page_word(page, index * small + pos));
    }
    g_assert(try_store(ptr, test_page_word(page, index * small)));
}

static void assert_first_page(TestPage *page)
{
    size_t pos;

    for (pos = 0; pos < page->range.size; pos += sizeof(uint64_t)) {
        g_assert_cmphex(*(uint64_t *)(page->area + pos), ==, file_word(pos));
    }
}

void assert_split(TestPage *page, const unsigned long *lost)
{
    size_t i;

    for (i = 0; i < page->pages; i++) {
        assert_small_page(page, i, test_bit(i, lost));
    }
    assert_first_page(page);
}

/*
 * The line about @ptr and those behind it, up to the next mapping's.  Not by
 * g_strsplit(): under ASan its strstr() looks at all the rest for each line.
 */
static char *smaps_entry(void *ptr)
{
    g_autofree char *text = NULL;
    g_autoptr(GString) entry = g_string_new(NULL);
    bool found = false;
    char *rest, *line;

    g_assert(g_file_get_contents("/proc/self/smaps", &text, NULL, NULL));
    rest = text;
    while ((line = strsep(&rest, "\n"))) {
        uintptr_t start, end;

        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2) {
            found = start <= (uintptr_t)ptr && (uintptr_t)ptr < end;
        }
        if (found) {
            g_string_append_printf(entry, "%s\n", line);
        }
    }
    return g_string_free(g_steal_pointer(&entry), false);
}

static bool has_vm_flag(void *ptr, const char *flag)
{
    g_autofree char *entry = smaps_entry(ptr);
    g_autofree char *needle = g_strdup_printf(" %s ", flag);
    char *flags = strstr(entry, "VmFlags:");

    g_assert(flags);
    return strstr(flags, needle);
}

static bool is_file(TestPage *page)
{
    g_autofree char *entry = smaps_entry(page->range.host);
    unsigned long inode = 0;
    struct stat st;

    g_assert(fstat(page->range.fd, &st) == 0);
    g_assert(sscanf(entry, "%*s %*s %*s %*s %lu", &inode) == 1);
    return inode == st.st_ino;
}

static void assert_reaches_file(TestPage *page)
{
    uint64_t *last = page->range.host + page->range.size - sizeof(*last);
    uint64_t old = *last, word;

    *last = 42;
    g_assert(pread(page->range.fd, &word, sizeof(word), page->range.fd_offset +
                   page->range.size - sizeof(word)) == sizeof(word));
    g_assert_cmpuint(word, ==, 42);
    *last = old;
}

static void assert_words(TestPage *page, bool zero)
{
    size_t pos;

    for (pos = 0; pos < page->range.size; pos += sizeof(uint64_t)) {
        g_assert_cmphex(*(uint64_t *)(page->range.host + pos), ==,
                        zero ? 0 : test_page_word(page, pos));
    }
    assert_first_page(page);
}

void assert_untouched(TestPage *page)
{
    g_assert(is_file(page));
    assert_words(page, false);
    assert_reaches_file(page);
}

void assert_undone(TestPage *page)
{
    g_assert(is_file(page));
    assert_words(page, true);
    assert_reaches_file(page);
}

void assert_copied_back(TestPage *page, const unsigned long *lost)
{
    size_t pos;

    g_assert(is_file(page));
    for (pos = 0; pos < page->range.size; pos += sizeof(uint64_t)) {
        uint64_t word = 0;

        if (!test_bit(pos / page->range.small, lost)) {
            word = test_page_word(page, pos);
        }
        g_assert_cmphex(*(uint64_t *)(page->range.host + pos), ==, word);
    }
    assert_reaches_file(page);
}

void assert_zeroed_copy(TestPage *page)
{
    g_assert(!is_file(page));
    assert_words(page, true);
}

static unsigned count_mappings(const TestPage *page)
{
    g_autofree char *text = NULL;
    unsigned n = 0;
    char *rest, *line;

    g_assert(g_file_get_contents("/proc/self/maps", &text, NULL, NULL));
    rest = text;
    while ((line = strsep(&rest, "\n"))) {
        uint8_t *start, *end;

        if (sscanf(line, "%p-%p ", (void **)&start, (void **)&end) == 2) {
            n += start < page->area + 2 * page->range.size && end > page->area;
        }
    }
    return n;
}

Resources resources_count(const TestPage *page)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    Resources now = {
        .mapped = faults_mapped(),
        .mappings = count_mappings(page),
    };

    while (g_dir_read_name(dir)) {
        now.fds++;
    }
    return now;
}

void assert_no_leak(const TestPage *page, const Resources *before)
{
    Resources now = resources_count(page);

    g_assert_cmpuint(now.fds, ==, before->fds);
    g_assert_cmpint(now.mapped, ==, before->mapped);
    g_assert_cmpuint(now.mappings, ==, before->mappings);
}

void assert_settings(TestPage *page, bool copy)
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

void split_page(TestPage *page, const unsigned long *lost)
{
    HugepageSplitResult result = { 0 };

    g_assert(hugepage_split(&page->range, lost, NULL, NULL, &result,
                            &error_abort));
    g_assert(bitmap_equal(result.lost, lost, page->pages));
    hugepage_split_result_destroy(&result);
    g_assert_null(result.lost);
}

unsigned long *some_lost(const TestPage *page)
{
    unsigned long *lost = bitmap_new(page->pages);

    set_bit(0, lost);
    set_bit(page->pages / 2, lost);
    set_bit(page->pages / 2 + 1, lost);
    set_bit(page->pages - 1, lost);
    return lost;
}

static const TestMemory memories[] = {
    { .name = "hugetlb", .hugetlb = true, .size = 2 * MiB },
    { .name = "file", .size = 2 * MiB },
    /* More than one page table of small pages */
    { .name = "file-4m", .size = 4 * MiB },
};

typedef struct Test {
    const TestMemory *memory;
    TestBody *run;
    const void *opaque;
} Test;

static void run_test(const void *opaque)
{
    const Test *test = opaque;

    test->run(test->memory, test->opaque);
}

void add_test(const char *name, const char *variant,
              TestBody *run, const void *opaque)
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
