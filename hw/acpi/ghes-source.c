/*
 * Error sources of the guest's HEST: their state, and records for them
 *
 * References are to ACPI 6.5, chapter 18 (ACPI), and to UEFI 2.10, appendix N
 * (UEFI).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bcd.h"
#include "qemu/uuid.h"
#include "exec/address-spaces.h"
#include "hw/acpi/acpi_dev_interface.h"
#include "hw/acpi/generic_event_device.h"
#include "hw/acpi/ghes-source.h"
#include "system/hugetlbfs-ras.h"
#include "system/reset.h"

/* ACPI 18.3.2.7.1, Generic Error Status Block: Block Status */
#define GESB_UNCORRECTABLE BIT(0)
#define GESB_MULTIPLE_UNCORRECTABLE BIT(2)
#define GESB_ENTRY_COUNT_SHIFT 4
#define GESB_SIZE 20

/* ACPI 18.3.2.7.1, Generic Error Data Entry */
#define GEDE_SIZE 72
#define GEDE_REVISION 0x300
#define GEDE_TIMESTAMP_VALID BIT(2)
#define TIMESTAMP_PRECISE BIT(0)

/* Both tables: Error Severity */
#define SEVERITY_RECOVERABLE 0

/* UEFI N.2.5, Memory Error Record: size, Validation Bits */
#define MEMORY_ERROR_SIZE 80
#define MEMORY_ADDRESS_VALID BIT(1)
#define MEMORY_ADDRESS_MASK_VALID BIT(2)
#define MEMORY_REQUESTOR_VALID BIT(11)
#define MEMORY_PAGE_SIZE 4096

QEMU_BUILD_BUG_ON(GESB_SIZE + GHES_SOURCE_MAX_PAGES *
                  (GEDE_SIZE + MEMORY_ERROR_SIZE) >
                  ACPI_GHES_MAX_RAW_DATA_LENGTH);

/**
 * GhesSource: where a source is in guest memory, guest-physical
 */
typedef struct GhesSource {
    hwaddr block;
    hwaddr ack;
} GhesSource;

unsigned ghes_source_count(const AcpiGhesState *ags)
{
    return ags->async ? ACPI_GHES_ERROR_SOURCE_COUNT : 1;
}

static AcpiGedState *ghes_ged(void)
{
    Object *ged = object_resolve_path_type("", TYPE_ACPI_GED, NULL);

    return ged ? ACPI_GED(ged) : NULL;
}

/* Until the firmware has written it again this memory is not ours. */
static void ghes_source_reset(void *opaque)
{
    AcpiGhesState *ags = opaque;

    ags->hw_error_le = 0;
}

void ghes_source_init(AcpiGhesState *ags)
{
    qemu_register_reset(ghes_source_reset, ags);
}

/* Touching lost memory would be the end of QEMU. */
static bool ghes_memory_rw(hwaddr addr, void *buf, size_t size, bool is_write)
{
    return !hugetlbfs_ras_lost_at(addr, size) &&
           address_space_rw(&address_space_memory, addr,
                            MEMTXATTRS_UNSPECIFIED, buf, size,
                            is_write) == MEMTX_OK;
}

/*
 * See docs/specs/acpi_hest_ghes.rst: an address for each source, then an
 * acknowledgement for each.
 */
static bool ghes_source_locate(const AcpiGhesState *ags, uint16_t source_id,
                               GhesSource *source)
{
    hwaddr base = le64_to_cpu(ags->hw_error_le);
    uint64_t block;

    if (!base || !ghes_memory_rw(base + source_id * sizeof(block), &block,
                                 sizeof(block), false)) {
        return false;
    }
    source->block = le64_to_cpu(block);
    source->ack = base + (ghes_source_count(ags) + source_id) * sizeof(block);
    return source->block;
}

static GhesSourceState ghes_source_find(uint16_t source_id, GhesSource *source)
{
    AcpiGedState *ged = ghes_ged();
    uint64_t ack;

    if (!ged || !ged->ghes_state.present ||
        source_id >= ghes_source_count(&ged->ghes_state)) {
        return GHES_SOURCE_ABSENT;
    }
    if (!ghes_source_locate(&ged->ghes_state, source_id, source) ||
        !ghes_memory_rw(source->ack, &ack, sizeof(ack), false)) {
        return GHES_SOURCE_UNSET;
    }
    /* ACPI 18.3.2.8, Read Ack Write: the table says bit 0 */
    return le64_to_cpu(ack) & 1 ? GHES_SOURCE_READY : GHES_SOURCE_BUSY;
}

GhesSourceState ghes_source_state(uint16_t source_id)
{
    GhesSource source;

    return ghes_source_find(source_id, &source);
}

/* ACPI 18.3.2.7.1, Generic Error Data Entry: Timestamp, in BCD */
static void ghes_append_timestamp(GArray *block, bool precise)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    const uint8_t fields[] = {
        to_bcd(g_date_time_get_second(now)),
        to_bcd(g_date_time_get_minute(now)),
        to_bcd(g_date_time_get_hour(now)),
        precise ? TIMESTAMP_PRECISE : 0,
        to_bcd(g_date_time_get_day_of_month(now)),
        to_bcd(g_date_time_get_month(now)),
        to_bcd(g_date_time_get_year(now) % 100),
        to_bcd(g_date_time_get_year(now) / 100),
    };

    g_array_append_vals(block, fields, sizeof(fields));
}

