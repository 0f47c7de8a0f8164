/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disk reads into the pages of one huge page of the untouched region, over
 * and over, except into one page: the emulated device touches the healthy
 * part of a huge page whose other page fails meanwhile.
 *
 * Page n of the disk holds the pattern of ('D', n, 0); a disk named "zero"
 * holds zeros.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include "guest.h"

#define DEPTH 16                /* requests in flight */
#define BATCH 32                /* pages in a request */

static struct {
    volatile bool stop;
    int fd;
    bool zeros;
    unsigned n;                 /* pages to read into */
    uint64_t gpa[HUGE_PAGES];
    volatile uint64_t *page[HUGE_PAGES];
    pthread_t thread[DEPTH];
    unsigned reads, failed, corrupt, last_errno;
} dma;

static unsigned check(unsigned i)
{
    unsigned bad = 0;

    if (!dma.zeros) {
        return pattern_check(dma.page[i], pattern_seed('D', i, 0));
    }
    for (size_t k = 0; k < WORDS; k++) {
        bad += dma.page[i][k] != 0;
    }
    return bad;
}

static void read_batch(unsigned first)
{
    struct iovec iov[BATCH];
    unsigned n = 0;
    ssize_t len;

    for (; n < BATCH && first + n < dma.n; n++) {
        memset((void *)dma.page[first + n], 0x55, PAGE);
        iov[n].iov_base = (void *)dma.page[first + n];
        iov[n].iov_len = PAGE;
    }
    len = preadv(dma.fd, iov, n, first * PAGE);
    __atomic_fetch_add(&dma.reads, 1, __ATOMIC_SEQ_CST);
    if (len != (ssize_t)(n * PAGE)) {
        dma.last_errno = len < 0 ? errno : EMSGSIZE;
        __atomic_fetch_add(&dma.failed, 1, __ATOMIC_SEQ_CST);
        return;
    }
    for (unsigned i = first; i < first + n; i++) {
        __atomic_fetch_add(&dma.corrupt, check(i), __ATOMIC_SEQ_CST);
    }
}

static void *reader(void *opaque)
{
    unsigned self = (uintptr_t)opaque;

    while (!dma.stop) {
        for (unsigned i = self * BATCH; i < dma.n; i += DEPTH * BATCH) {
            read_batch(i);
        }
    }
    return NULL;
}

/* dma-start DISK pattern|zero HUGE-GPA SKIPPED-GPA */
void dma_start(int argc, char **argv)
{
    uint64_t block, skip;

    if (argc < 4) {
        say("err usage");
        return;
    }
    memset(&dma, 0, sizeof(dma));
    dma.zeros = !strcmp(argv[1], "zero");
    block = strtoull(argv[2], NULL, 0);
    skip = strtoull(argv[3], NULL, 0);
    for (unsigned i = 0; i < HUGE_PAGES; i++) {
        uint64_t gpa = block + i * PAGE;
        volatile uint64_t *page = scan_quiet_page(gpa);

        if (page && gpa / PAGE != skip / PAGE) {
            dma.gpa[dma.n] = gpa;
            dma.page[dma.n++] = page;
        }
    }
    dma.fd = open(argv[0], O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (dma.fd < 0 || !dma.n) {
        say("err %s: %s, %u pages", argv[0], strerror(errno), dma.n);
        return;
    }
    for (uintptr_t i = 0; i < DEPTH; i++) {
        pthread_create(&dma.thread[i], NULL, reader, (void *)i);
    }
    say("ok pages=%u", dma.n);
}

void dma_stop(int argc, char **argv)
{
    dma.stop = true;
    for (unsigned i = 0; i < DEPTH; i++) {
        pthread_join(dma.thread[i], NULL);
    }
    close(dma.fd);
    for (unsigned i = 0; i < dma.n; i++) {
        scan_quiet_refill(dma.gpa[i]);
    }
    say("ok reads=%u failed=%u errno=%u corrupt=%u", dma.reads, dma.failed,
        dma.last_errno, dma.corrupt);
}
