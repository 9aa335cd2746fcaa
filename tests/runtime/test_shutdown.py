"""The end of an environment, on the genuine runtime: a polite good-bye, and no lock left behind."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from lambda_pool.testing import MariaDbServer, PostgresServer
from tests.runtime.conftest import FUNCTION, Start

ENGINES = pytest.mark.parametrize("engine", ["postgresql", "mysql"])


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Seconds until the condition holds; fails if that takes longer than allowed."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds} s"
        time.sleep(0.002)
    return time.monotonic() - start


def sessions(server: Any, user: str) -> int:
    if isinstance(server, PostgresServer):
        return int(server.execute(f"select count(*) from pg_stat_activity where usename = '{user}'")[0][0])
    return int(server.execute(f"select count(*) from information_schema.processlist where user = '{user}'")[0][0])


def url_of(server: Any, user: str) -> str:
    """The server's URL for a user of the test's own, so that its sessions can be told from others'."""
    if isinstance(server, PostgresServer):
        server.execute(f"drop role if exists {user}")
        server.execute(f"create role {user} login superuser password 'test'")
    else:
        server.execute(f"drop user if exists {user}@'%'")
        server.execute(f"create user {user}@'%' identified by 'test'")
        server.execute(f"grant all on app.* to {user}@'%'")
    return str(server.url(user=user, password="test"))


@ENGINES
def test_a_polite_end_on_every_python(
    start: Start, postgres: PostgresServer, mariadb: MariaDbServer, engine: str, any_python: str
) -> None:
    server: Any = postgres if engine == "postgresql" else mariadb
    url = url_of(server, "polite")
    aborted = _aborted(server)
    runtime = start(url, python=any_python, options={"max_size": 3, "min_size": 3}, code=FUNCTION + "\nPOOL.warm()\n")
    assert runtime.invoke().error is None
    assert sessions(server, "polite") == 3
    began = time.monotonic()
    ended = runtime.shutdown()
    until(lambda: sessions(server, "polite") == 0, 0.5)
    assert time.monotonic() - began < 0.5
    assert not ended.timed_out
    assert "Traceback" not in runtime.log
    if engine == "postgresql":
        # PostgreSQL logs a client that vanishes without Terminate.
        assert "unexpected EOF on client connection" not in server.log
    assert _aborted(server) == aborted


def _aborted(server: Any) -> int:
    if isinstance(server, PostgresServer):
        return server.log.count("connection to client lost") + server.log.count("Connection reset by peer")
    return int(server.execute("show global status like 'Aborted_clients'")[0][1])


CHAINED = """
import signal, sys
def mine(number, frame):
    print("my own handler ran", flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, mine)
"""


def test_the_users_own_handler_still_runs(start: Start, postgres: PostgresServer) -> None:
    runtime = start(url_of(postgres, "chained"), code=CHAINED + FUNCTION)
    assert runtime.invoke().error is None
    ended = runtime.shutdown()
    assert not ended.timed_out
    assert "my own handler ran" in runtime.log
    until(lambda: sessions(postgres, "chained") == 0, 0.5)


def test_switched_off_there_is_no_extension(start: Start, postgres: PostgresServer) -> None:
    runtime = start(url_of(postgres, "without"), options={"graceful_shutdown": False})
    assert runtime.invoke().error is None
    assert sessions(postgres, "without") == 1
    runtime.shutdown()
    assert "EXTENSION" not in runtime.log


def test_where_it_cannot_register_the_function_works_and_says_so_once(start: Start, postgres: PostgresServer) -> None:
    late = """
    import logging
    logging.getLogger("lambda_pool").setLevel("DEBUG")
    handler = None
    def handler(event, context):
        global REAL
        if "REAL" not in globals():
            scope = {}
            exec(CODE, scope)
            REAL = scope["handler"]
        return REAL(event, context)
    """
    import textwrap

    runtime = start(postgres.url(), code=f"CODE = {FUNCTION!r}\n" + textwrap.dedent(late))
    for _ in range(3):
        assert runtime.invoke().error is None
    assert runtime.log.count("no graceful shutdown") == 1


@ENGINES
def test_a_timeout_in_a_transaction_frees_its_locks(
    start: Start, postgres: PostgresServer, mariadb: MariaDbServer, engine: str
) -> None:
    """The handler sleeps past its timeout while it holds row locks: they are gone within a second."""
    server: Any = postgres if engine == "postgresql" else mariadb
    table = f"locked_{engine}"
    server.execute(f"drop table if exists {table}")
    server.execute(f"create table {table} (id int primary key)")
    server.execute(f"insert into {table} values (1)")
    runtime = start(server.url(), timeout=2)
    runtime.invoke()
    began = time.monotonic()
    answer = runtime.invoke({"sql": f"update {table} set id = 2 where id = 1", "sleep_after": 60}, timeout=10)
    assert answer.error is not None
    assert time.monotonic() - began >= 1.9
    if engine == "postgresql":
        server.execute("set lock_timeout = '1s'")
        server.execute(f"do $$ begin set local lock_timeout = '1s'; update {table} set id = 3; end $$")
    else:
        server.execute(f"set statement innodb_lock_wait_timeout = 1 for update {table} set id = 3")
    assert server.execute(f"select id from {table}") == [(3,)]
    server.execute(f"drop table {table}")


@ENGINES
def test_cancel_before_deadline(start: Start, postgres: PostgresServer, mariadb: MariaDbServer, engine: str) -> None:
    server: Any = postgres if engine == "postgresql" else mariadb
    sleeper = "select pg_sleep(60)" if engine == "postgresql" else "select sleep(60)"
    runtime = start(url_of(server, "cancelled"), timeout=2, options={"cancel_before_deadline": 0.5}, code=CANCELLED)
    runtime.invoke({"sql": "select 1"})
    began = time.monotonic()
    answer = runtime.invoke({"sql": sleeper})
    took = time.monotonic() - began
    assert answer.error is None, answer.error
    assert answer.payload["caught"] == "DeadlineExceeded"
    assert answer.payload["left"] > 0.3
    assert took < 2
    assert sessions(server, "cancelled") == 1
    assert _running(server, sleeper) == 0
    again = runtime.invoke({"sql": "select 1"})
    assert again.payload["rows"] == [[1]]
    assert again.payload["opened"] == 1


CANCELLED = """
import os
import lambda_pool

POOL = lambda_pool.Pool(os.environ["URL"], **eval(os.environ["OPTIONS"]))

@POOL.handler
def handler(event, context, conn):
    if event is None:
        return None
    try:
        with conn.cursor() as cursor:
            cursor.execute(event["sql"])
            rows = list(cursor.fetchall())
    except lambda_pool.DeadlineExceeded as error:
        return {"caught": type(error).__name__, "left": context.get_remaining_time_in_millis() / 1000}
    return {"rows": rows, "opened": POOL.stats().opened}
"""


def _running(server: Any, text: str) -> int:
    if isinstance(server, PostgresServer):
        return int(
            server.execute(f"select count(*) from pg_stat_activity where state = 'active' and query = '{text}'")[0][0]
        )
    return int(server.execute(f"select count(*) from information_schema.processlist where info = '{text}'")[0][0])
