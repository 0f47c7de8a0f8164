#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian packages that each purpose needs on this machine."""

import os
import shutil
import subprocess
import sys

import ui
from ui import Failure

# what QEMU is linked with; for arm64 hosts in a sysroot of our own
LIBRARIES = '''libaio-dev libc6-dev libfdt-dev libglib2.0-dev libnuma-dev
    libpixman-1-dev libseccomp-dev liburing-dev zlib1g-dev'''.split()
BUILD = '''bison bzip2 ccache dpkg-dev flex gcc git make ninja-build perl
    pkg-config python3 python3-venv quilt xz-utils'''.split() + LIBRARIES
CROSS = 'gcc-aarch64-linux-gnu libc6-dev-arm64-cross'.split()
LAB = 'binutils gcc libc6-dev util-linux'.split()
CHECK = ['acpica-tools']
BENCH = ['python3-matplotlib']

PURPOSES = {'build': BUILD, 'cross': CROSS, 'lab': LAB, 'check': CHECK,
             'bench': BENCH}


def missing(names):
    out = subprocess.run(
        ['dpkg-query', '-W', '-f', '${Package} ${db:Status-Status}\n', *names],
        text=True, capture_output=True).stdout
    there = {line.split()[0] for line in out.splitlines()
             if line.endswith(' installed')}
    return [n for n in names if n not in there]


def ensure(*purposes):
    """Install what is missing for @purposes; touches nothing else."""
    names = sorted({n for p in purposes for n in PURPOSES[p]})
    if not shutil.which('dpkg-query') or not shutil.which('apt-get'):
        raise Failure('this is not a Debian system (no dpkg, no apt-get)',
                      'use Debian 12 or 13')
    names = missing(names)
    if not names:
        return
    by_hand = 'as root: apt-get install ' + ' '.join(names)
    root = []
    if os.geteuid() != 0:
        if not shutil.which('sudo'):
            raise Failure('packages are missing, and this is neither root '
                          'nor is there sudo', by_hand)
        ui.say('sudo, to install: ' + ' '.join(names))
        if subprocess.run(['sudo', '-v']).returncode:
            raise Failure('packages are missing, and sudo refuses', by_hand)
        root = ['sudo']
    apt = [*root, 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '-q',
           '-o', 'DPkg::Lock::Timeout=120']
    # a foreign source that fails is not our business: install decides
    subprocess.run([*apt, 'update'], stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ui.run([*apt, 'install', '-y', '--no-install-recommends', *names],
           'install ' + ' '.join(names),
           way_out='check the network and apt, or, ' + by_hand)


if __name__ == '__main__':
    ui.main(lambda: ensure(*(sys.argv[1:] or PURPOSES)))
