"""The mutants of the safety rules: each still applies, a few are killed here, and a survivor would be reported.

`make mutants` runs them all.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "mutants.py"
QUICK = [
    "commit-a-failed-block",
    "replay-after-commit-was-sent",
    "drop-the-generation-check",
    "a-secret-in-a-repr",
]


def run(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=250, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow("collects every test twice; who changes a mutant runs it with --check")
def test_each_applies_and_its_tests_exist_and_the_page_shows_it() -> None:
    listed = [mutant["name"] for mutant in tomllib.loads(SCRIPT.with_suffix(".toml").read_text())["mutant"]]
    assert len(listed) == len(set(listed)) >= 30
    assert run("--check") == (0, f"all {len(listed)} mutants apply\n")


@pytest.mark.sampled(1 / 3, "22 s")
def test_the_quickest_are_killed(lambda_rie: Path) -> None:
    code, output = run(*QUICK)
    assert code == 0, output
    assert f"{len(QUICK)} of {len(QUICK)} mutants were killed" in output


MUTANT = """
[[mutant]]
name = "{name}"
rule = "none"
file = "lambda_pool/backoff.py"
old = '_CAP = 1.0'
new = '{new}'
tests = ["tests/unit/core/test_invocation.py::test_a_shorter_wait_stays_as_it_is"]
"""


@pytest.mark.sampled(1 / 3, "11 s")
def test_those_that_nothing_notices_are_told(tmp_path: Path, lambda_rie: Path) -> None:
    """The script is not blind: a change without effect survives, and one that cannot even be imported is not a kill."""
    news = {"harmless": "_CAP = 1.0  # as before", "nameless": "_CAP = nothing", "unfinished": "_CAP = ("}
    file = tmp_path / "mutants.toml"
    file.write_text("".join(MUTANT.format(name=name, new=new) for name, new in news.items()))
    code, output = run("--from", file)
    assert code == 1
    assert "\nSURVIVED  harmless" in output
    assert "\nbroken    nameless" in output
    assert "\nbroken    unfinished" in output
    assert "0 of 3 mutants were killed" in output


@pytest.mark.sampled(1 / 3, "5 s")
def test_one_whose_text_is_not_there_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mutants.toml"
    file.write_text(MUTANT.format(name="lost", new="").replace("_CAP = 1.0", "_CAP = 2.0"))
    code, output = run("--from", file, "--check")
    assert code == 1
    assert "its text is 0 times in lambda_pool/backoff.py" in output


def test_a_test_that_is_not_there_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mutants.toml"
    file.write_text(MUTANT.format(name="untested", new="_CAP = 2.0").replace("as_it_is", "as_it_was"))
    code, output = run("--from", file, "--check")
    assert code == 1
    assert "some of the tests do not exist" in output


@pytest.mark.sampled(1 / 3, "8 s")
def test_one_whose_tests_are_slow_says_why(tmp_path: Path) -> None:
    slow = tmp_path / "test_slow.py"
    slow.write_text('import pytest\n\n@pytest.mark.slow("why")\ndef test_it() -> None: ...\n')
    file = tmp_path / "mutants.toml"
    test = "tests/unit/core/test_invocation.py::test_a_shorter_wait_stays_as_it_is"
    text = MUTANT.format(name="late", new="_CAP = 2.0").replace(test, str(slow))
    file.write_text(text)
    code, output = run("--from", file, "--check")
    assert code == 1
    assert "`make test` leaves some of the tests out" in output
    file.write_text(text + 'slow = "it takes long"\n')
    assert run("--from", file, "--check") == (0, "all 1 mutants apply\n")


@pytest.mark.sampled(1 / 3, "7 s")
def test_tests_that_fail_anyway_are_no_kill(tmp_path: Path, lambda_rie: Path) -> None:
    failing = tmp_path / "test_failing.py"
    failing.write_text("def test_it() -> None:\n    assert False\n")
    file = tmp_path / "mutants.toml"
    test = "tests/unit/core/test_invocation.py::test_a_shorter_wait_stays_as_it_is"
    file.write_text(MUTANT.format(name="unproven", new="_CAP = 2.0").replace(test, str(failing)))
    code, output = run("--from", file)
    assert code == 1
    assert "the tests fail without any mutant" in output
