"""The code blocks of a page, and how each kind is tried out."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = [
    *(
        ROOT / f"{name}.md"
        for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG", "CODE_OF_CONDUCT", "deploy/README")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]
OUTPUT = {"text", "diff", ""}
"""Languages of what a program printed, of a drawing or of a change: there is nothing to run."""
RUN = {"python", "sh", "sql", "json"}


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is its first line of code."""

    page: Path
    line: int
    language: str
    code: str

    @property
    def name(self) -> str:
        """Page and line, as test reports show it."""
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Every fenced block, in order."""
    found = []
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        match = re.fullmatch(r"( *)```(\w*)", lines[number])
        number += 1
        if match is None:
            continue
        indent, language = match.groups()
        start = number
        while lines[number] != f"{indent}```":
            number += 1
        code = "\n".join(line.removeprefix(indent) for line in lines[start:number])
        found.append(Block(page, start + 1, language, code))
        number += 1
    return found


def of(*languages: str) -> list[Block]:
    """The blocks of these languages on all pages."""
    return [block for page in PAGES for block in blocks(page) if block.language in languages]
