/*
 * Recovery from memory failures, compiled out (--disable-hugetlbfs-ras)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-hugetlbfs-ras.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "system/hugetlbfs-ras.h"

void hugetlbfs_ras_add_property(ObjectClass *oc)
{
}

bool hugetlbfs_ras_register(HostMemoryBackend *backend, Error **errp)
{
    return true;
}

bool hugetlbfs_ras_share_backend(HostMemoryBackend *backend, Error **errp)
{
    return true;
}

bool hugetlbfs_ras_peer_add(Error **errp)
{
    return true;
}

void hugetlbfs_ras_peer_del(void)
{
}

bool hugetlbfs_ras_peer_allowed(Error **errp)
{
    return true;
}

size_t hugetlbfs_ras_lost_pages(void)
{
    return 0;
}

bool hugetlbfs_ras_migratable(Error **errp)
{
    return true;
}

int hugetlbfs_ras_check_save(RAMBlock *rb, ram_addr_t offset, size_t length)
{
    return 0;
}

void *hugetlbfs_ras_readable(void *host, size_t length)
{
    return host;
}

void hugetlbfs_ras_warn_dump(void)
{
}

size_t hugetlbfs_ras_pagesize(RAMBlock *rb, ram_addr_t offset)
{
    return qemu_ram_pagesize(rb);
}

bool hugetlbfs_ras_discard(RAMBlock *rb, uint64_t start, size_t length,
                           int *ret)
{
    return false;
}

void hugetlbfs_ras_touch(CPUState *cpu, void *host)
{
}

bool hugetlbfs_ras_mmio(CPUState *cpu, hwaddr gpa, void *data, unsigned len,
                        bool is_write)
{
    return false;
}

bool hugetlbfs_ras_retry_emulation(void)
{
    return false;
}

bool hugetlbfs_ras_lost_at(hwaddr gpa, size_t length)
{
    return false;
}

void hugetlbfs_ras_untell(hwaddr gpa)
{
}

HugetlbfsRasInfo *qmp_query_hugetlbfs_ras(Error **errp)
{
    /* No backend, so nothing is recovered. */
    return g_new0(HugetlbfsRasInfo, 1);
}

void qmp_x_hugetlbfs_ras_inject(uint64List *addresses, bool action_required,
                                Error **errp)
{
    error_setg(errp, "this QEMU was built without hugetlbfs-ras");
}

void hmp_info_hugetlbfs_ras(Monitor *mon, const QDict *qdict)
{
    monitor_printf(mon, "this QEMU was built without hugetlbfs-ras\n");
}
