"""Handlers that are `async def`, and those that run a loop of their own."""

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import lambda_pool
from lambda_pool import ConfigError, ConnectError, NotCommitted
from lambda_pool.api import core_of
from tests.frameworks.aio.conftest import Ground, at_rest, query
from tests.support.context import LambdaContext


def test_one_loop_for_all_invocations(ground: Ground) -> None:
    pool = ground.pool()
    loops = []

    @pool.handler
    async def handler(event: Any, context: Any, conn: Any) -> int:
        loops.append(asyncio.get_running_loop())
        await ground.insert(conn, event)
        if event == 2:
            raise ValueError("mine")
        return len(await query(conn, f"select id from {ground.table}"))

    assert handler(1, LambdaContext()) == 1
    with pytest.raises(ValueError, match="mine"):
        handler(2, LambdaContext())
    assert handler(3, LambdaContext()) == 2
    assert len(set(map(id, loops))) == 1
    assert ground.rows() == [1, 3]
    assert pool.stats().opened == 1


def test_the_loop_of_a_thread_is_closed_with_it(ground: Ground) -> None:
    """A decorator above may run each invocation in a new thread: their loops would use up the process's descriptors."""
    pool = ground.pool()
    loops = []

    @pool.handler
    async def handler(event: Any, context: Any, conn: Any) -> None:
        loops.append(asyncio.get_running_loop())
        await ground.insert(conn, event)

    for number in (1, 2):
        thread = threading.Thread(target=handler, args=(number, LambdaContext()))
        thread.start()
        thread.join()
    assert ground.rows() == [1, 2]
    assert [loop.is_closed() for loop in loops] == [True, True]
    assert pool.stats().opened == 1


def wraps(fn: Any) -> Any:
    @functools.wraps(fn)
    async def around(event: Any, context: Any) -> Any:
        await asyncio.sleep(0)
        return await fn(event, context)

    return around


