#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""build/qemu: the QEMU source with our files linked in and hooks applied.

Made beside its place and renamed when complete.  Made again when the source
or a patch changes; a new file of ours needs a link only.
"""

import os
import re

import layout
import packages
import source
import tree
import ui
from layout import BUILD, PATCHES, ROOT
from tree import TREE
from ui import Failure, say


def _explain(out, version):
    """The Failure for a `quilt push` that printed @out."""
    name = re.findall(r'^Applying patch (?:.*/)?(\S+)', out, re.M)
    name = name[-1] if name else '?'
    lines = [x for x in out[out.rfind('Applying patch'):].splitlines()
             if re.search(r'^patching|FAILED|fuzz|find file|malformed', x)]
    return Failure(
        'patch %s does not apply to QEMU %s without fuzz:\n%s'
        % (name, version, '\n'.join(lines[-12:]) or out.strip()),
        'use another QEMU %s.x (QEMU_SRC), or mend %s; with KEEP=1 the tree '
        'as far as it got stays in %s' % (
            layout.QEMU_VERSION, (PATCHES / name).relative_to(ROOT),
            TREE.with_name('qemu.failed')))


def push(where, version):
    """Apply every hook; an offset is fine, fuzz and rejects are not."""
    if tree.applied(where) == tree.series():
        return
    p = tree.quilt(where, 'push', '-a', '--fuzz=0', check=False)
    if p.returncode not in (0, 2) or tree.applied(where) != tree.series():
        raise _explain(p.stdout, version)


def make(src, where, links):
    """Fill the empty directory @where with the prepared tree."""
    src.copy(where)
    ours = ROOT / 'MAINTAINERS'
    if ours.exists():
        with open(where / 'MAINTAINERS', 'a') as f:
            f.write('\n' + ours.read_text().strip() + '\n')
    tree.link(where, links)
    try:
        push(where, src.version)
    except Failure:
        if os.environ.get('KEEP') == '1':
            layout.remove(TREE.with_name('qemu.failed'))
            where.rename(TREE.with_name('qemu.failed'))
        raise
    say('applied %d hook patches, linked %d new files'
        % (len(tree.series()), len(links)))


def _keep_times(old, record, new):
    """A file that came out the same keeps its time: ninja builds less."""
    for name, (size, mtime, digest) in record['files'].items():
        path = new / name
        if (path.is_file() and path.stat().st_size == size and
                (old / name).exists() and tree.sha(path) == digest):
            os.utime(path, ns=(mtime, mtime))


def prepare():
    """Bring build/qemu up to date; returns its path."""
    packages.ensure('build')
    with layout.only_one(BUILD / 'qemu.lock'):
        src = source.get()
        links = tree.new_files()
        record = tree.read_record(TREE) if TREE.exists() else None
        if record and (record['source'], record['from']) == (
                src.ident, tree.patch_hashes()):
            push(TREE, src.version)         # a developer may have popped
            if record['links'] != links:
                tree.link(TREE, links, record['links'])
                tree.take_record(TREE, src.ident, links, changed=())
            else:
                tree.link(TREE, links)
            return TREE
        if record:
            _refuse_to_lose(record)
        layout.need_disk(600, 'the prepared tree')
        # links are relative: the temporary tree must be as deep as the real
        with layout.complete_dir(TREE) as part:
            make(src, part, links)
            if record:
                _keep_times(TREE, record, part)
            tree.take_record(part, src.ident, links)
        return TREE


def _refuse_to_lose(record):
    names = tree.edited(TREE, record)
    if names:
        raise Failure(
            'the source, a patch or MAINTAINERS changed, so %s must be made '
            'again, but it holds edits that are in no patch:\n  %s'
            % (TREE, '\n  '.join(names[:12])),
            '`make refresh` writes them into the patches; to drop them '
            'remove %s' % TREE)


if __name__ == '__main__':
    ui.main(lambda: say(str(prepare())))
