"""What the cursors and settings of psycopg's AsyncConnection promise, and keep in a pool too."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.copy import AsyncLibpqWriter
from psycopg.errors import DivisionByZero
from psycopg.rows import dict_row

import lambda_pool
from lambda_pool import NotCommitted
from lambda_pool.testing import FaultyProxy
from tests.contract.conftest import Database
from tests.frameworks.aio.borrowed import borrow, one
from tests.frameworks.aio.conftest import Ground, at_rest, query
from tests.support.invoked import invoked


@pytest.fixture
def database(pg: Database) -> Database:
    """Only PostgreSQL."""
    return pg


# --- rows one by one --------------------------------------------------------------------------------------------------


def test_a_stream_that_is_read_whole(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> list[int]:
        cursor = conn.cursor()
        found = [row[0] async for row in cursor.stream("select generate_series(1, %s)", [1000])]
        sizes = [row[0] async for row in cursor.stream("select generate_series(1, 100)", size=30)]
        assert sizes == list(range(1, 101))
        await ground.insert(conn, 1)
        return found

    assert borrow(pool, work) == list(range(1, 1001))
    assert ground.rows() == [1]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_a_stream_that_is_closed_halfway(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    """The server is told to end it. A borrower that rolls back continues on the same connection."""

    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        await conn.commit()
        async with contextlib.aclosing(conn.cursor().stream("select generate_series(1, 100000)")) as rows:
            assert [await anext(rows), await anext(rows)] == [(1,), (2,)]
        await conn.rollback()
        await ground.insert(conn, 2)

    borrow(pool, work)
    assert ground.rows() == [1, 2]
    assert borrow(pool, one) == [(1,)]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


async def break_off_a_stream(conn: Any) -> None:
    async for row in conn.cursor().stream("select generate_series(1, 9)"):
        assert row == (1,)
        break


async def break_off_ones_own_generator(conn: Any) -> None:
    async def rows() -> AsyncIterator[Any]:
        async for row in conn.cursor().stream("select generate_series(1, 9)"):
            yield row

    async for row in rows():
        assert row == (1,)
        break


async def break_off_notifications(conn: Any) -> None:
    for word in ("listen orders", "notify orders"):
        await conn.execute(word)
        await conn.commit()
    async for notify in conn.notifies():
        assert notify.channel == "orders"
        break


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("how", [break_off_a_stream, break_off_ones_own_generator, break_off_notifications])
def test_a_loop_that_breaks_off(
    ground: Ground, pool: lambda_pool.AsyncPool, how: Callable[[Any], Awaitable[None]], last: bool
) -> None:
    """The loop closes the generator in a task of its own, and what comes next waits for that, as in psycopg."""

    async def work(conn: Any) -> None:
        await how(conn)
        await ground.insert(conn, 1)
        if last:
            await how(conn)

    borrow(pool, work)
    assert ground.rows() == [1]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_a_stream_that_is_left_open_saves_nothing(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    """Its connection is closed, and the next borrower gets another."""

    async def main() -> None:
        with pytest.raises(NotCommitted, match="still at work"):
            async with pool.connection() as conn:
                await ground.insert(conn, 1)
                rows = conn.cursor().stream("select generate_series(1, 100000)")
                assert await anext(rows) == (1,)
        await rows.aclose()
        assert pool.stats().size == 0
        async with pool.connection() as conn:
            assert await one(conn) == [(1,)]

    asyncio.run(main())
    assert ground.rows() == []
    assert pool.stats().opened == 2


def test_a_stream_that_fails_among_its_rows(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    seen: list[int] = []

    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        async for row in conn.cursor().stream("select 100 / (50 - n) from generate_series(1, 60) n"):
            seen.append(row[0])

    with pytest.raises(DivisionByZero):
        borrow(pool, work)
    assert len(seen) == 49
    assert ground.rows() == []
    assert borrow(pool, one) == [(1,)]
    assert pool.stats().opened == 1


def test_a_stream_of_a_write_that_is_lost_may_be_saved(ground: Ground) -> None:
    """Its error is swallowed."""

    async def work(conn: Any) -> None:
        with contextlib.suppress(psycopg.OperationalError):
            kill = f"pg_terminate_backend({ground.backend(conn)})"
            async for _ in conn.cursor().stream(f"insert into {ground.table} select 1 where {kill} returning id"):
                pass

    with pytest.raises(lambda_pool.CommitUncertain):
        borrow(ground.pool(autocommit=True), work)


def test_copy_in_and_out(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> list[tuple[Any, ...]]:
        cursor = conn.cursor()
        async with cursor.copy(f"copy {ground.table} from stdin") as copy:
            await copy.write(b"1\n2\n")
            await copy.write_row([3])
        assert cursor.rowcount == 3
        async with cursor.copy(f"copy (select id from {ground.table} order by id) to stdout") as copy:
            copy.set_types(["int4"])
            return [row async for row in copy.rows()]

    assert borrow(pool, work) == [(1,), (2,), (3,)]
    assert ground.rows() == [1, 2, 3]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


@pytest.mark.sampled(1, "3 s a case")
@pytest.mark.parametrize("direction", ["out", "in"])
def test_a_copy_that_is_cancelled_as_it_begins_costs_no_connection(ground: Ground, direction: str) -> None:
    """The server says that it begins only when it has some rows, or while the cancel is on its way."""
    with FaultyProxy("localhost", ground.database.server.port) as proxy:
        pool = ground.pool(url=ground.database.url.replace(f":{ground.database.server.port}/", f":{proxy.port}/"))
        rows = "(select x, pg_sleep(0.5) from generate_series(1, 5) x) to stdout"

        async def work() -> None:
            async with pool.connection() as conn:
                await ground.insert(conn, 1)
                proxy.delay(0.1, new=False)
                async with conn.cursor().copy(f"copy {rows if direction == 'out' else ground.table + ' from stdin'}"):
                    raise AssertionError("it has begun")

        async def main() -> None:
            task = asyncio.create_task(work())
            while not ground.database.execute("select 1 from pg_stat_activity where query like 'copy%'"):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with pool.connection() as conn:
                await ground.insert(conn, 2)

        asyncio.run(main())
        assert ground.rows() == [2]
        assert pool.stats().opened == 1
        assert at_rest(pool)


def test_work_that_copies_from_another_task_is_done_again(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    calls: list[int] = []

    async def work(conn: Any) -> None:
        calls.append(1)
        cursor = conn.cursor()
        writer = AsyncLibpqWriter(cursor)
        writer.flush_threshold = 0  # as in versions of psycopg that have no such setting
        async with cursor.copy(f"copy {ground.table} from stdin", writer=writer) as copy:
            await asyncio.create_task(copy.write_row([1]))
            if len(calls) == 1:
                ground.database.kill(conn.info.backend_pid)
            for number in range(2, 5):  # of a lost connection, the first one may not know
                await asyncio.create_task(copy.write_row([number]))

    asyncio.run(pool.run(work))
    assert ground.rows() == [1, 2, 3, 4]
    assert len(calls) == 2


def test_a_copy_whose_block_fails_copies_nothing(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        async with conn.cursor().copy(f"copy {ground.table} from stdin") as copy:
            await copy.write_row([1])
            raise LookupError

    with pytest.raises(LookupError):
        borrow(pool, work)
    assert ground.rows() == []
    assert borrow(pool, one) == [(1,)]
    assert pool.stats().opened == 1


@pytest.mark.parametrize("amid", ["execute", "commit", "stream"])
def test_a_statement_amid_what_has_the_connection_to_itself(
    ground: Ground, pool: lambda_pool.AsyncPool, amid: str
) -> None:
    """psycopg would wait for ever for the lock that the same task has. Another task waits for its turn."""

    async def say(conn: Any) -> None:
        if amid == "commit":
            await conn.commit()
        elif amid == "execute":
            await conn.execute("select 1")
        else:
            assert [row async for row in conn.cursor().stream("select 1")] == [(1,)]

    async def work(conn: Any) -> None:
        async with conn.cursor().copy(f"copy {ground.table} from stdin") as copy:
            await copy.write_row([1])
            other = asyncio.create_task(say(conn))
            with pytest.raises(psycopg.ProgrammingError, match="has it to itself"):
                await say(conn)
            await copy.write_row([2])
        await other

    borrow(pool, work)
    assert ground.rows() == [1, 2]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


# --- statements -------------------------------------------------------------------------------------------------------


def test_many_statements_at_once(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> list[list[tuple[int]]]:
        cursor = conn.cursor()
        await cursor.executemany(f"insert into {ground.table} values (%s)", [[1], [2], [3]])
        assert cursor.rowcount == 3
        add = f"insert into {ground.table} values (%s), (%s) returning id"
        await cursor.executemany(add, [[4, 5], [6, 7]], returning=True)
        found = [await cursor.fetchall()]
        while cursor.nextset():
            found.append(await cursor.fetchall())
        return found

    assert borrow(pool, work) == [[(4,), (5,)], [(6,), (7,)]]
    assert ground.rows() == [1, 2, 3, 4, 5, 6, 7]


def test_one_of_many_that_fails_undoes_all(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        await conn.cursor().executemany(f"insert into {ground.table} values (%s)", [[1], [2], [1]])

    with pytest.raises(psycopg.errors.UniqueViolation):
        borrow(pool, work)
    assert ground.rows() == []
    assert pool.stats().opened == 1


def test_several_results_of_one_statement(pool: lambda_pool.AsyncPool) -> None:
    """The first result can be read, even if one of the statements changed the session."""

    async def work(conn: Any) -> list[Any]:
        cursor = await conn.execute("select 1; set statement_timeout = '77s'; select 2")
        found = [await cursor.fetchone()]
        while cursor.nextset():
            found.append(await cursor.fetchone() if cursor.description else cursor.statusmessage)
        return found

    assert borrow(pool, work) == [(1,), "SET", (2,)]
    assert borrow(pool, lambda conn: query(conn, "show statement_timeout")) == [("0",)]
    assert pool.stats().opened == 1


async def with_another_class(conn: Any, text: str) -> None:
    conn.cursor_factory = psycopg.AsyncClientCursor
    assert isinstance(await conn.execute(text), psycopg.AsyncClientCursor)


async def with_a_class_of_a_cursor(conn: Any, text: str) -> None:
    conn.cursor_factory = type(conn.cursor())
    await conn.execute(text)


async def with_no_class(conn: Any, text: str) -> None:
    conn.cursor_factory = partial(psycopg.AsyncCursor)
    await conn.execute(text)


async def by_a_cursor_of_ones_own(conn: Any, text: str) -> None:
    await psycopg.AsyncClientCursor(conn).execute(text)


async def in_a_pipeline(conn: Any, text: str) -> None:
    async with conn.pipeline():
        await conn.execute(text)


async def by_one_in_a_pipeline(conn: Any, text: str) -> None:
    async with conn.pipeline():
        await psycopg.AsyncCursor(conn).execute(text)


async def among_many(conn: Any, text: str) -> None:
    await conn.cursor().executemany(text, [()])


async def streamed(conn: Any, text: str) -> None:
    async for _ in conn.cursor().stream(f"select set_config('statement_timeout', '{text[-4:-1]}', false)"):
        pass


async def copied(conn: Any, text: str) -> None:
    changing = f"copy (select set_config('statement_timeout', '{text[-4:-1]}', false)) to stdout"
    async with conn.cursor().copy(changing) as copy:
        assert [bytes(block) async for block in copy] == [b"77s\n"]


WAYS = [
    with_another_class,
    with_a_class_of_a_cursor,
    with_no_class,
    by_a_cursor_of_ones_own,
    in_a_pipeline,
    by_one_in_a_pipeline,
    among_many,
    streamed,
    copied,
]


@pytest.mark.parametrize("way", WAYS)
def test_however_a_session_is_changed_the_next_borrower_finds_it_as_it_was(
    pool: lambda_pool.AsyncPool, way: Callable[[Any, str], Awaitable[None]]
) -> None:
    async def change(conn: Any) -> None:
        await way(conn, "set statement_timeout = '77s'")
        assert await query(conn, "show statement_timeout") == [("77s",)]

    async def look(conn: Any) -> list[tuple[Any, ...]]:
        assert type(await conn.execute("select 1")).__name__ == "AsyncCursor"
        return await query(conn, "show statement_timeout")

    borrow(pool, change)
    assert borrow(pool, look) == [("0",)]
    assert pool.stats().opened == 1


@pytest.mark.parametrize("text", ["select pg_sleep(0.02)", "commit", "select pg_sleep(0.02); commit"])
def test_a_slow_statement_is_told_and_a_commit_is_heard(
    ground: Ground, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    pool = ground.pool(slow_query=0.01)

    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        await conn.execute(text)

    with caplog.at_level(logging.WARNING, "lambda_pool"):
        borrow(pool, work)
    assert ("pg_sleep" in caplog.text) == ("pg_sleep" in text)
    assert ground.rows() == [1]


# --- server-side cursors ----------------------------------------------------------------------------------------------


def test_a_server_side_cursor(pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        async with conn.cursor("named", scrollable=True) as cursor:
            await cursor.execute("select generate_series(1, 10)")
            assert await cursor.fetchone() == (1,)
            assert await cursor.fetchmany(2) == [(2,), (3,)]
            await cursor.scroll(2)
            assert await cursor.fetchone() == (6,)
            await cursor.scroll(0, mode="absolute")
            cursor.itersize = 4
            assert [row[0] async for row in cursor] == list(range(1, 11))
            await cursor.scroll(7, mode="absolute")
            assert await cursor.fetchall() == [(8,), (9,), (10,)]
            assert await cursor.fetchone() is None
        assert await query(conn, "select count(*) from pg_cursors where name = 'named'") == [(0,)]

    borrow(pool, work)
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_a_cursor_that_is_held_over_a_commit_is_not_the_next_borrowers(pool: lambda_pool.AsyncPool) -> None:
    async def hold(conn: Any) -> None:
        cursor = conn.cursor("held", withhold=True, row_factory=dict_row)
        await cursor.execute("select generate_series(1, 3) as n")
        await conn.commit()
        assert await cursor.fetchone() == {"n": 1}
        with pytest.warns(ResourceWarning, match="still open"):  # the driver's own wording
            del cursor

    borrow(pool, hold)
    assert borrow(pool, lambda conn: query(conn, "select count(*) from pg_cursors")) == [(0,)]
    assert pool.stats().opened == 1


def test_a_server_side_cursor_that_is_closed_late_leaves_the_next_borrower_alone(pool: lambda_pool.AsyncPool) -> None:
    async def main() -> None:
        async with pool.connection() as conn:
            cursor = conn.cursor("late")
            await cursor.execute("select generate_series(1, 3)")
        async with pool.connection() as conn:
            await conn.execute("select 1")
            await cursor.close()
            await conn.execute("select 1")

    asyncio.run(main())
    assert pool.stats().opened == 1


# --- settings and notifications ---------------------------------------------------------------------------------------


def test_what_a_borrower_sets_is_not_the_next_ones(pool: lambda_pool.AsyncPool) -> None:
    show = "select current_setting('transaction_isolation'), current_setting('transaction_read_only'),"
    show += " current_setting('transaction_deferrable')"

    async def look(conn: Any) -> tuple[Any, ...]:
        settings = conn.autocommit, conn.isolation_level, conn.read_only, conn.deferrable
        return settings, await query(conn, show)

    async def choose(conn: Any) -> None:
        await conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
        await conn.set_read_only(True)
        await conn.set_deferrable(True)
        async with conn.transaction():  # it begins with the same words
            assert await query(conn, show) == [("serializable", "on", "on")]
        await conn.rollback()
        await conn.set_read_only(False)
        assert await query(conn, show) == [("serializable", "off", "on")]
        await conn.rollback()
        await conn.set_autocommit(True)

    fresh = borrow(pool, look)
    assert fresh == ((False, None, None, None), [("read committed", "off", "off")])
    borrow(pool, choose)
    assert borrow(pool, look) == fresh
    assert pool.stats().opened == 1


def test_autocommit_saves_each_statement(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        with pytest.raises(AttributeError):
            conn.autocommit = True
        await conn.set_autocommit(True)
        await ground.insert(conn, 1)
        assert ground.rows() == [1]
        raise LookupError

    async def amid(conn: Any) -> None:
        await ground.insert(conn, 2)
        with pytest.raises(psycopg.ProgrammingError, match="transaction"):
            await conn.set_autocommit(True)

    with pytest.raises(LookupError):
        borrow(pool, work)
    borrow(pool, amid)
    assert ground.rows() == [1, 2]
    assert pool.stats().opened == 1


def test_notifications(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def listen(conn: Any) -> list[str]:
        await conn.set_autocommit(True)
        await conn.execute("listen orders")
        for word in ("a", "b"):
            ground.database.execute(f"notify orders, '{word}'")
        found = [each.payload async for each in conn.notifies(timeout=20, stop_after=2)]
        ground.database.execute("notify orders, 'c'")  # not before: notifications that come at once are given at once
        async with contextlib.aclosing(conn.notifies(timeout=20)) as coming:
            found.append((await anext(coming)).payload)
        return [*found, *[each.payload async for each in conn.notifies(timeout=0)]]

    assert borrow(pool, listen) == ["a", "b", "c"]
    assert pool.stats().opened == 1


def test_waiting_for_notifications_ends_with_the_invocation(pool: lambda_pool.AsyncPool) -> None:
    left = [60_000]

    async def work(conn: Any) -> None:
        await conn.set_autocommit(True)
        await conn.execute("listen orders")
        left[0] = 0
        for timeout in (None, 20):
            assert [each async for each in conn.notifies(timeout=timeout)] == []
        left[0] = 60_000
        assert await one(conn) == [(1,)]

    with invoked(lambda: left[0]):
        borrow(pool, work)
    assert pool.stats().opened == 1


async def leave_a_stream(conn: Any) -> None:
    async with contextlib.aclosing(conn.cursor().stream("select generate_series(1, 9)")) as rows:
        await anext(rows)


async def leave_a_copy(conn: Any) -> None:
    with contextlib.suppress(KeyError):
        async with conn.cursor().copy("copy (select generate_series(1, 9)) to stdout") as copy:
            await copy.read()
            raise KeyError


async def cancel(conn: Any) -> None:
    conn.cancel()


async def cancel_safe(conn: Any) -> None:
    await conn.cancel_safe()


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("how", [cancel, cancel_safe, leave_a_stream, leave_a_copy])
def test_a_cancel_that_is_not_answered_ends_with_the_invocation(
    ground: Ground, how: Callable[[Any], Awaitable[None]]
) -> None:
    """The borrower's cancel and the driver's: each uses a separate connection, which no other deadline ends."""
    server = ground.database.server
    with FaultyProxy("127.0.0.1", server.port) as proxy:
        pool = ground.pool(url=ground.database.url.replace(f":{server.port}/", f":{proxy.port}/"))
        end = time.monotonic() + 60

        async def work(conn: Any) -> None:
            nonlocal end
            proxy.swallow("to_client", existing=False)
            end = time.monotonic() + 1.0
            with contextlib.suppress(psycopg.OperationalError):
                await how(conn)
            assert 0.1 < end - time.monotonic() < 0.6  # it waited, but no longer
            proxy.heal()
            end += 60
            assert await one(conn) == [(1,)]

        with invoked(lambda: int((end - time.monotonic()) * 1000), reserve=0.5):
            borrow(pool, work)
        assert at_rest(pool)


@pytest.mark.parametrize("handled", [False, True])
def test_notifications_that_were_left_unread_are_not_the_next_ones(
    ground: Ground, pool: lambda_pool.AsyncPool, handled: bool
) -> None:
    seen: list[Any] = []

    async def listen(conn: Any) -> None:
        if handled:
            conn.add_notify_handler(seen.append)
        await conn.set_autocommit(True)
        await conn.execute("listen orders")
        ground.database.execute("notify orders, 'mine'")
        await one(conn)
        await conn.execute("notify orders, 'mine too'")

    async def look(conn: Any) -> list[Any]:
        assert await query(conn, "select count(*) from pg_listening_channels()") == [(0,)]
        return [each async for each in conn.notifies(timeout=0)]

    borrow(pool, listen)
    heard = len(seen)
    assert (heard > 0) == handled
    assert borrow(pool, look) == []
    ground.database.execute("notify orders, 'nobody listens'")
    assert borrow(pool, look) == []
    assert len(seen) == heard
    assert pool.stats().opened == 1


def test_a_block_that_listened_and_is_saved_is_not_called_cancelled(
    ground: Ground, pool: lambda_pool.AsyncPool
) -> None:
    """Also if the cancellation comes in the very turn of the loop in which its notifications are forgotten."""

    async def main() -> None:
        me = asyncio.current_task()
        assert me is not None

        async def cancel_in_each_turn() -> None:
            while not me.done():
                me.cancel()
                await asyncio.sleep(0)

        async with pool.connection() as conn:
            conn.add_notify_handler(print)
            await ground.insert(conn, 1)
            asyncio.create_task(cancel_in_each_turn())  # noqa: RUF006 - it ends with this one
        ended.append(True)

    ended: list[bool] = []
    asyncio.run(main())
    assert ended
    assert ground.rows() == [1]
    assert pool.stats().opened == 1
    assert at_rest(pool)
