/*
 * Replace one poisoned huge page by small pages, saving what can be read
 *
 * The contract is in include/qemu/hugepage-split.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/host-utils.h"
#include "qemu/hugepage-split.h"
#include "qemu/timer.h"
#include "hugepage-internal.h"

/* Huge mappings' worth of memory that is read at once */
#define SPLIT_AT_ONCE 16

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

ssize_t hugepage_read_fd(void *opaque, void *buf, size_t count, off_t offset)
{
    return pread(GPOINTER_TO_INT(opaque), buf, count, offset);
}

int64_t hugepage_clock_now(void *opaque)
{
    return get_clock();
}

bool hugepage_range_check(const HugepageRange *range, Error **errp)
{
    if (is_power_of_2(range->size) && is_power_of_2(range->small) &&
        range->small >= qemu_real_host_page_size() &&
        range->size > range->small &&
        QEMU_PTR_IS_ALIGNED(range->host, range->size) &&
        range->fd_offset >= 0 &&
        QEMU_IS_ALIGNED(range->fd_offset, range->size)) {
        return true;
    }
    error_setg(errp, "No huge page of %zu bytes in pages of %zu bytes can be "
               "at %p and file offset %" PRId64, range->size, range->small,
               range->host, (int64_t)range->fd_offset);
    return false;
}

/* Memory that one page table maps: that is what a huge mapping can cover. */
size_t hugepage_extent(const HugepageRange *range)
{
    return MIN(range->size, range->small / sizeof(uint64_t) * range->small);
}

/*
 * MADV_MERGEABLE is not here: mremap() of such memory first takes apart what
 * was merged, and a signal interrupts that when the old range is gone already.
 * For the same reason the copy is unmergeable where all memory of the process
 * is merged (PR_SET_MEMORY_MERGE).
 */
static bool settings_apply(const HugepageSettings *settings, void *ptr,
                           size_t size, Error **errp)
{
    ERRP_GUARD();

    if (settings->numa_mode &&
        syscall(__NR_mbind, ptr, size, settings->numa_mode,
                settings->numa_nodes, settings->numa_maxnode, 0)) {
        error_setg_errno(errp, errno, "Cannot bind new memory to host nodes");
        error_append_hint(errp, "Are the nodes of the memory backend online "
                          "and allowed in the cpuset?\n");
        return false;
    }
    if (settings->nodump && madvise(ptr, size, MADV_DONTDUMP)) {
        error_setg_errno(errp, errno, "Cannot keep new memory out of dumps");
        return false;
    }
    if (settings->nofork && madvise(ptr, size, MADV_DONTFORK)) {
        error_setg_errno(errp, errno, "Cannot keep new memory from forks");
        return false;
    }
    /* After mlockall(MCL_FUTURE) it came locked: no populating behind us. */
    if (settings->locked ? mlock2(ptr, size, MLOCK_ONFAULT)
                         : munlock(ptr, size)) {
        error_setg_errno(errp, errno, "Cannot lock new memory");
        error_append_hint(errp, "Raise RLIMIT_MEMLOCK by the size of a huge "
                          "page.\n");
        return false;
    }
    return true;
}

/*
 * Address space aligned like the huge page, so that mremap() moves page tables
 * instead of entries.  It stays inaccessible until it has its settings: nothing
 * is populated before the NUMA policy is known.
 */
