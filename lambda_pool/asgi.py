"""`Middleware`: for each request of an ASGI application, what `Pool.handler` does for each invocation."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any

from . import lifecycle, serving
from .aio import threads
from .aio.generators import closed
from .errors import LambdaPoolError
from .invocation import at_most
from .lifecycle import shutdown
from .request import outside
from .waiting import result_of

if TYPE_CHECKING:
    from .aio.pool import AsyncPool
    from .api import Pool

    AnyPool = Pool[Any] | AsyncPool[Any]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Unavailable = Callable[[Scope, LambdaPoolError], Any]
"""`on_unavailable(scope, error)`: returns an ASGI application that answers, such as a Starlette response, or an
awaitable of one."""

__all__ = ["Middleware"]

_BESIDE = frozenset({"http.response.debug", "http.response.early_hint", "http.response.push"})
"""Messages that are not part of the answer."""
_CLOSING = 1.0  # seconds that a generator gets to end which the application has left with `break`


class Middleware:
    """Wraps an ASGI application: a deadline for each request, clean-up of what it left borrowed, metrics, and 503.

    In: the application; the pool (one middleware serves all pools of the process); `request_timeout`, the seconds after
    which the pool stops waiting (by default the Web Function's own time-out if the environment tells it, otherwise no
    limit); `on_unavailable(scope, error)`, which returns an ASGI application that answers in place of the middleware's
    own 503 when no connection is available, or after CommitUncertain. Raises ConfigError.

    A complete answer is held back while the request has an open transaction, so that a failed COMMIT can still change
    it.
    """

    def __init__(
        self,
        app: App,
        pool: "AnyPool | None" = None,
        *,
        request_timeout: float | None = None,
        on_unavailable: Unavailable | None = None,
    ) -> None:
        self.app = app
        self._requests = serving.Requests(pool, request_timeout, on_unavailable)
        self._on_unavailable = on_unavailable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Anything else, such as `lifespan`, is passed on as it is."""
        if scope["type"] == "lifespan":
            shutdown.in_server()
        http = scope["type"] == "http"
        served = self._requests.begin(lasting=not http) if http or scope["type"] == "websocket" else None
        if served is None:
            await self.app(scope, receive, send)
            return
        receive, send = outside(receive), outside(send)
        answer = _Answer(send, served, head=scope.get("method") == "HEAD")
        error: BaseException | None = None
        try:
            await self.app(scope, receive, answer.send if http else send)
        except BaseException as failure:  # noqa: BLE001 - raised below, once everything is cleaned up
            error = failure
        try:
            error = await _end(served, error, cut=http and answer.cut)
            refused = served.unavailable(error, answer.status) if http and not answer.passed_on else None
            if refused is not None:
                serving.log_refused(str(scope.get("method")), str(scope.get("path")), refused)
                await self._refuse(scope, receive, send, refused)
                return
            if error is None or answer.status >= 500:
                await answer.pass_on()
            if error is not None:
                raise error
        finally:
            del error  # it refers to this frame

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: LambdaPoolError) -> None:
        if self._on_unavailable is not None:
            answer = self._on_unavailable(scope, error)
            if inspect.isawaitable(answer):
                answer = await answer
            await serving.check_own_answer(answer, "an ASGI")(scope, receive, send)
            return
        headers, body = serving.refusal(error)
        raw = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": 503, "headers": raw})
        await send({"type": "http.response.body", "body": b"" if scope.get("method") == "HEAD" else body})


class _Answer:
    """An answer on its way: its start waits for its first piece, and all of it waits while it may still change."""

    def __init__(self, send: Send, served: serving.Served, *, head: bool) -> None:
        self._send = send
        self._served = served
        self._head = head
        self._kept: list[Message] = []
        self._length: bytes | None = None
        self._sent = 0
        self.passed_on = False
        self.cut = True
        """Its end has not come. An application that returns now has a client that hung up before it had all of it."""
        self.status = 0

    async def send(self, message: Message) -> None:
        """Take a message from the application, and pass it on or keep it."""
        kind = message["type"]
        if kind not in _BESIDE:
            self.cut = self.cut and not self._is_told(message)
        if self.passed_on or kind in _BESIDE:
            await self._send(message)
            return
        self._kept.append(message)
        if kind == "http.response.start":
            self.status = message["status"]
            return
        if not (self._is_whole(message) and not self._kept[0].get("trailers") and self._may_change()):
            await self.pass_on()

    async def pass_on(self) -> None:
        """Pass on what was kept."""
        kept, self._kept = self._kept, []
        self.passed_on = self.passed_on or bool(kept)
        for message in kept:
            await self._send(message)

    def _is_told(self, message: Message) -> bool:
        """True if the client has all of it after this message: it may hang up now, and takes that for a success."""
        start = message["type"] == "http.response.start"
        if start:
            bodiless = self._head or message["status"] in serving.NO_BODY
            self._length = b"0" if bodiless else _headers(message).get(b"content-length")
        self._sent += len(message.get("body", b""))
        return not (start or message.get("more_body")) or self._length == str(self._sent).encode()

    def _is_whole(self, message: Message) -> bool:
        """True if this message ends the body: it says so, or the announced length is reached.

        Middleware built on Starlette's BaseHTTPMiddleware sends a complete answer as a stream of one piece.
        """
        if message["type"] != "http.response.body":
            return bool(message["type"] == "http.response.pathsend")
        if not message.get("more_body"):
            return True
        sent = sum(len(each.get("body", b"")) for each in self._kept)
        return _headers(self._kept[0]).get(b"content-length") == str(sent).encode()

    def _may_change(self) -> bool:
        # After a 500, Starlette raises the error that caused it.
        if self.status == 500 or (self._served.request.failure is not None and self._is_empty_stream()):
            return True
        return self.status < 400 and self._served.holds_transaction()

    def _is_empty_stream(self) -> bool:
        """True for an empty answer that could have had a body.

        BaseHTTPMiddleware sends one if a stream fails before its first piece, and raises the error after that.
        """
        start, *pieces = self._kept
        announced = self.status in serving.NO_BODY or b"content-length" in _headers(start)
        return not announced and not any(each.get("body") for each in pieces)


def _headers(start: Message) -> dict[bytes, bytes]:
    return {name.lower(): value for name, value in start.get("headers", ())}


async def _end(served: serving.Served, error: BaseException | None, *, cut: bool) -> BaseException | None:
    """Clean up (see `Served.end`), and let pools ask how crowded their server is. Meanwhile other requests go on."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # another kind of loop, which no question may hold up
        return served.end(error, cut=cut)
    if error is None and served.holds_any():
        try:
            await closed(served.holds_any, at_most(_CLOSING))
        except asyncio.CancelledError as cancelled:
            error = cancelled
    end = partial(served.end, error, cut=cut)
    ended = await _aside(end) if served.holds_any() else end()
    for pool in lifecycle.due_to_ask():
        if pool.awaited:
            from .aio.waits import spawn

            await spawn(served.ask, pool)
        else:
            await _aside(served.ask, pool)
    return ended


async def _aside(call: Callable[..., Any], *arguments: Any) -> Any:
    return result_of(await threads.begin(partial(call, *arguments)))
