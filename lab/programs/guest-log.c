/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the guest's kernel wrote of memory errors: the records that firmware
 * gave it (APEI), and which pages its memory failure code then handled.
 *
 * It writes down two records in five seconds at most, so records tell what
 * was in them but not how many there were; handled pages are all there.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "guest.h"

#define MAX_WORDS 8192
#define MAX_RECORDS 64          /* whose lines are mixed */
#define SOURCE "APEI Generic Hardware Error Source: "
#define ADDRESS "]:   physical_address: 0x"
#define FAILURE "Memory failure: 0x"

static char words[MAX_WORDS * 24];
static size_t words_len;

static void __attribute__((format(printf, 1, 2))) word(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    if (words_len < sizeof(words) - 32) {
        words_len += vsprintf(words + words_len, fmt, ap);
    }
    va_end(ap);
}

/* "{3}[Hardware Error]: ...": lines of record 3 */
static void record_line(const char *text)
{
    static int sources[MAX_RECORDS];
    const char *number = strchr(text, '{'), *p;
    int *source = sources + (number ? atoi(number + 1) % MAX_RECORDS : 0);

    if ((p = strstr(text, SOURCE))) {
        *source = atoi(p + strlen(SOURCE));
    } else if ((p = strstr(text, ADDRESS))) {
        word(" 0x%llx:%d", strtoull(p + strlen(ADDRESS), NULL, 16), *source);
    }
}

static void failure_line(const char *text)
{
    const char *p = strstr(text, FAILURE);

    /* the others say which processes were told */
    if (p && (strstr(p, ": recovery action for ") ||
              strstr(p, ": already hardware poisoned"))) {
        word(" 0x%llx", strtoull(p + strlen(FAILURE), NULL, 16) * PAGE);
    }
}

static void each_line(void (*line)(const char *text))
{
    int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    char text[8192];
    ssize_t n;

    words[0] = words_len = 0;
    if (fd < 0) {
        say("err /dev/kmsg: %s", strerror(errno));
        return;
    }
    /* EPIPE: the oldest were overwritten meanwhile */
    while ((n = read(fd, text, sizeof(text) - 1)) > 0 || errno == EPIPE) {
        text[n > 0 ? n : 0] = 0;
        line(text);
    }
    close(fd);
    say("ok%s", words);
}

/* records: address:source of each record of an error */
void log_records(int argc, char **argv)
{
    each_line(record_line);
}

/* failures: address of each page, as often as it was handled */
void log_failures(int argc, char **argv)
{
    each_line(failure_line);
}
