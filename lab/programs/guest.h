/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The test program of the lab's guest: it is the guest's /init.
 *
 * guest-main.c   boots, then serves commands of the harness on a
 *                virtio-serial port: one line in, one line out
 * guest-scan.c   memory filled with a pattern, one scanning thread per vCPU
 * guest-dma.c    disk reads into chosen pages
 * guest-net.c    datagrams out of chosen pages
 * guest-probe.c  what the guest kernel knows: counters, whole-memory reads
 * guest-log.c    what it wrote of memory errors
 * guest-rasdaemon.c   and what rasdaemon made of them
 *
 * Every reply line starts with "ok" or "err"; lines that start with "#" are
 * for the log only.
 */
#ifndef LAB_GUEST_H
#define LAB_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE 4096UL
#define HUGE (2UL << 20)
#define HUGE_PAGES (HUGE / PAGE)
#define WORDS (PAGE / sizeof(uint64_t))
#define STEP 0x9e3779b97f4a7c15ULL
#define MAX_THREADS 8

/* First word of the pattern of a page; word k is this + k * STEP. */
uint64_t pattern_seed(uint64_t who, uint64_t page, uint64_t round);
void pattern_fill(volatile uint64_t *page, uint64_t seed);
unsigned pattern_check(volatile uint64_t *page, uint64_t seed);

/* One line to the harness; safe from any thread. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
double now(void);
/* Guest-physical address of the page at @addr, 0 if there is none. */
uint64_t gpa_of(const volatile void *addr);

/* guest-scan.c: commands get the words after their name */
int scan_start(size_t scanned_mib, size_t quiet_mib);
void scan_blocks(int argc, char **argv);
void scan_stat(int argc, char **argv);
void scan_wait(int argc, char **argv);
void scan_lost(int argc, char **argv);
void scan_check(int argc, char **argv);
void scan_mode(int argc, char **argv);
/* The page of the untouched region at @gpa, NULL if it is not there. */
volatile uint64_t *scan_quiet_page(uint64_t gpa);
void scan_quiet_refill(uint64_t gpa);

/* guest-dma.c */
void dma_start(int argc, char **argv);
void dma_stop(int argc, char **argv);

/* guest-net.c */
void net_start(int argc, char **argv);
void net_echo(int argc, char **argv);

/* guest-probe.c */
void probe_sys(int argc, char **argv);
void probe_kcore(int argc, char **argv);
void probe_sweep(int argc, char **argv);
void probe_kernel_read(int argc, char **argv);

/* guest-log.c */
void log_records(int argc, char **argv);
void log_failures(int argc, char **argv);

/* guest-rasdaemon.c */
void rasdaemon_start(int argc, char **argv);
void rasdaemon_events(int argc, char **argv);

#endif
