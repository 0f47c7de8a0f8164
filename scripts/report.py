# SPDX-License-Identifier: GPL-2.0-or-later
"""Counting and showing test cases; reading them from TAP output."""

import os
import queue
import re
import subprocess
import tempfile
import threading
import time

import ui
from ui import say, took

PASS, FAIL, SKIP = 'pass', 'FAIL', 'skip'


class Report:
    """All cases of a run, shown as they come.  Used by several threads."""

    def __init__(self):
        self.counts = {}            # group: {status: number}
        self.seconds = {}           # group: time it took
        self.failed = []
        self.lock = threading.Lock()

    def case(self, group, name, status, seconds=None, why=''):
        with self.lock:
            counts = self.counts.setdefault(group, {PASS: 0, FAIL: 0, SKIP: 0})
            counts[status] += 1
            line = '%s %-10s %4d  %s' % (status, group, sum(counts.values()),
                                         name)
            if seconds is not None:
                line += '  (%s)' % took(seconds)
            if status == FAIL:
                self.failed.append('%s %s' % (group, name))
            if why:
                line += '\n      ' + why.strip().replace('\n', '\n      ')
            say(line)

    def total(self, status):
        return sum(c[status] for c in self.counts.values())

    def table(self):
        """The last lines of a run."""
        say('\n%-10s %7s %7s %7s   time' % ('group', 'passed', 'failed',
                                            'skipped'))
        for group, c in self.counts.items():
            say('%-10s %7d %7d %7d   %s' % (group, c[PASS], c[FAIL], c[SKIP],
                                            took(self.seconds.get(group, 0))))
        for line in self.failed:
            say('failed: ' + line)
        say('%d passed, %d failed, %d skipped' % (
            self.total(PASS), self.total(FAIL), self.total(SKIP)))


_POINT = re.compile(r'^(ok|not ok)\b *(\d*) *-? *(.*?)(?: *# *(SKIP|TODO)\b *'
                    r'(.*))?$', re.I)
_PLAN = re.compile(r'^1\.\.(\d+)(?: *# *SKIP *(.*))?', re.I)


class Tap:
    """Reads the TAP lines of one program into @report."""

    def __init__(self, report, group, program, skip_is_failure=False,
                 known_skips=(), elsewhere=(), show_notes=False):
        self.report, self.group, self.program = report, group, program
        self.skip_is_failure = skip_is_failure
        self.known_skips = dict(known_skips)     # case: reason
        self.elsewhere = elsewhere      # skipped here, run by another process
        self.show_notes = show_notes    # say each comment as it comes
        self.seen = self.failed = 0
        self.plan = None
        self.notes = []
        self.last = time.monotonic()

    def line(self, text):
        text = text.rstrip()
        point = _POINT.match(text)
        plan = _PLAN.match(text)
        if point:
            self._point(*point.groups())
        elif plan:
            self.plan = int(plan.group(1))
            if self.plan == 0:
                self._case('all', SKIP, why=plan.group(2) or '')
        elif text and self.show_notes:
            say('      ' + re.sub('^# ?', '', text))
        elif text:
            self.notes.append(re.sub('^# ?', '', text))
            del self.notes[:-20]

    def _point(self, verdict, number, name, mark, why):
        self.seen += 1
        status = PASS if verdict.lower() == 'ok' else FAIL
        if mark and mark.upper() == 'SKIP':
            if name in self.elsewhere:
                return
            status = SKIP
        notes = ('\n'.join(self.notes) if status == FAIL else
                 self.known_skips.get(name) or why or '')
        self._case(name or number, status, notes)

    def _case(self, name, status, why):
        now = time.monotonic()
        if status == SKIP and self.skip_is_failure:
            status, why = FAIL, 'could not run: ' + why
        self.failed += status == FAIL
        self.report.case(self.group, '%s %s' % (self.program, name), status,
                         now - self.last, why)
        self.last, self.notes = now, []

    def end(self, code, late):
        """The program has ended; everything it did not say is a failure."""
        if late:
            why = 'killed: took longer than %s' % took(late)
        elif code < 0:
            why = 'killed by signal %d' % -code
        elif code and not self.failed:
            why = 'exit status %d' % code
        elif not self.seen and self.plan != 0:
            why = 'no test cases in its output'
        elif self.plan is not None and self.seen != self.plan:
            why = 'ran %d of %d cases' % (self.seen, self.plan)
        else:
            return
        self._case('ends well', FAIL, '\n'.join([why] + self.notes))


def run_tap(tap, cmd, limit, env=None, **popen):
    """Run @cmd, its cases as they come; at most @limit seconds."""
    # QEMU's tests leave files in the temporary directory: give each its own
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tmp:
        proc = subprocess.Popen(
            cmd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            errors='replace', stdin=subprocess.DEVNULL, start_new_session=True,
            env=dict(env or os.environ, TMPDIR=tmp), **popen)
        _read_tap(tap, proc, limit)


def _read_tap(tap, proc, limit):
    lines = queue.Queue()

    def read():
        for line in proc.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    end = time.monotonic() + limit
    said = time.monotonic()
    late = False
    try:
        while True:
            try:
                line = lines.get(timeout=1)
                if line is None:
                    break
                tap.line(line)
                said = time.monotonic()
            except queue.Empty:
                now = time.monotonic()
                if now - said > ui.LINE_EVERY:
                    said = now
                    say('     %-10s       %s: %d done, running for %s' % (
                        tap.group, tap.program, tap.seen,
                        took(now - end + limit)))
                if now > end:
                    late = True
                    break
                if proc.poll() is not None and lines.empty():
                    break           # a child keeps the pipe open
        code = None if late else proc.wait()
    finally:
        if proc.poll() is None or late:
            _end_session(proc)
    tap.end(code or 0, limit if late else 0)


def _end_session(proc):
    """End @proc and its children: they are in a session of their own."""
    for sig in (15, 9):
        try:
            os.killpg(proc.pid, sig)
        except ProcessLookupError:
            return
        try:
            proc.wait(timeout=5)
        except subprocess.TimeoutExpired:
            pass
