#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make check`: every test, cheapest first; the last line has the counts.

A group is a name, a function that lists what there is to run, and one that
runs it.  A group with nothing to run yet is not shown.
  GROUP=style,unit   run these groups only
  ONLY=split         run programs and files whose name has this only
"""

import os
import time

import layout
import packages
import groups_native
import groups_static
import ui
from report import FAIL, PASS, Report
from ui import Failure, say

GROUPS = groups_static.GROUPS + groups_native.GROUPS


def chosen():
    """The groups to run, each with what it has to run."""
    only = os.environ.get('ONLY') or ''
    wanted = (os.environ.get('GROUP') or '').replace(',', ' ').split()
    unknown = set(wanted) - {g.name for g in GROUPS}
    if unknown:
        raise Failure('unknown GROUP=%s' % ' '.join(sorted(unknown)),
                      'use some of: ' + ' '.join(g.name for g in GROUPS))
    found = []
    for group in GROUPS:
        if wanted and group.name not in wanted:
            continue
        items = [x for x in group.items() if only in str(x)]
        if items:
            found.append((group, items))
    if not found:
        raise Failure('nothing to run%s%s' % (
            wanted and ' in GROUP=' + ' '.join(wanted) or '',
            only and ' for ONLY=' + only),
            'GROUP= one or more of: %s; ONLY= part of a file or program name'
            % ' '.join(g.name for g in GROUPS))
    return found


def build_ahead(groups, group):
    """At once, if other groups that take long come before the one in need?"""
    native = [g.name for g, _ in groups if g in groups_native.GROUPS]
    return (group is groups[0][0] and len(native) > 1 and
            native[-1] == 'lab-arm64')


def run(groups):
    report = Report()
    try:
        for group, items in groups:
            start = time.monotonic()
            say('\n== %s: %s' % (group.name, group.about))
            try:
                if build_ahead(groups, group):
                    groups_native.AHEAD.start()
                group.run(report, items)
            except Failure as e:
                report.case(group.name, 'set-up', FAIL, why=str(e))
            report.seconds[group.name] = time.monotonic() - start
    finally:
        groups_native.AHEAD.stop()
    report.table()
    return 0 if report.total(PASS) and not report.total(FAIL) else 1


def main():
    layout.takes_no_arch('make check')
    groups = chosen()
    layout.need_disk(int(os.environ.get('CHECK_MIB') or 500), 'make check')
    packages.ensure('build')
    return run(groups)


if __name__ == '__main__':
    ui.main(main)
