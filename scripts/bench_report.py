# SPDX-License-Identifier: GPL-2.0-or-later
"""What `make bench` shows: the table, the bars of the project, pictures."""

import csv
import itertools
import os
from collections import defaultdict
from statistics import median

from ui import Failure, mib, say

WAYS = ('2024', 'eager', 'lazy')
LONE = 'lone'               # lazy, with nobody but one reader
COLUMNS = (*WAYS, LONE)
BIG, SMALL = 1 << 30, 2 << 20
CALM_NS = 150e6             # the touchers run that long before a rescue
COLORS = {'2024': '#b3202c', 'eager': '#d98a00', 'lazy': '#1a6fb0',
          LONE: '#6cbf5f', 'calm': '#8a8a8a'}
NAMES = {'2024': 'the patches of 2024', 'eager': 'eager', 'lazy': 'lazy',
         LONE: 'lazy, a lone reader', 'calm': 'no rescue'}


class Run:
    """One rescue: values by name, stalls, and reads over time."""

    def __init__(self, size, way):
        self.size, self.way = size, way
        self.values = {}
        self.samples = defaultdict(list)    # item: [(at, value)]

    def add(self, item, at, value):
        if item.endswith('stall_ns') or item == 'reads':
            self.samples[item].append((at, value))
        else:
            self.values[item] = value

    def finish(self):
        """Values that follow from the samples."""
        v = self.values
        stalls = sorted(ns for _, ns in self.samples['stall_ns'])
        v['stalls'] = len(stalls)
        v['stall_p50_ns'] = quantile(stalls, 0.5)
        v['stall_p99_ns'] = quantile(stalls, 0.99)
        v['stall_max_ns'] = quantile(stalls, 1)
        calm = sorted(ns for _, ns in self.samples['calm_stall_ns'])
        v['calm_p99_ns'] = quantile(calm, 0.99)
        v['calm_max_ns'] = quantile(calm, 1)
        v['waited_ns'] = sum(stalls) / v['touchers']
        v['neighbour_stall_max_ns'] = max(
            (ns for _, ns in self.samples['neighbour_stall_ns']), default=0)
        v['piece_ns'] = v['fill_ns'] / (self.size / SMALL)
        v['bytes_per_s'] = self.size / v['fill_ns'] * 1e9
        v['fill_copies'] = v['fill_ns'] / v['copy_ns']
        v['reads_after'] = v['rate_after'] / v['rate_before']
        before = self._reads(-CALM_NS, 0) / CALM_NS
        during = self._reads(0, v['fill_ns']) / v['fill_ns']
        v['reads_during'] = during / before if before else 0

    def _reads(self, start, end):
        return sum(n for at, n in self.samples['reads'] if start <= at < end)


def quantile(ordered, share):
    """The value that @share of them do not exceed; 0 of nothing."""
    if not ordered:
        return 0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def read(path):
    """{size: {way: [Run]}} of the benchmark's output."""
    runs = {}
    with open(path, newline='', errors='replace') as f:
        for row in csv.reader(f):
            if len(row) != 6 or not row[0].isdigit():
                continue        # the heading, a warning
            key = (int(row[0]), row[1], int(row[2]))
            run = runs.setdefault(key, Run(*key[:2]))
            run.add(row[3], int(row[4]), float(row[5]))
    found = {}
    for (size, way, _), run in sorted(runs.items()):
        if not run.values.get('verified'):
            raise Failure('a run was not verified: %s, %s' % (mib(size), way))
        run.finish()
        found.setdefault(size, {}).setdefault(way, []).append(run)
    return found


def write_csv(results, path):
    """A line per run."""
    runs = [(size, way, i, run) for size, ways in results.items()
            for way, some in ways.items() for i, run in enumerate(some)]
    names = sorted({n for *_, run in runs for n in run.values})
    with open(path, 'w', newline='') as f:
        out = csv.writer(f, lineterminator='\n')
        out.writerow(['size', 'way', 'run', *names])
        for size, way, i, run in runs:
            out.writerow([size, way, i, *('%.10g' % run.values[n] if n in
                                          run.values else '' for n in names)])


