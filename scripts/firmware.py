#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Firmware for QEMU's own tests: Debian's source package has none of it."""

import debian
import layout
import ui
from layout import BUILD

PACKAGES = ['ipxe-qemu', 'qemu-system-data', 'seabios']
SUFFIXES = {'.bin', '.rom'}


def firmware():
    """The directory with the unpacked firmware files."""
    debs = debian.download(PACKAGES)

    def fill(part):
        debian.unpack(debs, part / 'all')
        for path in sorted((part / 'all').rglob('*')):
            if path.suffix in SUFFIXES and path.is_file():
                (part / path.name).write_bytes(path.read_bytes())
        layout.remove(part / 'all')

    return layout.made_from(BUILD / 'firmware',
                            sorted(d.name for d in debs), fill)


def install(build):
    """Put the firmware where the QEMU of directory @build looks for it."""
    there = build / 'qemu-bundle/usr/local/share/qemu'
    there.mkdir(parents=True, exist_ok=True)
    for path in firmware().iterdir():
        link = there / path.name
        if path.suffix in SUFFIXES and not link.exists():
            layout.remove(link)         # may be a link into the void
            link.symlink_to(path)


if __name__ == '__main__':
    ui.main(lambda: ui.say(str(firmware())))
