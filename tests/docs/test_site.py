"""The site: every page has its place, it builds without a warning, and nothing of it is fetched from elsewhere."""

import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from .blocks import ROOT

MKDOCS = ROOT / ".venv-site" / "bin" / "mkdocs"
DOCS = ROOT / "docs"
needs_mkdocs = pytest.mark.slow("needs MkDocs, in an environment of its own")


def test_every_page_has_a_place_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].partition("\n\n")[0]
    named = re.findall(r"([\w-]+\.md)$", nav, re.MULTILINE)
    assert sorted(named) == sorted(["index.md", *(page.name for page in DOCS.glob("*.md"))])


def test_no_picture_fetches_anything() -> None:
    pictures = sorted(DOCS.rglob("*.svg"))
    assert pictures
    for picture in pictures:
        assert re.findall(r"url\(\s*['\"]?(?!#)[^)]*\)|(?:href|src)=\"(?!#)[^\"]*|@import", picture.read_text()) == []


class Fetched(HTMLParser):
    """What a browser loads to show a page, and the anchors that a link can lead to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors.add(found.get("id") or "")
        if tag in {"script", "img", "iframe", "source"} and found.get("src"):
            self.loaded.append(str(found["src"]))
        if tag == "link" and found.get("rel") in {"stylesheet", "icon", "preconnect", "preload"}:
            self.loaded.append(str(found["href"]))


def build(target: Path, folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(MKDOCS), "build", "--strict", "--site-dir", str(target)],
        cwd=folder,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(target, LAMBDA_POOL_REPOSITORY="https://github.com/Somebody/lambda_pool")
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@needs_mkdocs
def test_every_page_is_built_and_loads_only_what_is_beside_it(site: Path) -> None:
    for page in ["index", *(page.stem for page in DOCS.glob("*.md"))]:
        built = site / f"{page}.html"
        for address in Fetched(built).loaded:
            assert not urlsplit(address).netloc, f"{page} loads {address}"
            assert (built.parent / unquote(urlsplit(address).path)).exists(), f"{page} loads {address}"


@needs_mkdocs
def test_error_texts_are_anchors(site: Path) -> None:
    anchors = Fetched(site / "troubleshooting.html").anchors
    for anchor in ("no-database-url-pass-one-to-pool-or-set-", "too-many-connections", "deadlock-detected"):
        assert any(each.startswith(anchor) for each in anchors), anchor


@needs_mkdocs
def test_links_out_of_the_pages_lead_to_the_repository(site: Path) -> None:
    start = (site / "index.html").read_text()
    assert 'href="https://github.com/Somebody/lambda_pool/blob/main/template.yaml"' in start
    assert 'href="testing.html"' in start
    assert "OWNER" not in start


@needs_mkdocs
def test_llms_txt_names_every_page(site: Path) -> None:
    text = (site / "llms.txt").read_text()
    assert text.startswith("# lambda_pool\n\n> ")
    linked = re.findall(r"^- \[.+\]\(https://somebody\.github\.io/lambda_pool/([\w-]+)\.html\)", text, re.MULTILINE)
    assert sorted(linked) == sorted(["index", *(page.stem for page in DOCS.glob("*.md"))])


@needs_mkdocs
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    for path in ROOT.iterdir():
        if path.name not in {"README.md", "scripts", "site"}:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "README.md").write_text("# lambda_pool\n\nSee [nothing](docs/nothing.md).\n")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "site_hooks.py").write_text((ROOT / "scripts" / "site_hooks.py").read_text())
    done = build(tmp_path / "site", tmp_path)
    assert done.returncode != 0
    assert "nothing.md" in done.stdout + done.stderr
