/*
 * Tests of the recovery from memory failures: an Arm guest is told
 *
 * The test is the guest: it loads the tables, reads the blocks of the error
 * sources, and acknowledges them or not.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "hugetlbfs-ras-ghes.h"

static void test_touched(void)
{
    Guest g;

    if (!guest_start(&g, "")) {
        return;
    }
    guest_boot(&g);
    g_assert_cmphex(guest_pc(&g), ==, 0);
    guest_touch(&g, PAGE(0));
    guest_expect_touched(&g, PAGE(0));
    /* Vector of a synchronous exception from the same EL, VBAR is 0 */
    g_assert_cmphex(guest_pc(&g), ==, 0x200);
    g_assert_cmpint(ras_untold(g.vm), ==, 0);
    g_assert_true(guest_acknowledged(&g, ASYNC));

    guest_acknowledge(&g, SEA);
    guest_touch(&g, PAGE(1));
    guest_expect_touched(&g, PAGE(1));
    guest_expect_quiet(&g, 1000);
    guest_quit(&g);
}

/* The guest was told of PAGE(0); @before: the block of that record */
static bool start_unacknowledged(Guest *g, uint8_t *before)
{
    if (!guest_start_sea_only(g)) {
        return false;
    }
    guest_boot(g);
    guest_touch(g, PAGE(0));
    guest_expect_touched(g, PAGE(0));
    guest_block_read(g, SEA, before);
    return true;
}

static void test_late(void)
{
    uint8_t before[BLOCK_SIZE], after[BLOCK_SIZE];
    Guest g;

    if (!start_unacknowledged(&g, before)) {
        return;
    }
    guest_touch(&g, PAGE(1));
    guest_expect_quiet(&g, 900);
    guest_block_read(&g, SEA, after);
    g_assert(!memcmp(before, after, sizeof(before)));
    g_assert_cmpint(ras_untold(g.vm), ==, 1);

    guest_acknowledge(&g, SEA);
    guest_expect_touched(&g, PAGE(1));
    guest_acknowledge(&g, SEA);
    guest_acknowledge(&g, SEA);
    guest_expect_quiet(&g, 2000);
    g_assert_cmpint(ras_vm_log_count(g.vm, "did not acknowledge"), ==, 0);
    guest_quit(&g);
}

/* The guest does not acknowledge, so the touch is told without an address. */
static void touch_unnamed(Guest *g, uint64_t offset)
{
    guest_touch(g, offset);
    guest_expect_quiet(g, 900);
    qtest_clock_step(g->vm->qts, NANOSECONDS_PER_SECOND / 5);
    g->told++;
    guest_expect_events(g, true);
}

static void test_never(void)
{
    uint8_t before[BLOCK_SIZE], after[BLOCK_SIZE];
    Guest g;

    if (!start_unacknowledged(&g, before)) {
        return;
    }
    for (int i = 1; i < 4; i++) {
        touch_unnamed(&g, PAGE(i));
        g_assert_cmpint(ras_vm_log_count(g.vm, "did not acknowledge its "
                                         "previous error for 1 s"), ==, i);
        guest_block_read(&g, SEA, after);
        g_assert(!memcmp(before, after, sizeof(before)));
    }
    g_assert_cmpint(ras_untold(g.vm), ==, 3);
    guest_quit(&g);
}

/* The guest was told of @offset, which nobody touched. */
static bool start_unacknowledged_async(Guest *g, const uint64_t *offset)
{
    if (!guest_start(g, "")) {
        return false;
    }
    guest_boot(g);
    ras_inject(g->vm, offset, 1, false);
    guest_tell(g);
    guest_expect_block(g, ASYNC, offset, 1);
    return true;
}

/* The address that an access was not told follows when it can. */
static void test_later(void)
{
    const uint64_t at[] = { PAGE(4), PAGE(1) };
    Guest g;

    if (!start_unacknowledged_async(&g, at)) {
        return;
    }
    guest_touch(&g, PAGE(0));
    guest_expect_touched(&g, PAGE(0));
    touch_unnamed(&g, PAGE(1));
    g_assert_cmpint(ras_untold(g.vm), ==, 1);
    guest_acknowledge(&g, ASYNC);
    guest_tell(&g);
    guest_expect_block(&g, ASYNC, at + 1, 1);
    g_assert_cmpint(ras_untold(g.vm), ==, 0);
    guest_quit(&g);
}

