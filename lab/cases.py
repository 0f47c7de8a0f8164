# SPDX-License-Identifier: GPL-2.0-or-later
"""The test cases: what is done to the guest's memory, what must follow."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Callable

from expect import Expect
from vm import NBD, NET, PAGE, NoBoot, Vm

HUGE = 2 << 20
ORDINARY_USER = 1000
GUEST = '10.0.0.2'


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    run: Callable           # of a Lab
    pool: str = '2M'        # huge pages of the emulated host
    recovery: bool = True   # what it tests is the recovery itself
    mode: str = None        # x-hugetlbfs-ras-mode
    huge_pages: int = 1     # free ones that it needs, at least
    archs: tuple = ('x86_64', 'aarch64')


@dataclass
class Lab:
    """What a case gets."""
    host: object
    log: object
    expect: Expect
    sabotage: str = ''      # break something on purpose: the case must fail
    mode: str = None        # x-hugetlbfs-ras-mode
    vms: list = field(default_factory=list)

    def vm(self, ras='on', **options):
        if self.sabotage == 'off' and ras == 'on':
            ras = 'off'
        self.vms.append(Vm(self.host, self.log, ras=ras, mode=self.mode,
                           **options))
        return self.vms[-1]

    def injected(self):
        """Was any error injected?  From then on nothing may be repeated."""
        return any(vm.injected for vm in self.vms)

    def done(self, vm, pages, **options):
        """After the last error: the guest lost @pages, nothing else."""
        if self.sabotage == 'flip':
            vm.flip(sorted(pages)[0] // HUGE * HUGE + HUGE - PAGE)
        self.expect.verdict(vm, set(pages), **options)


def pages_of(gpa):
    """All small pages of the huge page at @gpa."""
    start = gpa // HUGE * HUGE
    return set(range(start, start + HUGE, PAGE))


def self_test(lab):
    with lab.vm() as vm:
        vm.guest('wait 1')
        vm.flip(vm.blocks('A')[3] + 7 * PAGE + 0x128)
        seen = vm.guest_values('wait 2')
        lab.expect.equal('corrupt words seen', seen['corrupt'], 1)
        lab.expect.equal('pages lost', seen['lost'], 0)
        lab.expect.healthy(vm)


def control(lab):
    with lab.vm(ras='off', silent=True) as vm:
        page = vm.blocks('A')[5] + 5 * PAGE
        vm.poison(page)
        lab.done(vm, pages_of(page), recovered=False)


def one_error(lab):
    with lab.vm() as vm:
        blocks = vm.blocks('A')
        page = blocks[5] + 5 * PAGE
        vm.poison(page)
        lab.done(vm, [page])
        lab.expect.page_sizes(vm, split=[page], whole=[blocks[4], blocks[6]])


def sandbox(lab):
    """Threads may not be bound, and nothing else that is refused is needed."""
    with lab.vm(sandbox=True) as vm:
        filters = 'grep -h Seccomp: /proc/%d/task/*/status' % vm.pid
        lab.expect.equal('what filters the threads of QEMU',
                         set(lab.host.sh(filters).splitlines()),
                         {'Seccomp:\t2'})
        page = vm.blocks('A')[5] + 5 * PAGE
        vm.poison(page)
        lab.done(vm, [page])


def eight_errors(lab):
    with lab.vm() as vm:
        blocks = vm.blocks('A')
        lost = []
        # both errors are there before QEMU can read the first page of either
        for block, pages in ((blocks[2], (0, 511)), (blocks[8], (100, 101))):
            both = [block + n * PAGE for n in pages]
            vm.poison(*both)
            lost += both
        # the second error comes after the first one was recovered from
        for block, pages in ((blocks[12], (7, 300)), (blocks[13], (511, 0))):
            for n in pages:
                vm.poison(block + n * PAGE)
                lost.append(block + n * PAGE)
                lab.expect.eventually_lost(vm, len(lost))
                lab.expect.all_filled(vm)
        lab.done(vm, lost)


def background_error(lab):
    """Action optional: found by polling in the guest, nobody is killed."""
    with lab.vm() as vm:
        page = vm.blocks('B')[4] + 77 * PAGE
        vm.poison(page)
        end = time.monotonic() + vm.arch.retired_in
        while (vm.guest_values('sys')['corrupted_kib'] == 0 and
               time.monotonic() < end):
            time.sleep(0.5)
        seen = vm.guest_values('wait 2')
        lab.expect.equal('signals before the page is touched',
                         seen['signals'], 0)
        lab.expect.equal('memory that the guest retired (KiB)',
                         vm.guest_values('sys')['corrupted_kib'], 4)
        lab.expect.told_in_background(vm, page)
        lab.expect.ledger(vm, {page})
        lab.expect.equal('corrupt words in the untouched region',
                         vm.guest_values('check')['corrupt'], 0)
        lab.done(vm, [page])


def gigantic_page(lab):
    with lab.vm(memory_mib=1024) as vm:
        page = vm.blocks('A')[9] + 33 * PAGE
        vm.poison(page)
        lab.done(vm, [page], timeout=180, huge=1 << 30)


def ordinary_user(lab):
    with lab.vm(user=ORDINARY_USER) as vm:
        status = lab.host.sh('cat /proc/%d/status' % vm.pid)
        for line in status.splitlines():
            name, _, value = line.partition(':')
            if name == 'Uid':
                lab.expect.equal('user ids of QEMU', value.split(),
                                 [str(ORDINARY_USER)] * 4)
            elif name in ('CapPrm', 'CapEff', 'CapInh', 'CapAmb'):
                lab.expect.equal(name + ' of QEMU', int(value, 16), 0)
        # it may not serve the kernel's page faults
        lab.expect.warned(vm, 'hugetlbfs-ras', '/dev/userfaultfd')
        page = vm.blocks('A')[5] + 5 * PAGE
        vm.poison(page)
        lab.done(vm, [page])
    try:
        with Vm(lab.host, lab.log, user=ORDINARY_USER, mode='lazy'):
            lab.expect.true('mode=lazy is refused', False)
    except NoBoot as e:
        lab.expect.true('mode=lazy is refused for this reason: %s' % e,
                        '/dev/userfaultfd' in str(e))


def as_new(lab, vm, page):
    """After a reset nothing is left of the error in @page."""
    lab.expect.ledger(vm, set())
    lab.expect.page_sizes(vm, whole=[page])
    vm.guest('mode idle')
    seen = vm.guest_values('kcore', 120)
    lab.expect.equal('failed reads of all memory', seen['failed'], 0)
    seen = vm.guest_values('sweep 0x%x' % page, 120)
    lab.expect.equal('corrupt words in all free memory', seen['corrupt'], 0)
    vm.guest('mode scan')
    lab.expect.nothing_lost(vm)


def reset(lab):
    # little memory: all of it is looked at afterwards
    with lab.vm(memory_mib=256) as vm:
        page = vm.blocks('A')[5] + 5 * PAGE
        vm.poison(page)
        lab.done(vm, [page])
        vm.reset()
        as_new(lab, vm, page)
        # the feature works in the next life as well
        again = vm.blocks('A')[6] + 9 * PAGE
        vm.poison(again)
        lab.done(vm, [again])


def private_mapping(lab):
    with lab.vm(ras='auto', share=False, silent=True) as vm:
        lab.expect.warned(vm, 'mem0', ('private', 'share=o'))
        page = vm.blocks('A')[5] + 5 * PAGE
        vm.poison(page)
        lab.done(vm, pages_of(page), recovered=False)


def device_reads(lab, disks=('/dev/vda pattern', '/dev/vdb zero'),
                 aio='threads', huge=HUGE, hinder=Vm.starved_io, **options):
    """The device writes to the page's healthy part while it is recovered.

    For vda that is the kernel, in a system call of QEMU (a read of the image
    into guest memory), for vdb QEMU itself.
    """
    with lab.vm(disks=aio, **options) as vm:
        blocks = vm.blocks('B')
        lost = []
        for disk, block in zip(disks, blocks[3::3]):
            page = block + 200 * PAGE
            vm.guest('dma-start %s 0x%x 0x%x' % (disk, block, page))
            with hinder(vm) if 'vda' in disk else nullcontext():
                time.sleep(0.5)
                vm.poison(page)
                lost.append(page)
                time.sleep(2)
            seen = vm.guest_values('dma-stop')
            lab.log.note('%s: %r' % (disk, seen))
            for what in ('failed', 'corrupt'):
                lab.expect.equal('%s: %s reads (errno %d, of %d)' % (
                    disk, what, seen['errno'], seen['reads']), seen[what], 0)
            lab.expect.true('%s: it did read' % disk, seen['reads'] > 0)
        vm.guest('check')
        lab.done(vm, lost, huge=huge)


def uring_reads(lab):
    device_reads(lab, disks=('/dev/vda pattern',), aio='io_uring',
                 hinder=Vm.starved_event_loop)


def native_reads(lab, hinder=Vm.starved_event_loop):
    """With O_DIRECT, which the file system of /disk does not have."""
    lab.host.sh('dd if=/disk of=/dev/ram0')
    device_reads(lab, disks=('/dev/vda pattern',), aio='native', hinder=hinder)


def direct_reads(lab):
    """The device writes to memory that is replaced before it has done so."""
    native_reads(lab, hinder=Vm.slow_disk)


def nbd_reads(lab):
    """What it reads comes through a socket, from another QEMU."""
    lab.host.sh('(echo nbd_server_start -a unix:%s; exec sleep 9999) | '
                'qemu -M none -accel kvm -display none -monitor stdio -drive '
                'if=none,id=disk,file=/disk,format=raw,readonly=on '
                '>/dev/null 2>&1 & echo $! >/tmp/server; '
                'until [ -S %s ]; do sleep 0.1; done' % (NBD, NBD))
    try:
        device_reads(lab, disks=('/dev/vda pattern',), aio='nbd',
                     hinder=Vm.starved_event_loop)
    finally:
        lab.host.sh('kill $(cat /tmp/server); rm %s' % NBD)


def device_reads_gigantic(lab):
    """Seconds instead of moments: requests are in flight during recovery."""
    device_reads(lab, disks=('/dev/vda pattern',), huge=1 << 30,
                 memory_mib=1024)


def two_vcpus(lab):
    with lab.vm() as vm:
        page = vm.blocks('A')[7] + 256 * PAGE
        vm.guest('mode hammer 0x%x' % page)
        vm.poison(page)
        vm.guest('wait 20')
        vm.guest('mode scan')
        lab.expect.told_to_toucher(vm, page)
        lab.done(vm, [page])


def gigantic_goes_on(lab):
    """Swapped at once: the guest checks on while the copy is being made."""
    with lab.vm(memory_mib=1024, silent=True) as vm:
        page = vm.blocks('A')[9] + 33 * PAGE
        vm.poison(page)
        seen = vm.guest_values('wait 1')
        lab.expect.filling(vm, 'after one round')
        lab.expect.equal('lost after one round', seen['lost'], 1)
        # not judged, as all times are: the table shows them
        lab.log.note('longest stall: %d us, nothing ran for %d us'
                     % (seen['longest_us'], seen['still_us']))
        lab.done(vm, [page], timeout=180, huge=1 << 30)


def second_while_filling(lab):
    """In a piece that is there already: an error in a small page."""
    with lab.vm(memory_mib=1024) as vm:
        vm.slow_fill()
        pages = [vm.blocks('A')[9] + 33 * PAGE, vm.blocks('A')[4] + 7 * PAGE]
        for n, page in enumerate(pages, 1):
            vm.poison(page)
            vm.guest('wait 2')
            lab.expect.filling(vm, 'after error %d' % n)
            lab.expect.eventually_lost(vm, n)
        vm.slow_fill(0)
        lab.done(vm, pages, timeout=180, huge=1 << 30)


def stopped_while_filling(lab):
    with lab.vm(memory_mib=1024) as vm:
        vm.slow_fill()
        page = vm.blocks('A')[9] + 33 * PAGE
        vm.poison(page)
        vm.guest('wait 1')
        lab.expect.filling(vm, 'when stopped')
        vm.qmp('stop')
        vm.slow_fill(0)
        time.sleep(1)
        lab.expect.equal('VM runs after stop', vm.running(), False)
        lab.expect.all_filled(vm)
        lab.expect.equal('VM runs after all is filled', vm.running(), False)
        vm.qmp('cont')
        lab.done(vm, [page], timeout=180, huge=1 << 30)


def many_errors(lab):
    """All over one huge page, while the guest writes all over it."""
    with lab.vm(memory_mib=1024, scanned_mib=80) as vm:
        pages = [block + (16 * i + 5) % 512 * PAGE
                 for i, block in enumerate(vm.blocks('A')[:32])]
        lab.expect.equal('errors', len(pages), 32)
        vm.poison(*pages)
        lab.done(vm, pages, timeout=180, huge=1 << 30)


def unannounced(lab):
    """The kernel signals only the first error in a huge page.

    The others are there when the copy is made; a process touches them before
    their piece is brought, so KVM may report them while something else runs.
    Exactly that process must be hit, each time.
    """
    with lab.vm(memory_mib=1024, quiet_mib=64) as vm:
        first = vm.blocks('A')[1] + 5 * PAGE
        quiet = vm.blocks('B')
        pages = [block + (37 * i + 100) % 512 * PAGE
                 for i, block in enumerate(quiet[:20])]
        vm.slow_fill()
        frame, = vm.poison(first)
        vm.poison_frame(*(frame + (p - first) // PAGE for p in pages))
        seen = vm.guest_values('check', 120)
        lab.expect.filling(vm, 'after all were touched')
        vm.slow_fill(0)
        lab.expect.equal('errors without a signal', len(pages), 20)
        lab.expect.equal('corrupt words in the region', seen['corrupt'], 0)
        lab.done(vm, [first] + pages, timeout=180, huge=1 << 30)


def start_network(lab, vm):
    """Between the emulated host, which echoes, and its guest."""
    own, port = '10.0.0.1', 7
    lab.host.sh('echo 1 >/proc/sys/net/ipv6/conf/{0}/disable_ipv6; '
                'ip addr add {1}/8 dev {0}; ip link set {0} up; '
                '(lab echo {1} {2} >/dev/null 2>&1 &)'.format(NET, own, port))
    vm.guest('net-start %s %s %d' % (GUEST, own, port))
    seen = vm.guest_values('net-echo 0x%x 4' % vm.blocks('B')[0])
    lab.expect.equal('echoes before the error', seen['answered'], 4)


def expect_echoes(lab, vm, block, **more):
    """Each of eight datagrams from @block comes back as it was sent."""
    seen = vm.guest_values('net-echo 0x%x 8' % block, 120)
    for what, want in dict(sent=8, answered=8, wrong=0, **more).items():
        lab.expect.equal('0x%x: datagrams %s (errno %d)' % (
            block, what, seen['errno']), seen[what], want)


def network_early(lab):
    """The vhost-net thread meets the huge page before it is replaced."""
    with lab.vm(memory_mib=1024, net=True) as vm:
        start_network(lab, vm)
        block = vm.blocks('B')[2]
        page = vm.blocks('A')[9] + 33 * PAGE
        vm.poison(page)
        # the guest stands still: these go no further than to vhost-net
        lab.host.sh('ping -c 3 -W 1 ' + GUEST, check=False)
        lab.expect.all_filled(vm)
        expect_echoes(lab, vm, block)
        lab.done(vm, [page], timeout=180, huge=1 << 30)


def network(lab):
    """The kernel's vhost-net thread is the first to touch unfilled pieces."""
    with lab.vm(memory_mib=1024, net=True) as vm:
        start_network(lab, vm)
        blocks = vm.blocks('B')
        vm.slow_fill()
        page = vm.blocks('A')[9] + 33 * PAGE
        vm.poison(page)
        # swapped, and hardly anything brought; that goes from low addresses up
        lab.expect.eventually_lost(vm, 1)
        vm.watch('vhost-')
        for block in reversed(blocks[2:]):
            expect_echoes(lab, vm, block, copied=0)
        seen = vm.watched()
        lab.log.note('vhost-net was seen waiting: %d times' % seen)
        lab.expect.true('vhost-net was seen waiting for a piece', seen)
        lab.expect.filling(vm, 'after the datagrams')
        vm.slow_fill(0)
        lab.done(vm, [page], timeout=180, huge=1 << 30)


