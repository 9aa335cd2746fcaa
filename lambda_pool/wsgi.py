"""`Middleware`: for each request of a WSGI application, what `Pool.handler` does for each invocation."""

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Any

from . import lifecycle, serving
from .errors import LambdaPoolError
from .request import asking

if TYPE_CHECKING:
    from .aio.pool import AsyncPool
    from .api import Pool

    AnyPool = Pool[Any] | AsyncPool[Any]

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]
Unavailable = Callable[[Environ, LambdaPoolError], App]
"""`on_unavailable(environ, error)`: returns a WSGI application that answers, such as a Flask response."""

__all__ = ["Middleware"]

_REFUSED = f"503 {HTTPStatus.SERVICE_UNAVAILABLE.phrase}"


class Middleware:
    """Wraps a WSGI application: a deadline for each request, clean-up of what it left borrowed, metrics, and 503.

    In: the application; the pool (one middleware serves all pools of the process); `request_timeout`, the seconds after
    which the pool stops waiting (by default the Web Function's own time-out if the environment tells it, otherwise no
    limit); `on_unavailable(environ, error)`, which returns a WSGI application that answers in place of the middleware's
    own 503 when no connection is available, or after CommitUncertain. Raises ConfigError.

    If the length or the kind of an answer tells that one piece is all of it, it is held back while the request has an
    open transaction, so that a failed COMMIT can still change it.
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

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        before = asking.get()
        answer: _Answer | None = None
        try:
            try:
                served = self._requests.begin()
                if served is None:
                    return self.app(environ, start_response)
                answer = _Answer(self, environ, start_response, served)
                return answer.begin()
            finally:
                asking.set(before)  # what the server does between pieces, or instead of closing, is not part of it
        except BaseException as error:  # also of an alarm amid the `finally`
            if answer is not None:
                answer.drop(error)  # the server does not close what it was not given
            raise

    def refuse(self, environ: Environ, start_response: StartResponse, error: LambdaPoolError) -> Iterable[bytes]:
        """The body of the answer 503."""
        serving.log_refused(str(environ.get("REQUEST_METHOD")), str(environ.get("PATH_INFO")), error)
        if self._on_unavailable is not None:
            answer: App = serving.check_own_answer(self._on_unavailable(environ, error), "a WSGI")
            return answer(environ, start_response)
        headers, body = serving.refusal(error)
        start_response(_REFUSED, headers)
        return [b"" if environ.get("REQUEST_METHOD") == "HEAD" else body]


class _Answer:
    """An answer on its way, as the server reads it: piece by piece, and then `close()`."""

    def __init__(
        self, middleware: Middleware, environ: Environ, start_response: StartResponse, served: serving.Served
    ) -> None:
        self._middleware = middleware
        self._environ = environ
        self._start_response = start_response
        self._served = served
        self._start: tuple[Any, ...] = ()  # what the application has told us, and we have not told the server
        self._body: Iterable[bytes] = ()
        self._pieces: Iterator[bytes] = iter(())
        self._writer: Callable[[bytes], Any] = self._write
        self._begun = False  # whether the server has been told
        self._ended = False

    def begin(self) -> Iterable[bytes]:
        """Call the application. Out: what the server reads. Raises what it raises, unless that is answered with 503."""
        try:
            self._body = body = self._middleware.app(self._environ, self._note_start)
            wrapper = self._environ.get("wsgi.file_wrapper")
            if isinstance(wrapper, type) and isinstance(body, wrapper):
                self._finish(self._end(None))
                if self._body is body:
                    return body  # as it is: some servers send files in a way of their own
            else:
                self._pieces = iter(body)
                self._look()
        except BaseException as error:  # noqa: BLE001 - raised in there, once everything is cleaned up
            self._fail(error)
        return self

    def _look(self) -> None:
        """Get the first piece: another answer may have to take its place.

        Not when the server asks for it: Granian and aws-wsgi take the status that is told when the application returns.
        """
        piece = next(self._pieces, None)
        if not self._begun and self._may_change(piece):
            self._keep_whole(piece or b"")
            return
        self._tell_start()
        if piece is not None:
            self._pieces = chain((piece,), self._pieces)

    def __iter__(self) -> Iterator[bytes]:
        """The pieces."""
        return self

    def __next__(self) -> bytes:
        """The next piece."""
        before = asking.get()
        try:
            asking.set(self._served.request)
            return self._next()
        finally:
            asking.set(before)

    def _next(self) -> bytes:
        try:
            piece = next(self._pieces)
        except StopIteration:
            raise
        except BaseException as error:  # noqa: BLE001 - raised in there, once everything is cleaned up
            self._fail(error)
            return next(self._pieces)
        self._tell_start()
        return piece

    def close(self) -> None:
        """The server has sent the answer, or the client has gone."""
        try:
            problem = self._close()
        except BaseException as error:
            self._end(error)
            raise
        if problem is not None:
            raise problem

    def _close(self) -> BaseException | None:
        before = asking.get()
        try:
            asking.set(self._served.request)
            self._close_body()
            return self._end(None)
        finally:
            asking.set(before)

    def _keep_whole(self, piece: bytes) -> None:
        """Keep the one piece of an answer that may still change, until everything is cleaned up.

        A generator that is closed where it yields would roll back, so it first goes on to its end.
        """
        self._pieces = iter((piece + b"".join(self._pieces),))
        self._close_body()
        self._finish(self._end(None))

    def _finish(self, problem: BaseException | None) -> None:
        """Go on after the clean-up, which ended with this `problem`."""
        refused = None if self._begun else self._served.unavailable(problem, self._status())
        if refused is not None:
            self._close_body()
            self._answer_refused(refused)
        elif problem is not None:
            raise problem
        else:
            self._tell_start()

    def _may_change(self, piece: bytes | None) -> bool:
        if not self._start:
            return False
        status = self._status()
        if status == 500:
            return self._served.request.failure is not None
        return (
            status < 400
            and self._is_whole(piece, status)
            # Asked last, because it looks at each connection.
            and self._served.holds_transaction()
        )

    def _is_whole(self, piece: bytes | None, status: int) -> bool:
        """True if nothing comes after this piece: by the announced length, or because there is no body at all."""
        if (
            piece is None
            or status in serving.NO_BODY
            or (isinstance(self._body, list | tuple) and len(self._body) == 1)
        ):
            return True
        headers = {name.lower(): value for name, value in self._start[1]}
        return headers.get("content-length") == str(len(piece))

    def _fail(self, error: BaseException) -> None:
        """The application has raised this error. Answer with 503, or raise it."""
        try:
            problem = self.drop(error)
            refused = None if self._begun else self._served.unavailable(problem, 0)
            if refused is None:
                raise error
            self._answer_refused(refused)
        finally:
            del error  # it refers to this frame

    def _answer_refused(self, refused: LambdaPoolError) -> None:
        self._begun = True
        self._body = self._middleware.refuse(self._environ, self._start_response, refused)
        self._pieces = iter(self._body)
        self._look()

    def drop(self, error: BaseException) -> BaseException | None:
        """Clean up after this error. Out: what to answer with. Called again if an alarm breaks it off."""
        try:
            self._close_body()
        finally:
            problem = self._end(error)
        return problem

    def _end(self, error: BaseException | None) -> BaseException | None:
        if self._ended:
            return None
        ended = self._served.end(error)
        self._ended = True  # not before: an alarm of the user's own may break it off, and then it is called again
        for pool in lifecycle.due_to_ask():
            self._served.ask(pool)
        return ended

    def _close_body(self) -> None:
        body, self._body = self._body, ()
        close = getattr(body, "close", None)
        if close is not None:
            close()

    def _status(self) -> int:
        return int(self._start[0].split(None, 1)[0]) if self._start else 0

    def _note_start(self, *args: Any) -> Callable[[bytes], Any]:
        """The application's `start_response`."""
        if self._begun:
            write: Callable[[bytes], Any] = self._start_response(*args)
            return write
        self._start = args
        return self._write

    def _write(self, piece: bytes) -> None:
        """What old applications write to, in place of returning a body."""
        self._tell_start()(piece)

    def _tell_start(self) -> Callable[[bytes], Any]:
        if not self._begun and self._start:
            self._begun = True
            self._writer = self._start_response(*self._start)
        return self._writer
