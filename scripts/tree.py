# SPDX-License-Identifier: GPL-2.0-or-later
"""The prepared tree build/qemu: what is recorded of it, what was edited.

The record lies in the tree and tells from what it was made, and the content
of every regular file at that time, so that an edit of a developer is seen
and never thrown away.
"""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import layout
import ui
from layout import PATCHES, ROOT
from ui import Failure

TREE = layout.BUILD / 'qemu'
RECORD = '.hugetlbfs-ras.json'
NOT_QEMU = {'patches', 'lab', 'scripts', '.ci', 'build'}
_PASSING = re.compile(r'(^|/)(__pycache__|\.pc|\.git|\.cache|\.vscode)(/|$)|'
                      r'(~|\.pyc|\.orig|\.rej|\.sw[op])$')


def series():
    """Names of the hook patches, in order."""
    path = PATCHES / 'series'
    lines = path.read_text().splitlines() if path.exists() else []
    return [x.split()[0] for x in lines if x.strip() and x[0] != '#']


def all_files():
    """Every file of the repository, as paths relative to ROOT."""
    try:
        git = subprocess.run(['git', '-C', str(ROOT), 'ls-files', '-co',
                              '--exclude-standard', '-z'], text=True,
                             capture_output=True)
        names = git.stdout.split('\0') if git.returncode == 0 else []
    except FileNotFoundError:
        names = []
    if not names:                       # an unpacked archive, not a clone
        for where, dirs, files in os.walk(ROOT):
            if Path(where) == ROOT and 'build' in dirs:
                dirs.remove('build')
            names += [os.path.relpath(os.path.join(where, f), ROOT)
                      for f in files]
        names = [n for n in names if not _PASSING.search(n)]
    return sorted({n for n in names if n and (ROOT / n).is_file()})


def new_files():
    """Those of them that QEMU gets, at the same path."""
    return [n for n in all_files()
            if '/' in n and n.split('/')[0] not in NOT_QEMU]


def sha(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()


def patch_hashes():
    """Of everything besides the source that the tree is made from."""
    parts = [PATCHES / 'series', ROOT / 'MAINTAINERS']
    parts += [PATCHES / n for n in series()]
    return {str(p.relative_to(ROOT)): sha(p) for p in parts if p.exists()}


def quilt(tree, *args, check=True):
    """Run quilt in @tree, without the user's own settings."""
    (tree / '.pc').mkdir(exist_ok=True)
    (tree / '.pc/.version').write_text('2\n')
    (tree / '.pc/.quilt_patches').write_text('%s\n' % PATCHES)
    (tree / '.pc/.quilt_series').write_text('series\n')
    env = dict(os.environ, LC_ALL='C.UTF-8', QUILT_PC='.pc')
    env.pop('QUILT_SERIES', None)
    p = subprocess.run(['quilt', '--quiltrc', '-', *args], cwd=tree, env=env,
                       text=True, stdin=subprocess.DEVNULL, errors='replace',
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if check and p.returncode:
        raise Failure('quilt %s:\n%s' % (' '.join(args), p.stdout.strip()))
    return p


def applied(tree):
    path = tree / '.pc/applied-patches'
    return path.read_text().split() if path.exists() else []


def hooked_files(tree, patch):
    """The files that @patch changes."""
    top = tree / '.pc' / patch
    return sorted(str(p.relative_to(top)) for p in top.rglob('*')
                  if p.is_file() and p.name != '.timestamp')


def _regular_files(tree):
    for where, dirs, files in os.walk(tree):
        rel = os.path.relpath(where, tree)
        dirs[:] = [d for d in dirs if not _PASSING.search(d)]
        for f in files:
            name = os.path.normpath(os.path.join(rel, f))
            path = os.path.join(where, f)
            if (name != RECORD and not os.path.islink(path) and
                    not _PASSING.search(name)):
                yield name, path


def take_record(tree, source, links, changed=None):
    """Record the present state; only the files @changed if given."""
    old = read_record(tree) if changed is not None else None
    files = old['files'] if old else {}
    for name, path in _regular_files(tree):
        if old is None or name in changed:
            st = os.stat(path)
            files[name] = [st.st_size, st.st_mtime_ns, sha(Path(path))]
    record = {'source': source, 'from': patch_hashes(), 'links': links,
              'files': files}
    part = tree / (RECORD + '.part')
    part.write_text(json.dumps(record))
    part.rename(tree / RECORD)


def read_record(tree):
    try:
        return json.loads((tree / RECORD).read_text())
    except (FileNotFoundError, ValueError):
        raise Failure('%s was not made by `make qemu`' % tree,
                      'move it out of the way') from None


def edited(tree, record):
    """Names of files whose content is no longer the recorded one."""
    found = []
    for name, path in _regular_files(tree):
        size, mtime, digest = record['files'].get(name, (None, None, None))
        st = os.stat(path)
        if (size, mtime) != (st.st_size, st.st_mtime_ns) and \
                sha(Path(path)) != digest:
            found.append(name)
    return sorted(found + [n for n in record['files']
                           if not (tree / n).exists()])


def link(tree, names, old=()):
    """Make every new file of ours appear in @tree at the same path."""
    for name in set(old) - set(names):
        if (tree / name).is_symlink():
            (tree / name).unlink()
    for name in names:
        at = tree / name
        to = os.path.relpath(ROOT / name, at.parent.resolve())
        if at.is_symlink():
            if os.readlink(at) == to:
                continue
            at.unlink()
        elif at.exists():
            raise Failure(
                '%s is a file of its own in %s' % (name, tree),
                'if QEMU has that file: change it by a patch in %s; if an '
                'editor replaced the link: copy the file to %s, remove it '
                'there, run again' % (PATCHES.relative_to(ROOT), ROOT / name))
        at.parent.mkdir(parents=True, exist_ok=True)
        at.symlink_to(to)


def main():
    """`make clean`: removes every product, refuses to lose an edit."""
    if TREE.exists() and os.environ.get('FORCE') != '1':
        names = edited(TREE, read_record(TREE))
        if names:
            raise Failure(
                '%s holds edits that are in no patch: %s'
                % (TREE, ' '.join(names[:8])),
                '`make refresh` keeps them, `make clean FORCE=1` loses them')
    if layout.BUILD.exists():
        with ui.Step('remove %s' % layout.BUILD):
            layout.remove(layout.BUILD)


if __name__ == '__main__':
    ui.main(main)
