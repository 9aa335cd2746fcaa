"""Ending a statement before the deadline: what it began is undone, and nothing but a borrower's statement is struck."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import psycopg
import pymysql
import pytest
from pymysql.constants import CLIENT

import lambda_pool
from lambda_pool import lifecycle
from lambda_pool.engines.base import Status
from lambda_pool.testing import FaultyProxy
from tests.contract.conftest import Database
from tests.support.core import cancel_running, entries
from tests.support.invoked import invoked


@pytest.fixture(autouse=True)
def for_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pool asks for holds for the whole process, and would else hold for every later test."""
    monkeypatch.setattr(lifecycle.process, "cancel_before", 0.0)


@contextlib.contextmanager
def alarm(pool: lambda_pool.Pool, within: float) -> Iterator[None]:
    """What the timer does before a deadline, over and over, while the block runs."""
    over = threading.Event()

    def ring() -> None:
        while not over.wait(0.2):
            cancel_running(pool, within)

    thread = threading.Thread(target=ring)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_procedure_that_was_ended_after_its_commit_is_not_told_as_undone(my: Database) -> None:
    """SLEEP() returns early there, so the procedure ends without an error."""
    my.execute("create or replace procedure commits_and_sleeps() begin commit; do sleep(20); end")
    pool = my.pool(cancel_before_deadline=1.0)
    with pytest.raises(lambda_pool.CommitUncertain, match="may be saved or undone"), pool.connection() as conn:
        my.insert(conn, 1)
        with alarm(pool, 5.0), pytest.raises(lambda_pool.DeadlineExceeded):
            my.query(conn, "call commits_and_sleeps()")
    assert my.rows() == [1]


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("how", ["connection", "run"])
def test_nothing_of_its_transaction_is_committed(database: Database, how: str) -> None:
    """Not even by a block that goes on as if nothing had been: MySQL undoes the statement alone."""
    pool = database.pool(cancel_before_deadline=1.0)
    sleeper = "select pg_sleep(20)" if database.engine == "postgresql" else "select sleep(20)"

    def work(conn: object) -> None:
        database.insert(conn, 1)
        with alarm(pool, 5.0), pytest.raises(lambda_pool.DeadlineExceeded):
            database.query(conn, sleeper)

    start = time.monotonic()
    with pytest.raises(lambda_pool.NotCommitted, match="none of the transaction is saved"):
        if how == "connection":
            with pool.connection() as conn:
                work(conn)
        else:
            pool.run(work)
    assert time.monotonic() - start < 10
    assert database.rows() == []


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("how", ["method", "statement"])
def test_what_follows_the_blocks_own_rollback_is_saved(database: Database, how: str) -> None:
    """Its ROLLBACK ended the transaction that the deadline struck: the next one is whole."""
    pool = database.pool(cancel_before_deadline=1.0)
    with pool.connection() as conn:
        database.insert(conn, 1)
        with alarm(pool, 5.0), pytest.raises(lambda_pool.DeadlineExceeded):
            database.query(conn, "select pg_sleep(20)" if database.engine == "postgresql" else "select sleep(20)")
        conn.rollback() if how == "method" else conn.cursor().execute("rollback")
        database.insert(conn, 2)
    assert database.rows() == [2]


def strike(my: Database, pool: lambda_pool.Pool, conn: Any) -> None:
    """Let the deadline end a statement, and swallow that."""
    with alarm(pool, 5.0), pytest.raises(lambda_pool.DeadlineExceeded):
        my.query(conn, "select sleep(20)")


ENDINGS: list[Callable[[Any], object]] = [
    lambda conn: conn.commit(),
    lambda conn: conn.begin(),
    lambda conn: conn.autocommit(True),
    *(
        partial(lambda sql, conn: conn.query(sql), sql)
        for sql in (
            "commit",
            "/* the last */ COMMIT",
            "start transaction",
            "set autocommit = 1",
            "create table more (id int)",
            "insert into more values (2)",
            "select 1",
            "savepoint later",
            "commit; rollback",
            "select 1; rollback",
        )
    ),
]


def test_half_of_a_transaction_is_never_committed(my: Database) -> None:
    """MySQL undoes no more than the statement: what would save the rest, or add to it, is refused there and then."""
    pool = my.pool(cancel_before_deadline=1.0, connect_args={"client_flag": CLIENT.MULTI_STATEMENTS})
    with pytest.raises(lambda_pool.NotCommitted), pool.connection() as conn:
        my.insert(conn, 1)
        strike(my, pool, conn)
        for end in ENDINGS:
            with pytest.raises(pymysql.InternalError, match="the deadline ended a statement of this transaction"):
                end(conn)
    assert my.rows() == []
    assert pool.stats().idle == 1


