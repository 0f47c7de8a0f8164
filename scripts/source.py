#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The unmodified QEMU source: Debian's package, or the tree in QEMU_SRC."""

import hashlib
import os
import re
import shutil
from pathlib import Path

import debian
import layout
import ui
from layout import QEMU_VERSION
from ui import Failure

# not QEMU, or of no use in a copy
NOT_COPIED = {'.git', '.pc', 'debian'}
WAY_OUT = ('set QEMU_SRC to an unpacked QEMU %s.x source, or leave it unset '
           'to use the one of Debian' % QEMU_VERSION)


class Source:
    """@path: the tree, read only; @ident: changes when the tree does."""

    def __init__(self, path, ident):
        self.path, self.ident = path, ident
        self.version = (path / 'VERSION').read_text().strip()

    def copy(self, where):
        """Copy the tree into the directory @where."""
        with ui.Step('copy of QEMU %s' % self.version):
            shutil.copytree(self.path, where, symlinks=True,
                            dirs_exist_ok=True, ignore=self._ignore)
        keymap = where / 'subprojects/keycodemapdb/meson.build'
        if not keymap.exists():     # a fresh git checkout lacks it
            shutil.copytree(_debian().path / keymap.parent.relative_to(where),
                            keymap.parent, dirs_exist_ok=True)

    def _ignore(self, where, names):
        top = Path(where) == self.path
        return [n for n in names if n == '.git' or top and (
            n in NOT_COPIED or os.path.exists(
                os.path.join(where, n, 'build.ninja')))]


def check(path):
    """Fail unless @path is a source tree of the QEMU this series is for."""
    if not path.is_dir():
        raise Failure('QEMU_SRC=%s: no such directory' % path, WAY_OUT)
    version = path / 'VERSION'
    if not (version.is_file() and
            (path / 'include/hw/qdev-core.h').is_file()):
        raise Failure('QEMU_SRC=%s is not a QEMU source tree' % path, WAY_OUT)
    text = version.read_text().strip()
    if not re.match(re.escape(QEMU_VERSION) + r'\.\d+$', text):
        raise Failure('QEMU_SRC=%s is QEMU %s; this series is for %s.x'
                      % (path, text, QEMU_VERSION), WAY_OUT)


def _fingerprint(path):
    """Of names, sizes and times: sees an edit, costs no reading."""
    sha = hashlib.sha256(str(path).encode())
    for where, dirs, files in os.walk(path):
        dirs[:] = sorted(d for d in dirs if d != '.git' and not (
            Path(where) == path and os.path.exists(
                os.path.join(where, d, 'build.ninja'))))
        for f in sorted(files):
            st = os.lstat(os.path.join(where, f))
            sha.update(b'%s %d %d\n' % (os.path.join(where, f).encode(),
                                       st.st_size, st.st_mtime_ns))
    return sha.hexdigest()


def _debian():
    """Debian's source package, unpacked once into build/source."""
    unpacked = layout.BUILD / 'source'
    ident = unpacked / '.debian'        # inside, so that it goes along
    if not ident.exists():
        layout.need_disk(1200, "QEMU's source")
        dsc = debian.fetch_source('qemu')
        if not re.match(r'qemu_' + re.escape(QEMU_VERSION), dsc.name):
            raise Failure('Debian %s has %s, this series is for QEMU %s.x'
                          % (debian.SUITE, dsc.name, QEMU_VERSION), WAY_OUT)
        with layout.complete_dir(unpacked) as part:
            # apt has checked the signed lists and by them the files
            tree = part / 'tree'
            ui.run(['dpkg-source', '--no-check', '-x', str(dsc), str(tree)],
                   'unpack ' + dsc.name)
            for name in sorted(NOT_COPIED):
                layout.remove(tree / name)
            (part / '.debian').write_text(dsc.name)
    return Source(unpacked / 'tree', ident.read_text())


def get():
    """The Source that this run is to use."""
    own = os.environ.get('QEMU_SRC')
    if not own:
        return _debian()
    path = Path(own).expanduser().resolve()
    check(path)
    return Source(path, _fingerprint(path))


if __name__ == '__main__':
    ui.main(lambda: ui.say(str(get().path)))
