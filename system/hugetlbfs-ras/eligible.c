/*
 * Whether an error would be recovered from now
 *
 * Everything here may change while the VM runs: devices come and go, memory
 * gets short.  So it is asked at start-up and again at the error.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "hw/boards.h"
#include "hw/mem/nvdimm.h"
#include "hw/qdev-core.h"
#include "hw/virtio/vhost-scsi.h"
#include "hw/virtio/virtio-pmem.h"
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

/*
 * Of devices that nothing else tells of; BQL.  A device may be told of more
 * than once, as each new listener makes all of them hear of all devices.
 */
static void ras_device_changed(HugetlbfsRas *ras, Object *dev, bool there)
{
    static GHashTable *vhost_scsi;
    HostMemoryBackend *hostmem;
    RasBackend *b;

    if (object_dynamic_cast(dev, TYPE_VHOST_SCSI)) {
        vhost_scsi = vhost_scsi ?: g_hash_table_new(NULL, NULL);
        if (there) {
            g_hash_table_add(vhost_scsi, dev);
        } else {
            g_hash_table_remove(vhost_scsi, dev);
        }
        qatomic_set(&ras->vhost_scsi, g_hash_table_size(vhost_scsi));
    } else if (object_dynamic_cast(dev, TYPE_NVDIMM) ||
               object_dynamic_cast(dev, TYPE_VIRTIO_PMEM)) {
        hostmem = MEMORY_BACKEND(object_property_get_link(dev, "memdev",
                                                          &error_abort));
        QEMU_LOCK_GUARD(&ras->lock);
        b = ras_backend_at(ras, memory_region_get_ram_ptr(&hostmem->mr));
        if (b) {
            qatomic_set(&b->persistent, there);
        }
    }
}

static void ras_device_realized(DeviceListener *listener, DeviceState *dev)
{
    ras_device_changed(&hugetlbfs_ras, OBJECT(dev), true);
}

static void ras_device_unrealized(DeviceListener *listener, DeviceState *dev)
{
    ras_device_changed(&hugetlbfs_ras, OBJECT(dev), false);
}

void ras_watch_devices(void)
{
    static DeviceListener listener = {
        .realize = ras_device_realized,
        .unrealize = ras_device_unrealized,
    };

    device_listener_register(&listener);
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
    if (qatomic_read(&ras->vhost_scsi)) {
        /* Reads under way write to the old page, and nobody repeats them. */
        return g_strdup("a vhost-scsi device writes to guest RAM behind QEMU");
    }
    if (qatomic_read(&backend->shared)) {
        return g_strdup("another VM maps this memory (ivshmem)");
    }
    if (qatomic_read(&backend->persistent)) {
        /* Small pages are not in the file, which is there to be used again. */
        return g_strdup("the memory is to last in its file (nvdimm or "
                        "virtio-pmem)");
    }
    if (ras_is_incoming()) {
        return g_strdup("an incoming migration is filling guest RAM");
    }
    return ras_memory_refusal(ras, backend->page_size);
}
