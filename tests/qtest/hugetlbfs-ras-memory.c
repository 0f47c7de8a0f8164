/*
 * Tests of the recovery from memory failures: what is in guest RAM, and how
 * the kernel maps it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "hugetlbfs-ras-vm.h"

static uint64_t ras_pattern(uint64_t offset, uint64_t seed)
{
    return (offset + 8 + (seed << 40)) * UINT64_C(0x9e3779b97f4a7c15);
}

/* libqtest takes quadratic time for long answers. */
#define CHUNK (64 * KiB)

void ras_pattern_write(RasVm *vm, uint64_t offset, size_t size, uint64_t seed)
{
    uint64_t buf[CHUNK / sizeof(uint64_t)];

    for (size_t n; size; offset += n, size -= n) {
        n = MIN(size, CHUNK);
        for (size_t i = 0; i < n; i += sizeof(uint64_t)) {
            buf[i / sizeof(uint64_t)] = ras_pattern(offset + i, seed);
        }
        qtest_bufwrite(vm->qts, ras_base() + offset, buf, n);
    }
}

void ras_pattern_check(RasVm *vm, uint64_t offset, size_t size, uint64_t seed)
{
    uint64_t buf[CHUNK / sizeof(uint64_t)];

    for (size_t n; size; offset += n, size -= n) {
        n = MIN(size, CHUNK);
        qtest_bufread(vm->qts, ras_base() + offset, buf, n);
        ras_pattern_check_buffer(buf, offset, n, seed);
    }
}

void ras_pattern_check_buffer(const void *buf, uint64_t offset, size_t size,
                              uint64_t seed)
{
    for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
        g_assert_cmphex(ldq_he_p((const char *)buf + i), ==,
                        ras_pattern(offset + i, seed));
    }
}

void ras_zero_check(RasVm *vm, uint64_t offset, size_t size)
{
    uint8_t buf[CHUNK];

    for (size_t n; size; offset += n, size -= n) {
        n = MIN(size, CHUNK);
        qtest_bufread(vm->qts, ras_base() + offset, buf, n);
        for (size_t i = 0; i < n; i += sizeof(uint64_t)) {
            g_assert_cmphex(ldq_he_p(buf + i), ==, 0);
        }
    }
}

char *ras_smaps(RasVm *vm, uint64_t offset)
{
    g_autofree char *hmp = qtest_hmp(vm->qts, "gpa2hva 0x%" PRIx64,
                                      ras_base() + offset);
    g_autofree char *path = g_strdup_printf("/proc/%d/smaps",
                                            (int)qtest_pid(vm->qts));
    const char *at = strstr(hmp, " is ");
    g_auto(GStrv) lines = NULL;
    g_autofree char *text = NULL;
    GString *entry = g_string_new("");
    uint64_t hva, start, end;
    bool inside = false;

    g_assert(at);
    hva = g_ascii_strtoull(at + strlen(" is "), NULL, 16);
    g_assert(g_file_get_contents(path, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        if (sscanf(*line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2) {
            inside = start <= hva && hva < end;
        }
        if (inside) {
            g_string_append_printf(entry, "%s\n", *line);
        }
    }
    g_assert_cmpint(entry->len, >, 0);
    return g_string_free(entry, false);
}

uint64_t ras_kernel_page_size(RasVm *vm, uint64_t offset)
{
    g_autofree char *smaps = ras_smaps(vm, offset);
    const char *line = strstr(smaps, "KernelPageSize:");

    g_assert(line);
    return g_ascii_strtoull(line + strlen("KernelPageSize:"), NULL, 10) * KiB;
}

bool ras_vm_flag(RasVm *vm, uint64_t offset, const char *flag)
{
    g_autofree char *smaps = ras_smaps(vm, offset);
    g_autofree char *word = g_strdup_printf(" %s ", flag);
    const char *line = strstr(smaps, "VmFlags:");

    g_assert(line);
    return strstr(line, word);
}
