# SPDX-License-Identifier: GPL-2.0-or-later
"""Cases of guests that learn of errors from firmware's records (arm64)."""

import time

from cases import HUGE, Case
from vm import PAGE

ARCHS = ('aarch64',)


def two_unnamed(lab, **options):
    """Two errors of whose address the guest's kernel does not learn."""
    with lab.vm(**options) as vm:
        blocks = vm.blocks('A')
        pages = [blocks[5] + 5 * PAGE, blocks[8] + 300 * PAGE]
        for n, page in enumerate(pages, 1):
            vm.poison(page)
            lab.expect.eventually_lost(vm, n)
            vm.guest('wait 2')
        lab.done(vm, pages, unnamed=True)
        return vm.messages


def records_ignored(lab):
    """QEMU writes a record, the guest never acknowledges it."""
    messages = two_unnamed(lab, kernel_options='ghes.disable=1')
    lab.expect.true('a warning names the missing acknowledgement', any(
        'did not acknowledge' in m for m in messages))


def records_absent(lab):
    two_unnamed(lab, machine='ras=off')


def device_tree(lab):
    two_unnamed(lab, machine='ras=off', firmware=False)


def kernel_touches(lab):
    """The guest's kernel cannot give up what it is using itself."""
    with lab.vm(kernel_options='oops=panic') as vm:
        page = vm.blocks('B')[4] + 77 * PAGE
        vm.guest('kernel-read 0x%x' % page)
        vm.poison(page)
        vm.restarted_itself()
        told = [e['data'] for e in vm.collect_events()
                if e['event'] == 'MEMORY_FAILURE']
        lab.expect.equal('events that the guest was told', [
            (e['recipient'], e['action'], e['flags']['action-required'])
            for e in told], [('guest', 'inject', True)])
        lab.expect.ledger(vm, set())
        lab.expect.page_sizes(vm, whole=[page])
        lab.expect.nothing_lost(vm)
        again = vm.blocks('A')[6] + 9 * PAGE
        vm.poison(again)
        lab.done(vm, [again])


def read_all(lab):
    """What a crash dump does: read all memory, from inside and outside."""
    with lab.vm() as vm:
        page = vm.blocks('A')[5] + 5 * PAGE
        vm.poison(page)
        vm.guest('wait 2')
        seen = vm.guest_values('kcore', 120)
        lab.expect.equal('failed reads of all memory', seen['failed'], 0)
        block = page // HUGE * HUGE
        vm.qmp('dump-guest-memory', paging=False, protocol='file:/tmp/dump',
               begin=block, length=HUGE)
        zeros = lab.host.sh('lab zeros 0x%x /tmp/dump && rm /tmp/dump' % block)
        lab.expect.equal('pages of zeros in the dump of the huge page',
                         zeros.split(), [str(page % HUGE // PAGE)])
        lab.done(vm, [page])


def administrator(lab):
    """rasdaemon of an unmodified Debian decodes what the guest was told."""
    with lab.vm(initramfs='initramfs-rasdaemon') as vm:
        vm.guest('rasdaemon-start', 120)
        pages = [vm.blocks('A')[5] + 5 * PAGE, vm.blocks('B')[4] + 77 * PAGE]
        for page in pages:
            vm.poison(page)
            vm.guest('wait 2')
        time.sleep(vm.arch.retired_in)
        events = [w.split(':') for w in vm.guest('rasdaemon-events')]
        lab.expect.equal('pages, types and results that rasdaemon reports',
                         sorted(e for e in events if e[2] == 'Recovered'),
                         sorted(['0x%x' % p, 'dirty_LRU_page', 'Recovered']
                                for p in pages))
        # a second report of a page, see Vm.failures(), has another result
        lab.expect.equal('other pages in its reports', [
            e for e in events if int(e[0], 16) not in pages], [])
        vm.guest('check')
        lab.done(vm, pages)


def larger_small_pages(lab):
    """What the host loses at once is several pages of the guest."""
    small, huge = 16 << 10, 32 << 20
    with lab.vm() as vm:
        blocks = vm.blocks('A')
        page = blocks[9] + 33 * PAGE
        start = page // small * small
        vm.poison(page)
        lab.done(vm, range(start, start + small, PAGE), huge=huge, small=small)
        lab.expect.page_sizes(vm, split=[page], whole=[page + huge],
                              sizes=(small >> 10, huge >> 10))


CPER = (
    Case('a-noghes', 'two errors, the guest ignores records', records_ignored,
         archs=ARCHS),
    Case('a-noras', 'two errors, no records (ras=off)', records_absent,
         archs=ARCHS),
    Case('a-dt', 'two errors, no ACPI (device tree)', device_tree,
         archs=ARCHS),
    Case('f-panic', 'the kernel touches it, panics and starts anew',
         kernel_touches, archs=ARCHS),
    Case('dump', 'all memory is read after an error', read_all, archs=ARCHS),
    Case('rasdaemon', 'rasdaemon decodes two errors', administrator,
         archs=ARCHS),
    Case('a-16k', 'small pages of 16 KiB: one error costs 4 pages of the guest',
         larger_small_pages, pool='32M', archs=ARCHS),
)
