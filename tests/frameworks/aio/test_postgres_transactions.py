"""Transactions of psycopg's AsyncConnection: who ends them, in blocks, pipelines and two phases, and what is saved."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg.errors import DivisionByZero, InFailedSqlTransaction
from psycopg.pq import TransactionStatus

import lambda_pool
from lambda_pool import DeadlineExceeded, NotCommitted
from lambda_pool.engines.psycopg import async_connection
from lambda_pool.testing import PostgresServer
from tests.contract.conftest import Database
from tests.frameworks.aio.borrowed import borrow, one
from tests.frameworks.aio.conftest import Ground, at_rest, query
from tests.support.invoked import invoked


@pytest.fixture
def database(pg: Database) -> Database:
    """Only PostgreSQL."""
    return pg


def give_up(part: Any) -> None:
    raise psycopg.Rollback(part)


async def fail(conn: Any) -> None:
    """Let the transaction fail, and swallow that."""
    with contextlib.suppress(psycopg.errors.DivisionByZero):
        await conn.execute("select 1/0")


# --- pipelines --------------------------------------------------------------------------------------------------------


def test_a_pipeline_with_a_commit_in_it(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> tuple[int]:
        async with conn.pipeline() as pipeline:
            await conn.execute(f"insert into {ground.table} values (1)")
            await conn.execute("commit")
            cursor = await conn.execute("select 42")
            async with conn.pipeline():  # one in another is the same
                await conn.execute(f"insert into {ground.table} values (2)")
            await pipeline.sync()
            found: tuple[int] = await cursor.fetchone()
        await conn.rollback()
        return found

    assert borrow(pool, work) == (42,)
    assert ground.rows() == [1]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_a_statement_that_fails_in_a_pipeline(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    """What comes after it is not executed, not even a COMMIT, and that is certain."""

    async def work(conn: Any) -> None:
        async with conn.pipeline():
            await conn.execute(f"insert into {ground.table} values (1)")
            await conn.execute("select 1/0")
            await conn.execute("commit")

    with pytest.raises(DivisionByZero):
        borrow(pool, work)
    assert ground.rows() == []
    assert borrow(pool, one) == [(1,)]
    assert pool.stats().opened == 1


def test_a_transaction_block_in_a_pipeline_ends_with_the_blocks_own(
    ground: Ground, pool: lambda_pool.AsyncPool
) -> None:
    async def work(conn: Any, number: int, *, well: bool) -> None:
        async with conn.pipeline(), conn.transaction():
            await conn.execute(f"insert into {ground.table} values ({number})")
        if not well:
            raise LookupError

    with pytest.raises(LookupError):
        borrow(pool, lambda conn: work(conn, 1, well=False))
    borrow(pool, lambda conn: work(conn, 2, well=True))
    assert ground.rows() == [2]
    assert pool.stats().opened == 1


# --- transactions -----------------------------------------------------------------------------------------------------


def test_parts_of_a_block_may_be_undone_and_committed(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        with pytest.raises(LookupError):
            async with conn.transaction():
                await ground.insert(conn, 1)
                raise LookupError
        async with conn.transaction(force_rollback=True):
            await ground.insert(conn, 2)
        async with conn.transaction("outer") as outer, conn.transaction():
            await ground.insert(conn, 3)
            give_up(outer)
        async with conn.transaction(), conn.transaction("inner"):
            await ground.insert(conn, 4)
            with pytest.raises(psycopg.ProgrammingError, match="commit"):
                await conn.commit()
        assert ground.rows() == []
        await conn.commit()
        async with conn.transaction(force_rollback=True):  # what had failed in there was to be undone anyway
            await fail(conn)
        await ground.insert(conn, 5)

    borrow(pool, work)
    assert ground.rows() == [4, 5]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_a_transaction_block_whose_failure_was_swallowed_is_no_success(
    ground: Ground, pool: lambda_pool.AsyncPool
) -> None:
    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        with pytest.raises(InFailedSqlTransaction):
            async with conn.transaction():
                await ground.insert(conn, 2)
                await fail(conn)

    with pytest.raises(NotCommitted):
        borrow(pool, work)
    assert ground.rows() == []
    assert pool.stats().opened == 1


def test_on_autocommit_a_transaction_block_is_a_real_one(ground: Ground) -> None:
    pool = ground.pool(autocommit=True, max_size=1)

    async def work(conn: Any) -> None:
        async with conn.transaction(), conn.transaction():
            await ground.insert(conn, 1)
        assert ground.rows() == [1]
        assert conn.info.transaction_status == TransactionStatus.IDLE
        async with conn.transaction(force_rollback=True):
            await ground.insert(conn, 2)
        with pytest.raises(InFailedSqlTransaction, match="none of it is saved"):
            async with conn.transaction():
                await ground.insert(conn, 3)
                await fail(conn)
        with pytest.raises(LookupError):
            async with conn.transaction():
                await ground.insert(conn, 4)
                raise LookupError
        async with conn.pipeline(), conn.transaction():
            await conn.execute(f"insert into {ground.table} values (5)")
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        borrow(pool, work)
    assert ground.rows() == [1, 5]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


async def by_method(conn: Any) -> None:
    await conn.commit()


async def by_with(conn: Any) -> None:
    async with conn:
        pass


async def by_statement(conn: Any) -> None:
    await conn.execute("commit")


async def by_pipeline(conn: Any) -> None:
    async with conn.pipeline():
        await conn.execute("commit")


async def by_statements(conn: Any) -> None:
    await conn.execute("/* all */ END; select 1")


@pytest.mark.sampled(5, "many cases")
@pytest.mark.parametrize("reset", ["transaction", "changed", "session"])
@pytest.mark.parametrize("commit", [by_method, by_with, by_statement, by_statements, by_pipeline])
def test_a_commit_of_what_had_failed_raises(
    ground: Ground, commit: Callable[[Any], Awaitable[None]], reset: str
) -> None:
    pool = ground.pool(reset=reset, max_size=1)

    async def work(conn: Any, number: int, end: Callable[[Any], Awaitable[None]]) -> None:
        await ground.insert(conn, number)
        await fail(conn)
        with pytest.raises(InFailedSqlTransaction):
            await ground.insert(conn, number)
        await end(conn)
        await ground.insert(conn, number + 1)

    with pytest.raises(InFailedSqlTransaction, match="none of it is saved"):
        borrow(pool, lambda conn: work(conn, 1, commit))
    assert ground.rows() == []
    borrow(pool, lambda conn: work(conn, 3, lambda conn: conn.rollback()))  # a borrower that rolls back itself goes on
    assert ground.rows() == [4]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


@pytest.mark.sampled(1, "half a second a case")
@pytest.mark.parametrize("commit", [by_method, by_with, by_statement])
def test_a_pipeline_may_learn_only_after_commit_that_a_statement_failed(
    ground: Ground, pool: lambda_pool.AsyncPool, commit: Callable[[Any], Awaitable[None]]
) -> None:
    async def work(conn: Any) -> None:
        async with conn.pipeline() as pipeline:
            with contextlib.suppress(DivisionByZero):
                await ground.insert(conn, 1)
                await conn.execute("select 1/0")
                await pipeline.sync()  # its own answer may come after that of the statement
            await commit(conn)

    for _ in range(100):
        with pytest.raises((InFailedSqlTransaction, DivisionByZero)):
            borrow(pool, work)
    assert ground.rows() == []


def test_in_a_pipeline_a_cursor_may_roll_back_after_a_commit(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        async with conn.pipeline(), conn.cursor() as cursor:
            await ground.insert(conn, 1)
            await cursor.execute("commit")
            await ground.insert(conn, 2)
            await cursor.execute("rollback")

    borrow(pool, work)
    assert ground.rows() == [1]


def test_async_with_conn_commits_or_rolls_back_and_does_not_close(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        async with conn as same:
            assert same is conn
            await ground.insert(conn, 1)
        assert ground.rows() == [1]
        with pytest.raises(LookupError):
            async with conn:
                await ground.insert(conn, 2)
                raise LookupError
        await ground.insert(conn, 3)
        await conn.rollback()
        assert not conn.closed

    borrow(pool, work)
    assert ground.rows() == [1]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_async_with_conn_shows_its_own_error_and_not_that_of_a_rollback(
    ground: Ground, pool: lambda_pool.AsyncPool
) -> None:
    async def work(conn: Any) -> None:
        async with conn:
            await ground.insert(conn, 1)
            ground.database.kill(ground.backend(conn))
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        borrow(pool, work)
    assert ground.rows() == []
    assert borrow(pool, one) == [(1,)]
    assert pool.stats().opened == 2


@pytest.mark.parametrize("saved", [False, True])
def test_a_connection_that_its_borrower_closes(ground: Ground, pool: lambda_pool.AsyncPool, saved: bool) -> None:
    async def work(conn: Any) -> None:
        async with conn:
            await ground.insert(conn, 1)
            if saved:
                await conn.commit()
            for _ in range(2):
                await conn.close()

    with contextlib.nullcontext() if saved else pytest.raises(NotCommitted):
        borrow(pool, work)
    assert ground.rows() == [1] * saved
    assert pool.stats().size == 0
    assert borrow(pool, one) == [(1,)]
    assert pool.stats().opened == 2


def test_run_ends_the_transaction_itself(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> str:
        await ground.insert(conn, 1)
        for end in (conn.commit, conn.rollback):
            with pytest.raises(psycopg.ProgrammingError, match=r"forbidden inside Pool\.run"):
                await end()
        with pytest.raises(psycopg.ProgrammingError, match="forbidden"):
            async with conn:
                await ground.insert(conn, 2)
        with pytest.raises(LookupError):
            async with conn.transaction():
                await ground.insert(conn, 3)
                raise LookupError
        assert ground.rows() == []
        return "done"

    assert asyncio.run(pool.run(work)) == "done"
    assert ground.rows() == [1, 2]
    assert at_rest(pool)


def test_work_that_began_another_transaction_is_not_done_again(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    calls: list[int] = []

    async def work(conn: Any) -> None:
        calls.append(1)
        await ground.insert(conn, 1)
        await conn.execute("commit")
        async with conn.transaction():
            await ground.insert(conn, 2)
        raise psycopg.errors.SerializationFailure

    with pytest.raises(psycopg.errors.SerializationFailure):
        asyncio.run(pool.run(work))
    assert calls == [1]
    assert ground.rows() == [1]


def test_two_phases(caplog: pytest.LogCaptureFixture) -> None:
    with PostgresServer(extra_config=["max_prepared_transactions = 2"]) as server:
        server.execute("create table two_phased (id int)")
        pool = lambda_pool.AsyncPool(server.url(), observers=(), max_size=1)

        async def prepare(conn: Any, xid: Any, number: int) -> None:
            await conn.tpc_begin(xid)
            await conn.execute(f"insert into two_phased values ({number})")
            await conn.tpc_prepare()

        async def at_once(conn: Any) -> None:
            await prepare(conn, "ended", 1)
            await conn.tpc_commit()
            await conn.tpc_begin("in one phase")
            await conn.execute("insert into two_phased values (2)")
            await conn.tpc_commit()
            await prepare(conn, "undone", 3)
            await conn.tpc_rollback()

        async def later(conn: Any) -> None:
            assert [xid.gtrid for xid in await conn.tpc_recover()] == ["of another system"]
            await conn.rollback()
            await conn.tpc_commit(conn.xid(1, "of another system", "branch"))

        async def failed(conn: Any) -> None:
            await conn.tpc_begin("failed")
            await conn.execute("insert into two_phased values (5)")
            await fail(conn)
            await conn.tpc_commit()

        borrow(pool, at_once)
        assert not caplog.text
        borrow(pool, lambda conn: prepare(conn, conn.xid(1, "of another system", "branch"), 4))
        assert "left the prepared transaction" in caplog.text
        borrow(pool, later)
        with pytest.raises(InFailedSqlTransaction, match="none of it is saved"):
            borrow(pool, failed)
        borrow(pool, lambda conn: conn.execute("insert into two_phased values (6)"))
        assert server.execute("select id from two_phased order by id") == [(1,), (2,), (4,), (6,)]
        assert server.execute("select count(*) from pg_prepared_xacts") == [(0,)]
        asyncio.run(pool.close())


# --- a statement that is ended ----------------------------------------------------------------------------------------


def test_a_statement_that_the_deadline_ended_is_not_committed_around(ground: Ground) -> None:
    """A borrower that rolls back goes on, on the same connection."""
    pool = ground.pool(cancel_before_deadline=3.0, max_size=1)
    left = [60_000]

    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        left[0] = 0
        with pytest.raises(DeadlineExceeded):
            await query(conn, ground.slow)
        left[0] = 60_000
        with pytest.raises(InFailedSqlTransaction, match="none of it is saved"):
            await conn.commit()
        await ground.insert(conn, 2)

    with invoked(lambda: left[0], reserve=3.0):
        borrow(pool, work)
    assert ground.rows() == [2]
    assert ground.sleepers() == 0
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_a_task_that_is_cancelled_in_a_statement_may_go_on(
    ground: Ground, pool: lambda_pool.AsyncPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the server ends the statement in time, which it may not do on a busy machine."""
    monkeypatch.setattr(async_connection, "_ASKING", 20.0)

    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await query(conn, ground.slow)
        task.uncancel()
        assert ground.sleepers() == 0
        await conn.rollback()
        await ground.insert(conn, 2)

    borrow(pool, work)
    assert ground.rows() == [2]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)
