/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rasdaemon in the guest: what an administrator would read about an error.
 * It is there in guests that boot the image with it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include "guest.h"

#define PROGRAM "/sbin/rasdaemon"
#define LISTENS "Listening to events"

static volatile bool listens, ended;
static char events[32768];
static size_t events_len;

/* Text between @start and @end in @line, with "_" for blanks. */
static void field(const char *line, const char *start, const char *end,
                  char *out, size_t size)
{
    const char *p = strstr(line, start), *q;

    p = p ? p + strlen(start) : "?";
    q = strstr(p, end);
    snprintf(out, size, "%.*s", q ? (int)(q - p) : (int)strlen(p), p);
    for (; *out; out++) {
        *out = *out == ' ' ? '_' : *out;
    }
}

static void on_event(const char *line)
{
    char pfn[32], type[64], result[32];

    field(line, "pfn=", " ", pfn, sizeof(pfn));
    field(line, "page_type=", " action_result=", type, sizeof(type));
    field(line, "action_result=", " ", result, sizeof(result));
    if (events_len < sizeof(events) - 160) {
        events_len += sprintf(events + events_len, " 0x%llx:%s:%s",
                              strtoull(pfn, NULL, 16) * PAGE, type, result);
    }
}

static void *reader(void *terminal)
{
    char line[1024];

    while (fgets(line, sizeof(line), terminal)) {
        line[strcspn(line, "\r\n")] = 0;
        say("# rasdaemon: %s", line);
        listens = listens || strstr(line, LISTENS);
        if (strstr(line, "memory_failure_event") && strstr(line, "pfn=")) {
            on_event(line);
        }
    }
    ended = true;
    return NULL;
}

/* Only to a terminal does it write line by line.  NULL: errno says why. */
static FILE *spawn_on_terminal(void)
{
    char *args[] = { PROGRAM, "-f", NULL };
    char *env[] = { "LD_PRELOAD=/lib/access.so", NULL };
    posix_spawn_file_actions_t files;
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    pid_t pid;

    if (fd < 0 || unlockpt(fd)) {
        return NULL;
    }
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 1, ptsname(fd),
                                     O_RDWR | O_NOCTTY, 0);
    posix_spawn_file_actions_adddup2(&files, 1, 2);
    /* not fork(): it would make all our pages copy-on-write */
    errno = posix_spawn(&pid, PROGRAM, &files, NULL, args, env);
    return errno ? NULL : fdopen(fd, "r");
}

void rasdaemon_start(int argc, char **argv)
{
    pthread_t thread;
    FILE *terminal;

    mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
    mkdir("/dev/pts", 0755);
    mount("devpts", "/dev/pts", "devpts", 0, NULL);
    terminal = spawn_on_terminal();
    if (!terminal) {
        say("err %s: %s", PROGRAM, strerror(errno));
        return;
    }
    pthread_create(&thread, NULL, reader, terminal);
    for (int i = 0; i < 600 && !listens && !ended; i++) {
        usleep(100000);
    }
    say(listens ? "ok" : "err %s does not listen", PROGRAM);
}

/* rasdaemon-events: address:type:result of each page that it reported */
void rasdaemon_events(int argc, char **argv)
{
    say("ok%s", events);
}
