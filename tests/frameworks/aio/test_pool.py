"""AsyncPool on real servers: transactions, replays, loops that come and go, and what it refuses."""

import asyncio
import contextlib
import contextvars
import gc
import subprocess
import sys
import threading
import time
import types
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import psycopg
import pytest

import lambda_pool
from lambda_pool import ConfigError, LambdaPoolError, NotCommitted, PoolTimeout
from lambda_pool.aio.waits import spawn
from lambda_pool.api import core_of
from lambda_pool.waiting import cannot_go_on, current_borrower, pause
from tests.contract.conftest import Database
from tests.contract.test_contract import DRIVER_ERRORS
from tests.frameworks.aio.conftest import Ground, at_rest, query
from tests.support.line import Line


def test_commit_on_success_roll_back_on_error(ground: Ground) -> None:
    pool = ground.pool()

    async def work() -> None:
        async with pool.connection() as conn:
            await ground.insert(conn, 1)
        with pytest.raises(ValueError, match="mine"):
            async with pool.connection() as conn:
                await ground.insert(conn, 2)
                raise ValueError("mine")
        async with pool.connection() as conn:
            await ground.insert(conn, 3)
            await conn.commit()
            await ground.insert(conn, 4)
            await conn.rollback()

    asyncio.run(work())
    assert ground.rows() == [1, 3]
    assert pool.stats().opened == 1
    assert at_rest(pool)


def test_a_failed_transaction_is_not_prepared(pg: Database) -> None:
    pool = lambda_pool.AsyncPool(pg.url, observers=())

    async def work() -> None:
        with pytest.raises(psycopg.errors.InFailedSqlTransaction, match="none of it is saved"):
            async with pool.connection() as conn:
                await conn.tpc_begin("failed")
                with contextlib.suppress(psycopg.Error):
                    await conn.execute("select 1/0")
                await conn.tpc_prepare()
        await pool.close()

    asyncio.run(work())
    assert pool.stats().in_use == 0


def test_the_driver_is_the_drivers_own(ground: Ground) -> None:
    pool = ground.pool()

    async def work() -> None:
        async with pool.connection() as conn:
            if ground.engine == "postgresql":
                assert isinstance(conn, psycopg.AsyncConnection)
                assert await (await conn.execute("select 1")).fetchone() == (1,)
            else:
                cursor = conn.cursor()
                assert await cursor.execute("select 1 union select 2") == 2
                assert [row async for row in cursor] == [(1,), (2,)]

    asyncio.run(work())
    assert pool.name in repr(pool)
    assert "password" not in repr(pool)
    assert pool.config.url.engine == ground.engine


def test_a_read_only_block_refuses_to_write(ground: Ground) -> None:
    pool = ground.pool()

    async def work() -> None:
        with pytest.raises(Exception, match=r"(?i)read.only"):
            async with pool.connection(readonly=True) as conn:
                await ground.insert(conn, 1)
        async with pool.connection() as conn:  # the next borrower may do so
            await ground.insert(conn, 2)

    asyncio.run(work())
    assert ground.rows() == [2]
    assert pool.stats().opened == 1


def test_a_swallowed_error_saves_nothing_and_says_so(ground: Ground) -> None:
    pool = ground.pool()

    async def work() -> None:
        async with pool.connection() as conn:
            await ground.insert(conn, 1)
            backend = ground.backend(conn)
            ground.database.kill(backend)
            with contextlib.suppress(Exception):
                await ground.insert(conn, 2)

    with pytest.raises(NotCommitted):
        asyncio.run(work())
    assert ground.rows() == []


def test_run_replays_what_was_lost_before_its_commit(ground: Ground) -> None:
    pool = ground.pool()
    calls: list[int] = []

    async def work(conn: Any) -> str:
        await ground.insert(conn, len(calls))
        calls.append(ground.backend(conn))
        if len(calls) == 1:
            ground.database.kill(calls[0])
            await query(conn, "select 1")
        return "done"

    assert asyncio.run(pool.run(work)) == "done"
    assert len(calls) == 2
    assert ground.rows() == [1]


