/*
 * Failures of system calls and allocations, by the linker's --wrap
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "hugepage-split-wrap.h"
#include "hugepage-split-helpers.h"

/* Of the thread that arms them: QEMU's RCU thread makes system calls, too. */
static __thread struct {
    unsigned first;
    unsigned last;
    unsigned calls;
    int error;
    bool torn_mremap;
    bool failed;
    bool advisory;
} faults;

static __thread ssize_t mapped;

ssize_t faults_mapped(void)
{
    return mapped;
}

void faults_arm(unsigned nth, unsigned times, int error)
{
    memset(&faults, 0, sizeof(faults));
    faults.first = nth;
    faults.last = nth + times - 1;
    faults.error = error;
}

void faults_arm_torn_mremap(void)
{
    memset(&faults, 0, sizeof(faults));
    faults.torn_mremap = true;
}

bool faults_advisory(void)
{
    return faults.advisory;
}

bool faults_disarm(void)
{
    bool failed = faults.failed;

    memset(&faults, 0, sizeof(faults));
    return failed;
}

static bool fails(void)
{
    if (!faults.first || ++faults.calls < faults.first ||
        faults.calls > faults.last) {
        return false;
    }
    faults.failed = true;
    errno = faults.error;
    return true;
}

/*
 * WRAP(type, name, failure, parameters, arguments): fail, or do the real thing.
 * The wrapped names are listed in meson.build, too.
 */
#define WRAP(type, name, failure, parameters, arguments) \
    type __wrap_##name parameters                        \
    {                                                    \
        return fails() ? failure : __real_##name arguments; \
    }

WRAP(int, mprotect, -1, (void *ptr, size_t size, int prot), (ptr, size, prot))
WRAP(int, mlock2, -1, (const void *ptr, size_t size, unsigned flags),
     (ptr, size, flags))
WRAP(int, munlock, -1, (const void *ptr, size_t size), (ptr, size))
WRAP(int, fallocate, -1, (int fd, int mode, off_t offset, off_t size),
     (fd, mode, offset, size))
WRAP(int, fallocate64, -1, (int fd, int mode, off_t offset, off_t size),
     (fd, mode, offset, size))
WRAP(int, ioctl, -1, (int fd, unsigned long request, void *argument),
     (fd, request, argument))
WRAP(long, syscall, -1,
     (long nr, long a, long b, long c, long d, long e, long f),
     (nr, a, b, c, d, e, f))
WRAP(void *, g_try_malloc0, NULL, (gsize size), (size))
WRAP(void *, g_try_malloc0_n, NULL, (gsize n, gsize size), (n, size))

int __wrap_madvise(void *ptr, size_t size, int advice)
{
    if (fails()) {
        faults.advisory = advice == MADV_MERGEABLE ||
                          advice == MADV_UNMERGEABLE ||
                          advice == MADV_HUGEPAGE;
        return -1;
    }
    return __real_madvise(ptr, size, advice);
}

/* Who may not bind a thread need not undo it. */
int __wrap_pthread_setaffinity_np(pthread_t thread, size_t size,
                                  const cpu_set_t *cpus)
{
    if (CPU_COUNT(cpus) == 1 && fails()) {
        faults.advisory = true;
        return faults.error;
    }
    return __real_pthread_setaffinity_np(thread, size, cpus);
}

int __wrap_munmap(void *ptr, size_t size)
{
    /* Not twice in a row: the second cleans up, and the kernel lets it. */
    bool again = faults.calls >= faults.first;

    if ((!again && fails()) || __real_munmap(ptr, size)) {
        return -1;
    }
    mapped -= size;
    return 0;
}

void *__wrap_mmap64(void *ptr, size_t size, int prot, int flags, int fd,
                    off_t offset)
{
    void *got = fails() ? MAP_FAILED
                        : __real_mmap64(ptr, size, prot, flags, fd, offset);

    if (got != MAP_FAILED && !(flags & MAP_FIXED)) {
        mapped += size;
    }
    return got;
}

void *__wrap_mremap(void *ptr, size_t size, size_t new_size, int flags,
                    void *to)
{
    void *got;

    if (faults.torn_mremap) {
        faults.torn_mremap = false;
        faults.failed = true;
        munmap(to, new_size);
        errno = ENOMEM;
        return MAP_FAILED;
    }
    got = fails() ? MAP_FAILED : __real_mremap(ptr, size, new_size, flags, to);
    if (got != MAP_FAILED) {
        mapped -= size;
    }
    return got;
}
