"""Cancelling anywhere: in the queue, in connect, in a statement, in COMMIT. Nothing is lost or half reported."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pymysql
import pytest
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor

import lambda_pool
from lambda_pool import CommitUncertain, DeadlineExceeded, NotCommitted, invocation
from lambda_pool.testing.network import FaultyProxy
from tests.frameworks.aio.conftest import Ground, at_rest, query
from tests.support.context import LambdaContext
from tests.support.invoked import invoked


@pytest.fixture
def proxy(ground: Ground) -> Iterator[FaultyProxy]:
    """A proxy between the pool and its server, so that the server's answers can be held back."""
    with FaultyProxy("localhost", ground.database.server.port) as proxy:
        yield proxy


def through(proxy: FaultyProxy, ground: Ground, **options: Any) -> lambda_pool.AsyncPool:
    url = ground.database.url.replace(f":{ground.database.server.port}/", f":{proxy.port}/")
    return ground.pool(url=url, **options)


class Ending(LambdaContext):
    """The context of an invocation that ends in this many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._end = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return int((self._end - time.monotonic()) * 1000)


async def gone(ground: Ground) -> bool:
    """True once no session runs the slow statement: soon, and not only when the server next checks its client."""
    until = time.monotonic() + 2
    while ground.sleepers():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.02)
    return True


def test_in_the_queue(ground: Ground) -> None:
    pool = ground.pool(max_size=1, timeout=10)

    async def borrow() -> None:
        async with pool.connection() as conn:
            await query(conn, "select 1")

    async def main() -> None:
        async with pool.connection():
            first, second = asyncio.create_task(borrow()), asyncio.create_task(borrow())
            await asyncio.sleep(0.05)
            assert pool.stats().waiting == 2
            first.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.wait_for(second, 5)  # its turn was not lost with the first one's
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(main())
    assert at_rest(pool)
    assert pool.stats().opened == 1


def test_in_connect(ground: Ground) -> None:
    """A server that never answers: the task ends at once, and its room is free."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = ground.database.url.replace(f":{ground.database.server.port}/", f":{silent.getsockname()[1]}/")
        pool = ground.pool(url=url.replace("localhost", "127.0.0.1"), max_size=1)

        async def main() -> None:
            task = asyncio.create_task(pool.warm(strict=True))
            await asyncio.sleep(0.1)
            task.cancel()
            start = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - start < 1

        asyncio.run(main())
    assert (pool.stats().size, pool.stats().in_use) == (0, 0)


def test_in_a_statement(ground: Ground) -> None:
    """The server stops too, what the block had done is undone, and the next borrower is served."""
    pool = ground.pool(max_size=1)

    async def borrow() -> None:
        async with pool.connection() as conn:
            await ground.insert(conn, 1)
            await query(conn, ground.slow)

    async def main() -> None:
        task = asyncio.create_task(borrow())
        while not ground.sleepers():
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await gone(ground)
        async with pool.connection() as conn:
            assert await query(conn, "select 1") == [(1,)]

    asyncio.run(main())
    assert ground.rows() == []
    assert at_rest(pool)
    if ground.engine == "postgresql":  # psycopg reads the server's answer to its end, PyMySQL cannot
        assert pool.stats().opened == 1


@pytest.mark.sampled(2, "a second a case")
@pytest.mark.parametrize("how", ["block", "commit()", "statement", "last of several", "pipeline", "run"])
def test_in_commit(ground: Ground, proxy: FaultyProxy, how: str) -> None:
    """The answer is read first: a task that is reported as cancelled has saved nothing."""
    several = {"connect_args": {"client_flag": CLIENT.MULTI_STATEMENTS}} if ground.engine == "mysql" else {}
    pool = through(proxy, ground, **several)

    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        proxy.delay(0.3, new=False)
        if how == "commit()":
            await conn.commit()
        if how == "statement":
            await query(conn, "commit")
        if how == "last of several":
            await conn.cursor().execute("select 1; commit")
        if how == "pipeline" and ground.engine == "postgresql":
            async with conn.pipeline():
                await conn.execute("commit")

    async def borrow() -> str:
        if how == "run":
            await pool.run(work)
        else:
            async with pool.connection() as conn:
                await work(conn)
        return "saved"

    async def main() -> str:
        task = asyncio.create_task(borrow())
        while ground.table not in str(ground.database.server.log) or not pool.stats().in_use:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.35)
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return "cancelled"
        finally:
            proxy.heal()

    told = asyncio.run(main())
    assert told == ("saved" if ground.rows() else "cancelled")


