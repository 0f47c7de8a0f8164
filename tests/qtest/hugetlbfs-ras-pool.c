/*
 * Tests of the recovery from memory failures: huge pages to work on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/file.h>
#include "hugetlbfs-ras-vm.h"

#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define NR_HUGEPAGES POOL "nr_hugepages"

/*
 * Pages added to the pool must go when the test does, even if it dies: a child
 * is told of every change, waits for the end and takes back their sum.
 */
static int pool_pipe = -1;
static pid_t pool_keeper;
/* Pages taken by ras_pool_exhaust(), and the lock meanwhile */
static long pool_taken;
static int pool_lock = -1;

static long pool_number(const char *path)
{
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? atol(text) : 0;
}

/* What may be written back: surplus pages leave when they are given back. */
static long pool_size(void)
{
    return pool_number(NR_HUGEPAGES) - pool_number(POOL "surplus_hugepages");
}

static bool pool_write(long number)
{
    g_autofree char *text = g_strdup_printf("%ld\n", MAX(number, 0));
    int fd = open(NR_HUGEPAGES, O_WRONLY);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == strlen(text);

    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

/* Tests run in parallel, and each changes the number by what it needs. */
static int pool_lock_take(void)
{
    int fd = open(NR_HUGEPAGES, O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        RETRY_ON_EINTR(flock(fd, LOCK_EX));
    }
    return fd;
}

static void pool_keep(int read_end)
{
    long change, sum = 0;
    int lock;

    /* Only the death of the parent closes the pipe; terminals are its. */
    setsid();
    close(STDIN_FILENO);
    close(STDOUT_FILENO);
    close(STDERR_FILENO);
    close(pool_pipe);
    while (RETRY_ON_EINTR(read(read_end, &change, sizeof(change))) ==
           sizeof(change)) {
        sum += change;
    }
    lock = pool_lock_take();
    pool_write(pool_size() - sum);
    close(lock);
    _exit(0);
}

static void pool_return(void)
{
    close(pool_pipe);
    waitpid(pool_keeper, NULL, 0);
}

/* Before the lock is taken, which a child would share. */
static void pool_start_keeper(void)
{
    int ends[2];

    if (pool_pipe >= 0) {
        return;
    }
    g_assert(g_unix_open_pipe(ends, FD_CLOEXEC, NULL));
    pool_pipe = ends[1];
    pool_keeper = fork();
    g_assert(pool_keeper >= 0);
    if (pool_keeper == 0) {
        pool_keep(ends[0]);
    }
    close(ends[0]);
    atexit(pool_return);
}

/* Lock held. */
static void pool_change(long pages)
{
    long before = pool_size();
    long change;

    if (pool_write(before + pages)) {
        change = pool_size() - before;
        g_assert(write(pool_pipe, &change, sizeof(change)) == sizeof(change));
    }
}

long ras_pool_free(void)
{
    return pool_number(POOL "free_hugepages") -
           pool_number(POOL "resv_hugepages");
}

bool ras_pool_have(long pages)
{
    long missing;
    int lock;

    if (ras_pool_free() >= pages) {
        return true;
    }
    pool_start_keeper();
    lock = pool_lock_take();
    if (lock >= 0) {
        missing = pages - ras_pool_free();
        if (missing > 0) {
            pool_change(missing);
        }
        close(lock);
    }
    if (ras_pool_free() < pages) {
        g_autofree char *why = g_strdup_printf("%ld free huge pages of 2 MiB "
                                               "needed, %ld there and no more "
                                               "to be had", pages,
                                               ras_pool_free());
        g_test_skip(why);
        return false;
    }
    return true;
}

bool ras_pool_exhaust(void)
{
    pool_start_keeper();
    pool_lock = pool_lock_take();
    if (pool_lock < 0 || access(NR_HUGEPAGES, W_OK)) {
        g_test_skip("the pool of huge pages cannot be changed");
        return false;
    }
    /*
     * One less than there are in use: they stay, but the next one that is
     * given back leaves the pool.
     */
    pool_taken = ras_pool_free() + 1;
    pool_change(-pool_taken);
    g_assert_cmpint(ras_pool_free(), ==, 0);
    return true;
}

void ras_pool_refill(void)
{
    if (pool_taken) {
        pool_change(pool_taken);
        pool_taken = 0;
    }
    close(pool_lock);
    pool_lock = -1;
}
