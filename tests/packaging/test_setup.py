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


def fetch(bare: Path, sources: Path, part: str, **variables: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [bare / "scripts" / "setup.sh", part],
        env={"PATH": os.environ["PATH"], "APT_SOURCES": str(sources), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


def test_without_a_mirror_mysql_is_done_without_by_hand_and_not_in_ci(bare: Path, tmp_path: Path) -> None:
    why = (
        f"setup: genuine MySQL could not be fetched: no mirror of Debian or Ubuntu in {tmp_path};"
        " put MySQL's own mysqld on PATH, beside MariaDB"
    )
    goes_on = "setup: the tests go on without genuine MySQL, and say so"
    assert fetch(bare, tmp_path, "mysql-if-possible") == (0, [why, goes_on])
    assert fetch(bare, tmp_path, "mysql-if-possible", CI="true") == (1, [why])
    assert fetch(bare, tmp_path, "mysql") == (1, [why])


@pytest.mark.slow("apt-get tries a mirror several times")
@pytest.mark.parametrize("system", ["debian", "ubuntu"])
def test_a_mirror_that_does_not_answer_is_named(bare: Path, tmp_path: Path, system: str) -> None:
    (tmp_path / "sources.list").write_text(f"deb http://127.0.0.1:9/{system} some main # security\n")
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "system.sources").write_text(
        f"Types: deb\n# URIs: http://127.0.0.1:7/{system}/\nURIs: http://127.0.0.1:9/{system}/\nSuites: some\n"
    )
    code, [said] = fetch(bare, tmp_path, "pgbouncer")
    assert code == 1
    assert said.startswith(f"setup: the newest PgBouncer could not be fetched from http://127.0.0.1:9/{system}/ (E: ")
    assert said.endswith("try again, or leave out tests/contract/pooled/test_newest_pgbouncer.py")
