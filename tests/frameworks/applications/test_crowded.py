"""Keep while there is room: the server is asked when a request ends and no other runs, so that nobody waits for it."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lambda_pool
from lambda_pool import asgi, wsgi
from lambda_pool.events import Crowded
from lambda_pool.testing import FaultyProxy
from tests.support import web
from tests.support.core import entries

from .conftest import Server

Ask = Callable[[str], web.Answer]


class Threads:
    """Keeps where each answer to the question came in."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def on_event(self, event: Any) -> None:
        if isinstance(event, Crowded):
            self.found.append(threading.get_ident())


@pytest.fixture
def seen() -> Threads:
    return Threads()


@pytest.fixture
def pool(server: Server, seen: Threads) -> Iterator[lambda_pool.Pool]:
    made = lambda_pool.Pool(server.url(), max_size=2, observers=[seen])
    yield made
    made.close()


@pytest.fixture(params=["asgi", "wsgi"])
def ask(request: pytest.FixtureRequest, pool: lambda_pool.Pool) -> Ask:
    """An application on a pool: `/inner` begins another request before it ends."""

    def work(path: str) -> None:
        with pool.connection() as conn:
            conn.cursor().execute("select 1")

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        work(scope["path"])
        if scope["path"] == "/fails":
            raise KeyError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        work(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/fails":
            raise KeyError
        start_response("200 OK", [("content-length", "4")])
        return [b"done"]

    if request.param == "asgi":
        return lambda path: web.ask(asgi.Middleware(asgi_app, pool), path)
    return lambda path: web.wsgi(wsgi.Middleware(wsgi_app, pool), path)


def test_it_is_asked_when_a_request_ends_and_at_most_every_30_seconds(
    ask: Ask, pool: lambda_pool.Pool, seen: Threads
) -> None:
    for _ in range(5):
        assert ask("/").status == 200
    assert len(seen.found) == 1
    (entry,) = entries(pool)
    entry.ask_mono = 0.0  # as if this much time had passed
    assert isinstance(ask("/fails").error, KeyError)
    assert len(seen.found) == 2
    assert pool.stats().in_use == 0


def test_where_it_is_crowded_the_connections_are_closed(server: Server, pool: lambda_pool.Pool, ask: Ask) -> None:
    object.__setattr__(pool.config, "keep_below", 0.0)
    for _ in range(2):
        assert ask("/").status == 200
        assert pool.stats().size == 0


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
@pytest.mark.parametrize("made", [lambda_pool.Pool, lambda_pool.AsyncPool])
def test_a_server_that_is_silent_is_not_asked_past_the_requests_deadline(
    server: Server, kind: str, made: Callable[..., Any]
) -> None:
    """Its answer waits for that."""
    with FaultyProxy("127.0.0.1", server.port) as proxy:
        url = server.url().replace(f":{server.port}/", f":{proxy.port}/")
        pool = made(url, observers=(), ping_timeout=3)

        async def warm() -> None:
            await pool.warm(strict=True)

        async def close() -> None:
            await pool.close()

        asyncio.run(warm()) if made is lambda_pool.AsyncPool else pool.warm(strict=True)
        proxy.black_hole()

        async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"done"})

        def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [("content-length", "4")])
            return [b"done"]

        start = time.monotonic()
        if kind == "asgi":
            answer = web.ask(asgi.Middleware(asgi_app, pool, request_timeout=0.5), "/")
        else:
            answer = web.wsgi(wsgi.Middleware(wsgi_app, pool, request_timeout=0.5), "/")
        assert time.monotonic() - start < 2
        assert answer.status == 200
        assert pool.stats().in_use == 0
        asyncio.run(close()) if made is lambda_pool.AsyncPool else pool.close()


def test_while_another_request_runs_nobody_asks(pool: lambda_pool.Pool, seen: Threads) -> None:
    """And the event loop does not wait for the answer."""
    inside, leave = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            inside.set()
            await leave.wait()
        else:
            with pool.connection() as conn:
                conn.cursor().execute("select 1")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def both() -> None:
        served = asgi.Middleware(app, pool)
        slow = asyncio.create_task(web.asgi(served, "/slow"))
        await inside.wait()
        assert (await web.asgi(served, "/")).status == 200
        assert seen.found == []
        leave.set()
        assert (await slow).status == 200

    asyncio.run(both())
    assert len(seen.found) == 1
    assert seen.found[0] != threading.get_ident()


def test_a_websocket_that_stays_open_is_not_in_the_way(pool: lambda_pool.Pool, seen: Threads) -> None:
    inside, leave = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pool.connection() as conn:
            conn.cursor().execute("select 1")
        if scope["type"] == "websocket":
            inside.set()
            await leave.wait()
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def both() -> None:
        served: Any = asgi.Middleware(app, pool)
        socket = asyncio.create_task(served({"type": "websocket"}, None, None))
        await inside.wait()
        assert (await web.asgi(served, "/")).status == 200
        assert len(seen.found) == 1
        leave.set()
        await socket

    asyncio.run(both())


def test_an_async_pool_asks_on_its_loop(server: Server, seen: Threads) -> None:
    pool = lambda_pool.AsyncPool(server.url(), observers=[seen])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with pool.connection() as conn:
            await conn.cursor().execute("select 1")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def some() -> None:
        served = asgi.Middleware(app, pool)
        for _ in range(3):
            assert (await web.asgi(served, "/")).status == 200
        assert (pool.stats().in_use, pool.stats().opened) == (0, 1)
        await pool.close()

    asyncio.run(some())
    assert seen.found == [threading.get_ident()]


def test_with_an_engine_of_sqlalchemys_it_is_asked_when_the_handler_ends(pool: lambda_pool.Pool, seen: Threads) -> None:
    from sqlalchemy import text

    from lambda_pool.sqlalchemy import create_engine

    engine = create_engine(pool)

    @pool.handler
    def handler(event: object, context: object) -> None:
        with engine.begin() as conn:
            conn.execute(text("select 1"))
        assert seen.found == []

    handler({}, None)
    assert len(seen.found) == 1
    assert pool.stats().in_use == 0
