/*
 * Delivery of a memory failure, for targets that have no way to tell a guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "system/memory-failure.h"

MemoryFailureResult memory_failure_deliver(CPUState *cpu, const hwaddr *gpas,
                                           size_t count, size_t *told,
                                           MemoryFailureKind kind)
{
    return MEMORY_FAILURE_UNABLE;
}

MemoryFailureResult memory_failure_inform(const hwaddr *gpas, size_t count,
                                          size_t *told)
{
    *told = 0;
    return MEMORY_FAILURE_UNABLE;
}

void memory_failure_reset(void)
{
}
