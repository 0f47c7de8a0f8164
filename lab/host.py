# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated host: an unmodified Debian kernel with KVM, under TCG.

Its init is a shell that runs the commands which come in on a virtio-serial
port.  Further ports belong to the QEMU under test, which opens them itself:
its monitor, its guest's console, its guest's test program, its messages.
"""

import os
import re
import shutil
import subprocess
import time

from archs import ARCHS
from channel import Channel, Gone, TimedOut
from project import ui

PORTS = ('shell', 'qmp', 'console', 'guest', 'qemu')    # port numbers 1..
BOOTS = 3
BOOT_SECONDS = 60

INIT = '''\
#!/bin/sh
busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t debugfs debug /sys/kernel/debug
mount -t devtmpfs dev /dev
mount -t hugetlbfs -o mode=1777,pagesize={pagesize} huge /huge
for m in /modules/*.ko; do insmod $m || echo "cannot load $m"; done
chmod 666 /dev/kvm /dev/vport0p*
while ! exec 3<>/dev/vport0p1; do sleep 0.1; done
echo '@@boot 0' >&3
while read -r id line <&3; do
    ( eval "$line" ) </dev/null >/tmp/out 2>&1 3>&-
    rc=$?
    cat /tmp/out >&3
    printf '\\n@@%s %s\\n' $id $rc >&3
done
'''


class HostFailed(Exception):
    """The lab itself does not work; says nothing about the QEMU under test."""


class CommandFailed(Exception):
    """A command in the emulated host ended with an error."""


class Host:
    """One boot of the emulated host; `with Host(...) as host`."""

    def __init__(self, assets, qemu, host_qemu, name, pagesize='2M',
                 memory_mib=1536, options='', kernel=''):
        self.assets, self.qemu, self.host_qemu = assets, qemu, host_qemu
        self.name, self.pagesize = name, pagesize
        self.memory_mib, self.options = memory_mib, options
        self.kernel = kernel    # of Assets.host_kernels
        self.boots = 0
        self.failed = False
        self.process = None
        self.channels = {}
        self.sequence = 0

    def __enter__(self):
        image = self.assets.dir / ('host-%s.cpio' % self.name)
        self.assets.host_image(self.qemu, self.kernel,
                               INIT.format(pagesize=self.pagesize), image)
        self.image = image
        for _ in range(BOOTS):
            try:
                self._boot()
                return self
            except (Gone, TimedOut):
                self.stop()
            except BaseException:
                self.stop()
                raise
        raise HostFailed('the emulated host did not come up in %d boots:\n%s'
                         % (BOOTS, self._log_tail()))

    def __exit__(self, kind, value, trace):
        self.stop()
        self.image.unlink(missing_ok=True)

    def _boot(self):
        self.boots += 1
        self.sequence = 0
        self.channels = {name: Channel(name) for name in PORTS}
        logs = self.assets.dir / 'logs'
        logs.mkdir(exist_ok=True)
        self.log = logs / ('host-%s.log' % self.name)
        fds = [c.peer.fileno() for c in self.channels.values()]
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen(
                ['setpriv', '--pdeathsig', 'KILL', *self._command(fds)],
                pass_fds=fds, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT)
        for c in self.channels.values():
            c.peer.close()
        self._answer('boot', time.monotonic() + BOOT_SECONDS)
        self.has_property = self.sh(
            'qemu -L /firmware -object memory-backend-file,help | '
            'grep -c "^ *hugetlbfs-ras="', check=False).strip() == '1'

    def _command(self, fds):
        arch, assets = self.assets.arch, self.assets
        append = ('console=%s loglevel=4 panic=-1 mitigations=off nokaslr '
                  'nowatchdog audit=0 %s %s' % (
                      arch.host_console, arch.host_kernel_options,
                      self.options))
        cmd = [str(self.host_qemu), '-L', str(assets.firmware), '-nodefaults',
               '-no-user-config', '-display', 'none', '-no-reboot',
               '-accel', 'tcg,thread=multi,tb-size=512', *arch.host_machine,
               '-smp', '2', '-m', str(self.memory_mib),
               '-kernel',
               str(assets.host_kernels[self.kernel] / 'kernel'),
               '-initrd', str(self.image), '-append', append,
               '-serial', 'stdio', '-device', 'virtio-serial-pci']
        for n, (name, fd) in enumerate(zip(PORTS, fds), 1):
            cmd += ['-chardev', 'socket,id=%s,fd=%d' % (name, fd),
                    '-device', 'virtserialport,chardev=%s,nr=%d' % (name, n)]
        return cmd

    def _answer(self, ident, deadline):
        out = []
        while True:
            line = self.channels['shell'].line(deadline)
            if line.startswith('@@%s ' % ident):
                return '\n'.join(out), int(line.split()[1])
            out.append(line)

    def sh(self, command, timeout=30, check=True):
        """Output of shell @command in the emulated host."""
        self.sequence += 1
        try:
            self.channels['shell'].send('%d %s' % (self.sequence, command))
            out, rc = self._answer(self.sequence, time.monotonic() + timeout)
        except (Gone, TimedOut) as e:
            self.failed = True
            raise HostFailed('the emulated host does not answer to `%s` '
                             '(QEMU: %s):\n%s' % (
                                 command, self.process.poll(),
                                 self._log_tail())) from e
        if rc and check:
            raise CommandFailed('`%s` in the emulated host: status %d\n%s'
                             % (command, rc, out))
        return out

    def logged_to(self, log):
        for c in self.channels.values():
            c.log = log

    def _log_tail(self):
        return ''.join('    ' + s + '\n' for s in self.console()[-20:])

    def console(self):
        return self.log.read_text(errors='replace').splitlines()

    def last_words(self):
        """Why its kernel has died, if it said so."""
        said = [s for s in self.console() if re.search(
            r'Kernel panic|BUG: |Oops: ', s)]
        return said[0].strip() if said else 'no message'

    def alive(self):
        return not self.failed and self.process.poll() is None

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        for c in self.channels.values():
            c.close()
        self.channels = {}


def find_qemus(args):
    """Complete the options --qemu and --host-qemu by their defaults."""
    arch = ARCHS[args.arch]
    args.qemu = args.qemu or arch.qemu
    args.host_qemu = args.host_qemu or arch.host_qemu or args.qemu
    for path in (args.qemu, args.host_qemu):
        if not os.access(path, os.X_OK):
            raise ui.Failure('no %s' % path, '`make demo ARCH=%s` builds it; or '
                             'name another one with --qemu or --host-qemu'
                             % args.arch)


def check_tools(arch):
    for tool in ('setpriv', 'readelf', arch.cc):
        if not shutil.which(tool):
            raise ui.Failure('%s is missing' % tool, 'see the README')