@pytest.mark.sampled(1, "a second a case")
def test_a_commit_that_was_cancelled_is_delivered_later(ground: Ground, proxy: FaultyProxy) -> None:
    """It is delivered at the next wait of the task, which has then left its block."""
    pool = through(proxy, ground)
    left = []

    async def borrow() -> None:
        async with pool.connection() as conn:
            await ground.insert(conn, 1)
            proxy.delay(0.3, new=False)
        left.append(True)
        await asyncio.sleep(30)

    async def main() -> None:
        task = asyncio.create_task(borrow())
        while not pool.stats().in_use or not await _committing(ground):
            await asyncio.sleep(0.01)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        proxy.heal()
        assert done
        assert task.cancelled()

    async def _committing(ground: Ground) -> bool:
        return bool(ground.rows())

    asyncio.run(main())
    assert left == [True]
    assert ground.rows() == [1]


@pytest.mark.sampled(1, "a second a case")
def test_while_run_looks_what_became_of_a_deadlock(ground: Ground, proxy: FaultyProxy) -> None:
    """On MySQL this is a question to the server, and the work has already ended."""
    pool = through(proxy, ground)
    deadlock = (
        "do $$ begin raise deadlock_detected; end $$"
        if ground.engine == "postgresql"
        else "signal sqlstate '40001' set mysql_errno = 1213"
    )

    async def main() -> None:
        async def work(conn: Any) -> None:
            await ground.insert(conn, 1)
            try:
                await query(conn, deadlock)
            finally:
                proxy.delay(0.2, new=False)
                asyncio.get_running_loop().call_later(0.05, task.cancel)

        task = asyncio.create_task(pool.run(work))
        done, _ = await asyncio.wait([task], timeout=5)
        proxy.heal()
        assert done
        assert task.cancelled()

    asyncio.run(main())
    assert at_rest(pool)
    assert ground.rows() == []


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("amid", ["statement", "commit"])
def test_a_scope_that_was_cancelled_leaves_what_it_shields_alone(ground: Ground, proxy: FaultyProxy, amid: str) -> None:
    """A cancel scope of anyio's cancels again by itself: nothing of it has to be delivered later."""
    import anyio

    pool = through(proxy, ground)
    cleaned = []

    async def main() -> None:
        await pool.warm()
        with anyio.move_on_after(0.3):
            try:
                async with pool.connection() as conn:
                    await ground.insert(conn, 1)
                    if amid == "statement":
                        await query(conn, ground.slow)
                    proxy.delay(0.5, new=False)
            finally:
                with anyio.CancelScope(shield=True):
                    await asyncio.sleep(0.2)
                    cleaned.append(True)
        proxy.heal()

    asyncio.run(main())
    assert cleaned == [True]
    assert ground.rows() == ([1] if amid == "commit" else [])


async def time_out_amid_commit(pool: lambda_pool.AsyncPool, ground: Ground, proxy: FaultyProxy) -> None:
    """A block whose COMMIT is answered 0.2 s after the time-out around it has struck."""
    async with asyncio.timeout(None) as bound:
        async with pool.connection() as conn:
            await ground.insert(conn, 1)
            proxy.delay(0.4, new=False)
            bound.reschedule(asyncio.get_running_loop().time() + 0.2)


@pytest.mark.sampled(1, "a second a case")
def test_a_timeout_that_ends_while_a_commit_is_heard_is_no_timeout(ground: Ground, proxy: FaultyProxy) -> None:
    pool = through(proxy, ground)

    async def main() -> None:
        async with pool.connection() as conn:
            await query(conn, "select 1")
        await time_out_amid_commit(pool, ground, proxy)
        await asyncio.sleep(0.2)
        proxy.heal()

    asyncio.run(main())
    assert ground.rows() == [1]
    assert at_rest(pool)


@pytest.mark.sampled(1, "a second a case")
def test_a_cancellation_that_was_swallowed_before_is_not_raised_again(ground: Ground, proxy: FaultyProxy) -> None:
    """Without `uncancel()` the task's count of cancellations stays above zero, although nobody wants it to end."""
    pool = through(proxy, ground)

    async def work() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        await time_out_amid_commit(pool, ground, proxy)
        await asyncio.sleep(0.2)

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=5)
        proxy.heal()
        assert not task.cancelled()
        await task

    asyncio.run(main())
    assert ground.rows() == [1]
    assert at_rest(pool)


