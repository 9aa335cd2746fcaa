"""pooled=true through MySQL Router, whose clients share a few connections to a genuine MySQL."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from lambda_pool import Pool
from lambda_pool.testing import MySqlServer
from tests.contract.pooled.test_mysql import Context
from tests.support.mysql_router import MySqlRouter

pytestmark = pytest.mark.slow("needs MySQL Router, which is fetched for the full run")

ENVIRONMENTS = 4


@pytest.fixture(scope="module")
def router(genuine_mysql: MySqlServer) -> Iterator[MySqlRouter]:
    genuine_mysql.execute("create table routed (id int primary key)")
    with MySqlRouter(genuine_mysql) as found:
        yield found
    genuine_mysql.execute("drop table routed")


@pytest.fixture
def url(router: MySqlRouter, genuine_mysql: MySqlServer) -> str:
    genuine_mysql.execute("delete from routed")
    return router.url()


def ask(conn: Any, sql: str) -> Any:
    with conn.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]


def pools(stack: ExitStack, url: str, **options: Any) -> list[Pool]:
    """One for each environment."""
    found = [Pool(url, observers=(), name=f"environment-{number}", **options) for number in range(ENVIRONMENTS)]
    for pool in found:
        stack.callback(pool.close)
    return found


def rows(server: MySqlServer) -> list[int]:
    return [row[0] for row in server.execute("select id from routed order by id")]


def test_environments_take_turns_on_one_connection(url: str, genuine_mysql: MySqlServer) -> None:
    backends = set()
    with ExitStack() as stack:
        for number, pool in enumerate(pools(stack, url, ping_after=0) * 3):
            with pool.connection() as conn:
                ask(conn, f"insert into routed values ({number})")
                backends.add(ask(conn, "select connection_id()"))
    assert len(backends) == 1
    assert rows(genuine_mysql) == list(range(12))


def test_transactions_at_the_same_time_do_not_share(url: str, genuine_mysql: MySqlServer) -> None:
    with ExitStack() as stack:
        one, other, *_ = pools(stack, url)
        with one.connection() as first:
            ask(first, "insert into routed values (1)")
            with pytest.raises(ZeroDivisionError), other.connection() as second:
                ask(second, "insert into routed values (2)")
                assert ask(first, "select connection_id()") != ask(second, "select connection_id()")
                1 / 0  # noqa: B018
    assert rows(genuine_mysql) == [1]


@pytest.mark.parametrize("reset", ["transaction", "changed"])
def test_nobody_finds_what_another_environment_set(url: str, reset: str) -> None:
    with ExitStack() as stack:
        one, *others = pools(stack, url, reset=reset)
        with one.connection() as conn:
            ask(conn, "set session transaction isolation level serializable")
            ask(conn, "set @left = 1")
        for pool in (*others, one):
            with pool.connection() as conn:
                assert ask(conn, "select @@transaction_isolation") == "REPEATABLE-READ"
                assert ask(conn, "select @left") is None
        assert [pool.stats().opened for pool in (one, *others)] == [2, 1, 1, 1]


def test_server_connections_that_were_killed_are_not_noticed_by_run(url: str, genuine_mysql: MySqlServer) -> None:
    with ExitStack() as stack:
        for pool in (found := pools(stack, url)):
            pool.warm(strict=True)
        genuine_mysql.end_sessions()
        for number, pool in enumerate(found):
            pool.run(partial(ask, sql=f"insert into routed values ({number})"))
    assert rows(genuine_mysql) == list(range(ENVIRONMENTS))


def test_a_statement_is_ended_before_the_deadline(url: str) -> None:
    with ExitStack() as stack:
        pool, *_ = pools(stack, url, cancel_before_deadline=0.5)

        @pool.handler
        def slow(event: object, context: object, conn: Any) -> None:
            ask(conn, "select sleep(20)")

        started = time.monotonic()
        with pytest.raises(Exception, match="cancel_before_deadline"):
            slow({}, Context(1500))
        assert time.monotonic() - started < 10
        with pool.connection() as conn:
            assert ask(conn, "select 1") == 1
