"""Other versions of what we depend on: the lowest that pyproject.toml allows, the newest, psycopg in pure Python."""

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from .environments import NEED_INSTRUMENTORS, lowest, make, requirements, run_tests

slow = pytest.mark.slow("installs an environment, and runs whole suites in it")
# The contract on both engines, and those suites that use the other extras.
SUITES = (
    "tests/contract",
    "tests/frameworks/aio",
    "tests/frameworks/sqlalchemy",
    "tests/unit/metrics",
    "tests/unit/auth",
    "tests/unit/endpoints",
    "tests/tools/testing",
)
# Older versions keep the place of a connection whose return is broken off as it begins.
NEED_SQLALCHEMY_2_0_55 = (
    "tests/frameworks/sqlalchemy/test_connections.py::test_an_alarm_on_the_way_back_costs_no_slot",
)


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_each_dependency_has_a_lowest_version(requirement: Requirement) -> None:
    assert re.fullmatch(r"[\w.-]+(\[\w+\])?==\d[\d.]*", lowest(requirement))


@slow
@pytest.mark.timeout(1800)
def test_on_the_lowest_versions(tmp_path: Path) -> None:
    python = make(tmp_path / "lowest", map(lowest, requirements()))
    run_tests(python, *SUITES, without=(*NEED_INSTRUMENTORS, *NEED_SQLALCHEMY_2_0_55))


@slow
@pytest.mark.timeout(1800)
def test_on_the_newest_versions(tmp_path: Path) -> None:
    """Pre-releases included."""
    run_tests(make(tmp_path / "newest", map(str, requirements()), "--pre", "--upgrade"), *SUITES)


@slow
@pytest.mark.timeout(1800)
def test_on_psycopg_in_pure_python() -> None:
    """Which uses the system's libpq."""
    run_tests(sys.executable, "tests/contract", PSYCOPG_IMPL="python")
