"""Lines that update themselves and colours on a terminal; plain lines elsewhere."""

from __future__ import annotations

import os
import shutil
import time
from typing import TextIO

_CODES = {"red": "31", "green": "32", "bold": "1", "dim": "2"}
WIDTH = 100
"""Columns that everything fits in."""


class Terminal:
    """A stream, and what it can show. Colours only on a terminal, and never if NO_COLOR is set (no-color.org)."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.updates: bool = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._colours = self.updates and not os.environ.get("NO_COLOR")

    def paint(self, text: str, style: str) -> str:
        """The text in red, green, bold or dim, or as it is."""
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self._colours else text


class StepLines:
    """One line for each step: updating on a terminal, else written when the step is done."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._title = ""
        self._started = 0.0

    def begin(self, title: str) -> None:
        """A new step."""
        self._title, self._started = title, time.monotonic()
        self.tick("")

    def tick(self, detail: str) -> None:
        """What happens just now; seen on a terminal only."""
        if self._terminal.updates:
            # "\r" and "erase to the end of the line".
            # A line longer than the terminal is wide would begin another one each time.
            width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
            self._write(f"\r{f'{self._title:<48}  {detail}'[: width - 1]}\x1b[K")

    def end(self) -> None:
        """The step is done."""
        line = f"{self._title:<48}  {time.monotonic() - self._started:5.1f} s"
        self._write(f"\r{line}\x1b[K\n" if self._terminal.updates else f"{line}\n")

    def _write(self, text: str) -> None:
        self._terminal.stream.write(text)
        self._terminal.stream.flush()