def scsi_target(lab):
    """A disk of the host's kernel for vhost-scsi; returns its name."""
    name = 'naa.5001405000000001'
    lab.host.sh('[ -d /sys/kernel/config/target ] || {{ '
                'mount -t configfs none /sys/kernel/config && '
                'cd /sys/kernel/config/target && '
                'mkdir -p core/rd_mcp_0/disk && '
                'echo rd_pages=256 >core/rd_mcp_0/disk/control && '
                'echo 1 >core/rd_mcp_0/disk/enable && '
                'mkdir -p vhost/{0}/tpgt_1/lun/lun_0 && '
                'ln -s $PWD/core/rd_mcp_0/disk vhost/{0}/tpgt_1/lun/lun_0 && '
                'echo {0} >vhost/{0}/tpgt_1/nexus; }}'.format(name))
    return name


def scsi(lab):
    """It may write to the old page, which nobody can repeat: refused."""
    with lab.vm(ras='auto', scsi=scsi_target(lab)) as vm:
        lab.expect.refusal(vm, 'a vhost-scsi device writes to guest RAM '
                           'behind QEMU')
        vm.unplug('scsi')
        lab.expect.refusal(vm, None)
        page = vm.blocks('A')[5] + 5 * PAGE
        vm.poison(page)
        lab.done(vm, [page])


