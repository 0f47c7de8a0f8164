# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups of `make check` that build and run: unit, qtest, QEMU's own, lab."""

import os
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor

import ahead
import build
import firmware
import layout
import packages
import report as rep
import tree
from groups_static import Group
from layout import BUILD, PYTHON, ROOT

LAB = ROOT / 'lab/run.py'           # prints TAP, one line per case
AHEAD = ahead.Ahead('aarch64')      # the last group needs it

# QEMU's own qtests that touch memory, machine checks, ACPI, migration and
# hotplug, as they pass on stock QEMU 10.0 in this configuration; longest first
QEMU_QTESTS = """bios-tables-test migration-test qos-test qmp-cmd-test
    device-introspect-test test-x86-cpuid-compat qom-test test-hmp cxl-test
    drive_del-test fw_cfg-test numa-test vmgenid-test device-plug-test
    q35-test ivshmem-test i440fx-test vmcoreinfo-test qmp-test
    readconfig-test cpu-plug-test virtio-balloon-test erst-test
    machine-none-test""".split()
NOT_HERE = {
    '/x86_64/acpi/piix4/dimmpxm': "needs upstream's own build of SeaBIOS",
    '/x86_64/acpi/q35/core-count2': 'needs KVM on real hardware (x2APIC)',
    '/x86_64/acpi/q35/thread-count2': 'needs KVM on real hardware (x2APIC)',
}
# They say "-accel kvm -accel tcg".  The ACPI tables depend on what the KVM of
# the machine can do (SMM), so every machine tests with TCG.  KVM: in the lab.
WITHOUT_KVM = """#!/bin/bash
args=()
for arg; do
    if [ "$arg" = kvm ] && [ "${args[-1]}" = -accel ]; then
        unset 'args[-1]'
    else
        args+=("$arg")
    fi
done
exec %s "${args[@]}"
"""


def _names(folder, prefix, suffix):
    """Test programs of ours in @folder, without .c; some have several files"""
    return [n[:-2] for n in tree.new_files() if n.startswith(folder + prefix)
            and n.endswith(suffix + '.c')
            and '\nint main(' in (ROOT / n).read_text()]


def _unit_tests():
    return _names('tests/unit/', 'test-', '')


# Under TSan only what has threads: the rest of the engine's cases take minutes
THREADED = {
    'test-hugepage-split': None,
    'test-hugepage-split-failure': [
        arg for kind in ('hugetlb', 'file', 'file-4m')
        for arg in ('-p', '/hugepage-split/%s/concurrent' % kind)],
}
# Cases that take long: each beside the rest of its program
LONG = {
    'test-hugepage-fill': ['/hugepage-fill/torture/hugetlb',
                           '/hugepage-fill/torture/file'],
}


def _threaded_tests():
    return [n for n in _unit_tests()
            if THREADED.get(n.split('/')[-1], []) is not None]


def _qtests():
    return _names('tests/qtest/', '', '-test')


# -- unit: as it is, then under the sanitizers

SANITIZED = {
    'unit': ('x86_64', []),
    'unit-asan': ('x86_64-asan', []),
    # TSan needs the addresses that it has without randomization
    'unit-tsan': ('x86_64-tsan', ['setarch', '-R']),
}


# After siglongjmp() out of a handler TSan thinks that it is still in there,
# and it does not like tests that fork to see an assertion fail.
TSAN_OPTIONS = 'halt_on_error=1:report_signal_unsafe=0:die_after_fork=0'


def _parts(group, items):
    """What to run at once: program, arguments, cases that another one has"""
    parts = []
    for item in items:
        test = item.split('/')[-1]
        some = THREADED.get(test, []) if group == 'unit-tsan' else []
        alone = LONG.get(test, [])
        parts += [(item, ['-p', case], []) for case in alone]
        parts.append((item, some + [a for case in alone for a in ('-s', case)],
                      alone))
    return parts


