"""What the pages say is so: error texts, parameters, printed plans, and the reference."""

import ast
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from lambda_pool.cli import main

from .blocks import ROOT, blocks

DOCS = ROOT / "docs"


# --- troubleshooting --------------------------------------------------------------------------------------------------


@cache
def texts() -> str:
    """Every text in the package, the fixed parts of f-strings joined by a mark."""
    found = []
    for path in (ROOT / "lambda_pool").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def said_by_us() -> list[str]:
    """The headings of the first part of the page."""
    page = (DOCS / "troubleshooting.md").read_text()
    ours = page.partition("## What lambda_pool says\n")[2].partition("\n## ")[0]
    return re.findall(r"^### (.+)$", ours, re.MULTILINE)


@pytest.mark.parametrize("heading", said_by_us())
def test_each_error_text_is_one_that_the_package_says(heading: str) -> None:
    pieces = [piece.strip(" '()") for piece in re.split("…|IamToken\\(region=|'", heading)]
    # What is left of a piece of which a variable was a part is too short to tell anything.
    telling = [piece for piece in pieces if len(piece) > 8]
    assert telling, heading
    for piece in telling:
        assert piece in texts(), piece


# --- deploying --------------------------------------------------------------------------------------------------------


def test_every_parameter_and_output_of_the_template_is_explained() -> None:
    template = (ROOT / "template.yaml").read_text()
    parameters = template.partition("\nParameters:\n")[2].partition("\nRules:")[0]
    outputs = template.partition("\nOutputs:\n")[2]
    page = (DOCS / "deploying.md").read_text()
    names = re.findall(r"^  (\w+):$", parameters, re.MULTILINE) + re.findall(r"^  (\w+):$", outputs, re.MULTILINE)
    assert len(names) > 30
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_permission_in_the_template_is_explained() -> None:
    template = (ROOT / "template.yaml").read_text()
    page = (DOCS / "deploying.md").read_text()
    for action in set(re.findall(r"\b((?:rds-db|rds|secretsmanager|kms|logs):[A-Za-z]+)\b", template)):
        if action not in {"kms:ViaService"}:
            assert f"`{action}`" in page, action


# --- sizing -----------------------------------------------------------------------------------------------------------


def test_the_plan_and_its_chart_are_what_the_command_makes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    [command, *_], [printed, *_] = (
        [block.code for block in blocks(DOCS / "sizing.md") if block.language == language]
        for language in ("sh", "text")
    )
    chart = tmp_path / "plan.svg"
    main([*shlex.split(command)[1:], "--chart", str(chart)])
    assert capsys.readouterr().out.startswith(printed + "\n\nThe chart is in ")
    assert chart.read_text() == (DOCS / "plan.svg").read_text()


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_every_example_stands_among_the_recipes() -> None:
    page = (DOCS / "recipes.md").read_text()
    for folder in (ROOT / "examples").iterdir():
        if folder.is_dir():
            assert f"(../examples/{folder.name}/" in page


# --- reference --------------------------------------------------------------------------------------------------------


def test_the_reference_is_what_the_docstrings_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "build_reference.py"), "--print"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (DOCS / "reference.md").read_text(), "run `make docs`"
