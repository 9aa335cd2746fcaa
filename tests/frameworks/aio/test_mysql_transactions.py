"""Transactions on PyMySQL's methods as coroutines: who ends them, and what is saved."""

import asyncio
from typing import Any

import pymysql
import pytest

import lambda_pool
from lambda_pool import DeadlineExceeded, NotCommitted
from tests.contract.conftest import Database
from tests.frameworks.aio.borrowed import borrow, one
from tests.frameworks.aio.conftest import Ground, at_rest, query
from tests.support.invoked import invoked


@pytest.fixture
def database(my: Database) -> Database:
    """Only MySQL."""
    return my


def test_begin_commit_and_rollback(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        await conn.begin()
        await ground.insert(conn, 1)
        await conn.begin()  # commits, as MySQL's does
        assert ground.rows() == [1]
        await ground.insert(conn, 2)
        await conn.rollback()
        await ground.insert(conn, 3)
        await conn.commit()
        await ground.insert(conn, 4)
        await conn.query("commit")
        await ground.insert(conn, 5)
        raise LookupError

    with pytest.raises(LookupError):
        borrow(pool, work)
    assert ground.rows() == [1, 3, 4]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_autocommit_saves_each_statement_and_is_not_the_next_ones(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        assert conn.get_autocommit() is False
        await ground.insert(conn, 1)
        await conn.autocommit(True)  # commits, as MySQL's does
        assert conn.get_autocommit() is True
        await ground.insert(conn, 2)
        raise LookupError

    async def next_one(conn: Any) -> None:
        assert conn.get_autocommit() is False
        await ground.insert(conn, 3)
        raise LookupError

    for each in (work, next_one):
        with pytest.raises(LookupError):
            borrow(pool, each)
    assert ground.rows() == [1, 2]
    assert pool.stats().opened == 1


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
        assert conn.open
        async with conn:
            await ground.insert(conn, 3)
            await conn.commit()
            await conn.close()
        assert not conn.open

    borrow(pool, work)
    assert ground.rows() == [1, 3]
    assert pool.stats().size == 0
    assert borrow(pool, one) == [(1,)]


def test_a_connection_that_is_closed_amid_a_transaction_saved_nothing(
    ground: Ground, pool: lambda_pool.AsyncPool
) -> None:
    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        await conn.close()
        with pytest.raises(pymysql.Error, match="closed"):
            await conn.close()
        with pytest.raises(pymysql.Error):
            await one(conn)

    with pytest.raises(NotCommitted):
        borrow(pool, work)
    assert ground.rows() == []
    assert borrow(pool, one) == [(1,)]
    assert pool.stats().opened == 2


def test_run_ends_the_transaction_itself(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> str:
        await ground.insert(conn, 1)
        for end in (conn.commit, conn.begin):
            with pytest.raises(pymysql.ProgrammingError, match=r"inside Pool\.run"):
                await end()
        with pytest.raises(pymysql.ProgrammingError, match=r"inside Pool\.run"):
            await conn.autocommit(True)
        async with conn:
            await ground.insert(conn, 2)
        assert ground.rows() == []
        return "done"

    assert asyncio.run(pool.run(work)) == "done"
    assert ground.rows() == [1, 2]
    assert at_rest(pool)


def test_an_error_undoes_its_statement_alone(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        with pytest.raises(pymysql.IntegrityError):
            await ground.insert(conn, 1)
        with pytest.raises(pymysql.ProgrammingError, match="syntax"):
            await conn.query("selec 1")
        await ground.insert(conn, 2)

    borrow(pool, work)
    assert ground.rows() == [1, 2]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_a_lost_connection_answers_no_ping(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    """It is not connected again in the middle of a block: that would save only half of the work."""

    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        ground.database.kill(ground.backend(conn))
        with pytest.raises(pymysql.OperationalError):
            await conn.ping()

    with pytest.raises(NotCommitted):
        borrow(pool, work)
    assert ground.rows() == []
    assert borrow(pool, one) == [(1,)]
    assert pool.stats().opened == 2


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
        with pytest.raises(pymysql.InternalError, match="deadline"):
            await conn.commit()
        await conn.rollback()
        await ground.insert(conn, 2)

    with invoked(lambda: left[0], reserve=3.0):
        borrow(pool, work)
    assert ground.rows() == [2]
    assert ground.sleepers() == 0
    assert (pool.stats().opened, at_rest(pool)) == (1, True)