def test_with_conn_does_not_commit_half_of_it_either(my: Database) -> None:
    pool = my.pool(cancel_before_deadline=1.0)
    with pool.connection() as conn:
        with pytest.raises(pymysql.InternalError, match="the deadline ended a statement"), conn:
            my.insert(conn, 1)
            strike(my, pool, conn)
        my.insert(conn, 2)
    assert my.rows() == [2]


@pytest.mark.parametrize("how", ["connection", "run"])
def test_a_savepoint_makes_it_whole_again(my: Database, how: str) -> None:
    """As on PostgreSQL: what the deadline struck came after it. Frameworks nest their transactions so."""
    pool = my.pool(cancel_before_deadline=1.0)

    def work(conn: Any) -> None:
        my.insert(conn, 1)
        my.query(conn, "savepoint inner_one")
        my.insert(conn, 2)
        strike(my, pool, conn)
        my.query(conn, "rollback to savepoint inner_one")
        my.insert(conn, 3)

    if how == "run":
        pool.run(work)
    else:
        with pool.connection() as conn:
            work(conn)
            conn.commit()
    assert my.rows() == [1, 3]


def test_a_new_transaction_after_one_of_which_nothing_is_left(my: Database) -> None:
    pool = my.pool(cancel_before_deadline=1.0)
    with pool.connection() as conn:
        strike(my, pool, conn)
        conn.begin()
        my.insert(conn, 1)
    assert my.rows() == [1]


@pytest.mark.parametrize("begun", [False, True])
def test_with_autocommit_the_struck_statement_was_all_there_was(my: Database, begun: bool) -> None:
    """Unless a transaction was begun."""
    pool = my.pool(cancel_before_deadline=1.0, autocommit=True)
    with pytest.raises(lambda_pool.NotCommitted) if begun else nullcontext(), pool.connection() as conn:
        my.insert(conn, 1)
        if begun:
            conn.begin()
            my.insert(conn, 2)
        strike(my, pool, conn)
        with pytest.raises(pymysql.InternalError, match="the deadline ended") if begun else nullcontext():
            my.insert(conn, 3)
    assert my.rows() == ([1] if begun else [1, 3])


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("how", ["connection", "run"])
def test_a_commit_without_an_answer_ends_in_time_however_often_the_alarm_rings(database: Database, how: str) -> None:
    """A driver's wait that begins anew with each signal would never look at the clock."""
    # On a thread: a wait that begins anew lets no signal handler run either.
    rescue = threading.Timer(4.0, signal.setitimer, (signal.ITIMER_REAL, 0))
    with FaultyProxy("127.0.0.1", database.server.port) as proxy:
        pool = database.pool(database.url.replace(f":{database.server.port}/", f":{proxy.port}/"))

        def work(conn: object) -> None:
            database.insert(conn, 1)
            proxy.black_hole()

        end = time.monotonic() + 1.0
        previous = signal.signal(signal.SIGALRM, lambda number, frame: None)
        rescue.start()
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        try:
            with invoked(lambda: int((end - time.monotonic()) * 1000)), pytest.raises(lambda_pool.CommitUncertain):
                if how == "run":
                    pool.run(work)
                else:
                    with pool.connection() as conn:
                        work(conn)
            assert time.monotonic() < end
        finally:
            rescue.cancel()
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)


@pytest.mark.sampled(2, "a second a case")
@pytest.mark.parametrize("method", ["commit", "rollback", "begin", "autocommit"])
def test_also_what_the_drivers_methods_wait_for(database: Database, method: str) -> None:
    """Not only statements: any answer may fail to come. Of one that commits, nobody knows then whether it did."""
    if database.engine == "postgresql" and method in {"begin", "autocommit"}:
        method = "rollback"  # it has no such methods that ask the server
    error: Any = lambda_pool.DeadlineExceeded if method == "rollback" else lambda_pool.CommitUncertain
    with FaultyProxy("127.0.0.1", database.server.port) as proxy:
        url = database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
        pool = database.pool(url, cancel_before_deadline=1.0)
        start = time.monotonic()
        with alarm(pool, 0.3), pytest.raises(error) as caught, pool.connection() as conn:
            database.insert(conn, 1)
            proxy.black_hole(new=False)
            getattr(conn, method)(*([True] if method == "autocommit" else []))
        assert time.monotonic() - start < 10
        if error is lambda_pool.DeadlineExceeded:  # and not what the driver makes of a socket that the pool shut
            assert str(caught.value).endswith("than cancel_before_deadline; the server did not answer")
        assert pool.stats().size == 0


