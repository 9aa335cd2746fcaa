"""Gathers the events of pools and decides when their numbers are reported. Where they go, its children know."""

import logging
from enum import Enum
from threading import RLock
from time import monotonic, time

from ..errors import ConfigError
from ..events import CheckedOut, Closing, Event, Forked, InvocationEnded, Returned, Reused
from .numbers import MOST_VALUES, Entry, Numbers

log = logging.getLogger("lambda_pool")

_NOT_REPORTED = "pool %s: metrics could not be reported"


class Why(Enum):
    """Why a report is made."""

    FIRST = "the environment's first invocation ended"
    INTERVAL = "the interval has passed"
    PROBLEM = "an invocation failed, or something went wrong"
    FULL = "a hundred values have gathered"
    CLOSING = "a shutdown or a snapshot is near"


class Collector:
    """An observer that gathers numbers, and reports them.

    - at an invocation's end: at the first of the environment, at one that failed, when `interval` seconds have passed
      (on the clock that says more; a clock that went backwards counts as passed), or when something went wrong,
    - at once when connecting failed for good, a borrower gave up, or a connection leaked,
    - when a hundred values of one metric have gathered, and
    - before a shutdown or a snapshot.

    Each number is reported once. Children write in `_write`.
    """

    wants_checkouts = False
    never_raises = True

    def __init__(self, interval: float = 60.0) -> None:
        if isinstance(interval, bool) or not isinstance(interval, int | float) or not 0 <= interval < 1e6:
            raise ConfigError(f"interval={interval!r} is not valid: it must be a number of seconds from 0 to 1000000")
        self._interval = float(interval)
        self._pools: dict[str, Numbers] = {}
        # Reentrant, because a shutdown's signal may interrupt a report on the same thread.
        self._lock = RLock()

    def on_event(self, event: Event) -> None:
        """Take one event, and report if it is time."""
        if type(event) is Returned:
            self.on_returned(event.pool, event.held, event.checkout, event.reused, event.in_use, time(), monotonic())
        elif type(event) is InvocationEnded:
            self.on_invocation_ended(event.pool, event.failed, event.cold, event.request_id)
        else:
            try:
                self._rare(event, self._pools.get(event.pool) or self._adopt(event.pool))
            except Exception:
                log.exception(_NOT_REPORTED, event.pool)

    # These two are the price of a warm invocation: each does all of it here, and the times are made whole numbers only
    # when they are reported.

    def on_returned(
        self, pool: str, held: float, checkout: float, reused: bool, in_use: int, wall: float, mono: float
    ) -> bool:
        """Take what `Returned` says, and report if a line is full. Out: whether to report at the invocation's end."""
        try:
            numbers = self._pools.get(pool) or self._adopt(pool)
            numbers.held.append(held)
            (numbers.reused if reused else numbers.fresh).append(checkout)
            if in_use > numbers.most_in_use:  # noqa: PLR1730 - max() takes 0.1 µs more
                numbers.most_in_use = in_use
            if len(numbers.held) >= MOST_VALUES:
                self._report_full(pool, numbers)
        except Exception:
            log.exception(_NOT_REPORTED, pool)
            return True
        # Two results instead of one expression: CPython compares faster where a jump depends on it.
        if mono >= numbers.due_mono or not numbers.reported_wall <= wall < numbers.due_wall:
            return True
        return numbers.urgent

    def on_invocation_ended(self, pool: str, failed: bool, cold: bool, request_id: str) -> None:
        """Take what `InvocationEnded` says, and report if it is time."""
        try:
            numbers = self._pools.get(pool) or self._adopt(pool)
            if (
                monotonic() >= numbers.due_mono
                or not numbers.reported_wall <= time() < numbers.due_wall
                or numbers.urgent
                or failed
                or cold
            ):
                self._at_end(pool, numbers, failed=failed, cold=cold)
        except Exception:
            log.exception(_NOT_REPORTED, pool)

    def _adopt(self, pool: str) -> Numbers:
        numbers = self._pools.setdefault(pool, Numbers())
        self._note_time(numbers)
        return numbers

    def _note_time(self, numbers: Numbers) -> None:
        numbers.reported_wall = time()
        numbers.due_wall = numbers.reported_wall + self._interval
        numbers.due_mono = monotonic() + self._interval

    def _rare(self, event: Event, numbers: Numbers) -> None:
        if isinstance(event, Reused | CheckedOut):
            return
        if isinstance(event, Forked):
            self._lock = RLock()
            numbers.forked()
            self._forget()
            return
        with self._lock:
            if isinstance(event, Closing):
                self._report(event.pool, numbers, Why.CLOSING)
                return
            if numbers.note(event):
                self._report(event.pool, numbers, Why.PROBLEM, gauges=False)
            elif numbers.crowded:
                # One before its time does not put off the regular one, which alone sends what is not written by lines.
                due = monotonic() >= numbers.due_mono
                self._report(event.pool, numbers, Why.INTERVAL if due else Why.FULL, gauges=due)

    def _at_end(self, pool: str, numbers: Numbers, *, failed: bool, cold: bool) -> None:
        with self._lock:
            why = Why.FIRST if cold else Why.PROBLEM if failed or numbers.urgent else Why.INTERVAL
            self._report(pool, numbers, why)

    def _report_full(self, pool: str, numbers: Numbers) -> None:
        with self._lock:
            if not numbers.full:  # another thread was faster
                return
            # Where no handler is decorated, nothing but this tells that time has passed.
            if monotonic() >= numbers.due_mono:
                self._report(pool, numbers, Why.INTERVAL)
            else:
                self._write(pool, numbers.take_full(), Why.FULL)

    def _report(self, pool: str, numbers: Numbers, why: Why, *, gauges: bool = True) -> None:
        if gauges:
            self._note_time(numbers)
        entries = numbers.take(gauges=gauges)
        if entries or why is Why.CLOSING:  # then what a child has kept leaves too
            self._write(pool, entries, why)

    def _forget(self) -> None:
        """In a forked child: drop what is left of the parent's reports."""

    def _write(self, pool: str, entries: list[Entry], why: Why) -> None:
        """Put the entries out."""
        raise NotImplementedError
