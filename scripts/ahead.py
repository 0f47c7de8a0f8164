# SPDX-License-Identifier: GPL-2.0-or-later
"""A build that goes on behind the tests, most of which leave a processor idle.

It only saves time: whoever needs what it makes asks build.py for it as ever,
and is told there what went wrong.
"""

import os
import signal
import subprocess
from pathlib import Path

import build
import packages
import ui
from layout import BUILD, PYTHON, ROOT


def _last_in_turn(pid):
    """Linux may share out the processors by session, whatever its nice values.

    See sched(7), "The autogroup feature".
    """
    try:
        Path('/proc/%d/autogroup' % pid).write_text('19')
    except OSError:
        pass            # not there, or switched off


class Ahead:
    """`make qemu ARCH=@arch` with the lowest priority."""

    def __init__(self, arch):
        self.arch = arch
        self.job = None

    def start(self):
        try:
            # what it would ask for or wait for in the dark
            packages.ensure('build', 'cross')
            build.prepare.prepare()
            build.tools()
        except ui.Failure:
            return
        ui.say('built meanwhile, with what the tests leave of the processors: '
               'build/%s' % self.arch)
        with open(BUILD / 'ahead.log', 'w') as log:
            self.job = subprocess.Popen(
                ['nice', '-n', '19', PYTHON, '-B',
                 str(ROOT / 'scripts/build.py')],
                env=dict(os.environ, ARCH=self.arch), stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True)
        _last_in_turn(self.job.pid)

    def join(self):
        """Wait until it is through, well or not."""
        if self.job and self.job.poll() is None:
            with ui.Step('rest of the build of qemu-system-%s'
                         % self.arch) as step:
                while self.job.poll() is None:
                    try:
                        self.job.wait(1)
                    except subprocess.TimeoutExpired:
                        step.at('running')

    def stop(self):
        """Nobody needs it any more."""
        if self.job and self.job.poll() is None:
            os.killpg(self.job.pid, signal.SIGTERM)
            self.job.wait()
