"""SQLAlchemy's own compliance suite for dialects, on ours and, beside it, on the dialect that ours stands on.

What fails on ours fails on theirs too, and for a reason that is listed here.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import sqlalchemy

from lambda_pool.testing import MariaDbServer, PostgresServer

_CONFTEST = """
import pytest

pytest.register_assert_rewrite("sqlalchemy.testing.assertions")
from sqlalchemy.testing.plugin.pytestplugin import *
"""
_CONFIG = """
[sqla_testing]
requirement_cls = sqlalchemy.testing.requirements:SuiteRequirements
profile_file = profiles.txt

[tool:pytest]
python_files = test_suite.py
"""

# Test class and test, as patterns; the suite's requirements are those of no database in particular.
_FAILS: dict[str, dict[str, str]] = {
    "postgresql": {
        r"ComponentReflectionTest::test_get_multi_": "the temporary table of its set-up is seen by the whole class",
        r"ComponentReflectionTest::test_get_pk_constraint": "it expects to be skipped, and passes",
        r"ComponentReflectionTest::test_(multi_)?get_table_options": "PostgreSQL has such options",
        r"ComponentReflectionTest::test_get_view_names": "it looks for views, and made none",
        r"DistinctOnTest::test_distinct_on": "it expects the warning that other databases get",
        r"QuotedNameArgumentTest::test_get_table_options": "PostgreSQL has such options",
    },
    "mysql": {
        r"ComponentReflectionTest::test_get_(multi_)?(indexes|unique_constraints)": "MySQL has an index for each key",
        r"ComponentReflectionTest::test_(multi_)?get_table_options": "MySQL has such options",
        r"ComponentReflectionTest::test_get_view_names": "it looks for views, and made none",
        r"(Date|DateTime|DateTimeCoercedToDateTime)Test::test_select_direct": "MySQL answers a bare literal as text",
        r"(DateTime|Time)MicrosecondsTest::test_": "MySQL keeps microseconds only where it is told to",
        r"FetchLimitOffsetTest::test_\w*expr_": "MySQL takes no expression in LIMIT and OFFSET",
        r"NumericTest::test_float_custom_scale": "a FLOAT of MySQL's is a single one",
        r"QuotedNameArgumentTest::test_get_table_options": "MySQL has such options",
        r"StringTest::test_nolength_string": "MySQL's VARCHAR needs a length",
        r"TimeTest::test_select_direct": "MySQL answers a bare literal as text",
    },
}


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A server as the suite wants it: with a second schema, and two-phase transactions."""
    postgres = request.param == "postgresql"
    made: Any = PostgresServer(extra_config=["max_prepared_transactions = 10"]) if postgres else MariaDbServer()
    with made:
        made.execute("create schema test_schema")
        yield made


def run(folder: Path, url: sqlalchemy.URL) -> dict[str, str]:
    """Run the suite. Out: what became of each test, by class and name."""
    folder.mkdir()
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "setup.cfg").write_text(_CONFIG)
    (folder / "test_suite.py").write_text("from sqlalchemy.testing.suite import *\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:warnings", "--tb=line"]
    command += ["--dburi", url.render_as_string(hide_password=False), "--junitxml", "results.xml"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LAMBDA_POOL_MAX_SIZE": "20"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert (folder / "results.xml").exists(), done.stdout[-3000:] + done.stderr[-3000:]
    found = {}
    for case in ElementTree.parse(folder / "results.xml").iter("testcase"):
        suite = re.sub(r"_(postgresql|mysql|mariadb)\+.*", "", case.get("classname", "").rpartition(".")[2])
        tags = {each.tag for each in case}
        outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        found[f"{suite}::{case.get('name')}"] = outcome
    return found


@pytest.mark.slow("runs 1,500 tests of SQLAlchemy's four times over")
@pytest.mark.timeout(3200)
def test_the_dialect_passes_what_the_one_below_it_passes(server: Any, tmp_path: Path) -> None:
    url = sqlalchemy.make_url(server.url())
    engine = url.get_backend_name()
    ours = run(tmp_path / "ours", url.set(drivername=f"{engine}+lambda_pool"))
    driver, query = ("psycopg", url.query) if engine == "postgresql" else ("pymysql", {"ssl_ca": str(server.ca_path)})
    theirs = run(tmp_path / "theirs", url.set(drivername=f"{engine}+{driver}", query=query))
    assert len(ours) > 1000
    assert {name: (ours.get(name), theirs[name]) for name in theirs if ours.get(name) != theirs[name]} == {}
    failed = [name for name, outcome in ours.items() if outcome == "failed"]
    assert [name for name in failed if not any(re.match(reason, name) for reason in _FAILS[engine])] == []
    assert [reason for reason in _FAILS[engine] if not any(re.match(reason, name) for name in failed)] == []
