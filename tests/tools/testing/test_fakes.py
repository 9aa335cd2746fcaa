"""The scripted database takes handlers as they are written for the drivers."""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import psycopg
import pytest

from lambda_pool import NotCommitted, Pool
from lambda_pool.engines.base import Failure
from lambda_pool.testing import FakeDriver, FakeError, PostgresServer


def test_a_handler_with_a_cursor() -> None:
    driver = FakeDriver(answers={"select article from orders": [("tea",), ("milk",), ("rum",)]})

    @driver.pool().handler
    def handler(event: Any, context: Any, conn: Any) -> list[Any]:
        with conn.cursor() as cursor:
            cursor.execute("insert into orders (article) values (%s)", [event["article"]])
            assert (cursor.rowcount, cursor.fetchone()) == (1, None)
            cursor.executemany("insert into orders (article) values (%s)", [["milk"], ["rum"]])
            cursor.execute("select article from orders")
            return [cursor.rowcount, cursor.fetchone(), *cursor.fetchmany(), *cursor]

    assert handler({"article": "tea"}, None) == [3, ("tea",), ("milk",), ("rum",)]
    assert [text[:6] for text in driver.links[0].driver_connection.statements] == ["insert"] * 3 + ["select"]


def test_a_handler_that_commits_and_rolls_back_itself() -> None:
    driver = FakeDriver()

    @driver.pool().handler
    def handler(event: Any, context: Any, conn: Any) -> None:
        conn.execute("insert")
        conn.commit()
        conn.execute("insert")
        conn.rollback()

    handler({}, None)
    assert driver.links[0].history == ["execute", "commit", "execute", "rollback"]


def test_the_number_of_rows() -> None:
    driver = FakeDriver(answers={"select 1 where false": []})
    with driver.pool().connection() as conn, conn.cursor() as cursor:
        cursor.executemany("insert into orders (article) values (%s)", [["milk"], ["rum"]])
        assert cursor.rowcount == 2
        assert cursor.execute("select 1 where false").rowcount == 0


# --- a statement that fails, on the scripted database as on PostgreSQL ------------------------------------------------


def swallow(conn: Any) -> None:
    with suppress(Exception):
        conn.execute("insert into fakes values (1)")


def go_on(conn: Any) -> None:
    swallow(conn)
    conn.execute("insert into fakes values (2)")


def commit(conn: Any) -> None:
    swallow(conn)
    conn.commit()


def undo(conn: Any) -> None:
    swallow(conn)
    conn.rollback()
    conn.execute("insert into fakes values (2)")


def in_a_savepoint(conn: Any) -> None:
    with suppress(Exception), conn.transaction():
        conn.execute("insert into fakes values (1)")
    conn.execute("insert into fakes values (2)")


def swallow_in_a_savepoint(conn: Any) -> None:
    with conn.transaction():
        swallow(conn)


def before_a_savepoint(conn: Any) -> None:
    swallow(conn)
    with suppress(Exception), conn.transaction():
        conn.execute("insert into fakes values (2)")


def after_a_savepoint(conn: Any) -> None:
    with conn.transaction():
        conn.execute("insert into fakes values (2)")
    swallow(conn)


def in_with(conn: Any) -> None:
    with suppress(Exception), conn:
        conn.execute("insert into fakes values (1)")
    with conn:
        conn.execute("insert into fakes values (2)")


def go_on_after_a_savepoint(conn: Any) -> None:
    with suppress(Exception):
        swallow_in_a_savepoint(conn)
    conn.execute("insert into fakes values (2)")


def commit_in_a_savepoint(conn: Any) -> None:
    with conn.transaction():
        swallow(conn)
        conn.commit()


def roll_back(block: Any = None) -> None:
    raise psycopg.Rollback(block)


def undo_a_savepoint(conn: Any) -> None:
    with conn.transaction():
        swallow(conn)
        roll_back()
    conn.execute("insert into fakes values (2)")


def undo_both_savepoints(conn: Any) -> None:
    with conn.transaction() as outer:
        with conn.transaction():
            swallow(conn)
            roll_back(outer)
        conn.close()  # not reached
    conn.execute("insert into fakes values (2)")


def fail_in_with(conn: Any) -> None:
    with conn:
        swallow(conn)
        raise KeyError


def close_and_commit(conn: Any) -> None:
    conn.execute("insert into fakes values (2)")
    conn.close()
    conn.commit()


def close_in_a_transaction(conn: Any) -> None:
    with conn.transaction():
        conn.execute("insert into fakes values (2)")
        conn.close()


def use_it_closed(conn: Any) -> None:
    conn.close()
    conn.execute("insert into fakes values (2)")


# How a handler with this work ends, how `run` does, and how a handler does in autocommit mode.
WORK: dict[Callable[[Any], None], tuple[Any, Any, Any]] = {
    swallow: (NotCommitted, NotCommitted, None),
    go_on: ("refused", "refused", None),
    commit: ("refused", "refused", None),
    undo: (None, "refused", None),
    in_a_savepoint: (None, None, None),
    swallow_in_a_savepoint: ("refused", "refused", "refused"),
    before_a_savepoint: (NotCommitted, NotCommitted, None),
    after_a_savepoint: (NotCommitted, NotCommitted, None),
    in_with: (None, "refused", None),
    go_on_after_a_savepoint: ("refused", "refused", None),
    commit_in_a_savepoint: ("refused", "refused", "refused"),
    undo_a_savepoint: (None, None, None),
    undo_both_savepoints: (None, None, None),
    fail_in_with: (KeyError, KeyError, KeyError),
    close_and_commit: ("refused", "refused", "refused"),
    close_in_a_transaction: (NotCommitted, NotCommitted, NotCommitted),
    use_it_closed: ("refused", "refused", "refused"),
}


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> str:
    postgres_server.execute("create table fakes (number int check (number > 1))")
    return postgres_server.url()


@pytest.mark.sampled(15, "many cases")
@pytest.mark.parametrize("how", [0, 1, 2], ids=["handler", "run", "autocommit"])
@pytest.mark.parametrize("real", [True, False], ids=["PostgreSQL", "scripted"])
@pytest.mark.parametrize("work", WORK)
def test_work_with_a_statement_that_fails(url: str, work: Callable[[Any], None], real: bool, how: int) -> None:
    driver = FakeDriver()
    if work not in {use_it_closed, close_and_commit, close_in_a_transaction}:
        driver.fail("execute", *[None] * (work is after_a_savepoint), FakeError(Failure.OTHER))
    pool: Pool[Any] = Pool(url, autocommit=how == 2) if real else driver.pool(autocommit=how == 2)

    @pool.handler
    def handler(event: Any, context: Any, conn: Any) -> None:
        work(conn)

    ends = WORK[work][how]
    errors = (psycopg.Error, FakeError) if ends == "refused" else ends
    with nullcontext() if ends is None else pytest.raises(errors):
        pool.run(work) if how == 1 else handler({}, None)
    pool.close()
