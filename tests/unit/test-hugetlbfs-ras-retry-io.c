/*
 * Tests of what is tried again because guest RAM is being recovered
 *
 * The poison is what the kernel puts in place of a lost page; the recovery is
 * made up and puts memory there.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <scsi/sg.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include "io/channel-socket.h"
#include "qapi/error.h"
#include "qemu/hugepage-split.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "system/hugetlbfs-ras.h"
#include "system/hugetlbfs-ras-io.h"
#include "system/hugetlbfs-ras/ras.h"

#define HUGE_PAGE (64 * KiB)    /* nothing here needs a real one */
#define NPAGES 4

HugetlbfsRas hugetlbfs_ras;

static RasBackend backend;
static size_t small;
/* What the recovery was asked about, and what it says */
static void *asked[8];
static int n_asked;
static SigbusVerdict verdict;

RasBackend *ras_backend_at(HugetlbfsRas *ras, const void *host)
{
    bool inside = (const uint8_t *)host - backend.host < backend.size;

    return inside ? &backend : NULL;
}

SigbusVerdict sigbus_intake_ask(SigbusReport *report)
{
    g_assert_cmpint(n_asked, <, ARRAY_SIZE(asked));
    g_assert(report->action_required && !report->injected);
    asked[n_asked++] = report->addr;
    if (verdict == SIGBUS_VERDICT_RETRY) {
        g_assert(madvise(QEMU_ALIGN_PTR_DOWN(report->addr, small), small,
                         MADV_DONTNEED) == 0);
    }
    errno = EINVAL;     /* it may change */
    return verdict;
}

static void set_up(void)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;

    small = qemu_real_host_page_size();
    memset(ras, 0, sizeof(*ras));
    memset(&backend, 0, sizeof(backend));
    qemu_mutex_init(&ras->lock);
    backend.size = NPAGES * HUGE_PAGE;
    backend.page_size = HUGE_PAGE;
    backend.host = mmap(NULL, backend.size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert(backend.host != MAP_FAILED);
    ras->started = true;
    n_asked = 0;
    verdict = SIGBUS_VERDICT_RETRY;
}

static void tear_down(void)
{
    munmap(backend.host, backend.size);
    qemu_mutex_destroy(&hugetlbfs_ras.lock);
}

/* Returns the address of the small page */
static uint8_t *poison(size_t offset)
{
    uint8_t *page = backend.host + QEMU_ALIGN_DOWN(offset, small);

    hugepage_split_lose(page, small, &error_abort);
    g_assert(hugepage_split_is_lost(page, small));
    return page;
}

static bool retry(void *host, size_t length)
{
    struct iovec iov[] = {
        { .iov_base = &small, .iov_len = sizeof(small) },   /* not guest RAM */
        { .iov_base = host, .iov_len = length },
    };
    bool again;

    errno = EFAULT;
    again = hugetlbfs_ras_retry_io(iov, ARRAY_SIZE(iov));
    g_assert_cmpint(errno, ==, EFAULT);
    return again;
}

static void test_recovered(void)
{
    uint8_t *first, *second, *third;

    set_up();
    first = poison(HUGE_PAGE - 1);
    second = poison(2 * HUGE_PAGE);
    third = poison(2 * HUGE_PAGE + 2 * small);
    /* The read begins in the middle of the first one. */
    g_assert(retry(first + 10, 2 * HUGE_PAGE));
    g_assert_cmpint(n_asked, ==, 3);
    g_assert(asked[0] == first + 10);
    g_assert(asked[1] == second);
    g_assert(asked[2] == third);
    tear_down();
}

/* Not even if something was recovered a moment ago */
static void test_lost(void)
{
    const SigbusVerdict no[] = { SIGBUS_VERDICT_LOST, SIGBUS_VERDICT_STOCK };

    for (int i = 0; i < ARRAY_SIZE(no); i++) {
        set_up();
        poison(3 * small);
        verdict = no[i];
        hugetlbfs_ras.last_work = get_clock();
        g_assert(!retry(backend.host, HUGE_PAGE));
        g_assert_cmpint(n_asked, ==, 1);
        tear_down();
    }
}

