# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the scripts: on a tiny QEMU tree, without network."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import ahead                # noqa: E402
import build                # noqa: E402
import check                # noqa: E402
import cross                # noqa: E402
import debian               # noqa: E402
import groups_native        # noqa: E402
import packages             # noqa: E402
from report import FAIL, PASS, SKIP, Report, Tap, run_tap  # noqa: E402
from ui import Failure      # noqa: E402

PATCH = '''Subject: [PATCH] a: add a line

Because of a test.

---
--- a/a.c
+++ b/a.c
@@ -2,2 +2,3 @@
 two
+hook
 three
'''


class Project(unittest.TestCase):
    """A copy of scripts/ in a project of its own, with a tiny QEMU."""

    def setUp(self):
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.root = Path(tmp.name) / 'project'
        self.src = Path(tmp.name) / 'qemu-source'
        shutil.copytree(HERE, self.root / 'scripts',
                        ignore=shutil.ignore_patterns('__pycache__'))
        for name, text in (
                ('VERSION', '10.0.99\n'), ('MAINTAINERS', 'all\n'),
                ('include/hw/qdev-core.h', ''), ('b.c', 'b\n'),
                ('subprojects/keycodemapdb/meson.build', ''),
                ('a.c', 'one\ntwo\nthree\nfour\nfive\n'),
                ('.git/config', ''), ('out/build.ninja', '')):
            self.write(self.src / name, text)
        self.write(self.root / 'MAINTAINERS', 'ours\n')
        self.write(self.root / 'util/new.c', 'new\n')
        self.write(self.patches / 'series', '0001-a.patch\n')
        self.write(self.patches / '0001-a.patch', PATCH)

    @property
    def patches(self):
        return self.root / 'patches/10.0'

    @property
    def tree(self):
        return self.root / 'build/qemu'

    @staticmethod
    def write(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run_script(self, name, **env):
        clean = {k: v for k, v in os.environ.items() if k not in (
            'BUILD_DIR', 'GROUP', 'ONLY', 'ARCH', 'PATCH', 'KEEP', 'FORCE',
            'MAKEFLAGS')}
        return subprocess.run(
            ['/usr/bin/python3', '-B', str(self.root / 'scripts' / name)],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=dict(clean, **{'QEMU_SRC': str(self.src), **env}))

    def good(self, name, **env):
        p = self.run_script(name, **env)
        self.assertEqual(p.returncode, 0, p.stdout)
        return p.stdout

    def bad(self, name, *texts, **env):
        """It fails, says @texts and a way out, and leaves nothing behind."""
        p = self.run_script(name, **env)
        self.assertEqual(p.returncode, 1, p.stdout)
        for text in (*texts, 'way out: '):
            self.assertIn(text, p.stdout)
        self.assertNotIn('Traceback', p.stdout)
        self.assertEqual(list(self.root.glob('build/**/*.part')), [])

    # -- the source

    def test_source_missing(self):
        self.bad('prepare.py', 'no such directory', QEMU_SRC='/nonexistent')

    def test_source_is_no_qemu(self):
        self.bad('prepare.py', 'not a QEMU', QEMU_SRC=str(self.root))

    def test_source_has_wrong_version(self):
        self.write(self.src / 'VERSION', '9.2.0\n')
        self.bad('prepare.py', 'is QEMU 9.2.0; this series is for 10.0.x')

    def test_own_source_is_not_modified(self):
        before = {p: p.stat().st_mtime_ns for p in self.src.rglob('*')}
        self.good('prepare.py')
        self.assertEqual(before, {p: p.stat().st_mtime_ns
                                  for p in self.src.rglob('*')})
        self.assertFalse((self.tree / '.git').exists())
        self.assertFalse((self.tree / 'out').exists())

    # -- the prepared tree

    def test_prepare(self):
        self.good('prepare.py')
        self.assertIn('two\nhook\nthree', (self.tree / 'a.c').read_text())
        self.assertEqual((self.tree / 'util/new.c').read_text(), 'new\n')
        self.assertEqual((self.tree / 'MAINTAINERS').read_text(),
                         'all\n\nours\n')
        self.write(self.root / 'util/later.c', '')
        (self.root / 'util/new.c').unlink()
        self.assertNotIn('copy of', self.good('prepare.py'))
        self.assertTrue((self.tree / 'util/later.c').is_symlink())
        self.assertFalse((self.tree / 'util/new.c').is_symlink())
        self.write(self.src / 'b.c', 'changed\n')
        self.good('prepare.py')
        self.assertEqual((self.tree / 'b.c').read_text(), 'changed\n')

    def test_patch_does_not_apply(self):
        self.write(self.src / 'a.c', 'one\nthree\n')
        self.bad('prepare.py', '0001-a.patch does not apply to QEMU 10.0.99')
        self.assertFalse(self.tree.exists())

    def test_fuzz_is_refused(self):
        self.write(self.patches / '0001-a.patch', PATCH.replace(
            '@@ -2,2 +2,3 @@\n two', '@@ -1,3 +1,4 @@\n other\n two'))
        self.bad('prepare.py', '0001-a.patch does not apply')

    def test_edits_are_not_lost(self):
        self.good('prepare.py')
        self.write(self.tree / 'b.c', 'edit\n')
        self.good('prepare.py')
        self.write(self.root / 'MAINTAINERS', 'other\n')
        self.bad('prepare.py', 'holds edits', 'b.c')
        self.bad('tree.py', 'holds edits', 'b.c')
        self.assertEqual((self.tree / 'b.c').read_text(), 'edit\n')

    def test_new_file_that_qemu_has(self):
        self.write(self.src / 'util/new.c', 'qemu\n')
        self.bad('prepare.py', 'is a file of its own')

    def test_too_little_disk(self):
        self.bad('prepare.py', 'MiB free', TEST_FREE_MIB='10')
        self.assertFalse(self.tree.exists())

    # -- refresh

    def test_refresh(self):
        self.good('prepare.py')
        self.assertNotIn('refreshed', self.good('refresh.py'))
        text = (self.tree / 'a.c').read_text()
        self.write(self.tree / 'a.c', text.replace('hook', 'edit'))
        self.assertIn('refreshed', self.good('refresh.py'))
        self.assertEqual((self.patches / '0001-a.patch').read_text(),
                         PATCH.replace('hook', 'edit'))
        self.assertNotIn('copy of', self.good('prepare.py'))

    def test_refresh_after_a_build(self):
        for arch in ('arm', 'aarch64'):
            self.write(self.src / 'configs/devices' / (arch + '-softmmu') /
                       'default.mak', '# CONFIG_BOARD=n\n# CONFIG_ARM_VIRT=n\n')
        self.good('prepare.py')
        self.write(self.root / 'scripts/devices.py',
                   'import build, prepare\n'
                   'build._leave_boards_out(prepare.TREE)\n')
        for _ in range(2):
            self.good('devices.py')
        config = self.tree / 'configs/devices/aarch64-softmmu/emulator.mak'
        self.assertEqual(config.read_text(),
                         'include default.mak\n' + 'CONFIG_BOARD=n\n' * 2)
        self.good('refresh.py')

    def test_refresh_takes_another_file(self):
        self.good('prepare.py')
        self.write(self.tree / 'b.c', 'b\nedit\n')
        self.bad('refresh.py', 'in no patch: b.c')
        self.bad('refresh.py', 'no such applied patch', PATCH='other')
        self.good('refresh.py', PATCH='0001-a.patch')
        self.assertIn('+edit', (self.patches / '0001-a.patch').read_text())

    def test_refresh_undoes_no_change(self):
        self.good('prepare.py')
        self.write(self.patches / '0001-a.patch', PATCH.replace('hook', 'x'))
        self.bad('refresh.py', 'would undo')

    # -- others

    def test_series(self):
        self.assertIn('gives the same tree', self.good('series.py'))
        names = [p.name for p in sorted(self.root.glob('build/series/*'))]
        self.assertEqual(len(names), 3, names)

    def test_unknown_parameters(self):
        self.bad('check.py', 'unknown GROUP=bogus', GROUP='bogus')
        self.bad('build.py', 'unknown ARCH=bogus', ARCH='bogus')
        self.bad('check.py', 'nothing to run', ONLY='bogus')
        for script in 'check.py', 'bench.py':
            self.bad(script, 'takes no ARCH', ARCH='aarch64')

    def test_no_network(self):
        conf = subprocess.run(['apt-config', 'dump'], text=True,
                              capture_output=True).stdout
        if 'Proxy "' in conf or not debian.mirror().startswith('http'):
            self.skipTest('apt here does not go by http_proxy')
        nowhere = 'http://127.0.0.1:9'
        self.bad('source.py', 'check the network', QEMU_SRC='',
                 http_proxy=nowhere, https_proxy=nowhere)


class Packages(unittest.TestCase):
    def test_neither_root_nor_sudo(self):
        with mock.patch.object(packages, 'missing', return_value=['quilt']), \
                mock.patch('os.geteuid', return_value=1000), \
                mock.patch('shutil.which',
                           lambda n: None if n == 'sudo' else n), \
                self.assertRaises(Failure) as e:
            packages.ensure('build')
        self.assertIn('apt-get install quilt', e.exception.way_out)


class Cross(unittest.TestCase):
    def setUp(self):
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.root = Path(tmp.name) / 'root'

    def built(self, function, arch):
        """What is asked for when the QEMU for @arch is built."""
        with mock.patch('packages.ensure') as ensure, \
                mock.patch('build.configured',
                           lambda name: Path('/build') / name), \
                mock.patch('build.ninja') as ninja, \
                mock.patch('layout.only_one'):
            path = function(arch)
        self.assertEqual(ninja.call_args.args[:2],
                         (path.parent, ['qemu-system-' + arch]))
        return str(path), ensure.call_args.args

    def test_who_pays_for_cross(self):
        for function, arch, path, purposes in (
                (build.qemu, 'x86_64', 'x86_64', ('build',)),
                (build.qemu, 'aarch64', 'aarch64', ('build', 'cross')),
                (build.native, 'x86_64', 'x86_64', ('build',)),
                (build.native, 'aarch64', 'x86_64', ('build',))):
            self.assertEqual(
                self.built(function, arch),
                ('/build/%s/qemu-system-%s' % (path, arch), purposes))

    def test_built_ahead(self):
        groups = {g.name: (g, ['x']) for g in check.GROUPS}

        def starts(*names):
            chosen = [groups[n] for n in names]
            return [g.name for g, _ in chosen if check.build_ahead(chosen, g)]
        self.assertEqual(starts(*groups), ['scripts'])
        self.assertEqual(starts('style', 'lab', 'lab-arm64'), ['style'])
        self.assertEqual(starts('style', 'lab-arm64'), [])
        self.assertEqual(starts('style', 'unit', 'lab'), [])

    def test_build_ahead_ends(self):
        job = ahead.Ahead('aarch64')
        job.join()
        job.stop()
        with mock.patch('packages.ensure'), mock.patch('build.tools'), \
                mock.patch('build.prepare.prepare'), \
                mock.patch('ui.say'), \
                mock.patch('ahead.BUILD', self.root.parent), \
                mock.patch('subprocess.Popen', self.sleeper):
            job.start()
        self.assertIsNone(job.job.poll())
        job.stop()
        self.assertEqual(job.job.returncode, -signal.SIGTERM)

    @staticmethod
    def sleeper(cmd, _popen=subprocess.Popen, **options):
        return _popen(['sleep', '60'], **options)

    def test_environment(self):
        with mock.patch('build.tools', lambda: Path('/tools')), \
                mock.patch('shutil.which', lambda n: n), \
                mock.patch.dict('os.environ', CC='cc', PKG_CONFIG_PATH='/n'):
            native = build.environment('x86_64')
            env = build.environment('aarch64')
        self.assertEqual(native['CC'], 'ccache cc')
        self.assertEqual(native['PKG_CONFIG_PATH'], '/n')
        self.assertEqual(env['CC'], 'ccache aarch64-linux-gnu-gcc')
        self.assertEqual(env['PKG_CONFIG_PATH'], '')
        for directory in env['PKG_CONFIG_LIBDIR'].split(':'):
            self.assertTrue(directory.startswith(str(cross.SYSROOT)))

    def unpack(self, debs, where):
        """As the packages of Debian 12 do, with files in /lib and /usr/lib."""
        for path in ('lib/a/libz.so.1.2', 'lib/ld.so', 'usr/lib/a/libz.a'):
            Project.write(where / path, path)
        for path, to in (('lib/a/libz.so.1', 'libz.so.1.2'),
                         ('usr/lib/a/libz.so', '/lib/a/libz.so.1')):
            (where / path).symlink_to(to)

    def sysroot(self, wanted):
        with mock.patch('cross.SYSROOT', self.root), mock.patch('ui.say'), \
                mock.patch('packages.LIBRARIES', wanted), \
                mock.patch('debian.download') as download, \
                mock.patch('debian.unpack', self.unpack):
            self.assertEqual(cross.sysroot(), self.root)
        return download

    def test_sysroot(self):
        args = self.sysroot(['zlib1g-dev']).call_args
        self.assertEqual(args.args, (['zlib1g-dev'], 'arm64',
                                     debian.release()))
        link = self.root / 'usr/lib/a/libz.so'
        self.assertEqual(link.resolve(),
                         (self.root / 'usr/lib/a/libz.so.1.2').resolve())
        self.assertEqual(link.read_text(), 'lib/a/libz.so.1.2')
        self.assertEqual((self.root / 'lib').readlink(), Path('usr/lib'))
        self.assertTrue((self.root / 'usr/lib/ld.so').exists())

    def test_sysroot_is_made_once(self):
        self.sysroot(['zlib1g-dev'])
        self.sysroot(['zlib1g-dev']).assert_not_called()
        self.sysroot(['zlib1g-dev', 'libz2-dev']).assert_called_once()


class TapOutput(unittest.TestCase):
    def counts(self, script, **args):
        with mock.patch('report.say'):
            report = Report()
            run_tap(Tap(report, 'g', 'p', **args), ['sh', '-c', script], 5)
        return tuple(report.total(s) for s in (PASS, FAIL, SKIP))

    def test_counts(self):
        script = 'echo ok 1 a; echo "ok 2 b # SKIP why"; echo not ok 3 c; ' \
            'echo 1..3; exit 1'
        self.assertEqual(self.counts(script), (1, 1, 1))
        self.assertEqual(self.counts(script, skip_is_failure=True), (1, 2, 0))

    def test_run_elsewhere(self):
        script = 'echo "ok 1 a # SKIP by request"; echo ok 2 b; echo 1..2'
        self.assertEqual(self.counts(script, elsewhere=['a']), (1, 0, 0))
        self.assertEqual(self.counts(script, elsewhere=['b']), (1, 0, 1))

    def test_long_cases_run_beside_the_rest(self):
        with mock.patch.dict('groups_native.LONG', {'t': ['/a', '/b']}):
            self.assertEqual(groups_native._parts('unit', ['d/t', 'd/u']), [
                ('d/t', ['-p', '/a'], []), ('d/t', ['-p', '/b'], []),
                ('d/t', ['-s', '/a', '-s', '/b'], ['/a', '/b']),
                ('d/u', [], [])])

    def test_crash_counts(self):
        self.assertEqual(self.counts('echo ok 1 a; kill -9 $$'), (1, 1, 0))
        self.assertEqual(self.counts('echo 1..2; echo ok 1 a'), (1, 1, 0))
        self.assertEqual(self.counts('true'), (0, 1, 0))
        self.assertEqual(self.counts('sleep 60'), (0, 1, 0))

    def test_whole_program_skipped(self):
        self.assertEqual(self.counts('echo "1..0 # SKIP why"'), (0, 0, 1))


if __name__ == '__main__':
    unittest.main()
