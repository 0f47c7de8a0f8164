#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make bench`: three ways to rescue a huge page, on this very machine.

The lazy one is measured twice, with many threads and with a lone reader.

Needs root (or sudo) for huge pages and for userfaultfd.  Huge pages are added
to those that are reserved, and taken away again whatever happens.  A virtual
machine that gives free memory back to its host keeps it meanwhile.
  RUNS=7         how often each way is measured
  TOUCHERS=4     threads that touch the huge page (1 to 4)
  SIZES='2M 1G'  sizes of huge pages
Writes build/bench.csv (a line per run), build/bench-samples.csv (every stall)
and build/bench-*.png.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import bench_report
import build
import layout
import packages
import ui
from layout import BUILD
from ui import Failure, say

SIZES = {'2M': 2 << 20, '1G': 1 << 30}
PAGES = 2               # huge pages of each size; BENCH_HUGE_PAGES
SPARE = 1 << 30         # memory that is left alone
WARM = 4 << 30          # memory that is touched before each rescue
PROGRAM = 'tests/bench/hugepage-bench'
SAMPLES = BUILD / 'bench-samples.csv'
POOLS = Path('/sys/kernel/mm/hugepages')
REPORTED = Path('/sys/module/page_reporting/parameters/page_reporting_order')
MOST = (11, 10)         # more than any order, or the largest one


def wishes():
    """RUNS, TOUCHERS and SIZES, checked."""
    sizes = (os.environ.get('SIZES') or '2M 1G').replace(',', ' ').split()
    unknown = [s for s in sizes if s not in SIZES]
    if unknown:
        raise Failure('unknown SIZES=%s' % ' '.join(unknown),
                      'use some of: ' + ' '.join(SIZES))
    runs = os.environ.get('RUNS') or '7'
    if not runs.isdigit() or int(runs) < 1:
        raise Failure('RUNS=%s is no count' % runs, 'use RUNS=5 or more')
    touchers = os.environ.get('TOUCHERS') or '4'
    if touchers not in ('1', '2', '3', '4'):
        raise Failure('TOUCHERS=%s is no count of threads' % touchers,
                      'use TOUCHERS=1 to 4')
    return int(runs), touchers, sizes


def root():
    """What to put before a command so that it runs as root."""
    if os.geteuid() == 0:
        return []
    if not shutil.which('sudo'):
        raise Failure('huge pages and userfaultfd need root, and there is no '
                      'sudo', 'run `make bench` as root')
    say('sudo, to reserve huge pages and to serve page faults')
    if subprocess.run(['sudo', '-v']).returncode:
        raise Failure('huge pages and userfaultfd need root, and sudo refuses',
                      'run `make bench` as root')
    return ['sudo']


def warm_size(sizes):
    """How much to touch first; fails if there is too little memory."""
    lines = Path('/proc/meminfo').read_text().splitlines()
    free = {x.split(':')[0]: int(x.split()[1]) << 10 for x in lines}
    huge = PAGES * sum(SIZES[s] for s in sizes)
    # one huge page in small pages, and the memory that the pool may give up
    need = huge + max(SIZES[s] for s in sizes) + SPARE
    if free['MemAvailable'] < need:
        raise Failure('the benchmark needs %s of free memory, %s are free' % (
            ui.mib(need), ui.mib(free['MemAvailable'])),
            'free some memory, or leave the large ones out: SIZES=2M')
    return min(WARM, free['MemAvailable'] - huge - SPARE)


def write(path, text, as_root, check=True):
    """Returns: whether the kernel took it"""
    return subprocess.run(
        [*as_root, 'tee', str(path)], input=text + '\n', text=True,
        check=check, stdout=subprocess.DEVNULL,
        stderr=None if check else subprocess.DEVNULL).returncode == 0


