/*
 * Recovery from memory failures in guest RAM on huge pages
 *
 * When the host kernel poisons a huge page of guest RAM, a listener thread
 * replaces it by small pages, saves every byte that can still be read, and
 * keeps a ledger of what is lost.  This header is what the rest of QEMU sees:
 * calls to tell the subsystem of memory backends and of other users of their
 * files, and questions to the ledger for everybody who must know that a
 * range no longer is what its RAMBlock says.
 *
 * A split range
 *  - does not reach the file of the backend any more,
 *  - consists of small pages,
 *  - may hold lost pages, which raise SIGBUS when touched.
 *
 * Locks: unless stated otherwise, a function may be called from any thread,
 * with or without the BQL, and not from a signal handler.  While there never
 * was a memory failure the questions cost one load.
 *
 * See docs/devel/hugetlbfs-ras.rst for states and lock order.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_HUGETLBFS_RAS_H
#define SYSTEM_HUGETLBFS_RAS_H

#include "exec/cpu-common.h"
#include "exec/hwaddr.h"
#include "qom/object.h"
#include "system/hostmem.h"

/**
 * hugetlbfs_ras_add_property: give a memory backend class "hugetlbfs-ras"
 *
 * on|off|auto, default auto.  With "on" a backend whose memory could not be
 * recovered is an error at start-up.
 */
void hugetlbfs_ras_add_property(ObjectClass *oc);

/**
 * hugetlbfs_ras_register: a memory backend has its memory
 *
 * Starts the listener with the first eligible backend.  The ledger forgets
 * the backend by itself when its RAM block is freed.
 *
 * Context: main thread, BQL.
 * Returns: false with @errp set if hugetlbfs-ras=on and the backend is not
 * eligible.
 */
bool hugetlbfs_ras_register(HostMemoryBackend *backend, Error **errp);

/**
 * hugetlbfs_ras_share_backend: another process is to map this backend
 *
 * From now on recovery is refused for it.
 *
 * Context: main thread, BQL.
 * Returns: false with @errp set if the backend has a split range, which the
 * other process would not see.
 */
bool hugetlbfs_ras_share_backend(HostMemoryBackend *backend, Error **errp);

/**
 * hugetlbfs_ras_peer_add: another process is to map all guest RAM
 *
 * Recovery is refused until the matching hugetlbfs_ras_peer_del(), which is
 * due after a failure as well.
 *
 * Context: main thread, BQL.
 * Returns: false with @errp set if there is a split range.
 */
bool hugetlbfs_ras_peer_add(Error **errp);
void hugetlbfs_ras_peer_del(void);

/**
 * hugetlbfs_ras_peer_allowed: would hugetlbfs_ras_peer_add() succeed now?
 *
 * For code that tries again and again until its peer can map guest RAM.
 *
 * Context: main thread, BQL.
 * Returns: false with @errp set if not.
 */
bool hugetlbfs_ras_peer_allowed(Error **errp);

/**
 * hugetlbfs_ras_lost_pages: how many host pages are lost now
 */
size_t hugetlbfs_ras_lost_pages(void);

/**
 * hugetlbfs_ras_migratable: may guest RAM be handed over now?
 *
 * Lost pages are not looked at here, see kvm_hwpoisoned_mem().
 *
 * Context: BQL.
 * Returns: false with @errp set if RAM would be handed over by its file
 * (x-ignore-shared, CPR) and a split range does not reach it.
 */
bool hugetlbfs_ras_migratable(Error **errp);

/**
 * hugetlbfs_ras_check_save: may these bytes of guest RAM be read and sent?
 *
 * @rb: the RAM block
 * @offset: start, in bytes in @rb
 * @length: in bytes
 *
 * Context: migration threads.
 * Returns: 0, or -EIO with the error put into the running migration.
 */
int hugetlbfs_ras_check_save(RAMBlock *rb, ram_addr_t offset, size_t length);

/**
 * hugetlbfs_ras_readable: a view of guest RAM for a dump
 *
 * @host: host-virtual address
 * @length: bytes, at most 64 KiB
 *
 * Context: one thread at a time.
 * Returns: @host; or, if a page of the range is lost, a copy with zeros in
 * its place, valid until the next call.
 */
void *hugetlbfs_ras_readable(void *host, size_t length);

/**
 * hugetlbfs_ras_warn_dump: say how many lost pages a dump leaves out
 */
void hugetlbfs_ras_warn_dump(void);

/**
 * hugetlbfs_ras_pagesize: granularity of a piece of guest RAM, in bytes
 *
 * @rb: the RAM block
 * @offset: in bytes in @rb
 *
 * Returns: the page size of @rb, or that of the host if @offset is in a
 * split range.
 */
size_t hugetlbfs_ras_pagesize(RAMBlock *rb, ram_addr_t offset);

/**
 * hugetlbfs_ras_discard: discard guest RAM that may be split
 *
 * The part in split ranges is zeroed on the small pages and its lost pages
 * become plain memory; the rest goes through ram_block_discard_range().  A
 * huge page that is being copied cannot be discarded: -EBUSY.
 *
 * @rb: the RAM block
 * @start: in bytes in @rb
 * @length: in bytes
 * @ret: the result as of ram_block_discard_range(), set if true is returned
 *
 * Returns: false if no split range is touched and nothing was done.
 */
bool hugetlbfs_ras_discard(RAMBlock *rb, uint64_t start, size_t length,
                           int *ret);

/**
 * hugetlbfs_ras_touch: a virtual CPU touched a lost page
 *
 * @cpu: the calling virtual CPU
 * @host: host-virtual address
 *
 * Delivers the error to the guest, or holds it back; the guest then runs
 * into it again.
 *
 * Context: thread of @cpu, without the BQL.
 */
void hugetlbfs_ras_touch(CPUState *cpu, void *host);

/**
 * hugetlbfs_ras_mmio: is this MMIO exit an access to a lost page?
 *
 * KVM may hand an instruction that it emulates to user space when the memory
 * behind it is poisoned.  If so the error is delivered, and @data of a read
 * is filled with ones.
 *
 * @cpu: the calling virtual CPU
 * @gpa: guest-physical address
 * @data: of the access
 * @len: bytes
 * @is_write: as of the access
 *
 * Context: thread of @cpu, without the BQL.
 * Returns: true if so; the access must not be done.
 */
bool hugetlbfs_ras_mmio(CPUState *cpu, hwaddr gpa, void *data, unsigned len,
                        bool is_write);

/**
 * hugetlbfs_ras_retry_emulation: did KVM fail for a page being recovered?
 *
 * KVM reads an instruction that it emulates without a signal, so one in a
 * poisoned huge page is an emulation failure, although its bytes come back a
 * moment later.
 *
 * Context: thread of a virtual CPU, without the BQL.  Waits a little.
 * Returns: true if there is or just was such a page: enter the guest again.
 */
bool hugetlbfs_ras_retry_emulation(void);

/**
 * hugetlbfs_ras_lost_at: is any of this guest memory lost?
 *
 * @gpa: guest-physical address
 * @length: bytes
 *
 * For code that must not touch lost memory.
 */
bool hugetlbfs_ras_lost_at(hwaddr gpa, size_t length);

/**
 * hugetlbfs_ras_untell: a page counts as not reported to the guest again
 *
 * @gpa: guest-physical address of a lost page
 *
 * For a delivery that takes back an error which the guest has not seen yet.
 */
void hugetlbfs_ras_untell(hwaddr gpa);

#endif /* SYSTEM_HUGETLBFS_RAS_H */
