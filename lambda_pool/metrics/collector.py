"""Gathers the events of pools and decides when their numbers are reported. Subclasses know where they go."""

import logging
from enum import Enum
from threading import RLock
from time import monotonic, time

from ..config import MetricsEnvironment, read_metrics_environment
from ..errors import ConfigError
from ..events import CheckedOut, Closing, Event, Forked, InvocationEnded, Returned, Reused
from .definitions import dimensions
from .numbers import MOST_VALUES, Entry, Numbers

log: logging.Logger = logging.getLogger("lambda_pool")

_ORDINARY = (CheckedOut, Reused)  # Returned says all that they say
_NOT_REPORTED = "pool %s: metrics could not be reported"


class Why(Enum):
    """Why a report is made."""

    DUE = "an invocation ended, the interval has passed, or something went wrong"
    FULL = "a hundred values have gathered"
    CLOSING = "a shutdown or a snapshot is near"


class Collector:
    """An observer that gathers numbers, and reports them.

    - at an invocation's end: at the first of the environment, at one that failed, when `interval` seconds have passed
      (on either clock; a clock that went backwards counts as passed), or when something went wrong,
    - at once when connecting failed for good, a borrower gave up, or a connection leaked,
    - when a hundred values of one metric have gathered, and
    - before a shutdown or a snapshot.

    Each number is reported once. Subclasses write in `_write`.
    """

    def __init__(self, *, namespace: str | None = None, service: str | None = None, interval: float = 60.0) -> None:
        if isinstance(interval, bool) or not isinstance(interval, int | float) or not 0 <= interval <= 1e6:
            raise ConfigError(f"interval={interval!r} is not valid: it must be a number of seconds from 0 to 1000000")
        self._namespace = namespace
        self._service = service
        self._interval = float(interval)
        self._pools: dict[str, Numbers] = {}
        self._environment: MetricsEnvironment | None = None
        # Reentrant, because a shutdown's signal may interrupt a report on the same thread.
        self._lock = RLock()

    def on_event(self, event: Event) -> None:
        """Take one event, and report if it is time. Catches its own errors: a metric is never worth an invocation."""
        try:
            numbers = self._pools.get(event.pool) or self._adopt(event.pool)
            if isinstance(event, Returned):
                numbers.held.append(event.held)
                (numbers.reused if event.reused else numbers.fresh).append(event.checkout)
                numbers.most_in_use = max(numbers.most_in_use, event.in_use)
                if len(numbers.held) >= MOST_VALUES:
                    self._report_full(event.pool, numbers)
            elif isinstance(event, InvocationEnded):
                if event.failed or event.cold or numbers.urgent or self._due(numbers):
                    with self._lock:
                        self._report(event.pool, numbers)
            elif not isinstance(event, _ORDINARY):
                self._rare(event, numbers)
        except Exception:
            log.exception(_NOT_REPORTED, event.pool)

    def _due(self, numbers: Numbers) -> bool:
        """Whether the interval has passed on either clock; a clock that went backwards counts as passed."""
        return monotonic() >= numbers.due_mono or not numbers.reported_wall <= time() < numbers.due_wall

    def _adopt(self, pool: str) -> Numbers:
        numbers = self._pools.setdefault(pool, Numbers())
        self._note_time(numbers)
        return numbers

    def _note_time(self, numbers: Numbers) -> None:
        numbers.reported_wall = time()
        numbers.due_wall = numbers.reported_wall + self._interval
        numbers.due_mono = monotonic() + self._interval

    def _rare(self, event: Event, numbers: Numbers) -> None:
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
                self._report(event.pool, numbers, gauges=False)
            elif numbers.crowded:
                # An early report does not put off the regular one: only that one sends what is not written by lines.
                due = monotonic() >= numbers.due_mono
                self._report(event.pool, numbers, Why.DUE if due else Why.FULL, gauges=due)

    def _report_full(self, pool: str, numbers: Numbers) -> None:
        with self._lock:
            if not numbers.full:  # another thread was faster
                return
            # Where no handler is decorated, nothing else notices that the interval has passed.
            if monotonic() >= numbers.due_mono:
                self._report(pool, numbers)
            else:
                self._put_out(pool, numbers.take_full(), Why.FULL)

    def _report(self, pool: str, numbers: Numbers, why: Why = Why.DUE, *, gauges: bool = True) -> None:
        if gauges:
            self._note_time(numbers)
        entries = numbers.take(gauges=gauges)
        if entries or why is Why.CLOSING:  # then a subclass also sends what it has kept
            self._put_out(pool, entries, why)

    def _put_out(self, pool: str, entries: list[Entry], why: Why) -> None:
        environment = self._environment
        if environment is None:
            environment = self._environment = read_metrics_environment()
        if not environment.disabled:
            self._write(pool, entries, why, environment)

    def _about(self, pool: str, environment: MetricsEnvironment) -> tuple[str, dict[str, str]]:
        """The namespace and the dimensions of a pool's metrics."""
        service = self._service or environment.service
        return self._namespace or environment.namespace, dimensions(service, environment.function_name, pool)

    def _forget(self) -> None:
        """In a forked child: drop what is left of the parent's reports."""

    def _write(self, pool: str, entries: list[Entry], why: Why, environment: MetricsEnvironment) -> None:
        """Put the entries out."""
        raise NotImplementedError