def reset_while_filling(lab):
    with lab.vm(memory_mib=1024) as vm:
        vm.poison(vm.blocks('A')[9] + 33 * PAGE)
        vm.guest('wait 1')
        lab.expect.filling(vm, 'before the reset')
        vm.reset()
        lab.expect.ledger(vm, set(), huge=1 << 30)
        lab.expect.nothing_lost(vm)


def killed_while_filling(lab):
    def free():
        out = lab.host.sh('cat /sys/kernel/mm/hugepages/hugepages-1048576kB/'
                          'free_hugepages')
        return int(out.split()[0])

    before = free()
    with lab.vm(memory_mib=1024) as vm:
        vm.poison(vm.blocks('A')[9] + 33 * PAGE)
        vm.guest('wait 1')
        lab.expect.filling(vm, 'when killed')
        vm.stop()
        lab.host.sh('rm -f /huge/*', check=False)
        end = time.monotonic() + 20
        while free() != before - 1 and time.monotonic() < end:
            time.sleep(0.5)
        lab.expect.equal('free huge pages', free(), before - 1)


COMMON = (
    Case('self', 'one flipped bit in guest memory is seen', self_test,
         recovery=False),
    Case('control', 'recovery off: one error costs 512 pages', control,
         recovery=False),
    Case('a', 'one error in a 2 MiB page costs 1 page', one_error),
    Case('b', 'eight errors in four huge pages cost 8 pages', eight_errors),
    Case('c', 'error in the background: retired, nobody killed',
         background_error),
    Case('e', 'QEMU as an ordinary user', ordinary_user),
    Case('f', 'reset after an error: no poison left', reset),
    Case('g', 'share=off: a warning, and as without recovery',
         private_mapping, recovery=False),
    Case('h', 'a disk reads into the healthy part', device_reads),
    Case('i', 'two vCPUs in the same poisoned huge page', two_vcpus),
    Case('a-sandbox', 'one error, in the sandbox of libvirt', sandbox),
    Case('a-eager', 'one error, copied first', one_error, mode='eager'),
    Case('b-eager', 'eight errors, copied first', eight_errors, mode='eager'),
    Case('c-eager', 'in the background, copied first', background_error,
         mode='eager'),
    Case('f-eager', 'reset, copied first', reset, mode='eager'),
    Case('h-eager', 'a disk reads, copied first', device_reads, mode='eager'),
    Case('h-uring', 'a disk reads by io_uring', uring_reads, mode='eager',
         archs=('x86_64',)),
    Case('h-native', 'a disk reads by native AIO', native_reads, mode='eager',
         archs=('x86_64',)),
    Case('h-nbd', 'a disk reads over NBD', nbd_reads, mode='eager',
         archs=('x86_64',)),
    Case('h-direct', 'a disk is still writing to what is replaced',
         direct_reads, archs=('x86_64',)),
    Case('scsi', 'vhost-scsi: not recovered as long as it is there', scsi,
         archs=('x86_64',)),
    Case('i-eager', 'two vCPUs, copied first', two_vcpus, mode='eager'),
    Case('d', 'one error in a 1 GiB page costs 1 page', gigantic_page,
         pool='1G'),
    Case('h1g', 'a disk reads into the healthy part of 1 GiB',
         device_reads_gigantic, pool='1G'),
    Case('on', '1 GiB: the guest goes on during the copy', gigantic_goes_on,
         pool='1G', mode='lazy'),
    Case('second', '1 GiB: a second error during the copy',
         second_while_filling, pool='1G', mode='lazy'),
    Case('stop', '1 GiB: stop and cont during the copy', stopped_while_filling,
         pool='1G', mode='lazy'),
    Case('many', '1 GiB: 32 errors at once cost 32 pages', many_errors,
         pool='1G', mode='lazy'),
    Case('quiet', '1 GiB: 20 errors without a signal hit the right process',
         unannounced, pool='1G', mode='lazy'),
    Case('net', '1 GiB: vhost-net touches what is not there yet', network,
         pool='1G', mode='lazy', archs=('x86_64',)),
    Case('net-eager', '1 GiB: vhost-net touches it before it is copied',
         network_early, pool='1G', mode='eager', archs=('x86_64',)),
    Case('reset', '1 GiB: reset during the copy', reset_while_filling,
         pool='1G', mode='lazy', huge_pages=2),
    Case('d-eager', '1 GiB: one error, copied first', gigantic_page,
         pool='1G', mode='eager'),
    Case('kill', '1 GiB: QEMU killed during the copy', killed_while_filling,
         pool='1G', mode='lazy'),
)
