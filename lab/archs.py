# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs between the architectures of the lab."""

from dataclasses import dataclass


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
    guest_console: str      # on the guest kernel's command line
    guest_kernel_options: str = ''
    host_kernel_options: str = ''


X86_64 = Arch(
    name='x86_64',
    debian='amd64',
    cc='gcc',
    strip='strip',
    libraries=('/lib/x86_64-linux-gnu', '/usr/lib/x86_64-linux-gnu'),
    host_package='linux-image-amd64',
    guest_package='linux-image-cloud-amd64',
    host_modules=('irqbypass', 'ccp', 'kvm', 'kvm-amd', 'hwpoison-inject'),
    guest_modules=('virtio_blk',),
    firmware_packages=('seabios', 'qemu-system-data'),
    firmware=('bios-256k.bin', 'linuxboot_dma.bin', 'kvmvapic.bin', 'pvh.bin'),
    # TCG emulates "rep movsb" byte by byte: without ERMS and FSRM the kernel
    # copies in words, which makes copying in the lab several times faster
    host_machine=('-machine', 'q35', '-cpu', 'max,-erms,-fsrm,-la57'),
    host_console='ttyS0',
    guest_machine=('-machine', 'q35', '-cpu', 'host'),
    guest_console='earlyprintk=serial console=hvc0',
    guest_kernel_options='no_timer_check tsc=reliable',
)

ARCHS = {a.name: a for a in (X86_64,)}
