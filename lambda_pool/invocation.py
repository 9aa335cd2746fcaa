"""The invocation that runs now, and how long it still may. Set by the decorator, read wherever something waits."""

from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic

RESERVE = 0.1
"""Seconds of an invocation that no wait of ours may use up: enough to roll back, to log and to answer (a rollback on
the same network takes a millisecond; Lambda's own runtime needs 1 to 2 to send the answer)."""

_FAR = 1e12
"""Milliseconds that no clock of an invocation shows."""
_NUMBER = (int, float)  # a constant: `int | float` is made anew by each call


class Invocation:
    """One running invocation. `remaining_ms` is the Lambda context's own method."""

    __slots__ = ("cold", "remaining_ms", "request_id", "reserve")

    def __init__(
        self,
        remaining_ms: Callable[[], int] | None,
        request_id: str = "",
        *,
        cold: bool = False,
        reserve: float = RESERVE,
    ) -> None:
        self.remaining_ms = remaining_ms if callable(remaining_ms) else None
        self.reserve = reserve
        self.request_id = request_id
        self.cold = cold

    def remaining(self) -> float | None:
        """Seconds until Lambda ends the invocation; None when unknown, as under the contexts of some unit tests."""
        left = None if self.remaining_ms is None else self.remaining_ms()
        # Infinity and NaN fail the comparison too.
        return left / 1000 if isinstance(left, _NUMBER) and -_FAR < left < _FAR else None


current: ContextVar[Invocation | None] = ContextVar("lambda_pool_invocation", default=None)
"""The invocation of this context: nested decorators find the outer one here."""


class _Latest:
    """The invocation of this process: what a thread finds whose context is empty, as an executor's threads are."""

    __slots__ = ("invocation",)

    def __init__(self) -> None:
        self.invocation: Invocation | None = None


latest = _Latest()


def remaining() -> float | None:
    """Seconds that the running invocation still has for waiting, without its reserve; None outside of one."""
    invocation = current.get() or latest.invocation
    if invocation is None:
        return None
    left = invocation.remaining()
    return None if left is None else left - invocation.reserve


class Limit:
    """Until when somebody may wait: `seconds` from now, cut (unless `uncut`) to what the invocation has left."""

    __slots__ = ("at", "by_invocation", "start")

    def __init__(self, seconds: float, *, uncut: bool = False) -> None:
        left = None if uncut else remaining()
        self.by_invocation = left is not None and left < seconds
        self.start = monotonic()
        self.at = self.start + (max(left, 0.0) if left is not None and left < seconds else seconds)

    def left(self) -> float:
        """Seconds until then; negative when it has passed."""
        return self.at - monotonic()

    def elapsed(self) -> float:
        """Seconds since the wait began."""
        return monotonic() - self.start
