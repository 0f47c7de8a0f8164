/*
 * Replace poisoned huge pages at once and fill them behind everybody's back
 *
 * The lazy way of qemu/hugepage-split.h: an empty region takes the place of
 * the huge page by one mremap(), whatever its size, and threads then copy
 * what can be read.  Who touches a piece that is not there yet waits until it
 * is, and it is brought first.
 *
 * Threads: hugepage_fill_swap() and hugepage_fill_lose() are for one thread at
 * a time; the callbacks come from the filler's threads.  Who cancels may hold
 * no lock that a callback takes, since it waits for these threads.  A swap
 * waits for another thread, which calls nobody; both are bound to one processor
 * meanwhile, where that is allowed (sched_setaffinity(2)).
 *
 * What it never does: show a byte before it is read, or show one that could
 * not be read.  Without memory to go on the filler waits for memory, and so
 * does who touches a missing piece.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef QEMU_HUGEPAGE_FILL_H
#define QEMU_HUGEPAGE_FILL_H

#include "qemu/hugepage-split.h"

typedef struct HugepageFill HugepageFill;

/**
 * HugepageFillOps: what the filler tells the owner of a range
 *
 * @lost: small page @page of the range cannot be read.  Called once for each,
 *        before a touch of it raises SIGBUS; but not for those given to
 *        hugepage_fill_swap() or hugepage_fill_lose().
 * @filled: nothing is missing any more, and the filler has forgotten the
 *          range.  The bitmap of @result passes to the callee.
 * @stuck: the filler cannot go on now and will try again; @err says why and
 *         stays with the caller.  Called at most once per range.
 * @at_once, @threads: for tests: how many pieces one read may bring, and how
 *        many threads there are; 0 for the default
 *
 * @opaque is what was given to hugepage_fill_swap().
 */
typedef struct HugepageFillOps {
    void (*lost)(void *opaque, size_t page);
    void (*filled)(void *opaque, HugepageSplitResult *result);
    void (*stuck)(void *opaque, Error *err);
    unsigned at_once;
    unsigned threads;
} HugepageFillOps;

/**
 * hugepage_fill_new: start a filler
 *
 * @ops: callbacks, not copied
 * @reader: NULL for pread() on the file of each range
 *
 * Returns: NULL with @errp set if the process may not serve the faults of the
 * kernel (KVM, system calls) with userfaultfd, or the kernel lacks a feature.
 */
HugepageFill *hugepage_fill_new(const HugepageFillOps *ops,
                                const HugepageReader *reader, Error **errp);

/**
 * hugepage_fill_free: stop a filler that has nothing left to fill
 *
 * Waits until everything is filled.
 */
void hugepage_fill_free(HugepageFill *fill);

/**
 * hugepage_fill_swap: put empty memory in place of a huge page
 *
 * @range: as for hugepage_split()
 * @known_lost: a bit per small page that is lost already, or NULL.  They raise
 *              SIGBUS from the first moment.
 * @opaque: for the callbacks
 *
 * Returns: true if the range is replaced; @filled will be called.  False if it
 * was left as it was.
 */
bool hugepage_fill_swap(HugepageFill *fill, const HugepageRange *range,
                        const unsigned long *known_lost, void *opaque,
                        Error **errp);

/**
 * hugepage_fill_lose: treat a small page of a range being filled as lost
 *
 * Returns: false if the range is not being filled, or its piece is being read
 * or filled already: then hugepage_split_lose() is the way, and the page is not
 * in the result unless it could not be read either.
 */
bool hugepage_fill_lose(HugepageFill *fill, void *host);

/**
 * hugepage_fill_cancel: go no further with a range
 *
 * For an owner who does not need the content any more.  What is missing reads
 * as zeros from then on: the owner must replace or zero the range, and see to
 * it that nobody takes for data what is there until then.
 *
 * Context: any thread but the filler's.  Waits for the pieces that are being
 * brought, so callbacks may come meanwhile.
 * Returns: true, and @filled will not be called; false if the range is not, not
 * yet, or no longer being filled.
 */
bool hugepage_fill_cancel(HugepageFill *fill, void *host);

/**
 * hugepage_fill_missing: bytes that are still to be brought, of all ranges
 *
 * So much memory will be taken soon.
 */
uint64_t hugepage_fill_missing(HugepageFill *fill);

/**
 * hugepage_fill_is_missing: is this small page still to be brought?
 *
 * Touching it, even by MADV_POPULATE_READ, would wait for the filler.
 */
bool hugepage_fill_is_missing(HugepageFill *fill, void *host);

#endif /* QEMU_HUGEPAGE_FILL_H */
