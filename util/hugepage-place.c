/*
 * Bring memory into its place behind a userfaultfd
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include "qemu/bitmap.h"
#include "qemu/userfaultfd.h"
#include "hugepage-internal.h"

static ssize_t uffd_copy(int uffd, void *dst, void *src, size_t size)
{
    struct uffdio_copy copy = {
        .dst = (uintptr_t)dst, .src = (uintptr_t)src, .len = size,
    };

    if (ioctl(uffd, UFFDIO_COPY, &copy) && copy.copy <= 0) {
        return -errno;
    }
    return copy.copy;
}

static ssize_t uffd_move(int uffd, void *dst, void *src, size_t size)
{
    struct uffdio_move move = {
        .dst = (uintptr_t)dst, .src = (uintptr_t)src, .len = size,
    };

    if (ioctl(uffd, UFFDIO_MOVE, &move) && move.move <= 0) {
        return -errno;
    }
    return move.move;
}

ssize_t hugepage_uffd_poison(int uffd, void *dst, size_t size)
{
    struct uffdio_poison poison = {
        .range.start = (uintptr_t)dst, .range.len = size,
    };

    if (ioctl(uffd, UFFDIO_POISON, &poison) && poison.updated <= 0) {
        return -errno;
    }
    return poison.updated;
}

static ssize_t place_some(int uffd, uint8_t *dst, uint8_t *src, size_t size)
{
    return src ? uffd_copy(uffd, dst, src, size)
               : hugepage_uffd_poison(uffd, dst, size);
}

/*
 * Places bytes that are all healthy, or all lost if @src is NULL.  @skipped is
 * set if something seemed to be in its place.
 */
static int place_run(int uffd, uint8_t *dst, uint8_t *src, size_t size,
                     size_t small, bool *skipped)
{
    for (size_t pos = 0; pos < size;) {
        uint8_t *from = src ? src + pos : NULL;
        ssize_t done = place_some(uffd, dst + pos, from, size - pos);

        if (done == -ENOENT) {
            /* More than one mapping; one small page never is. */
            done = place_some(uffd, dst + pos, from, small);
        }
        if (done == -EEXIST || done == -ENOENT) {
            /*
             * An earlier attempt came this far, and it is in use now; or
             * hugepage_split_lose() has put a marker there, which is no
             * longer in the userfaultfd's memory.
             */
            done = small;
            *skipped = true;
        } else if (done < 0) {
            return done;
        }
        pos += done;
    }
    return 0;
}

/*
 * Is there a page or a marker at each place?  What is missing would be read as
 * zeros once the userfaultfd is gone, so the errors above are not enough.
 * Linux, admin-guide/mm/pagemap.rst: bit 63 present, bit 62 swapped, which is
 * also said of a marker.
 */
static int all_there(int pagemap, uint8_t *ptr, size_t size, size_t small)
{
    size_t pages = size / small;
    g_autofree uint64_t *entries = g_try_new(uint64_t, pages);
    ssize_t bytes = pages * sizeof(*entries);

    if (!entries) {
        return -ENOMEM;
    }
    if (RETRY_ON_EINTR(pread(pagemap, entries, bytes, (uintptr_t)ptr / small *
                             sizeof(*entries))) != bytes) {
        return -EIO;
    }
    for (size_t i = 0; i < pages; i++) {
        if (!(entries[i] >> 62)) {
            return -EAGAIN;
        }
    }
    return 0;
}

int hugepage_place(int uffd, int pagemap, bool can_move,
                   const HugepageRange *range, const unsigned long *lost,
                   size_t first, uint8_t *buffer, size_t start, size_t end)
{
    uint8_t *dst = (uint8_t *)range->host + start;
    size_t small = range->small;
    size_t last = first + (end - start) / small;
    size_t page = first;
    bool skipped = false;
    int ret = 0;

    if (can_move && find_next_bit(lost, last, first) >= last) {
        ssize_t done = uffd_move(uffd, dst, buffer, end - start);

        if (done == end - start || done == -EAGAIN) {
            return MIN(done, 0);
        }
        /*
         * Whatever the reason, copying does it as well.  What was moved is in
         * its place already and will not be copied over.
         */
    }
    while (page < last && ret == 0) {
        size_t offset = (page - first) * small;
        bool bad = test_bit(page, lost);
        size_t stop = bad ? find_next_zero_bit(lost, last, page)
                          : find_next_bit(lost, last, page);

        ret = place_run(uffd, dst + offset, bad ? NULL : buffer + offset,
                        (stop - page) * small, small, &skipped);
        page = stop;
    }
    if (ret == 0 && skipped) {
        ret = all_there(pagemap, dst, end - start, small);
    }
    return ret;
}
