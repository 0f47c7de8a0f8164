#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested-VM lab: a real kernel fails real memory under a real KVM guest.

An emulated host (TCG) runs an unmodified Debian kernel with KVM; in it the
QEMU under test runs an unmodified Debian guest on huge pages, and the host
kernel's own memory failure code is told that a frame is bad.
"""

import argparse
import collections
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from project import layout, ui
from archs import ARCHS
from assets import Assets
from cases import COMMON, Lab
from cases_cper import CPER
from channel import Log
from expect import Expect
from host import CommandFailed, Host, HostFailed, check_tools, find_qemus
from vm import Dead, NoBoot

POOLS = {
    '2M': dict(memory_mib=1536, options='hugepages=288'),
    '1G': dict(memory_mib=4352, options='hugepagesz=1G hugepages=2'),
    # an arm64 host whose small pages have 16 KiB, with its usual huge pages
    '32M': dict(memory_mib=1536, options='hugepagesz=32M hugepages=18',
                kernel='-16k'),
}
CASES = COMMON + CPER
HOSTS = 3               # for a case, as long as nothing was injected
COLUMNS = (('lost', 'pages lost', '%d'), ('corrupt', 'corrupt words', '%d'),
           ('salvaged', 'salvaged bytes', '%d'), ('told', 'told', '%d'),
           ('stall_ms', 'longest stall ms', '%.1f'),
           ('still_ms', 'stands still ms', '%.1f'), ('boots', 'boots', '%d'))


def run_case(case, host, sabotage=''):
    """The Expect of a finished case; its log says everything."""
    log = Log(host.assets.dir / 'logs' / ('case-%s.log' % case.name))
    expect = Expect(log)
    expect.start = time.monotonic()
    host.logged_to(log)
    lab = Lab(host, log, expect, sabotage, case.mode)
    try:
        log.note(host.sh('grep HugePages_ /proc/meminfo').replace('\n', ', '))
        case.run(lab)
    except (Dead, NoBoot, CommandFailed, HostFailed) as e:
        expect.failed.append(str(e))
        log.note('FAILED: %s' % e)
    finally:
        host.logged_to(None)
        expect.repeatable = not host.alive() and not lab.injected()
        expect.seconds = time.monotonic() - expect.start
        log.note('console of the host:\n' + '\n'.join(host.console()[-30:]))
        log.close()
    return expect


def tap(number, case, expect):
    text = '%s %d - %s: %s (%.1f s)' % (
        'not ok' if expect.failed else 'ok', number, case.name, case.title,
        expect.seconds)
    boots = expect.numbers.get('boots', 1)
    if boots > 1:
        text += ' # guest came up at boot %d' % boots
    if expect.numbers.get('hosts', 1) > 1:
        text += ' # in emulated host %d' % expect.numbers['hosts']
    print(text, flush=True)
    for f in expect.failed:
        print('# ' + f.replace('\n', '\n# '))
    if expect.failed:
        print('# log %s, its end:' % os.path.relpath(expect.log.path))
        print(expect.log.tail(), flush=True)


def table(results):
    rows = [['case'] + [c[1] for c in COLUMNS] + ['alive', 'seconds']]
    for case, expect in results:
        n = expect.numbers
        rows.append([case.name] +
                    [c[2] % n[c[0]] if c[0] in n else '-' for c in COLUMNS] +
                    ['yes' if n.get('alive') else '-',
                     '%.1f' % expect.seconds])
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for row in rows:
        print('# ' + '  '.join(v.rjust(w) for v, w in zip(row, widths)))


def free_pages(host, pool):
    kib = {'2M': 2048, '1G': 1048576, '32M': 32768}[pool]
    return int(host.sh('cat /sys/kernel/mm/hugepages/hugepages-%dkB/'
                       'free_hugepages' % kib).split()[0])


def run_pool(assets, pool, cases, args):
    """Run @cases in emulated hosts of one kind; yields each with its Expect.

    A host that died takes only the case with it that was running; not even
    that if no error had been injected: the emulation of SVM is not perfect.
    A poisoned huge page is gone for good: without enough of them a new host is
    started.
    """
    cases = list(cases)
    tries = collections.Counter()
    while cases:
        start = time.monotonic()
        with Host(assets, args.qemu, args.host_qemu, pool, pagesize=pool,
                  **POOLS[pool]) as host:
            print('# host with huge pages of %s: up in %.1f s, boots: %d'
                  % (pool, time.monotonic() - start, host.boots), flush=True)
            first = True
            while cases and host.alive() and (
                    first or free_pages(host, pool) >= cases[0].huge_pages):
                first = False
                case = cases.pop(0)
                expect = run_case(case, host, args.sabotage)
                tries[case] += 1
                if expect.repeatable and tries[case] < HOSTS:
                    print('# %s: the emulated host died before an error was '
                          'injected; again in a new one: %s'
                          % (case.name, host.last_words()), flush=True)
                    cases.insert(0, case)
                else:
                    expect.numbers['hosts'] = tries[case]
                    yield case, expect


def run(assets, cases, args):
    results = []
    print('1..%d' % len(cases), flush=True)
    try:
        for pool in POOLS:
            mine = [c for c in cases if c.pool == pool]
            for case, expect in run_pool(assets, pool, mine, args):
                results.append((case, expect))
                tap(len(results), case, expect)
    except HostFailed as e:
        print('# ' + str(e).replace('\n', '\n# '))
        done = {case.name for case, _ in results}
        missing = [c for c in cases if c.name not in done]
        for n, case in enumerate(missing, len(results) + 1):
            print('not ok %d - %s: %s (not run)' % (n, case.name, case.title))
    return results


def parse(argv):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--arch', choices=sorted(ARCHS), default='x86_64')
    p.add_argument('--qemu', type=Path, help='QEMU under test')
    p.add_argument('--host-qemu', type=Path,
                   help='QEMU that emulates the host')
    p.add_argument('--cases', help='names, separated by commas')
    p.add_argument('--list', action='store_true', help='list the cases')
    p.add_argument('--table', action='store_true',
                   help='print a table of the results')
    p.add_argument('--sabotage', choices=('off', 'flip'), default='',
                   help='test of the tests: switch recovery off, or flip a '
                   'bit of healthy memory; cases must fail')
    return p.parse_args(argv)


def chosen(arch, names):
    cases = [c for c in CASES if arch in c.archs]
    names = names.split(',') if names else ARCHS[arch].cases
    if not names:
        return cases
    unknown = set(names) - {c.name for c in cases}
    if unknown:
        raise ui.Failure('no case %s for %s' % (' '.join(sorted(unknown)),
                                                arch), '--list shows them')
    return [c for c in cases if c.name in names]


def main():
    args = parse(sys.argv[1:])
    cases = chosen(args.arch, args.cases)
    if args.list:
        for case in cases:
            print('%-9s %s' % (case.name, case.title))
        return 0
    find_qemus(args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    assets = Assets(ARCHS[args.arch])
    check_tools(assets.arch)
    with contextlib.redirect_stdout(sys.stderr):
        assets.prepare(sorted({POOLS[c.pool].get('kernel', '')
                               for c in cases}))
    start = time.monotonic()
    with layout.only_one(assets.dir / 'lock'):
        results = run(assets, cases, args)
    if args.table:
        table(results)
    failed = len(cases) - sum(not e.failed for _, e in results)
    print('# %d passed, %d failed in %s' % (
        len(cases) - failed, failed, ui.took(time.monotonic() - start)))
    return 1 if failed else 0


if __name__ == '__main__':
    ui.main(main)
