"""What a block may do to its own transaction and connection, and what follows for it and for the next block."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor

import lambda_pool
from lambda_pool import reclaim
from lambda_pool.api import core_of
from lambda_pool.engines.base import Status
from lambda_pool.engines.psycopg.engine_connection import PostgresConnection
from lambda_pool.engines.psycopg.shared import Shared
from lambda_pool.events import InvocationEnded
from lambda_pool.lifecycle import arm
from lambda_pool.testing import FaultyProxy, PostgresServer
from tests.contract.conftest import Database
from tests.contract.test_contract import DRIVER_ERRORS, wait_for_goodbye
from tests.support.context import LambdaContext
from tests.support.core import entries
from tests.support.invoked import invoked


@pytest.mark.parametrize("autocommit", [False, True])
def test_many_rows_at_once(database: Database, autocommit: bool) -> None:
    pool = database.pool(autocommit=autocommit)
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.executemany(f"insert into {database.table} (id) values (%s)", [(1,), (2,), (3,)])
    assert database.rows() == [1, 2, 3]
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute(f"insert into {database.table} (id) values (4)".encode())
    assert database.rows() == [1, 2, 3, 4]
    assert pool.stats().opened == 1


# --- work that ends its own transaction is not replayed ---------------------------------------------------------------


class Counted:
    """Work of `Pool.run` that writes a row for each call, does something, and loses its connection the first time."""

    def __init__(self, database: Database, between: Callable[[Any], object], *, returns: bool = False) -> None:
        self.calls = 0
        self._database = database
        self._between = between
        self._returns = returns

    def __call__(self, conn: Any) -> None:
        self.calls += 1
        self._database.insert(conn, self.calls)
        self._between(conn)
        if self.calls == 1:
            self._database.kill(self._database.backend(conn))
            if self._returns:
                wait_for_goodbye(conn)
            else:
                self._database.query(conn, "select 1")

    def is_done_once(self, pool: lambda_pool.Pool, error: str | None = None) -> None:
        """The loss is raised, and nothing is replayed."""
        with pytest.raises(DRIVER_ERRORS, match=error):
            pool.run(self)
        assert self.calls == 1


@pytest.mark.sampled(8, "many cases")
@pytest.mark.parametrize("returns", [False, True])
@pytest.mark.parametrize(
    "statement",
    [
        "start transaction",
        "COMMIT",
        "/* the last */ commit",
        "set autocommit = 1",
        "create index i on {table} (id)",
        "lock tables {table} write",
        "                                        /*!40000 commit */",
        "call nothing()",
        pytest.param("begin not atomic commit; end", marks=pytest.mark.mariadb),
    ],
)
def test_statements_that_commit_on_mysql(my: Database, statement: str, returns: bool) -> None:
    my.execute("create or replace procedure nothing() commit")

    def between(conn: Any) -> None:
        my.query(conn, statement.format(table=my.table))
        if returns:
            my.query(conn, "start transaction")
            my.insert(conn, 10)

    work = Counted(my, between, returns=returns)
    work.is_done_once(my.pool())
    assert my.rows() == [1]


@pytest.mark.parametrize("statement", ["commit", "/* done */ COMMIT", "alter table {table} add column more int"])
def test_a_statement_that_may_have_committed_before_it_failed(my: Database, statement: str) -> None:
    """It is the statement's own answer that is lost."""

    def between(conn: Any) -> None:
        my.kill(my.backend(conn))
        my.query(conn, statement.format(table=my.table))

    work = Counted(my, between)
    work.is_done_once(my.pool())


def test_a_wait_for_a_table_after_an_implicit_commit(my: Database) -> None:
    """ALTER TABLE commits and then waits: 1205 is a conflict, but here no reason to replay."""

    def between(conn: Any) -> None:
        my.query(conn, "set lock_wait_timeout = 1")
        my.query(conn, f"alter table {my.table} add column more int")

    reader = my.pool(name="reader")
    work = Counted(my, between)
    with reader.connection() as holds:
        my.query(holds, f"select * from {my.table}")
        work.is_done_once(my.pool(), "1205")
    assert my.rows() == [1]


