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
typedef struct PoolLock {
    const char *path;
    int fd;
} PoolLock;

static PoolLock pool_use_lock = { NR_HUGEPAGES, -1 };
static PoolLock pool_change_lock = { POOL "free_hugepages", -1 };
/* How often it is tried, and how many times until it is given up */
#define POOL_LOCK_US 10000
static int pool_lock_tries = 6000;
/* By this process: other tests bring their own, and may start any time. */
static long pool_added;
static long pool_taken;

/* For tests that look for free pages without the lock */
#define POOL_SPARE 8

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

/*
 * Tests run in parallel.  The lock "use" is held shared by who has pages of the
 * pool, and alone by who makes them scarce; "change" is held to add or take
 * back some.  The unit tests do the same.
 *
 * Another test may be stuck: returns false after a minute, and at once from
 * then on; most tests do well without.
 */
static bool pool_lock(PoolLock *lock, int operation)
{
    if (lock->fd < 0) {
        lock->fd = open(lock->path, O_RDONLY | O_CLOEXEC);
    }
    while (lock->fd >= 0 && flock(lock->fd, operation | LOCK_NB)) {
        if (pool_lock_tries-- <= 0) {
            return false;
        }
        g_usleep(POOL_LOCK_US);
    }
    return true;
}

static void pool_unlock(PoolLock *lock)
{
    close(lock->fd);
    lock->fd = -1;
}

static void pool_keep(int read_end)
{
    long change, sum = 0;

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
    pool_lock(&pool_use_lock, LOCK_SH);
    pool_lock(&pool_change_lock, LOCK_EX);
    pool_write(pool_size() - sum);
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

/* Locks held.  Returns by how much the pool really changed. */
static long pool_change(long pages)
{
    long before = pool_size();
    long change = 0;

    if (pool_write(before + pages)) {
        change = pool_size() - before;
        g_assert(write(pool_pipe, &change, sizeof(change)) == sizeof(change));
    }
    return change;
}

long ras_pool_free(void)
{
    return pool_number(POOL "free_hugepages") -
           pool_number(POOL "resv_hugepages");
}

bool ras_pool_have(long pages)
{
    g_autofree char *why = NULL;

    pool_start_keeper();
    /* Who wants it alone gets a chance. */
    g_usleep(2 * POOL_LOCK_US);
    pool_lock(&pool_use_lock, LOCK_SH);
    if (pool_added < pages + POOL_SPARE) {
        pool_lock(&pool_change_lock, LOCK_EX);
        pool_added += pool_change(pages + POOL_SPARE - pool_added);
        pool_unlock(&pool_change_lock);
    }
    if (ras_pool_free() >= pages) {
        return true;
    }
    why = g_strdup_printf("%ld free huge pages of 2 MiB needed, %ld there and "
                          "no more to be had", pages, ras_pool_free());
    ras_pool_release();
    g_test_skip(why);
    return false;
}

void ras_pool_release(void)
{
    pool_unlock(&pool_use_lock);
}

bool ras_pool_exhaust(void)
{
    if (access(NR_HUGEPAGES, W_OK)) {
        g_test_skip("the pool of huge pages cannot be changed");
        return false;
    }
    if (!pool_lock(&pool_use_lock, LOCK_EX)) {
        g_test_skip("other tests use the pool of huge pages");
        return false;
    }
    /*
     * One less than there are in use: they stay, but the next one that is
     * given back leaves the pool.
     */
    pool_taken = -pool_change(-(ras_pool_free() + 1));
    g_assert_cmpint(ras_pool_free(), ==, 0);
    return true;
}

void ras_pool_refill(void)
{
    pool_change(pool_taken);
    pool_lock(&pool_use_lock, LOCK_SH);
}
