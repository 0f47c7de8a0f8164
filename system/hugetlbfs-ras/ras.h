/*
 * Recovery from memory failures in guest RAM on huge pages: internals
 *
 * Threads: the listener changes the ledger; the main thread registers
 * backends, delivers, resets and answers the monitor; virtual CPUs ask and
 * mark pages as told.
 *
 * Lock: ras->lock protects everything in HugetlbfsRas, RasBackend and
 * RasPage unless a field says otherwise.  It is a leaf but for the filler's own
 * lock: nothing waits while it is held.  The listener drops it while the
 * engine works; the page is then in state SPLITTING and counted in
 * ras->busy, and stays where it is.
 *
 * The listener never takes the BQL, because who holds the BQL may be waiting
 * for it in the SIGBUS handler.  What needs the BQL it leaves to a bottom
 * half in the main loop.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HUGETLBFS_RAS_RAS_H
#define HUGETLBFS_RAS_RAS_H

#include "qemu/hugepage-fill.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "exec/memory.h"
#include "exec/ramlist.h"
#include "qapi/qapi-types-hugetlbfs-ras.h"
#include "system/hostmem.h"
#include "system/memory-failure.h"
#include "system/sigbus-intake.h"

/*
 * What a guest is told of at a time: the page of the smallest granule of both
 * architectures, and what Linux takes off line for one record.
 */
#define RAS_TOLD_SIZE MEMORY_FAILURE_SIZE

typedef struct RasPage RasPage;

/**
 * RasBackend: a memory backend on huge pages
 *
 * @id: of the memory backend
 * @hostmem: the memory backend, whose settings may change
 * @mr, @rb, @host, @size, @page_size: its memory, bytes
 * @range: template for the engine: settings, file, small page size
 * @numa_nodes: what @range points to
 * @required: hugetlbfs-ras=on
 * @mode: x-hugetlbfs-ras-mode
 * @unfit: why it can never be recovered; NULL if it can
 * @shared: another process maps it; atomic
 * @persistent: a device of persistent memory has it; atomic
 * @pages: huge pages with an error, ascending
 */
typedef struct RasBackend {
    char *id;
    HostMemoryBackend *hostmem;
    MemoryRegion *mr;
    RAMBlock *rb;
    uint8_t *host;
    uint64_t size;
    size_t page_size;
    HugepageRange range;
    DECLARE_BITMAP(numa_nodes, MAX_NODES + 1);
    bool required;
    HugetlbfsRasMode mode;
    char *unfit;
    bool shared;
    bool persistent;
    QTAILQ_HEAD(, RasPage) pages;
    QTAILQ_ENTRY(RasBackend) next;
} RasBackend;

/**
 * RasPage: a huge page with an error
 *
 * @backend: where it is
 * @offset: where in it, in bytes
 * @state: see hugetlbfs_ras_transition_valid()
 * @reason: why it was refused or failed, or is still split after a reset
 * @lost: a bit per small page; NULL unless split or being filled
 * @told: a bit per RAS_TOLD_SIZE; as @lost
 * @lost_pages: bits set in @lost
 * @salvaged: bytes
 * @longest_stall: nanoseconds
 * @busy: how many of engine or filler, and listener, work on it; the page
 *     stays in the ledger meanwhile
 * @stuck: the filler cannot go on
 * @doubtful, @doubts: a small page, as an offset in @backend, that was touched
 *     @doubts times in vain although the kernel maps it
 * @announce: the main loop has to emit an event
 */
struct RasPage {
    RasBackend *backend;
    uint64_t offset;
    HugetlbfsRasState state;
    char *reason;
    unsigned long *lost;
    unsigned long *told;
    size_t lost_pages;
    uint64_t salvaged;
    int64_t longest_stall;
    unsigned busy;
    bool stuck;
    uint64_t doubtful;
    unsigned doubts;
    bool announce;
    QTAILQ_ENTRY(RasPage) next;
};

/**
 * HugetlbfsRas: the subsystem
 *
 * @initialized: @lock can be used; main thread, BQL
 * @started: there is a listener; main thread, BQL
 * @lost_pages, @split_pages: sums over the ledger; written under @lock, read
 *     atomically by anybody
 * @peers: processes that map all guest RAM; atomic
 * @vhost_scsi: devices of this kind; atomic
 * @busy: sum of RasPage.busy; written under @lock, read atomically by anybody
 * @generation: how often it went up; as @busy
 * @finished: how often @busy went down or a page got stuck
 * @idle: signalled with that
 * @last_work: when @busy changed last, in nanoseconds of get_clock(), 0 if
 *     never; as @busy
 * @fill: the filler; NULL if only the eager way is possible; set by the main
 *     thread, BQL, with @lock
 * @fill_tried: @fill is NULL and will stay so
 * @touches: of lost memory that a guest was told of; protected by @lock
 * @stock: addresses of action-optional errors that are not ours
 * @bh: main loop: events and @stock
 * @timer: main loop, guest's time: tells the guest
 * @retry_ms: current period of @timer
 */
typedef struct HugetlbfsRas {
    bool initialized;
    bool started;
    QemuMutex lock;
    QemuCond idle;
    QTAILQ_HEAD(, RasBackend) backends;
    size_t lost_pages;
    size_t split_pages;
    unsigned peers;
    unsigned vhost_scsi;
    unsigned busy;
    unsigned generation;
    unsigned finished;
    int64_t last_work;
    HugepageFill *fill;
    bool fill_tried;
    unsigned touches;
    GQueue stock;
    QEMUBH *bh;
    QEMUTimer *timer;
    int retry_ms;
    QemuThread thread;
    RAMBlockNotifier notifier;
} HugetlbfsRas;

