"""PostgreSQL: who a transaction is, that nothing is replayed or reported which was not, and whose the outermost is."""

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.copy import QueuedLibpqWriter

import lambda_pool
from lambda_pool.testing import PostgresServer
from tests.contract.conftest import Database


class Conflict:
    """Work of `Pool.run` that writes a row, does something, and meets a conflict, but for the third time."""

    def __init__(self, pg: Database, between: Callable[[Any], object]) -> None:
        self.calls = 0
        self._pg = pg
        self._between = between

    def __call__(self, conn: Any) -> None:
        self.calls += 1
        self._pg.insert(conn, self.calls)
        self._between(conn)
        if self.calls < 3:
            raise psycopg.errors.SerializationFailure("could not serialize access")


def execute(text: str) -> Callable[[Any], object]:
    return lambda conn: conn.execute(text)


def swallow(text: str) -> Callable[[Any], object]:
    def statement(conn: Any) -> None:
        with pytest.raises(psycopg.Error):
            conn.execute(text)

    return statement


def a_failure_and_a_savepoint(conn: Any) -> None:
    swallow("commit; begin; savepoint s; select 1/0")(conn)
    conn.execute("rollback to s")


def in_a_pipeline(conn: Any) -> None:
    with conn.pipeline():
        conn.execute("commit and chain")
        conn.execute("select 1")


def many(conn: Any) -> None:
    conn.cursor().executemany("commit and chain", [()])


def streamed(conn: Any) -> None:
    with pytest.raises(psycopg.ProgrammingError):
        list(conn.cursor().stream("commit and chain"))


def copied(conn: Any) -> None:
    with pytest.raises(psycopg.Error), conn.cursor().copy("commit; begin; select 1"):
        pass


def by_a_cursor_of_ones_own(conn: Any) -> None:
    psycopg.ClientCursor(conn).execute("commit and chain")


def with_another_class(conn: Any) -> None:
    conn.cursor_factory = psycopg.RawCursor
    conn.execute("commit and chain")


def with_no_class(conn: Any) -> None:
    conn.cursor_factory = partial(psycopg.Cursor)
    conn.execute("commit and chain")


ENDINGS: dict[str, Callable[[Any], object]] = {
    "commit and chain": execute("commit and chain"),
    "end and chain": execute("END AND CHAIN"),
    "rollback and chain": execute("rollback and chain"),
    "commit; begin": execute("commit; begin"),
    "rollback; begin": execute("rollback; begin"),
    "behind a comment": execute("/* a /* b */ c */ commit /* d */ and chain"),
    "as the second": execute("select 1; -- now\ncommit; begin"),
    "bytes": execute(b"commit; begin"),  # type: ignore[arg-type]
    "composed": execute(psycopg.sql.SQL("{}").format(psycopg.sql.SQL("commit and chain"))),  # type: ignore[arg-type]
    "and then a failure": swallow("commit; begin; savepoint s; select 1/0"),
    "a failure and a savepoint": a_failure_and_a_savepoint,
    "in a pipeline": in_a_pipeline,
    "executemany": many,
    "stream": streamed,
    "copy": copied,
    "a cursor of one's own": by_a_cursor_of_ones_own,
    "another cursor class": with_another_class,
    "a factory that is no class": with_no_class,
    "a procedure afterwards": execute("commit; call saved_by_a_procedure(); begin"),
}


@pytest.mark.sampled(8, "many cases")
@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("autocommit", [False, True])
def test_what_was_saved_is_not_replayed(pg: Database, name: str, autocommit: bool) -> None:
    pg.execute("create or replace procedure saved_by_a_procedure() language plpgsql as $$ begin commit; end $$")
    work = Conflict(pg, ENDINGS[name])
    with pytest.raises(psycopg.Error):
        pg.pool(autocommit=autocommit).run(work)
    assert work.calls == 1
    assert pg.rows() in ([], [1])


def nested(conn: Any) -> None:
    with conn.transaction():
        conn.execute("select 1")
    with pytest.raises(ZeroDivisionError), conn.transaction():
        raise ZeroDivisionError


def a_savepoint(conn: Any) -> None:
    conn.execute("savepoint s")
    with pytest.raises(psycopg.Error):
        conn.execute("select 1/0; select 'a; commit'")
    conn.execute("rollback to savepoint s")
    conn.execute("rollback work to s")
    conn.execute("release s")


