#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""One bad 4 KiB of the host's memory under a running guest: once with the
recovery off, once on, side by side."""

import argparse
import contextlib
import os
import signal
import time
from pathlib import Path

from project import layout, ui
from archs import ARCHS
from assets import Assets
from cases import HUGE
from channel import Log
from expect import Expect
from host import CommandFailed, Host, HostFailed, check_tools, find_qemus
from picture import svg
from run import POOLS
from vm import PAGE, Dead, NoBoot, Vm

PAGES = HUGE // PAGE
ROWS = (
    ('guest pages lost', lambda r: '%d of %d' % (r['lost'], PAGES)),
    ('bytes salvaged', lambda r: '%d of %d' % (r['salvaged'], HUGE)),
    (None, lambda r: str(r['told'])),       # named by the architecture
    ('silent corruptions (words)', lambda r: str(r['corrupt'])),
    ('longest guest stall', lambda r: '%.0f ms' % r['stall_ms']),
    ('guest alive', lambda r: 'yes' if r['alive'] else 'NO'),
)


def watch(vm, step):
    """Show how far the guest is while it finds what it lost."""
    if vm.cper:
        return          # QEMU says nothing of it

    def progress():
        checks = sum('BUS_MCEERR_AR injected' in m for m in vm.messages)
        step.at('machine checks so far: %d' % checks)

    vm.progress = progress


def one_run(host, ras):
    """Numbers, lost pages of the huge page and what went wrong."""
    log = Log(host.assets.dir / 'logs' / ('demo-%s.log' % ras))
    host.logged_to(log)
    expect = Expect(log)
    vm = Vm(host, log, ras=ras, silent=True)
    result = dict(lost=0, salvaged=0, told=0, corrupt=0, stall_ms=0,
                  alive=False, cells=set(), log=log.path)
    try:
        with contextlib.ExitStack() as stack:
            with ui.Step('recovery %s: start QEMU and its guest' % ras):
                stack.enter_context(vm)
            page = vm.blocks('A')[5] + 5 * PAGE
            with ui.Step('recovery %s: fail 4 KiB at guest address 0x%x, '
                         'guest checks all its memory' % (ras, page)) as step:
                watch(vm, step)
                vm.poison(page)
                block = page // HUGE * HUGE
                expect.verdict(vm, {page} if ras == 'on' else
                               set(range(block, block + HUGE, PAGE)),
                               recovered=ras == 'on')
    except (Dead, NoBoot, CommandFailed) as e:
        expect.failed.append(str(e))
        log.note('FAILED: %s' % e)
    finally:
        host.logged_to(None)
        log.close()
    result.update(expect.numbers)
    result['cells'] = {p % HUGE // PAGE for p in expect.lost_pages}
    result['salvaged'] = HUGE - PAGE * len(result['cells'])
    result['failed'] = expect.failed
    return result


def columns(arch, off, on):
    print()
    print('%-28s  %18s  %18s' % ('', 'recovery off', 'recovery on'))
    for what, value in ROWS:
        print('%-28s  %18s  %18s' % (what or arch.told, value(off), value(on)))
    print()


def draw(arch, path, off, on):
    def lines(r):
        return [(what or arch.told, value(r)) for what, value in ROWS]

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg([
        ('Recovery off (stock QEMU)', 'one bad 4 KiB in a 2 MiB page: all of '
         'it is lost', off['cells'], lines(off)),
        ('Recovery on', 'one bad 4 KiB in a 2 MiB page: 4 KiB are lost',
         on['cells'], lines(on))]))
    print('picture: %s' % os.path.relpath(path))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--arch', choices=sorted(ARCHS), default='x86_64')
    p.add_argument('--qemu', type=Path, help='QEMU under test')
    p.add_argument('--host-qemu', type=Path,
                   help='QEMU that emulates the host')
    p.add_argument('--svg', type=Path, help='the picture (default: '
                   'demo-ARCH.svg in the build directory)')
    args = p.parse_args()
    find_qemus(args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start = time.monotonic()
    assets = Assets(ARCHS[args.arch])
    check_tools(assets.arch)
    with layout.only_one(assets.dir / 'lock'):
        assets.prepare()
        host = Host(assets, args.qemu, args.host_qemu, 'demo', **POOLS['2M'])
        with contextlib.ExitStack() as stack:
            try:
                with ui.Step('start an emulated host with KVM'):
                    stack.enter_context(host)
                if not host.has_property:
                    raise ui.Failure('no recovery in %s' % args.qemu,
                                     'run `make qemu` first')
                off, on = one_run(host, 'off'), one_run(host, 'on')
            except HostFailed as e:
                raise ui.Failure(str(e)) from None
    columns(assets.arch, off, on)
    draw(assets.arch, args.svg or
         layout.BUILD / ('demo-%s.svg' % args.arch), off, on)
    for name, r in (('off', off), ('on', on)):
        for f in r['failed']:
            print('recovery %s: unexpected: %s (log: %s)'
                  % (name, f, os.path.relpath(r['log'])))
    print('demo: %s' % ui.took(time.monotonic() - start))
    return 1 if off['failed'] or on['failed'] else 0


if __name__ == '__main__':
    ui.main(main)