extern HugetlbfsRas hugetlbfs_ras;

/* ledger.c; all with the lock held */

/**
 * hugetlbfs_ras_transition_valid: the one table of states
 */
bool hugetlbfs_ras_transition_valid(HugetlbfsRasState from,
                                    HugetlbfsRasState to);
RasBackend *ras_backend_at(HugetlbfsRas *ras, const void *host);
RasPage *ras_page_at(RasBackend *backend, uint64_t offset);
/* Finds the page at @offset or adds one in state REPORTED. */
RasPage *ras_page_get(RasBackend *backend, uint64_t offset);
/* @reason is taken over. */
void ras_page_set_state(RasPage *page, HugetlbfsRasState state, char *reason);
/* Small pages are in place; takes over @lost, which may still grow. */
void ras_page_set_replaced(HugetlbfsRas *ras, RasPage *page,
                           unsigned long *lost);
/* Takes that back: the swap has failed. */
void ras_page_clear_replaced(HugetlbfsRas *ras, RasPage *page);
/* From SPLITTING to SPLIT, end of work: no more is lost for now. */
void ras_page_set_split(HugetlbfsRas *ras, RasPage *page);
/* The page consists of small pages. */
bool ras_page_is_replaced(const RasPage *page);
void ras_work_begin(HugetlbfsRas *ras, RasPage *page);
void ras_work_end(HugetlbfsRas *ras, RasPage *page);
bool ras_page_is_lost(const RasPage *page, uint64_t offset);
void ras_page_set_lost(HugetlbfsRas *ras, RasPage *page, uint64_t offset);
/* Bytes [start, start + length) of the page are plain memory again. */
void ras_page_clear_lost(HugetlbfsRas *ras, RasPage *page, uint64_t start,
                         uint64_t length);
/* First RAS_TOLD_SIZE at or after @offset that is lost and not told. */
bool ras_page_next_untold(const RasPage *page, uint64_t *offset);
void ras_page_set_told(RasPage *page, uint64_t offset, bool told);
void ras_page_free(HugetlbfsRas *ras, RasPage *page);
/* Waits, dropping the lock, until no page is being worked on. */
void ras_wait_idle(HugetlbfsRas *ras);

/**
 * ras_gpa: guest-physical address of a piece of a backend
 *
 * Returns: false if it is not mapped into the guest now.
 * Context: any; takes the RCU read lock.
 */
bool ras_gpa(const RasBackend *backend, uint64_t offset, hwaddr *gpa);

/* The engine's description of the huge page at @offset. */
HugepageRange ras_range(const RasBackend *backend, uint64_t offset);

/* backend.c */

/**
 * ras_unfit: why this memory can never be recovered
 *
 * Returns: an allocated sentence, or NULL.
 */
char *ras_unfit(RAMBlock *rb);

/* eligible.c */

/**
 * ras_refusal: why an error now would not be recovered from
 *
 * Context: any thread, no lock needed but that @backend stays.
 * Returns: an allocated sentence, or NULL.
 */
char *ras_refusal(const HugetlbfsRas *ras, const RasBackend *backend);

/**
 * ras_watch_devices: take note of devices that are a reason to refuse
 *
 * Of those that exist, if they are on a bus, and of all to come.
 *
 * Context: main thread, BQL, once.
 */
void ras_watch_devices(void);

/* recover.c */
/**
 * ras_fill_init: start the filler, if it is not yet and @mode wants it
 *
 * Context: main thread, BQL.
 * Returns: false with @errp set if @mode allows nothing else, but it may not.
 */
bool ras_fill_init(HugetlbfsRas *ras, HugetlbfsRasMode mode, Error **errp);

/* The rest with the lock held, which is dropped meanwhile. */

/* First error in @page, in state REPORTED. */
void ras_recover(HugetlbfsRas *ras, RasPage *page, const SigbusReport *report);

/**
 * ras_stop_work: wait until no page is being worked on
 *
 * @gone: the backend whose memory goes away, for its pages only, without
 *     waiting until they are copied; or NULL: all are copied first, except
 *     what the filler is stuck with, which becomes zeros.
 *
 * Context: BQL, lest pages go.
 */
void ras_stop_work(HugetlbfsRas *ras, RasBackend *gone);

/* listener.c */
void ras_listener_start(HugetlbfsRas *ras);

/* delivery.c */
void ras_delivery_init(HugetlbfsRas *ras);
/* Has the guest told of lost pages soon; BQL. */
void ras_delivery_kick(HugetlbfsRas *ras);

/* reset.c */
void ras_reset_init(HugetlbfsRas *ras);

/* hugetlbfs_ras_touch(), with what came of it */
MemoryFailureResult ras_touch(CPUState *cpu, void *host);
/* Host-virtual address of guest RAM, NULL if @gpa is something else. */
void *ras_gpa_to_host(hwaddr gpa);

/* users.c */
/* Is a huge page of [start, start + length) of @rb split, or just being so? */
bool ras_range_is_split(HugetlbfsRas *ras, RAMBlock *rb, uint64_t start,
                        uint64_t length);
/* A migration that runs now cannot be trusted to end well: fail it; BQL. */
void ras_fail_migration(void);

/* monitor.c; with the lock held */
HugetlbfsRasPage *ras_page_info(RasPage *page);

#endif /* HUGETLBFS_RAS_RAS_H */
