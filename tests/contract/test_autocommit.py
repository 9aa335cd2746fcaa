"""Autocommit mode: what was answered is saved, whatever comes after it; what was not may be."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pymysql
import pytest

import lambda_pool
from lambda_pool import lifecycle
from lambda_pool.engines.base import Status
from lambda_pool.testing import FaultyProxy
from tests.contract.conftest import Database
from tests.contract.test_contract import DRIVER_ERRORS
from tests.contract.test_own_commits import through
from tests.support.core import end_invocation, entries

UNCERTAIN = "in autocommit mode each statement commits by itself, so a COMMIT was sent and its answer was lost"


@pytest.fixture(autouse=True)
def for_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pool asks for holds for the whole process."""
    monkeypatch.setattr(lifecycle.process, "cancel_before", 0.0)


def switch_on(database: Database, conn: Any) -> None:
    if database.engine == "postgresql":
        conn.autocommit = True
    else:
        conn.autocommit(True)


# --- lost later -------------------------------------------------------------------------------------------------------


@pytest.mark.sampled(5, "many cases")
@pytest.mark.parametrize("switched", [False, True], ids=["option", "switch"])
@pytest.mark.parametrize("then", ["select 1", "/* x */ show {variable}", "set {variable} = 1"])
def test_a_connection_that_is_lost_later_undoes_nothing(database: Database, then: str, switched: bool) -> None:
    variable = "statement_timeout" if database.engine == "postgresql" else "sql_safe_updates"
    if database.engine == "mysql":
        then = then.replace("show {variable}", "show tables")
    pool = database.pool(autocommit=not switched)
    with pool.connection() as conn:
        if switched:
            switch_on(database, conn)
        database.insert(conn, 1)
        database.kill(database.backend(conn))
        for _ in range(2):
            with pytest.raises(DRIVER_ERRORS):
                database.query(conn, then.format(variable=variable))
        with pytest.raises(DRIVER_ERRORS):  # surely not sent, and known to have failed
            database.insert(conn, 2)
    assert database.rows() == [1]
    assert pool.stats().size == 0


def test_one_that_was_lost_in_a_transaction_that_was_begun_by_hand_undoes_that(database: Database) -> None:
    with (
        pytest.raises(lambda_pool.NotCommitted, match="none of the transaction is saved"),
        database.pool(autocommit=True).connection() as conn,
    ):
        database.query(conn, "begin")
        database.insert(conn, 1)
        database.kill(database.backend(conn))
        with pytest.raises(DRIVER_ERRORS):
            database.query(conn, "select 1")
    assert database.rows() == []


def test_an_error_and_then_a_close(database: Database) -> None:
    with database.pool(autocommit=True).connection() as conn:
        database.insert(conn, 1)
        with pytest.raises(DRIVER_ERRORS):
            database.insert(conn, 1)
        conn.close()
    assert database.rows() == [1]


def test_at_the_end_of_an_invocation_too(database: Database) -> None:
    pool = database.pool(autocommit=True)
    left = pool.connection()
    conn = left.__enter__()
    database.insert(conn, 1)
    database.kill(database.backend(conn))
    with pytest.raises(DRIVER_ERRORS):
        database.query(conn, "select 1")
    assert end_invocation(pool) is None
    assert database.rows() == [1]


# --- its own answer is lost -------------------------------------------------------------------------------------------


def by_hand(database: Database, conn: Any) -> None:
    kind = psycopg.Cursor if database.engine == "postgresql" else pymysql.cursors.Cursor
    kind(conn).execute(f"insert into {database.table} values (1)")


def several(database: Database, conn: Any) -> None:
    with conn.cursor() as cursor:
        cursor.executemany(f"insert into {database.table} values (%s)", [(1,)])


