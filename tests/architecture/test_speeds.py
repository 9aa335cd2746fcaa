"""Slow tests say why, tests that can be smaller are, and seeded tests can be tried again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lambda_pool.testing import MySqlServer
from lambda_pool.testing.server import ServerError
from tests import conftest
from tests.support import speed

ROOT = Path(__file__).parents[2]
HEAD = "from tests.conftest import pytest_collection_modifyitems, pytest_report_header, pytest_terminal_summary"
MARKED = "import pytest\n\n@pytest.mark.slow{reason}\ndef test_it() -> None: ...\n"


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize(
    ("reason", "taken"), [('("it waits")', True), ("", False), ("()", False), ('("")', False), ("(1)", False)]
)
def test_a_slow_test_has_a_reason(pytester: pytest.Pytester, reason: str, taken: bool) -> None:
    pytester.makeconftest(HEAD)
    pytester.makepyfile(MARKED.format(reason=reason))
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-o", "markers=slow")
    assert done.ret == (pytest.ExitCode.OK if taken else pytest.ExitCode.USAGE_ERROR)
    if not taken:
        done.stderr.fnmatch_lines(["*test_it is slow: say why*"])


SAMPLED = """
import pytest

@pytest.mark.sampled(2, "so few are enough")
@pytest.mark.parametrize("case", range(20))
def test_it(case: int) -> None: ...

def test_another() -> None: ...
"""


def test_a_sample_is_left_to_the_quick_run_and_the_full_one_has_all(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(HEAD)
    pytester.makepyfile(SAMPLED)
    options = ["-p", "no:cacheprovider", "-o", "markers=slow\nsampled"]
    pytester.runpytest_inprocess(*options).assert_outcomes(passed=21)
    for _ in range(2):
        done = pytester.runpytest_inprocess(*options, "-m", "not slow")
        done.assert_outcomes(**({"passed": 21} if speed.EVERY_CASE else {"passed": 3, "deselected": 18}))


def test_a_long_test_is_tried_on_its_share_of_the_days(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    for seed in range(12):
        monkeypatch.setattr(conftest, "SEED", seed)
        monkeypatch.setattr(conftest, "EVERY_CASE", False)
        pytester.makeconftest(HEAD)
        pytester.makepyfile(SAMPLED.replace("sampled(2", "sampled(1 / 3"))
        done = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-o", "markers=slow\nsampled", "-m", "not slow")
        tried.append(done.parseoutcomes()["passed"] - 1)
    assert set(tried) == {0, 1}


def test_a_sample_says_how_many_and_why(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(HEAD)
    pytester.makepyfile(SAMPLED.replace('2, "so few are enough"', "2"))
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-o", "markers=slow\nsampled")
    done.stderr.fnmatch_lines(["*test_it is sampled: *"])


ON_MYSQL = """
import pytest

@pytest.fixture
def genuine_mysql() -> None: ...

@pytest.mark.parametrize("server", ["mariadb", "genuine_mysql"])
@pytest.mark.parametrize("case", range(10))
def test_on_both(server: str, case: int) -> None: ...

def test_on_mysql_alone(genuine_mysql: None) -> None: ...
"""


@pytest.mark.parametrize("full", [False, True])
def test_a_quick_run_tries_one_case_of_a_suite_on_genuine_mysql(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    monkeypatch.setattr(conftest, "FULL", full)
    pytester.makeconftest(HEAD)
    pytester.makepyfile(ON_MYSQL)
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-o", "markers=slow", "-m", "not slow")
    done.assert_outcomes(passed=21 if full else 12, deselected=0 if full else 9)


@pytest.mark.parametrize(("full", "ci"), [(False, ""), (True, ""), (False, "true")])
def test_only_a_quick_run_by_hand_does_without_mysql_and_says_so(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, full: bool, ci: str
) -> None:
    def missing() -> Path | None:
        raise ServerError("it is not here")

    monkeypatch.setattr(MySqlServer, "find_root", staticmethod(missing))
    monkeypatch.setattr(conftest, "FULL", full)
    monkeypatch.setenv("CI", ci)
    pytester.makeconftest(HEAD)
    pytester.makepyfile(ON_MYSQL)
    done = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-o", "markers=slow")
    done.assert_outcomes(passed=21 if full or ci else 10)
    said = [line for line in done.outlines if line.startswith("genuine MySQL")]
    assert said == ([] if full or ci else ["genuine MySQL: none of its tests ran. it is not here"])


def test_every_number_of_examples_depends_on_the_speed() -> None:
    fixed = [
        f"{path.relative_to(ROOT)}: {found}"
        for path in ROOT.glob("tests/**/*.py")
        for found in re.findall(r"max_examples=\d\w*", path.read_text())
    ]
    assert fixed == []


def test_a_quick_run_tries_fewer_examples() -> None:
    assert {speed.examples(many) for many in (50, 10_000)} == ({50, 10_000} if speed.FULL else {50, 100})


def test_a_seed_is_shown_and_decides() -> None:
    code = "from tests.conftest import pytest_report_header as head; from tests.support.speed import seeded; "
    said = [
        subprocess.run(
            [sys.executable, "-c", code + "print(head(), seeded().random())"],
            cwd=ROOT,
            env={**os.environ, "TEST_SEED": seed, "PYTEST_CURRENT_TEST": "one"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("7", "7", "8")
    ]
    assert "TEST_SEED=7" in said[0]
    assert said[0] == said[1] != said[2]
    assert said[0].split()[-1] != said[2].split()[-1]
