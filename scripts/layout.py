# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things are.  BUILD_DIR in the environment moves every product."""

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from ui import Failure, say

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get('BUILD_DIR') or ROOT / 'build').resolve()
QEMU_VERSION = '10.0'
PATCHES = ROOT / 'patches' / QEMU_VERSION
PYTHON = '/usr/bin/python3'     # the first python3 in PATH may be another one
# QEMU's name of a target: Debian's name
ARCHES = {'x86_64': 'amd64', 'aarch64': 'arm64'}


def arch():
    """The ARCH parameter, checked."""
    name = os.environ.get('ARCH') or 'x86_64'
    if name not in ARCHES:
        raise Failure('unknown ARCH=%s' % name,
                      'use one of: ' + ' '.join(ARCHES))
    return name


def takes_no_arch(what):
    """Fail when ARCH asks @what for something that it does not have."""
    if arch() != 'x86_64':
        raise Failure('%s takes no ARCH' % what,
                      'leave ARCH=%s away; it is for `make qemu` and '
                      '`make demo`' % arch())


@contextlib.contextmanager
def only_one(path):
    """Hold the lock file @path, so that two runs do not mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w') as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('waiting for another run that holds %s' % path)
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def complete_dir(final):
    """Fill a new directory; it appears as @final only when complete."""
    part = final.with_name(final.name + '.part')
    remove(part)
    part.mkdir(parents=True)
    try:
        yield part
        remove(final)
        part.rename(final)
    finally:
        remove(part)


def made_from(final, ingredients, fill):
    """@final, a directory that @fill(dir) fills when @ingredients are new."""
    stamp = final / '.made-from'
    text = ' '.join(ingredients)
    if not stamp.exists() or stamp.read_text() != text:
        with complete_dir(final) as part:
            fill(part)
            (part / stamp.name).write_text(text)
    return final


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def need_disk(mib, what):
    """Fail early when BUILD has less than @mib MiB free."""
    BUILD.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(BUILD).free >> 20
    free = min(free, int(os.environ.get('TEST_FREE_MIB') or free))
    if free < mib:
        raise Failure('%s needs about %d MiB of disk, %s has %d MiB free'
                      % (what, mib, BUILD, free),
                      'free some space, or set BUILD_DIR=/on/a/bigger/disk')