def pipelined(conn: Any) -> None:
    with conn.pipeline():
        conn.execute("select 1")
        conn.execute("select case when true then 1 end")


def by_cursors(conn: Any) -> None:
    with conn.cursor("named") as cursor:
        cursor.execute("select generate_series(1, 10)")
        assert cursor.fetchone() == (1,)
        assert len(list(cursor)) == 9
    assert len(list(conn.cursor().stream("select generate_series(1, 3)"))) == 3
    with conn.cursor().copy("copy (select 1) to stdout") as copy:
        assert [bytes(block) for block in copy] == [b"1\n"]
    conn.cursor().executemany("select %s::int", [(1,), (2,)])


STAYING: dict[str, Callable[[Any], object]] = {
    "transaction blocks": nested,
    "savepoints": a_savepoint,
    "a pipeline": pipelined,
    "cursors": by_cursors,
    "DO": execute("do $$ begin perform 1; end $$"),
    "CASE": execute("select case when true then 'x; commit' end; select 1"),
    "isolation": execute("set constraints all deferred"),
}


@pytest.mark.sampled(4, "many cases")
@pytest.mark.parametrize("name", STAYING)
def test_what_ended_nothing_is_replayed(pg: Database, name: str) -> None:
    work = Conflict(pg, STAYING[name])
    pg.pool().run(work)
    assert work.calls == 3
    assert pg.rows() == [3]


@pytest.mark.parametrize("lost", [True, False])
def test_work_whose_threads_share_its_connection_is_replayed(pg: Database, lost: bool) -> None:
    """psycopg lets them wait for one another. One that waits did not lose sight of what it sends."""
    pool, calls = pg.pool(), list[int]()

    def work(conn: Any) -> int:
        calls.append(1)
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(conn.execute, ["select pg_sleep(0.1)"] * 2))
        rows = [number for (number,) in conn.cursor().stream("select generate_series(1, 3)")]
        pg.insert(conn, sum(rows))
        if len(calls) == 1 and lost:
            pg.execute(f"select pg_terminate_backend({conn.info.backend_pid}, 5000)")
            conn.execute("select 1")
        elif len(calls) == 1:
            raise psycopg.errors.SerializationFailure
        return len(calls)

    assert pool.run(work) == 2
    assert pg.rows() == [6]


def test_work_that_copies_from_another_thread_is_replayed(pg: Database) -> None:
    """As psycopg's own QueuedLibpqWriter does. Nobody else can send anything meanwhile."""
    pool, calls = pg.pool(), list[int]()

    def work(conn: Any) -> None:
        calls.append(1)
        cursor = conn.cursor()
        writer = QueuedLibpqWriter(cursor)
        writer.flush_threshold = 0  # as in versions of psycopg that have no such setting
        with cursor.copy(f"copy {pg.table} from stdin", writer=writer) as copy:
            copy.write_row([1])
            if len(calls) == 1:
                pg.kill(conn.info.backend_pid)
            copy.write_row([2])

    pool.run(work)
    assert pg.rows() == [1, 2]
    assert len(calls) == 2


def test_the_work_may_still_choose_its_isolation(pg: Database) -> None:
    def work(conn: Any) -> Any:
        conn.execute("set transaction isolation level serializable")
        return conn.execute("show transaction_isolation").fetchone()

    assert pg.pool().run(work) == ("serializable",)


@pytest.mark.parametrize("end", ["tpc_prepare", "tpc_commit"])
def test_a_failed_transaction_is_neither_prepared_nor_committed(pg: Database, end: str) -> None:
    """The server answers with ROLLBACK, and no error."""
    pool = pg.pool()
    with (
        pytest.raises(psycopg.errors.InFailedSqlTransaction, match="none of it is saved"),
        pool.connection() as conn,
    ):
        conn.tpc_begin("failed")
        pg.insert(conn, 1)
        with contextlib.suppress(psycopg.Error):
            conn.execute("select 1/0")
        getattr(conn, end)()
    with pool.connection() as conn:
        pg.insert(conn, 2)
    assert pg.rows() == [2]


