"""The ASGI middleware: what each request has, what it leaves behind, and which answer it gets."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware as Configured
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import lambda_pool
from lambda_pool import invocation
from lambda_pool.api import core_of
from lambda_pool.asgi import Middleware
from lambda_pool.endpoints.base import Role
from lambda_pool.request import Request as Requested
from lambda_pool.request import asked_by, current_request, note_failure, outside
from lambda_pool.testing import FaultyProxy, PostgresServer
from tests.support.context import LambdaContext
from tests.support.core import entries
from tests.support.invoked import invoked
from tests.support.web import asgi, ask

from .conftest import Ended, Server, insert, saved

Wrap = Callable[..., Any]


async def begun(coroutine: Any) -> None:
    """Run a coroutine until it waits for the first time, in a context of its own."""
    copy_context().run(coroutine.send, None)


def around(route: Any, pool: Any, **options: Any) -> Any:
    """The middleware around a whole application."""
    return Middleware(Starlette(routes=[Route("/{rest:path}", route)]), pool, **options)


def inside(route: Any, pool: Any, **options: Any) -> Any:
    """The middleware as one of the application's own."""
    return Starlette(routes=[Route("/{rest:path}", route)], middleware=[Configured(Middleware, pool=pool, **options)])


@pytest.fixture(params=[around, inside])
def wrap(request: pytest.FixtureRequest) -> Wrap:
    made: Wrap = request.param
    return made


class TestDeadline:
    def test_threads_and_tasks_of_a_request_have_its_deadline(self, pool: lambda_pool.Pool, wrap: Wrap) -> None:
        found: dict[str, float | None] = {}

        async def route(request: Request) -> Response:
            found["loop"] = invocation.remaining()
            await asyncio.to_thread(lambda: found.update(thread=invocation.remaining()))
            await asyncio.create_task(note("task"))
            return JSONResponse({})

        async def note(name: str) -> None:
            found[name] = invocation.remaining()

        assert ask(wrap(route, pool, request_timeout=10)).status == 200
        assert found == dict.fromkeys(("loop", "thread", "task"), pytest.approx(9.9, abs=0.5))
        assert invocation.remaining() is None

    def test_without_one_nothing_is_bounded(self, pool: lambda_pool.Pool, wrap: Wrap) -> None:
        def route(request: Request) -> Response:
            return JSONResponse(invocation.remaining())

        assert ask(wrap(route, pool)).body == b"null"

    def test_a_web_function_has_its_own(self, monkeypatch: pytest.MonkeyPatch, pool: lambda_pool.Pool) -> None:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_TIMEOUT", "7")

        def route(request: Request) -> Response:
            return JSONResponse(invocation.remaining())

        assert ask(around(route, pool)).body == b"null"  # elsewhere the deadline is the invocation's, not a request's
        monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "native-http")
        assert float(ask(around(route, pool)).body) == pytest.approx(6.9, abs=0.5)
        assert float(ask(around(route, pool, request_timeout=3)).body) == pytest.approx(2.9, abs=0.5)

    def test_the_invocations_own_end_counts_too(self, pool: lambda_pool.Pool, wrap: Wrap, ended: Ended) -> None:
        def route(request: Request) -> Response:
            return JSONResponse(invocation.remaining())

        with invoked(lambda: 2000):
            assert float(ask(wrap(route, pool, request_timeout=60)).body) == pytest.approx(1.9, abs=0.5)
        assert ended.events == []  # the invocation counts it, once

    @pytest.mark.sampled(2, "half a second a case")
    def test_no_wait_outlives_it(self, pool: lambda_pool.Pool, wrap: Wrap) -> None:
        def route(request: Request) -> Response:
            with pool.connection(timeout=60):
                return JSONResponse({})

        with pool.connection(), pool.connection():
            began = time.monotonic()
            answer = ask_in_a_thread(wrap(route, pool, request_timeout=0.4))
        assert answer.status == 503
        assert time.monotonic() - began < 5

    @pytest.mark.parametrize("server", ["postgres", "mariadb"], indirect=True)
    def test_a_statement_is_cancelled_in_time(self, server: Server) -> None:
        sleep = "select pg_sleep(30)" if server.scheme == "postgresql" else "select sleep(30) from dual"
        pool = lambda_pool.Pool(server.url(), max_size=2, cancel_before_deadline=0.5)

        def route(request: Request) -> Response:
            with pool.connection() as conn:
                insert(conn, int(request.path_params["rest"]))
                conn.cursor().execute(sleep if request.path_params["rest"] == "1" else "select 1")
            return JSONResponse({})

        app = around(route, pool, request_timeout=1)
        began = time.monotonic()
        assert ask(app, "/1").status == 503
        assert time.monotonic() - began < 10
        assert ask(app, "/2").status == 200
        assert saved(server) == [2]
        assert (pool.stats().in_use, pool.stats().opened) == (0, 2)  # the cancelled one is not lent again
        until = time.monotonic() + 5
        while [thread for thread in threading.enumerate() if "lambda_pool" in thread.name]:
            assert time.monotonic() < until, "its thread goes on"
            time.sleep(0.01)
        pool.close()

    @pytest.mark.parametrize("server", ["postgres", "mariadb"], indirect=True)
    def test_a_statement_that_outlives_its_request_says_why_it_was_ended(self, server: Server) -> None:
        pool = lambda_pool.Pool(server.url(), max_size=2)
        postgres = server.scheme == "postgresql"
        sleep = "select pg_sleep(30)" if postgres else "select sleep(30) from dual"
        seen = "pg_stat_activity where query" if postgres else "information_schema.processlist where info"
        errors: list[Exception] = []

        def work() -> None:
            try:
                with pool.connection() as conn:
                    conn.cursor().execute(sleep)
            except Exception as error:
                errors.append(error)

        def route(request: Request) -> Response:
            threads.append(threading.Thread(target=copy_context().run, args=[work]))
            threads[0].start()
            until = time.monotonic() + 30
            while not server.execute(f"select 1 from {seen} = '{sleep}'"):
                assert time.monotonic() < until
                time.sleep(0.01)
            return JSONResponse({})

        threads: list[threading.Thread] = []
        ask(around(route, pool, request_timeout=60))
        threads[0].join(25)
        assert [type(error) for error in errors] == [lambda_pool.DeadlineExceeded]
        assert "because the end of its invocation, its request or this environment came" in str(errors[0])
        pool.close()


