"""The WSGI middleware: what each request has, what it leaves behind, and which answer it gets."""

import contextlib
import gc
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from itertools import count
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from flask import Flask, Response, abort

import lambda_pool
from lambda_pool import invocation
from lambda_pool.request import begin, current_request, unfinished
from lambda_pool.testing import FakeDriver
from lambda_pool.wsgi import Middleware, _Answer
from tests.support.interrupts import every_place, handler, run_interrupted
from tests.support.web import Answer, wsgi

from .conftest import Ended, Server, insert, saved


def application(route: Any) -> Flask:
    app = Flask("shop")
    app.add_url_rule("/", "route", route)
    return app


def ask_in_a_thread(app: Any) -> Answer:
    """Like `wsgi`, but in another thread than the test's, which holds connections."""
    found: list[Answer] = []
    thread = threading.Thread(target=lambda: found.append(wsgi(app)))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.sampled(1, "a second a case")
def test_a_request_has_its_deadline_until_its_body_was_read(pool: lambda_pool.Pool, ended: Ended) -> None:
    found: list[float | None] = []

    def route() -> Any:
        found.append(invocation.remaining())
        return Response(rows(), mimetype="text/plain")

    def rows() -> Iterator[bytes]:
        found.append(invocation.remaining())
        with pool.connection():
            yield b"1\n"
        yield b"2\n"
        assert ended.failed == []

    answer = wsgi(Middleware(application(route), pool, request_timeout=10))
    assert (answer.status, answer.pieces, answer.error) == (200, [b"1\n", b"2\n"], None)
    assert found == [pytest.approx(9.9, abs=0.5)] * 2
    assert current_request() is None
    assert ended.failed == [False]


def test_an_answer_that_nobody_closes_is_not_in_the_way_of_the_next(pool: lambda_pool.Pool, ended: Ended) -> None:
    """Flask's test client closes an answer only when it is told to."""
    app = application(lambda: str(invocation.remaining()))
    app.wsgi_app = Middleware(app.wsgi_app, pool, request_timeout=5)  # type: ignore[method-assign]
    with contextlib.ExitStack() as unclosed:
        for _ in range(2):
            answer = unclosed.enter_context(contextlib.closing(app.test_client().get("/")))
            assert float(answer.data) == pytest.approx(4.9, abs=0.5)
            assert (current_request(), invocation.remaining()) == (None, None)
    assert ended.failed == [False, False]


@pytest.mark.sampled(1 / 2, "12 s a case")
def test_an_alarm_as_a_request_begins_is_not_in_the_way_of_the_next(pool: lambda_pool.Pool) -> None:
    """A signal handler's exception anywhere before the answer: the thread's next request is one of its own."""
    middleware = Middleware(lambda environ, start: [b""], pool, request_timeout=5)
    with handler():
        for place in count(1):
            struck = run_interrupted(lambda: middleware({}, lambda *_: None), place)
            assert (current_request(), invocation.remaining()) == (None, None), struck
            if struck is None:
                break
            gc.collect()
            assert not list(unfinished), struck
    assert place > 10


def test_requests_end_while_others_begin() -> None:
    """The end of one looks at all that are still open."""
    middleware = Middleware(lambda environ, start: [b""])
    opened = [copy_context().run(begin, None, lasting=True) for _ in range(100)]
    until = time.monotonic() + 1.0

    def serve(_: int) -> int:
        served = 0
        while time.monotonic() < until:
            middleware({}, lambda *_: None).close()  # type: ignore[attr-defined]
            served += 1
        return served

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert min(threads.map(serve, range(4))) > 1
    finally:
        sys.setswitchinterval(before)
    assert len(opened) == len([known for known in unfinished if known() in opened])


