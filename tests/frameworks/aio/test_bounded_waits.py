"""No task waits for longer than its bound, whatever else the process is busy with."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import lambda_pool
from lambda_pool import waiting
from lambda_pool.aio.waits import Unbroken, spawn
from lambda_pool.auth.base import Credentials
from lambda_pool.endpoints.base import Endpoint
from lambda_pool.secret import Secret
from tests.frameworks.aio.conftest import Ground, at_rest, query


class _Slow:
    """Credentials for which somebody has to be asked."""

    needs_tls = False

    def __init__(self, ground: Ground, seconds: float = 0.0) -> None:
        self._password = ground.database.server.password
        self._over = threading.Event()
        self._seconds = seconds

    def credentials(self, endpoint: Endpoint, user: str | None, timeout: float) -> Credentials:
        self._over.wait(self._seconds)
        return Credentials(user or "", Secret(self._password))

    def rejected(self, credentials: Credentials) -> None: ...

    def forget(self) -> None: ...

    def let_go(self) -> None:
        self._over.set()


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """What blocks others until the end of the test."""
    over = threading.Event()
    yield over
    over.set()


async def fill_the_executor(over: threading.Event) -> None:
    """Calls that never end have all threads of the loop's executor, like those of an HTTP client without a timeout."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    loop.run_in_executor(None, over.wait, 30)
    await asyncio.sleep(0.05)


def test_a_connection_is_opened_though_the_loops_threads_are_all_taken(ground: Ground, over: threading.Event) -> None:
    pool = ground.pool(auth=_Slow(ground), timeout=20)

    async def main() -> None:
        await fill_the_executor(over)
        async with pool.connection() as conn:
            assert await query(conn, "select 42") == [(42,)]
        over.set()

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 15
    assert at_rest(pool)


def test_credentials_that_do_not_come_in_time(ground: Ground) -> None:
    slow = _Slow(ground, 30)
    pool = ground.pool(auth=slow, timeout=0.3)

    async def main() -> None:
        with pytest.raises(lambda_pool.CredentialsError, match="_Slow gave no answer in 0"):
            await pool.warm(strict=True)

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 5
    slow.let_go()
    assert at_rest(pool)


def test_a_name_that_nobody_looks_up_in_time(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, over: threading.Event
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30) and [])
    pool = ground.pool(timeout=0.3, connect_timeout=0.3)

    async def main() -> None:
        with pytest.raises(lambda_pool.ConnectError, match="could not connect to localhost"):
            await pool.warm(strict=True)

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 5
    assert at_rest(pool)


@pytest.mark.parametrize("amid", ["a wait", "a block that is not to be broken"])
def test_a_task_that_is_cancelled_waits_for_no_thread(over: threading.Event, amid: str) -> None:
    async def main() -> None:
        async def work() -> None:
            if amid == "a wait":
                await spawn(waiting.within, 30.0, over.wait)
            else:
                with Unbroken(0.2):
                    await spawn(waiting.within, 30.0, over.wait)

        task = asyncio.create_task(work())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError if amid == "a wait" else waiting.OverdueError):
            await task

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 5


def test_the_outcome_of_a_thread_is_that_of_the_call() -> None:
    async def main() -> None:
        assert await spawn(waiting.within, 20.0, int, "42") == 42
        with pytest.raises(ValueError, match="invalid literal"):
            await spawn(waiting.within, 20.0, int, "x")
        with pytest.raises(waiting.OverdueError):
            await spawn(waiting.within, 0.0, int, "42")

    asyncio.run(main())
    assert waiting.within(20.0, int, "42") == 42
    with pytest.raises(ValueError, match="invalid literal"):
        waiting.within(20.0, int, "x")
    with pytest.raises(waiting.OverdueError):
        waiting.within(0.0, int, "42")


def test_where_no_thread_can_be_started_the_call_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(waiting, "start_new_thread", refuse)
    assert waiting.within(20.0, int, "42") == 42
    assert asyncio.run(spawn(waiting.within, 20.0, int, "42")) == 42
