"""Proves what can be proved about a release before it exists: `make release-check`, which has built dist/.

The workflows and the forms are valid and safe (GitHub's schemas, zizmor). The changelog has an entry. The built
metadata renders, and every link of its README works without the repository around it.

With --tag, as the release workflow runs it, the tag must be this version's, the changelog must have its section, and
the repository's address must be set. With --notes FILE, that section is written there. Exit code: 0 if all is well,
otherwise 1.
"""

from __future__ import annotations

import argparse
import email
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
PLACEHOLDER = "/OWNER/"
SCHEMAS = {
    "vendor.github-workflows": ".github/workflows/*.yml",
    "vendor.dependabot": ".github/dependabot.yml",
    "vendor.github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
    "vendor.github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
}


def run(*command: str | Path) -> str:
    """Run a tool. Returns its complaints; empty if there are none."""
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()


# --- the workflows ----------------------------------------------------------------------------------------------------


def check_schemas() -> Iterator[str]:
    """GitHub's own schemas."""
    for schema, pattern in SCHEMAS.items():
        files = sorted(ROOT.glob(pattern))
        if not files:
            yield f"{pattern}: there is no such file"
        elif complaint := run(TOOLS / "check-jsonschema", "--builtin-schema", schema, *files):
            yield complaint


def check_safety() -> Iterator[str]:
    """Check pins, permissions, and what a stranger's text could do, without using the internet."""
    if complaint := run(TOOLS / "zizmor", "--offline", "--quiet", "--no-progress", ".github"):
        yield complaint


def check_targets() -> Iterator[str]:
    """Check that the Makefile has every target that a workflow makes."""
    makefile = (ROOT / "Makefile").read_text()
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        for target in re.findall(r"\brun: make ([a-z-]+)", path.read_text()):
            if not re.search(rf"^{target}:", makefile, re.MULTILINE):
                yield f"{path.name} makes {target!r}, which the Makefile does not have"


# --- the distributions ------------------------------------------------------------------------------------------------


def version() -> str:
    """The version that would be released."""
    [found] = re.findall(r'^__version__ = "(.+)"$', (ROOT / "lambda_pool" / "__init__.py").read_text(), re.MULTILINE)
    return found


def check_metadata() -> Iterator[str]:
    """Check the wheel's metadata: it renders, its links are absolute, and it names the repository."""
    wheels = list((ROOT / "dist").glob("*.whl"))
    if len(wheels) != 1 or len(list((ROOT / "dist").glob("*.tar.gz"))) != 1:
        yield "dist/ must hold one wheel and one source distribution: `make dist` builds them"
        return
    if complaint := run(TOOLS / "twine", "check", "--strict", *sorted((ROOT / "dist").iterdir())):
        yield complaint
    with zipfile.ZipFile(wheels[0]) as archive:
        [record] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(record))
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    for name in ("Homepage", "Documentation", "Changelog", "Issues", "Source"):
        if not urls.get(name, "").startswith("https://"):
            yield f"the metadata has no {name}"
    yield from relative(str(metadata.get_payload()))


def relative(page: str) -> list[str]:
    """Links of a page that lead nowhere when the page stands alone."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)", prose) + re.findall(r'\b(?:href|src|srcset)="([^"\s]+)', prose)
    found = [target for target in targets if not re.match(r"https://|mailto:|#", target)]
    return [f"the README's link to {target} leads nowhere in the built metadata" for target in found]


# --- the changelog ----------------------------------------------------------------------------------------------------


def section(title: str) -> str:
    """A section of the changelog, without its heading; empty if there is none."""
    text = (ROOT / "CHANGELOG.md").read_text()
    match = re.search(rf"^## \[{re.escape(title)}\][^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return match[1].strip() if match else ""


def check_changelog() -> Iterator[str]:
    """Check that there is an entry under Unreleased, or under this version."""
    if not section("Unreleased") and not section(version()):
        yield f"CHANGELOG.md does not say what is new, neither under [Unreleased] nor under [{version()}]"


def check_tag(tag: str) -> Iterator[str]:
    """Check that a tag may become a release."""
    if tag != f"v{version()}":
        yield f"the tag {tag} is not this version's, v{version()}: change lambda_pool/__init__.py or the tag"
    if not section(version()):
        yield f"CHANGELOG.md has no section [{version()}]: rename [Unreleased], with the date"
    for wheel in (ROOT / "dist").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            [record] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            if PLACEHOLDER.encode() in archive.read(record):
                yield f"the repository's address still has {PLACEHOLDER}: docs/releasing.md says where to set it"


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    "workflows and forms are as GitHub wants them": check_schemas,
    "workflows are pinned, and have only the rights that they need": check_safety,
    "what the workflows make exists": check_targets,
    "the changelog has something to say": check_changelog,
    "the metadata renders, and its links lead somewhere": check_metadata,
}


def main(arguments: list[str] | None = None) -> int:
    """Check everything, and print a line for each check."""
    parser = argparse.ArgumentParser(prog="make release-check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tag", help="the tag that is to become a release")
    parser.add_argument(
        "--notes", type=Path, metavar="FILE", help="write the changelog's section of this version there"
    )
    asked = parser.parse_args(arguments)
    checks = dict(CHECKS)
    if asked.tag is not None:
        checks[f"{asked.tag} may be released"] = lambda: check_tag(asked.tag)
    wrong = 0
    for title, check in checks.items():
        complaints = list(check())
        wrong += bool(complaints)
        print(f"release: {title}" if not complaints else f"release: NOT TRUE: {title}")
        for complaint in complaints:
            print("\n".join(f"    {line}" for line in complaint.splitlines()))
    if asked.notes is not None and not wrong:
        asked.notes.parent.mkdir(parents=True, exist_ok=True)
        asked.notes.write_text(section(version()) + "\n")
    if asked.tag is None and PLACEHOLDER in (ROOT / "pyproject.toml").read_text():
        print("release: the repository's address is not set yet: see docs/releasing.md")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
