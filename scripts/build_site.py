"""Builds the site from the pages of the repository, into build/site: `make site`.

The pages stay where they are and link to each other, and to examples and other files, as they do on a code host. So
everything that they link to is first gathered in build/site-source. Every broken link, anchor or entry of the
navigation is an error. llms.txt lists the pages for language models.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "build" / "site-source"
SITE = ROOT / "build" / "site"
_LINK = re.compile(r"\]\(([^)#\s]+)")


class _Loader(yaml.SafeLoader):
    """Leaves the values alone that MkDocs turns into Python objects."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def navigation() -> dict[str, dict[str, str]]:
    """Section, title and page, in order."""
    config: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)
    return {
        section: {title: page for entry in entries for title, page in entry.items()}
        for part in config["nav"]
        for section, entries in part.items()
    }


def linked(page: Path) -> Iterator[Path]:
    """The files that a page links to."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in _LINK.findall(text):
        if not re.match(r"[a-z]+:", target):
            yield (page.parent / target).resolve()


def gather() -> None:
    """The pages of the navigation, and all that they link to."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    waiting = [ROOT / page for pages in navigation().values() for page in pages.values()]
    waiting += (ROOT / "docs" / "pictures").glob("*")
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen or not path.exists():  # MkDocs reports what is missing
            continue
        seen.add(path)
        if path.is_dir():
            waiting += (each for each in path.iterdir() if each.suffix == ".md")
            continue
        copy = SOURCE / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        if path.suffix == ".md":
            waiting += linked(path)


def summary(page: Path) -> str:
    """The first sentence below the title."""
    for paragraph in page.read_text().split("\n\n")[1:]:
        text = " ".join(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", paragraph).split())
        if re.match(r"[\w*]|`(?!``)", text):
            return re.split(r"(?<=[.:?]) ", text)[0].rstrip(":")
    return ""


def llms() -> str:
    """The pages for language models, as llmstxt.org describes it: a summary, then a link and a sentence for each."""
    lines = ["# lambda_pool", "", f"> {summary(ROOT / 'README.md')}"]
    for section, pages in navigation().items():
        lines += ["", f"## {section}", ""]
        lines += [f"- [{title}]({page}): {summary(ROOT / page)}" for title, page in pages.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Build it. Returns MkDocs's exit code."""
    gather()
    (SOURCE / "llms.txt").write_text(llms())
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    # The theme advertises its successor with each build.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    code = done.returncode  # with --quiet, MkDocs would not count its warnings
    if code:
        print(done.stderr, file=sys.stderr)
    if code == 0:
        for pages in navigation().values():  # also the sources, because llms.txt links to them
            for page in pages.values():
                target = SITE / page
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / page, target)
        print(f"the site is in {SITE.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