def test_run_commits_itself(ground: Ground) -> None:
    pool = ground.pool()

    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        with pytest.raises(Exception, match=r"inside Pool\.run"):
            await conn.commit()

    asyncio.run(pool.run(work))
    assert ground.rows() == [1]
    with pytest.raises(ConfigError, match="must be async def"):
        asyncio.run(pool.run(lambda conn: 1))  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="work is not valid"):
        asyncio.run(pool.run("work"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="attempts"):
        asyncio.run(pool.run(work, attempts=0))


def test_a_new_loop_each_time_costs_no_reconnect(ground: Ground) -> None:
    """Even if tasks of the previous loop had waited for each other on the connection itself."""
    pool = ground.pool()

    async def work() -> None:
        async with pool.connection() as conn:
            await asyncio.gather(*(query(conn, "select 1") for _ in range(4)))

    for _ in range(5):
        asyncio.run(work())
    assert pool.stats().opened == 1


def test_a_generator_that_outlives_its_loop_gives_its_connection_back(ground: Ground) -> None:
    pool = ground.pool(max_size=1)

    async def numbers() -> AsyncIterator[int]:
        async with pool.connection() as conn:
            await ground.insert(conn, 1)
            yield 1

    loop = asyncio.new_event_loop()
    left = numbers()
    assert loop.run_until_complete(anext(left)) == 1
    loop.close()
    assert pool.stats().in_use == 1
    del left
    gc.collect()
    assert ground.rows() == []
    assert at_rest(pool)


@pytest.mark.parametrize("where", ["a statement", "a checkout", "between statements"])
def test_what_a_task_of_a_closed_loop_holds_is_taken_by_whoever_needs_it(ground: Ground, where: str) -> None:
    """Nobody ever goes on with it, and the garbage collector does not see into a greenlet."""
    pool = ground.pool(max_size=1)
    tasks: list[Any] = []
    at_work: list[bool] = []

    async def use() -> None:
        async with pool.connection() as conn:
            await ground.insert(conn, 1)
            at_work.append(True)
            if where == "a statement":
                await query(conn, "select pg_sleep(1)" if ground.engine == "postgresql" else "select sleep(1)")
            await asyncio.sleep(9)

    async def leave() -> None:
        tasks.append(asyncio.create_task(use()))
        while not (at_work or (where == "a checkout" and pool.stats().in_use)):
            await asyncio.sleep(0)

    async def work(timeout: float | None = None) -> None:
        async with pool.connection(timeout=timeout) as conn:
            await query(conn, "select 1")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    tasks[0]._log_destroy_pending = False
    with pytest.raises(PoolTimeout):  # it may go on after all
        asyncio.run(work(timeout=0.2))
    loop.close()
    for _ in range(2):
        asyncio.run(work())
    assert (pool.stats().size, pool.stats().opened) == (1, 1 if where == "a checkout" else 2)
    tasks.clear()
    gc.collect()
    asyncio.run(work())
    assert at_rest(pool)
    assert ground.rows() == []


def test_loops_in_threads_share_a_pool(ground: Ground) -> None:
    pool = ground.pool(max_size=2, timeout=10)
    failures: list[BaseException] = []

    async def work() -> None:
        for _ in range(10):
            async with pool.connection() as conn:
                assert await query(conn, "select 1") == [(1,)]

    def run() -> None:
        try:
            asyncio.run(asyncio.wait_for(_together(work), 60))
        except BaseException as error:
            failures.append(error)

    async def _together(each: Any) -> None:
        await asyncio.gather(*(each() for _ in range(5)))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert pool.stats().opened <= 2
    assert at_rest(pool)


def test_the_queue_ends_at_its_timeout_and_forgets_who_left(ground: Ground) -> None:
    pool = ground.pool(max_size=1)

    async def work() -> None:
        async with pool.connection() as conn:

            async def wait() -> None:
                async with pool.connection(timeout=0.2):
                    raise AssertionError("nothing was free")

            with pytest.raises(PoolTimeout):
                await asyncio.create_task(wait())
            assert pool.stats().waiting == 0
            await query(conn, "select 1")

    asyncio.run(work())
    assert at_rest(pool)


def test_a_task_that_has_all_of_them_is_told_at_once(ground: Ground) -> None:
    pool = ground.pool(max_size=1, timeout=30)

    async def work() -> None:
        async with pool.connection():
            with pytest.raises(PoolTimeout, match="this task already holds the only connection"):
                async with pool.connection():
                    raise AssertionError("nothing was free")

    asyncio.run(asyncio.wait_for(work(), 5))


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "left"])
def test_a_turn_of_a_loop_that_ended_holds_nobody_up(ground: Ground, closed: bool) -> None:
    pool = ground.pool(max_size=1, timeout=5)
    loop = asyncio.new_event_loop()

    async def hold() -> Any:
        context = pool.connection()
        conn = await context.__aenter__()
        waiting = loop.create_task(pool.connection().__aenter__())
        await asyncio.sleep(0.05)
        assert pool.stats().waiting == 1
        return context, conn, waiting

    context, _, waiting = loop.run_until_complete(hold())
    waiting._log_destroy_pending = False
    if closed:
        loop.close()

    async def work() -> None:
        await context.__aexit__(None, None, None)
        async with pool.connection() as conn:
            await query(conn, "select 1")

    asyncio.run(work())
    assert pool.stats().waiting == 0
    loop.close()


