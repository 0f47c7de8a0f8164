/*
 * Intake of memory failures: from the SIGBUS handler to one listener
 *
 * A bounded ring for many producers and one consumer.  Each slot carries a
 * sequence number: a slot is free for the producer that draws ticket T when
 * the number is T, and full for the consumer at T when it is T + 1.  A
 * producer never waits for another one, so that a handler that interrupts a
 * thread in the middle of a push cannot deadlock with it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/event_notifier.h"
#include "qemu/futex.h"
#include "qemu/timer.h"
#include "system/sigbus-intake.h"
#include <poll.h>

typedef struct SigbusSlot {
    uint32_t sequence;
    SigbusReport report;
} SigbusSlot;

typedef struct SigbusIntake {
    bool started;
    EventNotifier wakeup;
    uint32_t head;              /* next ticket, drawn by producers */
    uint32_t tail;              /* next ticket to consume, listener only */
    uint64_t taken;
    uint64_t dropped;
    SigbusSlot slots[SIGBUS_RING_SIZE];
} SigbusIntake;

/* A signal handler gets no pointer of ours, so it needs one to start from. */
static SigbusIntake intake;

/* What the handler needs to know of, and leaves behind for, its thread. */
typedef struct SigbusThread {
    bool in_guest;
    bool hit;
    void *addr;
    int lsb;
} SigbusThread;

static __thread SigbusThread self;

QEMU_BUILD_BUG_ON(SIGBUS_RING_SIZE & (SIGBUS_RING_SIZE - 1));

bool sigbus_intake_start(Error **errp)
{
    sigset_t set;
    int ret;

    if (!intake.started) {
        ret = event_notifier_init(&intake.wakeup, false);
        if (ret < 0) {
            error_setg_errno(errp, -ret,
                             "cannot create an event descriptor");
            return false;
        }
        for (uint32_t i = 0; i < SIGBUS_RING_SIZE; i++) {
            intake.slots[i].sequence = i;
        }
        qatomic_store_release(&intake.started, true);
    }

    /*
     * The signalfd of the main loop still lists SIGBUS, but a signal that is
     * not blocked is delivered to its handler first.  An access by the main
     * thread itself, blocked, would kill the process.
     */
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return true;
}

bool sigbus_intake_post(const SigbusReport *report)
{
    uint32_t ticket = qatomic_read(&intake.head);
    SigbusSlot *slot;

    for (;;) {
        int32_t lag;
        uint32_t seen;

        slot = &intake.slots[ticket % SIGBUS_RING_SIZE];
        lag = qatomic_load_acquire(&slot->sequence) - ticket;
        if (lag < 0) {
            qatomic_inc(&intake.dropped);
            return false;
        }
        if (lag == 0) {
            seen = qatomic_cmpxchg(&intake.head, ticket, ticket + 1);
            if (seen == ticket) {
                break;
            }
            ticket = seen;
        } else {
            ticket = qatomic_read(&intake.head);
        }
    }

    slot->report = *report;
    qatomic_store_release(&slot->sequence, ticket + 1);
    qatomic_inc(&intake.taken);
    event_notifier_set(&intake.wakeup);
    return true;
}

SigbusVerdict sigbus_intake_ask(SigbusReport *report)
{
    SigbusVerdict verdict = SIGBUS_VERDICT_NONE;

    report->since = get_clock();
    report->answer = &verdict;
    if (!sigbus_intake_post(report)) {
        /*
         * The error is still in the way, so it will be reported again.  Let
         * the listener make room first.
         */
        static const struct timespec pause = { .tv_nsec = SCALE_MS };

        nanosleep(&pause, NULL);
        return SIGBUS_VERDICT_RETRY;
    }
    while (qatomic_load_acquire(&verdict) == SIGBUS_VERDICT_NONE) {
        qemu_futex_wait(&verdict, SIGBUS_VERDICT_NONE);
    }
    return verdict;
}

void sigbus_intake_answer(SigbusReport *report, SigbusVerdict verdict)
{
    SigbusVerdict *answer = report->answer;

    if (answer) {
        report->answer = NULL;
        qatomic_store_release(answer, verdict);
        /*
         * Who waited may be gone by now and the word be something else's:
         * a spurious wake-up, which every user of a futex expects.
         */
        qemu_futex_wake(answer, INT_MAX);
    }
}

static bool sigbus_intake_pop(SigbusReport *report)
{
    SigbusSlot *slot = &intake.slots[intake.tail % SIGBUS_RING_SIZE];

    if (qatomic_load_acquire(&slot->sequence) != intake.tail + 1) {
        return false;
    }
    *report = slot->report;
    qatomic_store_release(&slot->sequence, intake.tail + SIGBUS_RING_SIZE);
    intake.tail++;
    return true;
}

void sigbus_intake_next(SigbusReport *report)
{
    struct pollfd pfd = {
        .fd = event_notifier_get_fd(&intake.wakeup),
        .events = POLLIN,
    };

    while (!sigbus_intake_pop(report)) {
        RETRY_ON_EINTR(poll(&pfd, 1, -1));
        /* Cleared before the ring is looked at, so that no push is missed. */
        event_notifier_test_and_clear(&intake.wakeup);
    }
}

/*
 * QEMU itself touched memory that is gone.  The process is about to die of it
 * as it always did; leave a word why.  No stdio in a signal handler.
 */
static void sigbus_last_words(const void *addr)
{
    static const char digits[] = "0123456789abcdef";
    char text[] = "qemu: fatal: QEMU itself touched memory lost to a memory "
                  "failure at 0x0000000000000000\n";
    char *digit = strstr(text, "0x") + 2 + 15;

    for (uintptr_t rest = (uintptr_t)addr; rest; rest >>= 4) {
        *digit-- = digits[rest & 15];
    }
    if (RETRY_ON_EINTR(write(STDERR_FILENO, text, sizeof(text) - 1)) < 0) {
        return;
    }
}

bool sigbus_intake_signal(const siginfo_t *si)
{
    SigbusReport report = {
        .addr = si->si_addr,
        .lsb = si->si_addr_lsb,
        .action_required = si->si_code == BUS_MCEERR_AR,
    };
    int saved_errno = errno;
    bool handled = true;

    if (!qatomic_load_acquire(&intake.started) ||
        (si->si_code != BUS_MCEERR_AR && si->si_code != BUS_MCEERR_AO)) {
        return false;
    }

    if (!report.action_required) {
        sigbus_intake_post(&report);
    } else if (self.in_guest) {
        /* Only the last one is kept: an older one comes again by itself. */
        self.addr = report.addr;
        self.lsb = report.lsb;
        self.hit = true;
    } else {
        handled = sigbus_intake_ask(&report) == SIGBUS_VERDICT_RETRY;
        if (!handled) {
            sigbus_last_words(report.addr);
        }
    }
    errno = saved_errno;
    return handled;
}

bool sigbus_intake_vcpu_enter(void)
{
    if (likely(!qatomic_read(&intake.started))) {
        return false;
    }
    self.in_guest = true;
    signal_barrier();
    return true;
}

bool sigbus_intake_vcpu_leave(SigbusReport *report)
{
    signal_barrier();
    self.in_guest = false;
    if (likely(!self.hit)) {
        return false;
    }
    self.hit = false;
    *report = (SigbusReport) {
        .addr = self.addr,
        .lsb = self.lsb,
        .action_required = true,
    };
    return true;
}

uint64_t sigbus_intake_taken(void)
{
    return qatomic_read(&intake.taken);
}

uint64_t sigbus_intake_dropped(void)
{
    return qatomic_read(&intake.dropped);
}
