/*
 * Whether an error would be recovered from now
 *
 * Everything here may change while the VM runs: devices come and go, memory
 * gets short.  So it is asked at start-up and again at the error.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "hw/boards.h"
#include "migration/postcopy-ram.h"
#include "system/xen.h"
#include "system/runstate.h"
#include "ras.h"

/* What the host should have left when the copy is made. */
#define RAS_MEMORY_MARGIN (16 * MiB)

/* MemAvailable of /proc/meminfo, in bytes; UINT64_MAX if unknown. */
static uint64_t ras_host_available(void)
{
    g_autofree char *text = NULL;
    const char *line;
    uint64_t kib;

    if (!g_file_get_contents("/proc/meminfo", &text, NULL, NULL)) {
        return UINT64_MAX;
    }
    line = strstr(text, "MemAvailable:");
    if (!line || sscanf(line, "MemAvailable: %" SCNu64, &kib) != 1) {
        return UINT64_MAX;
    }
    return kib * KiB;
}

/* A number in a file of a control group; UINT64_MAX if it has none. */
static uint64_t ras_cgroup_value(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autofree char *text = NULL;
    uint64_t value;

    if (!g_file_get_contents(path, &text, NULL, NULL) ||
        qemu_strtou64(g_strchomp(text), NULL, 10, &value) < 0) {
        return UINT64_MAX;
    }
    return value;
}

/*
 * What the control groups of the process leave, in bytes.  A limit at any
 * level up to the root counts (Linux, admin-guide/cgroup-v2.rst, "Memory").
 */
static uint64_t ras_cgroup_available(void)
{
    g_autofree char *text = NULL;
    g_autofree char *dir = NULL;
    uint64_t available = UINT64_MAX;
    const char *own;

    if (!g_file_get_contents("/proc/self/cgroup", &text, NULL, NULL)) {
        return UINT64_MAX;
    }
    own = strstr(text, "0::/");
    if (!own) {
        return UINT64_MAX;
    }
    own += strlen("0::");
    dir = g_strdup_printf("/sys/fs/cgroup%.*s", (int)strcspn(own, "\n"), own);

    while (strlen(dir) > strlen("/sys/fs/cgroup")) {
        uint64_t max = ras_cgroup_value(dir, "memory.max");
        uint64_t current = ras_cgroup_value(dir, "memory.current");
        char *parent;

        if (max != UINT64_MAX && current != UINT64_MAX) {
            available = MIN(available, max > current ? max - current : 0);
        }
        parent = g_path_get_dirname(dir);
        g_free(dir);
        dir = parent;
    }
    return available;
}

static char *ras_memory_refusal(const HugetlbfsRas *ras, size_t page_size)
{
    uint64_t host = ras_host_available();
    uint64_t cgroup = ras_cgroup_available();
    /* What other copies have not taken yet is not free. */
    uint64_t need = page_size + RAS_MEMORY_MARGIN +
                    (ras->fill ? hugepage_fill_missing(ras->fill) : 0);

    if (MIN(host, cgroup) >= need) {
        return NULL;
    }
    return g_strdup_printf("not enough free memory for a copy: %" PRIu64
                           " MiB needed, %" PRIu64 " MiB available %s",
                           need / MiB, MIN(host, cgroup) / MiB,
                           cgroup < host ? "in the control group"
                                         : "on the host");
}

/* Also after postcopy has started the VM, whose memory then is incomplete. */
static bool ras_is_incoming(void)
{
    PostcopyState state = postcopy_state_get();

    return runstate_check(RUN_STATE_INMIGRATE) ||
           state == POSTCOPY_INCOMING_LISTENING ||
           state == POSTCOPY_INCOMING_RUNNING;
}

char *ras_refusal(const HugetlbfsRas *ras, const RasBackend *backend)
{
    if (backend->unfit) {
        return g_strdup(backend->unfit);
    }
    if (xen_enabled()) {
        return g_strdup("Xen owns the guest's memory");
    }
    if (current_machine && current_machine->cgs) {
        /* Encrypted memory cannot be copied to another frame. */
        return g_strdup("the guest is confidential, its memory is encrypted");
    }
    if (ram_block_discard_is_disabled()) {
        /* The device would go on with the old page. */
        return g_strdup("a device or feature pins guest RAM (VFIO, vDPA, "
                        "RDMA or the like)");
    }
    if (qatomic_read(&ras->peers)) {
        return g_strdup("a vhost-user process maps guest RAM");
    }
    if (backend->shared) {
        return g_strdup("another VM maps this memory (ivshmem)");
    }
    if (ras_is_incoming()) {
        return g_strdup("an incoming migration is filling guest RAM");
    }
    return ras_memory_refusal(ras, backend->page_size);
}