def test_a_turn_of_a_loop_that_goes_on_is_not_lost(ground: Ground) -> None:
    pool = ground.pool(max_size=1, timeout=5)
    loop = asyncio.new_event_loop()
    context = pool.connection()

    async def hold() -> Any:
        await context.__aenter__()
        waiting = loop.create_task(pool.connection().__aenter__())
        await asyncio.sleep(0.05)
        return waiting

    waiting = loop.run_until_complete(hold())

    async def give_up() -> None:
        async with pool.connection(timeout=0.1):
            raise AssertionError("nothing was free")

    with pytest.raises(PoolTimeout):  # it passes over the one that waits
        asyncio.run(give_up())

    async def go_on() -> Any:
        await asyncio.sleep(0.05)
        assert pool.stats().waiting == 1
        await context.__aexit__(None, None, None)
        return await waiting

    assert ground.backend(loop.run_until_complete(asyncio.wait_for(go_on(), 3)))
    loop.close()


def test_context_variables_flow(ground: Ground) -> None:
    pool = ground.pool()
    variable = contextvars.ContextVar("variable", default="unset")

    async def work(conn: Any) -> str:
        seen = variable.get()
        variable.set("inside")
        return seen

    async def main() -> None:
        variable.set("outside")
        assert await pool.run(work) == "outside"
        assert variable.get() == "inside"

    asyncio.run(main())


def test_other_tasks_go_on_while_one_waits(ground: Ground) -> None:
    """During the dial, TLS and a statement: a clock that ticks every millisecond never stands still for long."""
    pool = ground.pool()

    async def main() -> float:
        longest, last = 0.0, asyncio.get_running_loop().time()
        done = asyncio.create_task(work())
        ticks = 0
        while not done.done():
            await asyncio.sleep(0.001)
            now = asyncio.get_running_loop().time()
            longest, last, ticks = max(longest, now - last), now, ticks + 1
        await done
        assert ticks > 20
        return longest

    async def work() -> None:
        async with pool.connection() as conn:
            await query(conn, ground.slow.replace("30", "0.3"))

    assert asyncio.run(main()) < 0.25


def test_a_block_that_two_tasks_enter_is_refused(ground: Ground) -> None:
    """The second one comes while the first one still waits for its connection."""
    pool = ground.pool(max_size=2)
    block = pool.connection()

    async def enter() -> None:
        async with block as conn:
            await query(conn, "select 1")

    async def main() -> None:
        first = asyncio.create_task(enter())
        await asyncio.sleep(0)
        with pytest.raises(LambdaPoolError, match="entered twice"):
            await enter()
        await first
        await enter()  # one after the other is fine

    asyncio.run(main())
    assert at_rest(pool)


def test_close_and_warm(ground: Ground) -> None:
    pool = ground.pool(min_size=2, max_size=3)

    async def work() -> None:
        await pool.warm()
        assert pool.stats().idle == 2
        await pool.close()
        assert pool.stats().size == 0
        async with pool.connection() as conn:
            await query(conn, "select 1")

    asyncio.run(work())


def test_task_groups_and_anyio(ground: Ground) -> None:
    import anyio

    pool = ground.pool(max_size=2, timeout=10)

    async def one(number: int) -> None:
        async with pool.connection() as conn:
            await ground.insert(conn, number)

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(5):
                tasks.create_task(one(number))
        async with anyio.create_task_group() as more:
            for number in range(5, 10):
                more.start_soon(one, number)

    asyncio.run(group())
    anyio.run(one, 10)
    assert ground.rows() == list(range(11))
    assert pool.stats().opened <= 2


def test_anyio_cancels_and_the_connection_is_kept(pg_url: str) -> None:
    import anyio

    pool = lambda_pool.AsyncPool(pg_url, observers=())

    async def work() -> None:
        with anyio.move_on_after(0.1) as scope:
            async with pool.connection() as conn:
                await query(conn, "select pg_sleep(30)")
        assert scope.cancelled_caught
        async with pool.connection() as conn:
            assert await query(conn, "select 1") == [(1,)]
        await pool.close()

    anyio.run(work)
    assert pool.stats().opened == 1


