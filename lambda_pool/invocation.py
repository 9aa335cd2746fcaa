"""The invocations that run now, and how long they still may. The decorator notes this, and every wait reads it."""

from threading import get_ident, main_thread
from time import monotonic
from typing import Any

from .request import asking

RESERVE = 0.1
"""Seconds of an invocation that no wait of ours may use up: enough to roll back, to log and to answer (a rollback on
the same network takes a millisecond; Lambda's own runtime needs 1 to 2 to send the answer)."""

running: dict[int, Any] = {}
"""The Lambda context of each running invocation, by its thread: nested decorators find the outer one here.

This is not a ContextVar, because the threads that a handler starts would not inherit that.
"""

_FAR = 1e9
"""Milliseconds (eleven days): more than any real invocation has left."""

LONGEST = 900.0
"""The most seconds that Lambda lets an invocation last, whatever the function's own time-out is."""


class _Begun:
    """When the newest invocation began (monotonic, seconds)."""

    at: float = 0.0


begun: _Begun = _Begun()


class _Reserve:
    """Seconds that `remaining` keeps back: RESERVE, or more if `cancel_before_deadline` asks for it."""

    seconds: float = RESERVE


reserve: _Reserve = _Reserve()


def current() -> Any:
    """The context of this thread's invocation.

    A thread without one, such as an executor's, gets the newest invocation of this process. None if there is none, or
    if it came without a context.
    """
    me = get_ident()
    if me in running:
        return running[me]
    return next(reversed(list(running.values())), None)


def in_one_flow(borrower: int) -> bool:
    """True if whatever this borrower holds, it holds for what it does now. For what a borrower is, see `waiting`.

    Where no middleware tells requests apart, a server's thread may hold what it borrowed for another request. And the
    number of a thread that ended is used again.
    """
    return borrower < 0 or bool(running) or asking.get() is not None or borrower == main_thread().ident


def remaining() -> float | None:
    """Seconds that the running request or invocation still has for waiting, without its reserve; None outside of one.

    Also None if its end is unknown, as with the contexts of some unit tests.
    """
    request = asking.get()
    if request is not None and not request.over:
        left = request.left()
        return None if left is None else left - reserve.seconds
    return _of_invocation() if running else None


def _of_invocation() -> float | None:
    """The same for the invocation that runs, whether or not a request runs."""
    context = running.get(get_ident()) or current()
    try:
        left = context.get_remaining_time_in_millis()
    except (AttributeError, TypeError):
        return None
    if not isinstance(left, int | float):
        return None
    # Infinity and NaN fail the comparison too.
    return left / 1000 - reserve.seconds if -_FAR < left < _FAR else None


def at_most(seconds: float) -> float:
    """These seconds, cut to what the invocation has left; a third of its reserve if no time is left."""
    left = remaining()
    return seconds if left is None else min(seconds, max(left, reserve.seconds / 3))


def time_out() -> float:
    """Seconds that an invocation may last: the function's time-out, or LONGEST if that is not known.

    A request's end does not count here: the connection is lent to others later, and to code that outlives a request.
    """
    left = _of_invocation() if len(running) == 1 else None
    if left is None:
        return LONGEST
    return left + reserve.seconds + monotonic() - begun.at


class Deadline:
    """Until when somebody may wait: `seconds` from now, cut (unless `uncut`) to what the invocation has left.

    `wake`: the option `wake_timeout`, for those who may wait longer while the database resumes; 0 if they may not.
    """

    __slots__ = ("at", "by_invocation", "seconds", "start", "wake")

    def __init__(self, seconds: float, *, uncut: bool = False, wake: float = 0.0) -> None:
        self.seconds: float = seconds
        self.wake: float = wake
        left = None if uncut else remaining()
        self.by_invocation: bool = left is not None and left < seconds
        self.start: float = monotonic()
        self.at: float = self.start + (max(left, 0.0) if left is not None and left < seconds else seconds)

    def extend(self, seconds: float) -> None:
        """Move the end to `seconds` after the start, cut to what the invocation has left; never to an earlier time."""
        longer = Deadline(self.start + seconds - monotonic())
        if longer.at > self.at:
            self.at, self.by_invocation = longer.at, longer.by_invocation

    def left(self) -> float:
        """Seconds until then; negative when it has passed."""
        return self.at - monotonic()

    def elapsed(self) -> float:
        """Seconds since the wait began."""
        return monotonic() - self.start
