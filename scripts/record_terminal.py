"""Records real runs of the command line in a terminal of 80 columns, as pictures in docs/pictures.

python scripts/record_terminal.py demo      what README shows
python scripts/record_terminal.py doctor    a wrong password, against a private PostgreSQL
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from lambda_pool.testing import PostgresServer

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
COMMAND = str(Path(sys.executable).with_name("lambda-pool"))
COLUMNS = 80
# Rich's own frame names fonts on a server; this one takes what the reader has.
FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>TITLE</title>
<style>
.{unique_id}-matrix {{ font: {char_height}px "DejaVu Sans Mono", Menlo, Consolas, monospace }}
.{unique_id}-title {{ font: 600 17px system-ui, Arial, sans-serif }}
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


def printed(command: list[str], variables: dict[str, str]) -> str:
    """What the command writes to a terminal, as it stands there at the end."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS)} | variables
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        found = b""
        try:
            while part := os.read(ours, 65536):
                found += part
        except OSError:
            pass  # how Linux reports that nobody writes any more
        os.close(ours)
    if process.returncode not in {0, 1}:
        raise SystemExit(f"{shlex.join(command)} ended with {process.returncode}: {found.decode()}")
    # Of a line that was written over, what was written last.
    lines = (line.rstrip("\r").rpartition("\r")[2].replace("\x1b[K", "") for line in found.decode().split("\n"))
    return "\n".join(lines).rstrip()


def draw(name: str, shown: str, output: str) -> None:
    """Write the picture of a terminal with the command that was typed and what it printed."""
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115
    console.print(Text(f"$ {shown}"), Text.from_ansi(output), sep="\n", soft_wrap=True)
    frame = FRAME.replace("TITLE", f"{shown}, recorded in a terminal")
    picture = console.export_svg(title=shown, code_format=frame, unique_id=name)
    (PICTURES / f"{name}.svg").write_text(re.sub(r"[ \t]+$", "", picture, flags=re.MULTILINE))


def demo() -> None:
    """The demo on PostgreSQL."""
    draw("demo", "lambda-pool demo", printed([COMMAND, "demo"], {}))


def doctor() -> None:
    """A login that the server refuses."""
    with PostgresServer(tls=False) as server:
        server.execute("create role app login password 'remembered'")
        url = f"postgresql://app:guessed@127.0.0.1:{urlsplit(server.url()).port}/postgres"
        draw("doctor", "lambda-pool doctor", printed([COMMAND, "doctor"], {"LAMBDA_POOL_URL": url}))


def main() -> int:
    """Record what was asked for."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("what", choices=("demo", "doctor"))
    {"demo": demo, "doctor": doctor}[parser.parse_args().what]()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