@pytest.mark.sampled(1, "2 s a case")
def test_an_answer_to_commit_that_never_comes(ground: Ground, proxy: FaultyProxy) -> None:
    """If it is cancelled, the wait for it lasts as long as the option `timeout` says."""
    pool = through(proxy, ground, timeout=2)  # it also connects within that time

    async def borrow() -> None:
        async with pool.connection() as conn:
            await ground.insert(conn, 1)
            proxy.swallow("to_client", new=False)

    async def main() -> None:
        task = asyncio.create_task(borrow())
        while not (ground.rows() or task.done()):
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(CommitUncertain):
            await task
        proxy.heal()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert at_rest(pool)


def in_silence(
    ground: Ground,
    proxy: FaultyProxy,
    work: Callable[[Any], Awaitable[object]],
    *,
    left: float,
    reserve: float = invocation.RESERVE,
    new: bool = False,
    **options: Any,
) -> tuple[BaseException, float]:
    """Insert a row, lose the server's answers from then on, and do some work with that many seconds left.

    Out: the exception, and when it came, in seconds after the deadline.
    """
    pool = through(proxy, ground, **options)
    end = time.monotonic() + 60

    async def main() -> None:
        nonlocal end
        async with pool.connection() as conn:
            await ground.insert(conn, 1)
            proxy.swallow("to_client", new=new)
            end = time.monotonic() + left
            await work(conn)

    with (
        invoked(lambda: int((end - time.monotonic()) * 1000), reserve=reserve),
        pytest.raises((CommitUncertain, TimeoutError)) as caught,
    ):
        asyncio.run(asyncio.wait_for(main(), 10))
    late = time.monotonic() - end
    assert at_rest(pool)
    return caught.value, late


async def commit(conn: Any, how: str) -> None:
    await (conn.commit() if how == "commit()" else query(conn, "commit"))


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("how", ["commit()", "COMMIT"])
def test_a_commit_of_the_borrowers_own_that_is_not_answered(ground: Ground, proxy: FaultyProxy, how: str) -> None:
    """The invocation ends first, and nobody knows what is saved."""
    error, late = in_silence(
        ground, proxy, lambda conn: commit(conn, how), left=0.6, reserve=0.3, cancel_before_deadline=0.3
    )
    assert isinstance(error, CommitUncertain)
    assert late < 5  # not when somebody cancels it


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_commit_of_a_cursor_that_was_made_by_hand(ground: Ground, proxy: FaultyProxy) -> None:
    """Nobody knows what it sends, so a transaction that it loses may be saved."""
    pool = through(proxy, ground)

    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        proxy.cut(after=0, direction="to_client")
        await psycopg.AsyncClientCursor(conn).execute("commit")

    with pytest.raises(CommitUncertain, match="did not make"):
        asyncio.run(pool.run(work))
    assert ground.database.rows() == [1]


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("how", ["commit()", "COMMIT"])
def test_a_commit_that_was_cancelled_is_heard_until_the_deadline(ground: Ground, proxy: FaultyProxy, how: str) -> None:
    """Even if no option ends statements: by then the wait is the pool's own."""
    error, late = in_silence(ground, proxy, lambda conn: asyncio.wait_for(commit(conn, how), 0.2), left=0.6)
    assert isinstance(error, CommitUncertain)
    assert late < 2


@pytest.mark.parametrize("new", [False, True])
def test_a_task_that_is_cancelled_just_before_the_deadline(ground: Ground, proxy: FaultyProxy, new: bool) -> None:
    """The wait for a silent server is no longer than the invocation, even if `new` sessions hang."""
    error, late = in_silence(
        ground,
        proxy,
        lambda conn: asyncio.wait_for(query(conn, "select 1"), 0.2),
        left=0.4,
        reserve=0.1,
        new=new,
        cancel_before_deadline=0.1,
    )
    assert isinstance(error, TimeoutError)
    assert late < 0.5


