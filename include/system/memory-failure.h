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

/* More pages than this are not worth collecting for memory_failure_inform() */
#define MEMORY_FAILURE_INFORM_MAX 16

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
 * memory_failure_deliver: tell a virtual CPU of the lost page that it touched
 *
 * @cpu: the virtual CPU
 * @gpa: guest-physical address, 4 KiB aligned
 * @kind: see there
 *
 * Context: BQL; the thread of @cpu.
 */
MemoryFailureResult memory_failure_deliver(CPUState *cpu, hwaddr gpa,
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
 * memory_failure_reset: forget everything about earlier deliveries
 *
 * Context: BQL, virtual CPUs stopped.
 */
void memory_failure_reset(void);

#endif /* SYSTEM_MEMORY_FAILURE_H */
