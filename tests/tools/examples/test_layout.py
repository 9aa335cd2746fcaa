"""Every example is a complete project, and `make example` runs it. Each has its own tests in its folder."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.tools.deploy.conftest import run_sam
from tests.tools.docs.blocks import blocks
from tests.tools.docs.commands import check, lines

from .conftest import EXAMPLES, ROOT
from .layout import missing

FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))


def test_each_example_is_a_project(script: ModuleType) -> None:
    assert len(FOLDERS) >= 15
    assert [text for folder in FOLDERS for text in missing(folder, script)] == []
    assert script.names() == [folder.name for folder in FOLDERS]


def test_an_empty_folder_lacks_everything(script: ModuleType, tmp_path: Path) -> None:
    said = "\n".join(missing(tmp_path, script))
    for name in ("app.py", "schema.sql", "README.md", f"tests/test_{tmp_path.name}.py", "template.yaml"):
        assert f"{name} is missing" in said


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("app.py", "def handler", "def handle", "handler app.handler, which does not exist"),
        ("app.py", '"""The whole', '_ = """The whole', "give it a docstring"),
        ("README.md", "make example NAME=three_lines", "make example", "does not say how to run it"),
        ("README.md", "\n", "\n\n", "at most 15"),
        ("template.yaml", "AllowedPattern", "ConstraintDescription", "no variable of Function refers"),
        ("template.yaml", "  Function:\n    Type", "  Other:\n    Type", "for the function Function, which"),
        ("template.yaml", "Resources:", "Resources: [", "cannot be read: ParserError"),
        ("events/1-Function-now.json", "{", "", "is no JSON"),
        ("tests/test_three_lines.py", "def test_", "def _", "has no test"),
    ],
)
def test_what_is_wrong_is_said(
    script: ModuleType, tmp_path: Path, file: str, old: str, new: str, complaint: str
) -> None:
    folder = tmp_path / "three_lines"
    shutil.copytree(EXAMPLES / "three_lines", folder)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    assert complaint in "\n".join(missing(folder, script))


def test_the_commands_in_their_readmes_are_understood() -> None:
    for folder in FOLDERS:
        words = [words for block in blocks(folder / "README.md") for words in lines(block.code)]
        assert words.pop() == ["sam", "deploy", "--guided", "--capabilities", "CAPABILITY_IAM"]
        assert words == [["make", "example", f"NAME={folder.name}"], [".venv/bin/pytest", f"examples/{folder.name}"]]
        for each in words:
            check(each)


@pytest.mark.slow("needs the SAM CLI's environment, and lints sixteen templates")
def test_cfn_lint_has_nothing_to_say_about_their_templates() -> None:
    done = run_sam("cfn-lint", *(str(folder / "template.yaml") for folder in FOLDERS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_their_templates_are_for_the_layers_python() -> None:
    [version] = set(re.findall(r"Runtime: (python3\.\d+)", (ROOT / "template.yaml").read_text()))
    for folder in FOLDERS:
        assert set(re.findall(r"python3\.\d+", (folder / "template.yaml").read_text())) == {version}, folder.name


# --- make example -----------------------------------------------------------------------------------------------------


def run_example(*arguments: str, examples: Path = EXAMPLES) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from pathlib import Path; import run_example as r;"
        " r.EXAMPLES = Path(sys.argv.pop(1)); raise SystemExit(r.main())"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(examples), *arguments],
        cwd=ROOT / "scripts",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.sampled(1 / 3, "4 s")
@pytest.mark.runtime
def test_it_shows_what_it_does_in_80_columns(lambda_rie: Path) -> None:
    done = run_example("api_gateway")
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert re.findall(r"^send events/(\S+)", done.stdout, re.MULTILINE)[-1] == "4-Function-read.json"
    assert "not set here, because it needs AWS: LAMBDA_POOL_AUTH" in done.stdout
    assert done.stdout.endswith("\nAll is well.\n")


@pytest.mark.sampled(1 / 3, "5 s")
@pytest.mark.runtime
def test_an_event_that_goes_wrong_is_told(lambda_rie: Path, tmp_path: Path) -> None:
    folder = tmp_path / "three_lines"
    shutil.copytree(EXAMPLES / "three_lines", folder)
    (folder / "events" / "2-Function-that-fails.json").write_text(json.dumps({}))
    source = (folder / "app.py").read_text()
    (folder / "app.py").write_text(source.replace('"select now()"', '"select later()"'))
    done = run_example("three_lines", examples=tmp_path)
    assert done.returncode == 1
    assert "UndefinedFunction: function later() does not exist" in done.stdout
    assert done.stdout.endswith("\n2 of its events went wrong.\n")  # the first, and the first once more


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sqs_bach"], "There is no example 'sqs_bach'.\nDid you mean NAME=sqs_batch?\nThe examples:\n  api_gateway, "),
        ([""], "Say which example: make example NAME=three_lines\nThe examples:\n  api_gateway, "),
        (["../tests"], "There is no example '../tests'.\nThe examples:\n"),
        (
            ["three_lines", "--engine", "oracle"],
            "ENGINE=oracle is not an engine: use ENGINE=postgresql or ENGINE=mysql.\n",
        ),
    ],
)
def test_what_cannot_be_run_is_said(arguments: list[str], said: str) -> None:
    done = run_example(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert max(map(len, done.stderr.splitlines())) <= 80
