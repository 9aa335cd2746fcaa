"""The site is built without a warning, is complete, leads nowhere that is not there, and fetches nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from .blocks import PAGES, ROOT


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build_site, draw_pictures = script("build_site"), script("draw_pictures")
PICTURES = ROOT / "docs" / "pictures"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, made in a copy of what it is made of."""
    copy = tmp_path_factory.mktemp("site") / "copy"
    others = (
        ".venv*",
        ".tools",
        ".git",
        ".*_cache",
        ".hypothesis",
        ".aws-sam",
        "build",
        "dist",
        "lambda_pool",
        "tests",
    )
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*others))
    done = subprocess.run(
        [sys.executable, str(copy / "scripts" / "build_site.py")],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return copy / "build" / "site"


class Page(HTMLParser):
    """The addresses that a page leads to, those that it loads by itself, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.leads: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.leads.append(found["href"])
        if tag == "link" and found.get("rel") in {"stylesheet", "preconnect", "icon"}:
            self.loads.append(found["href"])
        if "src" in found:
            self.loads.append(found["src"])


def pages(site: Path) -> Iterator[tuple[Path, Page]]:
    for path in site.rglob("*.html"):
        if path.name != "404.html":  # its addresses are absolute
            yield path, Page(path.read_text())


@pytest.mark.sampled(1 / 3, "10 s")
def test_every_address_leads_somewhere(site: Path) -> None:
    found = dict(pages(site))
    for path, page in found.items():
        for address in [*page.leads, *page.loads]:
            target, _, anchor = address.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (path.parent / target).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            assert file.exists(), f"{path.relative_to(site)} leads to {address}"
            if file in found:
                assert anchor in found[file].anchors, f"{path.relative_to(site)} leads to {address}"


@pytest.mark.sampled(1 / 3, "10 s")
def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for path, page in pages(site):
        assert not [address for address in page.loads if re.match(r"[a-z]+:|//", address)], path
    for path in [*PICTURES.glob("*.svg"), *site.glob("assets/stylesheets/*.css")]:
        assert not re.findall(r"(?:href=|src=|url\(|@import )['\"]?https?:", path.read_text()), path


@pytest.mark.sampled(1 / 3, "7 s")
def test_a_broken_link_is_an_error(site: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(site.parent.parent, copy)
    with (copy / "docs" / "pool.md").open("a") as page:
        page.write("\n[nowhere](nowhere.md)\n")
    command = [sys.executable, str(copy / "scripts" / "build_site.py")]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert "nowhere.md" in done.stderr


def test_a_list_goes_on_behind_its_code_and_no_picture_stands_twice() -> None:
    """The site takes code for a part of a list from four columns on, where GitHub takes it from two."""
    for path in PAGES:
        text = path.read_text()
        assert not re.findall(r"^ {1,3}```", text, re.MULTILINE), path
        pictures = re.findall(r"!\[.*?\]\((.+?)\)", text)
        assert len(pictures) == len(set(pictures)), path


def test_every_page_is_in_the_navigation() -> None:
    listed = {page for pages in build_site.navigation().values() for page in pages.values()}
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= listed, "add it to mkdocs.yml's nav"


def test_language_models_find_every_page(site: Path) -> None:
    text = (site / "llms.txt").read_text()
    assert text.startswith("# lambda_pool\n\n> Database connections for Python on AWS Lambda")
    entries = re.findall(r"^- \[[^]]+\]\(([^)]+)\): (.+)$", text, re.MULTILINE)
    assert len(entries) == sum(map(len, build_site.navigation().values()))
    for page, summary in entries:
        assert (site / page).is_file(), page
        assert len(summary) > 15, page


def test_an_error_text_has_an_anchor(site: Path) -> None:
    page = Page((site / "docs" / "troubleshooting" / "index.html").read_text())
    for anchor in ("too-many-connections", "remaining-connection-slots-are-reserved", "certificate-verify-failed"):
        assert anchor in page.anchors


@pytest.mark.parametrize("name", draw_pictures.PICTURES)
def test_the_pictures_are_what_the_script_draws(name: str) -> None:
    assert (PICTURES / name).read_text() == str(draw_pictures.PICTURES[name]()), "run scripts/draw_pictures.py"


def test_the_demos_picture_shows_the_run_of_its_page() -> None:
    shown = re.sub(r"<[^>]+>", "", (PICTURES / "demo.svg").read_text()).replace("&#160;", " ")
    page = (ROOT / "docs" / "demo.md").read_text().partition("```text\n")[2].partition("\n```")[0]
    for words in re.findall(r"[\w.]+", page):
        assert words in shown, "run scripts/record_terminal.py demo"


def test_no_picture_names_this_machine() -> None:
    for path in PICTURES.glob("*.svg"):
        assert not re.search(r"/(tmp|home|root|work)/", path.read_text()), path
