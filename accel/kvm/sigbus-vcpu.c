/*
 * Memory failures met by a virtual CPU inside KVM_RUN
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "exec/address-spaces.h"
#include "hw/core/cpu.h"
#include "system/hugetlbfs-ras.h"
#include "system/kvm.h"
#include "system/sigbus-intake.h"
#include "system/sigbus-vcpu.h"
#include <linux/kvm.h>

static void kvm_sigbus_resolve(CPUState *cpu, SigbusReport *report)
{
    switch (sigbus_intake_ask(report)) {
    case SIGBUS_VERDICT_LOST:
        hugetlbfs_ras_touch(cpu, report->addr);
        break;
    case SIGBUS_VERDICT_STOCK:
        bql_lock();
        kvm_arch_on_sigbus_vcpu(cpu, BUS_MCEERR_AR, report->addr);
        bql_unlock();
        break;
    default:
        return;
    }
    /* The exception is raised on the way into the guest: take that way. */
    qatomic_set(&cpu->exit_request, 1);
}

static bool kvm_sigbus_emulation_failed(const struct kvm_run *run)
{
    return run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
           run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION;
}

int kvm_sigbus_vcpu_run(CPUState *cpu)
{
    bool watched = sigbus_intake_vcpu_enter();
    int ret = kvm_vcpu_ioctl(cpu, KVM_RUN, 0);
    SigbusReport report;

    if (unlikely(watched) && !ret &&
        unlikely(kvm_sigbus_emulation_failed(cpu->kvm_run)) &&
        hugetlbfs_ras_retry_emulation()) {
        ret = -EINTR;
    }

    if (unlikely(watched) && unlikely(sigbus_intake_vcpu_leave(&report))) {
        kvm_sigbus_resolve(cpu, &report);
    }
    return ret;
}

void kvm_sigbus_vcpu_mmio(CPUState *cpu, MemTxAttrs attrs)
{
    struct kvm_run *run = cpu->kvm_run;

    if (!hugetlbfs_ras_mmio(cpu, run->mmio.phys_addr, run->mmio.data,
                            run->mmio.len, run->mmio.is_write)) {
        address_space_rw(&address_space_memory, run->mmio.phys_addr, attrs,
                         run->mmio.data, run->mmio.len, run->mmio.is_write);
    }
}
