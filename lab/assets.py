# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything the lab boots: kernels, firmware, programs, initramfs images.

All of it is made in build/lab/ARCH.  What comes from Debian packages is
unpacked once per package version, what we compile once per change.
"""

import hashlib
import lzma
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from project import debian, layout, ui
from cpio import Initramfs

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / 'programs'
MAGIC = {b'\x28\xb5\x2f\xfd': 'zstd', b'\xfd7zXZ\0': 'xz'}


class Assets:
    """The files of one architecture."""

    def __init__(self, arch):
        self.arch = arch
        self.dir = layout.BUILD / 'lab' / arch.name
        self.dir.mkdir(parents=True, exist_ok=True)

    def prepare(self, host_kernels=('',)):
        """Everything except the QEMU under test.

        @host_kernels: what follows the name of the usual kernel's package
        """
        a = self.arch
        self.host_kernels = {k: self._kernel(a.host_package + k, a.host_modules)
                             for k in host_kernels}
        self.guest_kernel = self._kernel(a.guest_package, a.guest_modules)
        self.firmware = self._unpacked('firmware', a.firmware_packages,
                                       self._pick_firmware)
        self.busybox = self._unpacked('busybox', ('busybox-static',),
                                      self._pick_busybox) / 'busybox'
        self.guest_init = self._compiled('guest', 'guest-*.c')
        self.host_tool = self._compiled('host', 'host.c')
        self.guest_images = {'initramfs': self._guest_image('guest')}
        if a.rasdaemon:
            where = self._unpacked('rasdaemon', a.rasdaemon,
                                   self._pick_rasdaemon)
            program = where / 'rasdaemon'
            access = self._compiled('access.so', 'preload-access.c',
                                    ['-shared', '-fPIC', '-nostdlib'])
            self.guest_images['initramfs-rasdaemon'] = self._guest_image(
                'guest-rasdaemon', {'sbin/rasdaemon': program,
                                    'lib/access.so': access,
                                    **needed(program, (where,))})

    def _guest_image(self, name, programs={}):
        path = self.dir / (name + '.cpio')
        with Initramfs(path) as image:
            image.file('init', self.guest_init, 0o755)
            for n, mod in enumerate(self.arch.guest_modules):
                image.file('modules/%02d-%s.ko' % (n, mod),
                           self.guest_kernel / (mod + '.ko'))
            for to, source in programs.items():
                image.file(to, source, 0o755)
            image.directory('dev')
        return path

    # -- Debian packages

    def _unpacked(self, name, packages, pick, deps='none', what=()):
        """Directory with @what, which @pick takes out of @packages."""
        debs = debian.download(packages, arch=self.arch.debian, deps=deps)
        names = sorted(Path(d).name for d in debs)
        key = hashlib.sha1(' '.join([*names, *what]).encode()).hexdigest()[:8]
        where = self.dir / ('%s-%s' % (name, key))
        if not where.exists():
            with ui.Step('unpack %s' % ' '.join(packages)), \
                    tempfile.TemporaryDirectory(dir=self.dir) as tmp, \
                    layout.complete_dir(where) as part:
                debian.unpack(debs, tmp)
                pick(Path(tmp), part)
        return where

    def _kernel(self, package, modules):
        def pick(tmp, part):
            for mod in modules:
                src = next(tmp.rglob(mod + '.ko*'))
                data = src.read_bytes()
                if src.suffix == '.xz':
                    data = lzma.decompress(data)
                (part / (mod + '.ko')).write_bytes(data)
            image = next(tmp.glob('boot/vmlinuz-*'))
            (part / 'version').write_text(image.name.split('-', 1)[1])
            (part / 'kernel').write_bytes(uncompressed(image.read_bytes()))

        return self._unpacked(package, (package,), pick, deps='linux-image-*',
                              what=modules)

    def _pick_firmware(self, tmp, part):
        for name in self.arch.firmware:
            shutil.copy(next(p for p in tmp.rglob(name) if p.is_file()), part)

    @staticmethod
    def _pick_busybox(tmp, part):
        shutil.copy(next(p for p in tmp.rglob('busybox')
                         if p.is_file() and p.parent.name == 'bin'), part)

    @staticmethod
    def _pick_rasdaemon(tmp, part):
        for path in tmp.rglob('*'):
            if path.is_file() and (path.name == 'rasdaemon' and
                                   path.parent.name == 'sbin' or
                                   '.so' in path.name):
                shutil.copy(path, part)

    # -- what we compile

    def _compiled(self, name, pattern, options=('-static', '-pthread')):
        out = self.dir / name
        sources = sorted(PROGRAMS.glob(pattern))
        inputs = sources + list(PROGRAMS.glob('*.h'))
        if (not out.exists() or out.stat().st_mtime <
                max(s.stat().st_mtime for s in inputs)):
            ui.run([self.arch.cc, '-O2', '-Wall', *options, '-o', str(out),
                    *map(str, sources)])
        return out

    # -- the QEMU under test

    def stripped(self, qemu):
        """A copy of binary @qemu without its debug information."""
        qemu = Path(qemu).resolve()
        stat = qemu.stat()
        key = '%s %d %d' % (qemu, stat.st_mtime_ns, stat.st_size)
        out = self.dir / ('qemu-' + hashlib.sha1(key.encode()).hexdigest()[:8])
        if not out.exists():
            for old in sorted(self.dir.glob('qemu-*'),
                              key=lambda p: p.stat().st_mtime)[:-3]:
                old.unlink()
            ui.run([self.arch.strip, '-o', str(out) + '.part', str(qemu)])
            Path(str(out) + '.part').rename(out)
        return out

    def host_image(self, qemu, kernel, init, path):
        """The emulated host's initramfs, with @qemu and shell script @init."""
        qemu = self.stripped(qemu)
        with Initramfs(path) as image:
            image.data('init', init.encode(), 0o755)
            image.file('bin/busybox', self.busybox, 0o755)
            image.link('bin/sh', 'busybox')
            image.file('bin/lab', self.host_tool, 0o755)
            image.file('bin/qemu', qemu, 0o755)
            for lib, source in needed(qemu, self.arch.libraries).items():
                image.file(lib, source, 0o755)
            for name in self.arch.firmware:
                image.file('firmware/' + name, self.firmware / name)
            image.file('guest/kernel', self.guest_kernel / 'kernel')
            for name, path in self.guest_images.items():
                image.file('guest/' + name, path)
            for n, mod in enumerate(self.arch.host_modules):
                image.file('modules/%02d-%s.ko' % (n, mod),
                           self.host_kernels[kernel] / (mod + '.ko'))
            image.data('disk', disk_pattern(512))
            for name in ('proc', 'sys', 'dev', 'tmp', 'huge'):
                image.directory(name)


