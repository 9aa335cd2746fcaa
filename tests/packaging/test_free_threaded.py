"""A Python without the GIL: no promise rests on where CPython happens to switch threads."""

import subprocess

import pytest

from .environments import NEED_INSTRUMENTORS, ROOT, run_tests

# cryptography has no wheel for it.
NEED_CRYPTOGRAPHY = (
    "tests/contract/test_destination.py",
    "tests/contract/test_genuine_mysql.py::test_each_way_to_let_a_user_in",
)
# greenlet has no wheel for it.
NEED_GREENLET = (
    "tests/unit/core/test_api.py::test_what_no_connect_could_do_is_refused_when_the_pool_is_made",
    "tests/unit/core/test_arguments.py::test_a_cursor_of_psycopgs_other_half_is_refused_at_pool",
)
# PostgreSQL 18 is a package of another environment.
NEEDS_OTHER_SERVERS = ("tests/contract/test_postgres_versions.py",)
# OpenTelemetry's SDK has a dependency that is not made for it.
TURN_THE_GIL_ON = ("tests/contract/test_traces.py",)
PYTHON = ROOT / ".venv-free-threaded" / "bin" / "python"

pytestmark = [
    pytest.mark.slow("needs a Python that is built for it, and runs whole suites there"),
    pytest.mark.timeout(1800),
]


def test_it_has_no_gil() -> None:
    assert PYTHON.exists(), f"{PYTHON} is missing: `make setup-all` makes it"
    code = "import psycopg, pymysql, lambda_pool.testing, sys; print(sys._is_gil_enabled())"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("suite", ["tests/unit/core", "tests/contract"])
def test_the_suites_pass(suite: str) -> None:
    missing = (*NEED_INSTRUMENTORS, *NEED_CRYPTOGRAPHY, *NEED_GREENLET, *NEEDS_OTHER_SERVERS)
    run_tests(PYTHON, suite, without=(*missing, *TURN_THE_GIL_ON))
