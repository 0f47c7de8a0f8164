/*
 * Markers for lost small pages: SIGBUS at a touch, on healthy memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/hugepage-split.h"
#include "qemu/userfaultfd.h"
#include "hugepage-internal.h"

/*
 * EAGAIN is answered while another thread changes the address space.  It
 * passes; the bound only turns a kernel that never stops into a failure.
 */
#define MAX_TRIES 10000

int hugepage_populate(void *ptr, size_t size, int advice)
{
    int tries = 0;

    while (madvise(ptr, size, advice)) {
        if (errno != EINTR && (errno != EAGAIN || ++tries == MAX_TRIES)) {
            return -errno;
        }
    }
    return 0;
}

/* No privilege: a marker needs no fault of the kernel to be served. */
static int marker_open(Error **errp)
{
    ERRP_GUARD();
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = UFFD_FEATURE_POISON,
    };
    int uffd = uffd_open(O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

    if (uffd < 0) {
        error_setg_errno(errp, errno, "Cannot open userfaultfd");
        error_append_hint(errp, "The kernel needs CONFIG_USERFAULTFD, and no "
                          "seccomp filter may deny it.\n");
        return -1;
    }
    if (ioctl(uffd, UFFDIO_API, &api)) {
        error_setg_errno(errp, errno, "Cannot mark pages as lost");
        error_append_hint(errp, "UFFD_FEATURE_POISON needs Linux 6.6 or "
                          "later.\n");
        uffd_close_fd(uffd);
        return -1;
    }
    return uffd;
}

static bool mark_run(int uffd, uint8_t *ptr, size_t size, Error **errp)
{
    int tries = 0;

    while (size) {
        ssize_t done;

        /* A marker needs an empty place, in locked memory as well. */
        if (RETRY_ON_EINTR(madvise(ptr, size, MADV_DONTNEED_LOCKED)) < 0) {
            done = -errno;
        } else {
            done = hugepage_uffd_poison(uffd, ptr, size);
        }
        if (done > 0) {
            ptr += done;
            size -= done;
        } else if ((done != -EAGAIN && done != -EEXIST && done != -EINTR) ||
                   ++tries == MAX_TRIES) {
            error_setg_errno(errp, -done, "Cannot mark %zu bytes as lost",
                             size);
            return false;
        }
    }
    return true;
}

/* Does the kernel now refuse every page marked?  A zero must not slip by. */
static bool mark_verify(uint8_t *ptr, const unsigned long *lost, size_t pages,
                        size_t small, Error **errp)
{
    size_t page;

    for (page = find_first_bit(lost, pages); page < pages;
         page = find_next_bit(lost, pages, page + 1)) {
        int ret = hugepage_populate(ptr + page * small, small,
                                    MADV_POPULATE_READ);

        if (ret != -EHWPOISON && ret != -EFAULT) {
            error_setg_errno(errp, -ret, "Small page %zu was marked as lost "
                             "but can be read", page);
            return false;
        }
    }
    return true;
}

bool hugepage_mark_lost(void *ptr, const unsigned long *lost, size_t pages,
                        size_t small, Error **errp)
{
    size_t first = find_first_bit(lost, pages);
    bool ok = true;
    int uffd;

    if (first == pages) {
        return true;
    }
    uffd = marker_open(errp);
    if (uffd < 0) {
        return false;
    }
    if (uffd_register_memory(uffd, ptr, pages * small,
                             UFFDIO_REGISTER_MODE_MISSING, NULL)) {
        error_setg_errno(errp, errno, "Cannot register new memory with "
                         "userfaultfd");
        ok = false;
    }
    while (ok && first < pages) {
        size_t end = find_next_zero_bit(lost, pages, first);

        ok = mark_run(uffd, ptr + first * small, (end - first) * small, errp);
        first = find_next_bit(lost, pages, end);
    }
    /* This unregisters; the markers stay. */
    uffd_close_fd(uffd);
    return ok && mark_verify(ptr, lost, pages, small, errp);
}

bool hugepage_split_supported(Error **errp)
{
    int uffd = marker_open(errp);

    if (uffd < 0) {
        return false;
    }
    uffd_close_fd(uffd);
    return true;
}

bool hugepage_split_is_lost(void *host, size_t small)
{
    int ret = hugepage_populate(host, small, MADV_POPULATE_READ);

    /* The kernel may be unable to tell (no memory); a touch will tell then. */
    return ret == -EHWPOISON || ret == -EFAULT;
}
