/*
 * Markers for lost small pages: SIGBUS at a touch, on healthy memory
 *
 * Internal to the engine that replaces huge pages (qemu/hugepage-split.h); any
 * thread, no lock.  Nothing here logs or ends the process.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef UTIL_HUGEPAGE_MARK_H
#define UTIL_HUGEPAGE_MARK_H

#include <sys/mman.h>

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

#endif /* UTIL_HUGEPAGE_MARK_H */