@pytest.mark.parametrize("how", ["ends", "is cancelled"])
def test_it_is_cleaned_up_though_the_loops_threads_are_all_taken(server: Server, how: str) -> None:
    """Calls that never end occupy them, such like those of an HTTP client without a timeout."""
    over = threading.Event()
    pool = lambda_pool.Pool(server.url(), max_size=1)
    left: list[Any] = []

    async def route(request: Request) -> Response:
        left.append(pool.connection())
        insert(left[-1].__enter__(), 1)
        return JSONResponse({})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        loop.run_in_executor(None, over.wait, 30)
        task = asyncio.create_task(asgi(around(route, pool, request_timeout=2)))
        if how == "ends":
            assert isinstance((await task).error, lambda_pool.NotCommitted)
        else:
            while not left:
                await asyncio.sleep(0.001)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        until = time.monotonic() + 10
        while pool.stats().in_use:
            assert time.monotonic() < until, "nobody cleaned up"
            await asyncio.sleep(0.01)
        over.set()

    asyncio.run(main())
    assert saved(server) == []
    pool.close()


def test_a_thread_that_has_borrowed_for_another_request_waits(server: Server) -> None:
    """Where a dependency of FastAPI's lends it, one thread runs the route, and another gives back after the answer."""
    pool = lambda_pool.Pool(server.url(), max_size=1, timeout=10)

    async def route(request: Request) -> Response:
        context = pool.connection()
        await asyncio.to_thread(context.__enter__)
        await asyncio.sleep(0.1)
        context.__exit__(None, None, None)
        return JSONResponse({})

    async def main() -> list[int]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        app = around(route, pool)
        return [answer.status for answer in await asyncio.gather(asgi(app), asgi(app))]

    assert asyncio.run(main()) == [200, 200]
    pool.close()


