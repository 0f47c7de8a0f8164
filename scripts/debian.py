#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian packages for the project's own use, through a private apt root.

Lists, state, cache and sources are in build/apt/SUITE-ARCH; nothing of the
user's system changes and no root is needed.  The mirror is the one that the
machine's own apt configuration names.  What was downloaded once is found
again without network.

  from debian import fetch_source, download, unpack
  dsc  = fetch_source('qemu')
  debs = download(['busybox-static'], arch='amd64', suite='trixie')
  debs = download(['linux-image-amd64'], deps='linux-image-*')
  unpack(debs, '/some/dir')
"""

import argparse
import fnmatch
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import layout
import ui
from ui import Failure

SUITE = 'trixie'
KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
NO_NETWORK = ('check the network, and that `apt-get update` works here '
              '(proxy: http_proxy, or Acquire::http::Proxy in /etc/apt)')
LISTS_FRESH = 7 * 24 * 3600     # seconds; a missing file refreshes them too

_CONF = '''\
Dir "{root}";
Dir::State "{root}/state";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Cache::archives "{root}/debs";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "{root}/none";
Dir::Etc::preferencesparts "{root}/none";
APT::Architecture "{arch}";
#clear APT::Architectures;
APT::Architectures {{ "{arch}"; }};
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Update::Error-Mode "any";
APT::Install-Recommends "false";
#clear APT::Default-Release;
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
{sandbox}
'''


def release():
    """Code name of the machine's own release."""
    text = Path('/etc/os-release').read_text()
    code = re.search(r'^VERSION_CODENAME=(\w+)', text, re.M)
    return code.group(1) if code else 'unknown'


def mirror():
    """The mirror of the machine's own release, from its apt configuration."""
    code = release()
    try:
        out = subprocess.run(['apt-get', '--print-uris', 'update'], text=True,
                             capture_output=True).stdout
    except FileNotFoundError:
        raise Failure('no apt-get here', 'use Debian 12 or 13') from None
    uris = {}
    for uri, suite in re.findall(r"^'([^']+)/dists/([^/']+)/", out, re.M):
        if not uri.startswith('cdrom:'):
            uris.setdefault(suite, uri)
    for suite in (code, 'stable', 'oldstable', 'testing'):
        if suite in uris:
            return uris[suite]
    raise Failure('the apt configuration of this machine names no Debian '
                  'mirror for its own release (%s)' % code,
                  'use Debian 12 or 13, and check /etc/apt/sources.list and '
                  '/etc/apt/sources.list.d')


