# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups of `make check` that read files: scripts, style, patches, series."""

import re
import subprocess
import sys
import time
import unittest

import layout
import prepare
import refresh
import series
import tree
from layout import PATCHES, ROOT
from report import FAIL, PASS, SKIP
from ui import Failure

HOOK_LINES = 250            # the bar for lines that the hooks add


class Group:
    """@about: for the user; @items(): what there is; @run(report, items)."""

    def __init__(self, name, about, items, run):
        self.name, self.about, self.items, self.run = name, about, items, run


def verdict(report, group, name, problem, start=None):
    """A case that passes when there is no @problem text."""
    report.case(group, name, FAIL if problem else PASS,
                start and time.monotonic() - start, problem or '')


# -- scripts: the tests of scripts/ and lab/ themselves

def _script_tests():
    return [str(p.relative_to(ROOT)) for top in ('scripts', 'lab')
            for p in sorted((ROOT / top).glob('test_*.py'))]


class _Result(unittest.TestResult):
    def __init__(self, report):
        super().__init__()
        self.report = report

    def startTest(self, test):
        super().startTest(test)
        self.start = time.monotonic()

    def _case(self, test, status, why=''):
        self.report.case('scripts', test.id(), status,
                         time.monotonic() - self.start, why)

    def addSuccess(self, test):
        self._case(test, PASS)

    def addFailure(self, test, err):
        self._case(test, FAIL, self._exc_info_to_string(err, test))

    addError = addFailure

    def addSkip(self, test, reason):
        self._case(test, SKIP, reason)


def _run_scripts(report, items):
    for item in items:
        path = ROOT / item
        sys.path.insert(0, str(path.parent))
        try:
            suite = unittest.defaultTestLoader.loadTestsFromName(path.stem)
        finally:
            sys.path.pop(0)
        suite.run(_Result(report))


# -- style: one case per file

# Who may include whom: a file includes our headers of its own layer or a
# lower one.  First match counts.  Engine and intake know nothing of us.
LAYERS = [
    (r'^(util|include/qemu)/hugepage-', 1),
    (r'^(accel/kvm|include/system)/sigbus-intake\.', 1),
    (r'^system/hugetlbfs-ras/', 2),
    (r'^include/system/(hugetlbfs-ras|memory-failure)', 2),
    (r'^(accel|target|hw|migration|stubs|backends|include|tests)/', 3),
]
ENGINE = r'^(util|include/qemu)/hugepage-'
ENGINE_MAY = r'^(qemu/|qapi/error\.h$|hugepage-)'
NO_SPDX = re.compile(r'(\.md|\.txt|\.png|\.gitignore|/series|cover-letter|\.patch|'
                     r'trace-events|MAINTAINERS)$|^patches/')


def _layer(name):
    for pattern, layer in LAYERS:
        if re.match(pattern, name):
            return layer
    return None


def _includes(name, ours):
    """What @name includes against the direction of the layers."""
    bad = []
    text = (ROOT / name).read_text(errors='replace')
    layer = _layer(name)
    if layer is None:
        return 'no layer: give it one in LAYERS of scripts/groups_static.py'
    for inc in re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, re.M):
        beside = name.rsplit('/', 1)[0] + '/' + inc
        target = next((c for c in (beside, 'include/' + inc, inc)
                       if c in ours), None)
        if target and _layer(target) > layer:
            bad.append('%s (layer %d) includes %s (layer %d)' % (
                name, layer, inc, _layer(target)))
        if re.match(ENGINE, name) and not re.match(ENGINE_MAY, inc):
            bad.append('the engine knows no VM, but includes ' + inc)
    return '\n'.join(bad)


def checkpatch(where, *args):
    """Its complaints, warnings too; '' when clean."""
    p = subprocess.run(['perl', 'scripts/checkpatch.pl', '--no-signoff',
                        '--no-summary', '--terse', '--color=never', '--strict',
                        *args], cwd=where, text=True, capture_output=True,
                       errors='replace')
    # the series has the MAINTAINERS section as a commit of its own
    lines = [x for x in (p.stdout + p.stderr).splitlines()
             if x.strip() and 'does MAINTAINERS need updating' not in x]
    if p.returncode and not lines and not p.stdout:
        lines = ['checkpatch.pl: exit status %d' % p.returncode]
    return '\n'.join(lines)


def _run_style(report, items):
    where = prepare.prepare()
    ours = set(tree.new_files())
    for name in items:
        start = time.monotonic()
        problems = []
        if not NO_SPDX.search(name):
            with open(ROOT / name, errors='replace') as f:
                if 'SPDX-License-Identifier:' not in f.read(4000):
                    problems.append('no SPDX-License-Identifier line')
        if name in ours:
            problems.append(checkpatch(where, '-f', name))
        if name in ours and name.endswith(('.c', '.h')):
            problems.append(_includes(name, ours))
        verdict(report, 'style', name, '\n'.join(filter(None, problems)),
                start)


# -- patches: one case per hook patch, and the count of their lines

def count_hook_lines():
    added = removed = 0
    for name in tree.series():
        for line in (PATCHES / name).read_text().splitlines():
            added += line.startswith('+') and not line.startswith('+++ ')
            removed += line.startswith('-') and not line.startswith('--')
    return added, removed


def _hook_patch(where, name):
    text = (PATCHES / name).read_text()
    head, body = refresh.split(text)
    if not re.search(r'^Subject: \S', head, re.M):
        return 'its header has no Subject: line'
    now = tree.quilt(where, 'diff', '-P', name, *refresh.STYLE,
                     check=False).stdout
    # said where a later patch changes the same file
    now = re.sub(r'^Warning: more recent patches .*\n', '', now, flags=re.M)
    if now.strip() != body.strip():
        return ('build/qemu differs from it, or it is not in the form of '
                '`make refresh`')
    return checkpatch(where, '--patch', str(PATCHES / name))


def _run_patches(report, items):
    where = prepare.prepare()
    report.case('patches', 'all apply without fuzz to QEMU ' +
                (where / 'VERSION').read_text().strip(), PASS)
    for name in items:
        start = time.monotonic()
        verdict(report, 'patches', name, _hook_patch(where, name), start)
    added, removed = count_hook_lines()
    over = added > HOOK_LINES and 'more than the bar allows'
    verdict(report, 'patches', 'hook lines: %d added (bar: %d), %d removed'
            % (added, HOOK_LINES, removed), over)


# -- series: git am gives the tree that was tested

def _run_series(report, items):
    start = time.monotonic()
    mails = series.export()
    report.case('series', 'git am of %d patches gives the prepared tree'
                % len(mails), PASS, time.monotonic() - start)


GROUPS = [
    Group('scripts', 'tests of the scripts themselves', _script_tests,
          _run_scripts),
    Group('style', 'checkpatch, SPDX line, direction of includes',
          tree.all_files, _run_style),
    Group('patches', 'hook patches: apply, refreshed, checkpatch, size',
          tree.series, _run_patches),
    Group('series', 'export for git am',
          lambda: ['series'] if tree.series() else [], _run_series),
]