static void *staging_reserve(size_t size, size_t align, Error **errp)
{
    ERRP_GUARD();
    uint8_t *ptr = mmap(NULL, size + align, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t *staging = QEMU_ALIGN_PTR_UP(ptr, align);
    size_t head = staging - ptr;

    if (ptr == MAP_FAILED) {
        error_setg_errno(errp, errno, "Cannot reserve %zu bytes of address "
                         "space", size + align);
        error_append_hint(errp, "Raise RLIMIT_AS, or RLIMIT_MEMLOCK if memory "
                          "is locked.\n");
        return NULL;
    }
    if (head && munmap(ptr, head)) {
        staging = ptr;
    } else if (munmap(staging + size, align - head) == 0) {
        return staging;
    }
    error_setg_errno(errp, errno, "Cannot trim address space");
    error_append_hint(errp, "Raise /proc/sys/vm/max_map_count.\n");
    /* All that is left: nothing needs to be cut in two. */
    munmap(staging, ptr + size + align - staging);
    return NULL;
}

void *hugepage_staging_new(const HugepageRange *range, size_t more,
                           Error **errp)
{
    size_t size = range->size + more;
    void *staging = staging_reserve(size, range->size, errp);

    if (!staging) {
        return NULL;
    }
    if (!settings_apply(&range->settings, staging, size, errp)) {
        munmap(staging, size);
        return NULL;
    }
    if (mprotect(staging, size, PROT_READ | PROT_WRITE)) {
        error_setg_errno(errp, errno, "Cannot make new memory writable");
        munmap(staging, size);
        return NULL;
    }
    /* A kernel built without either refuses: then there is no need. */
    madvise(staging, size, MADV_UNMERGEABLE);
    if (range->size > hugepage_extent(range)) {
        madvise(staging, size, MADV_HUGEPAGE);
    }
    return staging;
}

/*
 * Long reads.  One that fails costs the small page where it starts, with the
 * bytes of it that an earlier short read has brought.
 */
void hugepage_read_extent(const HugepageRange *range,
                          const HugepageReader *reader, uint8_t *buffer,
                          size_t start, size_t end, unsigned long *lost)
{
    size_t pos = start;

    while (pos < end) {
        size_t page = (pos - start) / range->small;
        size_t stop = start + find_next_bit(lost, (end - start) / range->small,
                                            page) * range->small;
        ssize_t got = -1;

        if (pos < stop) {
            got = RETRY_ON_EINTR(reader->read(reader->opaque,
                                              buffer + (pos - start),
                                              stop - pos,
                                              range->fd_offset + pos));
        }
        if (got > 0 && got <= stop - pos) {
            pos += got;
        } else {
            set_bit(page, lost);
            pos = start + (page + 1) * range->small;
        }
    }
}

/*
 * Memory is populated ahead of each read: a shortage must fail here and cost
 * nothing, while within read() it would be EFAULT and cost the guest a page.
 * Few reads, since each looks at all small pages to the end of the huge page:
 * see fill_pieces().
 */
static bool staging_fill(const HugepageRange *range,
                         const HugepageReader *reader, uint8_t *staging,
                         unsigned long *lost, Error **errp)
{
    ERRP_GUARD();
    size_t step = MIN(SPLIT_AT_ONCE * hugepage_extent(range), range->size);
    size_t pos;

    for (pos = 0; pos < range->size; pos += step) {
        int ret = hugepage_populate(staging + pos, step, MADV_POPULATE_WRITE);

        if (ret) {
            error_setg_errno(errp, -ret, "Cannot allocate %zu bytes for a "
                             "copy of the huge page", range->size);
            error_append_hint(errp, "Free some memory on the host, or raise "
                              "the limit of the control group.\n");
            return false;
        }
        hugepage_read_extent(range, reader, staging + pos, pos, pos + step,
                             lost + BIT_WORD(pos / range->small));
    }
    return true;
}

int hugepage_move_over(void *from, void *to, size_t size)
{
    void *ptr;

    do {
        ptr = mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    } while (ptr == MAP_FAILED && errno == EINTR);
    return ptr == MAP_FAILED ? -errno : 0;
}

/*
 * Linux refuses a move before it unmaps the target, for every reason that it
 * can foresee (mremap_to() in mm/mremap.c); if its own memory runs out behind
 * that point, the target is left as a hole, which the next mmap() of another
 * thread could take.  MAP_FIXED_NOREPLACE does nothing unless there is one.
 *
 * Returns: true if there was a hole, and the file is mapped there again.
 */
bool hugepage_range_restore(const HugepageRange *range)
{
    void *ptr = mmap(range->host, range->size, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_FIXED_NOREPLACE, range->fd,
                     range->fd_offset);

    if (ptr == MAP_FAILED) {
        return false;
    }
    settings_apply(&range->settings, ptr, range->size, NULL);
    return true;
}

/* Everything but the commit: returns the finished replacement, or NULL. */
static void *staging_build(const HugepageRange *range,
                           const HugepageReader *reader, unsigned long *lost,
                           Error **errp)
{
    void *staging = hugepage_staging_new(range, 0, errp);

    if (staging &&
        (!staging_fill(range, reader, staging, lost, errp) ||
         !hugepage_mark_lost(staging, lost, range->size / range->small,
                             range->small, errp))) {
        munmap(staging, range->size);
        return NULL;
    }
    return staging;
}

void hugepage_settings_finish(const HugepageRange *range)
{
    if (range->settings.mergeable) {
        /* Not worth a failure: a kernel without KSM merges nothing. */
        madvise(range->host, range->size, MADV_MERGEABLE);
    }
}

static bool commit(const HugepageRange *range, void *staging, Error **errp)
{
    ERRP_GUARD();
    int ret = hugepage_move_over(staging, range->host, range->size);

    if (ret) {
        hugepage_range_restore(range);
        munmap(staging, range->size);
        error_setg_errno(errp, -ret, "Cannot move the copy over the huge page");
        error_append_hint(errp, "Raise /proc/sys/vm/max_map_count.\n");
        return false;
    }
    hugepage_settings_finish(range);
    return true;
}

bool hugepage_split(const HugepageRange *range,
                    const unsigned long *known_lost,
                    const HugepageReader *reader,
                    const HugepageClock *clock,
                    HugepageSplitResult *result, Error **errp)
{
    const HugepageReader fd_reader = {
        .read = hugepage_read_fd, .opaque = GINT_TO_POINTER(range->fd),
    };
    const HugepageClock real_clock = { .now = hugepage_clock_now };
    g_autofree unsigned long *lost = NULL;
    int64_t start, filled;
    size_t pages;
    void *staging;

    if (!hugepage_range_check(range, errp)) {
        return false;
    }
    clock = clock ?: &real_clock;
    start = clock->now(clock->opaque);
    pages = range->size / range->small;
    lost = bitmap_try_new(pages);
    if (!lost) {
        error_setg(errp, "Cannot allocate a bitmap of %zu bits", pages);
        return false;
    }
    if (known_lost) {
        bitmap_copy(lost, known_lost, pages);
    }
    staging = staging_build(range, reader ?: &fd_reader, lost, errp);
    if (!staging) {
        return false;
    }

    filled = clock->now(clock->opaque);
    if (!commit(range, staging, errp)) {
        return false;
    }
    result->commit_ns = clock->now(clock->opaque) - filled;
    result->salvage_ns = filled - start;
    result->lost_pages = bitmap_count_one(lost, pages);
    result->salvaged = (pages - result->lost_pages) * range->small;
    result->lost = g_steal_pointer(&lost);
    return true;
}

void hugepage_split_result_destroy(HugepageSplitResult *result)
{
    g_clear_pointer(&result->lost, g_free);
}

bool hugepage_split_lose(void *host, size_t small, Error **errp)
{
    const unsigned long lost = 1;
    void *page = mmap(NULL, small, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int ret;

    if (page == MAP_FAILED) {
        error_setg_errno(errp, errno, "Cannot map a page to mark as lost");
        return false;
    }
    if (!hugepage_mark_lost(page, &lost, 1, small, errp)) {
        munmap(page, small);
        return false;
    }
    /* Marking in place would let other threads read zeros for a moment. */
    ret = hugepage_move_over(page, host, small);
    if (ret) {
        /* See hugepage_range_restore() */
        mmap(host, small, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
             MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        munmap(page, small);
        error_setg_errno(errp, -ret, "Cannot move a marker over a small page");
        return false;
    }
    return true;
}

/* The new huge page of the file, with memory behind it; NULL if none is free */
static void *fresh_new(const HugepageRange *range, Error **errp)
{
    ERRP_GUARD();
    void *fresh = mmap(NULL, range->size, PROT_READ | PROT_WRITE, MAP_SHARED,
                       range->fd, range->fd_offset);
    int ret = fresh == MAP_FAILED ? -errno : 0;

    if (!ret && !settings_apply(&range->settings, fresh, range->size, errp)) {
        munmap(fresh, range->size);
        return NULL;
    }
    if (!ret) {
        ret = hugepage_populate(fresh, range->size, MADV_POPULATE_WRITE);
    }
    if (ret) {
        error_setg_errno(errp, -ret, "Cannot get a fresh huge page of %zu "
                         "bytes", range->size);
        error_append_hint(errp, "Add one to the pool, see "
                          "/sys/kernel/mm/hugepages.\n");
        if (fresh != MAP_FAILED) {
            munmap(fresh, range->size);
        }
        return NULL;
    }
    return fresh;
}

/* Like hugepage_read_fd(), of the replacement */
static ssize_t read_replacement(void *opaque, void *buf, size_t count,
                                off_t offset)
{
    const HugepageRange *range = opaque;
    struct iovec to = { .iov_base = buf, .iov_len = count };
    struct iovec from = {
        .iov_base = range->host + (offset - range->fd_offset),
        .iov_len = count,
    };

    /* A bad cell that nobody knows of yet is EFAULT here and no signal. */
    return process_vm_readv(getpid(), &to, 1, &from, 1, 0);
}

static bool copy_back(const HugepageRange *range, const unsigned long *lost,
                      uint8_t *fresh, Error **errp)
{
    const HugepageReader reader = {
        .read = read_replacement, .opaque = (void *)range,
    };
    size_t pages = range->size / range->small;
    g_autofree unsigned long *gone = bitmap_try_new(pages);
    size_t page;

    if (!gone) {
        error_setg(errp, "Cannot allocate a bitmap of %zu bits", pages);
        return false;
    }
    bitmap_copy(gone, lost, pages);
    hugepage_read_extent(range, &reader, fresh, 0, range->size, gone);
    /* A read that failed may have brought the beginning of a small page. */
    for (page = find_first_bit(gone, pages); page < pages;
         page = find_next_bit(gone, pages, page + 1)) {
        memset(fresh + page * range->small, 0, range->small);
    }
    return true;
}

bool hugepage_split_undo(const HugepageRange *range,
                         const unsigned long *lost, Error **errp)
{
    void *fresh;
    int ret;

    if (!hugepage_range_check(range, errp)) {
        return false;
    }
    /* Until then the file maps the poisoned page; the copy is not affected. */
    if (RETRY_ON_EINTR(fallocate(range->fd, FALLOC_FL_PUNCH_HOLE |
                                 FALLOC_FL_KEEP_SIZE, range->fd_offset,
                                 range->size))) {
        error_setg_errno(errp, errno, "Cannot punch the poisoned huge page "
                         "out of its file");
        return false;
    }
    fresh = fresh_new(range, errp);
    if (!fresh) {
        return false;
    }
    if (lost && !copy_back(range, lost, fresh, errp)) {
        munmap(fresh, range->size);
        return false;
    }
    ret = hugepage_move_over(fresh, range->host, range->size);
    if (ret == 0) {
        return true;
    }
    munmap(fresh, range->size);
    if (hugepage_range_restore(range)) {
        /* The same page of the file, by another way. */
        return true;
    }
    error_setg_errno(errp, -ret, "Cannot move the fresh huge page into its "
                     "place");
    return false;
}

bool hugepage_split_zero(void *host, size_t size, Error **errp)
{
    if (madvise(host, size, MADV_DONTNEED_LOCKED)) {
        error_setg_errno(errp, errno, "Cannot zero a replaced huge page");
        return false;
    }
    return true;
}
