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
static int pool_lock = -1;
/* By this process: other tests bring their own, and may start any time. */
static long pool_added;
static long pool_taken;

/* For tests that look for free pages without the lock */
#define POOL_SPARE 8

/* One minute */
#define POOL_LOCK_TRIES 6000

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
 * Tests run in parallel.  Who has a virtual machine holds the lock shared; who
 * changes the pool holds it alone, so that nobody finds pages gone that he
 * saw.  Better a test that fails for that than one that waits for ever.
 */
static void pool_lock_take(int operation)
{
    if (pool_lock < 0) {
        pool_lock = open(NR_HUGEPAGES, O_RDONLY | O_CLOEXEC);
    }
    for (int i = 0; i < POOL_LOCK_TRIES; i++) {
        if (pool_lock < 0 || flock(pool_lock, operation | LOCK_NB) == 0) {
            return;
        }
        g_usleep(10000);
    }
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
    pool_lock_take(LOCK_EX);
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

/* Lock held alone.  Returns by how much the pool really changed. */
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

    if (pool_added < pages + POOL_SPARE) {
        pool_start_keeper();
        pool_lock_take(LOCK_EX);
        pool_added += pool_change(pages + POOL_SPARE - pool_added);
    }
    pool_lock_take(LOCK_SH);
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
    close(pool_lock);
    pool_lock = -1;
}

bool ras_pool_exhaust(void)
{
    if (access(NR_HUGEPAGES, W_OK)) {
        g_test_skip("the pool of huge pages cannot be changed");
        return false;
    }
    pool_lock_take(LOCK_EX);
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
    pool_lock_take(LOCK_SH);
}
