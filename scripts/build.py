#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""build/ARCH: configure and build QEMU from the prepared tree."""

import os
import shutil

import debian
import layout
import packages
import prepare
import ui
from layout import BUILD, PYTHON

# Build directories: targets, options besides OPTIONS.  build/x86_64 has what
# runs on this machine, the QEMU of every target too, built when asked for.
DIRECTORIES = {
    'x86_64': (['x86_64', 'aarch64'], []),
    'x86_64-asan': (['x86_64'], ['--enable-asan', '--enable-ubsan']),
    'x86_64-tsan': (['x86_64'], ['--enable-tsan']),
}
OPTIONS = '''--without-default-features --enable-system --enable-kvm
    --enable-tcg --enable-hugetlbfs-ras --enable-vhost-user --enable-vhost-net
    --enable-fdt=system --enable-pixman --enable-numa --disable-install-blobs
    --disable-docs --disable-download'''.split()


def tools():
    """The directory with a meson that QEMU 10.0 accepts (>= 1.5)."""
    there = BUILD / 'tools'
    if not (there / 'usr/lib/python3/dist-packages/mesonbuild').is_dir():
        debs = debian.download(['meson'])
        with layout.complete_dir(there) as part:
            debian.unpack(debs, part)
    return there


def environment():
    env = dict(os.environ)
    env['PYTHONPATH'] = str(tools() / 'usr/lib/python3/dist-packages')
    for name in ('DESTDIR', 'MAKEFLAGS', 'MAKELEVEL', 'MFLAGS', 'ARCH'):
        env.pop(name, None)
    if shutil.which('ccache'):
        env['CC'] = 'ccache ' + (env.get('CC') or 'gcc')
    return env


def configured(name):
    """The build directory @name of DIRECTORIES, configured."""
    where = BUILD / name
    targets, options = DIRECTORIES[name]
    tree = prepare.prepare()
    cmd = [str(tree / 'configure'), '--python=' + PYTHON, *OPTIONS,
           '--target-list=' + ','.join(t + '-softmmu' for t in targets),
           *options]
    stamp = where / 'configured-by'
    if stamp.exists() and stamp.read_text() == '\n'.join(cmd):
        return where
    layout.need_disk(1200, 'the build')
    layout.remove(where)
    where.mkdir(parents=True)
    try:
        ui.run(cmd, 'configure ' + name,
               log=BUILD / ('configure-%s.log' % name), cwd=where,
               env=environment())
        for site in where.glob('pyvenv/lib/python3*/site-packages'):
            # so that plain `ninja` in this directory finds our meson too
            (site / 'meson.pth').write_text(environment()['PYTHONPATH'] + '\n')
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
           cwd=where, env=environment(), how_far=_steps)


def native(arch):
    """Path of the QEMU that emulates @arch on this machine (TCG)."""
    packages.ensure('build')
    program = 'qemu-system-' + arch
    with layout.only_one(BUILD / 'x86_64.lock'):
        where = configured('x86_64')
        ninja(where, [program], 'build ' + program)
    return where / program


def qemu(arch):
    """Path of the QEMU for hosts of @arch."""
    return native(arch)


def main():
    ui.say('built: %s' % qemu(layout.arch()))


if __name__ == '__main__':
    ui.main(main)
