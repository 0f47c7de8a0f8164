# SPDX-License-Identifier: GPL-2.0-or-later
"""Writer of initramfs images (the "newc" format of cpio)."""

from pathlib import Path


class Initramfs:
    def __init__(self, path):
        self.path = Path(path)
        self.out = open(path, 'wb')
        self.inode = 0
        self.dirs = set()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self._entry('TRAILER!!!', 0, b'')
        self.out.close()
        if kind:
            self.path.unlink()

    def _entry(self, name, mode, data):
        self.inode += 1
        name = name.encode() + b'\0'
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0,
                  len(name), 0)
        head = b'070701' + b''.join(b'%08X' % f for f in fields) + name
        self.out.write(head + b'\0' * (-len(head) % 4))
        self.out.write(data)
        self.out.write(b'\0' * (-len(data) % 4))

    def directory(self, name):
        name = name.strip('/')
        if not name or name in self.dirs:
            return
        if '/' in name:
            self.directory(name.rsplit('/', 1)[0])
        self.dirs.add(name)
        self._entry(name, 0o040755, b'')

    def data(self, name, data, mode=0o644):
        name = name.strip('/')
        if '/' in name:
            self.directory(name.rsplit('/', 1)[0])
        self._entry(name, 0o100000 | mode, data)

    def file(self, name, source, mode=0o644):
        self.data(name, Path(source).read_bytes(), mode)

    def link(self, name, target):
        name = name.strip('/')
        if '/' in name:
            self.directory(name.rsplit('/', 1)[0])
        self._entry(name, 0o120777, target.encode())
