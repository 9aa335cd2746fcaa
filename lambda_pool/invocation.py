"""The invocations that run now, and how long they still may. Noted by the decorator, read wherever something waits."""

from threading import get_ident
from time import monotonic
from typing import Any

RESERVE = 0.1
"""Seconds of an invocation that no wait of ours may use up: enough to roll back, to log and to answer (a rollback on
the same network takes a millisecond; Lambda's own runtime needs 1 to 2 to send the answer)."""

running: dict[int, Any] = {}
"""The Lambda context of each running invocation, by its thread: nested decorators find the outer one here.

No object of our own, and no ContextVar: an invocation paid 11,000 instructions for them, and pays 2,000 for this.
"""

_PAST, _FAR = -1e12, 1e12
"""Milliseconds that no clock of an invocation shows."""
_NUMBER = (int, float)  # a constant: `int | float` is made anew by each call


_reserve = [RESERVE]
"""What `remaining` leaves over: RESERVE, or more where a pool's `cancel_before_deadline` asks for it."""


def reserve(seconds: float) -> None:
    """Leave so many seconds of each invocation over, and RESERVE at least."""
    _reserve[0] = max(RESERVE, seconds)


def current() -> Any:
    """The context of this thread's invocation.

    A thread without one, as an executor's are, finds the invocation of this process that began last. None if there is
    none, or it came without a context.
    """
    me = get_ident()
    if me in running:
        return running[me]
    return next(reversed(list(running.values())), None)


def left_of(context: Any) -> float | None:
    """Seconds until Lambda ends an invocation; None when unknown, as under the contexts of some unit tests."""
    read = getattr(context, "get_remaining_time_in_millis", None)
    left = read() if callable(read) else None
    if type(left) is not int and not isinstance(left, _NUMBER):  # the first look, without a call, is for Lambda's own
        return None
    # Infinity and NaN fail the comparison too.
    return left / 1000 if _PAST < left < _FAR else None


def remaining() -> float | None:
    """Seconds that the running invocation still has for waiting, without its reserve; None outside of one."""
    if not running:
        return None
    left = left_of(running.get(get_ident()) or current())
    return None if left is None else left - _reserve[0]


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
