"""The package's types, as mypy and pyright see them from outside. Both read the same examples."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).with_name("examples.py")
BIN = Path(sys.executable).parent
pytestmark = pytest.mark.slow("type checkers read the whole package; make lint does so too, from inside")


def pyright(*arguments: str, cwd: Path) -> dict[str, Any]:
    # The first `python` on PATH is the one whose packages it reads.
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [str(BIN / "basedpyright"), *arguments, "--outputjson"],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def read_by_pyright(folder: Path, text: str) -> list[str]:
    (folder / "read.py").write_text(text)
    settings = {
        "typeCheckingMode": "standard",
        "reportUnnecessaryTypeIgnoreComment": True,
        "reportMissingModuleSource": False,
        "reportMissingTypeStubs": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    found = pyright("read.py", cwd=folder)["generalDiagnostics"]
    assert all(each["range"] for each in found)
    return [f"{each['range']['start']['line'] + 1}: {each['message']}" for each in found if each["severity"] == "error"]


def read_by_mypy(folder: Path, text: str) -> list[str]:
    (folder / "read.py").write_text(text)
    command = [str(BIN / "mypy"), "--strict", "--config-file=", f"--cache-dir={folder / 'cache'}", "read.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


@pytest.mark.parametrize("read", [read_by_mypy, read_by_pyright])
def test_the_examples_are_what_they_say(read: Any, tmp_path: Path) -> None:
    assert read(tmp_path, EXAMPLES.read_text()) == []


@pytest.mark.parametrize("read", [read_by_mypy, read_by_pyright])
def test_every_mistake_among_the_examples_is_seen(read: Any, tmp_path: Path) -> None:
    text = EXAMPLES.read_text()
    mistakes = [number for number, line in enumerate(text.splitlines(), 1) if "# type: ignore" in line]
    assert len(mistakes) > 10
    found = read(tmp_path, re.sub(r"  # type: ignore\[.*\]", "", text))
    assert {int(re.findall(r"(?:read\.py:)?(\d+)", line)[0]) for line in found} == set(mistakes)


def test_every_public_type_is_complete(tmp_path: Path) -> None:
    answer = pyright("--verifytypes", "lambda_pool", "--ignoreexternal", cwd=tmp_path)["typeCompleteness"]
    assert answer["symbols"], "the package was not found"
    wrong = [
        f"{symbol['name']}: {each['message']}"
        for symbol in answer["symbols"]
        for each in symbol["diagnostics"]
        if each["severity"] == "error"
    ]
    assert wrong == []
    assert answer["completenessScore"] == 1