def test_a_prepared_transaction_is_not_replayed(caplog: pytest.LogCaptureFixture) -> None:
    with PostgresServer(extra_config=["max_prepared_transactions = 2"]) as server:
        server.execute("create table two_phased (id int)")
        pool = lambda_pool.Pool(server.url(), observers=())
        calls = []

        def work(conn: Any) -> None:
            calls.append(1)
            conn.execute("insert into two_phased values (1)")
            conn.execute("prepare transaction 'x'")
            conn.execute("select 1")
            raise psycopg.errors.SerializationFailure

        with pytest.raises(psycopg.errors.SerializationFailure):
            pool.run(work)
        assert calls == [1]
        server.execute("commit prepared 'x'")
        with caplog.at_level(logging.WARNING), pool.connection() as conn:
            conn.tpc_begin("left behind")
            conn.execute("insert into two_phased values (2)")
            conn.tpc_prepare()
        assert "left the prepared transaction left behind behind" in caplog.text
        with pool.connection() as conn:
            conn.tpc_rollback("left behind")
        caplog.clear()
        with pool.connection() as conn:
            conn.tpc_begin("ended")
            conn.execute("insert into two_phased values (3)")
            conn.tpc_prepare()
            conn.tpc_commit()
        with pool.connection() as conn:
            conn.autocommit = True
            for statement in ("begin", "prepare transaction 'ended too'", "rollback prepared 'ended too'"):
                conn.execute(statement)
        assert not caplog.text
        with pool.connection() as conn:
            conn.execute("insert into two_phased values (4)")
            conn.execute("prepare transaction 'in sql'")
        assert "left the prepared transaction in sql behind" in caplog.text
        server.execute("rollback prepared 'in sql'")
        assert server.execute("select id from two_phased order by id") == [(1,), (3,)]
        pool.close()


# --- whose the outermost transaction is -------------------------------------------------------------------------------


def begun_plainly(conn: Any) -> Any:
    return conn.transaction()


def begun_with_a_name(conn: Any) -> Any:
    return conn.transaction("outermost")


@pytest.mark.parametrize("begin", [begun_plainly, begun_with_a_name])
@pytest.mark.parametrize("how", ["connection", "handler", "run", "serializable"])
def test_a_transaction_block_first_is_undone_with_the_rest(pg: Database, begin: Any, how: str) -> None:
    pool = pg.pool()

    def work(conn: Any) -> None:
        if how == "serializable":
            conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            conn.deferrable = True
        with begin(conn):
            pg.insert(conn, 1)
        if how == "serializable":
            assert pg.query(conn, "show transaction_isolation") == [("serializable",)]
            assert pg.query(conn, "show transaction_deferrable") == [("on",)]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        if how == "run":
            pool.run(work)
        elif how == "handler":
            pool.handler(lambda event, context, conn: work(conn))({}, None)
        else:
            with pool.connection() as conn:
                work(conn)
    assert pg.rows() == []
    assert pool.stats().opened == 1


def test_a_transaction_block_first_in_a_pipeline(pg: Database) -> None:
    pool = pg.pool()
    with pytest.raises(ZeroDivisionError), pool.connection() as conn:
        with conn.pipeline(), conn.transaction():
            conn.execute(f"insert into {pg.table} values (1)")
        raise ZeroDivisionError
    with pool.connection() as conn, conn.pipeline(), conn.transaction():
        conn.execute(f"insert into {pg.table} values (2)")
    assert pg.rows() == [2]


def give_up(part: Any) -> None:
    raise psycopg.Rollback(part)


def test_parts_of_a_block_may_be_undone_and_committed(pg: Database) -> None:
    pool = pg.pool()
    with pool.connection() as conn:
        with pytest.raises(ZeroDivisionError), conn.transaction():
            pg.insert(conn, 1)
            raise ZeroDivisionError
        with conn.transaction(force_rollback=True):
            pg.insert(conn, 2)
        with conn.transaction() as part:
            pg.insert(conn, 3)
            give_up(part)
        with conn.transaction():
            pg.insert(conn, 4)
        conn.commit()
        with conn:
            pg.insert(conn, 5)
        with pytest.raises(ZeroDivisionError), conn:
            pg.insert(conn, 6)
            raise ZeroDivisionError
        assert not conn.closed
    assert pg.rows() == [4, 5]
    assert (pool.stats().opened, pool.stats().idle) == (1, 1)


