#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiler and libraries for an arm64 host, on this machine.

The libraries are those of the release that the machine runs, because its
cross compiler comes with the C library of that release.  They are unpacked
into a sysroot in build/; no arm64 package is installed.
"""

import os
import shutil

import debian
import layout
import packages
import ui

TRIPLET = 'aarch64-linux-gnu'
SYSROOT = layout.BUILD / ('sysroot-%s-arm64' % debian.release())
LIBRARIES = SYSROOT / 'usr/lib' / TRIPLET
OPTIONS = ['--cross-prefix=%s-' % TRIPLET,
           '--extra-cflags=--sysroot=%s' % SYSROOT]


def _merge_usr(root):
    """Make /lib a link to /usr/lib, as it is in the running system."""
    if (root / 'lib').is_dir():         # Debian 12 has packages with both
        shutil.copytree(root / 'lib', root / 'usr/lib', symlinks=True,
                        dirs_exist_ok=True)
        layout.remove(root / 'lib')
    (root / 'lib').symlink_to('usr/lib')


def _keep_links_inside(root):
    """Turn links to /x, which lead out of @root, into relative ones."""
    for path in root.rglob('*'):
        if path.is_symlink() and os.path.isabs(os.readlink(path)):
            inside = root / os.readlink(path).lstrip('/')
            path.unlink()
            path.symlink_to(os.path.relpath(inside, path.parent))


def sysroot():
    """The directory with what QEMU is linked with, made if not there."""
    def fill(part):
        debs = debian.download(packages.LIBRARIES, 'arm64', debian.release(),
                               deps='all')
        with ui.Step('unpack the libraries for arm64'):
            debian.unpack(debs, part)
            _merge_usr(part)
            _keep_links_inside(part)

    return layout.made_from(SYSROOT, packages.LIBRARIES, fill)


def environment():
    """Of a build; pkg-config looks into the sysroot only."""
    return {'CC': TRIPLET + '-gcc',
            'PKG_CONFIG': 'pkg-config',
            'PKG_CONFIG_PATH': '',
            'PKG_CONFIG_SYSROOT_DIR': str(SYSROOT),
            'PKG_CONFIG_LIBDIR': '%s/pkgconfig:%s/usr/share/pkgconfig'
                                 % (LIBRARIES, SYSROOT)}


if __name__ == '__main__':
    ui.main(lambda: ui.say(str(sysroot())))
