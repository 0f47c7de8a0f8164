/*
 * Error sources of the guest's HEST, for a QEMU without APEI
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/acpi/ghes-source.h"

GhesSourceState ghes_source_state(uint16_t source_id)
{
    return GHES_SOURCE_ABSENT;
}

size_t ghes_source_memory_errors(uint16_t source_id, const hwaddr *gpas,
                                 size_t count, const uint64_t *toucher)
{
    return 0;
}

uint32_t ghes_source_ged_event(const AcpiGhesState *ags)
{
    return 0;
}

Aml *ghes_source_aml_device(void)
{
    g_assert_not_reached();
}