@pytest.mark.parametrize(
    "statement",
    [
        "select 1",
        " \n/* by the order service */ select 1",
        "-- a comment\nselect 1",
        "(select 1) union (select 2)",
        "set @total = 1",
        "savepoint before_it",
        "create temporary table if not exists scratch (id int)",
        "with recursive one as (select 1) select * from one",
    ],
)
def test_statements_that_do_not(my: Database, statement: str) -> None:
    work = Counted(my, lambda conn: my.query(conn, statement))
    my.pool().run(work)
    assert work.calls == 2
    assert my.rows() == [2]


def test_several_statements_in_one(my: Database) -> None:
    pool = my.pool(connect_args={"client_flag": CLIENT.MULTI_STATEMENTS})

    def between(conn: Any) -> None:
        with conn.cursor() as cursor:
            cursor.execute("select 1; commit; select 2")
            while cursor.nextset():
                pass
        my.insert(conn, 10)  # so that the server reports again that a transaction is open

    work = Counted(my, between)
    work.is_done_once(pool)
    assert my.rows() == [1]


@pytest.mark.parametrize("method", ["begin", "autocommit"])
def test_methods_that_commit_are_refused_on_mysql(my: Database, method: str) -> None:
    work = Counted(my, lambda conn: getattr(conn, method)(*([True] if method == "autocommit" else [])))
    with pytest.raises(pymysql.ProgrammingError, match=rf"{method}\(\) is not allowed inside Pool.run\(\)"):
        my.pool().run(work)
    assert my.rows() == []


def test_a_rollback_in_the_work_ends_its_transaction_too(my: Database) -> None:
    def between(conn: Any) -> None:
        conn.rollback()
        my.insert(conn, 10)

    work = Counted(my, between)
    work.is_done_once(my.pool(autocommit=True))
    assert my.rows() == [10]


@pytest.mark.parametrize("statement", ["commit", "commit; begin", "commit and chain"])
@pytest.mark.parametrize("returns", [False, True])
def test_a_commit_in_plain_sql_on_postgresql(pg: Database, returns: bool, statement: str) -> None:
    def between(conn: Any) -> None:
        conn.execute(statement)
        if returns:
            pg.insert(conn, 10)

    work = Counted(pg, between, returns=returns)
    work.is_done_once(pg.pool())
    assert pg.rows() == [1]


# --- a deadlock undoes everything -------------------------------------------------------------------------------------


class Deadlock:
    """Two transactions that wait for each other; the server chooses the pool's, which has changed less."""

    def __init__(self, my: Database) -> None:
        self._table = f"{my.table}_locked"
        my.execute(f"create table {self._table} (id int primary key, note int default 0) engine=innodb")
        my.execute(f"insert into {self._table} (id) values (1), (2)")
        self._my = my
        self._other = my.pool(name="other")

    def strike(self, conn: Any) -> None:
        """Cause the deadlock. Raises the driver's error for it."""
        my, table = self._my, self._table
        mine, theirs = threading.Event(), threading.Event()

        def other() -> None:
            with self._other.connection() as holds:
                my.query(holds, f"insert into {table} (id) select seq from seq_1000_to_1100")
                my.query(holds, f"update {table} set note = 1 where id = 2")
                theirs.set()
                mine.wait(10)
                my.query(holds, f"update {table} set note = 1 where id = 1")

        thread = threading.Thread(target=other)
        thread.start()
        theirs.wait(10)
        try:
            my.query(conn, f"update {table} set note = 2 where id = 1")
            mine.set()
            my.query(conn, f"update {table} set note = 2 where id = 2")
        finally:
            mine.set()
            thread.join(20)
            my.execute(f"drop table {table}")


def test_a_swallowed_deadlock_is_no_success(my: Database) -> None:
    """The server undid all of the work, so `run` starts it again."""
    deadlock = Deadlock(my)
    calls: list[int] = []

    def work(conn: Any) -> None:
        calls.append(1)
        my.insert(conn, 10)
        if len(calls) == 1:
            with pytest.raises(pymysql.MySQLError, match="1213"):
                deadlock.strike(conn)

    my.pool().run(work)
    assert calls == [1, 1]
    assert my.rows() == [10]


@pytest.mark.parametrize("autocommit", [False, True])
def test_after_a_swallowed_deadlock_nothing_more_is_written(my: Database, autocommit: bool) -> None:
    """It would be a transaction without its beginning. The error is raised again, so `run` starts afresh."""
    deadlock = Deadlock(my)
    calls: list[int] = []

    def work(conn: Any) -> None:
        calls.append(1)
        my.insert(conn, 10)
        if len(calls) == 1:
            with pytest.raises(pymysql.MySQLError, match="1213"):
                deadlock.strike(conn)
        my.insert(conn, 11)

    my.pool(autocommit=autocommit).run(work)
    assert calls == [1, 1]
    assert my.rows() == [10, 11]