def hides(fn: Any) -> Any:
    async def around(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return around


def begins_a_task(fn: Any) -> Any:
    @functools.wraps(fn)
    async def around(event: Any, context: Any) -> Any:
        return await asyncio.create_task(fn(event, context))

    return around


def answers_itself(fn: Any) -> Any:
    @functools.wraps(fn)
    def around(event: Any, context: Any) -> Any:
        return "ping" if event == 0 else fn(event, context)

    return around


@pytest.mark.parametrize("between", [wraps, hides, begins_a_task, answers_itself])
def test_a_decorator_below_keeps_no_connection_back(ground: Ground, between: Callable[[Any], Any]) -> None:
    pool = ground.pool()

    @pool.handler
    @between
    async def handler(event: Any, context: Any, conn: Any) -> str:
        await ground.insert(conn, event)
        return "saved"

    assert handler(1, LambdaContext()) == "saved"
    if between is answers_itself:
        assert handler(0, LambdaContext()) == "ping"
    assert handler(2, LambdaContext()) == "saved"
    assert ground.rows() == [1, 2]
    assert at_rest(pool)


def test_calls_at_once_behind_a_decorator_have_a_connection_each(ground: Ground) -> None:
    pool = ground.pool(max_size=2)
    outer = ground.pool()
    both = asyncio.Barrier(2)

    def meet(fn: Any) -> Any:
        @functools.wraps(fn)
        async def around(event: Any, context: Any) -> Any:
            await both.wait()
            return await fn(event, context)

        return around

    @pool.handler
    @meet
    async def each(event: Any, context: Any, conn: Any) -> int:
        await ground.insert(conn, event)
        return ground.backend(conn)

    @outer.handler
    async def handler(event: Any, context: Any) -> tuple[int, int]:
        return await asyncio.gather(each(1, context), each(2, context))

    assert len(set(handler({}, LambdaContext()))) == 2
    assert sorted(ground.rows()) == [1, 2]
    assert at_rest(pool)


def test_two_pools_for_one_handler(ground: Ground) -> None:
    """As with two handlers of Pool."""
    first, second = ground.pool(), ground.pool()

    @first.handler(inject="one")
    @second.handler(inject="two")
    async def handler(event: Any, context: Any, one: Any, two: Any) -> None:
        await ground.insert(one, event)
        await ground.insert(two, event + 1)
        if event == 3:
            raise ValueError("mine")

    handler(1, LambdaContext())
    with pytest.raises(ValueError, match="mine"):
        handler(3, LambdaContext())
    handler(5, LambdaContext())
    assert sorted(ground.rows()) == [1, 2, 5, 6]
    assert at_rest(first)
    assert at_rest(second)


def test_a_handler_that_borrows_itself(ground: Ground) -> None:
    pool = ground.pool(max_size=2)

    @pool.handler
    async def handler(event: Any, context: Any) -> None:
        async with pool.connection() as conn:
            await ground.insert(conn, event)

    handler(1, LambdaContext())
    assert ground.rows() == [1]


def test_tasks_that_are_left_are_cancelled_with_a_warning(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    pool = ground.pool(max_size=2)

    async def left() -> None:
        async with pool.connection() as conn:
            await ground.insert(conn, 1)
            await query(conn, ground.slow)

    tasks = []

    @pool.handler
    async def handler(event: Any, context: Any) -> str:
        tasks.append(asyncio.create_task(left(), name="left"))
        while not ground.sleepers():
            await asyncio.sleep(0.02)
        return "done"

    with caplog.at_level(logging.WARNING, "lambda_pool"):
        assert handler(1, LambdaContext(5000)) == "done"
    assert "1 of its tasks were still running" in caplog.text
    assert "left" in caplog.text
    assert tasks[0].cancelled()
    assert ground.rows() == []
    assert at_rest(pool)


def test_a_task_that_does_not_end_takes_no_more_than_is_left(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    tasks: list[asyncio.Task[None]] = []
    over: list[bool] = []

    async def stubborn() -> None:
        while not over:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)

    @ground.pool().handler
    async def handler(event: str, context: Any) -> None:
        if event == "leave":
            tasks.append(asyncio.create_task(stubborn(), name="stubborn"))
            await asyncio.sleep(0)

    start = time.monotonic()
    handler("leave", LambdaContext(300))
    assert time.monotonic() - start < 0.8
    assert "tasks that were cancelled did not end: stubborn" in caplog.text
    over.append(True)
    handler("end", LambdaContext())
    assert tasks[0].done()


def test_a_mistake_is_not_answered_as_if_no_connection_were_there(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, answered = ground.pool(), list[Exception]()

    def mistaken(*arguments: Any) -> Any:
        raise ConfigError("a mistake")

    monkeypatch.setattr(core_of(pool).connector, "login", mistaken)

    @pool.handler(on_unavailable=lambda event, context, error: answered.append(error))
    async def handler(event: Any, context: Any, conn: Any) -> None: ...

    with pytest.raises(ConfigError, match="a mistake"):
        handler({}, LambdaContext())
    assert not answered


def test_provisioned_concurrency_opens_ahead(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency")
    pool = ground.pool()

    @pool.handler
    async def handler(event: Any, context: Any, conn: Any) -> Any:
        return await query(conn, "select 1")

    assert pool.stats().opened == 1
    assert handler({}, LambdaContext()) == [(1,)]
    assert pool.stats().opened == 1


@pytest.mark.parametrize("fails", [False, True])
def test_a_plain_function_leaves_no_task_on_a_loop_of_its_own(ground: Ground, fails: bool) -> None:
    """It would go on in the next invocation, and spoil what that one answers."""
    pool = ground.pool(max_size=2)
    own = asyncio.new_event_loop()
    asyncio.set_event_loop(own)
    tasks = []

    async def left() -> None:
        await asyncio.sleep(0.05)
        async with pool.connection() as conn:
            await ground.insert(conn, 1)
            await asyncio.sleep(10)

    async def work(event: int) -> str:
        if event == 1:
            tasks.append(asyncio.create_task(left()))
            await asyncio.sleep(0)
            if fails:
                raise ValueError("mine")
            return "done"
        async with pool.connection() as conn:
            await ground.insert(conn, event)
        await asyncio.sleep(0.2)
        return "done"

    @pool.handler
    def handler(event: int, context: Any) -> str:
        return own.run_until_complete(work(event))

    try:
        if fails:
            with pytest.raises(ValueError, match="mine"):
                handler(1, LambdaContext())
        else:
            assert handler(1, LambdaContext()) == "done"
        assert tasks[0].cancelled()
        assert handler(2, LambdaContext()) == "done"
    finally:
        own.close()
        asyncio.set_event_loop(None)
    assert ground.rows() == [2]
    assert at_rest(pool)


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "left"])
def test_a_task_that_connects_when_its_loop_ends_keeps_no_place(ground: Ground, closed: bool) -> None:
    """Nobody ever goes on with it, not even the garbage collection."""
    pool = ground.pool(max_size=1, timeout=2)
    loops = []

    async def use() -> None:
        async with pool.connection() as conn:
            await query(conn, "select 1")

    async def leave() -> None:
        task: Any = asyncio.create_task(use())
        task._log_destroy_pending = False
        while not pool.stats().in_use:
            await asyncio.sleep(0)
        assert pool.stats().opened == 0

    @pool.handler
    def handler(event: str, context: Any) -> None:
        loop = asyncio.new_event_loop()
        loops.append(loop)
        loop.run_until_complete(leave() if event == "leave" else use())
        if closed:
            loop.close()

    handler("leave", LambdaContext())
    handler("use", LambdaContext())
    assert at_rest(pool)
    if not closed:  # it may go on after all
        loops[0].run_until_complete(asyncio.gather(*asyncio.all_tasks(loops[0])))
        assert (pool.stats().size, pool.stats().opened, pool.stats().closed) == (1, 2, 1)
    for loop in loops:
        loop.close()


def test_what_is_left_open_is_not_reported_as_saved(ground: Ground) -> None:
    """A connection that was entered and never left, with work on it."""
    pool = ground.pool()
    kept = []

    @pool.handler
    async def handler(event: Any, context: Any) -> str:
        block = pool.connection()
        kept.append(block)
        await ground.insert(await block.__aenter__(), 1)
        return "saved"

    with pytest.raises(NotCommitted):
        handler(1, LambdaContext())
    assert ground.rows() == []
    assert at_rest(pool)


def test_a_generator_that_is_not_read_to_its_end_is_closed_like_any_other(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop does that in a task of its own, which is not a forgotten task."""
    pool = ground.pool(max_size=1)

    async def numbers(fails: bool) -> AsyncIterator[int]:
        async with pool.connection() as conn:
            await ground.insert(conn, 1)
            try:
                while True:
                    yield len(await query(conn, "select 1"))
            finally:
                if fails:
                    raise LookupError("mine")

    @pool.handler
    async def handler(event: Any, context: Any) -> int | None:
        async for number in numbers(event):
            return number
        return None

    assert [handler(False, LambdaContext()) for _ in range(3)] == [1, 1, 1]
    assert not caplog.text
    assert pool.stats().opened == 1
    assert handler(True, LambdaContext()) == 1
    assert "closing an async generator failed: LookupError: mine" in caplog.text
    assert ground.rows() == []
    assert at_rest(pool)


def test_asyncio_run_in_each_invocation(ground: Ground) -> None:
    pool = ground.pool()

    async def main(number: int) -> None:
        async with pool.connection() as conn:
            await ground.insert(conn, number)

    @pool.handler
    def handler(event: Any, context: Any) -> None:
        asyncio.run(main(event))

    for number in range(3):
        handler(number, LambdaContext())
    assert ground.rows() == [0, 1, 2]
    assert pool.stats().opened == 1


def test_mangum_shares_the_loop(ground: Ground) -> None:
    from mangum import Mangum

    pool = ground.pool()
    loops = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loops.append(asyncio.get_running_loop())
        async with pool.connection() as conn:
            await ground.insert(conn, len(loops))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fine"})

    @pool.handler
    async def plain(event: Any, context: Any) -> None:
        loops.append(asyncio.get_running_loop())

    handler = pool.handler(Mangum(app, lifespan="off"))
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/",
        "rawQueryString": "",
        "headers": {},
        "requestContext": {"http": {"method": "GET", "path": "/", "sourceIp": "127.0.0.1"}, "stage": "$default"},
        "isBase64Encoded": False,
    }
    plain({}, LambdaContext())
    for _ in range(2):
        assert handler(event, LambdaContext())["statusCode"] == 200
    plain({}, LambdaContext())
    assert len(set(map(id, loops))) == 1
    assert ground.rows() == [2, 3]
    assert pool.stats().opened == 1


def test_unavailable_is_answered(ground: Ground) -> None:
    url = ground.database.url.replace(f":{ground.database.server.port}/", ":1/")
    pool = ground.pool(url=url, timeout=0.2)

    async def answer(event: Any, context: Any, error: Exception) -> str:
        return type(error).__name__

    @pool.handler(on_unavailable=answer)
    async def handler(event: Any, context: Any, conn: Any) -> str:
        return "never"

    assert handler(1, None) == "ConnectError"

    @pool.handler
    async def raising(event: Any, context: Any, conn: Any) -> str:
        return "never"

    with pytest.raises(ConnectError):
        raising(1, None)


def test_what_cannot_work_is_told(ground: Ground) -> None:
    pool = ground.pool()
    with pytest.raises(ConfigError, match="AsyncPool"):

        @ground.database.pool().handler
        async def of_a_plain_pool(event: Any, context: Any, conn: Any) -> None: ...

    with pytest.raises(ConfigError, match="plain function"):

        @pool.handler
        def plain(event: Any, context: Any, conn: Any) -> None: ...

    with pytest.raises(ConfigError, match="holds a yield"):

        @pool.handler
        async def generator(event: Any, context: Any, conn: Any) -> Any:
            yield 1

    @pool.handler
    async def lazy(event: Any, context: Any, conn: Any) -> Any:
        return map(str, [1])

    with pytest.raises(ConfigError, match="returned a map"):
        lazy({}, None)

    @pool.handler
    async def forgets_to_await(event: Any, context: Any) -> Any:
        return lazy(event, context)

    with pytest.raises(ConfigError, match="returned a coroutine"):
        forgets_to_await({}, None)

    @pool.handler
    async def handler(event: Any, context: Any, conn: Any) -> str:
        return "fine"

    with pytest.raises(ConfigError, match="decorated twice"):
        pool.handler(handler)

    async def inside() -> None:
        with pytest.raises(ConfigError, match="runs its own event loop"):
            handler({}, None)

    asyncio.run(inside())
    assert handler({}, None) == "fine"


def test_a_given_connection_is_the_callers(ground: Ground) -> None:
    pool = ground.pool()

    @pool.handler
    async def handler(event: Any, context: Any, conn: Any) -> Any:
        return conn

    assert handler({}, None, conn="mine") == "mine"
    assert pool.stats().opened == 0


def test_the_default_handler_names_async_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(event: Any, context: Any, conn: Any) -> None: ...

    with pytest.raises(ConfigError, match=r"AsyncPool\(\.\.\.\)"):
        lambda_pool.handler(handler)