@pytest.mark.parametrize("send", [lambda database, conn: database.insert(conn, 1), by_hand, several])
@pytest.mark.parametrize("switched", [False, True], ids=["option", "switch"])
def test_a_statement_whose_answer_was_lost_may_be_saved(
    database: Database, send: Callable[[Database, Any], None], switched: bool
) -> None:
    with through(database, autocommit=not switched) as (pool, line):
        with pytest.raises(lambda_pool.CommitUncertain, match="COMMIT was sent and its answer was lost"):
            with pool.connection() as conn:
                if switched:
                    switch_on(database, conn)
                database.query(conn, "select 1")
                line.cut(after=0, direction="to_client")
                with pytest.raises((lambda_pool.CommitUncertain, *DRIVER_ERRORS)):
                    send(database, conn)
                with pytest.raises(DRIVER_ERRORS):
                    database.query(conn, "select 1")
        assert pool.stats().size == 0


@pytest.mark.parametrize("statement", ["check table {table}", "analyze table {table}"])
def test_so_may_one_after_a_stream_of_a_statement_that_may_end_a_transaction(my: Database, statement: str) -> None:
    with through(my, autocommit=True) as (pool, line):
        with pytest.raises(lambda_pool.CommitUncertain, match=UNCERTAIN), pool.connection() as conn:
            with conn.cursor(pymysql.cursors.SSCursor) as cursor:
                cursor.execute(statement.format(table=my.table))
                cursor.fetchall()
            line.cut(after=0, direction="to_client")
            with pytest.raises(pymysql.OperationalError):
                my.insert(conn, 1)


@pytest.mark.parametrize("how", ["copy", "stream", "pipeline", "by hand in a pipeline"])
def test_so_may_a_copy_a_stream_and_a_pipeline(pg: Database, how: str) -> None:
    with through(pg, autocommit=True) as (pool, line):
        with pytest.raises(lambda_pool.CommitUncertain), pool.connection() as conn:
            pg.query(conn, "select 1")
            with suppress(psycopg.Error, lambda_pool.CommitUncertain):
                if how == "copy":
                    with conn.cursor().copy(f"copy {pg.table} from stdin") as copy:
                        copy.write(b"1\n")
                        line.cut(after=0, direction="to_client")
                elif how == "stream":
                    line.cut(after=0, direction="to_client")
                    list(conn.cursor().stream(f"insert into {pg.table} values (1) returning id"))
                else:
                    with conn.pipeline():
                        line.cut(after=0, direction="to_client")
                        cursor = conn.cursor() if how == "pipeline" else psycopg.Cursor(conn)
                        cursor.execute(f"insert into {pg.table} values (1)")


def test_a_copy_and_a_stream_after_it_was_lost_are_not_sent(pg: Database) -> None:
    with pg.pool(autocommit=True).connection() as conn:
        cursor = conn.cursor()
        pg.kill(pg.backend(conn))
        with pytest.raises(psycopg.OperationalError):
            cursor.execute("select 1")
        with pytest.raises(psycopg.OperationalError):
            list(cursor.stream(f"insert into {pg.table} values (1) returning id"))
        with pytest.raises(psycopg.OperationalError), cursor.copy(f"copy {pg.table} from stdin"):
            pass
    assert pg.rows() == []


@pytest.mark.sampled(3, "many cases")
@pytest.mark.parametrize("switched", [False, True], ids=["option", "switch"])
@pytest.mark.parametrize("what", ["insert", "select"])
def test_the_deadline_came_before_the_answer(database: Database, what: str, switched: bool) -> None:
    """A write may be saved, so that nobody may simply try again; a read saves nothing."""
    error: Any = lambda_pool.CommitUncertain if what == "insert" else lambda_pool.DeadlineExceeded
    with through(database, autocommit=not switched) as (pool, line):
        with pytest.raises(error, match=UNCERTAIN if what == "insert" else None), pool.connection() as conn:
            if switched:
                switch_on(database, conn)
            cut = line.lose(pool)
            database.insert(conn, 1) if what == "insert" else database.query(conn, "select 1")
        cut.join()


