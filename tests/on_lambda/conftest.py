"""A small function on lambda_pool, on the genuine runtime, against real servers."""

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lambda_pool.testing import LambdaRuntime
from tests.on_lambda.databases import Database, genuine_mysql, open_servers
from tests.support.namespace import Namespace
from tests.support.runtime_api import ROOT

FUNCTION = """
import os, time
import lambda_pool

POOL = lambda_pool.Pool(os.environ["URL"], **eval(os.environ.get("OPTIONS", "{}")))

@POOL.handler
def handler(event, context, conn):
    event = event or {}
    if event.get("sleep"):
        time.sleep(event["sleep"])
    with conn.cursor() as cursor:
        cursor.execute(event.get("sql", "select 1"))
        rows = list(cursor.fetchall()) if cursor.description else []
        if event.get("then"):
            cursor.execute(event["then"])
    if event.get("sleep_after"):
        time.sleep(event["sleep_after"])
    if event.get("fail"):
        raise RuntimeError("half way")
    backend = conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id()
    return {"rows": rows, "backend": backend, "stats": {n: getattr(POOL.stats(), n) for n in POOL.stats().__slots__}}
"""

Start = Callable[..., LambdaRuntime]


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    """A separate network for functions, joined to the servers of `databases`."""
    with Namespace() as made:
        yield made


@pytest.fixture(scope="session")
def databases(namespace: Namespace) -> Iterator[dict[str, Database]]:
    """One server of each engine."""
    postgres, mariadb = open_servers(namespace)
    with postgres, mariadb:
        found = {"postgresql": Database(postgres), "mysql": Database(mariadb)}
        yield found
        for database in found.values():
            database.close()


@pytest.fixture(scope="session")
def genuine_database(namespace: Namespace) -> Iterator[Database]:
    """MySQL itself, only for the tests that ask for it."""
    with genuine_mysql(namespace) as mysql:
        database = Database(mysql)
        yield database
        database.close()


@pytest.fixture(params=["postgresql", "mysql", "genuine_mysql"])
def database(request: pytest.FixtureRequest) -> Database:
    """Each kind of server in turn."""
    if request.param == "genuine_mysql":
        found: Database = request.getfixturevalue("genuine_database")
    else:
        found = request.getfixturevalue("databases")[request.param]
    return found


@pytest.fixture
def start(tmp_path: Path, lambda_rie: Path) -> Iterator[Start]:
    """start(url, options={}, code=…, **arguments of LambdaRuntime): an environment that ends with the test."""
    started: list[LambdaRuntime] = []

    def begin(
        url: str,
        *,
        options: dict[str, Any] | None = None,
        code: str = FUNCTION,
        env: dict[str, str] | None = None,
        **arguments: Any,
    ) -> LambdaRuntime:
        folder = tmp_path / f"function{len(started)}"
        folder.mkdir()
        (folder / "function.py").write_text(textwrap.dedent(code))
        environment = {"URL": url, "OPTIONS": repr(options or {}), "PYTHONPATH": str(ROOT), **(env or {})}
        # Lambda's runtime for Python 3.11 waits for its next event on the main thread. No Python signal handler
        # can run meanwhile; from 3.12 on it waits on another, and that is what is tested on every interpreter.
        if "python3.11" in os.path.realpath(arguments.get("python", sys.executable)):
            environment.setdefault("AWS_EXECUTION_ENV", "AWS_Lambda_python3.12")
        runtime = LambdaRuntime("function.handler", code_dir=folder, env=environment, **arguments)
        started.append(runtime)
        runtime.start()
        return runtime

    yield begin
    for runtime in started:
        runtime.close()
