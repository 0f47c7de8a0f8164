/*
 * Intake of memory failures, compiled out (--disable-hugetlbfs-ras)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "system/sigbus-intake.h"

bool sigbus_intake_signal(const siginfo_t *si)
{
    return false;
}

SigbusVerdict sigbus_intake_ask(SigbusReport *report)
{
    return SIGBUS_VERDICT_STOCK;
}

bool sigbus_intake_vcpu_enter(void)
{
    return false;
}

bool sigbus_intake_vcpu_leave(SigbusReport *report)
{
    return false;
}
