#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Write edits made in build/qemu back into the hook patches.

An edit goes to the last patch that has the file.  A file that no patch has
is taken into the patch named by PATCH=.  Patches are kept at one line of
context; the header (the commit message) is kept as it is.
"""

import os
import re

import layout
import packages
import source
import tree
import ui
from layout import BUILD, PATCHES, ROOT
from tree import TREE, quilt
from ui import Failure, say

STYLE = ['-p', 'ab', '-U', '1', '--no-timestamps', '--no-index']


def split(text):
    """Header and diff of a patch."""
    m = re.search(r'^(Index: |diff |--- \S+/)', text, re.M)
    return (text[:m.start()], text[m.start():]) if m else (text, '')


def _unclaimed(record):
    """Edited files that no patch has; those that are not QEMU's at all."""
    hooked = {f for p in tree.applied(TREE)
              for f in tree.hooked_files(TREE, p)}
    names = [n for n in tree.edited(TREE, record) if n not in hooked]
    foreign = [n for n in names if n not in record['files']]
    return [n for n in names if n not in foreign], foreign


def _claim(src, patch, names):
    """Take the edited files @names into @patch."""
    if patch not in tree.applied(TREE):
        raise Failure('PATCH=%s: no such applied patch' % patch,
                      'use one of: ' + ' '.join(tree.applied(TREE)) +
                      ';\na new one: cd %s && quilt new NAME.patch' % TREE)
    for name in names:
        mine = TREE / (name + '.edited~')
        if (TREE / name).exists():
            (TREE / name).rename(mine)
        (TREE / name).write_bytes((src.path / name).read_bytes())
        quilt(TREE, 'add', '-P', patch, name)
        layout.remove(TREE / name)
        if mine.exists():
            mine.rename(TREE / name)
        say('%s: taken into %s' % (name, patch))


def _not_over_others(record):
    """Fail when a patch changed on disk and a refresh would undo that."""
    for patch in tree.applied(TREE):
        path = PATCHES / patch
        known = record['from'].get(str(path.relative_to(ROOT)))
        if not path.exists() or known in (None, tree.sha(path)):
            continue
        body = quilt(TREE, 'diff', '-P', patch, *STYLE, check=False).stdout
        if split(path.read_text())[1].strip() != body.strip():
            raise Failure(
                '%s changed after %s was made: a refresh would undo that'
                % (path.relative_to(ROOT), TREE),
                'save your edits (cd %s; quilt diff), remove that directory, '
                '`make prepare`, bring the edits in again' % TREE)


def refresh():
    packages.ensure('build')
    if not TREE.exists():
        raise Failure('%s is not there' % TREE, 'run `make prepare` first')
    with layout.only_one(BUILD / 'qemu.lock'):
        src = source.get()
        record = tree.read_record(TREE)
        if tree.applied(TREE) != tree.series():
            raise Failure('in %s not every patch is applied' % TREE,
                          'cd %s && quilt push -a' % TREE)
        names, foreign = _unclaimed(record)
        if foreign:
            raise Failure('new in %s: %s' % (TREE, ' '.join(foreign[:8])),
                          'a new file belongs at the same path of %s; one '
                          'that is not needed: remove it' % ROOT)
        if names and not os.environ.get('PATCH'):
            raise Failure(
                'edited, but in no patch: ' + ' '.join(names[:8]),
                'make refresh PATCH=NAME.patch takes them into that patch '
                '(a new one: cd %s && quilt new NAME.patch); the next time '
                '`quilt add FILE` before the edit' % TREE)
        _not_over_others(record)
        if names:
            _claim(src, os.environ['PATCH'], names)
        for patch in tree.applied(TREE):
            _refresh_one(patch)
        hooked = {f for p in tree.series() for f in tree.hooked_files(TREE, p)}
        tree.take_record(TREE, record['source'], record['links'], hooked)


def _refresh_one(patch):
    path = PATCHES / patch
    before = path.read_text() if path.exists() else ''
    quilt(TREE, 'refresh', '-f', *STYLE, patch)
    after = path.read_text() if path.exists() else ''
    header = split(after)[0]
    if after and 'Subject:' not in header:
        say('%s: no commit message yet; put "Subject: ...", an empty line, '
            'the why and a line "---" on top' % patch)
    if after != before:
        say('%s: refreshed' % path.relative_to(ROOT))


if __name__ == '__main__':
    ui.main(refresh)
