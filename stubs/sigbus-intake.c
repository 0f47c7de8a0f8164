/*
 * Intake of memory failures, for a QEMU without KVM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "system/sigbus-intake.h"

bool sigbus_intake_start(Error **errp)
{
    error_setg(errp, "this QEMU was built without KVM, which passes on memory "
               "failures");
    return false;
}

bool sigbus_intake_signal(const siginfo_t *si)
{
    return false;
}

SigbusVerdict sigbus_intake_ask(SigbusReport *report)
{
    return SIGBUS_VERDICT_STOCK;
}

bool sigbus_intake_post(const SigbusReport *report)
{
    return false;
}

void sigbus_intake_next(SigbusReport *report)
{
    g_assert_not_reached();
}

void sigbus_intake_answer(SigbusReport *report, SigbusVerdict verdict)
{
}

uint64_t sigbus_intake_taken(void)
{
    return 0;
}

uint64_t sigbus_intake_dropped(void)
{
    return 0;
}
