"""`Pool.run`: work in one transaction, which is called again if that is safe."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from . import borrower, invocation
from .backoff import backoff
from .core import policy
from .core.entry import Entry
from .errors import ConfigError, NotCommitted
from .finished import finished
from .invocation import Deadline
from .pool import ConnectionPool
from .waiting import pause, unbroken

T = TypeVar("T")


def run(
    pool: ConnectionPool,
    work: Callable[[Any], T],
    attempts: int,
    *,
    readonly: bool,
    frame: FrameType | None = None,
    ended: str = "",
) -> T:
    """Call `work(conn)` in one transaction, at most `attempts` times. See `Pool.run`.

    `frame`: whose call it is; None for the caller's caller. `ended`: what NotCommitted says if the work ended its
    transaction itself; empty if it may do that.
    """
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise ConfigError(f"attempts={attempts!r} is not valid: it must be a whole number of at least 1")
    if not callable(work):
        raise not_callable(work)
    attempt = 1
    while True:
        deadline = Deadline(pool.config.timeout, wake=pool.config.wake_timeout)
        entry = pool.acquire_transaction(deadline, readonly=readonly, guarded=True)
        borrower.note(entry, frame or sys._getframe(2), deep=pool.config.leak_after > 0)
        delay = backoff(attempt)
        again = attempt < attempts
        try:
            result = finished("work", _named(work), work(entry.link.driver_connection))
            if ended and entry.link.inspect().ended:
                raise NotCommitted(ended)
        except BaseException as error:
            with unbroken(pool.config.timeout):
                try:
                    again = again and _may_replay(pool, entry, error) and _lasts(delay)
                finally:
                    pool.release(entry, error)
            if not again:
                raise
        else:
            own = entry.link.inspect().own_transaction
            try:
                with unbroken(pool.config.timeout):
                    pool.release(entry, strict=True)
            except Exception as error:
                kind = pool.classify(error)
                if not (again and policy.may_replay_refused_commit(kind, own_transaction=own) and _lasts(delay)):
                    raise
            else:
                return result
        pause(delay)
        attempt += 1


def not_callable(work: object) -> ConfigError:
    """The error for work that cannot be called."""
    return ConfigError(f"work is not valid: it must be a function of the connection, not {type(work).__name__}")


def _may_replay(pool: ConnectionPool, entry: Entry, error: BaseException) -> bool:
    if not isinstance(error, Exception):
        return False
    kind = pool.kind_of(entry, error)
    own = entry.link.inspect(ask=True).own_transaction
    return policy.may_replay(kind, own_transaction=own, lost=not entry.link.is_silent())


def _named(work: Any) -> str:
    return str(getattr(work, "__name__", type(work).__name__))


def _lasts(delay: float) -> bool:
    """True if the invocation lasts longer than a pause of `delay` seconds."""
    left = invocation.remaining()
    return left is None or left > delay
