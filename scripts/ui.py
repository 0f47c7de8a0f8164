# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user sees: progress of long steps, clear failures with a way out."""

import os
import shlex
import subprocess
import sys
import threading
import time

LINE_EVERY = 15         # seconds between progress lines when not on a terminal
OUT = sys.stdout        # a command with results of its own sets it to stderr


class Failure(Exception):
    """Something the user can act on: what happened, and the way out."""

    def __init__(self, what, way_out=''):
        super().__init__(what)
        self.what = what
        self.way_out = way_out

    def __str__(self):
        lines = 'error: ' + self.what
        if self.way_out:
            lines += '\n  way out: ' + self.way_out.replace('\n', '\n  ')
        return lines


def main(func, *args):
    """Run a script's main function; failures become a message and status 1."""
    try:
        sys.exit(func(*args))
    except Failure as e:
        sys.stdout.flush()
        print(e, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print('\ninterrupted', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os._exit(141)           # the reader of our output has gone


def say(text):
    print(text, file=OUT, flush=True)


def mib(size):
    return '%.0f MiB' % (size / 2**20)


def took(seconds):
    if seconds < 10:
        return '%.1f s' % seconds
    if seconds < 60:
        return '%.0f s' % seconds
    return '%d min %02d s' % divmod(int(seconds), 60)


class Step:
    """A long step: `with Step('build') as s: s.at('[3/9]')`.

    A terminal sees one line that is rewritten; a log gets a line every 15 s.
    """

    def __init__(self, what):
        self.what = what
        self.start = self.last = time.monotonic()
        self.tty = OUT.isatty()
        self.result = 'done'

    def __enter__(self):
        if self.tty:
            self._rewrite('...')
        else:
            say('%s ...' % self.what)
        return self

    def _rewrite(self, text):
        width = os.get_terminal_size(OUT.fileno()).columns or 80
        print('\r\033[K' + ('%s %s' % (self.what, text))[:width - 1], end='',
              file=OUT, flush=True)

    def at(self, how_far):
        """Tell how far the step is; cheap, may be called very often."""
        now = time.monotonic()
        if now - self.last < (0.2 if self.tty else LINE_EVERY):
            return
        self.last = now
        text = '%s, %s' % (how_far, took(now - self.start))
        if self.tty:
            self._rewrite(text)
        else:
            say('%s: %s' % (self.what, text))

    def __exit__(self, kind, value, trace):
        if self.tty:
            print('\r\033[K', end='', file=OUT)
        say('%s: %s, %s' % (self.what, 'FAILED' if kind else self.result,
                            took(time.monotonic() - self.start)))


def _tail(log, lines=25):
    with open(log, errors='replace') as f:
        return ''.join(f.readlines()[-lines:]).rstrip()


def run(cmd, what=None, log=None, way_out='', how_far=None, **popen):
    """Run @cmd quietly and return its output; a failure is a Failure.

    @what:    shown as a Step when given
    @log:     file that receives the output; its tail is shown on failure
    @how_far: called with the newest output line (or None, once a second);
              returns a text for the progress line, or None
    """
    def work(step):
        proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, text=True,
                                stdout=subprocess.PIPE, errors='replace',
                                stderr=subprocess.STDOUT, **popen)
        out = open(log, 'w') if log else None
        lines = []
        latest = [None]
        ended = threading.Event()

        def tick():
            while not ended.wait(1):
                if step:
                    step.at((how_far and how_far(latest[0])) or 'running')

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            for line in proc.stdout:
                latest[0] = line
                (out.write if out else lines.append)(line)
            code = proc.wait()
        except BaseException:
            proc.terminate()
            proc.wait()
            raise
        finally:
            ended.set()
            ticker.join()
            if out:
                out.close()
        if code:
            tail = _tail(log) if log else ''.join(lines[-25:]).rstrip()
            raise Failure('`%s` failed with status %d:\n%s%s' % (
                shlex.join(str(c) for c in cmd[:6]) +
                (' ...' if len(cmd) > 6 else ''), code, tail,
                '\n  whole output: %s' % log if log else ''), way_out)
        return ''.join(lines)

    if what is None:
        return work(None)
    with Step(what) as step:
        return work(step)
