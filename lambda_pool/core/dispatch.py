"""Counts a pool's events and passes them on to its observers."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..events import (
    Closed,
    ConnectFailed,
    CredentialsRefreshed,
    Event,
    Leaked,
    Observer,
    Opened,
    Pinged,
    Replaced,
    RolledBack,
    TimedOut,
)

log: logging.Logger = logging.getLogger("lambda_pool")

_COUNTER_OF: dict[type[Event], str] = {
    Opened: "opened",
    Replaced: "replaced",
    Closed: "closed",
    Pinged: "pings",
    ConnectFailed: "connect_errors",
    TimedOut: "timeouts",
    RolledBack: "rolled_back",
    Leaked: "leaked",
    CredentialsRefreshed: "credentials_refreshed",
}


class EventDispatcher:
    """One pool's counters, by the names of `PoolStats`, and its observers. Counts under the pool's own lock."""

    def __init__(self, name: str, observers: Sequence[Observer], lock: AbstractContextManager[Any]) -> None:
        self.name = name
        self.observers: tuple[Observer, ...] = tuple(observers)
        self.start_afresh(lock)

    def start_afresh(self, lock: AbstractContextManager[Any]) -> None:
        """Set all counters to zero, and take this lock, which no other process holds (after a fork)."""
        self._lock = lock
        self._counts = dict.fromkeys(_COUNTER_OF.values(), 0)

    def counts(self) -> dict[str, int]:
        """A copy of the counters."""
        with self._lock:
            return dict(self._counts)

    def emit(self, event: Event) -> None:
        """Count one event, if its kind is counted, and pass it on without holding the lock.

        An error that an observer raises is logged and goes no further.
        """
        counter = _COUNTER_OF.get(type(event))
        if counter is not None:
            with self._lock:
                self._counts[counter] += 1
        for observer in self.observers:
            try:
                observer.on_event(event)
            except Exception:
                log.exception("pool %s: an observer failed", self.name)
