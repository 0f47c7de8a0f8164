/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Datagrams out of the pages of one huge page of the untouched region, each to
 * be echoed.  They are sent with MSG_ZEROCOPY, and the checksum is left to the
 * device: no vCPU touches the page before the device does.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "guest.h"

#define INTERFACE "eth0"
#define BYTES 1408UL            /* of a page: a datagram that is not split */
#define PATIENCE 60             /* seconds */

static int net = -1;

static bool set_address(const char *text)
{
    struct ifreq ifr = { .ifr_name = INTERFACE };
    struct sockaddr_in *addr = (struct sockaddr_in *)&ifr.ifr_addr;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool ok;

    addr->sin_family = AF_INET;
    ok = fd >= 0 && inet_pton(AF_INET, text, &addr->sin_addr) == 1 &&
         !ioctl(fd, SIOCSIFADDR, &ifr);
    ifr.ifr_flags = IFF_UP | IFF_RUNNING;
    ok = ok && !ioctl(fd, SIOCSIFFLAGS, &ifr);
    close(fd);
    return ok;
}

/* net-start OWN-ADDRESS SERVER-ADDRESS PORT */
void net_start(int argc, char **argv)
{
    struct sockaddr_in server = { .sin_family = AF_INET };
    struct timeval patience = { .tv_sec = PATIENCE };
    int on = 1;

    if (argc < 3 || inet_pton(AF_INET, argv[1], &server.sin_addr) != 1) {
        say("err usage");
        return;
    }
    server.sin_port = htons(atoi(argv[2]));
    net = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (!set_address(argv[0]) ||
        setsockopt(net, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) ||
        setsockopt(net, SOL_SOCKET, SO_RCVTIMEO, &patience,
                   sizeof(patience)) ||
        connect(net, (struct sockaddr *)&server, sizeof(server))) {
        say("err %s", strerror(errno));
        return;
    }
    say("ok");
}

/* Did the kernel copy the datagram after all?  -1: it does not say */
static int was_copied(void)
{
    union {
        struct cmsghdr head;
        char room[256];
    } control;
    struct msghdr msg = { .msg_control = &control,
                          .msg_controllen = sizeof(control) };
    struct sock_extended_err *err;

    for (int i = 0; i < 1000; i++) {
        if (recvmsg(net, &msg, MSG_ERRQUEUE) >= 0) {
            err = (struct sock_extended_err *)CMSG_DATA(&control.head);
            return err->ee_origin != SO_EE_ORIGIN_ZEROCOPY ||
                   err->ee_code == SO_EE_CODE_ZEROCOPY_COPIED;
        }
        usleep(1000);
    }
    return -1;
}

/* net-echo HUGE-GPA COUNT: from COUNT of its pages, spread over all of it */
void net_echo(int argc, char **argv)
{
    unsigned sent = 0, answered = 0, wrong = 0, copied = 0;
    uint64_t block = argc ? strtoull(argv[0], NULL, 0) : 0;
    unsigned count = argc > 1 ? atoi(argv[1]) : 1;
    char answer[BYTES];

    for (unsigned i = 0; i < count; i++) {
        uint64_t gpa = block + i * HUGE_PAGES / count * PAGE;
        const void *page = (const void *)scan_quiet_page(gpa);

        if (!page || send(net, page, BYTES, MSG_ZEROCOPY) != BYTES) {
            break;
        }
        sent++;
        if (recv(net, answer, BYTES, 0) != BYTES) {
            break;
        }
        answered++;
        wrong += memcmp(answer, page, BYTES) != 0;
        copied += was_copied() != 0;
    }
    say("ok sent=%u answered=%u wrong=%u copied=%u errno=%d", sent, answered,
        wrong, copied, sent < count || answered < sent ? errno : 0);
}
