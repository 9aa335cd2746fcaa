"""Applications without a server around them: one request, and the whole answer."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What a server would have sent; `error` is the exception that left the application in the end."""

    status: int
    headers: dict[str, str]
    body: bytes
    error: BaseException | None
    pieces: list[bytes]


async def asgi(app: Any, path: str = "/", *, method: str = "GET", disconnect_after: int | None = None) -> Answer:
    """One request to an ASGI application. `disconnect_after`: the client hangs up after this number of messages."""
    sent: list[dict[str, Any]] = []
    gone = asyncio.Event()
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(dict(message))
        whole = message["type"] == "http.response.body" and not message.get("more_body")
        if whole or (disconnect_after is not None and len(sent) >= disconnect_after):
            gone.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"shop")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    error = None
    try:
        await app(scope, receive, send)
    except Exception as failure:
        error = failure
    starts = [message for message in sent if message["type"] == "http.response.start"]
    assert len(starts) <= 1, "an answer has one beginning"
    pieces = [message.get("body", b"") for message in sent if message["type"] == "http.response.body"]
    headers = {name.decode(): value.decode() for name, value in (starts[0]["headers"] if starts else ())}
    return Answer(starts[0]["status"] if starts else 0, headers, b"".join(pieces), error, pieces)


def ask(app: Any, path: str = "/", *, method: str = "GET") -> Answer:
    """The same, with a loop of its own."""
    return asyncio.run(asgi(app, path, method=method))


def wsgi(app: Any, path: str = "/", *, method: str = "GET", environ: dict[str, Any] | None = None) -> Answer:
    """One request to a WSGI application, whose answer is read in the way that PEP 3333 asks of a server."""
    started: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], Any]:
        assert not started or exc_info, "start_response was called twice"
        started[:] = [status, headers]
        return written.append

    error: BaseException | None = None
    pieces: list[bytes] = []
    body: Iterable[bytes] = ()
    try:
        body = app(
            {
                "REQUEST_METHOD": method,
                "PATH_INFO": path,
                "SCRIPT_NAME": "",
                "QUERY_STRING": "",
                "SERVER_NAME": "shop",
                "SERVER_PORT": "80",
                "SERVER_PROTOCOL": "HTTP/1.1",
                "wsgi.url_scheme": "http",
                "wsgi.version": (1, 0),
                "wsgi.multithread": True,
                "wsgi.multiprocess": False,
                "wsgi.run_once": False,
                **(environ or {}),
            },
            start_response,
        )
        for piece in body:
            assert started, "a piece came before start_response"
            pieces.append(piece)
    except Exception as failure:
        error = failure
    finally:
        try:
            getattr(body, "close", lambda: None)()
        except Exception as failure:
            error = failure
    headers = {name.lower(): value for name, value in (started[1] if started else ())}
    status = int(started[0].split()[0]) if started else 0
    return Answer(status, headers, b"".join([*written, *pieces]), error, [*written, *pieces])
