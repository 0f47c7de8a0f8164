/*
 * Tests of the intake of memory failures
 *
 * A real SIGBUS of the kind cannot be had without poisoning memory of the
 * host, so a real signal handler gets a made-up siginfo_t.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/thread.h"
#include "system/sigbus-intake.h"

#define PRODUCERS 8
#define POSTS 20000
#define ASKS 2000
#define FAULTS 300

/* What a report says: who sent it, and which one it is */
#define ADDR(producer, n) ((void *)(((uintptr_t)(producer) + 1) << 32 | (n)))
#define ADDR_PRODUCER(addr) (((uintptr_t)(addr) >> 32) - 1)
#define ADDR_NUMBER(addr) ((uintptr_t)(addr) & UINT32_MAX)
#define ADDR_END ((void *)1)
/* An action-optional error that interrupts whatever a thread does */
#define ADDR_INTERRUPT ((void *)2)
/*
 * Its signal.  ThreadSanitizer takes SIGBUS for an error of the thread itself
 * and lets it interrupt even its own runtime, which then waits for itself.
 */
#define INTERRUPT SIGUSR1

static __thread siginfo_t made_up;
static __thread bool handled;
static __thread int signals;

static void handler(int sig, siginfo_t *si, void *opaque)
{
    int saved_errno = errno;

    errno = ENOTTY;
    handled = sigbus_intake_signal(&made_up);
    g_assert_cmpint(errno, ==, ENOTTY);
    errno = saved_errno;
    signals++;
}

static void send_signal(int code, void *addr, int lsb)
{
    int before = signals;

    made_up.si_code = code;
    made_up.si_addr = addr;
    made_up.si_addr_lsb = lsb;
    handled = false;
    pthread_kill(pthread_self(), SIGBUS);
    while (signals == before) {
        g_usleep(1);
    }
}

static bool started;

static void intake_start(void)
{
    started = true;
    sigbus_intake_start(&error_abort);
}

typedef struct Listener {
    QemuThread thread;
    uint32_t next[PRODUCERS];
    uint64_t reports;
    uint64_t interrupts;
} Listener;

/* Verdict by number: each thread gets each of them. */
static SigbusVerdict verdict_of(void *addr)
{
    return SIGBUS_VERDICT_RETRY + ADDR_NUMBER(addr) % 3;
}

static void *listen_thread(void *opaque)
{
    Listener *l = opaque;
    SigbusReport report;

    for (;;) {
        sigbus_intake_next(&report);
        if (report.addr == ADDR_END) {
            return NULL;
        }
        l->reports++;
        if (report.addr == ADDR_INTERRUPT) {
            g_assert(!report.answer && !report.action_required);
            l->interrupts++;
            continue;
        }
        g_assert_cmpint(ADDR_PRODUCER(report.addr), <, PRODUCERS);
        g_assert_cmpint(ADDR_NUMBER(report.addr), ==,
                        l->next[ADDR_PRODUCER(report.addr)]);
        l->next[ADDR_PRODUCER(report.addr)]++;
        sigbus_intake_answer(&report, verdict_of(report.addr));
        g_assert(!report.answer);
    }
}

static void listener_start(Listener *l)
{
    memset(l, 0, sizeof(*l));
    qemu_thread_create(&l->thread, "listener", listen_thread, l,
                       QEMU_THREAD_JOINABLE);
}

static void listener_end(Listener *l)
{
    const SigbusReport end = { .addr = ADDR_END };

    while (!sigbus_intake_post(&end)) {
        g_usleep(1000);
    }
    qemu_thread_join(&l->thread);
}

typedef struct Producer {
    QemuThread thread;
    int index;
    uint64_t full;
    uint64_t signals;
    bool done;
} Producer;

static void producers_start(Producer *producers, void *(*run)(void *))
{
    memset(producers, 0, PRODUCERS * sizeof(*producers));
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i].index = i;
        qemu_thread_create(&producers[i].thread, "producer", run,
                           &producers[i], QEMU_THREAD_JOINABLE);
    }
}

static void producers_join(Producer *producers)
{
    for (int i = 0; i < PRODUCERS; i++) {
        qemu_thread_join(&producers[i].thread);
    }
}

/* Before anything starts the intake: nothing is taken. */
static void test_not_started(void)
{
    SigbusReport report;
    sigset_t set;

    if (started) {
        g_test_skip("another test was first");
        return;
    }
    send_signal(BUS_MCEERR_AR, ADDR(0, 0), 12);
    g_assert(!handled);
    g_assert(!sigbus_intake_vcpu_enter());
    send_signal(BUS_MCEERR_AR, ADDR(0, 0), 12);
    g_assert(!handled);
    g_assert(!sigbus_intake_vcpu_leave(&report));
    g_assert_cmpint(sigbus_intake_taken(), ==, 0);

    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    intake_start();
    pthread_sigmask(0, NULL, &set);
    g_assert(!sigismember(&set, SIGBUS));
}

