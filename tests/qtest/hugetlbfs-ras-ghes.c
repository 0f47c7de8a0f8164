/*
 * Tests of the recovery from memory failures: a guest with error sources
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bcd.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/timer.h"
#include "hugetlbfs-ras-ghes.h"

/* ACPI 18.3.2.7.1 */
#define GESB_SIZE 20
#define GEDE_SIZE 72
#define SECTION_SIZE (GEDE_SIZE + 80)

bool guest_start(Guest *g, const char *args)
{
    *g = (Guest) { .vm = ras_vm_start("", args), .sources = SOURCES };
    return g->vm;
}

bool guest_start_sea_only(Guest *g)
{
    guest_start(g, "-global acpi-ged.x-ghes-async=off");
    g->sources = 1;
    return g->vm;
}

void guest_boot(Guest *g)
{
    g->files = ras_firmware_run(g->vm);
    g->errors = ras_firmware_file(g->files, "etc/hardware_errors");
}

void guest_quit(Guest *g)
{
    g_clear_pointer(&g->files, g_hash_table_unref);
    ras_vm_quit(g->vm);
}

uint64_t guest_ack_at(Guest *g, int source)
{
    return g->errors + 8 * (g->sources + source);
}

bool guest_acknowledged(Guest *g, int source)
{
    return qtest_readq(g->vm->qts, guest_ack_at(g, source));
}

void guest_acknowledge(Guest *g, int source)
{
    qtest_writel(g->vm->qts, qtest_readq(g->vm->qts, g->errors + 8 * source),
                 0);
    qtest_writeq(g->vm->qts, guest_ack_at(g, source), 1);
}

void guest_block_read(Guest *g, int source, uint8_t *block)
{
    qtest_memread(g->vm->qts, qtest_readq(g->vm->qts, g->errors + 8 * source),
                  block, BLOCK_SIZE);
}

void guest_expect_events(Guest *g, bool action_required)
{
    QDict *event, *flags;

    ras_event_wait(g->vm, "MEMORY_FAILURE", g->told);
    g_assert_cmpint(ras_event_count(g->vm, "MEMORY_FAILURE"), ==, g->told);
    event = ras_event_last(g->vm, "MEMORY_FAILURE");
    flags = qdict_get_qdict(event, "flags");
    g_assert_cmpstr(qdict_get_str(event, "recipient"), ==, "guest");
    g_assert_cmpstr(qdict_get_str(event, "action"), ==, "inject");
    g_assert(qdict_get_bool(flags, "action-required") == action_required);
}

/* The time is now, give or take what the test takes. */
static void expect_timestamp(const uint8_t *stamp)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autoptr(GDateTime) then = g_date_time_new_utc(
        from_bcd(stamp[7]) * 100 + from_bcd(stamp[6]), from_bcd(stamp[5]),
        from_bcd(stamp[4]), from_bcd(stamp[2]), from_bcd(stamp[1]),
        from_bcd(stamp[0]));

    g_assert(then);
    g_assert_cmpint(ABS(g_date_time_difference(now, then)), <,
                    60 * G_TIME_SPAN_SECOND);
}

/* ACPI 18.3.2.7.1 Generic Error Data Entry, UEFI N.2.5 Memory Error Section */
static void expect_section(int source, const uint8_t *section,
                           uint64_t offset)
{
    static const uint8_t expected[GEDE_SIZE] = {
        0x14, 0x11, 0xbc, 0xa5, 0x64, 0x6f, 0xde, 0x4e,
        0xb8, 0x63, 0x3e, 0x83, 0xed, 0x7c, 0x83, 0xb1,
        0, 0, 0, 0,             /* Error Severity: recoverable */
        0x00, 0x03,             /* Revision */
        4,                      /* Validation Bits: timestamp */
        0,                      /* Flags */
        80, 0, 0, 0,            /* Error Data Length */
    };
    const int stamp = GEDE_SIZE - 8;

    g_assert(!memcmp(section, expected, stamp));
    expect_timestamp(section + stamp);
    g_assert_cmpint(section[stamp + 3], ==, source == SEA); /* precise */
    section += GEDE_SIZE;
    /* Address, its mask, and who touched it: the affinity of CPU 0 is 0 */
    g_assert_cmphex(ldq_le_p(section), ==,
                    1 << 1 | 1 << 2 | (source == SEA ? 1 << 11 : 0));
    g_assert_cmphex(ldq_le_p(section + 8), ==, 0);
    g_assert_cmphex(ldq_le_p(section + 16), ==, ras_base() + offset);
    g_assert_cmphex(ldq_le_p(section + 24), ==, ~UINT64_C(4095));
    for (int i = 32; i < 80; i++) {
        g_assert_cmphex(section[i], ==, 0);
    }
}

void guest_expect_block(Guest *g, int source, const uint64_t *offsets, int n)
{
    uint8_t block[BLOCK_SIZE];

    g->told += n;
    guest_expect_events(g, source == SEA);
    g_assert_false(guest_acknowledged(g, source));
    guest_block_read(g, source, block);
    /* Block Status: uncorrectable, several of them, how many entries */
    g_assert_cmphex(ldl_le_p(block), ==, 1 | (n > 1 ? 4 : 0) | n << 4);
    g_assert_cmphex(ldl_le_p(block + 4), ==, 0);
    g_assert_cmphex(ldl_le_p(block + 8), ==, 0);
    g_assert_cmphex(ldl_le_p(block + 12), ==, n * SECTION_SIZE);
    g_assert_cmphex(ldl_le_p(block + 16), ==, 0);
    for (int i = 0; i < n; i++) {
        expect_section(source, block + GESB_SIZE + i * SECTION_SIZE,
                       offsets[i]);
    }
}

void guest_touch(Guest *g, uint64_t offset)
{
    ras_inject(g->vm, &offset, 1, true);
}

void guest_expect_touched(Guest *g, uint64_t offset)
{
    guest_expect_block(g, SEA, &offset, 1);
}

void guest_expect_quiet(Guest *g, int64_t guest_ms)
{
    for (int i = 0; i < 10; i++) {
        qtest_clock_step(g->vm->qts, guest_ms * 100 * 1000);
        g_usleep(10 * 1000);
    }
    g_assert_cmpint(ras_event_count(g->vm, "MEMORY_FAILURE"), ==, g->told);
    g_assert_cmpint(ras_event_count(g->vm, "RESET"), ==, 0);
}

void guest_tell(Guest *g)
{
    qtest_clock_step(g->vm->qts, NANOSECONDS_PER_SECOND);
}

uint64_t guest_pc(Guest *g)
{
    g_autofree char *text = qtest_hmp(g->vm->qts, "info registers");
    const char *pc = strstr(text, " PC=");

    g_assert(pc);
    return g_ascii_strtoull(pc + strlen(" PC="), NULL, 16);
}

void guest_expect_errors_file(Guest *g)
{
    uint64_t block = g->errors + 16 * g->sources;

    for (int i = 0; i < g->sources; i++, block += BLOCK_SIZE) {
        uint8_t data[BLOCK_SIZE];

        g_assert_cmphex(qtest_readq(g->vm->qts, g->errors + 8 * i), ==, block);
        g_assert_cmphex(qtest_readq(g->vm->qts, guest_ack_at(g, i)), ==, 1);
        guest_block_read(g, i, data);
        g_assert(buffer_is_zero(data, sizeof(data)));
    }
}
