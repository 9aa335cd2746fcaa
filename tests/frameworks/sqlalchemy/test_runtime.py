"""A SQLAlchemy function on the genuine runtime: one backend, nothing extra, and no error but the handler's own."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from lambda_pool.testing import MariaDbServer, PostgresServer
from tests.on_lambda.conftest import Start, start  # noqa: F401 - a fixture
from tests.on_lambda.test_warm import statements_of
from tests.support.speed import FULL

pytestmark = pytest.mark.runtime

INVOCATIONS = 200 if FULL else 50

FUNCTION = """
import os, time
import lambda_pool
from lambda_pool.sqlalchemy import create_engine, handler as with_session
from sqlalchemy import text

POOL = lambda_pool.Pool(os.environ["URL"], **eval(os.environ.get("OPTIONS", "{}")))
ENGINE = create_engine(POOL)

@with_session(ENGINE)
def handler(event, context, session):
    event = event or {}
    driver = session.connection().connection.driver_connection
    backend = driver.info.backend_pid if hasattr(driver, "info") else driver.thread_id()
    if event.get("insert"):
        session.execute(text("insert into sa_runtime values (:id)"), {"id": event["insert"]})
    rows = [list(row) for row in session.execute(text(event.get("sql", "select id from sa_runtime where id = 0")))]
    if event.get("fail"):
        raise RuntimeError("half way")
    return {"rows": rows, "backend": backend, "stats": {n: getattr(POOL.stats(), n) for n in POOL.stats().__slots__}}
"""


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A server of the tests' own, with an empty table: it is restarted."""
    made: Any = (PostgresServer if request.param == "postgresql" else MariaDbServer)(log_statements=True)
    with made:
        made.execute("create table sa_runtime (id int primary key)")
        yield made


def kill(server: Any, backend: int) -> None:
    server.execute(
        f"select pg_terminate_backend({backend}, 5000)" if isinstance(server, PostgresServer) else f"kill {backend}"
    )


@pytest.mark.sampled(1, "200 invocations, faults and restarts")
def test_a_long_day(start: Start, server: Any, any_python: str) -> None:  # noqa: F811
    """Cold, warm, failing, freeze + kill + thaw, restart, deadline, shutdown."""
    engine = "postgresql" if isinstance(server, PostgresServer) else "mysql"
    runtime = start(server.url(), code=FUNCTION, python=any_python, options={"cancel_before_deadline": 0.5}, timeout=3)
    backends = set()
    for number in range(1, INVOCATIONS + 1):
        answer = runtime.invoke({"insert": number})
        assert answer.error is None, answer.error
        backends.add(answer.payload["backend"])
        if number == 1:
            time.sleep(0.3)
            cold = statements_of(engine, server, answer.payload["backend"], server.log)
    assert len(backends) == 1
    assert answer.payload["stats"]["opened"] == 1
    assert answer.payload["stats"]["pings"] == 0
    time.sleep(0.3)
    warm = statements_of(engine, server, backends.pop(), server.log) - cold
    reads = {"select id from sa_runtime where id = 0": INVOCATIONS - 1, "commit": INVOCATIONS - 1}
    assert {text: count for text, count in warm.items() if not text.startswith("insert")} == reads | (
        {"begin": INVOCATIONS - 1} if engine == "postgresql" else {}
    )

    for number in range(3):
        failed = runtime.invoke({"insert": 100_000 + number, "fail": True})
        assert failed.error is not None
        assert failed.error["errorMessage"] == "half way"
    for number in range(3):
        answer = runtime.invoke({"insert": 1_000 + number})
        assert answer.error is None, answer.error
        runtime.freeze()
        kill(server, answer.payload["backend"])
        runtime.thaw()
    runtime.freeze()
    server.restart()
    runtime.thaw()
    answer = runtime.invoke({"insert": 2_000})
    assert answer.error is None, answer.error

    sleep = "select pg_sleep(20)" if engine == "postgresql" else "select sleep(20) from dual"
    late = runtime.invoke({"insert": 100_010, "sql": sleep})
    assert late.error is not None
    assert late.error["errorType"] == "DeadlineExceeded", late.log
    answer = runtime.invoke({"insert": 2_001})
    assert answer.error is None, answer.error
    saved = [row[0] for row in server.execute("select id from sa_runtime order by id")]
    assert saved == [*range(1, INVOCATIONS + 1), 1_000, 1_001, 1_002, 2_000, 2_001]

    ended = runtime.shutdown()
    assert not ended.timed_out
    until = time.monotonic() + 5
    alive = (
        f"select 1 from pg_stat_activity where pid = {answer.payload['backend']}"
        if engine == "postgresql"
        else f"select 1 from information_schema.processlist where id = {answer.payload['backend']}"
    )
    while server.execute(alive):
        assert time.monotonic() < until, "the connection was not closed at shutdown"
        time.sleep(0.05)
