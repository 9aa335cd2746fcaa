"""A terminal that tests can read."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
CLI = str(Path(sys.executable).parent / "lambda-pool")


class Screen:
    """A terminal of a given size, and a command in its foreground."""

    def __init__(self, rows: int, columns: int, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "LINES"}}
        # A session of its own, whose terminal this is: Ctrl-C is then the terminal's. And heard also where these tests
        # run in a background that ignores it.
        command = ["setsid", "--ctty", "--wait", "env", "--default-signal=INT", CLI, *arguments]
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm"}
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, pattern: str, seconds: float = 30.0) -> None:
        until = time.monotonic() + seconds
        while re.search(pattern, self.text) is None:
            assert time.monotonic() < until, self.text
            if not self._read(0.1) and self._process.poll() is not None:
                break
        assert re.search(pattern, self.text), self.text

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # the command, the only other user of the terminal, has ended
            return False
        self.text += chunk.decode()
        return bool(chunk)

    def lines(self) -> list[str]:
        """What is, or was, to be seen: without the colours, and with what was written over."""
        plain = _ANSI.sub("", self.text)
        return [part.rstrip() for line in plain.split("\n") for part in line.split("\r")]

    def interrupt(self) -> None:
        os.write(self._ours, b"\x03")

    def end(self, seconds: float = 30.0) -> int:
        """The exit code, once everything is read."""
        try:
            until = time.monotonic() + seconds
            while self._process.poll() is None and time.monotonic() < until:
                self._read(0.1)  # a command whose terminal nobody reads would wait for that
            code = self._process.wait(1)
            while self._read(0.1):
                pass
            return code
        finally:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGKILL)
                self._process.wait(10)
            os.close(self._ours)
