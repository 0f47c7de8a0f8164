/*
 * Memory, fault injection and checks for the tests of the huge page engine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HUGEPAGE_SPLIT_HELPERS_H
#define HUGEPAGE_SPLIT_HELPERS_H

#include "qemu/hugepage-split.h"

/**
 * TestMemory: a kind of memory that the same test bodies run on
 *
 * @name: part of the test's path
 * @hugetlb: hugetlbfs pages, or else an ordinary memfd
 * @size: bytes of the "huge page"
 */
typedef struct TestMemory {
    const char *name;
    bool hugetlb;
    size_t size;
} TestMemory;

/**
 * TestPage: one huge page, the second of its file, filled with a pattern
 *
 * @range: what to hand to the engine
 * @pages: small pages in it
 * @area: both pages of the file, mapped; the first must never change
 */
typedef struct TestPage {
    HugepageRange range;
    size_t pages;
    uint8_t *area;
} TestPage;

/* Healthy, in FakeReader.bad_from */
#define NOT_BAD SIZE_MAX

/**
 * FakeReader: reads the file, except for what a test makes fail
 *
 * @page: the memory read
 * @bad_from: per small page, the first byte in it that cannot be read
 * @error: errno there; 0 for end of file
 * @shortest: bytes that a read returns at most, 0 for no limit; not for ever,
 *            or single bytes would take too long
 * @alternate: only every other read is that short
 * @storm: times that each read is interrupted before it does something
 * @too_long: a bad read claims more bytes than were asked for
 * @calls: number of reads, without interrupted ones
 */
typedef struct FakeReader {
    TestPage *page;
    size_t *bad_from;
    int error;
    size_t shortest;
    bool alternate;
    unsigned storm;
    bool too_long;
    size_t calls;
    unsigned interrupted;
} FakeReader;

typedef void TestBody(const TestMemory *memory, const void *opaque);

/* Add @run as a test for each kind of memory: .../@name@variant */
void add_test(const char *name, const char *variant, TestBody *run,
              const void *opaque);

/* Are there free huge pages, perhaps since they were added to the pool? */
bool test_pool_ready(void);

/* False, and the test is skipped, if there is no such memory. */
bool test_page_init(TestPage *page, const TestMemory *memory);
void test_page_destroy(TestPage *page);
/* Map the file again, as test_page_init() left it. */
void test_page_renew(TestPage *page);
/* Drop the mapping of the range and poison it; the file keeps its content. */
void test_page_poison(TestPage *page);
uint64_t test_page_word(const TestPage *page, size_t pos);

void fake_reader_init(FakeReader *fake, TestPage *page);
void fake_reader_destroy(FakeReader *fake);
ssize_t fake_reader_read(void *opaque, void *buf, size_t count, off_t offset);

/* Load a word, or store it and load it back; false if that raises SIGBUS. */
bool try_load(void *ptr, uint64_t *word);
bool try_store(void *ptr, uint64_t word);

/* A few lost pages, for the tests that need just some */
unsigned long *some_lost(const TestPage *page);
/* Split @page with these small pages lost, and check the result. */
void split_page(TestPage *page, const unsigned long *lost);

/* Pattern in every healthy small page, SIGBUS in every lost one */
void assert_split(TestPage *page, const unsigned long *lost);
/* Pattern in every word, mapped from the file, and stores reach the file */
void assert_untouched(TestPage *page);
/* Zero in every word, mapped from the file, and stores reach the file */
void assert_undone(TestPage *page);
/* The same, but with the pattern in every small page that is not @lost */
void assert_copied_back(TestPage *page, const unsigned long *lost);
/* Zero in every word, and not mapped from the file */
void assert_zeroed_copy(TestPage *page);
/* Settings as asked for, on the @copy or on the fresh huge page */
void assert_settings(TestPage *page, bool copy);

/**
 * Resources: what a call may leak
 *
 * @mapped: bytes mapped, less those unmapped, by calls that can be made fail;
 *          not all of /proc/self/maps, since malloc() maps memory of its own
 * @mappings: mappings in the area of the test's page
 * @fds: open file descriptors
 */
typedef struct Resources {
    ssize_t mapped;
    unsigned mappings;
    unsigned fds;
} Resources;

Resources resources_count(const TestPage *page);
void assert_no_leak(const TestPage *page, const Resources *before);

/**
 * faults_arm: make one system call or allocation of the engine fail
 *
 * @nth: which one, counted from 1
 * @times: how many in a row fail from there on
 * @error: its errno
 */
void faults_arm(unsigned nth, unsigned times, int error);

/* The next mremap() unmaps its target and then fails. */
void faults_arm_torn_mremap(void);

/* Was what failed mere advice, so that going on is right? */
bool faults_advisory(void);

/* Returns: did anything fail? */
bool faults_disarm(void);

/* Resources.mapped: replacing one mapping by another does not change it. */
ssize_t faults_mapped(void);

#endif /* HUGEPAGE_SPLIT_HELPERS_H */