def test_twice(ground: Ground) -> None:
    """Once in a statement, and again while the statement is being undone."""
    pool = ground.pool(max_size=1)

    async def borrow() -> None:
        async with pool.connection() as conn:
            await ground.insert(conn, 1)
            await query(conn, ground.slow)

    async def main() -> None:
        for pause in (0.0, 0.001, 0.003):
            task = asyncio.create_task(borrow())
            while not ground.sleepers():
                await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.sleep(pause)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await gone(ground)
        async with pool.connection() as conn:
            assert await query(conn, "select 1") == [(1,)]

    asyncio.run(main())
    assert ground.rows() == []
    assert at_rest(pool)


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("swallowed", [False, True])
def test_a_deadline_ends_a_statement_without_a_signal(ground: Ground, swallowed: bool) -> None:
    """In a thread, where no alarm could ring, it ends as DeadlineExceeded, in time, and nothing is saved."""
    pool = ground.pool(cancel_before_deadline=1.2, max_size=1)
    caught: list[BaseException] = []

    @pool.handler
    async def handler(event: Any, context: Any, conn: Any) -> None:
        await ground.insert(conn, 1)
        try:
            await query(conn, ground.slow)
        except DeadlineExceeded as error:
            caught.append(error)
            if not swallowed:
                raise

    async def in_thread() -> None:
        start = time.monotonic()
        with pytest.raises(lambda_pool.NotCommitted if swallowed else DeadlineExceeded):
            await asyncio.to_thread(handler, {}, Ending(1.8))
        assert time.monotonic() - start < 1.8

    asyncio.run(in_thread())
    assert len(caught) == 1
    assert ground.rows() == []
    assert ground.sleepers() == 0
    assert at_rest(pool)


MANY = 1_000_000


async def count_rows(ground: Ground, conn: Any, seen: list[int]) -> None:
    """Read a stream of many rows, which the server sends faster than they are read."""
    if ground.engine == "postgresql":
        async with conn.cursor() as cursor:
            async for _ in cursor.stream(f"select generate_series(1, {MANY})"):
                seen[0] += 1
        return
    async with conn.cursor(SSCursor) as cursor:
        await cursor.execute(
            f"select 1 from {', '.join(f'information_schema.collations {name}' for name in 'abc')} limit {MANY}"
        )
        while await cursor.fetchone():
            seen[0] += 1


@pytest.mark.sampled(1, "a second a case")
def test_a_deadline_ends_rows_that_never_let_it_wait(ground: Ground) -> None:
    pool = ground.pool(cancel_before_deadline=0.6, max_size=1)
    seen = [0]

    @pool.handler
    async def handler(event: Any, context: Any, conn: Any) -> None:
        await count_rows(ground, conn, seen)

    with pytest.raises(DeadlineExceeded):
        handler({}, Ending(1.2))
    assert 0 < seen[0] < MANY
    assert at_rest(pool)


@pytest.mark.sampled(1 / 2, "2 s a case")
def test_rows_that_never_let_it_wait_leave_other_tasks_their_turn(ground: Ground) -> None:
    pool = ground.pool(max_size=1)
    seen = [0]

    async def borrow() -> None:
        async with pool.connection() as conn:
            await count_rows(ground, conn, seen)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(borrow(), 0.5)
        async with pool.connection() as conn:
            assert await query(conn, "select 1") == [(1,)]

    asyncio.run(main())
    assert 0 < seen[0] < MANY
    assert at_rest(pool)


@pytest.mark.sampled(1, "4 s a case")
def test_a_task_that_still_uses_the_connection_when_its_block_ends(ground: Ground) -> None:
    """Nothing is committed around its statement, and its wait ends at once."""
    pool = ground.pool(max_size=1)

    async def main() -> None:
        with pytest.raises(NotCommitted, match="still at work"):
            async with pool.connection() as conn:
                await ground.insert(conn, 1)
                left = asyncio.create_task(query(conn, ground.slow))
                await asyncio.sleep(0.1)
        with pytest.raises((psycopg.Error, pymysql.MySQLError)):
            await asyncio.wait_for(left, 5)
        async with pool.connection() as conn:
            await ground.insert(conn, 2)

    asyncio.run(main())
    assert ground.rows() == [2]
    assert at_rest(pool)


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_task_that_still_commits_when_its_block_ends(ground: Ground, proxy: FaultyProxy, autocommit: bool) -> None:
    """Nobody may report that nothing is saved."""
    pool = through(proxy, ground, autocommit=autocommit)

    async def main() -> None:
        with pytest.raises(CommitUncertain):
            async with pool.connection() as conn:
                await ground.insert(conn, 1)
                proxy.swallow("to_client", new=False)
                left = asyncio.create_task(ground.insert(conn, 2) if autocommit else conn.commit())
                until = time.monotonic() + 5
                while ground.rows() != ([1, 2] if autocommit else [1]) and time.monotonic() < until:
                    await asyncio.sleep(0.01)
        with pytest.raises((CommitUncertain, psycopg.Error, pymysql.MySQLError)):
            await asyncio.wait_for(left, 5)

    asyncio.run(main())
    assert pool.stats().size == 0
