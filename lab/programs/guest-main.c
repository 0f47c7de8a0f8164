/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "guest.h"

#define CONTROL "/dev/vport0p1"

static int control = -1;

static const struct command {
    const char *name;
    void (*run)(int argc, char **argv);
} commands[] = {
    { "blocks", scan_blocks },      /* huge pages that a region fills */
    { "stat", scan_stat },
    { "wait", scan_wait },          /* for complete rounds */
    { "lost", scan_lost },
    { "check", scan_check },        /* of the untouched region */
    { "mode", scan_mode },          /* scan, idle, hammer GPA */
    { "dma-start", dma_start },
    { "dma-stop", dma_stop },
    { "net-start", net_start },
    { "net-echo", net_echo },
    { "sys", probe_sys },
    { "kcore", probe_kcore },
    { "sweep", probe_sweep },
    { "records", log_records },     /* of errors, from firmware */
    { "failures", log_failures },   /* pages that the kernel gave up */
    { "kernel-read", probe_kernel_read },
    { "rasdaemon-start", rasdaemon_start },
    { "rasdaemon-events", rasdaemon_events },
};

void say(const char *fmt, ...)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static char line[65536];
    va_list ap;
    int n, done = 0;

    pthread_mutex_lock(&lock);
    va_start(ap, fmt);
    n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    n = n < (int)sizeof(line) - 2 ? n : (int)sizeof(line) - 2;
    line[n++] = '\n';
    while (done < n) {
        int w = write(control < 0 ? 2 : control, line + done, n - done);

        if (w < 0 && errno != EINTR && errno != EAGAIN) {
            break;
        }
        done += w > 0 ? w : 0;
    }
    pthread_mutex_unlock(&lock);
}

double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);

    if (fd < 0 || write(fd, text, strlen(text)) < 0) {
        fprintf(stderr, "lab: cannot write %s: %s\n", path, strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void load_modules(void)
{
    glob_t g;

    if (glob("/modules/*.ko", 0, NULL, &g)) {
        return;
    }
    for (size_t i = 0; i < g.gl_pathc; i++) {
        int fd = open(g.gl_pathv[i], O_RDONLY | O_CLOEXEC);

        if (syscall(SYS_finit_module, fd, "", 0) < 0) {
            fprintf(stderr, "lab: %s: %s\n", g.gl_pathv[i], strerror(errno));
        }
        close(fd);
    }
}

/*
 * A deferred error is found by polling: by default after five minutes, and
 * never by a kernel that gave up polling because nothing was ever found.
 */
static void poll_machine_checks_every_second(void)
{
    const char *path =
        "/sys/devices/system/machinecheck/machinecheck0/check_interval";

    if (!access(path, W_OK)) {
        put(path, "1");
    }
}

static void set_up(void)
{
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    put("/proc/sys/vm/compact_unevictable_allowed", "0");
    if (getenv("lab_silent") && atoi(getenv("lab_silent"))) {
        put("/proc/sys/kernel/printk", "0");
    }
    load_modules();
    poll_machine_checks_every_second();
}

static int open_control(void)
{
    for (int i = 0; i < 200; i++) {
        int fd = open(CONTROL, O_RDWR | O_CLOEXEC);

        if (fd >= 0) {
            return fd;
        }
        usleep(50000);
    }
    return -1;
}

static void serve(char *line)
{
    char *argv[16], *save;
    int argc = 0;

    for (char *w = strtok_r(line, " \r\n", &save); w && argc < 16;
         w = strtok_r(NULL, " \r\n", &save)) {
        argv[argc++] = w;
    }
    if (!argc) {
        return;
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (!strcmp(argv[0], commands[i].name)) {
            commands[i].run(argc - 1, argv + 1);
            return;
        }
    }
    say("err unknown command %s", argv[0]);
}

static int run(void)
{
    const char *scanned = getenv("lab_scanned"), *quiet = getenv("lab_quiet");
    FILE *in;
    char line[4096];

    control = open_control();
    in = control < 0 ? NULL : fdopen(dup(control), "r");
    if (!in) {
        fprintf(stderr, "lab: no %s\n", CONTROL);
        return 1;
    }
    if (scan_start(scanned ? atoi(scanned) : 64, quiet ? atoi(quiet) : 16)) {
        return 1;
    }
    say("ready");
    while (fgets(line, sizeof(line), in)) {
        serve(line);
    }
    return 0;
}

int main(void)
{
    int status = 0;
    pid_t pid;

    set_up();
    /* init must outlive a child that a memory failure kills */
    pid = fork();
    if (!pid) {
        _exit(run());
    }
    while (waitpid(pid, &status, 0) != pid) {
    }
    control = open_control();
    say("dead status=0x%x signal=%d", status,
        WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    fprintf(stderr, "lab: the test program ended, status 0x%x\n", status);
    for (;;) {
        pause();
    }
}
