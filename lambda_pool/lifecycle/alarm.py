"""`cancel_before_deadline`: ends a statement that would outlive its invocation, in time for the handler to answer.

This is a timer signal, not a thread: it interrupts the driver's wait on the main thread, where Lambda runs handlers,
costs nothing while it does not ring, and is disarmed before the environment freezes. The server ends the statement, so
that the driver itself raises; the connection is aborted only if no cancel gets through.
"""

import logging
import signal
import threading
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any

from ..invocation import remaining, reserve
from ..reclaim import cancel_running
from ..waiting import plainly
from . import AGAIN, due_to_cancel

log: logging.Logger = logging.getLogger("lambda_pool")

_SOON = 0.001  # seconds; 0 would mean never


class Alarm:
    """The timer of one invocation. `before`: seconds before the invocation's end at which it rings first."""

    __slots__ = ("_armed", "_before", "_previous", "_timer")

    def __init__(self, before: float) -> None:
        self._before = before
        self._previous: Any = None
        self._timer = (0.0, 0.0)
        self._armed = 0.0

    def arm(self) -> Callable[[], None] | None:
        """Start the timer. Out: what stops it, or None if there is no deadline or this is not the main thread."""
        left = remaining()
        if left is None or threading.current_thread() is not threading.main_thread():
            return None
        self._previous = signal.getsignal(signal.SIGALRM)
        left_behind = getattr(self._previous, "__self__", None)
        if isinstance(left_behind, Alarm):
            # An exception from another signal handler left it behind while it was being disarmed.
            left_behind._disarm()
            self._previous = left_behind._previous
        # Read both before anything is changed: an exception in between must not cost the user's timer.
        self._armed = monotonic()
        self._timer = signal.getitimer(signal.ITIMER_REAL)
        try:
            signal.signal(signal.SIGALRM, self._ring)
            self._timer = signal.setitimer(signal.ITIMER_REAL, max(left + reserve.seconds - self._before, AGAIN), AGAIN)
        except BaseException:
            self._disarm()
            raise
        return self._disarm

    def _disarm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        # None stands for somebody else's handler in C, which Python cannot put back.
        signal.signal(signal.SIGALRM, signal.SIG_DFL if self._previous is None else self._previous)
        delay, interval = self._timer
        if delay:
            # A timer of the user's own ran when ours took its place.
            signal.setitimer(signal.ITIMER_REAL, max(delay - (monotonic() - self._armed), _SOON), interval)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        left, now = remaining(), monotonic()
        for pool, before in due_to_cancel(None if left is None else left + reserve.seconds):
            try:
                with plainly():
                    cancel_running(pool, now + before / 3)
            except Exception as error:  # noqa: BLE001 - it would be raised in the middle of the handler's code
                log.debug("pool %s: cancelling before the deadline failed: %s", pool.name, error)