@pytest.mark.parametrize(
    ("leaves", "fails"), [(False, False), (True, False), (True, True)], ids=["gives back", "leaves", "leaves and fails"]
)
def test_an_alarm_anywhere_in_a_request_is_not_in_the_way_of_the_next(leaves: bool, fails: bool) -> None:
    """Also where it strikes the clean-up, and although the application still refers to the connection that it left."""
    pools: list[lambda_pool.Pool] = []
    kept: list[Any] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        with contextlib.ExitStack() as borrowed:
            borrowed.enter_context(pools[0].connection()).execute("insert")
            if leaves:
                kept[:] = [borrowed.pop_all()]
        if fails:
            raise ValueError("mine")
        yield b"saved"

    def prepare() -> Callable[[], object]:
        pools[:] = [FakeDriver().pool(timeout=0.1)]
        wsgi(Middleware(lambda environ, start: list(app(environ, start)), pools[0]))
        return lambda: wsgi(Middleware(app, pools[0]))

    uncalled = f"wsgi.py:{_Answer.close.__code__.co_firstlineno} _Answer.close"  # as if the server did not call it
    for where in every_place(prepare):
        assert current_request() is None, where
        if where != uncalled:
            assert (pools[0].stats().in_use, pools[0].stats().waiting) == (0, 0), where


def test_no_wait_outlives_it(pool: lambda_pool.Pool) -> None:
    def route() -> Any:
        with pool.connection(timeout=60):
            return "saved"

    with pool.connection(), pool.connection():
        began = time.monotonic()
        answer = ask_in_a_thread(Middleware(application(route), pool, request_timeout=0.4))
    assert answer.status == 503
    assert time.monotonic() - began < 5


def test_what_it_leaves_is_taken_back(
    pool: lambda_pool.Pool, server: Server, ended: Ended, caplog: pytest.LogCaptureFixture
) -> None:
    left: list[Any] = []

    def route() -> Any:
        left.append(pool.connection())
        insert(left[-1].__enter__(), 1)
        return "saved"

    answer = wsgi(Middleware(application(route), pool))
    assert answer.status == 0
    assert isinstance(answer.error, lambda_pool.NotCommitted)
    assert saved(server) == []
    assert (pool.stats().in_use, pool.stats().leaked) == (0, 1)
    assert ended.failed == [True]
    assert "a connection was held for" in caplog.text


def test_a_stream_that_leaves_something_says_so_at_its_end(pool: lambda_pool.Pool, server: Server) -> None:
    left: list[Any] = []

    def rows() -> Iterator[bytes]:
        left.append(pool.connection())
        insert(left[-1].__enter__(), 1)
        yield b"1\n"
        yield b"2\n"

    answer = wsgi(Middleware(application(lambda: Response(rows())), pool))
    assert answer.pieces == [b"1\n", b"2\n"]
    assert isinstance(answer.error, lambda_pool.NotCommitted)
    assert pool.stats().in_use == 0
    assert saved(server) == []


def test_a_client_that_hangs_up(pool: lambda_pool.Pool, server: Server) -> None:
    """The server closes the body without reading all of it."""

    def rows() -> Iterator[bytes]:
        with pool.connection() as conn:
            insert(conn, 1)
            while True:
                yield b"row\n"

    app = Middleware(application(lambda: Response(rows())), pool)
    body: Any = app({"REQUEST_METHOD": "GET", "PATH_INFO": "/", **_REST}, lambda *_: None)
    assert next(body) == b"row\n"
    body.close()
    assert pool.stats().in_use == 0
    assert saved(server) == []


_REST: dict[str, Any] = {
    "SERVER_NAME": "shop",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "wsgi.url_scheme": "http",
}


def test_an_error_that_flask_answers_rolls_back(pool: lambda_pool.Pool, server: Server, ended: Ended) -> None:
    def route() -> Any:
        with pool.connection() as conn:
            insert(conn, 1)
            abort(409)

    assert wsgi(Middleware(application(route), pool)).status == 409
    assert saved(server) == []
    assert ended.failed == [False]


