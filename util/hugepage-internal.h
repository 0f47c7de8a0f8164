/*
 * Markers for lost small pages: SIGBUS at a touch, on healthy memory
 *
 * Internal to the engine that replaces huge pages (qemu/hugepage-split.h); any
 * thread, no lock.  Nothing here logs or ends the process.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef UTIL_HUGEPAGE_INTERNAL_H
#define UTIL_HUGEPAGE_INTERNAL_H

#include <sys/mman.h>
#include "qemu/hugepage-split.h"

/* Older C libraries than the kernels that this file needs lack these. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
/**
 * hugepage_populate: madvise() that populates, however often it is interrupted
 *
 * @advice: MADV_POPULATE_READ or MADV_POPULATE_WRITE
 *
 * Returns: 0 or -errno: -EHWPOISON or -EFAULT if a touch raises SIGBUS
 */
int hugepage_populate(void *ptr, size_t size, int advice);

/**
 * hugepage_mark_lost: replace small pages of new memory by markers
 *
 * @ptr: anonymous private memory that no other thread knows yet, one mapping
 * @lost: a bit per small page
 * @pages: bits in @lost
 * @small: bytes of a small page
 *
 * Returns: true if a touch of each page in @lost raises SIGBUS; or false with
 * @errp set, and then some of them may be readable.
 */
bool hugepage_mark_lost(void *ptr, const unsigned long *lost, size_t pages,
                        size_t small, Error **errp);

/**
 * hugepage_uffd_poison: UFFDIO_POISON on an empty range
 *
 * Returns: bytes done, at least one small page, or -errno.  EAGAIN: the kernel
 * is in the middle of a change of the address space.
 */
ssize_t hugepage_uffd_poison(int uffd, void *dst, size_t size);

/**
 * hugepage_place: bring [start, end) of a range into its place
 *
 * @uffd: where @range is registered
 * @pagemap: /proc/self/pagemap
 * @can_move: the kernel has UFFDIO_MOVE; @buffer may be taken away
 * @lost: a bit per small page, to be marked; @first is that of @start
 * @buffer: the bytes of [start, end)
 *
 * May be called again after a failure; what is in its place stays.
 *
 * Returns: 0 or -errno, EAGAIN as above.
 */
int hugepage_place(int uffd, int pagemap, bool can_move,
                   const HugepageRange *range, const unsigned long *lost,
                   size_t first, uint8_t *buffer, size_t start, size_t end);

/**
 * hugepage_staging_new: address space for a replacement, with its settings
 *
 * Nothing is populated.  @more bytes follow the replacement, with the same
 * settings.
 *
 * Returns: NULL with @errp set if there is none to be had
 */
void *hugepage_staging_new(const HugepageRange *range, size_t more,
                           Error **errp);

/* The pieces of hugepage_split() that hugepage_fill_swap() needs too. */
bool hugepage_range_check(const HugepageRange *range, Error **errp);
size_t hugepage_extent(const HugepageRange *range);
/* @lost: a bit per small page of [start, end) */
void hugepage_read_extent(const HugepageRange *range,
                          const HugepageReader *reader, uint8_t *buffer,
                          size_t start, size_t end, unsigned long *lost);
int hugepage_move_over(void *from, void *to, size_t size);
bool hugepage_range_restore(const HugepageRange *range);
void hugepage_settings_finish(const HugepageRange *range);

#endif /* UTIL_HUGEPAGE_INTERNAL_H */
