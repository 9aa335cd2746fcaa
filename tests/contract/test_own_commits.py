"""A COMMIT of the borrower's own whose answer is lost: nobody knows what is saved. Who writes again may write twice."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from pymysql.constants import CLIENT

import lambda_pool
from lambda_pool.engines.pymysql.statements import look
from tests.contract.conftest import Database
from tests.contract.test_contract import DRIVER_ERRORS, wait_for_goodbye
from tests.support.core import end_invocation
from tests.support.line import Line


@contextmanager
def through(database: Database, **options: Any) -> Iterator[tuple[lambda_pool.Pool, Line]]:
    """A pool whose server can be silenced."""
    with Line(database.server.port) as line:
        yield database.pool(database.url.replace(f":{database.server.port}/", f":{line.port}/"), **options), line


Lose = Callable[[], None]
Idiom = Callable[[Database, Any, Lose], object]
"""Saves a row on a connection, and calls the last argument right before its answer is to be lost."""


def said(sql: str, *, begun: bool = False) -> Idiom:
    def idiom(database: Database, conn: Any, lose: Lose) -> None:
        if begun:
            database.query(conn, "begin")
        database.insert(conn, 1)
        lose()
        database.query(conn, sql.format(table=database.table))

    return idiom


def called(method: str, *arguments: object) -> Idiom:
    def idiom(database: Database, conn: Any, lose: Lose) -> None:
        database.insert(conn, 1)
        lose()
        getattr(conn, method)(*arguments)

    return idiom


def with_conn(database: Database, conn: Any, lose: Lose) -> None:
    with conn:
        database.insert(conn, 1)
        lose()


def outermost_block(database: Database, conn: Any, lose: Lose) -> None:
    with conn.transaction():
        with conn.transaction():
            database.insert(conn, 1)
        lose()


def pipeline(end: Callable[[Any], object]) -> Idiom:
    def idiom(database: Database, conn: Any, lose: Lose) -> None:
        with conn.pipeline() as pipe:
            conn.execute(f"insert into {database.table} values (1)")
            pipe.sync()
            lose()
            end(conn)

    return idiom


def block_in_a_pipeline(database: Database, conn: Any, lose: Lose) -> None:
    with conn.pipeline() as pipe, conn.transaction():
        conn.execute(f"insert into {database.table} values (1)")
        pipe.sync()
        lose()


def two_phases(database: Database, conn: Any, lose: Lose) -> None:
    conn.tpc_begin(conn.xid(1, database.table, "b"))
    database.insert(conn, 1)
    lose()
    conn.tpc_commit()


def xa_in_one_phase(database: Database, conn: Any, lose: Lose) -> None:
    for statement in ("xa begin '{}'", "insert into {} values (1)", "xa end '{}'"):
        database.query(conn, statement.format(database.table))
    lose()
    database.query(conn, f"xa commit '{database.table}' one phase")


POSTGRESQL: dict[str, tuple[bool, Idiom]] = {
    "commit()": (False, called("commit")),
    "with conn": (False, with_conn),
    "COMMIT": (False, said("/* the last */ commit")),
    "END": (False, said("END")),
    "several": (True, said("begin; insert into {table} values (2); commit")),
    "transaction()": (True, outermost_block),
    "pipeline, commit()": (False, pipeline(lambda conn: conn.commit())),
    "pipeline, COMMIT": (False, pipeline(lambda conn: conn.execute("commit"))),
    "pipeline, transaction()": (True, block_in_a_pipeline),
    "tpc_commit()": (False, two_phases),
}
MYSQL: dict[str, tuple[bool, Idiom]] = {
    "commit()": (False, called("commit")),
    "begin()": (False, called("begin")),
    "autocommit()": (False, called("autocommit", True)),
    "with conn": (False, with_conn),
    "COMMIT": (False, said("/* the last */ commit")),
    "START TRANSACTION": (False, said("start transaction")),
    "SET autocommit": (False, said("set @@session.autocommit = ON")),
    "COMMIT with autocommit": (True, said("commit", begun=True)),
    "several": (True, said("begin; insert into {table} values (2); commit")),
    "XA COMMIT": (True, xa_in_one_phase),
}
OPTIONS = {"postgresql": {}, "mysql": {"connect_args": {"client_flag": CLIENT.MULTI_STATEMENTS}}}


def lost(database: Database, autocommit: bool, idiom: Idiom) -> None:
    with through(database, autocommit=autocommit, **OPTIONS[database.engine]) as (pool, line):
        with pytest.raises(lambda_pool.CommitUncertain), pool.connection() as conn:
            cut: list[threading.Thread] = []
            idiom(database, conn, lambda: cut.append(line.lose(pool)))
        cut[0].join()
        assert pool.stats().size == 0


@pytest.mark.sampled(3, "half a second a case")
@pytest.mark.parametrize("idiom", POSTGRESQL)
def test_the_deadline_came_first_on_postgresql(pg: Database, idiom: str) -> None:
    lost(pg, *POSTGRESQL[idiom])


@pytest.mark.sampled(4, "many cases")
@pytest.mark.parametrize("idiom", MYSQL)
def test_the_deadline_came_first_on_mysql(my: Database, idiom: str) -> None:
    lost(my, *MYSQL[idiom])


@pytest.mark.parametrize("how", ["commit()", "COMMIT"])
def test_the_connection_was_lost_after_it_was_sent(database: Database, how: str) -> None:
    """And who swallows that is told again: nothing is known to be unsaved."""
    with through(database) as (pool, line):
        with pytest.raises(lambda_pool.CommitUncertain), pool.connection() as conn:
            database.insert(conn, 1)
            line.cut(after=0, direction="to_client")
            with pytest.raises(lambda_pool.CommitUncertain) as caught:
                conn.commit() if how == "commit()" else database.query(conn, "commit")
            assert isinstance(caught.value.__cause__, DRIVER_ERRORS)
        assert pool.stats().size == 0


@pytest.mark.parametrize("kind", [psycopg.Cursor, psycopg.ClientCursor])
@pytest.mark.parametrize("in_run", [True, False])
def test_a_cursor_that_was_made_by_hand_said_it(pg: Database, kind: Any, in_run: bool) -> None:
    """Nobody knows what it says, so that what it loses may be saved."""

    def work(conn: Any) -> None:
        pg.insert(conn, 1)
        line.cut(after=0, direction="to_client")
        kind(conn).execute("commit")

    with through(pg) as (pool, line):
        with pytest.raises(lambda_pool.CommitUncertain, match="did not make"):
            if in_run:
                pool.run(work)
            else:
                with pool.connection() as conn:
                    work(conn)
        assert pool.stats().size == 0
    assert pg.rows() == [1]


def test_it_was_lost_before_it_was_sent(database: Database) -> None:
    """Then it is the driver's own error, and surely nothing is saved."""
    pool = database.pool()
    with pytest.raises(DRIVER_ERRORS), pool.connection() as conn:
        database.insert(conn, 1)
        database.kill(database.backend(conn))
        wait_for_goodbye(conn)
        conn.commit()
    assert database.rows() == []


