"""Django's own test suite, on our engines: what fails is listed here, each with its reason.

`scripts/setup.sh django` fetches it: only Django's source distribution has it. It runs in a process of its own.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lambda_pool.testing import MariaDbServer, PostgresServer
from tests.support.runtime_api import ROOT

SUITE = ROOT / ".tools" / "django"
LABELS = (
    *("backends", "transactions", "transaction_hooks", "queries", "select_for_update", "get_or_create"),
    *("bulk_create", "aggregation"),
)

_KEEPS = "it wants Django to keep a connection and to check it; the pool does both, and close() gives back"
_OWN_POOL = "it asks for Django's own pool, which is refused"
_ENDED = (
    "it wants two threads that have ended to hold a connection each; here it is given back at the end of the thread"
)
_TOLD = "it catches an error inside of atomic(), and wants the rollback at the end to be silent; here that raises"
EXPECTED = {
    "both": {
        "backends.base.test_base.ConnectionHealthChecksTests.test_health_checks_disabled": _KEEPS,
        "backends.base.test_base.ConnectionHealthChecksTests.test_health_checks_enabled": _KEEPS,
        "backends.base.test_base.ConnectionHealthChecksTests.test_health_checks_enabled_errors_occurred": _KEEPS,
        "backends.base.test_base.ConnectionHealthChecksTests.test_set_autocommit_health_checks_enabled": _KEEPS,
        "backends.tests.ThreadTests.test_default_connection_thread_local": _ENDED,
        "transaction_hooks.tests.TestConnectionOnCommit.test_no_savepoints_atomic_merged_with_outer": _TOLD,
        "transactions.tests.AtomicErrorsTests.test_atomic_prevents_queries_in_broken_transaction": _TOLD,
        "transactions.tests.AtomicInsideTransactionTests.test_merged_commit_rollback": _TOLD,
        "transactions.tests.AtomicMiscTests.test_mark_for_rollback_on_error_in_transaction": _TOLD,
        "transactions.tests.AtomicTests.test_merged_commit_rollback": _TOLD,
        "transactions.tests.AtomicWithoutAutocommitTests.test_merged_commit_rollback": _TOLD,
    },
    "postgresql": {
        "backends.postgresql.tests.Tests.test_connect_pool": _OWN_POOL,
        "backends.postgresql.tests.Tests.test_connect_pool_set_to_true": _OWN_POOL,
        "backends.postgresql.tests.Tests.test_connect_pool_with_timezone": _OWN_POOL,
        "backends.postgresql.tests.Tests.test_pooling_health_checks": _OWN_POOL,
        "backends.postgresql.tests.Tests.test_pooling_not_support_persistent_connections": _OWN_POOL,
        "transactions.tests.AtomicInsideTransactionTests.test_failure_on_exit_transaction": _TOLD,
        "transactions.tests.AtomicTests.test_failure_on_exit_transaction": _TOLD,
        "transactions.tests.AtomicWithoutAutocommitTests.test_failure_on_exit_transaction": _TOLD,
    },
    "mysql": {
        "backends.mysql.tests.IsolationLevelTests.test_auto_is_null_auto_config": "it wants the set-up to be sent "
        "again, which is done once for each physical connection",
        "backends.mysql.test_schema.SchemaEditorTests.test_quote_value": "it imports MySQLdb, which is "
        "not installed; on Django's own backend with PyMySQL it fails too",
    },
}

SETTINGS = """
ENTRY = {entry!r}
DATABASES = {{"default": {{**ENTRY, "NAME": "suite"}}, "other": {{**ENTRY, "NAME": "suite_other"}}}}
SECRET_KEY = "of the suite"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
"""


@pytest.mark.slow("some 1,200 tests of Django's on each engine: one to two minutes each")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_djangos_own_suite(engine: str, tmp_path: Path) -> None:
    assert (SUITE / "tests" / "runtests.py").exists(), "run scripts/setup.sh django"
    server: Any = PostgresServer() if engine == "postgresql" else MariaDbServer()
    with server:
        options = {"sslmode": "verify-full", "sslrootcert": str(server.ca_path)}
        entry = {
            "ENGINE": f"lambda_pool.django.{engine}",
            "HOST": "localhost",
            "PORT": server.port,
            "USER": server.user,
            "PASSWORD": server.password,
            "OPTIONS": options,
            # A server without a configuration cannot store all of its texts in its default character set.
            "TEST": {"CHARSET": "utf8mb4"} if engine == "mysql" else {},
        }
        (tmp_path / "suite_settings.py").write_text(SETTINGS.format(entry=entry))
        for name in ("suite", "suite_other"):
            server.execute(f"create database {name}")
        done = subprocess.run(
            [sys.executable, "runtests.py", "--settings=suite_settings", "--parallel=1", "--noinput", *LABELS],
            cwd=SUITE / "tests",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT, SUITE)))},
            capture_output=True,
            text=True,
            timeout=1100,
            check=False,
        )
    ran = re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
    assert ran is not None, done.stdout + done.stderr
    assert int(ran[1]) > 1000
    failed = set(re.findall(r"^(?:ERROR|FAIL|UNEXPECTED SUCCESS): \w+ \(([\w.]+)\)", done.stderr, re.MULTILINE))
    wanted = {*EXPECTED["both"], *EXPECTED[engine]}
    assert (failed - wanted, wanted - failed) == (set(), set()), done.stderr
