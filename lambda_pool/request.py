"""The requests that a server answers at the same time: each with its deadline, and with what went wrong in it.

A context variable tells which one asks. It follows a request into the threads and tasks that its framework runs for it,
so everything that these borrow is known to be the request's.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from time import monotonic
from typing import ParamSpec, TypeVar
from weakref import ReferenceType, ref

from .errors import (
    CommitUncertain,
    ConnectError,
    CredentialsError,
    DeadlineExceeded,
    EndpointError,
    LambdaPoolError,
    PoolTimeout,
)

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

UNAVAILABLE = (PoolTimeout, DeadlineExceeded, ConnectError, CredentialsError, EndpointError)
"""What a pool raises when no connection can be had."""
_NOTED = (*UNAVAILABLE, CommitUncertain)


class Request:
    """One request. `deadline` (monotonic, seconds): until when it must be answered; None if that is not known."""

    __slots__ = ("__weakref__", "deadline", "failure", "lasting", "over")

    def __init__(self, deadline: float | None, *, lasting: bool = False) -> None:
        self.lasting: bool = lasting  # like a WebSocket, which stays open and mostly waits
        self.deadline: float | None = deadline
        # The last error of `_NOTED` that a pool raised in it; cleared when it gets a connection.
        self.failure: LambdaPoolError | None = None
        self.over: bool = False

    def left(self) -> float | None:
        """Seconds until the deadline; negative when it has passed, None if there is none."""
        return None if self.deadline is None else self.deadline - monotonic()

    def note_lent(self) -> None:
        """It got a connection, so an earlier failure to get one is handled. Nothing makes up for CommitUncertain."""
        if isinstance(self.failure, UNAVAILABLE):
            self.failure = None


asking: ContextVar[Request | None] = ContextVar("lambda_pool_request", default=None)
"""The request that asks, which may be over. Code that must be fast reads it directly, not by `current_request`."""


unfinished: set[ReferenceType[Request]] = set()
"""The requests that middlewares have begun but not ended, and that somebody still refers to: an exception from a signal
handler may come before anybody can end one. Not a WeakSet: one thread cannot go through it while another changes it."""


def current_request() -> Request | None:
    """The request that this code runs for. None outside of a request, and in code that outlives its request."""
    request = asking.get()
    return None if request is None or request.over else request


def begin(deadline: float | None, *, lasting: bool = False) -> Request:
    """Begin a request: everything that is called or started from here on belongs to it."""
    request = Request(deadline, lasting=lasting)
    unfinished.add(ref(request, unfinished.discard))
    asking.set(request)
    return request


@contextmanager
def asked_by(request: Request | None) -> Iterator[None]:
    """In this block, what is called or started belongs to this request; to none if it is None."""
    before = asking.set(request)
    try:
        yield
    finally:
        with suppress(ValueError):  # a coroutine that is destroyed unfinished ends in another context
            asking.reset(before)


def outside(call: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """The same function of a server's, called as if no request ran.

    In it a server may begin to read or to serve the next request of the same client, which is no part of this one.
    """

    async def called(*arguments: P.args, **named: P.kwargs) -> T:
        with asked_by(None):
            return await call(*arguments, **named)

    return called


def note_failure(error: E) -> E:
    """Note an error that a pool raises now: a framework may turn it into an answer that does not mention it."""
    request = current_request()
    if request is not None and isinstance(error, _NOTED):
        request.failure = error
    return error
