"""Slow statements and connections that are held too long, on both engines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pymysql
import pymysql.cursors
import pytest
from psycopg import sql

import lambda_pool
from lambda_pool.engines.psycopg.statements import statement
from lambda_pool.engines.slow import shorten
from lambda_pool.events import Leaked, Returned, SlowQuery
from lambda_pool.testing import FakeDriver
from tests.support.core import entries
from tests.support.recorder import Recorder

SECRET = "hunter2-hunter2"
FAILS_LATE = "do $$ begin perform pg_sleep(0.5); raise exception 'no'; end $$"


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


Make = Callable[..., lambda_pool.Pool]


@pytest.fixture
def pg(pg_url: str, seen: Recorder) -> Iterator[Make]:
    yield from makers(pg_url, seen)


@pytest.fixture
def mysql(mysql_url: str, seen: Recorder) -> Iterator[Make]:
    yield from makers(mysql_url, seen)


def makers(url: str, seen: Recorder) -> Iterator[Make]:
    made: list[lambda_pool.Pool] = []

    def make(**options: Any) -> lambda_pool.Pool:
        made.append(lambda_pool.Pool(url, observers=[seen], **options))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


class TestPostgres:
    def test_off_means_the_drivers_own_cursors(self, pg: Make) -> None:
        with pg().connection() as conn:
            assert issubclass(conn.cursor_factory, psycopg.Cursor)
            assert issubclass(conn.server_cursor_factory, psycopg.ServerCursor)
            assert isinstance(conn, psycopg.Connection)

    def test_what_a_statement_changed_is_undone_although_an_alarm_came_while_it_was_told(
        self, pg: Make, seen: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Alarm(BaseException):
            pass

        def ring(event: object) -> None:
            raise Alarm

        pool = pg(slow_query=0.001, max_size=1)
        with pool.connection() as conn:
            conn.autocommit = True
            monkeypatch.setattr(seen, "on_event", ring)
            with pytest.raises(Alarm):
                conn.execute("select set_config('statement_timeout', '77s', false), pg_sleep(0.01)")
            monkeypatch.undo()
        with pool.connection() as conn:
            assert conn.execute("show statement_timeout").fetchone() == ("0",)
        assert pool.stats().reused == 1

    def test_a_slow_statement_is_told_without_its_parameters(
        self, pg: Make, seen: Recorder, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "lambda_pool"), pg(slow_query=0.25).connection() as conn:
            assert isinstance(conn, psycopg.Connection)
            conn.execute("select 1")
            conn.execute("select pg_sleep(%s),\n   %s::text", (0.5, SECRET))
        (event,) = seen.of(SlowQuery)
        assert event.statement == "select pg_sleep(%s), %s::text"
        assert 0.5 <= event.seconds < 5
        (record,) = [record for record in caplog.records if "a statement took" in record.getMessage()]
        assert (record.levelno, record.__dict__["statement"]) == (logging.WARNING, event.statement)
        assert SECRET not in caplog.text + repr(seen.events)

    def test_every_way_to_run_a_statement(self, pg: Make, seen: Recorder) -> None:
        with pg(slow_query=0.25).connection() as conn:
            with conn.cursor() as cursor:
                cursor.executemany("select pg_sleep(%s)", [(0.2,), (0.2,)])
            with conn.cursor(name="server_side") as cursor:
                cursor.execute("select n from generate_series(1, %s) n", (3,))
                assert len(cursor.fetchall()) == 3
            with pytest.raises(psycopg.Error), conn.transaction():
                conn.execute(FAILS_LATE)
        assert [event.statement for event in seen.of(SlowQuery)] == ["select pg_sleep(%s)", FAILS_LATE]

    def test_the_users_own_cursor(self, pg: Make, seen: Recorder) -> None:
        pool = pg(slow_query=0.25, connect_args={"cursor_factory": psycopg.ClientCursor})
        for _ in range(2):
            with pool.connection() as conn, conn.cursor() as cursor:
                assert isinstance(cursor, psycopg.ClientCursor)
                cursor.execute("select pg_sleep(%s), %s", (0.5, SECRET))
        assert [event.statement for event in seen.of(SlowQuery)] == ["select pg_sleep(%s), %s"] * 2
        assert pool.stats().opened == 1

    @pytest.mark.parametrize(
        ("query", "text"),
        [
            ("select 1", "select 1"),
            (b"select 1", "select 1"),
            (sql.SQL("select {} from {}").format(sql.Literal(SECRET), sql.Identifier("t")), 'select ? from "t"'),
            (sql.SQL(", ").join([sql.Placeholder(), sql.Literal(SECRET)]), "%s, ?"),
            (42, "int"),
        ],
    )
    def test_composed_statements(self, query: Any, text: str) -> None:
        assert statement(query) == text


class TestMysql:
    def test_off_means_the_drivers_own_cursors(self, mysql: Make) -> None:
        with mysql().connection() as conn, conn.cursor() as cursor:
            assert type(cursor) is pymysql.cursors.Cursor

    def test_a_slow_statement_is_told_without_its_parameters(
        self, mysql: Make, seen: Recorder, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "lambda_pool"), mysql(slow_query=0.25).connection() as conn:
            assert isinstance(conn, pymysql.connections.Connection)
            with conn.cursor() as cursor:
                cursor.execute("select 1")
                cursor.execute("select sleep(%s), %s", (0.5, SECRET))
        (event,) = seen.of(SlowQuery)
        assert event.statement == "select sleep(%s), %s"
        assert SECRET not in caplog.text + repr(seen.events)

    def test_many_at_once_are_one_statement(self, mysql: Make, seen: Recorder) -> None:
        with mysql(slow_query=0.25).connection() as conn, conn.cursor() as cursor:
            cursor.execute("create temporary table t (a double, b text)")
            cursor.executemany("insert into t values (%s + sleep(0.2), %s)", [(1, SECRET), (2, SECRET)])
        assert [event.statement for event in seen.of(SlowQuery)] == ["insert into t values (%s + sleep(0.2), %s)"]

    def test_the_users_own_cursor(self, mysql: Make, seen: Recorder) -> None:
        pool = mysql(slow_query=0.25, connect_args={"cursorclass": pymysql.cursors.DictCursor})
        for _ in range(2):
            with pool.connection() as conn, conn.cursor() as cursor:
                cursor.execute("select sleep(%s) as slept", (0.5,))
                assert cursor.fetchone() == {"slept": 0}
            with pool.connection() as conn, conn.cursor(pymysql.cursors.SSCursor) as cursor:
                cursor.execute("select sleep(%s)", (0.5,))
                assert list(cursor) == [(0,)]
        assert len(seen.of(SlowQuery)) == 4
        assert pool.stats().opened == 1

    def test_a_procedure(self, mysql: Make, seen: Recorder) -> None:
        with mysql(slow_query=0.25).connection() as conn, conn.cursor() as cursor:
            cursor.execute("drop procedure if exists nap")
            cursor.execute("create procedure nap(in seconds double, in secret text) select sleep(seconds)")
            cursor.callproc("nap", (0.5, SECRET))
            cursor.execute("drop procedure nap")
        assert [event.statement for event in seen.of(SlowQuery)] == ["CALL nap"]


@pytest.mark.parametrize(
    ("text", "short"),
    [("select   1\n  from t", "select 1 from t"), ("x" * 10_000_000, "x" * 199 + "…"), ("", "")],
)
def test_statements_are_cut(text: str, short: str) -> None:
    assert shorten(text) == short


class TestLeaks:
    def test_held_too_long_names_the_line_and_the_way_there(
        self, seen: Recorder, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool = FakeDriver().pool(observers=[seen], leak_after=1e-9)

        def report() -> None:
            with pool.connection():  # the borrower
                pass

        with caplog.at_level(logging.WARNING, "lambda_pool"):
            report()
        (leak,) = seen.of(Leaked)
        line = report.__code__.co_firstlineno + 1
        assert leak.where == f"{__file__}:{line} in report"
        assert f"{__file__}:{line} in report" in leak.stack
        assert "in test_held_too_long_names_the_line_and_the_way_there" in leak.stack
        assert leak.stack.index("in test_held") < leak.stack.index("in report")
        (record,) = caplog.records
        assert leak.where in record.getMessage()
        assert record.__dict__["where"] == leak.where

    def test_other_ways_to_borrow(self, seen: Recorder) -> None:
        pool = FakeDriver().pool(observers=[seen], leak_after=1e-9)

        @pool.handler
        def handle(event: Any, context: Any, conn: Any) -> None:
            pass

        handle({}, None)
        pool.run(lambda conn: None)
        with pool.connection(timeout=1):
            pass
        with pool.connection(readonly=True):
            pass
        here = self.test_other_ways_to_borrow.__code__.co_firstlineno
        places = [leak.where for leak in seen.of(Leaked)]
        assert places == [
            f"{__file__}:{here + 3} in handle",
            *[f"{__file__}:{here + line} in test_other_ways_to_borrow" for line in (8, 9, 11)],
        ]

    def test_off_keeps_no_stack(self, seen: Recorder) -> None:
        pool = FakeDriver().pool(observers=[seen])
        with pool.connection():
            (slot,) = entries(pool)
            assert slot.stack == ()
        assert seen.of(Leaked) == []

    def test_warming_up_is_no_leak(self, seen: Recorder) -> None:
        FakeDriver().pool(observers=[seen], leak_after=1e-9).warm()
        assert (seen.of(Leaked), seen.of(Returned)) == ([], [])


class TestBorrows:
    """Every connection lent is told of exactly once, however it comes back."""

    def test_each_way_back(self, seen: Recorder) -> None:
        driver = FakeDriver()
        pool = driver.pool(observers=[seen], max_size=2)
        with pool.connection():
            pass
        with pytest.raises(ZeroDivisionError), pool.connection() as conn:
            conn.execute("select 1")
            raise ZeroDivisionError
        with pool.connection() as conn:
            conn.close()
        with pool.connection():
            pool.close()
        with pytest.raises(lambda_pool.NotCommitted), pool.connection():
            driver.links[-1].kill()
        told = [(event.reused, event.in_use) for event in seen.of(Returned)]
        assert told == [(False, 1), (True, 1), (True, 1), (False, 1), (False, 1)]
        assert all(0 < event.held < 10 and 0 < event.checkout < 10 for event in seen.of(Returned))

    def test_left_open_at_the_end_of_the_invocation(self, seen: Recorder) -> None:
        pool = FakeDriver().pool(observers=[seen], max_size=3)
        left: list[Any] = []

        @pool.handler
        def handle(event: Any, context: Any) -> None:
            for _ in range(2):
                lease = pool.connection()
                lease.__enter__()
                left.append(lease)

        handle({}, None)
        assert [event.in_use for event in seen.of(Returned)] == [2, 2]
        for lease in left:
            with pytest.raises(lambda_pool.NotCommitted):
                lease.__exit__(None, None, None)
        assert len(seen.of(Returned)) == 2
