"""`cancel_before_deadline`: ends a statement that would outlive its invocation, in time for the handler to answer.

A timer signal, not a thread: it interrupts the driver's wait on the main thread, where Lambda runs handlers, costs
nothing while it does not ring, and is disarmed before the environment freezes. The server ends the statement, so that
the driver itself raises; only where no cancel gets through is the connection cut.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..invocation import Invocation
from . import pools

# Seconds between looks for a statement to cancel: the one that is too long may begin after the first look. Must be
# longer than the interval at which a driver's wait lets Python handle signals (20 ms where a connection is watched):
# psycopg begins its interval anew after each interruption, and would never reach the end of it.
_AGAIN = 0.1


class Alarm:
    """The timer of one invocation. `before`: seconds before the invocation's end at which it rings first."""

    __slots__ = ("_before", "_invocation", "_previous")

    def __init__(self, invocation: Invocation, before: float) -> None:
        self._invocation = invocation
        self._before = before
        self._previous: Any = signal.SIG_DFL

    def arm(self) -> Callable[[], None] | None:
        """Start the timer. Out: what stops it; None where there is no deadline, or no main thread to interrupt."""
        left = self._invocation.remaining()
        if left is None or threading.current_thread() is not threading.main_thread():
            return None
        self._previous = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, max(left - self._before, _AGAIN), _AGAIN)
        return self._disarm

    def _disarm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._previous)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        for pool in pools():
            if pool.config.cancel_before_deadline:
                pool.cancel_running(within=self._before / 3)
