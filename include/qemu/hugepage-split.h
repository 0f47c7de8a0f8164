/*
 * Replace one poisoned huge page by small pages, saving what can be read
 *
 * The kernel poisons a whole hugetlbfs page for one bad cell, yet read()
 * on the file still returns every healthy byte (Linux 6.6 and later).  This
 * engine copies them into fresh anonymous memory, puts a UFFDIO_POISON
 * marker where nothing could be read, and moves the copy over the old range
 * with one mremap(): another thread sees the poisoned page or the finished
 * one, nothing between.
 *
 * Who calls it: one thread at a time for a given range; no lock is needed
 * or taken, and the BQL is not.  It knows no VM, logs nothing, and never
 * ends the process.  On failure the range is as it was before the call.
 *
 * What it relies on: nobody can write the huge page while it is copied.  The
 * kernel guarantees this for a poisoned page, which it has unmapped
 * everywhere; a caller that splits a healthy page must see to it himself.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef QEMU_HUGEPAGE_SPLIT_H
#define QEMU_HUGEPAGE_SPLIT_H

/**
 * HugepageReader: where the bytes of the huge page come from
 *
 * @read: like pread(2): bytes at @offset (bytes, from the start of the file)
 *        into @buf; returns the count or -1 with errno.  May be short.
 * @opaque: passed to @read
 */
typedef struct HugepageReader {
    ssize_t (*read)(void *opaque, void *buf, size_t count, off_t offset);
    void *opaque;
} HugepageReader;

/**
 * HugepageClock: a monotonic clock in nanoseconds, for the timings
 */
typedef struct HugepageClock {
    int64_t (*now)(void *opaque);
    void *opaque;
} HugepageClock;

/**
 * HugepageSettings: what the owner of the memory asked the kernel to do
 *
 * Put on the new memory before it takes the place of the old, except
 * MADV_MERGEABLE, which would make that step interruptible by a signal.
 *
 * @mergeable: MADV_MERGEABLE; only advice, a refusal is no failure
 * @nodump: MADV_DONTDUMP
 * @nofork: MADV_DONTFORK, as QEMU does for all guest memory
 * @locked: keep it in memory (mlock2() with MLOCK_ONFAULT); the owner must say
 *          so even after mlockall(MCL_FUTURE)
 * @numa_mode: mode for mbind(), MPOL_DEFAULT (0) to leave it alone
 * @numa_nodes: node mask for mbind(), not owned
 * @numa_maxnode: bits in @numa_nodes, as mbind() counts them
 */
typedef struct HugepageSettings {
    bool mergeable;
    bool nodump;
    bool nofork;
    bool locked;
    int numa_mode;
    const unsigned long *numa_nodes;
    unsigned long numa_maxnode;
} HugepageSettings;

/**
 * HugepageRange: the huge page to replace
 *
 * @host: its host-virtual address, aligned to @size
 * @size: bytes of the huge page
 * @small: bytes of a small page; one lost cell costs this much
 * @fd: the hugetlbfs file or memfd behind it
 * @fd_offset: where @host is in that file, in bytes
 * @settings: to be put on the replacement
 */
typedef struct HugepageRange {
    void *host;
    size_t size;
    size_t small;
    int fd;
    off_t fd_offset;
    HugepageSettings settings;
} HugepageRange;

/**
 * HugepageSplitResult: what a split found
 *
 * @lost: a bit per small page, set if it is lost; @range->size / @range->small
 *        bits, owned by the caller (hugepage_split_result_destroy())
 * @lost_pages: bits set in @lost
 * @salvaged: bytes saved
 * @salvage_ns: time to fill and mark the replacement
 * @commit_ns: time of the final mremap()
 */
typedef struct HugepageSplitResult {
    unsigned long *lost;
    size_t lost_pages;
    uint64_t salvaged;
    int64_t salvage_ns;
    int64_t commit_ns;
} HugepageSplitResult;

/* The real reader (pread on the file descriptor in @opaque) and clock. */
ssize_t hugepage_read_fd(void *opaque, void *buf, size_t count, off_t offset);
int64_t hugepage_clock_now(void *opaque);

/**
 * hugepage_split_supported: can this kernel salvage and mark pages at all?
 *
 * Probes UFFD_FEATURE_POISON (Linux 6.6), which came with the readable
 * remainder of a poisoned huge page.  No privilege is needed.
 *
 * Returns: true, or false with @errp set to the reason and a hint.
 */
bool hugepage_split_supported(Error **errp);

/**
 * hugepage_split: replace the huge page @range, the eager way
 *
 * @range: what to replace
 * @known_lost: a bit per small page that counts as lost whatever the reader
 *              says, or NULL
 * @reader: NULL for pread() on @range->fd
 * @clock: NULL for the monotonic clock
 * @result: filled on success only
 * @errp: the reason of a failure
 *
 * A small page of which any byte could not be read (EIO, any other errno but
 * EINTR, end of file) is lost as a whole.  A lost page raises SIGBUS
 * when touched and is never read as data.
 *
 * Returns: true if the range is replaced; false if it was left as it was.
 */
bool hugepage_split(const HugepageRange *range,
                    const unsigned long *known_lost,
                    const HugepageReader *reader,
                    const HugepageClock *clock,
                    HugepageSplitResult *result, Error **errp);

/**
 * hugepage_split_result_destroy: free what hugepage_split() put in @result
 */
void hugepage_split_result_destroy(HugepageSplitResult *result);

/**
 * hugepage_split_lose: mark one small page of a replaced range as lost
 *
 * @host: host-virtual address of the small page, aligned to @small
 * @small: its size in bytes
 *
 * Its content is replaced by a marker in one step, as in a split: no thread
 * reads zeros in between.
 *
 * Returns: true, or false with @errp set; then the page holds its old content
 * (zeros at worst), and the caller must not treat it as marked.
 */
bool hugepage_split_lose(void *host, size_t small, Error **errp);

/**
 * hugepage_split_is_lost: does touching this small page raise SIGBUS?
 *
 * Asks the kernel (MADV_POPULATE_READ) and reads no data, so that it is safe
 * on real poison, on a marker, and on healthy memory alike.  False as well
 * if the kernel has no memory to find out.
 *
 * @host: host-virtual address of the small page, aligned to @small
 * @small: its size in bytes
 */
bool hugepage_split_is_lost(void *host, size_t small);

/**
 * hugepage_split_undo: put a fresh huge page back
 *
 * @range: the range given to hugepage_split()
 * @lost: a bit per small page that is lost and becomes zeros; what else cannot
 *        be read does so, too.  NULL if all is to become zeros.
 *
 * Punches the poisoned huge page out of the file, maps and populates a new
 * one elsewhere, puts the settings and the content on it and moves it over the
 * range with one mremap().  Who writes to the range meanwhile writes in vain.
 *
 * Returns: true; or false with @errp set (most often: no huge page is free).
 * In that case the range is still backed by the small pages with their content.
 */
bool hugepage_split_undo(const HugepageRange *range,
                         const unsigned long *lost, Error **errp);

/**
 * hugepage_split_zero: zero a replaced range and drop its markers
 *
 * For a range that must stay on small pages.  Returns false with @errp set if
 * the kernel refuses; the range is then unchanged.
 */
bool hugepage_split_zero(void *host, size_t size, Error **errp);

#endif /* QEMU_HUGEPAGE_SPLIT_H */
