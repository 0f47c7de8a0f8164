# SPDX-License-Identifier: GPL-2.0-or-later
"""A stream of text lines to and from a virtio-serial port."""

import queue
import socket
import threading
import time


class Gone(Exception):
    """The other side has ended."""


class TimedOut(Exception):
    pass


class Channel:
    """One end of a socket pair; the emulated host's QEMU holds the other.

    A thread reads all the time, so that no writer in the emulated machines
    ever blocks; it hands each line to @on_line (if given) and to the queue.
    """

    def __init__(self, name, on_line=None):
        self.name = name
        self.on_line = on_line
        self.log = None
        self.sock, self.peer = socket.socketpair()
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        rest = b''
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b''
            if not data:
                break
            *lines, rest = (rest + data).split(b'\n')
            for line in lines:
                self._line(line.decode(errors='replace').rstrip('\r'))
        self.lines.put(None)

    def _line(self, line):
        log = self.log
        if log:
            log.write('%.3f %s: %s\n' % (time.monotonic() - log.start,
                                         self.name, line))
        if self.on_line:
            self.on_line(line)
        self.lines.put(line)

    def send(self, line):
        try:
            self.sock.sendall(line.encode() + b'\n')
        except OSError as e:
            raise Gone(self.name) from e

    def forget(self):
        """Drop the lines that nobody read."""
        while True:
            try:
                if self.lines.get_nowait() is None:
                    self.lines.put(None)
                    return
            except queue.Empty:
                return

    def line(self, deadline):
        """The next line; @deadline is a time.monotonic()."""
        try:
            line = self.lines.get(timeout=max(0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimedOut(self.name) from None
        if line is None:
            self.lines.put(None)
            raise Gone(self.name)
        return line

    def close(self):
        self.sock.close()
        self.peer.close()


class Log:
    """The log of one case: all channels, in the order of arrival."""

    def __init__(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.start = time.monotonic()
        self.lock = threading.Lock()
        self.file = open(path, 'w', errors='replace')

    def write(self, text):
        with self.lock:
            if not self.file.closed:
                self.file.write(text)
                self.file.flush()

    def note(self, text):
        self.write('%.3f --- %s\n' % (time.monotonic() - self.start, text))

    def tail(self, lines=40):
        with open(self.path, errors='replace') as f:
            return ''.join('    ' + s for s in f.readlines()[-lines:])

    def close(self):
        with self.lock:
            self.file.close()