static void *post_thread(void *opaque)
{
    Producer *p = opaque;

    for (int n = 0; n < POSTS; n++) {
        const SigbusReport report = { .addr = ADDR(p->index, n) };

        while (!sigbus_intake_post(&report)) {
            p->full++;
            sched_yield();
        }
    }
    return NULL;
}

static void test_many_producers(void)
{
    uint64_t taken, dropped, full = 0;
    Producer producers[PRODUCERS];
    Listener listener;

    intake_start();
    taken = sigbus_intake_taken();
    dropped = sigbus_intake_dropped();
    listener_start(&listener);
    producers_start(producers, post_thread);
    producers_join(producers);
    listener_end(&listener);
    g_assert_cmpint(listener.reports, ==, PRODUCERS * POSTS);
    for (int i = 0; i < PRODUCERS; i++) {
        g_assert_cmpint(listener.next[i], ==, POSTS);
        full += producers[i].full;
    }
    g_assert_cmpint(sigbus_intake_taken() - taken, >=, PRODUCERS * POSTS + 1);
    g_assert_cmpint(sigbus_intake_dropped() - dropped, >=, full);
}

static void test_overflow(void)
{
    SigbusReport report = {};
    uint64_t taken, dropped;

    intake_start();
    taken = sigbus_intake_taken();
    dropped = sigbus_intake_dropped();
    for (int i = 0; i < SIGBUS_RING_SIZE; i++) {
        report.addr = ADDR(0, i);
        g_assert(sigbus_intake_post(&report));
    }
    g_assert_cmpint(sigbus_intake_taken() - taken, ==, SIGBUS_RING_SIZE);
    report.addr = ADDR(1, 0);
    g_assert(!sigbus_intake_post(&report));
    /* Who waits for a verdict is sent back, and does not wait. */
    g_assert_cmpint(sigbus_intake_ask(&report), ==, SIGBUS_VERDICT_RETRY);
    /* An error in the background is dropped, which is not the handler's end. */
    send_signal(BUS_MCEERR_AO, ADDR(1, 1), 12);
    g_assert(handled);
    send_signal(BUS_MCEERR_AR, ADDR(1, 2), 12);
    g_assert(handled);
    g_assert_cmpint(sigbus_intake_dropped() - dropped, ==, 4);
    g_assert_cmpint(sigbus_intake_taken() - taken, ==, SIGBUS_RING_SIZE);

    /* Room for one, and the order is kept. */
    sigbus_intake_next(&report);
    g_assert(report.addr == ADDR(0, 0));
    report.addr = ADDR(0, SIGBUS_RING_SIZE);
    g_assert(sigbus_intake_post(&report));
    g_assert(!sigbus_intake_post(&report));
    for (int i = 1; i <= SIGBUS_RING_SIZE; i++) {
        sigbus_intake_next(&report);
        g_assert(report.addr == ADDR(0, i));
    }
}

static void *ask_thread(void *opaque)
{
    Producer *p = opaque;

    for (int n = 0; n < ASKS; n++) {
        SigbusReport report = { .addr = ADDR(p->index, n) };

        g_assert_cmpint(sigbus_intake_ask(&report), ==,
                        verdict_of(report.addr));
        g_assert_cmpint(report.since, >, 0);
    }
    return NULL;
}

static void test_verdicts(void)
{
    Producer producers[PRODUCERS];
    Listener listener;

    intake_start();
    listener_start(&listener);
    producers_start(producers, ask_thread);
    producers_join(producers);
    listener_end(&listener);
    g_assert_cmpint(listener.reports, ==, PRODUCERS * ASKS);
}

/* A thread that touched a poisoned page waits in the handler. */
static void *fault_thread(void *opaque)
{
    Producer *p = opaque;

    for (int n = 0; n < FAULTS; n++) {
        send_signal(BUS_MCEERR_AR, ADDR(p->index, n), 21);
        g_assert(handled == (verdict_of(ADDR(p->index, n)) ==
                             SIGBUS_VERDICT_RETRY));
    }
    return NULL;
}

static void test_signal_required(void)
{
    Producer producers[PRODUCERS];
    Listener listener;

    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);
    char line[256];
    int last_words = 0;

    g_assert(file && saved >= 0);
    dup2(fileno(file), STDERR_FILENO);
    intake_start();
    listener_start(&listener);
    producers_start(producers, fault_thread);
    producers_join(producers);
    listener_end(&listener);
    dup2(saved, STDERR_FILENO);
    close(saved);
    g_assert_cmpint(listener.reports, ==, PRODUCERS * FAULTS);

    /* A process that cannot go on says why: 2 of 3 verdicts */
    rewind(file);
    while (fgets(line, sizeof(line), file)) {
        g_assert(strstr(line, "touched memory lost to a memory failure"));
        last_words++;
    }
    g_assert_cmpint(last_words, ==, PRODUCERS * (FAULTS / 3 * 2));
    fclose(file);
}

