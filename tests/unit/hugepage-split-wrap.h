/*
 * The functions that hugepage-split-faults.c makes fail, by the linker's --wrap
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_HUGEPAGE_SPLIT_WRAP_H
#define TESTS_HUGEPAGE_SPLIT_WRAP_H

int __real_mprotect(void *ptr, size_t size, int prot);
int __wrap_mprotect(void *ptr, size_t size, int prot);
int __real_madvise(void *ptr, size_t size, int advice);
int __wrap_madvise(void *ptr, size_t size, int advice);
int __real_mlock2(const void *ptr, size_t size, unsigned flags);
int __wrap_mlock2(const void *ptr, size_t size, unsigned flags);
int __real_munlock(const void *ptr, size_t size);
int __wrap_munlock(const void *ptr, size_t size);
int __real_fallocate(int fd, int mode, off_t offset, off_t size);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t size);
int __real_fallocate64(int fd, int mode, off_t offset, off_t size);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t size);
int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);
long __real_syscall(long nr, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long nr, long a, long b, long c, long d, long e, long f);
void *__real_g_try_malloc0(gsize size);
void *__wrap_g_try_malloc0(gsize size);
void *__real_g_try_malloc0_n(gsize n, gsize size);
void *__wrap_g_try_malloc0_n(gsize n, gsize size);
int __real_pthread_setaffinity_np(pthread_t thread, size_t size,
                                  const cpu_set_t *cpus);
int __wrap_pthread_setaffinity_np(pthread_t thread, size_t size,
                                  const cpu_set_t *cpus);
int __real_munmap(void *ptr, size_t size);
int __wrap_munmap(void *ptr, size_t size);
void *__real_mmap64(void *ptr, size_t size, int prot, int flags, int fd, off_t
                    offset);
void *__wrap_mmap64(void *ptr, size_t size, int prot, int flags, int fd, off_t
                    offset);
void *__real_mremap(void *ptr, size_t size, size_t new_size, int flags, void
                    *to);
void *__wrap_mremap(void *ptr, size_t size, size_t new_size, int flags, void
                    *to);

#endif /* TESTS_HUGEPAGE_SPLIT_WRAP_H */