class Apt:
    """One private apt root: a suite and an architecture."""

    def __init__(self, suite=SUITE, arch='amd64'):
        self.suite, self.arch = suite, arch
        self.root = layout.BUILD / 'apt' / ('%s-%s' % (suite, arch))
        self.debs = self.root / 'debs'
        self.sources = self.root / 'sources'
        self.stamp = self.root / 'lists-updated'
        for sub in ('state/lists/partial', 'cache', 'debs/partial', 'sources',
                    'none'):
            (self.root / sub).mkdir(parents=True, exist_ok=True)
        (self.root / 'status').touch()
        # _apt, to which a root apt-get drops, may not enter this directory
        sandbox = 'APT::Sandbox::User "root";' if os.geteuid() == 0 else ''
        (self.root / 'apt.conf').write_text(_CONF.format(
            root=self.root, arch=arch, sandbox=sandbox))

    def _cmd(self, tool, *args):
        # the machine's configuration is read first: ours wins, a proxy stays
        return [tool, '-q', '-c', str(self.root / 'apt.conf'), *args]

    def _out(self, tool, *args):
        # apt does not name a file that it already has: show it no files
        nothing = str(self.root / 'none')
        return subprocess.run(self._cmd(
            tool, '-o', 'Dir::Cache::archives=' + nothing, *args), text=True,
            cwd=nothing, capture_output=True)

    def update(self, force=False):
        """Fetch the package lists unless they are here and fresh."""
        if (not force and self.stamp.exists() and
                time.time() - self.stamp.stat().st_mtime < LISTS_FRESH):
            return
        if not os.path.exists(KEYRING):
            raise Failure('%s is missing' % KEYRING,
                          'install the package debian-archive-keyring')
        (self.root / 'sources.list').write_text(''.join(
            '%s [signed-by=%s] %s %s main\n' % (kind, KEYRING, mirror(),
                                                self.suite)
            for kind in ('deb', 'deb-src')))
        try:
            ui.run(self._cmd('apt-get', 'update'),
                   'package lists of %s (%s)' % (self.suite, self.arch))
        except Failure as e:
            if not self.stamp.exists():
                raise Failure(e.what, NO_NETWORK) from None
            ui.say('cannot refresh the package lists, using those of %s'
                   % time.ctime(self.stamp.stat().st_mtime))
            return
        self.stamp.touch()

    def _get(self, where, what, *args):
        """Run a downloading apt-get command; returns the files in @where."""
        self.update()
        for last_try in (False, True):
            out = self._out('apt-get', '--print-uris', *args)
            files = [(where / name, int(size)) for name, size in
                     re.findall(r"^'[^']+' (\S+) (\d+) ?\S*$", out.stdout,
                                re.M)]
            if (out.returncode or not files) and last_try:
                raise Failure('apt cannot find %s in %s:\n%s' % (
                    what, self.suite, out.stderr.strip()))
            missing = [(f, s) for f, s in files
                       if not f.exists() or f.stat().st_size != s]
            if not out.returncode and files and not missing:
                return [f for f, _ in files]
            total = sum(s for _, s in missing)
            layout.need_disk(total * 2 >> 20, 'download of ' + what)
            try:
                if missing and not out.returncode:
                    ui.run(self._cmd('apt-get', *args), 'download %s (%s)'
                           % (what, ui.mib(total)), cwd=where,
                           how_far=lambda _: self._arrived(missing, total))
                    return [f for f, _ in files]
            except Failure as e:
                if last_try:
                    raise Failure(e.what, NO_NETWORK) from None
            # the archive may have moved on since the lists were fetched
            self.update(force=True)
        return None

    @staticmethod
    def _arrived(missing, total):
        have = 0
        for f, _ in missing:
            for g in (f, f.parent / 'partial' / f.name):
                if g.exists():
                    have += g.stat().st_size
        return '%s of %s' % (ui.mib(have), ui.mib(total))

    def _lock(self):
        return layout.only_one(self.root / 'lock')

    def fetch_source(self, pkg):
        with self._lock():
            files = self._get(self.sources, 'source package ' + pkg, 'source',
                              '--download-only', '--only-source', pkg)
        return next(f for f in files if f.suffix == '.dsc')

    def download(self, pkgs, deps='none'):
        pkgs = list(pkgs)
        what = ' '.join(pkgs)
        with self._lock():
            self.update()
            if deps == 'all':
                return self._get(self.debs, what + ' and dependencies',
                                 'install', '--download-only', '--yes',
                                 '--no-install-recommends', *pkgs)
            if deps != 'none':
                pkgs = self._follow(pkgs, deps)
            return self._get(self.debs, what, 'download', *pkgs)

    def _follow(self, pkgs, pattern):
        """@pkgs and what they depend on, names matching @pattern only."""
        found = []
        todo = list(pkgs)
        while todo:
            pkg = todo.pop(0)
            if pkg in found:
                continue
            found.append(pkg)
            show = self._out('apt-cache', 'show', '--no-all-versions', pkg)
            for line in re.findall(r'^(?:Pre-)?Depends: (.*)$', show.stdout,
                                   re.M):
                names = re.findall(r'(?:^|, )\s*([a-z0-9][a-z0-9.+-]*)', line)
                todo += fnmatch.filter(names, pattern)
        return found


def fetch_source(pkg, suite=SUITE):
    """Path of the .dsc of source package @pkg; its parts lie beside it."""
    return Apt(suite).fetch_source(pkg)


def download(pkgs, arch='amd64', suite=SUITE, deps='none'):
    """Paths of the .deb files of @pkgs, downloaded if not yet here; no order.

    @deps: 'none'; 'all' (what apt would install on an empty system); or a
           pattern such as 'linux-image-*': dependencies with such a name only
    """
    return Apt(suite, arch).download(pkgs, deps)


def unpack(debs, where):
    """Unpack the contents of each .deb into directory @where."""
    Path(where).mkdir(parents=True, exist_ok=True)
    for deb in debs:
        ui.run(['dpkg-deb', '-x', str(deb), str(where)])


def _main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('command', choices=('mirror', 'source', 'download'))
    p.add_argument('package', nargs='*')
    p.add_argument('--suite', default=SUITE)
    p.add_argument('--arch', default='amd64')
    p.add_argument('--deps', default='none', help='none, all or a pattern')
    p.add_argument('--unpack', metavar='DIR', help='unpack the .debs there')
    a = p.parse_intermixed_args()
    ui.OUT = sys.stderr
    if a.command == 'mirror':
        print(mirror())
        return
    for path in ([fetch_source(x, a.suite) for x in a.package]
                 if a.command == 'source' else
                 download(a.package, a.arch, a.suite, a.deps)):
        print(path)
        if a.unpack and a.command == 'download':
            unpack([path], a.unpack)


if __name__ == '__main__':
    ui.main(_main)