def middle(runs, name):
    """The median of a value over @runs, or None."""
    values = [r.values[name] for r in runs if name in r.values]
    return median(values) if values else None


# -- the table

def duration(ns):
    if ns == 0:
        return '0'
    for unit, scale in (('s', 1e9), ('ms', 1e6)):
        if ns >= scale:
            return '%.3g %s' % (ns / scale, unit)
    return '%.3g us' % (ns / 1e3)


def amount(size):
    return '%d GiB' % (size >> 30) if size >= 1 << 30 else mib(size)


def percent(share):
    return '%.1f %%' % (100 * share)


def _times(value):
    return '%.2f' % value


ROWS = [
    ('threads that touch it', 'touchers', lambda n: '%d' % n),
    ('all stand still', 'standstill_ns', duration),
    ('huge page inaccessible as a whole', 'page_ns', duration),
    ('stall of a toucher, p50', 'stall_p50_ns', duration),
    ('  p99', 'stall_p99_ns', duration),
    ('  max', 'stall_max_ns', duration),
    ('  how many, all touchers', 'stalls', lambda n: '%d' % n),
    ('  in sum, for each toucher', 'waited_ns', duration),
    ('longest stall beside the huge page', 'neighbour_stall_max_ns',
     duration),
    ('stall with no rescue going on, p99', 'calm_p99_ns', duration),
    ('  max, in %.0f ms' % (CALM_NS / 1e6), 'calm_max_ns', duration),
    ('all is filled after', 'fill_ns', duration),
    ('  for each 2 MiB', 'piece_ns', duration),
    ('  bytes/s', 'bytes_per_s', lambda b: '%.2f GB/s' % (b / 1e9)),
    ('  one memcpy', 'copy_ns', duration),
    ('  in memcpys', 'fill_copies', _times),
    ('random reads before, million/s', 'rate_before',
     lambda n: '%.1f' % (n / 1e6)),
    ('  during, of before', 'reads_during', percent),
    ('  after, of before', 'reads_after', percent),
    ('THP share of healthy extents', 'huge_share', percent),
    ('mappings', 'mappings', lambda n: '%d' % n),
    ('extra memory at most', 'extra_bytes', mib),
]


def table(results):
    for size, ways in results.items():
        runs = min(len(r) for r in ways.values())
        say('\n%-38s' % ('huge page of %s, median of %d' % (amount(size), runs)) +
            ''.join('%14s' % w for w in COLUMNS))
        for text, name, form in ROWS:
            values = [middle(ways[w], name) for w in COLUMNS]
            if any(v is not None for v in values):
                say('%-38s' % text + ''.join(
                    '%14s' % ('-' if v is None else form(v)) for v in values))
    say('lone: the lazy way with one reader and nobody else.\n'
        'A stall is a touch of over 5 us between error and filled; its max is '
        'the median\nof the maxima.  Every word was verified after each '
        'rescue.')


# -- the bars

def _bars(results):
    """(text, value, form, bar, is the bar a minimum?)"""
    big, small = results.get(BIG), results.get(SMALL)
    if not big:
        return
    still = middle(big['lazy'], 'standstill_ns')
    yield 'lazy: all stand still', still, duration, 0.25e6, False
    yield ('  times shorter than 2024', middle(big['2024'], 'standstill_ns') /
           still, lambda n: '%.0f' % n, 1000, True)
    if small:
        yield ('  against its own for 2 MiB', still /
               middle(small['lazy'], 'standstill_ns'), _times, 1.5, False)
    for way, name in ('lazy', 'toucher'), (LONE, 'lone reader'):
        yield ('  stall of a %s, p99' % name,
               middle(big[way], 'stall_p99_ns'), duration, 0.5e6, False)
        yield ('    max', middle(big[way], 'stall_max_ns'), duration, 2e6,
               False)
    yield ('  filled, in memcpys', middle(big['lazy'], 'fill_copies'), _times,
           2.5, False)
    yield ('  filled, against 2024', middle(big['lazy'], 'fill_ns') /
           middle(big['2024'], 'fill_ns'), _times, 0.5, False)
    yield ('  random reads afterwards', middle(big['lazy'], 'reads_after'),
           percent, 0.97, True)
    yield ('  THP share', middle(big['lazy'], 'huge_share'), percent, 0.99,
           True)