def test_what_the_server_itself_refused_is_not_saved(database: Database) -> None:
    """It waited for another's row, and was ended there."""
    pool, other = database.pool(autocommit=True), database.pool(name="other")
    with other.connection() as theirs:
        database.insert(theirs, 1)
        with pytest.raises(lambda_pool.DeadlineExceeded), pool.connection() as conn:
            link, backend = entries(pool)[0].link, database.backend(conn)

            def cancel() -> None:
                time.sleep(0.5)
                if database.engine == "postgresql":
                    link.cancel(5.0, lambda address: link)
                else:
                    conn.cancelled = True
                    database.execute(f"kill query {backend}")

            thread = threading.Thread(target=cancel)
            thread.start()
            database.insert(conn, 1)
        thread.join()
        theirs.rollback()
    assert database.rows() == []


def test_what_was_answered_while_the_deadline_asked_is_done(my: Database) -> None:
    """KILL QUERY needs a login of its own, and the statement may be quicker."""
    for statement in (f"insert into {my.table} values (1)", f"alter table {my.table} comment 'x'"):
        with my.pool(autocommit="insert" in statement).connection() as conn:
            over = threading.Event()

            def ring(conn: Any = conn, over: threading.Event = over) -> None:
                while not over.is_set():
                    conn.cancelled = conn.line.response_pending or conn.cancelled

            thread = threading.Thread(target=ring)
            thread.start()
            try:
                my.query(conn, statement)
            finally:
                over.set()
                thread.join()
    assert my.rows() == [1]


# --- still at it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switched", [False, True], ids=["option", "switch"])
def test_a_thread_that_is_still_at_it_when_the_invocation_ends(database: Database, switched: bool) -> None:
    with through(database, autocommit=not switched) as (pool, line):
        ready = threading.Event()

        def left_behind() -> None:
            with suppress(lambda_pool.LambdaPoolError, *DRIVER_ERRORS), pool.connection() as conn:
                if switched:
                    switch_on(database, conn)
                database.query(conn, "select 1")
                line.silence()
                ready.set()
                database.insert(conn, 1)

        thread = threading.Thread(target=left_behind)
        thread.start()
        assert ready.wait(10)
        line.wait_for_what_is_sent()
        assert entries(pool)[0].link.status() is Status.COMMITTING
        problem = end_invocation(pool)
        thread.join(10)
        assert isinstance(problem, lambda_pool.CommitUncertain)


def test_an_error_of_the_arguments_leaves_no_doubt(pg: Database) -> None:
    """Nothing was sent."""
    with pg.pool(autocommit=True).connection() as conn:
        with pytest.raises(psycopg.ProgrammingError):
            conn.execute(f"insert into {pg.table} values (%s)", [1, 2])
        with pytest.raises(psycopg.ProgrammingError):
            psycopg.Cursor(conn).execute(f"insert into {pg.table} values (%s)", [1, 2])
        pg.insert(conn, 3)
    assert pg.rows() == [3]


@pytest.mark.sampled(1, "a second a case")
def test_a_request_is_not_told_to_try_again(database: Database) -> None:
    from lambda_pool import wsgi

    with FaultyProxy("127.0.0.1", database.server.port) as proxy:
        url = database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
        pool = database.pool(url, autocommit=True, cancel_before_deadline=0.5)
        pool.warm()

        def app(environ: Any, start_response: Any) -> Any:
            with pool.connection() as conn:
                proxy.swallow("to_client", new=False)
                database.insert(conn, 1)
            start_response("200 OK", [])
            return [b"saved"]

        answered: list[Any] = []
        served = wsgi.Middleware(app, pool, request_timeout=1)
        body = b"".join(
            served(
                {"REQUEST_METHOD": "POST", "PATH_INFO": "/orders"},
                lambda status, headers, *_: answered.append((status, dict(headers))),
            )
        )
        assert answered[0][0].startswith("503")
        assert "retry-after" not in answered[0][1]
        assert b"look before you send it again" in body
        proxy.heal()