# --- a connection that the block closes -------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_run_does_not_succeed_on_a_connection_that_its_work_closed(database: Database, times: int) -> None:
    def work(conn: Any) -> str:
        database.insert(conn, 1)
        for _ in range(times):
            with contextlib.suppress(pymysql.Error):  # PyMySQL says that it is already closed
                conn.close()
        return "done"

    with pytest.raises(lambda_pool.LambdaPoolError, match="closed its connection in the middle"):
        database.pool().run(work)
    assert database.rows() == []


def test_a_block_that_closes_its_connection_saves_what_it_committed(database: Database) -> None:
    """Code that used to open its own connection does this."""
    pool = database.pool()
    with pool.connection() as conn:
        database.insert(conn, 1)
        conn.commit()
        conn.close()
    assert database.rows() == [1]
    assert pool.stats().size == 0
    with pytest.raises(lambda_pool.NotCommitted), pool.connection() as conn:
        database.insert(conn, 2)
        conn.close()
    assert database.rows() == [1]


def test_a_ping_connects_no_other_session(my: Database) -> None:
    def work(conn: Any) -> None:
        my.insert(conn, 1)
        my.kill(my.backend(conn))
        with pytest.raises(pymysql.MySQLError):
            conn.ping(reconnect=True)

    with pytest.raises(lambda_pool.LambdaPoolError, match="none of the transaction is saved"):
        my.pool().run(work)
    assert my.rows() == []


# --- what the next borrower would find --------------------------------------------------------------------------------


def test_a_two_phase_transaction_that_was_prepared() -> None:
    with PostgresServer(extra_config=["max_prepared_transactions = 2"]) as server:
        server.execute("create table two_phased (id int)")
        pool = lambda_pool.Pool(server.url(), observers=())
        with pool.connection() as conn:
            conn.tpc_begin(conn.xid(1, "of another system", "branch"))
            conn.execute("insert into two_phased values (1)")
            conn.tpc_prepare()
        with pool.connection() as conn:
            conn.execute("insert into two_phased values (2)")
        assert server.execute("select id from two_phased") == [(2,)]
        pool.close()


def test_a_transaction_block_that_was_left_open_and_ended_by_hand(pg: Database) -> None:
    pool = pg.pool()
    with pool.connection() as conn:
        left = conn.transaction()
        left.__enter__()
        conn.execute("rollback")
    with pool.connection() as conn:
        pg.insert(conn, 1)
    assert pg.rows() == [1]
    assert pool.stats().opened == 2


@pytest.mark.parametrize("reset", ["changed", "transaction"])
def test_a_notifies_that_waits_to_go_on(pg: Database, reset: str) -> None:
    """It holds psycopg's own lock, and waiting for this has no time limit."""
    pool = pg.pool(autocommit=True, reset=reset)
    with pool.connection() as conn:
        conn.execute("listen orders")
        pg.execute("notify orders")
        waiting = conn.notifies(timeout=10)
        next(waiting)
    with pool.connection() as other:
        assert pg.query(other, "select 1") == [(1,)]
    assert pool.stats().opened == 2
    waiting.close()


def test_a_commit_whose_answer_begins_the_next_transaction(my: Database) -> None:
    pool = my.pool(reset="transaction")
    with pool.connection() as conn:
        my.query(conn, "set completion_type = 1")
        my.insert(conn, 1)
    assert my.rows() == [1]
    assert pool.stats().size == 0


def test_a_notify_handler_that_fails_is_no_lost_commit(pg: Database, caplog: pytest.LogCaptureFixture) -> None:
    def fail(notify: Any) -> None:
        raise ZeroDivisionError

    pool = pg.pool(reset="transaction")
    with pool.connection() as conn:
        conn.execute("listen orders")
    with pool.connection() as conn:
        conn.add_notify_handler(fail)
        conn.execute("notify orders")
        pg.insert(conn, 1)
    assert pg.rows() == [1]
    assert pool.stats().opened == 1
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "a notify handler failed")
    ]