/* A second is a second of the guest: it does not pass while it stands still */
static void test_paused(void)
{
    Guest g;

    if (!guest_start_sea_only(&g)) {
        return;
    }
    guest_boot(&g);
    guest_touch(&g, PAGE(0));
    guest_expect_touched(&g, PAGE(0));
    guest_touch(&g, PAGE(1));
    guest_expect_quiet(&g, 500);
    qobject_unref(ras_qmp(g.vm, "{ 'execute': 'stop' }"));
    g_usleep(1100 * 1000);
    qobject_unref(ras_qmp(g.vm, "{ 'execute': 'cont' }"));
    guest_expect_quiet(&g, 400);
    guest_acknowledge(&g, SEA);
    guest_expect_touched(&g, PAGE(1));
    guest_quit(&g);
}

static void test_untouched(void)
{
    /* In the ledger's order, which is that of the addresses */
    uint64_t at[MAX_SECTIONS + 2];
    Guest g;

    if (!guest_start(&g, "")) {
        return;
    }
    guest_boot(&g);
    for (int i = 0; i < ARRAY_SIZE(at); i++) {
        at[i] = PAGE(i);
    }
    g_assert_cmphex(qtest_readl(g.vm->qts, GED_SELECTOR), ==, 0);
    ras_inject(g.vm, at, ARRAY_SIZE(at), false);
    guest_tell(&g);
    guest_expect_block(&g, ASYNC, at, MAX_SECTIONS);
    g_assert_cmphex(qtest_readl(g.vm->qts, GED_SELECTOR), ==, GED_ERROR);
    g_assert_cmpint(ras_untold(g.vm), ==, 2);
    guest_expect_quiet(&g, 5000);
    g_assert_cmphex(qtest_readl(g.vm->qts, GED_SELECTOR), ==, 0);
    g_assert_true(guest_acknowledged(&g, SEA));
    g_assert_cmphex(guest_pc(&g), ==, 0);

    guest_acknowledge(&g, ASYNC);
    guest_tell(&g);
    guest_expect_block(&g, ASYNC, at + MAX_SECTIONS, 2);
    g_assert_cmphex(qtest_readl(g.vm->qts, GED_SELECTOR), ==, GED_ERROR);
    guest_acknowledge(&g, ASYNC);
    guest_expect_quiet(&g, 5000);
    g_assert_cmpint(ras_untold(g.vm), ==, 0);
    guest_quit(&g);
}

/* What was touched need not be told once more, and waits for no other ack. */
static void test_both(void)
{
    const uint64_t at[] = { PAGE(0), PAGE(1), PAGE(2) };
    Guest g;

    if (!start_unacknowledged_async(&g, at)) {
        return;
    }
    ras_inject(g.vm, at + 1, 2, false);
    guest_touch(&g, PAGE(1));
    guest_expect_touched(&g, PAGE(1));
    guest_expect_quiet(&g, 5000);
    guest_acknowledge(&g, ASYNC);
    guest_tell(&g);
    guest_expect_block(&g, ASYNC, at + 2, 1);
    guest_quit(&g);
}

/* After a reset the firmware has to say anew where the blocks are. */
static void test_reset(void)
{
    uint8_t before[BLOCK_SIZE], after[BLOCK_SIZE];
    const uint64_t at[] = { PAGE(2) };
    Guest g;

    if (!guest_start(&g, "")) {
        return;
    }
    guest_boot(&g);
    guest_touch(&g, PAGE(0));
    guest_expect_touched(&g, PAGE(0));
    guest_touch(&g, PAGE(1));
    ras_reset(g.vm);
    ras_expect_no_pages(g.vm);
    ras_events_clear(g.vm);
    g.told = 0;
    guest_expect_quiet(&g, 2000);

    guest_block_read(&g, ASYNC, before);
    ras_inject(g.vm, at, 1, false);
    guest_tell(&g);
    guest_expect_quiet(&g, 5000);
    guest_block_read(&g, ASYNC, after);
    g_assert(!memcmp(before, after, sizeof(before)));
    g_assert_cmpint(ras_untold(g.vm), ==, 1);

    g_hash_table_unref(g.files);
    guest_boot(&g);
    guest_expect_errors_file(&g);
    guest_tell(&g);
    guest_expect_block(&g, ASYNC, at, 1);
    guest_touch(&g, PAGE(3));
    guest_expect_touched(&g, PAGE(3));
    guest_quit(&g);
}

