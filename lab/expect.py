# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest, QEMU's ledger and its events must agree on, exactly."""

import re
import time

from vm import PAGE, Dead

BUS_OBJERR = 3
BUS_MCEERR = (4, 5)             # AR, AO
HUGE = 2 << 20
SEA, ASYNC = 0, 1               # error sources in an arm64 guest's HEST
LOGGED = 2                      # records that Linux logs in five seconds


class Expect:
    """Collects what is not as it must be, and the numbers for the table."""

    def __init__(self, log):
        self.log = log
        self.failed = []
        self.numbers = {}
        self.lost_pages = []

    def equal(self, what, got, want):
        good = got == want
        text = '%s: %s' % (what, _short(got))
        if not good:
            text += ', expected %s' % _short(want)
            self.failed.append(text)
        self.log.note(('good ' if good else 'BAD ') + text)
        return good

    def true(self, what, condition):
        return self.equal(what, bool(condition), True)

    def healthy(self, vm):
        self.true('QEMU runs', vm.running())
        self.equal('guest panic', vm.panic, None)

    def verdict(self, vm, pages, recovered=True, timeout=120, huge=HUGE,
                small=PAGE, unnamed=False):
        """The guest lost exactly @pages, and all the rest is intact.

        @huge, @small: pages of the host
        @unnamed: the guest's kernel learns of an error but not of its address
        """
        seen = vm.guest_values('wait 3', timeout)
        system = vm.guest_values('sys')
        lost = vm.lost()
        told = seen['signals'] if unnamed else vm.told()
        self.lost_pages = sorted(p['gpa'] for p in lost)
        self.numbers.update(
            lost=seen['lost'], corrupt=seen['corrupt'], told=told,
            stall_ms=seen['longest_us'] / 1000,
            still_ms=seen['still_us'] / 1000, boots=vm.boots, alive=False)
        self.equal('guest pages lost', seen['lost'], len(pages))
        self.equal('corrupt words', seen['corrupt'], 0)
        self.equal('signals outside the test memory', seen['stray'], 0)
        self.equal('lost pages', self.lost_pages, sorted(pages))
        self._signals(lost, small, unnamed)
        self.equal('memory that the guest retired (KiB)',
                   system['corrupted_kib'], 0 if unnamed else 4 * len(pages))
        if recovered:
            if huge > HUGE:
                # enough was seen of both at once; the copy needs a processor
                vm.guest('mode idle')
            self.ledger(vm, pages, huge, small)
            self.events(vm, pages)
        if vm.cper and not unnamed:
            self._failures(vm, pages)
        self.healthy(vm)
        self.numbers['alive'] = True

    def _signals(self, lost, small, unnamed):
        codes, lsb = ((BUS_OBJERR,), 0) if unnamed else (BUS_MCEERR, 12)
        for what, good in (
                ('si_code', lambda p: p['code'] in codes),
                ('si_addr_lsb', lambda p: p['lsb'] == lsb),
                # the host's kernel knows of no smaller page
                ('si_addr', lambda p: p['accessed'] // small ==
                 p['gpa'] // small)):
            self.equal('signals with a wrong ' + what,
                       [p for p in lost if not good(p)], [])

    def _failures(self, vm, pages):
        """The guest's kernel was told of @pages, in records for them only."""
        failures = vm.failures()
        named = {gpa for gpa, _ in vm.records()}
        self.equal('pages that the guest was told of', sorted(set(failures)),
                   sorted(pages))
        self.equal('healthy pages in records', sorted(named - pages), [])
        self.true('a page in records', named)
        if len(failures) <= LOGGED:
            self.equal('pages in records', sorted(named), sorted(pages))

    def _sources(self, vm, page):
        return [source for gpa, source in vm.records() if gpa == page]

    def told_in_background(self, vm, page):
        """An untouched page: a record, and no exception."""
        if vm.cper:
            self.equal('sources of its records', self._sources(vm, page),
                       [ASYNC])

    def told_to_toucher(self, vm, page):
        """The guest may also have learned of the page in the background."""
        if vm.cper:
            self.true('a record with an exception',
                      SEA in self._sources(vm, page))

    def nothing_lost(self, vm):
        seen = vm.guest_values('wait 2')
        for what in ('lost', 'corrupt', 'signals'):
            self.equal(what, seen[what], 0)
        self.equal('memory that the guest retired (KiB)',
                   vm.guest_values('sys')['corrupted_kib'], 0)

    # -- QEMU's view

    def _query(self, vm):
        try:
            return vm.qmp('query-hugetlbfs-ras')
        except Dead as e:
            vm._check_alive()
            self.failed.append(str(e))
            return None

    def refusal(self, vm, reason):
        """Why an error would not be recovered from now, or None."""
        info = self._query(vm)
        if info is not None:
            self.equal('why not to recover',
                       info['backends'][0].get('reason'), reason)

    def _until_no_page(self, vm, is_unfit, seconds):
        """The ledger once no page @is_unfit any more, or after @seconds."""
        end = time.monotonic() + seconds
        while True:
            info = self._query(vm)
            if (info is None or time.monotonic() > end or
                    not any(map(is_unfit, info['pages']))):
                return info
            time.sleep(0.3)

    def filling(self, vm, when):
        info = self._query(vm)
        states = [p['state'] for p in info['pages']] if info else None
        self.equal('states ' + when, states, ['splitting'])

    def all_filled(self, vm, seconds=120):
        info = self._until_no_page(vm, lambda p: p['state'] == 'splitting',
                                   seconds)
        self.equal('states in the end', info and
                   {p['state'] for p in info['pages']}, {'split'})

    def ledger(self, vm, pages, huge=HUGE, small=PAGE):
        # Telling is paced by the guest, which polls once a second; copying
        # 1 GiB on an emulated host takes longer.
        info = self._until_no_page(
            vm, lambda p: p['untold'] or p['state'] == 'splitting', 90)
        if info is None:
            return
        self.log.note('ledger: %r' % info)
        heads = {p // huge for p in pages}
        salvaged = len(heads) * huge - len(pages) * PAGE
        self.numbers['salvaged'] = info['salvaged']
        self.equal('ledger: lost pages', info['lost-pages'],
                   len(pages) * PAGE // small)
        self.equal('ledger: salvaged bytes', info['salvaged'], salvaged)
        self.equal('ledger: dropped signals', info['dropped'], 0)
        self.equal('ledger: huge pages',
                   sorted(p['gpa'] // huge for p in info['pages']),
                   sorted(heads))
        self.equal('ledger: lost ranges', sorted(_pages(info['pages'])),
                   sorted(pages))
        for p in info['pages']:
            where = 'ledger: 0x%x: ' % p['gpa']
            self.equal(where + 'state', p['state'], 'split')
            self.equal(where + 'untold', p['untold'], 0)
            self.equal(where + 'page size', p['page-size'], huge)
            self.equal(where + 'offset', p['offset'],
                       p['gpa'] - vm.arch.ram_base)

    def events(self, vm, pages):
        """The last event of each huge page names exactly its lost pages."""
        last = {}
        for e in vm.collect_events():
            if e['event'] == 'RESET':
                last.clear()
            if e['event'] == 'HUGETLBFS_RAS':
                page = e['data']['page']
                last[page['offset']] = page
        self.equal('events: lost ranges', sorted(_pages(last.values())),
                   sorted(pages))
        self.equal('events: states', {p['state'] for p in last.values()},
                   {'split'})

    def eventually_lost(self, vm, count, seconds=30):
        """Wait until the ledger has @count lost pages."""
        end = time.monotonic() + seconds
        while True:
            info = self._query(vm)
            if info is None or info['lost-pages'] == count:
                return
            if time.monotonic() > end:
                self.equal('ledger: lost pages in time', info['lost-pages'],
                           count)
                return
            time.sleep(0.2)

    def warned(self, vm, *needles):
        """One message has all the @needles (a tuple: any of these)."""
        def has(line, needle):
            return any(n in line for n in
                       ((needle,) if isinstance(needle, str) else needle))

        found = [m for m in vm.messages if all(has(m, n) for n in needles)]
        self.equal('warnings with %s' % (needles,), len(found), 1)

    # -- the emulated host's view

    def page_sizes(self, vm, split=(), whole=(), sizes=(4, 2048)):
        """Page size that QEMU's memory has at guest-physical addresses.

        @sizes: of small and huge pages, in KiB
        """
        maps = _page_sizes(vm.host.sh('grep -E "^[0-9a-f]+-|KernelPageSize" '
                                       '/proc/%d/smaps' % vm.pid))
        for gpas, want in zip((split, whole), sizes):
            for gpa in gpas:
                hva = vm.hva(gpa)
                got = [kib for start, end, kib in maps if start <= hva < end]
                self.equal('page size at 0x%x (KiB)' % gpa, got, [want])


def _page_sizes(smaps):
    """List of start, end, page size in KiB."""
    maps = []
    for line in smaps.splitlines():
        head = re.match(r'([0-9a-f]+)-([0-9a-f]+) ', line)
        if head:
            bounds = int(head.group(1), 16), int(head.group(2), 16)
        elif line.startswith('KernelPageSize:'):
            maps.append((*bounds, int(line.split()[1])))
    return maps


def _pages(records):
    """Small pages of the lost ranges in ledger or event records."""
    return [gpa for r in records for x in r['lost']
            for gpa in range(x['gpa'], x['gpa'] + x['size'], PAGE)]


def _short(value):
    if isinstance(value, list):
        text = '[%s]' % ', '.join('0x%x' % v if isinstance(v, int) and v > 4096
                                  else str(v) for v in value[:6])
        return text + (' ... %d in all' % len(value) if len(value) > 6 else '')
    return str(value)
