/*
 * Tests of the recovery from memory failures: what firmware does for ACPI
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/qemu_fw_cfg.h"
#include "hugetlbfs-ras-firmware.h"

/* VIRT_FW_CFG of hw/arm/virt.c; docs/specs/fw_cfg.rst: the DMA register */
#define FW_CFG_DMA (0x09020000 + 16)

/* Scratch memory: a DMA descriptor, and one buffer behind it */
#define SCRATCH (RAS_FIRMWARE_AT - 64 * KiB)
#define BUFFER (SCRATCH + 4 * KiB)

/* BiosLinkerLoaderEntry of hw/acpi/bios-linker-loader.c */
enum { ALLOCATE = 1, ADD_POINTER, ADD_CHECKSUM, WRITE_POINTER };

typedef struct LoaderEntry {
    uint32_t command;
    char file[FW_CFG_MAX_FILE_PATH];
    union {
        struct {
            uint32_t align;
            uint8_t zone;
        } QEMU_PACKED allocate;
        struct {
            char source[FW_CFG_MAX_FILE_PATH];
            uint32_t offset;
            uint8_t size;
        } QEMU_PACKED pointer;
        struct {
            uint32_t offset;
            uint32_t start;
            uint32_t length;
        } QEMU_PACKED checksum;
        struct {
            char source[FW_CFG_MAX_FILE_PATH];
            uint32_t offset;
            uint32_t source_offset;
            uint8_t size;
        } QEMU_PACKED write;
        char pad[124 - FW_CFG_MAX_FILE_PATH];
    };
} QEMU_PACKED LoaderEntry;

QEMU_BUILD_BUG_ON(sizeof(LoaderEntry) != 128);

typedef struct Firmware {
    RasVm *vm;
    GHashTable *files;
    uint64_t next;
} Firmware;

static void fw_dma(RasVm *vm, uint32_t control, uint64_t gpa, uint32_t length)
{
    struct fw_cfg_dma_access access = {
        .control = cpu_to_be32(control),
        .length = cpu_to_be32(length),
        .address = cpu_to_be64(gpa),
    };

    qtest_memwrite(vm->qts, ras_base() + SCRATCH, &access, sizeof(access));
    qtest_writeq(vm->qts, FW_CFG_DMA, cpu_to_be64(ras_base() + SCRATCH));
    qtest_memread(vm->qts, ras_base() + SCRATCH, &access, sizeof(access));
    g_assert_cmphex(access.control, ==, 0);
}

static void fw_read(RasVm *vm, uint16_t key, uint64_t gpa, uint32_t length)
{
    fw_dma(vm, key << 16 | FW_CFG_DMA_CTL_SELECT | FW_CFG_DMA_CTL_READ, gpa,
           length);
}

/* Key of a file; sets its size. */
static uint16_t fw_find(RasVm *vm, const char *name, uint32_t *size)
{
    struct fw_cfg_file file;
    uint32_t count;

    fw_read(vm, FW_CFG_FILE_DIR, ras_base() + BUFFER, 32 * KiB);
    qtest_memread(vm->qts, ras_base() + BUFFER, &count, sizeof(count));
    for (uint32_t i = 0; i < be32_to_cpu(count); i++) {
        qtest_memread(vm->qts, ras_base() + BUFFER + sizeof(count) +
                      i * sizeof(file), &file, sizeof(file));
        if (!strcmp(file.name, name)) {
            *size = be32_to_cpu(file.size);
            return be16_to_cpu(file.select);
        }
    }
    return 0;
}

uint64_t ras_firmware_file(GHashTable *files, const char *name)
{
    uint64_t *gpa = g_hash_table_lookup(files, name);

    g_assert(gpa);
    return *gpa;
}

static void fw_allocate(Firmware *fw, const LoaderEntry *e)
{
    uint64_t *gpa = g_new(uint64_t, 1);
    uint32_t size;
    uint16_t key = fw_find(fw->vm, e->file, &size);

    g_assert(key);
    *gpa = QEMU_ALIGN_UP(fw->next, e->allocate.align);
    fw->next = *gpa + size;
    g_assert_cmphex(fw->next, <=, ras_base() + RAS_FIRMWARE_AT +
                                  RAS_FIRMWARE_SIZE);
    fw_read(fw->vm, key, *gpa, size);
    g_hash_table_insert(fw->files, g_strdup(e->file), gpa);
}

