/*
 * Tests of the recovery from memory failures: the host around QEMU
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_HUGETLBFS_RAS_HOST_H
#define TESTS_HUGETLBFS_RAS_HOST_H

/**
 * FakeHost: QEMU in a mount namespace of its own, with files in /proc and
 * /sys as the test wants them
 *
 * @dir: where these files are
 * @binary: the real QTEST_QEMU_BINARY
 */
typedef struct FakeHost {
    char *dir;
    char *binary;
} FakeHost;

/**
 * fake_host_start: the next QEMU sees another host
 *
 * @mounts: shell commands; $D is the directory of the files, $$ QEMU
 *
 * Returns: false if the test was skipped.
 */
bool fake_host_start(FakeHost *host, const char *mounts);
/* Sets the text of "meminfo", "max" or "current". */
void fake_host_file(FakeHost *host, const char *name, const char *text);
void fake_host_end(FakeHost *host);

/**
 * FakePeer: the least a vhost-user process can do
 *
 * @path: socket that it listens at
 */
typedef struct FakePeer {
    char *dir;
    char *path;
    int listener;
    GThread *thread;
} FakePeer;

/* Returns: false if the test was skipped. */
bool fake_peer_start(FakePeer *peer);
void fake_peer_end(FakePeer *peer);

#endif /* TESTS_HUGETLBFS_RAS_HOST_H */
