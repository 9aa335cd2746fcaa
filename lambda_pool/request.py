"""The requests that a server answers at the same time: each with its deadline, and with what went wrong in it.

Which one asks is known by a context variable. It follows a request into the threads and tasks that its framework runs
for it, so that whatever these borrow is known to be the request's.
"""

from contextvars import ContextVar
from time import monotonic

from .errors import (
    CommitUncertain,
    ConnectError,
    CredentialsError,
    DeadlineExceeded,
    EndpointError,
    LambdaPoolError,
    PoolTimeout,
)

UNAVAILABLE = (PoolTimeout, DeadlineExceeded, ConnectError, CredentialsError, EndpointError)
"""What a pool raises when no connection can be had."""
_NOTED = (*UNAVAILABLE, CommitUncertain)


class Request:
    """One request. `deadline` (monotonic, seconds): until when it must be answered; None where nobody said."""

    __slots__ = ("deadline", "failure", "lasting", "over")

    def __init__(self, deadline: float | None, *, lasting: bool = False) -> None:
        self.lasting: bool = lasting  # as a WebSocket, which stays open, and mostly waits
        self.deadline: float | None = deadline
        # The last error of `_NOTED` that a pool raised in it; cleared when it gets a connection.
        self.failure: LambdaPoolError | None = None
        self.over: bool = False

    def left(self) -> float | None:
        """Seconds until the deadline; negative when it has passed, None where there is none."""
        return None if self.deadline is None else self.deadline - monotonic()

    def note_lent(self) -> None:
        """It got a connection: what it could not have before, it has handled. Nothing makes up for CommitUncertain."""
        if isinstance(self.failure, UNAVAILABLE):
            self.failure = None


asking: ContextVar[Request | None] = ContextVar("lambda_pool_request", default=None)
"""The request that asks, which may be over. Read as it is where each call counts."""


unfinished: set[Request] = set()
"""The requests that middlewares have begun, and not ended."""


def current_request() -> Request | None:
    """The request that this code runs for. None outside of one, and in what outlives its own."""
    request = asking.get()
    return None if request is None or request.over else request


def begin(deadline: float | None, *, lasting: bool = False) -> Request:
    """A request begins, and all that is called from here on, or started, belongs to it."""
    request = Request(deadline, lasting=lasting)
    unfinished.add(request)
    asking.set(request)
    return request


def note_failure(error: BaseException) -> None:
    """Keep an error of a pool's own: a framework may turn it into an answer that says nothing of it."""
    request = current_request()
    if request is not None and isinstance(error, _NOTED):
        request.failure = error
