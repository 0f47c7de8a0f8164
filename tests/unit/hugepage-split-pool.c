/*
 * Huge pages for the tests of the huge page engine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/file.h>
#include <sys/wait.h>
#include "qemu/rcu.h"
#include "hugepage-split-helpers.h"

/* Two pages of the file, one to spare while both mappings of one exist */
#define POOL_PAGES 4
#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define NR_HUGEPAGES POOL "nr_hugepages"
#define FREE_HUGEPAGES POOL "free_hugepages"

/*
 * Pages added to the pool must go when the test does, even if it dies: a child
 * waits for that and gives them back.
 */
static int pool_pipe = -1;
static pid_t pool_keeper;

/* One minute */
#define POOL_LOCK_TRIES 6000

static long read_number(const char *path)
{
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? atol(text) : -1;
}

static bool write_number(const char *path, long number)
{
    g_autofree char *text = g_strdup_printf("%ld\n", number);
    int fd = open(path, O_WRONLY);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == strlen(text);

    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static void pool_return(void)
{
    close(pool_pipe);
    waitpid(pool_keeper, NULL, 0);
}

/*
 * Tests run in parallel.  NR_HUGEPAGES is held shared by who has pages of the
 * pool (alone by a qtest that makes them scarce), FREE_HUGEPAGES alone while
 * the pool changes.
 *
 * Returns: a descriptor to close, -1 after a minute
 */
static int pool_lock(const char *path, int operation)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int i;

    for (i = 0; fd >= 0 && i < POOL_LOCK_TRIES; i++) {
        if (flock(fd, operation | LOCK_NB) == 0) {
            return fd;
        }
        g_usleep(10000);
    }
    close(fd);
    return -1;
}

static void pool_keep(long added, int read_end)
{
    char end;

    /* Only the death of the parent closes the pipe; terminals are its. */
    setsid();
    close(STDOUT_FILENO);
    close(STDERR_FILENO);
    close(pool_pipe);
    while (read(read_end, &end, 1) < 0 && errno == EINTR) {
        /* again */
    }
    pool_lock(FREE_HUGEPAGES, LOCK_EX);
    write_number(NR_HUGEPAGES, MAX(0, read_number(NR_HUGEPAGES) - added));
    _exit(0);
}

/* @change: the lock that the parent holds for this */
static void pool_add(long pages, int change)
{
    long old = read_number(NR_HUGEPAGES);
    int ends[2];

    if (!write_number(NR_HUGEPAGES, old + pages)) {
        return;
    }
    pages = read_number(NR_HUGEPAGES) - old;
    g_assert(g_unix_open_pipe(ends, FD_CLOEXEC, NULL));
    pool_pipe = ends[1];
    /* The child needs no RCU, and sanitizers allow it no threads. */
    rcu_disable_atfork();
    pool_keeper = fork();
    g_assert(pool_keeper >= 0);
    if (pool_keeper == 0) {
        close(change);
        pool_keep(pages, ends[0]);
    }
    close(ends[0]);
    atexit(pool_return);
}

/* Its own pages, whatever is free: others may be about to take that. */
bool test_pool_ready(void)
{
    static int in_use = -1;
    static bool tried;
    int change;

    if (!tried) {
        tried = true;
        in_use = pool_lock(NR_HUGEPAGES, LOCK_SH);
        change = pool_lock(FREE_HUGEPAGES, LOCK_EX);
        if (in_use >= 0 && change >= 0) {
            pool_add(POOL_PAGES, change);
        }
        close(change);
    }
    /* Without the lock, they may be gone when they are needed. */
    return in_use >= 0 && read_number(FREE_HUGEPAGES) >= POOL_PAGES;
}
