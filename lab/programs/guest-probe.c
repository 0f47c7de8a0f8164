/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "guest.h"

static unsigned long meminfo_kib(const char *name)
{
    unsigned long value = 0;
    char line[256];
    FILE *f = fopen("/proc/meminfo", "r");

    while (f && fgets(line, sizeof(line), f)) {
        if (!strncmp(line, name, strlen(name))) {
            value = strtoul(line + strlen(name), NULL, 10);
        }
    }
    if (f) {
        fclose(f);
    }
    return value;
}

/* Sum over the CPUs of the row @name of /proc/interrupts. */
static unsigned long interrupts(const char *name)
{
    unsigned long sum = 0;
    char line[1024], *p, *end;
    FILE *f = fopen("/proc/interrupts", "r");

    while (f && fgets(line, sizeof(line), f)) {
        p = line + strspn(line, " ");
        if (strncmp(p, name, strlen(name))) {
            continue;
        }
        for (p += strlen(name); ; p = end) {
            unsigned long n = strtoul(p, &end, 10);

            if (end == p) {
                break;
            }
            sum += n;
        }
    }
    if (f) {
        fclose(f);
    }
    return sum;
}

void probe_sys(int argc, char **argv)
{
    say("ok corrupted_kib=%lu total_kib=%lu free_kib=%lu mce=%lu polls=%lu",
        meminfo_kib("HardwareCorrupted:"), meminfo_kib("MemTotal:"),
        meminfo_kib("MemFree:"), interrupts("MCE:"), interrupts("MCP:"));
}

/*
 * Read all memory through the kernel's own mapping of it.  The kernel leaves
 * out pages that it holds for poisoned and reads zeros there.
 */
void probe_kcore(int argc, char **argv)
{
    static char buf[1 << 20];
    int fd = open("/proc/kcore", O_RDONLY | O_CLOEXEC);
    Elf64_Ehdr eh;
    Elf64_Phdr ph;
    uint64_t sum = 0, done = 0;
    unsigned failed = 0;

    if (fd < 0 || read(fd, &eh, sizeof(eh)) != sizeof(eh)) {
        say("err kcore: %s", strerror(errno));
        return;
    }
    for (int i = 0; i < eh.e_phnum; i++) {
        if (pread(fd, &ph, sizeof(ph), eh.e_phoff + i * sizeof(ph)) !=
            sizeof(ph) || ph.p_type != PT_LOAD ||
            ph.p_paddr == (Elf64_Addr)-1 || ph.p_vaddr >= 0xffffffff80000000) {
            continue;
        }
        for (uint64_t off = 0; off < ph.p_memsz; ) {
            ssize_t n = pread(fd, buf, sizeof(buf) < ph.p_memsz - off ?
                              sizeof(buf) : ph.p_memsz - off,
                              ph.p_offset + off);

            if (n <= 0) {
                failed++;
                off += PAGE;
                continue;
            }
            sum += buf[0] + buf[n - 1];
            done += n;
            off += n;
        }
    }
    close(fd);
    say("ok bytes=%llu failed=%u sum=%llu", (unsigned long long)done, failed,
        (unsigned long long)sum);
}

/* sweep GPA...: fill and check nearly all free memory; was GPA in it? */
void probe_sweep(int argc, char **argv)
{
    unsigned long free_kib = meminfo_kib("MemFree:");
    size_t pages = free_kib > 24576 ? (free_kib - 24576) / 4 : 0;
    unsigned bad = 0, found = 0;
    uint8_t *mem = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (mem == MAP_FAILED) {
        say("err sweep: %s", strerror(errno));
        return;
    }
    for (size_t i = 0; i < pages; i++) {
        uint64_t gpa;

        pattern_fill((void *)(mem + i * PAGE), pattern_seed('S', i, 0));
        gpa = gpa_of(mem + i * PAGE);
        for (int k = 0; k < argc; k++) {
            found += strtoull(argv[k], NULL, 0) / PAGE == gpa / PAGE;
        }
    }
    for (size_t i = 0; i < pages; i++) {
        bad += pattern_check((void *)(mem + i * PAGE), pattern_seed('S', i, 0));
    }
    munmap(mem, pages * PAGE);
    say("ok pages=%zu corrupt=%u found=%u", pages, bad, found);
}

static void *kernel_reader(void *page)
{
    static char buf[PAGE];
    int fd[2];

    /* writing to a pipe copies in the kernel */
    while (!pipe(fd) && write(fd[1], page, PAGE) == PAGE &&
           read(fd[0], buf, PAGE) == PAGE) {
        close(fd[0]);
        close(fd[1]);
    }
    return NULL;
}

/* kernel-read GPA: let the kernel read a page of the untouched region */
void probe_kernel_read(int argc, char **argv)
{
    volatile uint64_t *page = scan_quiet_page(argc ? strtoull(argv[0], NULL, 0)
                                              : 0);
    pthread_t thread;

    if (!page || pthread_create(&thread, NULL, kernel_reader, (void *)page)) {
        say("err no such page");
        return;
    }
    say("ok");
}