def test_no_connection_is_503_though_flask_makes_a_500_of_it(
    pool: lambda_pool.Pool, ended: Ended, caplog: pytest.LogCaptureFixture
) -> None:
    def route() -> Any:
        with pool.connection(timeout=0.1):
            return "saved"

    with pool.connection(), pool.connection():
        answer = ask_in_a_thread(Middleware(application(route), pool))
    assert (answer.status, answer.error) == (503, None)
    assert answer.headers["retry-after"] == "5"
    assert answer.body == b'{"detail": "The database is not available: try again later."}'
    assert "GET / is answered with 503: PoolTimeout: pool" in caplog.text
    assert ended.failed == [False]  # nobody but the framework knew of the error


@pytest.mark.sampled(4, "many cases")
@pytest.mark.parametrize("amid", [True, False])
@pytest.mark.parametrize("flask", [True, False])
def test_one_that_was_handled_is_not_what_the_request_failed_for(
    pool: lambda_pool.Pool, server: Server, amid: bool, flask: bool
) -> None:
    """The other pool lent a connection, and what failed then is the route's own."""
    other = lambda_pool.Pool(server.url())

    def fall_back() -> Any:
        with other.connection():
            raise ValueError("mine")

    def route(*_: Any) -> Any:
        try:
            with pool.connection(timeout=0.1):
                return "saved"
        except lambda_pool.PoolTimeout:
            if amid:
                fall_back()
        return fall_back()

    with pool.connection(), pool.connection():
        answer = ask_in_a_thread(Middleware(application(route) if flask else route, pool))
    assert answer.status == 500 if flask else isinstance(answer.error, ValueError)
    other.close()


def test_an_error_that_comes_out_is_503_too(pool: lambda_pool.Pool, ended: Ended) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise lambda_pool.CommitUncertain("COMMIT was sent")

    answer = wsgi(Middleware(app, pool))
    assert answer.status == 503
    assert b"look before you send it again" in answer.body
    assert ended.failed == [True]


@pytest.mark.parametrize("streams", [False, True])
def test_the_status_is_told_before_the_application_returns(pool: lambda_pool.Pool, streams: bool) -> None:
    """Granian and aws-wsgi do not wait for the first piece: without a status they would answer 200 or 500."""

    def route() -> Any:
        if not streams:
            abort(409)
        return Response(failing(), mimetype="text/plain")

    def failing() -> Iterator[bytes]:
        if streams:
            raise lambda_pool.PoolTimeout("busy")
        yield b"never"

    told: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", **_REST}
    answer: Any = Middleware(application(route), pool)(environ, lambda status, *_: told.append(status))
    assert [status.split()[0] for status in told] == ["503" if streams else "409"]
    list(answer)
    answer.close()


