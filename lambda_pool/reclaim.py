"""What a pool takes back when an invocation or the process ends: it knows what is lent, by any borrower."""

import logging
from collections.abc import Callable
from time import monotonic

from . import borrower
from .core.entry import UNOPENED, Entry, State, Work
from .engines.base import AT_REST, MIN_IO_TIMEOUT, RUNNING, EngineConnection, Status
from .errors import CommitUncertain, LambdaPoolError, NotCommitted
from .events import Reason
from .invocation import Deadline, reserve
from .pool import ConnectionPool
from .request import Request
from .waiting import cannot_go_on, current_borrower

log: logging.Logger = logging.getLogger("lambda_pool")


def end_invocation(
    pool: ConnectionPool, since: float, *, alone: bool = True, who: str = "handler"
) -> LambdaPoolError | None:
    """Take back what was borrowed after `since` (monotonic, seconds) and is still held.

    An environment is never frozen with an open transaction. If not `alone`, other invocations go on in this process, so
    only what this borrower holds is known to be left behind. `who`: what an error says has ended. Out: the error for a
    handler that ended well, although its work is not saved, or nobody knows whether it is; None if all is well.
    """
    with pool.lock:
        if not pool.state.queue and all(
            entry.state is State.IDLE and entry.link.status() in AT_REST for entry in pool.state.entries
        ):
            return None
        held = pool.state.reclaim(current_borrower(), alone=alone, since=since, cannot_go_on=cannot_go_on)
    return _take_back(pool, held, who)


def end_request(pool: ConnectionPool, request: Request) -> LambdaPoolError | None:
    """Take back what was borrowed for a request and is still held. Out: as `end_invocation`."""
    with pool.lock:
        held = pool.state.reclaim_of(request, current_borrower())
    return _take_back(pool, held, "request", request)


def lent_for(pool: ConnectionPool, request: Request) -> list[Entry]:
    """What is lent for a request now."""
    return [entry for entry in list(pool.state.entries) if entry.request is request and entry.state is State.LENT]


def holds_transaction(pool: ConnectionPool, request: Request) -> bool:
    """True while a transaction of this request is open, or may be."""
    return any(entry.link is not UNOPENED and entry.link.status() not in AT_REST for entry in lent_for(pool, request))


def _take_back(
    pool: ConnectionPool, held: list[Entry], who: str, request: Request | None = None
) -> LambdaPoolError | None:
    """Take away what an invocation, or this request, still held when it ended. Out: as `end_invocation`."""
    mono = monotonic()
    unsaved: list[str] = []
    unknown: list[str] = []
    try:
        for entry in held:
            if entry.borrowed_mono:  # otherwise nobody had it yet, or has it any more
                borrower.emit_leaked(pool.events, entry, mono - entry.borrowed_mono)
                pool.emit_returned(entry)
            work = _revoke(pool, entry, _patience(pool, request))
            if work is not Work.ENDED:
                (unsaved if work is Work.OPEN else unknown).append(borrower.describe(entry)[0])
    except BaseException:  # a signal handler may raise anywhere: no transaction may stay open
        for entry in held:
            if entry.link is not UNOPENED:
                entry.link.abort()
        raise
    finally:
        for entry in held:
            pool.free(entry)
    unsaved += _close_left_open(pool, request)
    if unknown:
        return CommitUncertain(
            f"pool {pool.name}: the {who} ended before the answer to a COMMIT, or to a statement in autocommit mode, "
            f"which may or may not be saved (borrowed at {', '.join(unknown)}). Let every thread end before the {who} "
            "does"
        )
    if unsaved:
        return NotCommitted(
            f"pool {pool.name}: the {who} ended normally with a transaction still open, which was rolled back: none of "
            f"it is saved (borrowed at {', '.join(unsaved)}). Borrow in a with block, and let every thread end before "
            f"the {who} does"
        )
    return None


def _close_left_open(pool: ConnectionPool, request: Request | None = None) -> list[str]:
    """Close every idle connection that is in a transaction: somebody used it after it had been given back.

    Out: where they were borrowed last; with a `request`, only those that it borrowed.
    """
    found = []

    def find() -> Entry | None:
        for entry in pool.state.entries:
            if entry.state is State.IDLE and entry.link.status() not in AT_REST and pool.state.retire(entry):
                return entry
        return None

    def why(entry: Entry) -> Reason:
        borrower.warn_used_after_return(pool.events, entry)
        if request is None or entry.request is request:
            found.append(borrower.describe(entry)[0])
        return Reason.BROKEN

    pool.close_each(find, why)
    return found


def _patience(pool: ConnectionPool, request: Request | None) -> float:
    """Seconds for asking a server to stop. The deadline of a request still counts when the request is over."""
    left = None if request is None else request.left()
    within = pool.config.ping_timeout
    return within if left is None else max(min(within, left - reserve.seconds), 0.0)


