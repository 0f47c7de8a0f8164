# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab does when the emulated host dies."""

import contextlib
import io
import types
import unittest
from unittest import mock

import run
from cases import Case


class FakeHost:
    """Dies in each case that is in @dies, as often as that says."""

    started = 0

    def __init__(self, *args, **kwargs):
        FakeHost.started += 1
        self.boots = 1
        self.dead = False

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass

    def alive(self):
        return not self.dead

    def sh(self, command):
        return '9'      # free huge pages

    def last_words(self):
        return 'Kernel panic'


class RunPool(unittest.TestCase):
    def run_pool(self, dies, injected=False):
        """Names of the finished cases with their try, or None if it failed."""
        cases = [Case(name, name, None) for name in 'abc']
        dies = dict(dies)
        FakeHost.started = 0

        def run_case(case, host, sabotage):
            host.dead = dies.get(case.name, 0) > 0
            dies[case.name] = dies.get(case.name, 0) - 1
            return types.SimpleNamespace(
                failed=['died'] if host.dead else [], numbers={},
                repeatable=host.dead and not injected)

        args = types.SimpleNamespace(qemu=None, host_qemu=None, sabotage='')
        with mock.patch.object(run, 'Host', FakeHost), \
                mock.patch.object(run, 'run_case', run_case), \
                contextlib.redirect_stdout(io.StringIO()):
            return [(case.name, None if expect.failed
                     else expect.numbers['hosts'])
                    for case, expect in run.run_pool(None, '2M', cases, args)]

    def test_all_well(self):
        self.assertEqual(self.run_pool({}), [('a', 1), ('b', 1), ('c', 1)])
        self.assertEqual(FakeHost.started, 1)

    def test_dies_before_an_error(self):
        self.assertEqual(self.run_pool({'b': 2}),
                         [('a', 1), ('b', 3), ('c', 1)])
        self.assertEqual(FakeHost.started, 3)

    def test_dies_too_often(self):
        self.assertEqual(self.run_pool({'b': 3}),
                         [('a', 1), ('b', None), ('c', 1)])
        self.assertEqual(FakeHost.started, 4)

    def test_never_again_after_an_error(self):
        self.assertEqual(self.run_pool({'b': 1}, injected=True),
                         [('a', 1), ('b', None), ('c', 1)])
        self.assertEqual(FakeHost.started, 2)