/* A guest that knows nothing gets the exception alone, as often as it takes. */
static void test_no_records(gconstpointer args)
{
    Guest g;

    if (!guest_start(&g, args)) {
        return;
    }
    for (int i = 0; i < 3; i++) {
        guest_touch(&g, PAGE(i));
        g.told++;
        guest_expect_events(&g, true);
        g_assert_cmphex(guest_pc(&g), ==, 0x200);
    }
    guest_expect_quiet(&g, 2000);
    g_assert_cmpint(ras_untold(g.vm), ==, 0);
    guest_quit(&g);
}

/* The blocks are in lost memory themselves. */
static void test_lost_block(void)
{
    const uint64_t firmware = QEMU_ALIGN_DOWN(RAS_FIRMWARE_AT, SMALL_PAGE);
    const uint64_t pages = RAS_FIRMWARE_SIZE / SMALL_PAGE;
    uint64_t at[RAS_FIRMWARE_SIZE / SMALL_PAGE];
    Guest g;

    if (!guest_start(&g, "")) {
        return;
    }
    guest_boot(&g);
    for (uint64_t i = 0; i < pages; i++) {
        at[i] = firmware + i * SMALL_PAGE;
    }
    ras_inject(g.vm, at, pages, false);
    guest_tell(&g);
    guest_expect_quiet(&g, 2000);
    for (int i = 0; i < 2; i++) {
        guest_touch(&g, PAGE(i));
        g.told++;
        guest_expect_events(&g, true);
    }
    guest_quit(&g);
}

/* Returns: @g without its machine, which is in the file @uri now. */
static Guest leave(Guest *g, const char *uri)
{
    Guest left = *g;

    qobject_unref(ras_qmp(g->vm, "{ 'execute': 'migrate',"
                          "  'arguments': { 'uri': %s } }", uri));
    ras_event_wait(g->vm, "STOP", 1);
    g->files = NULL;
    guest_quit(g);
    return left;
}

/* The guest knows its tables, the new QEMU where they are and all that came. */
static void test_migrated(void)
{
    g_autofree char *file = g_strdup_printf("%s/hugetlbfs-ras-%d",
                                            g_get_tmp_dir(), getpid());
    g_autofree char *uri = g_strdup_printf("file:%s", file);
    const uint64_t at[] = { PAGE(0), PAGE(1) };
    Guest g, left;

    if (!guest_start(&g, "")) {
        return;
    }
    guest_boot(&g);
    left = leave(&g, uri);
    g_assert_true(guest_start(&g, "-incoming defer"));
    qobject_unref(ras_qmp(g.vm, "{ 'execute': 'migrate-incoming',"
                          "  'arguments': { 'uri': %s } }", uri));
    ras_event_wait(g.vm, "RESUME", 1);
    unlink(file);
    g.files = left.files;
    g.errors = left.errors;
    guest_expect_errors_file(&g);

    ras_inject(g.vm, at, 1, false);
    guest_tell(&g);
    guest_expect_block(&g, ASYNC, at, 1);
    guest_touch(&g, PAGE(1));
    guest_expect_touched(&g, PAGE(1));
    guest_acknowledge(&g, ASYNC);
    guest_expect_quiet(&g, 2000);
    g_assert_cmpint(ras_untold(g.vm), ==, 0);
    guest_quit(&g);
}

void ras_add_ghes_tests(void)
{
    ras_add_hest_tests();
    qtest_add_func("/hugetlbfs-ras/ghes/touched", test_touched);
    qtest_add_func("/hugetlbfs-ras/ghes/ack/late", test_late);
    qtest_add_func("/hugetlbfs-ras/ghes/ack/never", test_never);
    qtest_add_func("/hugetlbfs-ras/ghes/ack/later", test_later);
    qtest_add_func("/hugetlbfs-ras/ghes/ack/paused", test_paused);
    qtest_add_func("/hugetlbfs-ras/ghes/untouched", test_untouched);
    qtest_add_func("/hugetlbfs-ras/ghes/both", test_both);
    qtest_add_func("/hugetlbfs-ras/ghes/reset", test_reset);
    qtest_add_func("/hugetlbfs-ras/ghes/migrated", test_migrated);
    qtest_add_func("/hugetlbfs-ras/ghes/lost-block", test_lost_block);
    qtest_add_data_func("/hugetlbfs-ras/ghes/none/no-firmware", "",
                        test_no_records);
    qtest_add_data_func("/hugetlbfs-ras/ghes/none/ras-off",
                        "-machine ras=off", test_no_records);
    qtest_add_data_func("/hugetlbfs-ras/ghes/none/acpi-off",
                        "-machine acpi=off", test_no_records);
}
