# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU under test with its guest, in the emulated host."""

import contextlib
import json
import time

from channel import Gone, TimedOut

BOOTS = 3
BOOT_SECONDS = 75
PAGE = 4096
NET = 'tap0'
NBD = '/tmp/nbd'
# what libvirt starts QEMU with
SANDBOX = ('on,obsolete=deny,elevateprivileges=deny,spawn=deny,'
           'resourcecontrol=deny')


class Dead(Exception):
    """QEMU or its guest is gone, or does not answer."""


class NoBoot(Exception):
    """The guest did not come up; nothing had been injected."""


class Vm:
    """One QEMU under test.

    @ras:   value of the property hugetlbfs-ras, None to leave it out
    @mode:  value of x-hugetlbfs-ras-mode, None to leave it out
    @user:  user id that QEMU runs as
    @disks: a disk with a pattern (vda) and one with zeros (vdb); how the host
            reads the former: threads, io_uring, native or nbd
    @net:   a network interface served by vhost-net; NET at the host's end
    @scsi:  name of a target that vhost-scsi serves, see scsi_target()
    @sandbox: as libvirt has it: system calls are refused
    @silent: no kernel messages of the guest: a machine check writes seven
            lines to a slow console, which counts when there are 512
    @machine: further properties of the machine
    @firmware: False: without the firmware that the architecture prefers
    @kernel_options: for the guest's kernel
    @initramfs: another image for the guest
    """

    def __init__(self, host, log, ras='on', memory_mib=512, share=True,
                 user=0, disks='', net=False, scsi='', sandbox=False,
                 silent=False, scanned_mib=64, quiet_mib=24, mode=None,
                 machine='', firmware=True, kernel_options='',
                 initramfs='initramfs'):
        self.host, self.log = host, log
        self.arch = host.assets.arch
        self.cper = self.arch.cper
        self.ras = ras if host.has_property else None
        self.mode = mode if host.has_property else None
        self.memory_mib, self.share = memory_mib, share
        self.user, self.silent, self.sandbox = user, silent, sandbox
        self.disks, self.net, self.scsi = disks, net, scsi
        self.regions = (scanned_mib, quiet_mib)
        self.machine, self.firmware = machine, firmware
        self.kernel_options, self.initramfs = kernel_options, initramfs
        self.pid = 0
        self.boots = 0
        self.injected = False
        self.events = []
        self.messages = []      # what QEMU wrote
        self.exited = None
        self.panic = None
        self.up = False
        self.restarting = False
        self.progress = None    # called now and then while waiting

    # -- life

    def __enter__(self):
        for _ in range(BOOTS):
            try:
                self._start()
                return self
            except (Dead, TimedOut) as e:
                self.log.note('boot %d of the guest failed: %r'
                              % (self.boots, e))
                self.stop()
                if self.exited not in (None, '137'):
                    break       # refused to start: no use in trying again
            except BaseException:
                self.stop()
                raise
        raise NoBoot('the guest did not come up, boots: %d\n%s' % (
            self.boots, '\n'.join(self.messages[-5:])))

    def __exit__(self, kind, value, trace):
        self.stop()

    def _start(self):
        ch = self.host.channels
        for name in ('qmp', 'console', 'guest', 'qemu'):
            ch[name].forget()
        self.exited = self.panic = None
        self.up = False
        ch['qmp'].on_line = self._on_qmp
        ch['qemu'].on_line = self._on_message
        ch['console'].on_line = self._on_console
        self.boots += 1
        self.log.note('starting QEMU')
        as_user = 'lab as-user %d ' % self.user if self.user else ''
        # the subshell stays to report the exit status
        out = self.host.sh(
            "(%sqemu %s & echo $! >/tmp/pid; wait $!; echo @exit $?) "
            ">/dev/vport0p5 2>&1 & sleep 0.2; cat /tmp/pid; rm /tmp/pid"
            % (as_user, ' '.join("'%s'" % a for a in self._arguments())))
        self.pid = int(out.split()[-1])
        self.deadline = time.monotonic() + BOOT_SECONDS
        self._qmp_line('QMP')
        self.qmp('qmp_capabilities')
        self.wait_ready()

    def wait_ready(self, seconds=BOOT_SECONDS):
        """Until the guest's test program says that it is up."""
        start = time.monotonic()
        while self._guest_line(start + seconds) != 'ready':
            pass
        self.up = True
        self.log.note('guest up after %.1f s' % (time.monotonic() - start))

    def reset(self):
        self.up = False         # the firmware may reset once more
        self.qmp('system_reset')
        self.wait_ready()

    def _kernel_command_line(self):
        # a character on a serial port is an exit: only to see what went wrong
        early = self.arch.guest_early_console if self.boots > 1 else ''
        return ('%s console=hvc0 loglevel=4 panic=-1 nokaslr mitigations=off '
                'nowatchdog audit=0 cryptomgr.notests ipv6.disable=1 '
                'transparent_hugepage=never lab_scanned=%d lab_quiet=%d '
                'lab_silent=%d %s %s' % (
                    early, *self.regions, self.silent,
                    self.arch.guest_kernel_options, self.kernel_options))

    def restarted_itself(self, seconds=BOOT_SECONDS):
        """Wait until the guest has panicked and started anew."""
        self.log.note('the guest is to panic')
        end = time.monotonic() + seconds
        while not self.panic and self.exited is None:
            if time.monotonic() > end:
                raise Dead('the guest did not panic')
            time.sleep(0.1)
        self.up, self.panic, self.restarting = False, None, True
        self.wait_ready()
        self.restarting = False

    def _arguments(self):
        machine = list(self.arch.guest_machine)
        machine[1] += ',memory-backend=mem0'
        if self.machine:
            machine[1] += ',' + self.machine
        if self.firmware:
            machine += self.arch.guest_firmware
        backend = ('memory-backend-file,id=mem0,size=%dM,mem-path=/huge,'
                   'share=%s' % (self.memory_mib,
                                 'on' if self.share else 'off'))
        if self.ras:
            backend += ',hugetlbfs-ras=' + self.ras
        if self.mode and self.ras != 'off':
            backend += ',x-hugetlbfs-ras-mode=' + self.mode
        # threads are found by name, see _renice()
        args = ['-name', 'lab,debug-threads=on', '-L', '/firmware',
                '-nodefaults', '-no-user-config', '-display', 'none',
                '-accel', 'kvm', *machine, '-smp', '2',
                '-m', '%dM' % self.memory_mib, '-object', backend,
                '-kernel', '/guest/kernel',
                '-initrd', '/guest/' + self.initramfs,
                '-append', self._kernel_command_line(),
                '-chardev', 'pipe,id=qmp,path=/dev/vport0p2',
                '-mon', 'chardev=qmp,mode=control',
                '-chardev', 'pipe,id=console,path=/dev/vport0p3,mux=on',
                '-serial', 'chardev:console', '-device', 'virtio-serial-pci',
                '-device', 'virtconsole,chardev=console,nr=0',
                '-chardev', 'pipe,id=guest,path=/dev/vport0p4',
                '-device', 'virtserialport,chardev=guest,nr=1']
        if self.sandbox:
            args += ['-sandbox', SANDBOX]
        if self.disks:
            pattern = {
                'native': 'host_device,filename=/dev/ram0,cache.direct=on,'
                          'aio=native',
                'nbd': 'nbd,server.type=unix,server.path=%s,export=disk' % NBD,
            }.get(self.disks, 'file,filename=/disk,aio=' + self.disks)
            # see starved_io()
            args += ['-object', 'main-loop,'
                     'id=main-loop,thread-pool-min=1,thread-pool-max=1']
            thread = ''
            if self.disks != 'threads':
                args += ['-object', 'iothread,id=io']
                thread = 'iothread=io,'
            for name, disk in (
                    ('pattern', pattern + ',read-only=on'),
                    ('zero', 'null-co,read-zeroes=on,size=2097152')):
                args += ['-blockdev', 'node-name=%s,driver=%s' % (name, disk),
                         '-device', 'virtio-blk-pci,%sdrive=%s' % (thread, name)]
        if self.net:
            args += ['-netdev', 'tap,id=net,vhost=on,script=no,downscript=no,'
                     'ifname=' + NET,
                     '-device', 'virtio-net-pci,netdev=net,romfile=']
        if self.scsi:
            args += ['-device', 'pcie-root-port,id=slot0,chassis=1',
                     '-device', 'vhost-scsi-pci,id=scsi,bus=slot0,wwpn='
                     + self.scsi,
                     # has QEMU announce all devices once more
                     '-device', 'virtio-net-pci,failover=on,romfile=']
        return args

    def stop(self):
        if self.pid and self.exited is None:
            self.host.sh('kill -9 %d' % self.pid, check=False)
            end = time.monotonic() + 20
            while self.exited is None and time.monotonic() < end:
                time.sleep(0.05)
        self.pid = 0

    def _on_message(self, line):
        if line.startswith('@exit '):
            self.exited = line.split()[1]
        else:
            self.messages.append(line)

    def _on_qmp(self, line):
        # the guest's kernel reboots when it panics
        if self.up and '"RESET"' in line and '"guest": true' in line:
            self.panic = self.panic or 'it has reset itself'

    def _on_console(self, line):
        if not self.restarting and ('Kernel panic' in line or
                                    'Fatal local machine check' in line):
            self.panic = line

    # -- monitor

    def _check_alive(self):
        if self.exited is not None:
            raise Dead('QEMU exited with status %s' % self.exited)
        if self.panic:
            raise Dead('the guest is gone: %s' % self.panic)

    def _line(self, channel, deadline):
        while True:
            self._check_alive()
            if self.progress:
                self.progress()
            try:
                return self.host.channels[channel].line(
                    min(deadline, time.monotonic() + 0.2))
            except TimedOut:
                if time.monotonic() >= deadline:
                    raise Dead('no answer on channel %s' % channel) from None
            except Gone:
                raise Dead('the emulated host is gone') from None

    def _qmp_line(self, want):
        while True:
            line = self._line('qmp', self.deadline)
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if 'event' in message:
                self.events.append(message)
            if want in message or 'error' in message:
                return message

    def qmp(self, command, timeout=30, **arguments):
        self.deadline = time.monotonic() + timeout
        self.host.channels['qmp'].send(json.dumps(
            {'execute': command,
             'arguments': {k.replace('_', '-'): v
                           for k, v in arguments.items()}}))
        answer = self._qmp_line('return')
        if 'error' in answer:
            raise Dead('%s: %s' % (command, answer['error']['desc']))
        return answer['return']

    def collect_events(self):
        """All events so far."""
        self.qmp('query-version')
        return self.events

    def unplug(self, device, seconds=30):
        """Ask the guest for @device, and wait until it is gone."""
        self.qmp('device_del', id=device)
        end = time.monotonic() + seconds
        while not any(e['event'] == 'DEVICE_DELETED' and
                      e['data'].get('device') == device
                      for e in self.collect_events()):
            if time.monotonic() > end:
                raise Dead('the guest did not give up ' + device)
            time.sleep(0.3)

    def running(self):
        return self.qmp('query-status')['status'] == 'running'

    # -- guest

    def _guest_line(self, deadline):
        while True:
            line = self._line('guest', deadline)
            if line.startswith('dead'):
                raise Dead('the test program in the guest died: ' + line)
            if line and not line.startswith('#'):
                return line

    def guest(self, command, timeout=60):
        """Words of the guest program's answer to @command."""
        self.log.note('guest: ' + command)
        self.host.channels['guest'].send(command)
        line = self._guest_line(time.monotonic() + timeout)
        words = line.split()
        if not words or words[0] != 'ok':
            raise Dead('guest: %s: %s' % (command, line))
        return words[1:]

    def guest_values(self, command, timeout=60):
        """The answer as numbers by name."""
        return {k: int(v) for k, v in
                (w.split('=') for w in self.guest(command, timeout))}

    def blocks(self, area):
        """Guest-physical addresses of 2 MiB that the region fills."""
        return [int(w, 16) for w in self.guest('blocks ' + area)]

    def lost(self):
        """What the guest lost: list of dictionaries."""
        result = []
        for word in self.guest('lost'):
            area, gpa, code, lsb, accessed = word.split(':')
            result.append({'area': area, 'gpa': int(gpa, 16),
                           'code': int(code), 'lsb': int(lsb),
                           'accessed': int(accessed, 16)})
        return result

    def failures(self):
        """Address of each page that the guest's kernel was told to give up.

        A page may be there more than once: an access is told of it even when
        the kernel just learned of it in the background.
        """
        return [int(w, 16) for w in self.guest('failures')]

    def told(self):
        """How many errors the guest's kernel was told of."""
        if self.cper:
            return len(set(self.failures()))
        return self.guest_values('sys')['mce']

    def records(self):
        """Address and source of each error record that the guest logged."""
        return [(int(gpa, 16), int(source)) for gpa, source in
                (w.split(':') for w in self.guest('records'))]

    # -- errors

    def hva(self, gpa):
        out = self.qmp('human-monitor-command',
                       command_line='gpa2hva 0x%x' % gpa)
        return int(out.split()[-1], 16)

    def poison(self, *gpas):
        """Let the host kernel fail the memory; several: all at one instant.

        Returns their page frame numbers.
        """
        hvas = ' '.join('0x%x' % self.hva(g) for g in gpas)
        if not self.injected:
            self.guest('stat reset')    # a stall before this is not ours
        self.injected = True
        self.log.note('poison %s' % ' '.join('0x%x' % g for g in gpas))
        out = self.host.sh('lab poison %d %s' % (self.pid, hvas))
        return [int(frame, 16) for frame in out.split()]

    def poison_frame(self, *pfns):
        """Fail frames that QEMU does not map any more: no signal for it."""
        self.log.note('poison frames %s' % ' '.join('0x%x' % p for p in pfns))
        for pfn in pfns:
            # "already poisoned" is what the kernel says of the huge page
            self.host.sh('echo 0x%x >/sys/kernel/debug/hwpoison/corrupt-pfn'
                         % pfn, check=False)

    def slow_fill(self, nice=19):
        """The filler gets the CPU last: what nobody waits for takes long."""
        self._renice('hugepage-fill', nice)

    def _renice(self, thread, nice):
        self.host.sh('cd /proc/%d/task; renice %d -p $(grep -l %s '
                     '*/comm | cut -d/ -f1)' % (self.pid, nice, thread))

    def watch(self, threads):
        """From now on look how often @threads wait for a page to be brought."""
        # no program is started in the loop: a wait is over in 50 ms
        loop = ('cd /proc/%d/task; of=$(grep -l "^%s" */comm); '
                'while [ ! -e /tmp/watched ]; do for f in $of; do '
                'read -r where <${f%%comm}wchan; echo $where; '
                'done; done >/tmp/watch' % (self.pid, threads))
        self.host.sh('rm -f /tmp/watched; (%s) >/dev/null 2>&1 &' % loop)

    def watched(self):
        """How often they were seen to."""
        out = self.host.sh('touch /tmp/watched; sleep 0.5; '
                           'grep -c handle_userfault /tmp/watch', check=False)
        return int(out.split()[0])

    @contextlib.contextmanager
    def starved_io(self):
        """Requests pile up: the only I/O thread gets the CPU last.

        When a huge page fails, all others soon wait for its recovery, and
        this thread does its system calls meanwhile.
        """
        self._renice('worker', 19)
        yield

    @contextlib.contextmanager
    def starved_event_loop(self):
        """As starved_io(), for io_uring and native AIO.

        What an event loop does is short, so the recovery must not have a CPU
        for itself either.
        """
        self._renice('IO', 19)
        self._renice('hugetlbfs-ras', 19)
        self.host.sh('for i in 1 2; do (while :; do :; done) & '
                     'echo $! >>/tmp/busy; done')
        try:
            yield
        finally:
            self.host.sh('kill $(cat /tmp/busy); rm /tmp/busy')

    @contextlib.contextmanager
    def slow_disk(self):
        """The disk of native AIO does four reads a second; others wait."""
        self._limit_reads('4')
        try:
            yield
        finally:
            self._limit_reads('max')

    def _limit_reads(self, reads):
        self.host.sh('[ -d /cg ] || { mkdir /cg && '
                     'mount -t cgroup2 none /cg && '
                     'echo +io >/cg/cgroup.subtree_control && '
                     'mkdir /cg/qemu; } && '
                     'echo %d >/cg/qemu/cgroup.procs && '
                     'echo "1:0 riops=%s" >/cg/qemu/io.max'
                     % (self.pid, reads))

    def flip(self, gpa):
        """Corrupt one bit behind everybody's back."""
        self.injected = True
        self.host.sh('lab flip %d 0x%x' % (self.pid, self.hva(gpa)))
