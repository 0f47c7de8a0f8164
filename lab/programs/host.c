/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Helper in the emulated host.
 *
 *   poison PID ADDRESS...    fail the frames behind host addresses of PID as
 *                            the kernel's memory failure code would; more
 *                            than one: while PID is stopped, all at once
 *   flip PID ADDRESS         flip one bit of PID's memory behind its back
 *   zeros ADDRESS DUMP       which 4 KiB of the memory from ADDRESS on are all
 *                            zero in a dump of the guest's memory
 *   echo ADDRESS PORT        send each datagram back, for ever
 *   as-user UID COMMAND...   run COMMAND as a user without any capability
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAGE 4096UL
#define INJECTOR "/sys/kernel/debug/hwpoison/corrupt-pfn"

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_of(const char *pid, const char *file, int flags)
{
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/%s/%s", pid, file);
    fd = open(path, flags);
    if (fd < 0) {
        die(path);
    }
    return fd;
}

static uint64_t frame(int pagemap, uint64_t addr)
{
    uint64_t entry = 0;
    off_t at = addr / sysconf(_SC_PAGESIZE) * sizeof(entry);

    if (pread(pagemap, &entry, sizeof(entry), at) != sizeof(entry)) {
        die("pagemap");
    }
    if (!(entry >> 63)) {
        fprintf(stderr, "no page at 0x%llx\n", (unsigned long long)addr);
        exit(1);
    }
    return entry & ((1ULL << 55) - 1);
}

/*
 * Two refusals are none: a second error in a huge page is recorded but
 * answered with EHWPOISON ("already poisoned"), and a page that somebody
 * holds for a moment is poisoned and unmapped, but answered with EBUSY.
 */
static void fail_frame(uint64_t pfn)
{
    char text[32];
    int fd = open(INJECTOR, O_WRONLY);
    int len = snprintf(text, sizeof(text), "0x%llx", (unsigned long long)pfn);

    if (fd < 0 || (write(fd, text, len) != len &&
                   errno != EHWPOISON && errno != EBUSY)) {
        die(INJECTOR);
    }
    close(fd);
}

static int poison(int argc, char **argv)
{
    int pagemap = open_of(argv[0], "pagemap", O_RDONLY);
    pid_t pid = argc > 2 ? atoi(argv[0]) : 0;
    uint64_t pfn[argc];

    if (pid) {
        kill(pid, SIGSTOP);
        usleep(100000);
    }
    for (int i = 1; i < argc; i++) {
        pfn[i] = frame(pagemap, strtoull(argv[i], NULL, 0));
    }
    for (int i = 1; i < argc; i++) {
        fail_frame(pfn[i]);
        printf("0x%llx ", (unsigned long long)pfn[i]);
    }
    if (pid) {
        kill(pid, SIGCONT);
    }
    return 0;
}

static int flip(int argc, char **argv)
{
    int mem = open_of(argv[0], "mem", O_RDWR);
    off_t addr = strtoull(argv[1], NULL, 0);
    uint8_t byte;

    if (pread(mem, &byte, 1, addr) != 1) {
        die("read");
    }
    byte ^= 0x10;
    if (pwrite(mem, &byte, 1, addr) != 1) {
        die("write");
    }
    return 0;
}

static bool is_zero(const uint8_t *page)
{
    size_t i = 0;

    while (i < PAGE && !page[i]) {
        i++;
    }
    return i == PAGE;
}

static int zeros(int argc, char **argv)
{
    FILE *f = fopen(argv[1], "r");
    uint64_t addr = strtoull(argv[0], NULL, 0);
    uint8_t page[PAGE];
    Elf64_Ehdr eh;
    Elf64_Phdr ph = { 0 };

    if (!f || fread(&eh, sizeof(eh), 1, f) != 1 || fseek(f, eh.e_phoff, 0)) {
        die(argv[1]);
    }
    do {
        if (fread(&ph, sizeof(ph), 1, f) != 1) {
            die("no such segment");
        }
    } while (ph.p_type != PT_LOAD || ph.p_paddr != addr);
    fseek(f, ph.p_offset, 0);
    for (unsigned n = 0; n < ph.p_filesz / PAGE; n++) {
        if (fread(page, PAGE, 1, f) != 1) {
            die(argv[1]);
        }
        if (is_zero(page)) {
            printf("%u ", n);
        }
    }
    fclose(f);
    return 0;
}

static int as_user(int argc, char **argv)
{
    int id = atoi(argv[0]);

    if (setgroups(0, NULL) || setresgid(id, id, id) || setresuid(id, id, id) ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) {
        die("set user");
    }
    /* changing user made it undumpable: our /proc files became root's */
    prctl(PR_SET_DUMPABLE, 1);
    execvp(argv[1], argv + 1);
    die(argv[1]);
    return 1;
}

static int echo(int argc, char **argv)
{
    struct sockaddr_in addr = { .sin_family = AF_INET,
                                .sin_port = htons(atoi(argv[1])) };
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    socklen_t len = sizeof(addr);
    char data[65536];
    ssize_t n = 0;

    if (fd < 0 || inet_pton(AF_INET, argv[0], &addr.sin_addr) != 1 ||
        bind(fd, (struct sockaddr *)&addr, sizeof(addr))) {
        die(argv[0]);
    }
    while (n >= 0) {
        n = recvfrom(fd, data, sizeof(data), 0, (struct sockaddr *)&addr, &len);
        n = n < 0 ? n : sendto(fd, data, n, 0, (struct sockaddr *)&addr, len);
    }
    die("echo");
    return 1;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } tools[] = { { "poison", poison }, { "flip", flip },
                  { "zeros", zeros }, { "echo", echo },
                  { "as-user", as_user } };

    for (size_t i = 0; argc > 3 && i < sizeof(tools) / sizeof(tools[0]); i++) {
        if (!strcmp(argv[1], tools[i].name)) {
            return tools[i].run(argc - 2, argv + 2);
        }
    }
    fprintf(stderr, "see the head of host.c\n");
    return 2;
}