def test_whether_work_may_be_done_again_is_asked_no_longer_than_the_invocation_lasts(my: Database) -> None:
    """Work that failed after a statement which may have saved it: the server knows, and is silent."""
    with FaultyProxy("127.0.0.1", my.server.port) as proxy:
        pool = my.pool(my.url.replace(f":{my.server.port}/", f":{proxy.port}/"))
        end = time.monotonic() + 60

        def work(conn: Any) -> None:
            nonlocal end
            my.query(conn, "prepare it from 'select 1'")
            my.query(conn, "execute it")
            proxy.black_hole()
            end = time.monotonic() + 0.3
            raise KeyError("of the work itself")

        with invoked(lambda: int((end - time.monotonic()) * 1000)), pytest.raises(KeyError):
            pool.run(work)
        assert time.monotonic() < end + 0.4
        assert pool.stats().size == 0


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("how", ["run", "run on autocommit", "readonly"])
def test_a_begin_that_is_not_answered_is_the_pools_to_replace(database: Database, how: str) -> None:
    """Nobody has seen the connection yet; and the wait is the pool's own, so it is bounded."""
    if how == "readonly" and database.engine == "postgresql":
        how = "run"  # there a read-only block's BEGIN goes out with its first statement
    with FaultyProxy("127.0.0.1", database.server.port) as proxy:
        url = database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
        pool = database.pool(url, ping_timeout=0.3, autocommit="autocommit" in how)
        pool.warm()
        proxy.black_hole(new=False)
        start = time.monotonic()
        if how == "readonly":
            with pool.connection(readonly=True) as conn:
                assert database.query(conn, "select 1") == [(1,)]
        else:
            pool.run(lambda conn: database.insert(conn, 1))
            assert database.rows() == [1]
        assert time.monotonic() - start < 10
        assert pool.stats().opened == 2


def test_a_cancel_that_comes_too_late_strikes_nothing_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread's statement may end between the look at it and its cancel."""
    pool = database.pool(cancel_before_deadline=1.0, autocommit=True)
    with pool.connection() as conn:
        database.insert(conn, 1)
        with monkeypatch.context() as patch:
            patch.setattr(type(entries(pool)[0].link), "status", lambda link: Status.BUSY)
            cancel_running(pool, 1.0)
        time.sleep(0.2)  # the server forgets a cancel that finds nothing to cancel
    with pool.connection() as conn:
        database.insert(conn, 2)
    assert database.rows() == [1, 2]


@pytest.mark.sampled(1, "a second a case")
def test_nor_does_it_give_its_name_to_a_later_error(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is the driver's own; and a connection that is lost later is replaced, as any other."""
    pool = database.pool(cancel_before_deadline=1.0)

    def cancel_too_late() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(type(entries(pool)[0].link), "status", lambda link: Status.BUSY)
            cancel_running(pool, 1.0)
        time.sleep(0.2)  # the server forgets a cancel that finds nothing to cancel

    with pool.connection() as conn:
        database.insert(conn, 1)
        cancel_too_late()
        with pytest.raises((psycopg.Error, pymysql.MySQLError), match="nowhere"):
            database.query(conn, "select 1 from nowhere")
        conn.rollback()
    with pool.connection() as conn:
        database.insert(conn, 2)
        backend = database.backend(conn)
        cancel_too_late()
    with pool.connection() as conn:
        cancel_too_late()
    database.kill(backend)
    with pool.connection() as conn:
        database.insert(conn, 3)
    assert database.rows() == [2, 3]


def test_a_borrow_that_soon_follows_a_cancelled_one_is_cancelled_too(database: Database) -> None:
    pool = database.pool(cancel_before_deadline=1.0)
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(lambda_pool.DeadlineExceeded), pool.connection() as conn, alarm(pool, 5.0):
            database.query(conn, "select pg_sleep(20)" if database.engine == "postgresql" else "select sleep(20)")
    assert time.monotonic() - start < 5.0
    assert (pool.stats().opened, pool.stats().idle) == (1, 1)


def test_the_pools_own_commit_is_not_struck(pg: Database) -> None:
    """A trigger makes COMMIT take its time, as a replica that must confirm it may."""
    pg.execute(
        f"create function {pg.table}_wait() returns trigger language plpgsql as "
        "$$ begin perform pg_sleep(1); return null; end $$"
    )
    pg.execute(
        f"create constraint trigger slow after insert on {pg.table} deferrable initially deferred "
        f"for each row execute function {pg.table}_wait()"
    )
    pool = pg.pool(cancel_before_deadline=1.0)
    with alarm(pool, 0.1), pool.connection() as conn:
        pg.insert(conn, 1)
    assert pg.rows() == [1]
    assert pool.stats().idle == 1
    pg.execute(f"drop function {pg.table}_wait() cascade")