static void fw_add_pointer(Firmware *fw, const LoaderEntry *e)
{
    uint64_t at = ras_firmware_file(fw->files, e->file) + e->pointer.offset;
    uint64_t value = 0;

    qtest_memread(fw->vm->qts, at, &value, e->pointer.size);
    value += ras_firmware_file(fw->files, e->pointer.source);
    qtest_memwrite(fw->vm->qts, at, &value, e->pointer.size);
}

static void fw_add_checksum(Firmware *fw, const LoaderEntry *e)
{
    uint64_t file = ras_firmware_file(fw->files, e->file);
    g_autofree uint8_t *data = g_malloc(e->checksum.length);
    uint8_t sum = qtest_readb(fw->vm->qts, file + e->checksum.offset);

    qtest_memread(fw->vm->qts, file + e->checksum.start, data,
                  e->checksum.length);
    for (uint32_t i = 0; i < e->checksum.length; i++) {
        sum -= data[i];
    }
    qtest_writeb(fw->vm->qts, file + e->checksum.offset, sum);
}

static void fw_write_pointer(Firmware *fw, const LoaderEntry *e)
{
    uint64_t value = cpu_to_le64(ras_firmware_file(fw->files, e->write.source) +
                                 e->write.source_offset);
    uint32_t size;
    uint16_t key = fw_find(fw->vm, e->file, &size);

    g_assert(key);
    qtest_memwrite(fw->vm->qts, ras_base() + BUFFER, &value, e->write.size);
    fw_dma(fw->vm, key << 16 | FW_CFG_DMA_CTL_SELECT | FW_CFG_DMA_CTL_SKIP, 0,
           e->write.offset);
    fw_dma(fw->vm, FW_CFG_DMA_CTL_WRITE, ras_base() + BUFFER, e->write.size);
}

static void fw_execute(Firmware *fw, const LoaderEntry *e)
{
    switch (e->command) {
    case ALLOCATE:
        fw_allocate(fw, e);
        break;
    case ADD_POINTER:
        fw_add_pointer(fw, e);
        break;
    case ADD_CHECKSUM:
        fw_add_checksum(fw, e);
        break;
    case WRITE_POINTER:
        fw_write_pointer(fw, e);
        break;
    default:
        g_assert_cmpint(e->command, ==, 0);
    }
}

GHashTable *ras_firmware_run(RasVm *vm)
{
    Firmware fw = {
        .vm = vm,
        .files = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free),
        .next = ras_base() + RAS_FIRMWARE_AT,
    };
    g_autofree LoaderEntry *script = NULL;
    uint32_t size;
    uint16_t key = fw_find(vm, "etc/table-loader", &size);

    g_assert(key);
    script = g_malloc(size);
    fw_read(vm, key, ras_base() + BUFFER, size);
    qtest_memread(vm->qts, ras_base() + BUFFER, script, size);
    for (uint32_t i = 0; i < size / sizeof(*script); i++) {
        fw_execute(&fw, &script[i]);
    }
    return fw.files;
}

static void *fw_table_at(RasVm *vm, uint64_t gpa, size_t *size)
{
    void *table;

    *size = qtest_readl(vm->qts, gpa + 4);
    table = g_malloc(*size);
    qtest_memread(vm->qts, gpa, table, *size);
    return table;
}

void *ras_firmware_table(RasVm *vm, GHashTable *files, const char *signature,
                         size_t *size)
{
    /* ACPI 5.2.5.3 RSDP, 5.2.8 XSDT, 5.2.9 FADT: X_DSDT */
    const int rsdp_xsdt = 24, xsdt_entries = 36, fadt_dsdt = 140;
    uint64_t rsdp = ras_firmware_file(files, "etc/acpi/rsdp");
    uint64_t xsdt = qtest_readq(vm->qts, rsdp + rsdp_xsdt);
    uint32_t length = qtest_readl(vm->qts, xsdt + 4);
    bool dsdt = !strcmp(signature, "DSDT");

    for (uint32_t at = xsdt_entries; at < length; at += 8) {
        uint64_t gpa = qtest_readq(vm->qts, xsdt + at);
        g_autofree char *table = fw_table_at(vm, gpa, size);

        if (!strncmp(table, dsdt ? "FACP" : signature, 4)) {
            return dsdt ? fw_table_at(vm, ldq_le_p(table + fadt_dsdt), size)
                        : g_steal_pointer(&table);
        }
    }
    return NULL;
}
