/*
 * Delivery of a memory failure to the guest
 *
 * One implementation per architecture, in target/.  It knows how the guest is
 * told and how it acknowledges; which pages are lost, and which of them the
 * guest knows of, is the business of the caller.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_MEMORY_FAILURE_H
#define SYSTEM_MEMORY_FAILURE_H

#include "exec/hwaddr.h"
#include "hw/core/cpu.h"

/* What guests are told of: the smallest page of all that we have */
#define MEMORY_FAILURE_SIZE 4096

/*
 * More pages than this are not worth collecting for memory_failure_inform();
 * a page of the host has no more (64 KiB)
 */
#define MEMORY_FAILURE_INFORM_MAX 16

/*
 * From touch to touch the first page moves on by this: odd, so that each one is
 * first in its turn; no more than fit in one record, so that none is left out
 */
#define MEMORY_FAILURE_TURN 5

/**
 * MemoryFailureKind: how sure it is that the virtual CPU is at the access
 *
 * @MEMORY_FAILURE_FAULT: the virtual CPU left the guest at an access to the
 *     page.  The access may belong to something that does not run any more
 *     (asynchronous page fault of KVM).
 * @MEMORY_FAILURE_ACCESS: the virtual CPU is at the access itself
 */
typedef enum MemoryFailureKind {
    MEMORY_FAILURE_FAULT,
    MEMORY_FAILURE_ACCESS,
} MemoryFailureKind;

/**
 * MemoryFailureResult: what came of it
 *
 * @MEMORY_FAILURE_TOLD: the guest is told
 * @MEMORY_FAILURE_LATER: nothing happened, try again.  A virtual CPU simply
 *     enters the guest and comes back with the same error.
 * @MEMORY_FAILURE_BUSY: as before, but the guest has still to acknowledge an
 *     earlier error: wait a little
 * @MEMORY_FAILURE_UNABLE: this guest cannot be told
 */
typedef enum MemoryFailureResult {
    MEMORY_FAILURE_TOLD,
    MEMORY_FAILURE_LATER,
    MEMORY_FAILURE_BUSY,
    MEMORY_FAILURE_UNABLE,
} MemoryFailureResult;

/**
 * memory_failure_pages: what one page of the host holds
 *
 * The host's kernel names the page of its own that was touched.  A guest with
 * smaller pages may have touched any that is in it.
 *
 * @gpa: guest-physical address of the host's page
 * @size: of the host's page, in bytes
 * @turn: how many touches of lost memory there were before.  The order depends
 *     on it: no record repeats the previous one (Linux ignores repetitions),
 *     and if a record cannot hold all pages, the next ones have the others.
 * @gpas: set to guest-physical addresses of 4 KiB each
 *
 * Returns: how many
 */
static inline size_t
memory_failure_pages(hwaddr gpa, size_t size, unsigned turn,
                     hwaddr gpas[MEMORY_FAILURE_INFORM_MAX])
{
    size_t count = MIN(size / MEMORY_FAILURE_SIZE, MEMORY_FAILURE_INFORM_MAX);

    for (size_t i = 0; i < count; i++) {
        gpas[i] = gpa + (i + turn * MEMORY_FAILURE_TURN) % count *
                        MEMORY_FAILURE_SIZE;
    }
    return count;
}

/**
 * memory_failure_deliver: tell a virtual CPU of the lost page that it touched
 *
 * @cpu: the virtual CPU
 * @gpas: guest-physical addresses, 4 KiB aligned; it touched one of these
 * @count: how many, at least one
 * @told: set to how many of them, from the first one on, need not be told again
 *     if it is told: 0 if it took an exception but does not know the address
 * @kind: see there
 *
 * Context: BQL; the thread of @cpu.
 */
MemoryFailureResult memory_failure_deliver(CPUState *cpu, const hwaddr *gpas,
                                           size_t count, size_t *told,
                                           MemoryFailureKind kind);

/**
 * memory_failure_inform: tell the guest of lost pages that nobody touched
 *
 * @gpas: guest-physical addresses, 4 KiB aligned
 * @count: how many, at least one
 * @told: set to how many of them, from the first one on, the guest is told of
 *
 * Context: BQL; main thread.
 * Returns: MEMORY_FAILURE_TOLD if it is told of at least one.
 */
MemoryFailureResult memory_failure_inform(const hwaddr *gpas, size_t count,
                                          size_t *told);

/**
 * memory_failure_unrecovered: tell a guest of a host's page that is all lost
 *
 * For Arm guests whose memory is not recovered; x86 has its own for them.
 *
 * @cpu: the virtual CPU that touched it, or any
 * @gpa: guest-physical address of anything in it
 * @touched: @cpu touched it
 *
 * Context: BQL, and if @touched the thread of @cpu; it is dropped for a moment
 * if the guest did not acknowledge the previous error yet.
 */
void memory_failure_unrecovered(CPUState *cpu, hwaddr gpa, bool touched);

/**
 * memory_failure_reset: forget everything about earlier deliveries
 *
 * Context: BQL, virtual CPUs stopped.
 */
void memory_failure_reset(void);

#endif /* SYSTEM_MEMORY_FAILURE_H */