def uncompressed(image):
    """The ELF kernel in a bzImage, else @image.

    An ELF kernel starts through its PVH entry: no decompression under two
    layers of emulation.
    """
    if image[0x202:0x206] != b'HdrS':
        return image
    sects = image[0x1f1] or 4
    offset, length = struct.unpack('<II', image[0x248:0x250])
    start = (sects + 1) * 512 + offset
    payload = image[start:start + length]
    kind = next((v for k, v in MAGIC.items() if payload.startswith(k)), None)
    if kind == 'xz':
        return lzma.LZMADecompressor().decompress(payload)
    if kind == 'zstd' and shutil.which('zstd'):
        # the last four bytes are the size, which zstd warns about
        out = subprocess.run(['zstd', '-dcq'], input=payload[:-4],
                             capture_output=True)
        if out.returncode == 0 and out.stdout.startswith(b'\x7fELF'):
            return out.stdout
    return image


def needed(binary, where):
    """Path in the image: file, of the loader and all libraries of @binary."""
    found = {}
    todo = [Path(binary)]
    while todo:
        out = subprocess.run(['readelf', '-ld', str(todo.pop())], text=True,
                             capture_output=True, check=True).stdout
        names = re.findall(r'\(NEEDED\).*\[(.*)\]', out)
        for interp in re.findall(r'interpreter: (\S+)\]', out):
            found[interp] = _library(Path(interp).name, where)
        for name in names:
            if 'lib/' + name not in found:
                found['lib/' + name] = _library(name, where)
                todo.append(found['lib/' + name])
    return found


def _library(name, where):
    for d in where:
        if (Path(d) / name).exists():
            return (Path(d) / name).resolve()
    raise ui.Failure('no library %s in %s' % (name, ' '.join(where)))


def disk_pattern(pages):
    """Contents of the disk: see pattern_seed() in programs/guest-scan.c."""
    mask = (1 << 64) - 1
    out = bytearray()
    for page in range(pages):
        x = (ord('D') << 56) ^ page
        x = ((x ^ (x >> 30)) * 0xbf58476d1ce4e5b9) & mask
        x = ((x ^ (x >> 27)) * 0x94d049bb133111eb) & mask
        x ^= x >> 31
        out += struct.pack('<512Q', *((x + k * 0x9e3779b97f4a7c15) & mask
                                      for k in range(512)))
    return bytes(out)