@pytest.mark.sampled(3, "many cases")
@pytest.mark.parametrize("what", ["insert", "rollback", "begin", "commit"])
def test_what_saves_nothing_is_no_commit(database: Database, what: str) -> None:
    """A statement, a ROLLBACK, and what would commit if anything were open."""
    if database.engine == "postgresql" and what in {"begin", "commit"}:
        what = "rollback"  # its driver then sends nothing
    with through(database) as (pool, line):
        with pytest.raises(lambda_pool.DeadlineExceeded), pool.connection() as conn:
            if what == "rollback":
                database.insert(conn, 1)
            cut = line.lose(pool)
            database.insert(conn, 2) if what == "insert" else getattr(conn, what)()
        cut.join()


def test_a_refusal_is_the_drivers_error(pg: Database) -> None:
    """Also in a pipeline, where it stands for what came before the COMMIT."""
    pool = pg.pool()
    pg.execute(f"insert into {pg.table} values (1)")
    for piped in (False, True):
        with pytest.raises(DRIVER_ERRORS, match="duplicate key"), pool.connection() as conn:
            if piped:
                with conn.pipeline():
                    conn.execute(f"insert into {pg.table} values (1)")
                    conn.execute("commit")
            else:
                conn.execute(f"insert into {pg.table} values (2); insert into {pg.table} values (1); commit")
    assert pg.rows() == [1]