static void test_signal_optional(void)
{
    SigbusReport report;

    intake_start();
    send_signal(BUS_MCEERR_AO, ADDR(0, 7), 12);
    g_assert(handled);
    sigbus_intake_next(&report);
    g_assert(report.addr == ADDR(0, 7));
    g_assert_cmpint(report.lsb, ==, 12);
    g_assert(!report.action_required && !report.injected && !report.answer);
}

static void test_signal_other(void)
{
    uint64_t taken;

    intake_start();
    taken = sigbus_intake_taken();
    send_signal(BUS_ADRERR, ADDR(0, 0), 0);
    g_assert(!handled);
    send_signal(SI_USER, ADDR(0, 0), 0);
    g_assert(!handled);
    g_assert_cmpint(sigbus_intake_taken(), ==, taken);
}

static void *vcpu_thread(void *opaque)
{
    SigbusReport report;
    uint64_t taken = sigbus_intake_taken();

    g_assert(sigbus_intake_vcpu_enter());
    g_assert(!sigbus_intake_vcpu_leave(&report));

    g_assert(sigbus_intake_vcpu_enter());
    send_signal(BUS_MCEERR_AR, ADDR(0, 1), 12);
    g_assert(handled);
    send_signal(BUS_MCEERR_AR, ADDR(0, 2), 21);
    g_assert(handled);
    g_assert_cmpint(sigbus_intake_taken(), ==, taken);
    g_assert(sigbus_intake_vcpu_leave(&report));
    g_assert(report.addr == ADDR(0, 2));
    g_assert_cmpint(report.lsb, ==, 21);
    g_assert(report.action_required && !report.injected && !report.answer);

    /* Told once */
    g_assert(sigbus_intake_vcpu_enter());
    g_assert(!sigbus_intake_vcpu_leave(&report));

    /* What is not the guest's is not kept for it. */
    g_assert(sigbus_intake_vcpu_enter());
    send_signal(BUS_MCEERR_AO, ADDR(0, 3), 12);
    g_assert(handled);
    g_assert(!sigbus_intake_vcpu_leave(&report));
    sigbus_intake_next(&report);
    g_assert(report.addr == ADDR(0, 3));
    return NULL;
}

static void test_in_guest(void)
{
    QemuThread thread;

    intake_start();
    qemu_thread_create(&thread, "vcpu", vcpu_thread, NULL,
                       QEMU_THREAD_JOINABLE);
    qemu_thread_join(&thread);
}

/* Signals at any point of a push, a wait or a verdict: no report is lost. */
static void *interrupted_thread(void *opaque)
{
    Producer *p = opaque;
    sigset_t set;

    made_up.si_code = BUS_MCEERR_AO;
    made_up.si_addr = ADDR_INTERRUPT;
    sigemptyset(&set);
    sigaddset(&set, INTERRUPT);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    ask_thread(opaque);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    p->signals = signals;
    qatomic_set(&p->done, true);
    return NULL;
}

static void test_interrupted(void)
{
    Producer producers[PRODUCERS];
    uint64_t dropped, sum = 0;
    Listener listener;
    bool busy = true;

    intake_start();
    dropped = sigbus_intake_dropped();
    listener_start(&listener);
    producers_start(producers, interrupted_thread);
    while (busy) {
        busy = false;
        for (int i = 0; i < PRODUCERS; i++) {
            if (!qatomic_read(&producers[i].done)) {
                pthread_kill(producers[i].thread.thread, INTERRUPT);
                busy = true;
            }
        }
        g_usleep(50);
    }
    producers_join(producers);
    listener_end(&listener);
    for (int i = 0; i < PRODUCERS; i++) {
        g_assert_cmpint(listener.next[i], ==, ASKS);
        sum += producers[i].signals;
    }
    g_assert_cmpint(sum, >, 0);
    g_assert_cmpint(listener.interrupts, ==,
                    sum - (sigbus_intake_dropped() - dropped));
}

int main(int argc, char **argv)
{
    struct sigaction action = {
        .sa_sigaction = handler,
        .sa_flags = SA_SIGINFO,
    };

    g_test_init(&argc, &argv, NULL);
    sigaction(SIGBUS, &action, NULL);
    sigaction(INTERRUPT, &action, NULL);
    g_test_add_func("/sigbus-intake/not-started", test_not_started);
    g_test_add_func("/sigbus-intake/many-producers", test_many_producers);
    g_test_add_func("/sigbus-intake/overflow", test_overflow);
    g_test_add_func("/sigbus-intake/verdicts", test_verdicts);
    g_test_add_func("/sigbus-intake/signal/required", test_signal_required);
    g_test_add_func("/sigbus-intake/signal/optional", test_signal_optional);
    g_test_add_func("/sigbus-intake/signal/other", test_signal_other);
    g_test_add_func("/sigbus-intake/in-guest", test_in_guest);
    g_test_add_func("/sigbus-intake/interrupted", test_interrupted);
    return g_test_run();
}
