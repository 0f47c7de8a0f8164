/*
 * Tests of the recovery from memory failures: the host around QEMU
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/sockets.h"
#include "libqtest.h"
#include "hugetlbfs-ras-host.h"

void fake_host_file(FakeHost *host, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(host->dir, name, NULL);
    FILE *file = fopen(path, "w");

    /* The same inode, or a bind mount would not see it */
    g_assert(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

bool fake_host_start(FakeHost *host, const char *mounts)
{
    g_autofree char *binary = NULL;

    if (geteuid() || system("unshare -m true")) {
        g_test_skip("no mount namespace can be had");
        return false;
    }
    host->dir = g_dir_make_tmp("hugetlbfs-ras-XXXXXX", NULL);
    host->binary = g_strdup(getenv("QTEST_QEMU_BINARY"));
    binary = g_strdup_printf("unshare -m sh -c 'D=%s && %s && "
                             "exec %s \"$@\"' sh", host->dir, mounts,
                             host->binary);
    setenv("QTEST_QEMU_BINARY", binary, 1);
    return true;
}

void fake_host_end(FakeHost *host)
{
    static const char *const files[] = { "meminfo", "max", "current" };

    setenv("QTEST_QEMU_BINARY", host->binary, 1);
    for (int i = 0; i < ARRAY_SIZE(files); i++) {
        g_autofree char *path = g_build_filename(host->dir, files[i], NULL);

        unlink(path);
    }
    rmdir(host->dir);
    g_free(host->dir);
    g_free(host->binary);
}

typedef struct QEMU_PACKED PeerMessage {
    uint32_t request;
    uint32_t flags;
    uint32_t size;
    uint64_t value;
} PeerMessage;

#define PEER_GET_FEATURES 1
#define PEER_HEADER offsetof(PeerMessage, value)

static void peer_talk(int fd)
{
    PeerMessage msg;
    uint8_t payload[512];

    while (recv(fd, &msg, PEER_HEADER, MSG_WAITALL) == PEER_HEADER) {
        /* To receive nothing would wait for the next message. */
        if (msg.size > sizeof(payload) ||
            (msg.size &&
             recv(fd, payload, msg.size, MSG_WAITALL) != msg.size)) {
            return;
        }
        if (msg.request == PEER_GET_FEATURES) {
            msg.flags = 5;      /* version 1, reply */
            msg.size = sizeof(msg.value);
            msg.value = 1ULL << 32;     /* VIRTIO_F_VERSION_1 */
            if (send(fd, &msg, sizeof(msg), MSG_NOSIGNAL) != sizeof(msg)) {
                return;
            }
        }
    }
}

static gpointer peer_thread(gpointer opaque)
{
    FakePeer *peer = opaque;
    int fd;

    while ((fd = accept(peer->listener, NULL, NULL)) >= 0) {
        peer_talk(fd);
        close(fd);
    }
    return NULL;
}

bool fake_peer_start(FakePeer *peer)
{
    Error *err = NULL;

    if (!qtest_has_device("vhost-user-rng-pci")) {
        g_test_skip("QEMU was built without vhost-user");
        return false;
    }
    peer->dir = g_dir_make_tmp("hugetlbfs-ras-XXXXXX", NULL);
    peer->path = g_build_filename(peer->dir, "peer", NULL);
    peer->listener = unix_listen(peer->path, &err);
    g_assert(!err);
    peer->thread = g_thread_new("peer", peer_thread, peer);
    return true;
}

void fake_peer_end(FakePeer *peer)
{
    shutdown(peer->listener, SHUT_RDWR);
    g_thread_join(peer->thread);
    close(peer->listener);
    unlink(peer->path);
    rmdir(peer->dir);
    g_free(peer->path);
    g_free(peer->dir);
}