def test_a_closed_cursor_says_so_also_where_statements_are_timed(my: Database) -> None:
    with my.pool(slow_query=10.0).connection() as conn:
        cursor = conn.cursor()
        cursor.close()
        with pytest.raises(pymysql.ProgrammingError, match="Cursor closed"):
            cursor.execute("select 1")


# --- deadlines --------------------------------------------------------------------------------------------------------


@pytest.mark.sampled(1, "2 s a case")
@pytest.mark.parametrize("at_rest", [0.0, 0.3], ids=["reads", "lingers"])
def test_a_streamed_result_ends_before_the_deadline(my: Database, at_rest: float) -> None:
    """The wait is not for a statement but for its next row; between two rows, nothing waits."""
    pool = my.pool(cancel_before_deadline=1.0)
    end = time.monotonic() + 2.5
    rows = "select repeat('x', 100000), sleep(0.2) from seq_1_to_100"
    with invoked(lambda: int((end - time.monotonic()) * 1000), reserve=1.0):
        disarm = arm()
        assert disarm is not None
        try:
            with (
                pytest.raises(lambda_pool.DeadlineExceeded),
                pool.connection() as conn,
                conn.cursor(SSCursor) as cursor,
            ):
                cursor.execute(rows)
                while cursor.fetchone():
                    time.sleep(at_rest)
        finally:
            disarm()
    assert time.monotonic() < end + 1


def test_a_lost_streamed_result_says_that_it_was_lost(my: Database) -> None:
    """Its cursor's close() would try to read on, from a socket that PyMySQL has already dropped."""
    pool = my.pool()
    with pytest.raises(pymysql.OperationalError), pool.connection() as conn, conn.cursor(SSCursor) as cursor:
        cursor.execute("select repeat('x', 100000), sleep(0.001) from seq_1_to_1000")
        cursor.fetchone()
        my.kill(conn.thread_id())
        while cursor.fetchone():
            pass


def test_connect_amid_a_block_is_refused(my: Database) -> None:
    pool = my.pool()
    with (
        pytest.raises(pymysql.ProgrammingError, match="leave the block, and borrow another"),
        pool.connection() as conn,
    ):
        my.insert(conn, 1)
        conn.connect()
    assert my.rows() == []
    with pool.connection() as conn:
        my.insert(conn, 2)
    assert my.rows() == [2]


@pytest.mark.sampled(1, "a second a case")
def test_bringing_a_connection_back_takes_no_longer_than_the_invocation_lasts(database: Database) -> None:
    with FaultyProxy("127.0.0.1", database.server.port) as proxy:
        url = database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
        pool = database.pool(url, reset="session", ping_timeout=20.0)
        pool.warm()
        end = time.monotonic() + 1.0
        with invoked(lambda: int((end - time.monotonic()) * 1000)), pool.connection():
            proxy.black_hole(new=False)
        assert time.monotonic() < end + 5
        assert pool.stats().size == 0


