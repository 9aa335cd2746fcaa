"""A long day of one function on the genuine runtime, the same for every framework. There must be one backend, nothing
extra, and no error except the handler's own.

The function's event has some of `insert` (a number for the table `long_day`), `sql` (what it reads by) and `fail`. It
returns `rows`, `backend` and `stats`.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from lambda_pool.testing import MariaDbServer, PostgresServer
from tests.on_lambda.conftest import Start
from tests.on_lambda.test_warm import statements_of
from tests.support.speed import FULL
from tests.support.statements import QUESTIONS

INVOCATIONS = 200 if FULL else 50
READ = "select id from long_day where id = 0"
"""The statement that the function reads with if the event does not name one."""


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A server of the tests' own, with an empty table: the tests restart it."""
    made: Any = (PostgresServer if request.param == "postgresql" else MariaDbServer)(log_statements=True)
    with made:
        made.execute("create table long_day (id int primary key)")
        yield made


def kill(server: Any, backend: int) -> None:
    server.execute(
        f"select pg_terminate_backend({backend}, 5000)" if isinstance(server, PostgresServer) else f"kill {backend}"
    )


def in_transaction(server: Any) -> int:
    """Sessions that are idle in a transaction, except the one that asks."""
    if isinstance(server, PostgresServer):
        found = server.execute("select count(*) from pg_stat_activity where state like 'idle in transaction%'")
    else:
        found = server.execute(
            "select count(*) from information_schema.innodb_trx where trx_mysql_thread_id <> connection_id()"
        )
    return int(found[0][0])


def live_through(start: Start, server: Any, code: str, python: str) -> None:
    """Cold, warm, failing, freeze + kill + thaw, restart, deadline, shutdown."""
    engine = "postgresql" if isinstance(server, PostgresServer) else "mysql"
    options = {"cancel_before_deadline": 1.5}
    runtime = start(server.url(), code=code, python=python, options=options, timeout=6)
    backends = set()
    for number in range(1, INVOCATIONS + 1):
        answer = runtime.invoke({"insert": number})
        assert answer.error is None, answer.error
        backends.add(answer.payload["backend"])
        if number == 1:
            time.sleep(0.3)
            cold = statements_of(engine, server, answer.payload["backend"], server.log)
        if number % 10 == 0:
            runtime.freeze()
            assert in_transaction(server) == 0
            runtime.thaw()
    assert len(backends) == 1
    assert answer.payload["stats"]["opened"] == 1
    assert answer.payload["stats"]["pings"] == 0
    time.sleep(0.3)
    warm = statements_of(engine, server, backends.pop(), server.log) - cold
    reads = {READ: INVOCATIONS - 1, "commit": INVOCATIONS - 1}
    # The pool asks once in 30 s how crowded the server is, and a slow machine's day takes longer than that.
    own = {text: count for text, count in warm.items() if not text.startswith(("insert", *QUESTIONS))}
    assert own == reads | ({"begin": INVOCATIONS - 1} if engine == "postgresql" else {})

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
    saved = [row[0] for row in server.execute("select id from long_day order by id")]
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
