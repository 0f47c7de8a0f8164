# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs between the architectures of the lab."""

from dataclasses import dataclass
from pathlib import Path

from project import cross, layout


@dataclass(frozen=True)
class Arch:
    name: str               # QEMU's name
    debian: str             # Debian's name
    cc: str                 # compiler of the programs in both guests
    strip: str
    libraries: tuple        # where the libraries of the QEMU under test are
    host_package: str       # kernel of the emulated host
    guest_package: str      # kernel of its guest
    host_modules: tuple     # in the order in which they are loaded
    guest_modules: tuple
    firmware_packages: tuple
    firmware: tuple         # files that QEMU finds with -L
    host_machine: tuple     # arguments of the QEMU that emulates the host
    host_console: str
    guest_machine: tuple    # arguments of the QEMU under test
    guest_early_console: str        # on the guest kernel's command line
    guest_firmware: tuple = ()      # arguments; none: QEMU's default
    guest_kernel_options: str = ''
    host_kernel_options: str = ''
    ram_base: int = 0       # guest-physical
    host_qemu: Path = None  # emulates the host; None: the QEMU under test
    rasdaemon: tuple = ()   # packages of it and its libraries
    cper: bool = False      # errors reach the guest in firmware's records
    retired_in: int = 30    # seconds until a page that nobody touched is
    cases: tuple = ()       # that run unless others are named; none: all

    @property
    def qemu(self):
        """The QEMU under test, made by `make qemu`."""
        return layout.BUILD / self.name / ('qemu-system-' + self.name)

    @property
    def told(self):
        """What errors are called that the guest's kernel was told of."""
        return ('errors told to the guest' if self.cper else
                'machine checks in the guest')


X86_64 = Arch(
    name='x86_64',
    debian='amd64',
    cc='gcc',
    strip='strip',
    libraries=('/lib/x86_64-linux-gnu', '/usr/lib/x86_64-linux-gnu'),
    host_package='linux-image-amd64',
    guest_package='linux-image-cloud-amd64',
    host_modules=('irqbypass', 'ccp', 'kvm', 'kvm-amd', 'hwpoison-inject',
                  'brd', 'tun', 'tap', 'vhost_iotlb', 'vhost', 'vhost_net',
                  'configfs', 'scsi_common', 'scsi_mod', 'target_core_mod',
                  'vhost_scsi'),
    guest_modules=('virtio_blk', 'failover', 'net_failover', 'virtio_net'),
    firmware_packages=('seabios', 'qemu-system-data'),
    firmware=('bios-256k.bin', 'linuxboot_dma.bin', 'kvmvapic.bin', 'pvh.bin'),
    # TCG emulates "rep movsb" byte by byte: without ERMS and FSRM the kernel
    # copies in words, which makes copying in the lab several times faster
    host_machine=('-machine', 'q35', '-cpu', 'max,-erms,-fsrm,-la57'),
    host_console='ttyS0',
    guest_machine=('-machine', 'q35', '-cpu', 'host'),
    guest_early_console='earlyprintk=serial',
    # configuration space by memory costs an emulated instruction per access
    guest_kernel_options='no_timer_check tsc=reliable pci=nommconf',
)

AARCH64 = Arch(
    name='aarch64',
    debian='arm64',
    cc='aarch64-linux-gnu-gcc',
    strip='aarch64-linux-gnu-strip',
    libraries=(str(cross.LIBRARIES),),
    host_package='linux-image-arm64',
    guest_package='linux-image-cloud-arm64',
    host_modules=('hwpoison-inject',),
    guest_modules=('virtio_blk',),
    firmware_packages=('qemu-efi-aarch64',),
    firmware=('QEMU_EFI.fd',),
    ram_base=1 << 30,
    host_qemu=layout.BUILD / 'x86_64' / 'qemu-system-aarch64',
    # emulating pointer authentication costs more than all the rest
    host_machine=('-machine', 'virt,virtualization=on,gic-version=3',
                  '-cpu', 'max,pauth=off'),
    host_console='ttyAMA0',
    guest_machine=('-machine', 'virt,ras=on,gic-version=host', '-cpu', 'host'),
    guest_early_console='earlycon',
    # ACPI, and with it the error records, come from the firmware
    guest_firmware=('-bios', 'QEMU_EFI.fd'),
    # no second console, on a serial port that costs an exit per character
    guest_kernel_options='acpi=nospcr log_buf_len=1M',
    rasdaemon=('rasdaemon', 'libsqlite3-0', 'libtraceevent1', 'libc6'),
    cper=True,
    retired_in=3,
    # what depends on how the guest is told; the rest is the same code as on
    # x86 and runs when named
    cases=('self', 'control', 'a', 'b', 'c', 'f', 'i', 'd', 'a-noghes',
           'a-noras', 'a-dt', 'f-panic', 'dump', 'rasdaemon', 'a-16k'),
)

ARCHS = {a.name: a for a in (X86_64, AARCH64)}
