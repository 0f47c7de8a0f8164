/*
 * Recovery from memory failures, for programs without guest RAM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#ifdef CONFIG_LINUX
#include <sys/ioctl.h>
#endif
#include "system/hugetlbfs-ras-io.h"

bool hugetlbfs_ras_retry_io(const struct iovec *iov, int iovcnt)
{
    return false;
}

unsigned hugetlbfs_ras_generation(void)
{
    return 0;
}

#ifdef CONFIG_LINUX
int hugetlbfs_ras_ioctl(int fd, unsigned long request, void *arg)
{
    return ioctl(fd, request, arg);
}
#endif

void hugetlbfs_ras_retry_vring(EventNotifier *kick)
{
}