def test_it_is_told_that_of_an_answer_of_ones_own_too(pool: lambda_pool.Pool) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise lambda_pool.PoolTimeout("busy")

    def busy(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("503 Busy", [])
        yield b"busy"

    told: list[str] = []
    answer = Middleware(app, pool, on_unavailable=lambda *_: busy)({}, lambda status, _: told.append(status))
    assert told == ["503 Busy"]
    assert list(answer) == [b"busy"]


def test_a_refusal_of_head_has_no_body(pool: lambda_pool.Pool) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise lambda_pool.PoolTimeout("busy")

    whole, head = wsgi(Middleware(app, pool)), wsgi(Middleware(app, pool), method="HEAD")
    assert (head.status, head.headers, head.body) == (503, whole.headers, b"")


def test_one_that_comes_out_of_a_body(pool: lambda_pool.Pool) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/late":
            yield b"begun"
        raise lambda_pool.ConnectError("away")

    assert wsgi(Middleware(app, pool)).status == 503
    answer = wsgi(Middleware(app, pool), "/late")
    assert (answer.status, answer.body) == (200, b"begun")
    assert isinstance(answer.error, lambda_pool.ConnectError)


def test_an_answer_of_ones_own(pool: lambda_pool.Pool) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise lambda_pool.PoolTimeout("busy")

    seen: list[Any] = []

    def own(environ: Any, error: Exception) -> Any:
        seen.append((environ["PATH_INFO"], type(error)))
        return Response("closed", 503)

    answer = wsgi(Middleware(app, pool, on_unavailable=own), "/orders")
    assert (answer.status, answer.body) == (503, b"closed")
    assert seen == [("/orders", lambda_pool.PoolTimeout)]


def test_an_answer_of_ones_own_that_is_none(pool: lambda_pool.Pool) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise lambda_pool.PoolTimeout("busy")

    answer = wsgi(Middleware(app, pool, on_unavailable=lambda environ, error: None), "/orders")  # type: ignore[arg-type, return-value]
    assert isinstance(answer.error, lambda_pool.ConfigError)
    assert str(answer.error) == "on_unavailable returned an object of type NoneType: it must return a WSGI application"


def test_another_error_comes_out_as_it_is(pool: lambda_pool.Pool, ended: Ended) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise ValueError("mine")

    assert isinstance(wsgi(Middleware(app, pool)).error, ValueError)
    assert ended.failed == [True]


@pytest.mark.parametrize("good", [True, False])
def test_a_body_that_cannot_be_closed_has_failed(pool: lambda_pool.Pool, ended: Ended, good: bool) -> None:
    class Unclosable:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"all"] if good else None)  # type: ignore[arg-type]

        def close(self) -> None:
            raise ValueError("mine")

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return Unclosable()

    assert str(wsgi(Middleware(app, pool)).error) == "mine"
    assert ended.failed == [True]


class Body:
    """A body that holds a transaction until it is closed, as in a framework that keeps its context until then."""

    def __init__(self, pool: lambda_pool.Pool, error: Exception | None) -> None:
        self.held = pool.connection()
        self.error = error
        insert(self.held.__enter__(), 1)

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"saved"])

    def close(self) -> None:
        if self.error is not None:
            self.held.__exit__(type(self.error), self.error, None)
            raise self.error
        self.held.__exit__(None, None, None)


@pytest.mark.parametrize(("error", "status"), [(lambda_pool.CommitUncertain("sent"), 503), (ValueError(), 0)])
def test_a_commit_that_fails_when_the_body_is_closed_changes_the_answer(
    pool: lambda_pool.Pool, server: Server, error: Exception, status: int
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "5")])
        return Body(pool, error if environ["PATH_INFO"] == "/bad" else None)

    answer = wsgi(Middleware(app, pool), "/bad")
    assert answer.status == status
    assert saved(server) == []
    answer = wsgi(Middleware(app, pool), "/good")
    assert (answer.status, answer.body, answer.error) == (200, b"saved", None)
    assert saved(server) == [1]