Case = tuple[bool, list[int], Callable[[Database, Any], object]]


def refused_in_a_pipeline(refused: Callable[[Any], object]) -> Case:
    def case(database: Database, conn: Any) -> None:
        with conn.pipeline():
            database.insert(conn, 1)
            with pytest.raises(psycopg.Error) as caught:
                refused(conn)
            assert caught.value.sqlstate is None
            database.insert(conn, 2)

    return True, [1, 2], case


def copy_in(conn: Any) -> None:
    with conn.cursor().copy("copy pg_am from stdin"):
        pass


def adapter_before_the_commit(database: Database, conn: Any) -> None:
    conn.cursor_factory = psycopg.ClientCursor
    with pytest.raises(psycopg.ProgrammingError, match="cannot adapt"):
        conn.execute(f"begin; insert into {database.table} values (%s); commit", [object()])


def row_factory_after_the_commit(database: Database, conn: Any) -> None:
    def fail(cursor: Any) -> Any:
        raise psycopg.ProgrammingError("no row for this")

    database.insert(conn, 1)
    conn.row_factory = fail
    with pytest.raises(psycopg.ProgrammingError, match="no row for this"):
        conn.execute("commit")


def notify_handler_amid_the_commit(database: Database, conn: Any) -> None:
    def fail(notify: Any) -> None:
        raise ZeroDivisionError

    conn.execute("listen orders")
    conn.add_notify_handler(fail)
    with pytest.raises(ZeroDivisionError):
        conn.execute(f"insert into {database.table} values (1); notify orders")


NO_LOSS: dict[str, Case] = {
    "an adapter, in a pipeline": refused_in_a_pipeline(lambda conn: conn.execute("select %s", ["\0"])),
    "COPY, in a pipeline": refused_in_a_pipeline(copy_in),
    "an adapter, before the COMMIT": (True, [], adapter_before_the_commit),
    "a row factory, after the COMMIT": (False, [1], row_factory_after_the_commit),
    "a notify handler, amid the COMMIT": (True, [1], notify_handler_amid_the_commit),
}


@pytest.mark.parametrize("what", NO_LOSS)
def test_what_fails_on_this_side_is_no_lost_commit(pg: Database, what: str) -> None:
    """And the next borrower gets the connection as if nothing had happened."""
    autocommit, saved, case = NO_LOSS[what]
    pool = pg.pool(autocommit=autocommit)
    with pool.connection() as conn:
        case(pg, conn)
    assert pg.rows() == saved
    with suppress(psycopg.Error), pool.connection() as conn, conn.transaction():
        pg.insert(conn, 3)
        pg.kill(pg.backend(conn))
        pg.insert(conn, 4)
    assert pg.rows() == saved
    assert pool.stats().opened == 1


def test_a_commit_in_a_pipeline_behind_what_failed_saves_nothing(pg: Database) -> None:
    """It was not executed, and that is known, though the first error was swallowed."""
    pg.execute(f"insert into {pg.table} values (1)")
    pool = pg.pool()
    with pytest.raises(psycopg.errors.PipelineAborted), pool.connection() as conn, conn.pipeline():
        cursor = conn.execute(f"insert into {pg.table} values (1) returning id")
        with pytest.raises(psycopg.errors.UniqueViolation):
            cursor.fetchone()
        conn.commit()
    assert pg.rows() == [1]


