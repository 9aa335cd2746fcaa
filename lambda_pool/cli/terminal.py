"""How every command writes: widths, folded text, tables, colours, and lines that update themselves.

Everything fits 80 columns, and uses a wider terminal where it helps. Names that people copy stay whole.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Collection, Sequence
from typing import TextIO

from lambda_pool.errors import without_password

_CODES = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}
WIDTH = 80
"""Columns where the output is not a terminal."""
_WIDEST_TEXT = 100
"""Columns beyond which sentences are hard to read."""
_LEAST_CELL = 8


def columns() -> int:
    """How wide the terminal is; WIDTH where there is none. The variable COLUMNS wins."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def text_width() -> int:
    """How wide sentences are set."""
    return min(columns(), _WIDEST_TEXT)


def fold(text: str, first: str = "", later: str = "", width: int | None = None) -> list[str]:
    """The text as lines of at most `width` columns (default: `text_width()`), after an indent."""
    return textwrap.wrap(
        text,
        max(text_width() if width is None else width, 2 * len(later), 20),
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int, elastic: Collection[int]) -> list[str]:
    """Columns as wide as their content; the `elastic` ones become narrower, the widest first, until a line fits.

    A text that is longer than its column goes on below. A server's texts must not control a terminal: characters that
    cannot be printed become question marks.
    """
    return [line for row in table_rows(header, rows, width, elastic) for line in row]


def table_rows(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, elastic: Collection[int]
) -> list[list[str]]:
    """The lines of the same table, those of the header first, in a list for each row."""
    cells = [list(header), *([printable(cell) for cell in row] for row in rows)]
    sizes = [max(len(row[column]) for row in cells) for column in range(len(header))]
    while sum(sizes) + 2 * (len(sizes) - 1) > width:
        widest = max(elastic, key=lambda column: sizes[column])
        if sizes[widest] <= _LEAST_CELL:
            break
        sizes[widest] -= 1
    found = []
    for row in cells:
        folded = [textwrap.wrap(cell, size, break_on_hyphens=False) for cell, size in zip(row, sizes, strict=True)]
        found.append(
            [
                "  ".join(part.ljust(size) for part, size in zip(parts, sizes, strict=True)).rstrip()[:width]
                for parts in itertools.zip_longest(*folded, fillvalue="")
            ]
        )
    return found


def clip(text: str, width: int) -> str:
    """The text, cut to `width` columns with a mark at its end."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def duration(seconds: float) -> str:
    """A time in people's units: `0.08 ms`, `85 ms`, `2.4 s`, `12 s`, `3 min 20 s`, `15 min`, `5 h 2 min`, `4 d 1 h`."""
    if 0 < seconds < 0.1:
        milliseconds = seconds * 1000
        return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2g} ms"
    if seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, smaller, part in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}{f' {rest} {part}' if rest else ''}"
    return f"{whole} s"


def printable(text: str) -> str:
    """The text without characters that would control a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def complain(command: str, reason: object) -> int:
    """Say on standard error why a command could not do its work; returns its exit code 2.

    It is one line, so that programs can read it. On a terminal it is folded.
    """
    name = f"lambda-pool {command}".strip()
    said = without_password(str(reason)).removeprefix(f"pool {name}: ")  # a command's own pool has the command's name
    text = f"{name}: {said}"
    print("\n".join(fold(text)) if sys.stderr.isatty() else text, file=sys.stderr)
    return 2


class Terminal:
    """A stream, and what it can show. Colours only on a terminal, and never if NO_COLOR is set (no-color.org)."""

    def __init__(self, stream: TextIO) -> None:
        self.stream: TextIO = stream
        self.updates: bool = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._shown = 0
        self._colours = self.updates and not os.environ.get("NO_COLOR")

    def paint(self, text: str, style: str) -> str:
        """The text in red, green, yellow, bold or dim, or as it is."""
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self._colours else text

    def update(self, text: str) -> None:
        """Write a line over the one before, if this can be done here; an empty text takes it away."""
        if self.updates:
            # A line as wide as the terminal would begin another one. What stood there is covered with blanks, because
            # NO_COLOR is often set where no escape code is wanted at all.
            text = text[: columns() - 1]
            cover = " " * (self._shown - len(text))
            self.stream.write(f"\r{text}{cover}" if text else f"\r{cover}\r")
            self.stream.flush()
            self._shown = len(text)


class Progress:
    """Shows on standard error what a command waits for, and removes it afterwards; only on a terminal."""

    def __init__(self) -> None:
        self._terminal = Terminal(sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._terminal.update("")

    def __call__(self, text: str) -> None:
        """Wait for something else now."""
        self._terminal.update(f"{text} …")


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
        """What happens now; shown on a terminal only."""
        self._terminal.update(f"{self._title:<48}  {detail}")

    def end(self) -> None:
        """The step is done."""
        line = f"{self._title:<48}  {duration(time.monotonic() - self._started):>7}"
        self._terminal.update(line)
        self._terminal.stream.write("\n" if self._terminal.updates else f"{line}\n")
        self._terminal.stream.flush()
