/*
 * Memory failures met by a virtual CPU inside KVM_RUN
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_SIGBUS_VCPU_H
#define SYSTEM_SIGBUS_VCPU_H

#include "exec/memattrs.h"
#include "hw/core/cpu.h"

/**
 * kvm_sigbus_vcpu_run: KVM_RUN, and what to do if it met a poisoned page
 *
 * The wait for the verdict of the listener is part of the call.  Afterwards
 * the page is healthy, or the guest was told, or it will meet it again.
 * Without an intake this is the plain ioctl.
 *
 * Context: thread of @cpu, without the BQL.
 * Returns: as kvm_vcpu_ioctl(KVM_RUN), a negative errno on failure.
 */
int kvm_sigbus_vcpu_run(CPUState *cpu);

/**
 * kvm_sigbus_vcpu_mmio: do the access of a KVM_EXIT_MMIO
 *
 * If it is RAM with a lost page behind it, the guest is told instead.
 *
 * Context: thread of @cpu, without the BQL.
 */
void kvm_sigbus_vcpu_mmio(CPUState *cpu, MemTxAttrs attrs);

#endif /* SYSTEM_SIGBUS_VCPU_H */
