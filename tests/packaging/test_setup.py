"""The set-up says in one line what it cannot do, and then does nothing more."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .test_dist import ROOT

TOOLS = ["bash", "dirname", "env", "id", "mkdir", "rm", "touch"]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with the set-up, on a machine that has a shell and no Python."""
    (tmp_path / "bin").mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None, name
        (tmp_path / "bin" / name).symlink_to(found)
    house = tmp_path / "a house"
    (house / "scripts").mkdir(parents=True)
    for name in ("scripts/setup.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, house / name)
    return house


def set_up(house: Path, part: str, **variables: str) -> str:
    done = subprocess.run(
        [house / "scripts" / "setup.sh", part],
        env={"PATH": str(house.parent / "bin"), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert not [path.name for path in house.iterdir() if path.name.startswith(".")], "it went on"
    return done.stderr


@pytest.mark.parametrize("part", ["environment", "demo", "bench", "tools", "sam"])
def test_without_python_it_ends(bare: Path, part: str) -> None:
    said = set_up(bare, part)
    assert said == "setup: no Python 3.11 or newer was found: install one, or name it with PYTHON=/path/to/python3\n"


def test_a_python_that_does_not_do_is_named(bare: Path) -> None:
    said = set_up(bare, "demo", PYTHON=os.devnull)
    assert said == "setup: PYTHON=/dev/null is no Python 3.11 or newer that runs: correct or unset it\n"
