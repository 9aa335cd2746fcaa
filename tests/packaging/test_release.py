"""What makes a release: the workflows, the metadata that is built, the bill of what is in a layer."""

import json
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

import lambda_pool

from .test_dist import ROOT, TOOLS

needs_tools = pytest.mark.slow("needs the tools that build the distributions")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def check(call: str, **changed: str) -> str:
    """What a part of scripts/check_release.py complains of; `changed` are other values of its names."""
    given = "".join(f"r.{name} = {value}; " for name, value in changed.items())
    code = f"import pathlib, check_release as r; {given}print('\\n'.join(r.{call}))"
    done = subprocess.run(
        [TOOLS / "python", "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


# --- the workflows ----------------------------------------------------------------------------------------------------


@needs_tools
def test_workflows_and_forms_are_valid_and_safe() -> None:
    assert check("check_schemas()") == ""
    assert check("check_safety()") == ""
    assert check("check_targets()") == ""


@needs_tools
@pytest.mark.parametrize(
    ("part", "old", "new", "complaint"),
    [
        ("check_schemas", "interval: weekly", "interval: sometimes", "sometimes"),
        (
            "check_safety",
            "actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0",
            "actions/checkout@v5",
            "unpinned",
        ),
        ("check_safety", "permissions:\n      contents: read", "permissions: write-all", "excessive-permissions"),
        ("check_safety", "run: make lint", "run: make lint ${{ github.head_ref }}", "template-injection"),
        ("check_targets", "run: make lint", "run: make lint-all", "'lint-all'"),
    ],
)
def test_what_is_wrong_is_noticed(tmp_path: Path, part: str, old: str, new: str, complaint: str) -> None:
    for path in (ROOT / ".github").rglob("*.yml"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text()
        if path.name == ("dependabot.yml" if part == "check_schemas" else "ci.yml"):
            assert old in text
            text = text.replace(old, new)
        copy.write_text(text)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    assert complaint in check(f"{part}()", ROOT=f"pathlib.Path({str(tmp_path)!r})")


def test_every_action_is_pinned_by_a_commit_and_says_which_version_it_is() -> None:
    used = [line for path in WORKFLOWS for line in re.findall(r"uses: (.*)", path.read_text())]
    assert len(used) > 15
    assert [line for line in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []
    assert len(set(used)) == len({line.partition("@")[0] for line in used}), "one action, one version"


def test_the_tests_run_on_every_python_and_both_processors() -> None:
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == classifiers
    assert {runner.endswith("-arm") for runner in matrix["runner"]} == {True, False}
    layers = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]["layers"]
    assert layers["strategy"]["matrix"]["python"] == classifiers


def test_the_hooks_before_a_commit_are_those_of_the_lint_target() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    entries = [hook["entry"] for hook in hooks]
    for command in re.findall(r"\t(\.venv/bin/\S+(?: check| format)?)", makefile):
        assert any(entry.startswith(command) for entry in entries), command


def test_no_owner_is_made_up() -> None:
    """The one place is pyproject.toml; elsewhere an address of the repository's host leads to somebody else's."""
    mine = [
        f"{path.relative_to(ROOT)}: {found}"
        for folder in (".github", "docs", "scripts", "lambda_pool", "examples", "deploy")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".md", ".yml", ".yaml", ".py", ".toml", ".tf", ".json"} and "node_modules" not in path.parts
        for found in re.findall(r"github\.com/[\w.-]+/lambda[_-]pool", path.read_text())
    ]
    assert mine == []
    assert (ROOT / "pyproject.toml").read_text().count("github.com/") == 1


# --- the metadata -----------------------------------------------------------------------------------------------------


@needs_tools
@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("[a](docs/a.md#b)", "[a](https://h/o/r/blob/v1/docs/a.md#b)"),
        (
            "[a](./LICENSE) [b](https://x/) [c](#d) [e](mailto:f)",
            "[a](https://h/o/r/blob/v1/LICENSE) [b](https://x/) [c](#d) [e](mailto:f)",
        ),
        ("![a](docs/a.svg)", "![a](https://h/o/r/raw/v1/docs/a.svg)"),
        ("[![a](docs/a.svg)](docs/a.md)", "[![a](https://h/o/r/raw/v1/docs/a.svg)](https://h/o/r/blob/v1/docs/a.md)"),
        (
            '<img src="docs/a.svg"> <a href="docs/a.md">',
            '<img src="https://h/o/r/raw/v1/docs/a.svg"> <a href="https://h/o/r/blob/v1/docs/a.md">',
        ),
        ("`[a]` and f(x)", "`[a]` and f(x)"),
    ],
)
def test_links_are_led_to_the_repository(page: str, expected: str) -> None:
    code = "import hatch_build as h, sys; print(h.absolute(sys.argv[1], 'https://h/o/r', 'v1'), end='')"
    done = subprocess.run([TOOLS / "python", "-c", code, page], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == expected
    assert check(f"relative({expected!r})") == ""


@needs_tools
def test_a_link_that_leads_nowhere_is_noticed() -> None:
    said = check("relative('[a](docs/a.md) <img src=\"a.svg\"> `[b](c)` [d](#e)')")
    assert re.findall(r"link to (\S+) leads", said) == ["docs/a.md", "a.svg"]


# --- the tag ----------------------------------------------------------------------------------------------------------


@needs_tools
def test_a_tag_that_may_not_be_released(tmp_path: Path) -> None:
    (tmp_path / "lambda_pool").mkdir()
    (tmp_path / "lambda_pool" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    changelog = tmp_path / "CHANGELOG.md"
    root = f"pathlib.Path({str(tmp_path)!r})"
    changelog.write_text("# Changelog\n\n## [Unreleased]\n")
    assert "does not say what is new" in check("check_changelog()", ROOT=root)
    said = check("check_tag('v0.2.0')", ROOT=root)
    assert "v0.2.0 is not this version's, v0.1.0" in said
    assert "no section [0.1.0]" in said
    changelog.write_text(
        "# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - 2026-12-01\n\n### Added\n\n- All.\n\n## [0.0.1]\n\n- x\n"
    )
    assert check("check_changelog()", ROOT=root) == check("check_tag('v0.1.0')", ROOT=root) == ""
    assert check("section('0.1.0').splitlines()", ROOT=root) == "### Added\n\n- All."
    (tmp_path / "dist").mkdir()
    with zipfile.ZipFile(tmp_path / "dist" / "a.whl", "w") as wheel:
        wheel.writestr("a.dist-info/METADATA", "Project-URL: Homepage, https://h/OWNER/lambda_pool\n")
    assert "still has /OWNER/" in check("check_tag('v0.1.0')", ROOT=root)


def test_what_is_new_can_become_the_first_release() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    titles = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert titles[0] == "Unreleased"
    released = titles[1:]
    assert (lambda_pool.__version__ in released) == bool(released), (
        "the version in the code is the newest that is listed"
    )


# --- what is in a layer -----------------------------------------------------------------------------------------------


@needs_tools
def test_a_layers_bill_names_what_is_in_it(tmp_path: Path) -> None:
    layer = tmp_path / "layer.zip"
    with zipfile.ZipFile(layer, "w") as archive:
        archive.writestr(
            "python/PyMySQL-1.2.4.dist-info/METADATA", "Name: PyMySQL\nVersion: 1.2.4\nLicense-Expression: MIT\n"
        )
        archive.writestr("python/other/METADATA", "Name: no\n")
    command = [TOOLS / "python", ROOT / "scripts" / "write_sbom.py", layer]
    first, again = (
        [subprocess.run(command, check=True, capture_output=True), (tmp_path / "layer.cdx.json").read_text()][1]
        for _ in range(2)
    )
    assert first == again
    bill = json.loads(str(first))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    [component] = bill["components"]
    assert (component["name"], component["version"], component["purl"]) == (
        "PyMySQL",
        "1.2.4",
        "pkg:pypi/pymysql@1.2.4",
    )
    assert component["licenses"] == [{"license": {"id": "MIT"}}]
    with zipfile.ZipFile(layer, "w") as archive:
        archive.writestr("app.py", "")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"sbom: {layer} is not a layer: it holds no distribution\n"