def ask_in_a_thread(app: Any) -> Any:
    """Like `ask`, but in another thread than that of the test, which holds connections."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ask(app)))
    thread.start()
    thread.join()
    return found[0]


class TestCleanUp:
    def test_what_a_request_leaves_is_taken_back_and_nothing_else(
        self, pool: lambda_pool.Pool, server: Server, wrap: Wrap, ended: Ended, caplog: pytest.LogCaptureFixture
    ) -> None:
        left: list[Any] = []

        def route(request: Request) -> Response:
            left.append(pool.connection())
            insert(left[-1].__enter__(), 1)
            return JSONResponse({})

        with pool.connection() as mine:  # this belongs to no request
            insert(mine, 2)
            answer = ask(wrap(route, pool))
            assert pool.stats().in_use == 1
        # Success is not reported for work that is not saved.
        assert answer.status in {0, 500}
        assert isinstance(answer.error, lambda_pool.NotCommitted)
        assert "the request ended normally with a transaction still open" in str(answer.error)
        assert saved(server) == [2]
        assert (pool.stats().in_use, pool.stats().leaked) == (0, 1)
        assert ended.failed == [True]
        assert "a connection was held for" in caplog.text

    @pytest.mark.parametrize("amid", [True, False], ids=["amid its answer", "before its answer"])
    def test_a_client_that_hangs_up_is_no_error(
        self, pool: lambda_pool.Pool, server: Server, ended: Ended, amid: bool
    ) -> None:
        """Starlette's BaseHTTPMiddleware leaves a stream's generator where it is, and Django a view's thread.

        Both applications then end as if all were well.
        """
        left: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            left.append(pool.connection())
            insert(left[-1].__enter__(), 1)
            if amid:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"1", "more_body": True})

        answer = ask(Middleware(app, pool))
        assert (answer.status, answer.error) == (200 if amid else 0, None)
        assert saved(server) == []
        assert (pool.stats().in_use, pool.stats().leaked) == (0, 1)
        assert ended.failed == [True]

    @pytest.mark.parametrize(
        ("method", "status", "length", "pieces"),
        [("GET", 200, b"2", 2), ("GET", 200, b"1", 1), ("HEAD", 200, None, 1), ("GET", 204, None, 0)],
    )
    def test_a_client_that_hangs_up_once_it_has_all_of_a_success_is_contradicted(
        self, pool: lambda_pool.Pool, server: Server, method: str, status: int, length: bytes | None, pieces: int
    ) -> None:
        """It need not wait for the message that says that no more is to come."""
        left: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            left.append(pool.connection())
            insert(left[-1].__enter__(), 1)
            headers = [] if length is None else [(b"Content-Length", length)]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            for _ in range(pieces):
                await send({"type": "http.response.body", "body": b"1", "more_body": True})

        async def nothing(*message: Any) -> Any:
            pass

        with pytest.raises(lambda_pool.NotCommitted):
            asyncio.run(Middleware(app, pool)({"type": "http", "method": method, "path": "/"}, nothing, nothing))
        assert saved(server) == []

    @pytest.mark.sampled(1, "a second a case")
    def test_a_silent_server_is_not_told_to_stop_past_the_deadline(self, server: Server, wrap: Wrap) -> None:
        """A statement that a thread of the request left running is ended, but the answer waits for that."""
        sleep = "select pg_sleep(20)" if isinstance(server, PostgresServer) else "select sleep(20)"
        begun = threading.Event()

        def left() -> None:
            with contextlib.suppress(Exception), pool.connection() as conn:
                begun.set()
                conn.cursor().execute(sleep)

        def route(request: Request) -> Response:
            threads.submit(copy_context().run, left)
            assert begun.wait(5)
            time.sleep(0.1)
            proxy.black_hole()
            return JSONResponse({})

        with FaultyProxy("127.0.0.1", server.port) as proxy, ThreadPoolExecutor() as threads:
            url = server.url().replace(f":{server.port}/", f":{proxy.port}/")
            pool = lambda_pool.Pool(url, observers=(), ping_timeout=5)
            pool.warm(strict=True)
            start = time.monotonic()
            ask(wrap(route, pool, request_timeout=1.0))
            assert time.monotonic() - start < 3
            assert pool.stats().in_use == 0
            pool.close()

    def test_a_read_that_was_left_is_answered(self, pool: lambda_pool.Pool, wrap: Wrap) -> None:
        left: list[Any] = []

        def route(request: Request) -> Response:
            left.append(pool.connection())
            left[-1].__enter__()
            return JSONResponse({})

        answer = ask(wrap(route, pool))
        assert (answer.status, answer.error) == (200, None)
        assert pool.stats().in_use == 0

    def test_a_generator_that_is_not_read_to_its_end_gives_back_by_itself(self, server: Server) -> None:
        """The loop closes it in a task of its own, soon after. It is no leak, and the answer is no failure."""
        pool = lambda_pool.AsyncPool(server.url(), observers=())
        server.execute("insert into served values (1)")

        async def numbers() -> AsyncIterator[int]:
            async with pool.connection() as conn, conn.cursor() as cursor:
                await cursor.execute("select id from served")
                while True:
                    yield (await cursor.fetchone())[0]

        async def route(request: Request) -> Response:
            async for number in numbers():
                return JSONResponse(number)
            raise AssertionError

        async def main() -> None:
            for _ in range(2):
                answer = await asgi(around(route, pool, request_timeout=5))
                assert (answer.status, answer.body, answer.error) == (200, b"1", None)
            await pool.close()

        asyncio.run(main())
        assert (pool.stats().opened, pool.stats().leaked) == (1, 0)

    def test_an_answer_with_an_error_is_the_applications_own(
        self, pool: lambda_pool.Pool, server: Server, wrap: Wrap, ended: Ended
    ) -> None:
        def route(request: Request) -> Response:
            with pool.connection() as conn:
                insert(conn, 1)
                raise HTTPException(409)

        answer = ask(wrap(route, pool))
        assert (answer.status, answer.error) == (409, None)
        assert saved(server) == []
        assert ended.failed == [False]

    def test_requests_at_once_do_not_clean_up_after_each_other(
        self, pool: lambda_pool.Pool, server: Server, wrap: Wrap
    ) -> None:
        first_inside, second_over = threading.Event(), threading.Event()

        def route(request: Request) -> Response:
            with pool.connection() as conn:
                insert(conn, int(request.path_params["rest"]))
                if request.path_params["rest"] == "1":
                    first_inside.set()
                    assert second_over.wait(20)
            return JSONResponse({})

        async def both() -> list[int]:
            app = wrap(route, pool)
            first = asyncio.create_task(asgi(app, "/1"))
            await asyncio.to_thread(first_inside.wait, 20)
            second = await asgi(app, "/2")
            second_over.set()
            return [(await first).status, second.status]

        assert asyncio.run(both()) == [200, 200]
        assert saved(server) == [1, 2]
        assert pool.stats().leaked == 0

    @pytest.mark.parametrize("begun_in", ["receive", "send"])
    def test_a_request_that_the_server_begins_for_the_same_client_is_no_part_of_it(
        self, pool: lambda_pool.Pool, server: Server, ended: Ended, begun_in: str
    ) -> None:
        """uvicorn reads the next request in the context in which it began to read, or sent the last answer."""
        served: list[asyncio.Task[Any]] = []

        async def main() -> int:
            first_over = asyncio.Event()

            async def app(scope: Any, receive: Any, send: Any) -> None:
                if scope["path"] == "/first":
                    await receive()
                    await PlainTextResponse("one")(scope, receive, send)
                    await asyncio.sleep(0)  # a background task, while the second request begins
                    return
                with pool.connection() as conn:
                    insert(conn, 2)
                    await first_over.wait()
                assert invocation.remaining() == pytest.approx(4.9, abs=0.5)
                await PlainTextResponse("two")(scope, receive, send)

            wrapped = Middleware(app, pool, request_timeout=5)

            def begin(where: str) -> None:
                if where == begun_in and not served:
                    served.append(asyncio.create_task(asgi(wrapped, "/second")))

            async def receive() -> Any:
                begin("receive")
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message: Any) -> None:
                begin("send")

            await wrapped({"type": "http", "path": "/first", "method": "GET"}, receive, send)
            first_over.set()
            return int((await served[0]).status)

        assert asyncio.run(main()) == 200
        assert saved(server) == [2]
        assert ended.failed == [False, False]

    def test_a_request_that_is_destroyed_while_it_receives_leaves_the_request_of_others_alone(self) -> None:
        async def receive() -> Any:
            await asyncio.Event().wait()

        loop = asyncio.new_event_loop()
        receiving: Any = outside(receive)()
        loop.run_until_complete(begun(receiving))
        loop.close()
        another = Requested(None)
        with asked_by(another):
            receiving.close()  # as the garbage collector does, wherever it runs
            assert current_request() is another

    def test_a_connection_that_was_given_back_is_the_next_ones(self, pool: lambda_pool.Pool) -> None:
        """Even before the next borrower has got it: a connection is first reserved, and then checked."""
        core, me = core_of(pool), threading.get_ident()

        def route(request: Request) -> Response:
            with pool.connection():
                pass
            with core.lock:
                reserved = core.state.acquire(Role.WRITER, me)  # like another thread
            assert reserved is not None
            return JSONResponse({})

        assert ask(around(route, pool)).status == 200
        assert (pool.stats().in_use, pool.stats().leaked, pool.stats().closed) == (1, 0, 0)
        core.release(entries(pool)[0])

    def test_what_outlives_its_request_is_its_own_master(self, pool: lambda_pool.Pool, server: Server) -> None:
        tasks: list[Any] = []

        async def later(over: asyncio.Event) -> None:
            await over.wait()
            assert current_request() is None
            assert invocation.remaining() is None
            with pool.connection() as conn:
                insert(conn, 1)

        async def main() -> None:
            over = asyncio.Event()

            async def route(request: Request) -> Response:
                tasks.append(asyncio.create_task(later(over)))
                return JSONResponse({})

            assert (await asgi(around(route, pool, request_timeout=1))).status == 200
            over.set()
            await tasks[0]

        asyncio.run(main())
        assert saved(server) == [1]

    def test_a_client_that_hangs_up(self, pool: lambda_pool.Pool, server: Server, wrap: Wrap) -> None:
        left = threading.Event()

        def rows() -> Iterator[bytes]:
            with pool.connection() as conn:
                insert(conn, 1)
                try:
                    while True:
                        yield b"row\n"
                        time.sleep(0.01)
                finally:
                    left.set()

        async def route(request: Request) -> Response:
            return StreamingResponse(rows())

        asyncio.run(asgi(wrap(route, pool), disconnect_after=4))
        assert pool.stats().in_use == 0
        assert saved(server) == []


def answering_before_commit(pool: lambda_pool.Pool) -> Any:
    """An application that answers inside the block, whose end fails for /bad."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pool.connection() as conn:
            insert(conn, 1)
            await JSONResponse({"saved": True})(scope, receive, send)
            if scope["path"] == "/bad":
                raise ValueError("COMMIT failed")

    return app


