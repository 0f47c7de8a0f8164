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
#define NR_HUGEPAGES "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
#define FREE_HUGEPAGES \
    "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"

/*
 * Pages added to the pool must go when the test does, even if it dies: a child
 * waits for that and gives them back.
 */
static int pool_pipe = -1;
static pid_t pool_keeper;
static int pool_lock = -1;

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

/* Held shared by who needs the pool as it is, alone by who changes it */
static bool pool_lock_take(int operation)
{
    int i;

    if (pool_lock < 0) {
        pool_lock = open(NR_HUGEPAGES, O_RDONLY | O_CLOEXEC);
    }
    for (i = 0; pool_lock >= 0 && i < POOL_LOCK_TRIES; i++) {
        if (flock(pool_lock, operation | LOCK_NB) == 0) {
            return true;
        }
        g_usleep(10000);
    }
    return false;
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
    pool_lock_take(LOCK_EX);
    write_number(NR_HUGEPAGES, MAX(0, read_number(NR_HUGEPAGES) - added));
    _exit(0);
}

static void pool_add(long pages)
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
        pool_keep(pages, ends[0]);
    }
    close(ends[0]);
    atexit(pool_return);
}

bool test_pool_ready(void)
{
    static bool tried, locked;
    long missing;

    if (!tried) {
        tried = true;
        if (!pool_lock_take(LOCK_EX)) {
            return false;
        }
        missing = POOL_PAGES - read_number(FREE_HUGEPAGES);
        if (missing > 0) {
            pool_add(missing);
        }
        locked = pool_lock_take(LOCK_SH);
    }
    /* Without the lock, they may be gone when they are needed. */
    return locked && read_number(FREE_HUGEPAGES) >= POOL_PAGES;
}