/* ACPI 18.3.2.7.1, Generic Error Data Entry */
static void ghes_append_data_entry(GArray *block, bool precise)
{
    /* UEFI N.2.2, Section Descriptor, Section Type: Memory */
    static const uint8_t memory[] =
        UUID_LE(0xa5bc1114, 0x6f64, 0x4ede, 0xb8, 0x63, 0x3e, 0x83, 0xed, 0x7c,
                0x83, 0xb1);

    g_array_append_vals(block, memory, sizeof(memory));
    build_append_int_noprefix(block, SEVERITY_RECOVERABLE, 4);
    build_append_int_noprefix(block, GEDE_REVISION, 2);
    build_append_int_noprefix(block, GEDE_TIMESTAMP_VALID, 1);
    build_append_int_noprefix(block, 0 /* Flags */, 1);
    build_append_int_noprefix(block, MEMORY_ERROR_SIZE, 4);
    acpi_data_push(block, 16 /* FRU Id */ + 20 /* FRU Text */);
    ghes_append_timestamp(block, precise);
}

/*
 * UEFI N.2.5.  The host kernel tells no more than an address, so no property
 * of the hardware is valid, not even the type.
 *
 * The Requestor ID also makes records distinct.  Linux ignores one that it
 * knows, byte by byte, for ten seconds; if it came with an exception the task
 * is then told no address.
 */
static void ghes_append_memory_error(GArray *block, hwaddr gpa,
                                     const uint64_t *toucher)
{
    size_t start = block->len;

    build_append_int_noprefix(block, MEMORY_ADDRESS_VALID |
                              MEMORY_ADDRESS_MASK_VALID |
                              (toucher ? MEMORY_REQUESTOR_VALID : 0), 8);
    build_append_int_noprefix(block, 0 /* Error Status */, 8);
    build_append_int_noprefix(block, gpa, 8);
    build_append_int_noprefix(block, -(uint64_t)MEMORY_PAGE_SIZE, 8);
    acpi_data_push(block, 16 /* Node to Bit Position */);
    build_append_int_noprefix(block, toucher ? *toucher : 0, 8);
    acpi_data_push(block, start + MEMORY_ERROR_SIZE - block->len);
}

/* ACPI 18.3.2.7.1, Generic Error Status Block, with an entry for each page */
static GArray *ghes_memory_errors_block(const hwaddr *gpas, size_t count,
                                        const uint64_t *toucher)
{
    GArray *block = g_array_new(false, true, 1);

    build_append_int_noprefix(block, GESB_UNCORRECTABLE |
                              (count > 1 ? GESB_MULTIPLE_UNCORRECTABLE : 0) |
                              count << GESB_ENTRY_COUNT_SHIFT, 4);
    build_append_int_noprefix(block, 0 /* Raw Data Offset */, 4);
    build_append_int_noprefix(block, 0 /* Raw Data Length */, 4);
    build_append_int_noprefix(block, count * (GEDE_SIZE + MEMORY_ERROR_SIZE),
                              4);
    build_append_int_noprefix(block, SEVERITY_RECOVERABLE, 4);
    for (size_t i = 0; i < count; i++) {
        ghes_append_data_entry(block, toucher);
        ghes_append_memory_error(block, gpas[i], toucher);
    }
    return block;
}

/* A guest may look at any moment, since Linux polls whatever we notify. */
static bool ghes_source_write(const GhesSource *source, GArray *block)
{
    const size_t status = sizeof(uint32_t);
    uint64_t ack = 0;

    if (hugetlbfs_ras_lost_at(source->block, block->len) ||
        !ghes_memory_rw(source->ack, &ack, sizeof(ack), true)) {
        return false;
    }
    /* The acknowledgement is gone before the block changes ... */
    smp_wmb();
    if (!ghes_memory_rw(source->block + status, block->data + status,
                        block->len - status, true)) {
        return false;
    }
    /* ... and the status makes it valid when all of it is there. */
    smp_wmb();
    return ghes_memory_rw(source->block, block->data, status, true);
}

size_t ghes_source_memory_errors(uint16_t source_id, const hwaddr *gpas,
                                 size_t count, const uint64_t *toucher)
{
    g_autoptr(GArray) block = NULL;
    GhesSource source;

    if (ghes_source_find(source_id, &source) != GHES_SOURCE_READY) {
        return 0;
    }
    count = MIN(count, GHES_SOURCE_MAX_PAGES);
    block = ghes_memory_errors_block(gpas, count, toucher);
    if (!ghes_source_write(&source, block)) {
        return 0;
    }
    if (source_id == ACPI_HEST_SRC_ID_ASYNC) {
        acpi_send_event(DEVICE(ghes_ged()), ACPI_GENERIC_ERROR);
    }
    return count;
}

uint32_t ghes_source_ged_event(const AcpiGhesState *ags)
{
    return ags->async ? ACPI_GED_ERROR_EVT : 0;
}

Aml *ghes_source_aml_device(void)
{
    Aml *dev = aml_device(ACPI_ERROR_DEVICE);

    aml_append(dev, aml_name_decl("_HID", aml_string("PNP0C33")));
    aml_append(dev, aml_name_decl("_UID", aml_int(0)));
    return dev;
}
