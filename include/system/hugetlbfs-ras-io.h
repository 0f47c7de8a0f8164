/*
 * Recovery from memory failures: I/O into guest RAM by system calls
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_HUGETLBFS_RAS_IO_H
#define SYSTEM_HUGETLBFS_RAS_IO_H

#include "qemu/event_notifier.h"

/**
 * hugetlbfs_ras_retry_io: should a failed transfer be tried again?
 *
 * A system call that meets a poisoned huge page gets EFAULT and no signal,
 * although most of the bytes come back a moment later.  If the call failed with
 * EFAULT and guest RAM in its buffers is poisoned, this waits until it is
 * recovered.
 *
 * @iov, @iovcnt: the buffers
 *
 * Context: any thread that may block; the BQL may be held.  Uses and keeps
 * errno.
 * Returns: true if something was poisoned and no more is; false if the error
 * stands.
 */
bool hugetlbfs_ras_retry_io(const struct iovec *iov, int iovcnt);

/**
 * HUGETLBFS_RAS_RETRY: the result of a system call, tried again as above
 *
 * @expr: the call; -1 and errno are its failure, and then nothing was done
 */
#define HUGETLBFS_RAS_RETRY(expr, iov, iovcnt) \
    (__extension__ ({ \
        typeof(expr) result_; \
        do { \
            result_ = (expr); \
        } while (result_ == -1 && hugetlbfs_ras_retry_io(iov, iovcnt)); \
        result_; \
    }))

/**
 * hugetlbfs_ras_generation: has guest RAM been replaced?
 *
 * A device that writes to memory by DMA (a read with O_DIRECT) does not notice
 * that the memory was replaced, perhaps after it was copied.  So who asked for
 * it compares this before and after, and asks again if it is not the same.
 *
 * Context: any thread.
 * Returns: a number that changes before any byte is copied
 */
unsigned hugetlbfs_ras_generation(void);

/**
 * hugetlbfs_ras_ioctl: ioctl() that may transfer to or from guest RAM
 *
 * SG_IO on buffers of the guest (scsi-block) is tried again as above, in both
 * cases.
 *
 * Context, returns: as hugetlbfs_ras_retry_io(); as ioctl()
 */
int hugetlbfs_ras_ioctl(int fd, unsigned long request, void *arg);

/**
 * hugetlbfs_ras_retry_vring: vhost in the kernel has stopped with an error
 *
 * It, too, gets EFAULT and no signal from a poisoned huge page, and then leaves
 * the virtqueue alone until it is kicked.  If guest RAM is being recovered, or
 * is so within 100 ms, this kicks it soon; if it meets the page once more, that
 * is the next error.
 *
 * @kick: the device's eventfd; need not live on
 *
 * Context: main thread, BQL.  Does not wait.
 */
void hugetlbfs_ras_retry_vring(EventNotifier *kick);

#endif /* SYSTEM_HUGETLBFS_RAS_IO_H */