def test_a_block_in_a_pipeline_may_learn_late_that_a_statement_failed(pg: Database) -> None:
    """psycopg sends COMMIT before it has read that the transaction failed."""
    pool = pg.pool(autocommit=True)
    for _ in range(100):
        with (
            pytest.raises(psycopg.errors.InFailedSqlTransaction),
            pool.connection() as conn,
            conn.pipeline() as pipeline,
        ):
            with conn.transaction():
                pg.insert(conn, 1)
                with suppress(psycopg.errors.DivisionByZero):
                    conn.execute("select 1/0")
                    pipeline.sync()
    assert pg.rows() == []


@pytest.mark.parametrize("sent", [True, False])
def test_a_thread_that_is_still_at_it_when_the_invocation_ends(database: Database, sent: bool) -> None:
    """What it had sent may be saved; what it had not is not."""
    with through(database) as (pool, line):
        ready = threading.Event()

        def left_behind() -> None:
            with suppress(lambda_pool.LambdaPoolError, *DRIVER_ERRORS), pool.connection() as conn:
                database.insert(conn, 1)
                line.silence()
                ready.set()
                conn.commit() if sent else database.insert(conn, 2)

        thread = threading.Thread(target=left_behind)
        thread.start()
        ready.wait(10)
        line.wait_for_what_is_sent()
        problem = end_invocation(pool)
        thread.join(10)
        assert isinstance(problem, lambda_pool.CommitUncertain if sent else lambda_pool.NotCommitted)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_transaction_that_was_begun_by_hand_and_left_open_is_undone(database: Database, elsewhere: bool) -> None:
    """With autocommit too: no statement of it was on its way, and no COMMIT."""
    pool = database.pool(autocommit=True)
    ready, over = threading.Event(), threading.Event()
    left = pool.connection()

    def leave() -> None:
        conn = left.__enter__()
        database.query(conn, "begin")
        database.insert(conn, 1)
        ready.set()
        over.wait(10)

    thread = threading.Thread(target=leave)
    if elsewhere:
        thread.start()
        assert ready.wait(10)
    else:
        over.set()
        leave()
    problem = end_invocation(pool)
    over.set()
    if elsewhere:
        thread.join(10)
    assert isinstance(problem, lambda_pool.NotCommitted)
    assert database.rows() == []
    assert pool.stats().size == 0


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_thread_that_is_still_at_it_when_its_block_ends(database: Database, autocommit: bool) -> None:
    failed: list[Exception] = []
    with through(database, autocommit=autocommit) as (pool, line):

        def save(conn: Any) -> None:
            try:
                database.insert(conn, 2) if autocommit else conn.commit()
            except Exception as error:
                failed.append(error)

        with pytest.raises(lambda_pool.CommitUncertain), pool.connection() as conn:
            database.insert(conn, 1)
            line.silence()
            thread = threading.Thread(target=save, args=(conn,))
            thread.start()
            until = time.monotonic() + 5
            while database.rows() != ([1, 2] if autocommit else [1]) and time.monotonic() < until:
                time.sleep(0.01)
        thread.join(5)
        assert not thread.is_alive()
        assert failed
        assert pool.stats().size == 0


def test_a_thread_that_has_not_noticed_yet_that_its_block_ended(my: Database) -> None:
    """It sent a statement, and the connection is cut under it before it could note that the answer is lost."""
    pool = my.pool(autocommit=True)
    with pytest.raises(lambda_pool.CommitUncertain, match="was not answered yet"), pool.connection() as conn:
        conn.noted.seen = look("insert into orders values (1)", several=False)
        conn.line.response_pending, conn.line.thread = True, -1
    assert pool.stats().size == 0
