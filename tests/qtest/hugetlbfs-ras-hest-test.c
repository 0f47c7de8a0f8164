/*
 * Tests of the recovery from memory failures: the ACPI tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "hugetlbfs-ras-ghes.h"

static void put(GByteArray *bytes, int size, uint64_t value)
{
    value = cpu_to_le64(value);
    g_byte_array_append(bytes, (uint8_t *)&value, size);
}

/* ACPI 5.2.3.2 Generic Address Structure: 64 bits of memory */
static void put_gas(GByteArray *bytes, uint64_t address)
{
    put(bytes, 1, 0);
    put(bytes, 1, 64);
    put(bytes, 1, 0);
    put(bytes, 1, 4);
    put(bytes, 8, address);
}

/* ACPI 18.3.2.8 Generic Hardware Error Source version 2 */
static void put_source(Guest *g, GByteArray *bytes, int source)
{
    /* ACPI 18.3.2.9 Hardware Error Notification, Type: SEA, GPIO signal */
    static const uint8_t notify[] = { [SEA] = 8, [ASYNC] = 7 };

    put(bytes, 2, 10);                      /* Type */
    put(bytes, 2, source);                  /* Source Id */
    put(bytes, 2, 0xffff);                  /* Related Source Id: none */
    put(bytes, 1, 0);                       /* Flags */
    put(bytes, 1, 1);                       /* Enabled */
    put(bytes, 4, 1);                       /* Records To Pre-allocate */
    put(bytes, 4, source == SEA ? 1 : MAX_SECTIONS); /* Sections Per Record */
    put(bytes, 4, BLOCK_SIZE);              /* Max Raw Data Length */
    put_gas(bytes, g->errors + 8 * source); /* Error Status Address */
    put(bytes, 1, notify[source]);
    put(bytes, 1, 28);
    for (int i = 2; i < 28; i++) {
        put(bytes, 1, 0);                   /* no polling, no thresholds */
    }
    put(bytes, 4, BLOCK_SIZE);              /* Error Status Block Length */
    put_gas(bytes, guest_ack_at(g, source));      /* Read Ack Register */
    put(bytes, 8, ~UINT64_C(1));            /* Read Ack Preserve */
    put(bytes, 8, 1);                       /* Read Ack Write */
}

static void expect_hest(Guest *g)
{
    /* ACPI 5.2.6 header, 18.3.2 Error Source Count */
    const int header = 36;
    g_autoptr(GByteArray) expected = g_byte_array_new();
    g_autofree uint8_t *hest = NULL;
    uint8_t sum = 0;
    size_t size;

    put(expected, 4, g->sources);
    for (int i = 0; i < g->sources; i++) {
        put_source(g, expected, i);
    }
    hest = ras_firmware_table(g->vm, g->files, "HEST", &size);
    g_assert(hest);
    g_assert_cmpint(hest[8], ==, 1);        /* Revision */
    g_assert_cmpmem(hest + header, size - header, expected->data,
                    expected->len);
    for (size_t i = 0; i < size; i++) {
        sum += hest[i];
    }
    g_assert_cmpint(sum, ==, 0);
}

/* Runs iasl -d on a table; returns what it makes of it. */
static char *disassemble(Guest *g, const char *signature)
{
    g_autofree char *dir = g_dir_make_tmp("hugetlbfs-ras-XXXXXX", NULL);
    g_autofree char *aml = g_build_filename(dir, "table.aml", NULL);
    g_autofree char *dsl = g_build_filename(dir, "table.dsl", NULL);
    const char *argv[] = { "iasl", "-d", aml, NULL };
    g_autofree char *output = NULL;
    g_autofree void *table = NULL;
    char *text = NULL;
    size_t size;
    int status;

    table = ras_firmware_table(g->vm, g->files, signature, &size);
    g_assert(table);
    g_assert(g_file_set_contents(aml, table, size, NULL));
    g_assert(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH |
                          G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &output,
                          NULL, &status, NULL));
    g_test_message("%s", output);
    g_assert_cmpint(status, ==, 0);
    g_assert(g_file_get_contents(dsl, &text, NULL, NULL));
    unlink(aml);
    unlink(dsl);
    rmdir(dir);
    return text;
}

static void expect_lines(const char *text, const char *const *lines)
{
    g_auto(GStrv) words = g_strsplit_set(text, " \t\n", -1);
    g_autoptr(GString) flat = g_string_new("");

    for (char **word = words; *word; word++) {
        if (**word) {
            g_string_append_printf(flat, "%s ", *word);
        }
    }
    for (; *lines; lines++) {
        if (!strstr(flat->str, *lines)) {
            fprintf(stderr, "no '%s' in:\n%s\n", *lines, text);
            g_assert_not_reached();
        }
    }
}

static void test_disassembly(void)
{
    static const char *const hest[] = {
        "Error Source Count : 00000002",
        "Subtable Type : 000A [Generic Hardware Error Source V2]",
        "Notify Type : 08 [SEA]", "Notify Type : 07 [GPIO]", NULL,
    };
    static const char *const dsdt[] = {
        "Device (GEDD) { Name (_HID, \"PNP0C33\"",
        "If (((Local0 & 0x10) == 0x10)) { Notify (GEDD, 0x80)", NULL,
    };
    g_autofree char *iasl = g_find_program_in_path("iasl");
    g_autofree char *text = NULL;
    Guest g;

    if (!iasl) {
        g_test_skip("no iasl (package acpica-tools)");
        return;
    }
    if (!guest_start(&g, "")) {
        return;
    }
    guest_boot(&g);
    text = disassemble(&g, "HEST");
    expect_lines(text, hest);
    g_free(text);
    text = disassemble(&g, "DSDT");
    expect_lines(text, dsdt);
    guest_quit(&g);
}

static void test_tables(void)
{
    Guest g;

    if (!guest_start(&g, "")) {
        return;
    }
    guest_boot(&g);
    expect_hest(&g);
    guest_expect_errors_file(&g);
    guest_quit(&g);
}

/* Its tables are read by guests that run, and migrate. */
static void test_old_machine(void)
{
    const uint64_t at[] = { PAGE(0) };
    g_autofree char *dsdt = NULL;
    Guest g;
    size_t size;

    if (!guest_start(&g, "-machine virt-10.0")) {
        return;
    }
    g.sources = 1;
    guest_boot(&g);
    expect_hest(&g);
    guest_expect_errors_file(&g);
    dsdt = ras_firmware_table(g.vm, g.files, "DSDT", &size);
    g_assert(!memmem(dsdt, size, "GEDD", 4));

    ras_inject(g.vm, at, 1, false);
    guest_tell(&g);
    guest_expect_quiet(&g, 1000);
    g_assert_cmpint(ras_vm_log_count(g.vm, "this guest cannot be told of lost "
                                     "memory that it does not touch"), ==, 1);
    g_assert_cmpint(ras_untold(g.vm), ==, 1);
    guest_touch(&g, PAGE(0));
    guest_expect_touched(&g, PAGE(0));
    guest_quit(&g);
}

void ras_add_hest_tests(void)
{
    qtest_add_func("/hugetlbfs-ras/hest/tables", test_tables);
    qtest_add_func("/hugetlbfs-ras/hest/disassembly", test_disassembly);
    qtest_add_func("/hugetlbfs-ras/hest/old-machine", test_old_machine);
}
