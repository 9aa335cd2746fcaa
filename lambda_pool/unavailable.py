"""What a pool does and says when it has no connection to lend, and when another may take the place of a lost one."""

import sys
from time import monotonic
from typing import TYPE_CHECKING

from . import borrower
from .backoff import LAST_TRY, crowded_backoff
from .core.entry import Entry, State
from .engines.base import TRANSIENT, Failure
from .errors import ConnectError, DeadlineExceeded, LambdaPoolError, PoolTimeout
from .events import Reason, TimedOut
from .invocation import Deadline
from .request import note_failure
from .waiting import current_borrower, is_stuck, pause

if TYPE_CHECKING:
    from .pool import ConnectionPool

_HOLDERS = 3  # places that an error names: more would hide the rest of it


def hopeless(pool: "ConnectionPool") -> LambdaPoolError:
    """The error for a borrower that already holds all connections of the pool, and wants one more."""
    size = pool.config.max_size
    held = "the only connection" if size == 1 else f"all {size} connections"
    who = "task" if current_borrower() < 0 else "thread"
    pool.events.emit(TimedOut(pool.name, 0.0, pool.connector.server()))
    return note_failure(
        PoolTimeout(
            f"pool {pool.name}: this {who} already holds {held}, so waiting for another could never end: use the one "
            f"it has, or raise max_size ({size})"
        )
    )


def take_from_stuck(pool: "ConnectionPool") -> None:
    """Close what is held by tasks whose event loop was closed amid their work. Not even the garbage collection does."""
    me = current_borrower()

    def why(entry: Entry) -> Reason:
        if entry.borrowed_mono:
            borrower.emit_leaked(pool.events, entry, monotonic() - entry.borrowed_mono)
            pool.emit_returned(entry)
        return Reason.LEAKED

    pool.close_each(lambda: pool.state.retire_stuck(me, is_stuck), why)


def timed_out(pool: "ConnectionPool", deadline: Deadline) -> LambdaPoolError:
    """The error for a borrower that waited in vain: how long, for what, who has the connections, and the fix."""
    waited = deadline.elapsed()
    pool.events.emit(TimedOut(pool.name, waited, pool.connector.server()))
    failure, at = pool.connector.last_failure
    with pool.lock:
        lent = [entry for entry in pool.state.entries if entry.state is State.LENT and entry.where]
    holders = borrower.places(lent)
    text = (
        f"pool {pool.name}: no connection came free within {waited:.2f} s ({pool.stats()}"
        f"{f'; last failure to connect, {monotonic() - at:.0f} s ago: {failure}' if failure else ''}"
        f"{'; borrowed at ' + ', '.join(holders[:_HOLDERS]) if holders else ''})"
    )
    if holders:  # otherwise, all connections were just being opened
        text += f": hold them for a shorter time, or raise max_size ({pool.config.max_size})"
    if deadline.by_invocation:
        return note_failure(DeadlineExceeded(f"{text}; the invocation had no more time"))
    return note_failure(PoolTimeout(text))


def may_try_another(pool: "ConnectionPool", cause: BaseException, deadline: Deadline, *, first: bool) -> bool:
    """True if a connection was lost before its borrower saw it, and another one may take its place.

    `cause`: the driver's error. `first`: it has not taken the place of another already. A pooler that had no backend
    free, or whose server cannot be reached, is asked again, after a pause, while there is time. If none is left,
    raises what the pool says of a server that does not answer.
    """
    kind, left = pool.classify(cause), deadline.left()
    waits = kind is Failure.TOO_MANY or (kind is Failure.UNREACHABLE and not first)
    delay = crowded_backoff(left) if waits else 0.0
    if kind in TRANSIENT and left <= (delay + LAST_TRY if waits else 0.0):
        raise _not_answered(pool, deadline) from sys.exception()
    if waits:
        pause(delay)
    return waits or (kind in TRANSIENT and first)


def _not_answered(pool: "ConnectionPool", deadline: Deadline) -> LambdaPoolError:
    """The error where the server lets the pool log in, but does not answer what must be asked before the checkout.

    That is BEGIN, or what a framework asks each new connection.
    """
    waited = deadline.elapsed()
    pool.events.emit(TimedOut(pool.name, waited, pool.connector.server()))
    text = (
        f"pool {pool.name}: the server accepted the login, but did not answer what is asked before a connection is "
        f"lent within {waited:.2f} s"
    )
    if deadline.by_invocation:
        return note_failure(DeadlineExceeded(f"{text}; the invocation had no more time"))
    return note_failure(ConnectError(f"{text}: a proxy or a pooler may have no backend free; raise the option timeout"))