class TestAnswers:
    def test_no_connection_is_503(
        self, pool: lambda_pool.Pool, wrap: Wrap, ended: Ended, caplog: pytest.LogCaptureFixture
    ) -> None:
        def route(request: Request) -> Response:
            with pool.connection(timeout=0.1):
                return JSONResponse({})

        with pool.connection(), pool.connection():
            answer = ask_in_a_thread(wrap(route, pool))
        assert (answer.status, answer.error) == (503, None)
        assert answer.headers["retry-after"] == "5"
        assert answer.body == b'{"detail": "The database is not available: try again later."}'
        assert "GET / is answered with 503: PoolTimeout: pool" in caplog.text
        assert ended.failed == [True]

    def test_a_server_that_is_away_is_503(self, wrap: Wrap) -> None:
        pool = lambda_pool.Pool("postgresql://app@127.0.0.1:1/orders?sslmode=disable", timeout=0.2)

        async def route(request: Request) -> Response:
            with pool.connection():
                return JSONResponse({})

        answer = ask(wrap(route, pool))
        assert answer.status == 503
        assert b"127.0.0.1" not in answer.body

    def test_a_commit_whose_answer_is_lost_says_so(self, pool: lambda_pool.Pool, wrap: Wrap) -> None:
        def route(request: Request) -> Response:
            raise lambda_pool.CommitUncertain("COMMIT was sent")

        answer = ask(wrap(route, pool))
        assert answer.status == 503
        assert b"look before you send it again" in answer.body
        assert "retry-after" not in answer.headers

    def test_an_answer_of_ones_own(self, pool: lambda_pool.Pool, wrap: Wrap) -> None:
        seen: list[Any] = []

        def own(scope: Any, error: Exception) -> Response:
            seen.append((scope["path"], type(error)))
            return PlainTextResponse("closed", 503)

        async def awaited(scope: Any, error: Exception) -> Response:
            return own(scope, error)

        def route(request: Request) -> Response:
            try:
                raise lambda_pool.PoolTimeout("busy")
            except lambda_pool.PoolTimeout as error:
                raise RuntimeError("wrapped by a library") from error

        for on_unavailable in (own, awaited):
            answer = ask(wrap(route, pool, on_unavailable=on_unavailable), "/orders")
            assert (answer.status, answer.body, answer.error) == (503, b"closed", None)
        assert seen == [("/orders", lambda_pool.PoolTimeout)] * 2

    def test_an_answer_of_ones_own_that_is_none(self, pool: lambda_pool.Pool, wrap: Wrap) -> None:
        def route(request: Request) -> Response:
            raise lambda_pool.PoolTimeout("busy")

        answer = ask(wrap(route, pool, on_unavailable=lambda scope, error: {"statusCode": 503}), "/orders")
        assert isinstance(answer.error, lambda_pool.ConfigError)
        assert str(answer.error) == "on_unavailable returned an object of type dict: it must return an ASGI application"

    def test_another_error_is_the_frameworks(self, pool: lambda_pool.Pool, wrap: Wrap) -> None:
        def route(request: Request) -> Response:
            raise ValueError("mine")

        answer = ask(wrap(route, pool))
        assert answer.status == 500
        assert isinstance(answer.error, ValueError)

    def test_an_answer_that_the_application_gives_itself_stays(self, pool: lambda_pool.Pool, wrap: Wrap) -> None:
        def route(request: Request) -> Response:
            try:
                with pool.connection(timeout=0.1):
                    return JSONResponse({})
            except lambda_pool.PoolTimeout:
                return PlainTextResponse("come back", 429)

        with pool.connection(), pool.connection():
            assert ask_in_a_thread(wrap(route, pool)).status == 429

    def test_a_500_that_a_framework_makes_of_it_is_503(self, pool: lambda_pool.Pool) -> None:
        """Django does this, and does not pass the error on."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                with pool.connection(timeout=0.1):
                    pass
            except lambda_pool.PoolTimeout:
                await PlainTextResponse("Server Error", 500)(scope, receive, send)

        with pool.connection(), pool.connection():
            assert ask_in_a_thread(Middleware(app, pool)).status == 503

    @pytest.mark.parametrize(
        ("error", "status"), [(lambda_pool.PoolTimeout("busy"), 500), (lambda_pool.CommitUncertain("sent"), 503)]
    )
    def test_a_connection_makes_up_for_none_but_not_for_an_uncertain_commit(
        self, pool: lambda_pool.Pool, error: lambda_pool.LambdaPoolError, status: int
    ) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            note_failure(error)
            with pool.connection():
                pass
            await PlainTextResponse("Server Error", 500)(scope, receive, send)

        answer = ask(Middleware(app, pool))
        assert (answer.status, b"look before you send it again" in answer.body) == (status, status == 503)

    def test_one_that_was_handled_does_not_change_an_answer_that_is_held_back(
        self, pool: lambda_pool.Pool, server: Server
    ) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            with pool.connection() as conn:
                insert(conn, 1)
                note_failure(lambda_pool.PoolTimeout("another pool is busy"))
                await JSONResponse({"saved": True})(scope, receive, send)

        assert ask(Middleware(app, pool)).status == 200
        assert saved(server) == [1]

    def test_a_refusal_of_head_has_no_body(self, pool: lambda_pool.Pool) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise lambda_pool.PoolTimeout("busy")

        whole, head = ask(Middleware(app, pool)), ask(Middleware(app, pool), method="HEAD")
        assert (head.status, head.headers, head.body) == (503, whole.headers, b"")

    def test_a_commit_that_fails_after_the_answer_changes_it(
        self, pool: lambda_pool.Pool, server: Server, wrap: Wrap
    ) -> None:
        """FastAPI does this with a dependency of the default scope."""
        app = answering_before_commit(pool)
        answer = ask(Middleware(app, pool), "/bad")
        assert answer.status == 0  # the server turns the error into a 500
        assert isinstance(answer.error, ValueError)
        assert saved(server) == []
        answer = ask(Middleware(app, pool), "/good")
        assert (answer.status, answer.body) == (200, b'{"saved":true}')
        assert saved(server) == [1]

    def test_one_that_passes_through_a_middleware_of_starlettes_is_complete_too(
        self, pool: lambda_pool.Pool, server: Server
    ) -> None:
        """It sends a complete answer as a stream of one piece."""

        async def timed(request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            response.headers["x-took"] = "1"
            return response

        wrapped = Middleware(BaseHTTPMiddleware(answering_before_commit(pool), timed), pool)
        answer = ask(wrapped, "/bad")
        assert answer.status == 0
        assert isinstance(answer.error, ValueError)
        assert saved(server) == []
        answer = ask(wrapped, "/good")
        assert (answer.status, answer.body, answer.headers["x-took"]) == (200, b'{"saved":true}', "1")
        assert saved(server) == [1]

    @pytest.mark.parametrize("failing", [True, False])
    def test_a_stream_that_fails_before_its_first_piece_is_no_empty_answer(
        self, pool: lambda_pool.Pool, failing: bool
    ) -> None:
        """Such a middleware sends an empty answer, and then raises."""

        def rows() -> Iterator[str]:
            try:
                with pool.connection(timeout=0.1) as conn:
                    conn.cursor()
            except lambda_pool.PoolTimeout:
                if failing:
                    raise
            yield from ()

        async def route(request: Request) -> Response:
            return StreamingResponse(rows())

        async def passed(request: Request, call_next: Any) -> Any:
            return await call_next(request)

        app = Starlette(routes=[Route("/", route)], middleware=[Configured(BaseHTTPMiddleware, dispatch=passed)])
        with pool.connection(), pool.connection():
            answer = ask_in_a_thread(Middleware(app, pool))
        assert (answer.status, answer.error) == (503 if failing else 200, None)

    def test_an_early_hint_is_no_part_of_the_answer(self, pool: lambda_pool.Pool, server: Server) -> None:
        sent: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]})
            assert sent == ["http.response.early_hint"]
            with pool.connection() as conn:
                insert(conn, 1)
                await JSONResponse({"saved": True})(scope, receive, send)
                raise ValueError("COMMIT failed")

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            async def note(message: Any) -> None:
                sent.append(message["type"])
                await send(message)

            await Middleware(app, pool)(scope, receive, note)

        answer = ask(noting)
        assert answer.status == 0
        assert isinstance(answer.error, ValueError)
        assert sent == ["http.response.early_hint"]
        assert saved(server) == []

    def test_a_file_that_the_server_sends_is_a_complete_answer(self, pool: lambda_pool.Pool, server: Server) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            insert(pool.connection().__enter__(), 1)  # in a transaction that nobody ends
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.pathsend", "path": __file__})

        answer = ask(Middleware(app, pool))
        assert answer.status == 0
        assert isinstance(answer.error, lambda_pool.NotCommitted)
        assert saved(server) == []

    @pytest.mark.parametrize(
        ("errors", "said"),
        [
            ([lambda_pool.ConnectError("away"), lambda_pool.PoolTimeout("busy")], b"not available"),
            ([lambda_pool.ConnectError("away"), lambda_pool.CommitUncertain("sent")], b"look before you send it again"),
            ([lambda_pool.ConnectError("away"), ValueError("mine")], None),
        ],
    )
    def test_several_tasks_that_fail_at_once(
        self, pool: lambda_pool.Pool, errors: list[Exception], said: bytes | None
    ) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise ExceptionGroup("unhandled errors in a TaskGroup", errors)

        answer = ask(Middleware(app, pool))
        assert answer.status == (503 if said else 0)
        assert (said or b"") in answer.body
        assert isinstance(answer.error, ExceptionGroup) is (said is None)

    def test_a_stream_is_passed_on_piece_by_piece(self, pool: lambda_pool.Pool, wrap: Wrap) -> None:
        async def rows() -> AsyncIterator[bytes]:
            with pool.connection() as conn:
                cursor = conn.cursor()
                cursor.execute("select 1")
                for number in range(3):
                    yield b"%d\n" % number

        async def route(request: Request) -> Response:
            return StreamingResponse(rows())

        answer = ask(wrap(route, pool))
        assert (answer.status, answer.pieces[:3], answer.error) == (200, [b"0\n", b"1\n", b"2\n"], None)
        assert pool.stats().in_use == 0

    def test_an_answer_does_not_wait_for_its_background_task(
        self, pool: lambda_pool.Pool, server: Server, wrap: Wrap
    ) -> None:
        sent, order = threading.Event(), list[str]()

        def task() -> None:
            assert sent.wait(20)
            order.append("task")
            with pool.connection() as conn:
                insert(conn, 2)

        def route(request: Request) -> Response:
            with pool.connection() as conn:
                insert(conn, 1)
            return JSONResponse({}, background=BackgroundTask(task))

        app = wrap(route, pool)

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            async def noted(message: Any) -> None:
                await send(message)
                if message["type"] == "http.response.body":
                    order.append("sent")
                    sent.set()

            await app(scope, receive, noted)

        assert ask(watched).status == 200
        assert order == ["sent", "task"]
        assert saved(server) == [1, 2]


class TestOtherScopes:
    def test_lifespan_is_passed_on(self, pool: lambda_pool.Pool) -> None:
        seen: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["type"])
            assert current_request() is None

        asyncio.run(Middleware(app, pool)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
        assert seen == ["lifespan"]

    def test_a_websocket_has_no_deadline_and_is_cleaned_up_after(self, pool: lambda_pool.Pool, server: Server) -> None:
        sent: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert invocation.remaining() is None
            await send({"type": "websocket.accept"})
            with pool.connection() as conn:
                insert(conn, 1)
            pool.connection().__enter__()
            await send({"type": "websocket.close"})

        async def send(message: Any) -> None:
            sent.append(message["type"])

        asyncio.run(Middleware(app, pool, request_timeout=1)({"type": "websocket"}, None, send))  # type: ignore[arg-type]
        assert sent == ["websocket.accept", "websocket.close"]
        assert saved(server) == [1]
        assert pool.stats().in_use == 0

    def test_one_inside_of_another_does_nothing(self, pool: lambda_pool.Pool, ended: Ended) -> None:
        def route(request: Request) -> Response:
            return JSONResponse(invocation.remaining())

        app = Middleware(around(route, pool, request_timeout=60), pool, request_timeout=5)
        assert float(ask(app).body) == pytest.approx(4.9, abs=0.5)
        assert ended.failed == [False]

    def test_under_a_decorated_handler(self, pool: lambda_pool.Pool, server: Server, ended: Ended) -> None:
        def route(request: Request) -> Response:
            with pool.connection() as conn:
                insert(conn, 1)
            return JSONResponse({})

        @pool.handler
        def handler(event: Any, context: Any) -> int:
            return ask(around(route, pool)).status

        assert handler({}, LambdaContext()) == 200
        assert saved(server) == [1]
        assert ended.failed == [False]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pool": "postgresql://app:hush@h/d"}, r"pool is not valid: it must be a lambda_pool\.Pool, not str"),
        ({"request_timeout": 0}, "request_timeout=0 is not valid"),
        ({"request_timeout": "soon"}, "request_timeout='soon' is not valid"),
        ({"request_timeout": 0.1}, r"request_timeout=0\.1 is not valid: it must be more than 0\.1 seconds"),
        ({"on_unavailable": 503}, "on_unavailable=503 is not valid"),
    ],
)
def test_bad_arguments(options: dict[str, Any], text: str) -> None:
    with pytest.raises(lambda_pool.ConfigError, match=text):
        Middleware(lambda scope, receive, send: None, **options)  # type: ignore[arg-type, return-value]


def test_a_request_needs_more_time_than_is_kept_back_at_its_end() -> None:
    pool = lambda_pool.Pool("postgresql://h/d", cancel_before_deadline=0.5)
    with pytest.raises(lambda_pool.ConfigError, match=r"request_timeout=0\.5 .* than cancel_before_deadline \(0\.5\)"):
        Middleware(lambda scope, receive, send: None, pool, request_timeout=0.5)  # type: ignore[arg-type, return-value]


def test_a_functions_timeout_that_leaves_no_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_HTTP_ENDPOINT", "127.0.0.1:8080")
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_TIMEOUT", "3")
    pool = lambda_pool.Pool("postgresql://app@localhost/app?sslmode=disable", cancel_before_deadline=3, observers=())
    with pytest.raises(lambda_pool.ConfigError, match="AWS_LAMBDA_FUNCTION_TIMEOUT=3 is not valid"):
        Middleware(lambda scope, receive, send: None, pool)  # type: ignore[arg-type, return-value]