static void test_beside(void)
{
    set_up();
    poison(0);
    poison(2 * HUGE_PAGE);
    g_assert(!retry(backend.host + small, 2 * HUGE_PAGE - small));
    g_assert_cmpint(n_asked, ==, 0);
    tear_down();
}

/* Whoever looks late finds nothing wrong: see ras_is_recent(). */
static void test_too_late(void)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    int elsewhere;

    set_up();
    g_assert(!retry(backend.host, HUGE_PAGE));
    ras->busy = 1;
    g_assert(retry(backend.host, HUGE_PAGE));
    ras->busy = 0;
    ras->last_work = get_clock() - NANOSECONDS_PER_SECOND;
    g_assert(retry(backend.host, HUGE_PAGE));
    g_assert(!retry(&elsewhere, sizeof(elsewhere)));
    ras->last_work = get_clock() - 3 * NANOSECONDS_PER_SECOND;
    g_assert(!retry(backend.host, HUGE_PAGE));
    g_assert_cmpint(n_asked, ==, 0);
    tear_down();
}

static void test_not_ours(void)
{
    struct iovec iov;

    set_up();
    poison(0);
    iov = (struct iovec) { .iov_base = backend.host, .iov_len = small };
    errno = EIO;
    g_assert(!hugetlbfs_ras_retry_io(&iov, 1));
    g_assert_cmpint(errno, ==, EIO);
    hugetlbfs_ras.started = false;
    g_assert(!retry(backend.host, HUGE_PAGE));
    g_assert_cmpint(n_asked, ==, 0);
    tear_down();
}

static void test_emulation(void)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;

    set_up();
    g_assert(!hugetlbfs_ras_retry_emulation());
    ras->last_work = get_clock();
    g_assert(hugetlbfs_ras_retry_emulation());
    ras->last_work = 0;
    ras->busy = 1;
    g_assert(hugetlbfs_ras_retry_emulation());
    ras->started = false;
    g_assert(!hugetlbfs_ras_retry_emulation());
    tear_down();
}

/* What a device does with a transfer, one word for each attempt */
static const char *attempts;

/* Takes the place of the C library's for all but SG_IO. */
int ioctl(int fd, unsigned long request, ...)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (request != SG_IO || fd >= 0) {
        return syscall(SYS_ioctl, fd, request, arg);
    }
    switch (*attempts++) {
    case 'F':       /* meets poison */
        errno = EFAULT;
        return -1;
    case 'E':       /* fails for another reason */
        errno = EIO;
        return -1;
    case 'R':       /* memory is replaced meanwhile */
        ras->generation++;
        return 0;
    case 'G':
        return 0;
    default:
        g_assert_not_reached();
    }
}

static void test_ioctl(void)
{
    static const struct {
        int direction;
        bool iov;
        const char *attempts;
        int result;
    } cases[] = {
        { SG_DXFER_FROM_DEV, true, "G", 0 },
        { SG_DXFER_FROM_DEV, true, "FRRG", 0 },
        { SG_DXFER_FROM_DEV, true, "RE", -1 },
        { SG_DXFER_TO_DEV, true, "FR", 0 },
        { SG_DXFER_FROM_DEV, false, "F", -1 },
        { SG_DXFER_FROM_DEV, false, "R", 0 },
    };

    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        struct iovec iov;
        sg_io_hdr_t hdr = {
            .dxfer_direction = cases[i].direction,
            .iovec_count = cases[i].iov,
            .dxferp = &iov,
        };

        set_up();
        iov = (struct iovec) { backend.host, small };
        hugetlbfs_ras.busy = 1;
        attempts = cases[i].attempts;
        g_assert_cmpint(hugetlbfs_ras_ioctl(-1, SG_IO, &hdr), ==,
                        cases[i].result);
        g_assert_cmpint(*attempts, ==, 0);
        tear_down();
    }
}