# --- what is left open ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("unsaved", ["raise", "warn"])
def test_a_transaction_that_a_handler_leaves_open_is_told_of(
    database: Database, unsaved: str, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = database.pool(unsaved=unsaved)
    left: list[Any] = []

    @pool.handler
    def handler(event: Any, context: Any) -> None:
        left.append(pool.connection())
        database.insert(left[0].__enter__(), 1)
        if fails:
            raise ZeroDivisionError

    told = ZeroDivisionError if fails else lambda_pool.NotCommitted
    with pytest.raises(told) if fails or unsaved == "raise" else contextlib.nullcontext():
        handler({}, None)
    assert ("none of it is saved" in caplog.text) == (unsaved == "warn" and not fails)
    assert database.rows() == []


@pytest.mark.parametrize("before", ["failed", "well"])
def test_a_connection_that_is_being_checked_for_a_thread_has_no_work_of_an_earlier_borrow(
    database: Database, before: str
) -> None:
    pool = database.pool(ping_after=0)
    with contextlib.suppress(ZeroDivisionError), pool.connection() as conn:
        database.insert(conn, 1)
        if before == "failed":
            raise ZeroDivisionError

    def borrow() -> None:
        with contextlib.suppress(lambda_pool.LambdaPoolError), pool.connection():
            pass

    thread = threading.Thread(target=borrow)

    @pool.handler
    def handler(event: Any, context: Any) -> str:
        database.server.pause()
        thread.start()
        while entries(pool)[0].link.status() is not Status.ENDING:
            time.sleep(0.01)
        return "done"

    try:
        assert handler({}, None) == "done"
    finally:
        database.server.resume()
        thread.join()


# --- what is begun too late -------------------------------------------------------------------------------------------


def test_used_after_its_return_it_is_not_lent_again(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise the next borrower would commit something that he never wrote."""
    pool = database.pool()
    with pool.connection() as late:
        database.insert(late, 1)
    database.insert(late, 2)
    with caplog.at_level(logging.WARNING), pool.connection() as conn:
        assert conn is not late
        database.insert(conn, 3)
    assert "used after it had been given back" in caplog.text
    assert database.rows() == [1, 3]
    assert pool.stats().replaced == 1


def test_used_after_its_return_it_is_not_frozen(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Its locks would be held for as long as the environment is frozen."""
    pool = database.pool()

    @pool.handler
    def handler(event: Any, context: Any) -> None:
        with pool.connection() as conn:
            database.insert(conn, 1)
        database.insert(conn, 2)

    with caplog.at_level(logging.WARNING), pytest.raises(lambda_pool.NotCommitted, match="still open"):
        handler({}, None)
    assert "used after it had been given back" in caplog.text
    assert pool.stats().size == 0
    assert database.rows() == [1]
    with pool.connection() as conn:
        database.insert(conn, 2)  # the other transaction's lock would block this
    assert database.rows() == [1, 2]


def test_what_one_pool_does_not_know_no_other_calls_undone(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who is told that nothing is saved does it all again, even what another pool may have saved."""
    monkeypatch.setattr(reclaim, "cancel", lambda *_: False)  # its answer would say that the statement is undone
    ended: list[InvocationEnded] = []

    class Observer:
        def on_event(self, event: Any) -> None:
            if isinstance(event, InvocationEnded):
                ended.append(event)

    tidy, undone, unknown = (
        database.pool(observers=[Observer()], autocommit=autocommit) for autocommit in (False, False, True)
    )
    postgres = database.engine == "postgresql"
    begins, left = threading.Event(), undone.connection()

    def straggler() -> None:
        with contextlib.suppress(*DRIVER_ERRORS), unknown.connection() as conn:
            begins.set()
            database.query(conn, f"select {'pg_sleep' if postgres else 'sleep'}(30)")

    thread = threading.Thread(target=straggler)

    @tidy.handler
    def handler(event: Any, context: Any) -> None:
        database.insert(left.__enter__(), 1)
        thread.start()
        assert begins.wait(10)
        entry = core_of(unknown).state.entries[0]
        while entry.link.status() is not Status.COMMITTING:
            time.sleep(0.01)

    with pytest.raises(lambda_pool.CommitUncertain, match="in autocommit mode, which may or may not be saved"):
        handler({}, LambdaContext())
    thread.join(10)
    assert [event.failed for event in ended] == [True, True, True]
    assert database.rows() == []


def test_a_statement_that_is_cut_is_uncertain_before_its_thread_has_noticed(
    pg: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread may run first, and then take its time to look at what libpq found."""
    told, cut, genuine = Shared.tell_of_statement, threading.Event(), PostgresConnection.abort

    def tells_late(conn: Shared, query: Any, error: BaseException) -> None:
        cut.set()
        time.sleep(0.5)
        told(conn, query, error)

    def aborts(link: PostgresConnection, *, cancelled: bool = False) -> None:
        genuine(link, cancelled=cancelled)
        assert cut.wait(10)

    monkeypatch.setattr(reclaim, "cancel", lambda *_: False)
    monkeypatch.setattr(Shared, "tell_of_statement", tells_late)
    monkeypatch.setattr(PostgresConnection, "abort", aborts)
    pool, begins = pg.pool(autocommit=True), threading.Event()

    def straggler() -> None:
        with contextlib.suppress(*DRIVER_ERRORS), pool.connection() as conn:
            begins.set()
            pg.query(conn, "select pg_sleep(30)")

    thread = threading.Thread(target=straggler)

    @pool.handler
    def handler(event: Any, context: Any) -> None:
        thread.start()
        assert begins.wait(10)
        while entries(pool)[0].link.status() is not Status.COMMITTING:
            time.sleep(0.01)

    with pytest.raises(lambda_pool.CommitUncertain, match="in autocommit mode, which may or may not be saved"):
        handler({}, LambdaContext())
    thread.join(10)
