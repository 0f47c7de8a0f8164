#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""build/ARCH: configure and build QEMU from the prepared tree.

  build.py        the QEMU that runs guests on hosts of ARCH
  build.py lab    also the one that emulates such a host on this machine
"""

import os
import re
import shutil
import sys

import cross
import debian
import layout
import packages
import prepare
import ui
from layout import BUILD, PYTHON

# For tests that only look for errors: built in half the time
QUICK = ['--extra-cflags=-O1']
NATIVE = 'x86_64'       # build/x86_64: what runs on this machine
CROSS = 'aarch64'       # build/aarch64: what runs on an arm64 host, under KVM
# Build directories: targets, options besides OPTIONS.  A target that nobody
# asks ninja for costs nothing.
DIRECTORIES = {
    NATIVE: (['x86_64', 'aarch64'], ['--with-devices-aarch64=emulator']),
    'x86_64-asan': (['x86_64'], ['--enable-asan', '--enable-ubsan', *QUICK]),
    'x86_64-tsan': (['x86_64'], ['--enable-tsan', *QUICK]),
    CROSS: (['aarch64'], ['--disable-tcg', *cross.OPTIONS]),
}
# -g1: stack traces have lines, and a tenth of the time is saved
OPTIONS = '''--without-default-features --enable-system --enable-kvm
    --enable-tcg --enable-hugetlbfs-ras --enable-vhost-user
    --enable-vhost-kernel --enable-vhost-net --enable-fdt=system
    --enable-pixman --enable-numa --enable-linux-aio
    --enable-linux-io-uring --enable-seccomp --disable-install-blobs
    --disable-docs --disable-download --extra-cflags=-g1'''.split()


def tools():
    """The directory with a meson that QEMU 10.0 accepts (>= 1.5)."""
    there = BUILD / 'tools'
    if not (there / 'usr/lib/python3/dist-packages/mesonbuild').is_dir():
        debs = debian.download(['meson'])
        with layout.complete_dir(there) as part:
            debian.unpack(debs, part)
    return there


def environment(name):
    """For programs that configure or build directory @name."""
    env = dict(os.environ)
    env['PYTHONPATH'] = str(tools() / 'usr/lib/python3/dist-packages')
    for var in ('DESTDIR', 'MAKEFLAGS', 'MAKELEVEL', 'MFLAGS', 'ARCH'):
        env.pop(var, None)
    env['CC'] = env.get('CC') or 'gcc'
    if name == CROSS:
        env.update(cross.environment())
    if shutil.which('ccache'):
        env['CC'] = 'ccache ' + env['CC']
        # -MD gives the dependencies: no preprocessor run of ccache's own
        env.setdefault('CCACHE_DEPEND', '1')
    return env


def _leave_boards_out(tree):
    """A device configuration in which aarch64 has the machine virt only.

    A third of what the emulator of an arm64 host would take to build is boards.
    The default configuration names them all, commented out.  What lies in the
    tree is a link, since a new file there would be an edit that is in no patch.
    """
    devices = tree / 'configs/devices'
    boards = [line[2:] for arch in ('arm', 'aarch64') for line in
              (devices / (arch + '-softmmu/default.mak')).read_text()
              .splitlines() if re.fullmatch(r'# CONFIG_\w+=n', line)
              and not re.search('_VIRT|_DEVICES', line)]
    config = BUILD / 'emulator.mak'
    text = '\n'.join(['include default.mak', *boards, ''])
    if not config.exists() or config.read_text() != text:
        config.write_text(text)
    here = devices / 'aarch64-softmmu' / config.name
    if not here.is_symlink():
        here.symlink_to(os.path.relpath(config, here.parent.resolve()))


def configured(name):
    """The build directory @name of DIRECTORIES, configured."""
    where = BUILD / name
    targets, options = DIRECTORIES[name]
    tree = prepare.prepare()
    _leave_boards_out(tree)
    cmd = [str(tree / 'configure'), '--python=' + PYTHON, *OPTIONS,
           '--target-list=' + ','.join(t + '-softmmu' for t in targets),
           *options]
    stamp = where / 'configured-by'
    if stamp.exists() and stamp.read_text() == '\n'.join(cmd):
        return where
    layout.need_disk(1200, 'the build')
    if name == CROSS:
        cross.sysroot()
    layout.remove(where)
    where.mkdir(parents=True)
    try:
        ui.run(cmd, 'configure ' + name,
               log=BUILD / ('configure-%s.log' % name), cwd=where,
               env=environment(name))
        for site in where.glob('pyvenv/lib/python3*/site-packages'):
            # so that plain `ninja` in this directory finds our meson too
            (site / 'meson.pth').write_text(
                environment(name)['PYTHONPATH'] + '\n')
        stamp.write_text('\n'.join(cmd))
    finally:
        if not stamp.exists():
            layout.remove(where)
    return where


def _steps(line):
    line = line or ''
    return line[:line.find(']') + 1] if line.startswith('[') else None


def ninja(where, targets, what):
    """Build @targets in @where; what is built already costs a second."""
    ui.run(['ninja', *targets], what, log=BUILD / (where.name + '.log'),
           cwd=where, env=environment(where.name), how_far=_steps)


def _program(name, arch):
    """Path of the QEMU for target @arch, built in directory @name."""
    program = 'qemu-system-' + arch
    with layout.only_one(BUILD / (name + '.lock')):
        where = configured(name)
        ninja(where, [program], 'build ' + program)
    return where / program


def native(arch):
    """Path of the QEMU that emulates @arch on this machine (TCG)."""
    packages.ensure('build')
    return _program(NATIVE, arch)


def qemu(arch):
    """Path of the QEMU that runs guests on hosts of @arch (KVM)."""
    packages.ensure('build', *(['cross'] if arch == CROSS else []))
    return _program(arch, arch)


def main():
    arch = layout.arch()
    ui.say('built: %s' % qemu(arch))
    if 'lab' in sys.argv[1:] and arch != NATIVE:
        ui.say('built: %s' % native(arch))


if __name__ == '__main__':
    ui.main(main)