/* What is received stays in the socket until it can be had. */
static void test_socket(void)
{
    g_autoptr(QIOChannelSocket) sioc = NULL;
    char text[] = "abc";
    QIOChannel *ioc;
    Error *err = NULL;
    char *page;
    int fds[2];

    set_up();
    g_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    sioc = qio_channel_socket_new_fd(fds[0], &error_abort);
    ioc = QIO_CHANNEL(sioc);
    page = (char *)poison(0);
    g_assert(write(fds[1], text, sizeof(text)) == sizeof(text));
    g_assert(qio_channel_read(ioc, page, small, &error_abort) == sizeof(text));
    g_assert_cmpstr(page, ==, "abc");
    g_assert_cmpint(n_asked, ==, 1);

    poison(0);
    g_assert(qio_channel_write(ioc, page, sizeof(text), &error_abort) ==
             sizeof(text));
    g_assert(read(fds[1], text, sizeof(text)) == sizeof(text));
    g_assert_cmpint(text[0], ==, 0);
    g_assert_cmpint(n_asked, ==, 2);

    poison(0);
    verdict = SIGBUS_VERDICT_LOST;
    g_assert(write(fds[1], text, sizeof(text)) == sizeof(text));
    g_assert(qio_channel_read(ioc, page, small, &err) == -1);
    error_free_or_abort(&err);
    close(fds[1]);
    tear_down();
}

static void run_main_loop(int ms)
{
    int64_t end = get_clock() + ms * SCALE_MS;

    while (get_clock() < end) {
        main_loop_wait(true);
        g_usleep(SCALE_MS / SCALE_US);
    }
}

static void test_vring(void)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    EventNotifier now, soon, never;

    set_up();
    g_assert_cmpint(event_notifier_init(&now, 0), ==, 0);
    g_assert_cmpint(event_notifier_init(&soon, 0), ==, 0);
    g_assert_cmpint(event_notifier_init(&never, 0), ==, 0);
    hugetlbfs_ras_retry_vring(&never);
    run_main_loop(300);
    ras->busy = 1;
    hugetlbfs_ras_retry_vring(&now);
    run_main_loop(50);
    g_assert(event_notifier_test_and_clear(&now));
    ras->busy = 0;
    hugetlbfs_ras_retry_vring(&soon);
    run_main_loop(20);
    g_assert(!event_notifier_test_and_clear(&soon));
    ras->last_work = get_clock();
    run_main_loop(50);
    g_assert(event_notifier_test_and_clear(&soon));
    g_assert(!event_notifier_test_and_clear(&now));
    g_assert(!event_notifier_test_and_clear(&never));
    ras->started = false;
    hugetlbfs_ras_retry_vring(&never);
    run_main_loop(50);
    g_assert(!event_notifier_test_and_clear(&never));
    event_notifier_cleanup(&now);
    event_notifier_cleanup(&soon);
    event_notifier_cleanup(&never);
    tear_down();
}

static unsigned open_descriptors(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned count = 0;

    while (g_dir_read_name(dir)) {
        count++;
    }
    return count;
}

/* A guest can make as many errors as it likes, and take a device away. */
static void test_vring_often(void)
{
    HugetlbfsRas *ras = &hugetlbfs_ras;
    unsigned before = open_descriptors();
    EventNotifier e;

    set_up();
    ras->busy = 1;
    g_assert_cmpint(event_notifier_init(&e, 0), ==, 0);
    for (int i = 0; i < 1000; i++) {
        hugetlbfs_ras_retry_vring(&e);
    }
    g_assert_cmpint(open_descriptors(), <=, before + 2);
    event_notifier_cleanup(&e);
    run_main_loop(50);
    g_assert_cmpint(open_descriptors(), ==, before);
    tear_down();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    module_call_init(MODULE_INIT_QOM);
    qemu_init_main_loop(&error_abort);
    g_test_add_func("/hugetlbfs-ras/retry-io/recovered", test_recovered);
    g_test_add_func("/hugetlbfs-ras/retry-io/lost", test_lost);
    g_test_add_func("/hugetlbfs-ras/retry-io/beside", test_beside);
    g_test_add_func("/hugetlbfs-ras/retry-io/too-late", test_too_late);
    g_test_add_func("/hugetlbfs-ras/retry-io/not-ours", test_not_ours);
    g_test_add_func("/hugetlbfs-ras/retry-io/emulation", test_emulation);
    g_test_add_func("/hugetlbfs-ras/retry-io/ioctl", test_ioctl);
    g_test_add_func("/hugetlbfs-ras/retry-io/socket", test_socket);
    g_test_add_func("/hugetlbfs-ras/retry-io/vring", test_vring);
    g_test_add_func("/hugetlbfs-ras/retry-io/vring/often", test_vring_often);
    return g_test_run();
}