def bars(results):
    """What the project promises for 1 GiB, and what it came to here."""
    lines = list(_bars(results))
    if lines:
        say('\n%-38s%14s%14s' % ('huge page of 1 GiB', 'measured', 'wanted'))
    for text, value, form, bar, least in lines:
        met = value >= bar if least else value <= bar
        say('%-38s%14s%14s  %s' % (
            text, form(value), ('>= ' if least else '<= ') + form(bar),
            'met' if met else 'not met'))


# -- pictures

def _ccdf(axes, size, ways):
    """How many stalls are at least that long?"""
    calm = [ns for runs in ways.values() for r in runs
            for _, ns in r.samples['calm_stall_ns']]
    shown = [(w, [ns for r in ways[w] for _, ns in r.samples['stall_ns']],
              len(ways[w])) for w in COLUMNS]
    shown.append(('calm', calm, sum(len(r) for r in ways.values())))
    for way, stalls, runs in shown:
        stalls.sort(reverse=True)
        axes.step([ns / 1e6 for ns in stalls],
                  [(i + 1) / runs for i in range(len(stalls))], where='post',
                  label=NAMES[way], color=COLORS[way],
                  lw=1 if way == 'calm' else 2)
    axes.set(xscale='log', yscale='log', xlabel='stall (ms)',
             title='huge page of ' + amount(size))
    axes.grid(alpha=0.3)


def _over_time(axes, runs, window, width):
    """Reads per bin, in percent of those before the error, median of runs."""
    start, end = window
    curves = []
    for run in runs:
        bins = [0] * int((end - start) / width)
        before = 0
        for at, reads in run.samples['reads']:
            i = int((at - start) // width)
            if 0 <= i < len(bins):
                bins[i] += reads
            if at < 0:
                before += reads
        before *= width / CALM_NS
        # the touchers of this run ended there
        last = int((run.values['fill_ns'] + CALM_NS - start) // width)
        curves.append([100 * b / before if before else 0 for b in bins[:last]])
    middles = []
    for some in itertools.zip_longest(*curves):
        some = [x for x in some if x is not None]
        if 2 * len(some) > len(runs):       # the others were done earlier
            middles.append(median(some))
    way = runs[0].way
    axes.step([(start + i * width) / 1e6 for i in range(len(middles))],
              middles, where='post', color=COLORS[way], label=NAMES[way])
    axes.axvspan(0, median(r.values['fill_ns'] for r in runs) / 1e6,
                 color=COLORS[way], alpha=0.12, lw=0)
    axes.set_ylim(0, 160)
    axes.grid(alpha=0.3)
    axes.legend(loc='upper right')


def plots(results, where):
    os.environ.setdefault('MPLCONFIGDIR', str(where / 'matplotlib'))
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot

    columns = len(results)
    figure, axes = pyplot.subplots(1, columns, figsize=(6 * columns, 4.5),
                                   squeeze=False, sharey=True)
    for axis, (size, ways) in zip(axes[0], results.items()):
        _ccdf(axis, size, ways)
    axes[0][0].set_ylabel('stalls at least that long, per rescue')
    axes[0][-1].legend(title='no rescue: in 150 ms')
    _save(pyplot, figure, where / 'bench-stalls.png')

    figure, axes = pyplot.subplots(len(WAYS), columns, squeeze=False,
                                   figsize=(6 * columns, 6.5), sharex='col')
    for column, (size, ways) in enumerate(results.items()):
        longest = max(middle(ways[w], 'fill_ns') for w in WAYS)
        margin = min(100e6, longest)
        width = 2e6 if longest > 100e6 else 0.5e6
        for row, way in enumerate(WAYS):
            _over_time(axes[row][column], ways[way],
                       (-margin, longest + margin), width)
        axes[0][column].set_title('huge page of ' + amount(size))
        axes[-1][column].set_xlabel('ms after the error (shaded: until filled)')
    axes[1][0].set_ylabel('reads of all readers, % of before')
    _save(pyplot, figure, where / 'bench-reads.png')


def _save(pyplot, figure, path):
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    say('written: %s' % path)
