/*
 * Intake of memory failures: from the SIGBUS handler to one listener
 *
 * The kernel tells of an uncorrectable memory error by SIGBUS, at any
 * moment and in any thread.  The handler may allocate nothing, take no lock
 * and look nothing up; all it does is to push a report into a ring and, if
 * the error is in the way of its own thread (action required), to wait for
 * the verdict of the listener.
 *
 * Producers: sigbus_intake_signal() and sigbus_intake_ask(), any thread,
 * async-signal-safe, with any lock held: the listener needs none of them.
 * Consumer: one listener thread, sigbus_intake_next().
 *
 * The intake never ends the process.  What cannot be recovered is handed
 * back to the caller, who does what QEMU did before there was an intake.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_SIGBUS_INTAKE_H
#define SYSTEM_SIGBUS_INTAKE_H

/*
 * Reports in flight.  One thread has at most one action-required report in
 * it, and the kernel queues at most one SIGBUS per thread.
 */
#define SIGBUS_RING_SIZE 1024

/**
 * SigbusVerdict: what the listener says to a thread that waits
 *
 * @SIGBUS_VERDICT_NONE: not decided yet
 * @SIGBUS_VERDICT_RETRY: the page is healthy now, access it again
 * @SIGBUS_VERDICT_LOST: these bytes are lost for good
 * @SIGBUS_VERDICT_STOCK: the memory is not ours, or recovery was refused or
 *                        failed: do what QEMU does without recovery
 */
typedef enum SigbusVerdict {
    SIGBUS_VERDICT_NONE,
    SIGBUS_VERDICT_RETRY,
    SIGBUS_VERDICT_LOST,
    SIGBUS_VERDICT_STOCK,
} SigbusVerdict;

/**
 * SigbusReport: one memory failure
 *
 * @addr: host-virtual address the kernel gave; often a healthy byte of the
 *        poisoned huge page
 * @lsb: si_addr_lsb.  Only ever a hint: KVM reports 12 for any page size.
 * @action_required: a thread touched it and cannot go on (BUS_MCEERR_AR)
 * @injected: raised by x-hugetlbfs-ras-inject; the small page at @addr counts
 *            as lost although it can be read
 * @since: when it was taken, in nanoseconds of get_clock()
 * @answer: where to put the verdict, or NULL if nobody waits
 */
typedef struct SigbusReport {
    void *addr;
    int lsb;
    bool action_required;
    bool injected;
    int64_t since;
    SigbusVerdict *answer;
} SigbusReport;

/**
 * sigbus_intake_start: take memory failures from now on
 *
 * Unblocks SIGBUS in the calling thread, which must be the main thread: it
 * is the one to which the kernel sends action-optional errors.  May be
 * called again.
 *
 * Context: main thread.
 * Returns: false with @errp set if no event descriptor can be had.
 */
bool sigbus_intake_start(Error **errp);

/**
 * sigbus_intake_signal: the SIGBUS handler's part
 *
 * @si: the handler's argument
 *
 * A virtual CPU that is inside KVM_RUN does not wait here but right after
 * it, see sigbus_intake_vcpu_run().  Any other thread waits for the
 * verdict; the access is then retried by returning from the handler.
 *
 * Context: signal handler.
 * Returns: true if the signal is dealt with; false if the handler must do
 * what it did without recovery.
 */
bool sigbus_intake_signal(const siginfo_t *si);

/**
 * sigbus_intake_ask: report a failure and wait for the verdict
 *
 * @report: what happened; @report->since and @report->answer are set here
 *
 * Context: any thread but the listener, signal handlers included.
 * Returns: the verdict, never SIGBUS_VERDICT_NONE.
 */
SigbusVerdict sigbus_intake_ask(SigbusReport *report);

/**
 * sigbus_intake_post: report a failure without waiting
 *
 * Context: as sigbus_intake_ask().
 * Returns: false if the ring is full.
 */
bool sigbus_intake_post(const SigbusReport *report);

/**
 * sigbus_intake_next: wait for the next report
 *
 * Context: the listener thread only.
 */
void sigbus_intake_next(SigbusReport *report);

/**
 * sigbus_intake_answer: give the verdict and wake who waits for it
 *
 * @report: from sigbus_intake_next(); its @answer is invalid afterwards
 *
 * Context: the listener thread only.
 */
void sigbus_intake_answer(SigbusReport *report, SigbusVerdict verdict);

/* Reports taken, and reports that found the ring full, since the start. */
uint64_t sigbus_intake_taken(void);
uint64_t sigbus_intake_dropped(void);

/**
 * sigbus_intake_vcpu_enter: the calling virtual CPU thread enters the guest
 *
 * Between this and sigbus_intake_vcpu_leave() an action-required SIGBUS is
 * the guest's, so the handler keeps the address and returns.
 *
 * Context: virtual CPU thread.
 * Returns: false if there is no intake; then neither it nor
 * sigbus_intake_vcpu_leave() does anything.
 */
bool sigbus_intake_vcpu_enter(void);

/**
 * sigbus_intake_vcpu_leave: the calling virtual CPU thread left the guest
 *
 * Returns: true if the guest hit a poisoned page meanwhile; @report is set.
 */
bool sigbus_intake_vcpu_leave(SigbusReport *report);

#endif /* SYSTEM_SIGBUS_INTAKE_H */