def _revoke(pool: ConnectionPool, entry: Entry, within: float) -> Work:
    """Close a connection; or cancel what runs on it, in at most `within` seconds, and abort it.

    Out: OPEN or COMMITTING if work is lost or may be, else ENDED.
    """
    link = entry.link
    if link is UNOPENED:  # its borrower is just replacing it, and will find that the entry is gone
        return Work.ENDED
    before = now = link.status()
    if entry.owner == current_borrower():
        pool.close_link(entry, Reason.LEAKED)
    else:
        # Its borrower may be inside the driver, where closing would pull the memory from under it. Cut it first, and
        # then look at it: from then on nothing more is sent.
        cancel_and_abort(pool, entry, within)
        now = link.status()
        pool.emit_closed(entry, Reason.LEAKED)
    # It may be at rest because its own borrower has meanwhile rolled back what was cancelled here.
    if now in AT_REST and entry.work is not Work.UNDONE:
        return Work.ENDED
    work = Work.OPEN if entry.work is Work.UNDONE else entry.work
    return Work.COMMITTING if Status.COMMITTING in {before, now} and work is Work.OPEN else work


def cancel_and_abort(pool: ConnectionPool, entry: Entry, within: float) -> None:
    """End a lent connection and what runs on it, from outside. Asking the server takes at most `within` seconds.

    A server at work looks at its client only when it has something to say, so it must be asked to stop.
    """
    link = entry.link
    if link.status() in RUNNING:
        cancel(pool, entry, link, max(Deadline(within).left(), MIN_IO_TIMEOUT))
    link.abort()


def cancel(pool: ConnectionPool, entry: Entry, link: EngineConnection, within: float) -> bool:
    """Ask the server, in at most `within` seconds, to end what runs on this link. False if it did not work."""

    def aside(address: str) -> EngineConnection:
        return pool.connector.open_aside(entry.endpoint, Deadline(within, uncut=True), address)

    # An RDS Proxy does not pass a cancel on, but it ends the statement of a client that is gone.
    return not entry.endpoint.proxy and link.cancel(within, aside)


def cancel_running(pool: ConnectionPool, until: float) -> None:
    """Make the server end what runs now. Called in a signal handler, shortly before the invocation ends.

    The first call asks the server to end each statement, until `until` (monotonic, seconds). A statement that still
    runs at a later call after that time loses its connection. This takes no lock that the interrupted code may hold.
    """
    for entry in list(pool.state.entries):
        link = entry.link  # another borrower may replace it meanwhile
        if entry.state is State.LENT and link is not UNOPENED and link.status() in RUNNING:
            _cancel_once(pool, entry, link, until)


def cancel_running_of(pool: ConnectionPool, until: float, concerned: Callable[[Entry], bool]) -> None:
    """The same, from another thread than the borrower's, for the entries that are `concerned`.

    They are marked first: a cancel that the server hears late must not meet the next borrower's statement.
    """
    with pool.lock:
        lent = [entry for entry in pool.state.entries if entry.state is State.LENT and entry.link is not UNOPENED]
        running = [(each, each.link) for each in lent if concerned(each) and each.link.status() in RUNNING]
        for entry, _ in running:
            entry.condemned = True
    for entry, link in running:
        _cancel_once(pool, entry, link, until)


def _cancel_once(pool: ConnectionPool, entry: Entry, link: EngineConnection, until: float) -> None:
    now = monotonic()
    asked = entry.cancel_mono >= 0.0
    if not asked:
        entry.cancel_mono = max(until, now)
        # The entries before may have used up the time, if the server answers none of them.
        if now < until and cancel(pool, entry, link, until - now):
            return
    if not asked or now > entry.cancel_mono:
        link.abort(cancelled=True)


def shut_down(pool: ConnectionPool, deadline: float, least: float, *, idle: bool = True) -> None:
    """At SIGTERM, close what is idle (if `idle`) and cut what is lent, all by `deadline` (monotonic, seconds).

    The signal may have come in the middle of anything, so nothing here takes a lock, and the pool is left as it is:
    only its sockets are closed. Each connection gets at least `least` seconds.
    """
    for state in (State.IDLE, State.LENT) if idle else (State.LENT,):
        for entry in list(pool.state.entries):
            if entry.state is not state or entry.link is UNOPENED:
                continue
            within = max(deadline - monotonic(), least)
            try:
                if state is State.IDLE:
                    entry.link.close(within)
                else:
                    cancel_and_abort(pool, entry, within)
            except Exception as error:  # noqa: BLE001 - the next connection must be ended, too
                log.debug("pool %s: ending a connection at shutdown failed: %s", pool.name, error)