def _run_unit(group):
    def run(report, items):
        name, prefix = SANITIZED[group]
        env = dict(os.environ, ASAN_OPTIONS='detect_leaks=0:abort_on_error=1',
                   UBSAN_OPTIONS='halt_on_error=1:print_stacktrace=1',
                   TSAN_OPTIONS=TSAN_OPTIONS)
        with layout.only_one(BUILD / 'x86_64.lock'):
            where = build.configured(name)
            build.ninja(where, items, 'build ' + group)

            def one(item, args, elsewhere):
                rep.run_tap(rep.Tap(report, group, item.split('/')[-1],
                                    elsewhere=elsewhere),
                            [*prefix, './' + item, '--tap', '-k', *args], 600,
                            cwd=where, env=env)

            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda x: one(*x), _parts(group, items)))
    return run


# -- qtest

def _without_kvm(qemu):
    """A program that runs @qemu without any -accel kvm."""
    wrapper = qemu.parent / 'without-kvm' / qemu.name   # qtest reads the name
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(WITHOUT_KVM % shlex.quote(str(qemu)))
    wrapper.chmod(0o755)
    return wrapper


def _run_qtests(group, jobs, stock, runs=(('x86_64', ''),)):
    """@runs: targets and ways of recovery, each with all programs"""
    def run(report, items):
        packages.ensure('check')
        names = [item.split('/')[-1] for item in items]
        qemus = sorted({'qemu-system-' + arch for arch, _ in runs})
        with layout.only_one(BUILD / 'x86_64.lock'):
            where = build.configured('x86_64')
            build.ninja(where, qemus + ['tests/qtest/' + n for n in names],
                        'build ' + group)
            firmware.install(where)
            # once: a test may be starting one that is just being written
            programs = {q: _without_kvm(where / q) if stock else where / q
                        for q in qemus}

            def one(name, arch, mode):
                env = dict(os.environ, PYTHON=PYTHON, QTEST_QEMU_BINARY=str(
                    programs['qemu-system-' + arch]),
                    HUGETLBFS_RAS_MODE=mode or 'auto')
                tap = rep.Tap(report, group, ' '.join([name, mode]).strip(),
                              known_skips=NOT_HERE)
                args = [a for case in NOT_HERE for a in ('-s', case)]
                rep.run_tap(tap, ['tests/qtest/' + name, '--tap', '-k',
                                  *(args if stock else [])], 600, cwd=where,
                            env=env)

            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(lambda x: one(*x), [
                    (name, *run) for run in runs for name in names]))
    return run


# -- lab: real memory failure under a real KVM guest

def _lab_cases(arch):
    def cases():
        if not LAB.exists():
            return []
        out = subprocess.run([PYTHON, '-B', str(LAB), '--arch', arch,
                              '--list'], text=True, check=True,
                             stdout=subprocess.PIPE).stdout
        return [line.split()[0] for line in out.splitlines()]
    return cases


def _run_lab(group, arch):
    def run(report, items):
        packages.ensure('lab')
        if arch == AHEAD.arch:
            AHEAD.join()
        qemu, emulator = build.qemu(arch), build.native(arch)
        tap = rep.Tap(report, group, arch, show_notes=True,
                      skip_is_failure=os.environ.get('CI') == 'true')
        rep.run_tap(tap, [PYTHON, '-B', str(LAB), '--table', '--arch', arch,
                          '--qemu', str(qemu), '--host-qemu', str(emulator),
                          '--cases', ','.join(items)], 2700, cwd=ROOT)
    return run


GROUPS = [
    Group('unit', 'our unit tests', _unit_tests, _run_unit('unit')),
    Group('unit-asan', 'the same under ASan and UBSan', _unit_tests,
          _run_unit('unit-asan')),
    Group('unit-tsan', 'those with threads under TSan', _threaded_tests,
          _run_unit('unit-tsan')),
    Group('qtest', 'our qtests, both targets, both ways of recovery', _qtests,
          _run_qtests('qtest', 1, False, [(arch, mode) for arch in layout.ARCHES
                                          for mode in ('auto', 'eager')])),
    Group('qemu', "QEMU's own qtests of what the hooks touch",
          lambda: QEMU_QTESTS, _run_qtests('qemu', 2, True)),
    Group('lab', 'real memory failure under a KVM guest',
          _lab_cases('x86_64'), _run_lab('lab', 'x86_64')),
    Group('lab-arm64', 'the same on an arm64 host',
          _lab_cases('aarch64'), _run_lab('lab-arm64', 'aarch64')),
]
