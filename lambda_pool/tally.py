"""Counts a pool's events and passes them on."""

import logging
from collections.abc import Callable, Sequence
from threading import RLock
from typing import Any

from .events import (
    Closed,
    ConnectFailed,
    CredentialsRefreshed,
    Event,
    InvocationEnded,
    Leaked,
    Observer,
    Opened,
    Pinged,
    Replaced,
    Returned,
    RolledBack,
    TimedOut,
)

OnReturned = Callable[[str, float, float, bool, int, float, float], bool]
OnInvocationEnded = Callable[[str, bool, bool, str], None]

log = logging.getLogger("lambda_pool")

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


class Tally:
    """One pool's counters, by the names of `PoolStats`, and its observers."""

    def __init__(self, name: str, observers: Sequence[Observer]) -> None:
        self.name = name
        self.checkouts_wanted = any(getattr(observer, "wants_checkouts", True) for observer in observers)
        self._takers = [observer.on_event for observer in observers]
        trusted = len(observers) == 1 and getattr(observers[0], "never_raises", False)
        self.pass_on: Callable[[Event], None] = self._takers[0] if trusted else self._pass_on
        """Passes an event to every observer; what an observer raises is logged and goes no further."""
        alone: Any = observers[0] if trusted else None
        self.returned: OnReturned = getattr(alone, "on_returned", self._returned)
        """Passes on what `Returned` says, without the event where the only observer can do without it.

        With both clocks, and out comes whether it must hear that the invocation ends, if all goes well.
        """
        self.ended: OnInvocationEnded = getattr(alone, "on_invocation_ended", self._ended)
        """The same of `InvocationEnded`."""
        self.start_afresh()

    def start_afresh(self) -> None:
        """All counters at zero and a lock that no other process holds (after a fork)."""
        # Reentrant: a signal handler (shutdown, cancel) may interrupt this very thread while it holds it.
        self._lock = RLock()
        self._counts = dict.fromkeys(_COUNTER_OF.values(), 0)

    def counts(self) -> dict[str, int]:
        """A copy of the counters."""
        with self._lock:
            return dict(self._counts)

    def tell(self, event: Event) -> None:
        """Count one event, if it is one that is counted, and pass it on."""
        counter = _COUNTER_OF.get(type(event))
        if counter is not None:
            with self._lock:
                self._counts[counter] += 1
        self.pass_on(event)

    def _returned(
        self, pool: str, held: float, checkout: float, reused: bool, in_use: int, wall: float, mono: float
    ) -> bool:
        self.pass_on(Returned(pool, held, checkout, reused, in_use))
        return True

    def _ended(self, pool: str, failed: bool, cold: bool, request_id: str) -> None:
        self.pass_on(InvocationEnded(pool, failed, cold, request_id))

    def _pass_on(self, event: Event) -> None:
        for take in self._takers:
            try:
                take(event)
            except Exception:
                log.exception("pool %s: an observer failed", self.name)
