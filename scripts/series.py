#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Export the work as mails for `git am` onto QEMU: build/series/*.patch.

Each hook patch becomes one commit with its header as the message.  Lines
  New-files: util/hugepage-split.c include/qemu/*split.h
in the header name the new files that belong to the same commit; they are
not exported.  New files that no patch claims come first, folder by folder.
The result is applied by `git am` to the pristine source and compared.
"""

import fnmatch
import os
import re
import subprocess

import layout
import packages
import prepare
import refresh
import source
import tree
import ui
from layout import BUILD, PATCHES, ROOT
from ui import Failure, say

FOLDERS = 'docs qapi include util accel system hw target stubs migration'
COVER = PATCHES / 'cover-letter'    # first line: subject


def _who(name, fallback):
    p = subprocess.run(['git', '-C', str(ROOT), 'config', name], text=True,
                       capture_output=True)
    return p.stdout.strip() or fallback


class Repo:
    """A scratch git repository."""

    def __init__(self, where):
        self.where = where
        date = subprocess.run(['git', '-C', str(ROOT), 'log', '-1',
                               '--format=%cI'], text=True,
                              capture_output=True).stdout.strip()
        self.env = {k: v for k, v in os.environ.items()
                    if not k.startswith('GIT_')}
        self.env.update(GIT_CONFIG_GLOBAL='/dev/null',
                        GIT_CONFIG_NOSYSTEM='1')
        for role in ('AUTHOR', 'COMMITTER'):
            self.env['GIT_%s_NAME' % role] = _who('user.name', 'hugetlbfs-ras')
            self.env['GIT_%s_EMAIL' % role] = _who(
                'user.email', 'hugetlbfs-ras@localhost')
            self.env['GIT_%s_DATE' % role] = date or '2025-01-01T00:00:00Z'

    def git(self, *args, stdin=None):
        p = subprocess.run(['git', '-c', 'core.compression=0', '-c',
                            'gc.auto=0', *args], cwd=self.where, env=self.env,
                           input=stdin, text=True, capture_output=True)
        if p.returncode:
            raise Failure('git %s:\n%s' % (' '.join(args[:3]),
                                           (p.stdout + p.stderr).strip()))
        return p.stdout.strip()

    def commit(self, message):
        self.git('add', '-A', '-f', '.')
        self.git('commit', '-q', '-F', '-', stdin=message)

    def take(self, names):
        for name in names:
            to = self.where / name
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes((ROOT / name).read_bytes())
            to.chmod((ROOT / name).stat().st_mode & 0o755)


def _header(name):
    """Commit message and New-files patterns of hook patch @name."""
    head = refresh.split((PATCHES / name).read_text())[0]
    claims = re.findall(r'^New-files:\s*(.*)$', head, re.M)
    head = re.sub(r'^(New-files|From|Date):.*\n', '', head, flags=re.M)
    head = re.sub(r'^Subject:\s*(\[[^]]*\]\s*)?', '', head, flags=re.M)
    head = re.split(r'^---\s*$', head, maxsplit=1, flags=re.M)[0].strip()
    return head or name, ' '.join(claims).split()


def _plan():
    """Ordered commits: (message, new files, hook patch or None)."""
    left = tree.new_files()
    hooks = []
    for name in tree.series():
        message, patterns = _header(name)
        mine = [f for f in left
                if any(fnmatch.fnmatch(f, p) for p in patterns)]
        unused = [p for p in patterns if not fnmatch.filter(mine, p)]
        if unused:
            raise Failure('%s: New-files: %s: no such file, or an earlier '
                          'patch has it' % (name, ' '.join(unused)))
        left = [f for f in left if f not in mine]
        hooks.append((message, mine, name))
    order = FOLDERS.split()
    tops = sorted({f.split('/')[0] for f in left}, key=lambda t: (
        order.index(t) if t in order else len(order), t))
    return [('%s: add the new files of hugetlbfs-ras' % t,
             [f for f in left if f.startswith(t + '/')], None)
            for t in tops] + hooks


def _commit_all(repo, src):
    with ui.Step('scratch repository') as step:
        src.copy(repo.where)
        repo.git('init', '-q')
        repo.commit('QEMU ' + src.version)
        repo.git('tag', 'base')
        ours = ROOT / 'MAINTAINERS'
        if ours.exists():
            with open(repo.where / 'MAINTAINERS', 'a') as f:
                f.write('\n' + ours.read_text().strip() + '\n')
            repo.commit('MAINTAINERS: add hugetlbfs-ras')
        plan = _plan()
        for message, files, hook in plan:
            step.at(message.splitlines()[0])
            repo.take(files)
            if hook:
                repo.git('apply', str(PATCHES / hook))
            repo.commit(message)


def _contents(path):
    return path.read_bytes() if path.exists() else None


def _compare(repo):
    """What was committed is what build/qemu has."""
    prepared = prepare.prepare()
    for name in repo.git('diff', '--name-only', 'base').splitlines():
        if _contents(prepared / name) != _contents(repo.where / name):
            raise Failure('%s in %s is not what the patches make'
                          % (name, prepared), '`make refresh` first')


def export():
    """Write and verify build/series; returns the list of patches."""
    packages.ensure('build')
    layout.need_disk(1500, 'the scratch repository')
    src = source.get()
    work = BUILD / 'series.work'
    layout.remove(work)
    work.mkdir(parents=True)
    try:
        repo = Repo(work)
        _commit_all(repo, src)
        _compare(repo)
        with layout.complete_dir(BUILD / 'series') as out:
            repo.git('format-patch', '-q', '--no-signature', '--base=base',
                     '-o', str(out), 'base..HEAD')
            if COVER.exists():
                (out / 'cover-letter').write_text(
                    COVER.read_text().rstrip() + '\n\n' +
                    repo.git('shortlog', '-w72', 'base..HEAD') + '\n\n' +
                    repo.git('diff', '--stat', 'base', 'HEAD') + '\n')
            want = repo.git('rev-parse', 'HEAD^{tree}')
            mails = sorted(out.glob('*.patch'))
            repo.git('reset', '-q', '--hard', 'base')
            if mails:
                repo.git('am', '-q', *map(str, mails))
            if repo.git('rev-parse', 'HEAD^{tree}') != want:
                raise Failure('git am of the series gives another tree')
    finally:
        layout.remove(work)
    return sorted((BUILD / 'series').glob('*.patch'))


def main():
    mails = export()
    for m in mails:
        say(str(m))
    say('%d patches; git am gives the same tree.  In a QEMU checkout:\n'
        '  git am %s/*.patch' % (len(mails), BUILD / 'series'))


if __name__ == '__main__':
    ui.main(main)
