"""What MkDocs asks while it builds the site: the start page, links to files that the site has not, and llms.txt.

The pages are written for readers of the repository. There README.md lies above docs/, and a link may lead to an example
or to the template. On the site README.md is the start page, and such a link leads to the repository, whose address
stands in pyproject.toml (docs/releasing.md) or in LAMBDA_POOL_REPOSITORY.
"""

import os
import posixpath
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_UNTOLD = re.compile(r"^(#|\||!|<|-|>|    )")
"""Paragraphs that do not tell what a page is about: headings, tables, pictures, lists, code."""

_introductions: dict[str, str] = {}
_sections: list[Section] = []


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the repository's address from the one place that has it, and the site's from that."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    known = project["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
    config.repo_url = (os.environ.get("LAMBDA_POOL_REPOSITORY") or known).rstrip("/")
    config.repo_name = urlsplit(config.repo_url).path.strip("/")
    owner, _, name = config.repo_name.partition("/")
    config.site_url = f"https://{owner.lower()}.github.io/{name}/"
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README.md as the start page."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead each link to where its target is on the site, or else in the repository."""
    start = page.file.src_uri == "index.md"

    def lead(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        if urlsplit(target).scheme:
            return match[0]
        place = posixpath.normpath(target if start else posixpath.join("docs", target))
        if place == "README.md":
            return f"{before}index.md{after}"
        if place.startswith("docs/"):
            return f"{before}{place.removeprefix('docs/')}{after}"
        if not (ROOT / place).exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {target}, which does not exist")
        kind = "tree" if (ROOT / place).is_dir() else "blob"
        return f"{before}{config.repo_url}/{kind}/main/{place}{after}"

    _introductions[page.file.src_uri] = introduction(markdown)
    return outside_code(markdown, lead)


def outside_code(markdown: str, lead: Callable[[re.Match[str]], str]) -> str:
    """The page with its links led elsewhere, and its code blocks untouched."""
    parts: list[str] = []
    at = 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(lead, markdown[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, _LINK.sub(lead, markdown[at:])])


def introduction(markdown: str) -> str:
    """The first sentence that a page says in words."""
    for paragraph in re.split(r"\n\s*\n", _FENCE.sub("", markdown)):
        if paragraph.strip() and not _UNTOLD.match(paragraph):
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split()))
            return re.split(r"(?<=[.:]) (?=[A-Z`@])", words)[0].rstrip(":")
    return ""


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Keep the order of the pages for llms.txt."""
    _sections[:] = [item for item in nav.items if isinstance(item, Section)]
    return nav


def on_post_build(config: MkDocsConfig) -> None:
    """Write llms.txt: every page with its first sentence, for programs that read documentation."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}: PostgreSQL (psycopg 3) and MySQL (PyMySQL)."]
    for section in _sections:
        lines += ["", f"## {section.title}", ""]
        for page in section.children:
            if isinstance(page, Page):
                told = _introductions[page.file.src_uri]
                lines.append(f"- [{page.title}]({config.site_url}{page.url})" + (f": {told}" if told else ""))
    (Path(config.site_dir) / "llms.txt").write_text("\n".join(lines) + "\n")