def test_a_task_that_begins_inside_of_other_code_waits_by_itself() -> None:
    """With `asyncio.eager_task_factory`, code that SQLAlchemy runs for a session begins a task in its own greenlet."""
    ended: list[str] = []

    def inner() -> None:
        pause(0.01)
        pause(0.01)
        ended.append("inner")

    @types.coroutine
    def rest(began: Any, wanted: Any) -> Any:
        while True:
            try:
                yield wanted
                wanted = began.send(None)
            except StopIteration:
                return

    def outer() -> Any:
        began = spawn(inner)
        task = asyncio.get_running_loop().create_task(rest(began, began.send(None)))
        pause(0.2)
        ended.append("outer")
        return task

    async def both() -> None:
        await (await spawn(outer))

    # In a thread: greenlets that were mixed up leave Python's count of calls wrong, for whoever reports the failure.
    thread = threading.Thread(target=lambda: asyncio.run(both()))
    thread.start()
    thread.join()
    assert ended == ["inner", "outer"]


def test_what_runs_no_asyncio_is_told_so(ground: Ground) -> None:
    pool = ground.pool()
    entering = pool.connection().__aenter__()
    with pytest.raises(ConfigError, match="needs a running asyncio event loop"):
        entering.send(None)


@pytest.mark.parametrize("url", ["postgresql://h/d", "mysql://h/d"])
def test_without_greenlet_the_extra_is_named(url: str) -> None:
    script = f"""
import sys
sys.modules["greenlet"] = None
import lambda_pool
try:
    lambda_pool.AsyncPool({url!r})
except lambda_pool.ConfigError as error:
    print(error)
lambda_pool.Pool({url!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "lambda-pool[asyncio]" in done.stdout


def test_a_turn_is_a_tasks_own(ground: Ground) -> None:
    """A task never has the number of an earlier task that has ended."""
    pool = ground.pool()
    numbers: set[int] = set()

    async def one() -> None:
        async with pool.connection():
            numbers.update(entry.owner for entry in core_of(pool).state.entries)

    async def main() -> None:
        for _ in range(50):
            await asyncio.create_task(one())

    asyncio.run(main())
    assert len(numbers) == 50
    assert all(number < 0 for number in numbers)


# --- autocommit -------------------------------------------------------------------------------------------------------


@pytest.mark.sampled(5, "many cases")
@pytest.mark.parametrize("what", ["select 1", "insert into {table} values (2)"])
@pytest.mark.parametrize("how", ["kill", "deadline"])
def test_in_autocommit_mode_only_the_statement_whose_answer_is_lost_is_in_doubt(
    ground: Ground, what: str, how: str
) -> None:
    with Line(ground.database.server.port) as line:
        url = ground.database.url.replace(f":{ground.database.server.port}/", f":{line.port}/")
        pool = ground.pool(url=url, autocommit=True)
        cut: list[Any] = []

        def abort() -> None:
            line.wait_for_what_is_sent()
            core_of(pool).state.entries[0].link.abort(cancelled=True)

        async def main() -> None:
            async with pool.connection() as conn:
                await ground.insert(conn, 1)
                if how == "kill":
                    line.cut(after=0, direction="to_client")
                else:
                    line.silence()
                    cut.append(threading.Thread(target=abort))
                    cut[0].start()
                try:
                    await query(conn, what.format(table=ground.table))
                except (lambda_pool.LambdaPoolError, *DRIVER_ERRORS) as error:
                    uncertain = isinstance(error, lambda_pool.CommitUncertain)
                    assert uncertain is (how == "deadline" and "insert" in what)

        with pytest.raises(lambda_pool.CommitUncertain) if "insert" in what else nullcontext():
            asyncio.run(main())
        for thread in cut:
            thread.join()
    assert 1 in ground.rows()


def test_who_was_left_behind_is_asked_while_another_thread_begins_tasks() -> None:
    """Each loop numbers its tasks in the same place."""
    until, found = time.monotonic() + 1.0, []

    async def begin_tasks() -> None:
        async def task() -> None:
            await spawn(current_borrower)

        while time.monotonic() < until:
            await asyncio.gather(*(task() for _ in range(20)))

    other = threading.Thread(target=lambda: asyncio.run(begin_tasks()))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        other.start()
        while time.monotonic() < until:
            found.append(cannot_go_on(-(2**40)))
    finally:
        other.join()
        sys.setswitchinterval(before)
    assert set(found) == {True}
