"""What has a psycopg connection to itself: a copy(), a stream() or notifies(), and what comes in its middle."""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import psycopg
import pytest

from tests.contract.conftest import Database

Connection = psycopg.Connection[Any]
Rows = Generator[object, None, None]


def stream(conn: Connection) -> Rows:
    yield from conn.cursor().stream("select generate_series(1, 3)")


def copy_out(conn: Connection) -> Rows:
    with conn.cursor().copy("copy (select generate_series(1, 3)) to stdout") as copy:
        yield from copy.rows()


def copy_in(conn: Connection) -> Rows:
    conn.execute("create temporary table taken (n int)")
    with conn.cursor().copy("copy taken from stdin") as copy:
        copy.write_row((1,))
        yield "a row"


def notified(conn: Connection) -> Rows:
    conn.execute("listen news")
    conn.execute("notify news")
    conn.commit()
    yield from conn.notifies(stop_after=1)


AMID: dict[str, Callable[[Connection], object]] = {
    "execute": lambda conn: conn.execute("select 1"),
    "commit in SQL": lambda conn: conn.execute("commit"),
    "executemany": lambda conn: conn.cursor().executemany("select %s", [(1,)]),
    "commit": lambda conn: conn.commit(),
    "rollback": lambda conn: conn.rollback(),
    "stream": lambda conn: list(conn.cursor().stream("select 1")),
    "transaction": lambda conn: conn.transaction().__enter__(),
    "pipeline": lambda conn: conn.pipeline().__enter__(),
}


@pytest.mark.sampled(7, "many cases")
@pytest.mark.parametrize("amid", AMID)
@pytest.mark.parametrize("taking", [stream, copy_out, copy_in, notified])
def test_a_statement_amid_what_has_the_connection_to_itself(
    pg: Database, taking: Callable[[Connection], Rows], amid: str
) -> None:
    """psycopg would wait for the lock that the same thread has, for ever. What was begun goes on."""
    pool = pg.pool()
    with pool.connection() as conn:
        pg.insert(conn, 1)
        conn.commit()
        with contextlib.closing(taking(conn)) as rows:
            next(rows)
            for _ in range(2):
                with pytest.raises(psycopg.ProgrammingError, match="has it to itself"):
                    AMID[amid](conn)
            list(rows)
        pg.insert(conn, 2)
    assert pg.rows() == [1, 2]
    with pool.connection() as conn:
        assert pg.query(conn, "select 1") == [(1,)]


@pytest.mark.parametrize("hold", [False, True])
def test_a_server_side_cursor_that_is_closed_late_leaves_the_next_borrower_alone(pg: Database, hold: bool) -> None:
    """The frames of an error, for example, keep a generator until the garbage collector runs in a later loan."""

    def numbers(conn: Connection) -> Rows:
        with conn.cursor("numbers", withhold=hold) as cursor:
            cursor.execute("select generate_series(1, 300)")
            yield from cursor

    pool = pg.pool()
    with pool.connection() as conn:
        rows = numbers(conn)
        next(rows)
    with pool.connection() as conn:
        pg.insert(conn, 1)
        rows.close()
    assert pg.rows() == [1]
    assert pool.stats().opened == 1