def test_a_file_stays_a_file(pool: lambda_pool.Pool, ended: Ended) -> None:
    """Some servers have a way of their own to send one."""
    file = FileWrapper(io.BytesIO(b"page"))

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return file

    found = Middleware(app, pool)({"wsgi.file_wrapper": FileWrapper, **_REST}, lambda *_: None)
    assert found is file
    assert ended.failed == [False]


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        ("204 No Content", [], lambda: []),
        ("204 No Content", [], lambda: iter([b""])),
        ("302 Found", [("Location", "/")], lambda: iter([])),
        ("200 OK", [("Content-Length", "5")], lambda: [b"saved"]),
        ("200 OK", [], lambda: [b"saved"]),
        ("200 OK", [], lambda: FileWrapper(io.BytesIO(b"saved"))),
    ],
)
def test_no_complete_answer_says_that_what_is_lost_is_saved(
    pool: lambda_pool.Pool, server: Server, status: str, headers: list[Any], body: Any
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        insert(pool.connection().__enter__(), 1)  # in a transaction that nobody ends
        start_response(status, headers)
        return body()

    started: list[Any] = []
    with pytest.raises(lambda_pool.NotCommitted):
        list(Middleware(app, pool)({"wsgi.file_wrapper": FileWrapper, **_REST}, lambda *args: started.append(args)))
    assert started == []
    assert saved(server) == []
    assert pool.stats().size == 0


@pytest.mark.sampled(5, "many cases")
@pytest.mark.parametrize("length", ["2", None])
@pytest.mark.parametrize("status", ["200 OK", "204 No Content"])
def test_a_generator_comes_to_its_end(pool: lambda_pool.Pool, server: Server, status: str, length: str | None) -> None:
    """If it were closed where it yields, its block would end with GeneratorExit, and nothing would be saved."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, [("Content-Length", length)] if length else [])
        with pool.connection() as conn:
            insert(conn, 1)
            yield b"ok" if status.startswith("200") else b""
            insert(conn, 2)
            if environ["PATH_INFO"] == "/bad":
                raise ValueError("mine")

    answer = wsgi(Middleware(app, pool))
    assert (answer.status, answer.error) == (int(status[:3]), None)
    assert saved(server) == [1, 2]
    server.execute("delete from served")
    answer = wsgi(Middleware(app, pool), "/bad")
    assert isinstance(answer.error, ValueError)
    assert answer.status == (200 if status.startswith("200") and length is None else 0)  # a stream was sent by then
    assert saved(server) == []


def test_a_file_in_place_of_what_was_not_available(pool: lambda_pool.Pool) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        with contextlib.suppress(lambda_pool.PoolTimeout), pool.connection(timeout=0.1):
            pass
        start_response("500 Internal Server Error", [])
        return FileWrapper(io.BytesIO(b"page"))

    started: list[Any] = []

    def start(*args: Any) -> None:
        started.append(args[0])

    with pool.connection(), pool.connection():
        body = b"".join(Middleware(app, pool)({"wsgi.file_wrapper": FileWrapper, **_REST}, start))
    assert b"not available" in body
    assert started == ["503 Service Unavailable"]


@pytest.mark.parametrize("body", [[], [b""], [b"a", b"b"]])
def test_bodies(pool: lambda_pool.Pool, body: list[bytes]) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-Own", "1")])
        return body

    answer = wsgi(Middleware(app, pool))
    assert (answer.status, answer.headers, answer.pieces) == (200, {"x-own": "1"}, body)


def test_what_is_written_the_old_way(pool: lambda_pool.Pool) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        write(b"a")
        write(b"b")
        return []

    assert wsgi(Middleware(app, pool)).body == b"ab"


def test_a_second_start_after_an_error(pool: lambda_pool.Pool) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        start_response("404 Not Found", [], (ValueError, ValueError(), None))
        return [b"away"]

    assert wsgi(Middleware(app, pool)).status == 404


@pytest.mark.sampled(1, "a second a case")
def test_a_child_of_a_fork_outlives_the_request(pool: lambda_pool.Pool, server: Server) -> None:
    """It would never learn of their end."""
    codes: list[int] = []

    def route() -> Any:
        child = os.fork()
        if child == 0:  # pragma: no cover - measured in the parent
            try:
                time.sleep(0.6)
                with pool.connection() as conn:
                    insert(conn, 1)
            except BaseException:
                os._exit(1)
            os._exit(0)
        codes.append(os.waitpid(child, 0)[1])
        return "done"

    assert wsgi(Middleware(application(route), pool, request_timeout=0.5)).status == 200
    assert codes == [0]
    assert saved(server) == [1]


def test_one_inside_of_another_does_nothing(pool: lambda_pool.Pool, ended: Ended) -> None:
    def route() -> Any:
        return str(invocation.remaining())

    app = Middleware(Middleware(application(route), pool, request_timeout=60), pool, request_timeout=5)
    assert float(wsgi(app).body) == pytest.approx(4.9, abs=0.5)
    assert ended.failed == [False]
