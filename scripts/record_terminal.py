"""Records commands on a terminal with 80 columns, into docs/pictures.

    python scripts/record_terminal.py [demo] [doctor]

The demo is the run that docs/demo.md shows. The doctor is run now, on a private server, with the name of a database
that does not exist, so that it has something to report.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
CLI = str(Path(sys.executable).parent / "lambda-pool")
COLUMNS, ROWS = 80, 60
# Readable on the dark background. The picture does not contain a font.
THEME = TerminalTheme(
    (27, 39, 51),
    (230, 236, 241),
    [
        *[(27, 39, 51), (255, 123, 114), (126, 231, 135), (242, 204, 96)],
        *[(121, 192, 255), (210, 168, 255), (165, 214, 255), (230, 236, 241)],
    ],
)
FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def run(*arguments: str) -> str:
    """The command's output on a terminal, with its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    process = subprocess.Popen(
        [CLI, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm"}
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the command has ended
            break
        said += chunk
    process.wait()
    os.close(ours)
    lines = said.decode().replace("\r\n", "\n").split("\n")
    # Text that was overwritten is gone.
    shown = [line.replace("\x1b[K", "").rpartition("\r")[2] for line in lines]
    return "\n".join(shown).strip("\n")


def save(name: str, command: str, shown: str) -> None:
    """Draw the output as a picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(Text.from_ansi(f"$ {command}\n{shown}"), soft_wrap=True)
    picture = console.export_svg(title=command, theme=THEME, code_format=FORMAT, unique_id=name)
    (FOLDER / f"{name}.svg").write_text(re.sub(r"[ \t]+\n", "\n", picture))


def demo() -> None:
    """The run that the page about the demo shows, in the colours of a terminal."""
    page = (FOLDER.parent / "demo.md").read_text()
    shown = page.partition("```text\n")[2].partition("\n```")[0]
    save("demo", "make demo", "\n".join(map(coloured, shown.split("\n"))))


def coloured(line: str) -> str:
    """A line of the demo as a terminal shows it: errors red or green, headings bold."""
    if re.fullmatch(r".{20}( *\d+ +\d+ +\d+ +[\d.]+){3}", line):
        return line[:20] + "".join(_cell(line[at : at + 20]) for at in (20, 40, 60))
    bold = line.startswith("The errors of") or "connect each time  " in line
    return f"\x1b[1m{line}\x1b[0m" if bold else line


def _cell(text: str) -> str:
    return f"\x1b[{31 if int(text[:4]) else 32}m{text[:4]}\x1b[0m{text[4:]}"


def doctor() -> None:
    """A database that does not exist."""
    from lambda_pool.testing import PostgresServer

    with PostgresServer() as server:
        shown = run("doctor", server.url(database="oders", tls=False))
        shown = shown.replace(server.password, "***").replace(str(server.port), "5432")
    save("doctor", "lambda-pool doctor", shown)


def main() -> None:
    """Record the commands that were named, or all."""
    for name in sys.argv[1:] or ["demo", "doctor"]:
        {"demo": demo, "doctor": doctor}[name]()


if __name__ == "__main__":
    main()