def test_on_autocommit_a_transaction_block_is_a_real_one(pg: Database) -> None:
    pool = pg.pool(autocommit=True)
    with pytest.raises(ZeroDivisionError), pool.connection() as conn:
        with conn.transaction():
            pg.insert(conn, 1)
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        raise ZeroDivisionError
    with pytest.raises(psycopg.Error, match="none of it is saved"), pool.connection() as conn, conn.transaction():
        pg.insert(conn, 2)
        with pytest.raises(psycopg.Error):
            pg.query(conn, "select 1/0")
    assert pg.rows() == [1]
    assert pool.stats().opened == 1


# --- nothing saved is no success --------------------------------------------------------------------------------------


def by_method(conn: Any) -> None:
    conn.commit()


def by_with(conn: Any) -> None:
    with conn:
        pass


def by_pipeline(conn: Any) -> None:
    with conn.pipeline():
        conn.execute("commit")


@pytest.mark.sampled(5, "many cases")
@pytest.mark.parametrize(
    "commit",
    [by_method, by_with, execute("commit"), execute("/* all */ END; select 1"), by_pipeline],
    ids=["method", "with", "SQL", "SQL in a string", "SQL in a pipeline"],
)
@pytest.mark.parametrize("reset", ["transaction", "changed", "session"])
def test_a_commit_of_what_had_failed_raises(pg: Database, commit: Callable[[Any], object], reset: str) -> None:
    pool = pg.pool(reset=reset)
    with (
        pytest.raises(psycopg.errors.InFailedSqlTransaction, match="none of it is saved"),
        pool.connection() as conn,
    ):
        pg.insert(conn, 1)
        with pytest.raises(psycopg.Error):
            pg.query(conn, "select 1/0")
        commit(conn)
    assert pg.rows() == []
    with pool.connection() as conn:  # whoever rolls back himself goes on
        with pytest.raises(psycopg.Error):
            pg.query(conn, "select 1/0")
        conn.rollback()
        pg.insert(conn, 2)
    assert pg.rows() == [2]


def test_in_a_pipeline_a_commit_after_a_savepoint_is_one(pg: Database) -> None:
    with pg.pool().connection() as conn, conn.pipeline() as pipeline:
        pg.insert(conn, 1)
        conn.execute("savepoint before")
        with pytest.raises(psycopg.errors.UniqueViolation):
            pg.insert(conn, 1)
            pipeline.sync()
        conn.execute("rollback to before")
        conn.execute("commit")
    assert pg.rows() == [1]


def test_what_the_driver_refuses_is_not_committed_with_a_reset(pg: Database) -> None:
    pool = pg.pool(reset="session")
    with pytest.raises(psycopg.ProgrammingError), pool.connection() as conn:
        left = conn.transaction()
        left.__enter__()
        pg.insert(conn, 1)
    assert pg.rows() == []
    assert pool.stats().size == 0


@pytest.mark.parametrize("unsaved", ["raise", "warn"])
def test_a_stream_that_was_left_is_no_success(pg: Database, unsaved: str, caplog: pytest.LogCaptureFixture) -> None:
    pool = pg.pool(unsaved=unsaved)
    told = pytest.raises(lambda_pool.NotCommitted, match="still at work") if unsaved == "raise" else nullcontext()
    with told, pool.connection() as conn:
        pg.insert(conn, 1)
        rows = conn.cursor().stream("select generate_series(1, 100000)")
        next(rows)
    rows.close()
    assert pg.rows() == []
    assert ("still at work" in caplog.text) == (unsaved == "warn")
    assert pool.stats().size == 0


@pytest.mark.parametrize("then", ["nothing", "sync()", "commit()"])
@pytest.mark.parametrize("autocommit", [False, True])
def test_a_pipeline_that_was_left_is_no_success(pg: Database, autocommit: bool, then: str) -> None:
    """Nor is it said that nothing was saved, if that is not sure."""
    pool = pg.pool(autocommit=autocommit)
    told = lambda_pool.CommitUncertain if autocommit or then == "commit()" else lambda_pool.NotCommitted
    with pytest.raises(told, match="still at work"), pool.connection() as conn:
        left = conn.pipeline()
        pipeline = left.__enter__()
        conn.execute(f"insert into {pg.table} values (1)")
        if then == "sync()":
            pipeline.sync()
        elif then == "commit()":
            conn.commit()
    assert pool.stats().size == 0
    if told is lambda_pool.NotCommitted:
        assert pg.rows() == []