@contextlib.contextmanager
def memory_kept(as_root):
    """Free memory is not given back to a host, as long as it lasts.

    It would be cold when it is used next, and the work that this makes on the
    host is taken from our processors: stalls of 30 ms.  See Linux,
    mm/page_reporting.c; without a host that wants memory the order is none.
    """
    before = REPORTED.read_text().strip() if REPORTED.exists() else ''
    if not before.isdigit() or int(before) > max(MOST):
        yield
        return
    if not any(write(REPORTED, str(n), as_root, check=False) for n in MOST):
        say('free memory goes back to the host meanwhile: expect stalls of '
            '30 ms (%s)' % REPORTED)
    try:
        yield
    finally:
        write(REPORTED, before, as_root, check=False)


class Pool:
    """The pool of huge pages of one size."""

    def __init__(self, size, as_root):
        self.name, self.root = size, as_root
        self.dir = POOLS / ('hugepages-%dkB' % (SIZES[size] >> 10))
        if not self.dir.is_dir():
            raise Failure('this machine has no huge pages of ' + size,
                          'x86-64: the processor must have `pdpe1gb` for 1G '
                          '(see /proc/cpuinfo); or use other SIZES=')

    def get(self, what):
        return int((self.dir / what).read_text())

    def set(self, count):
        # a kernel that cannot get them all says so only by the count
        write(self.dir / 'nr_hugepages', '%d' % count, self.root)
        if self.get('nr_hugepages') < count:
            write('/proc/sys/vm/drop_caches', '1', self.root)
            write('/proc/sys/vm/compact_memory', '1', self.root)
            write(self.dir / 'nr_hugepages', '%d' % count, self.root)

    @contextlib.contextmanager
    def more(self, count):
        """@count huge pages are free here, as long as it lasts."""
        before = self.get('nr_hugepages')
        added = 0
        try:
            self.set(before + count)
            added = max(0, self.get('nr_hugepages') - before)
            free = self.get('free_hugepages') - self.get('resv_hugepages')
            if free < count:
                raise Failure(
                    'only %d of %d huge pages of %s are to be had'
                    % (free, count, self.name),
                    'memory is too fragmented or in use, even after the page '
                    'cache was dropped and memory compacted: boot with '
                    'hugepagesz=%s hugepages=%d, or use other SIZES='
                    % (self.name, count))
            yield
        finally:
            # others may have changed it meanwhile: take back what is ours
            self.set(max(0, self.get('nr_hugepages') - added))


def _how_far(runs):
    def text(line):
        part = (line or '').split(',')
        if len(part) != 6 or not part[2].isdigit():
            return None
        return 'run %d of %d, %s' % (int(part[2]) + 1, runs,
                                     ui.mib(int(part[0])))
    return text


def measure(runs, touchers, sizes):
    """Build the benchmark and run it; its output is in SAMPLES."""
    with layout.only_one(BUILD / 'x86_64.lock'):
        where = build.configured('x86_64')
        build.ninja(where, [PROGRAM], 'build hugepage-bench')
    as_root = root()
    warm = warm_size(sizes)
    # a plain SIGTERM would leave the pools as they are
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory_kept(as_root))
        for size in sizes:
            stack.enter_context(Pool(size, as_root).more(PAGES))
        ui.run([*as_root, str(where / PROGRAM), '-r', str(runs), '-t',
                touchers, '-w', str(warm), *sizes], 'measure', log=SAMPLES,
               how_far=_how_far(runs),
               way_out='if memory ran out: leave the large ones out, SIZES=2M')


def main():
    layout.takes_no_arch('make bench')
    runs, touchers, sizes = wishes()
    packages.ensure('build', 'bench')
    with layout.only_one(BUILD / 'bench.lock'):
        measure(runs, touchers, sizes)
        results = bench_report.read(SAMPLES)
        bench_report.write_csv(results, BUILD / 'bench.csv')
        bench_report.table(results)
        bench_report.bars(results)
        bench_report.plots(results, BUILD)


if __name__ == '__main__':
    ui.main(main)
