"""What a pool takes back when an invocation or the process ends: it knows what is lent, whoever borrowed it."""

import logging
from time import monotonic

from . import borrower
from .core.entry import UNOPENED, Entry, State
from .engines.base import MIN_IO_TIMEOUT, Link
from .events import Reason
from .invocation import Limit
from .pool import ConnectionPool
from .waiting import current_borrower

log = logging.getLogger("lambda_pool")


def end_invocation(pool: ConnectionPool, since: float, *, alone: bool = True) -> list[str]:
    """Take back what was borrowed since then (monotonic, seconds) and is still held.

    An environment is never frozen with an open transaction. Not `alone`: other invocations go on in this process, so
    that only what this borrower holds is known to be left behind. Out: where those were borrowed whose transaction was
    still open, so that its work is not saved.
    """
    with pool.lock:
        if not pool.state.queue and all(entry.state is State.IDLE for entry in pool.state.entries):
            held = []
        else:
            held = pool.state.reclaim(current_borrower(), alone=alone, since=since)
    mono = monotonic()
    unsaved = []
    try:
        for entry in held:
            if entry.link is not UNOPENED and not entry.link.at_rest():
                unsaved.append(borrower.describe(entry)[0])
            if entry.borrowed_mono:  # else nobody had it yet, or any more
                borrower.tell_leaked(pool.events, entry, mono - entry.borrowed_mono)
                pool.tell_returned(entry)
            _take_away(pool, entry)
    finally:
        for entry in held:
            pool.free(entry)
    return unsaved + _close_left_open(pool)


def _close_left_open(pool: ConnectionPool) -> list[str]:
    """Close every idle connection that is in a transaction: somebody used it after it had been given back.

    Out: where they were borrowed last.
    """
    found = []

    def find() -> Entry | None:
        for entry in pool.state.entries:
            if entry.state is State.IDLE and not entry.link.at_rest() and pool.state.retire(entry):
                return entry
        return None

    def why(entry: Entry) -> Reason:
        borrower.warn_used_after_return(pool.events, entry)
        found.append(borrower.describe(entry)[0])
        return Reason.BROKEN

    pool.close_each(find, why)
    return found


def _take_away(pool: ConnectionPool, entry: Entry) -> None:
    if entry.owner == current_borrower():
        pool.close_link(entry, Reason.LEAKED)
        return
    if entry.link is UNOPENED:  # its borrower is just replacing it, and will find that the entry is gone
        return
    # Its borrower may be inside the driver, where closing would pull the memory from under it.
    cut(pool, entry, pool.config.ping_timeout)
    pool.tell_closed(entry, Reason.LEAKED)


def cut(pool: ConnectionPool, entry: Entry, within: float) -> None:
    """End a lent connection from outside, and what runs on it: in at most so many seconds for the asking.

    A server at work looks at its client only when it has something to say, so it is asked to stop.
    """
    link = entry.link
    if link.running():
        cancel(pool, entry, link, max(Limit(within).left(), MIN_IO_TIMEOUT))
    link.sever()


def cancel(pool: ConnectionPool, entry: Entry, link: Link, within: float) -> bool:
    """Ask the server, in at most so many seconds, to end what runs on this link. False if it did not work."""

    def aside() -> Link:
        return pool.connector.open_aside(entry.role, Limit(within, uncut=True))

    # An RDS Proxy passes no cancel on, but ends the statement of a client that is gone.
    return not entry.endpoint.proxy and link.cancel(within, aside)


def cancel_running(pool: ConnectionPool, within: float) -> None:
    """In a signal handler, shortly before the invocation ends: make the server end what runs now.

    The first call asks the server, in at most `within` seconds; a statement that still runs at a later call loses its
    connection. Takes no lock that the interrupted code may hold.
    """
    for entry in list(pool.state.entries):
        link = entry.link  # another borrower may replace it meanwhile
        if entry.state is not State.LENT or link is UNOPENED or not link.running():
            continue
        now = monotonic()
        asked = entry.cancel_mono >= entry.borrowed_mono
        if not asked:
            entry.cancel_mono = now
            if cancel(pool, entry, link, within):
                continue
        if not asked or now - entry.cancel_mono > within:
            link.cut()


def shut_down(pool: ConnectionPool, deadline: float, least: float) -> None:
    """In the handler of SIGTERM: close what is idle, cut what is lent, all until then (monotonic, seconds).

    The signal may have come in the middle of anything, so that nothing here takes a lock, and the pool is left as it
    is: only its sockets end. Each connection gets at least `least` seconds.
    """
    for entry in list(pool.state.entries):
        if entry.state is State.CONNECTING or entry.link is UNOPENED:
            continue
        left = max(deadline - monotonic(), least)
        try:
            if entry.state is State.IDLE:
                entry.link.close(left)
            elif entry.state is State.LENT:
                cut(pool, entry, left)
        except Exception as error:  # noqa: BLE001 - the next connection deserves its good-bye too
            log.debug("pool %s: closing at shutdown failed: %s", pool.name, error)
