"""Keep while there is room: whether this environment's idle connections may stay open across a freeze.

A frozen environment holds its session and does nothing with it. A thousand of them would hold a thousand sessions, and
environments at work would find no room. So each asks, at the end of an invocation, how many sessions the server has,
and closes its own if that is more than `keep_below` of the limit. Frozen sessions are then at most that part, and only
its owner ever ends a session.
"""

import logging
from time import monotonic, time
from typing import TYPE_CHECKING

from . import invocation
from .core.entry import Entry, State
from .core.policy import keep
from .engines.base import MIN_IO_TIMEOUT, Failure, Status
from .events import Crowded, Reason
from .reclaim import end_invocation
from .waiting import current_borrower

if TYPE_CHECKING:
    from .pool import ConnectionPool

log: logging.Logger = logging.getLogger("lambda_pool")

AGAIN = 30.0
"""Seconds until the same connection asks again."""


def settle(pool: "ConnectionPool", until: float | None = None) -> None:
    """At the end of an invocation, or of the only request that runs, ask what is due and close what must not be kept.

    This takes one round trip for each role (writer, reader) that has a connection which is new or has not asked for
    30 s. It takes at most `ping_timeout` seconds, and no longer than the invocation has left, or, after a request, than
    `until` (monotonic). If no time is left, the next one asks.
    """
    try:
        _keep_or_close(pool, until)
    except BaseException:  # a signal handler may raise anywhere: nothing may stay lent to this borrower
        end_invocation(pool, 0.0, alone=False)
        raise


def _keep_or_close(pool: "ConnectionPool", until: float | None) -> None:
    while pool.to_ask:
        left = invocation.remaining() if until is None else until - monotonic()
        bound = pool.config.ping_timeout if left is None else min(pool.config.ping_timeout, left)
        if pool.config.keep_below > 0 and bound < MIN_IO_TIMEOUT:
            return
        wall, mono = time(), monotonic()
        with pool.lock:
            entry = None if pool.state.queue else _take_due(pool, wall, mono)
            pool.to_ask = entry is not None
        if entry is None:
            return
        kept = pool.config.keep_below > 0 and _may_stay(pool, entry, bound)
        if kept is None:
            pool.discard(entry, Reason.DEAD)
        elif kept:
            _put_off(pool, entry)
            entry.heard(wall, mono)
            turn = entry.returned
            pool.give_back(entry)
            entry.returned = turn  # asking does not count as a use: the order of last use stays as it was
        else:
            pool.discard(entry, Reason.CROWDED)
            role = entry.role
            pool.close_each(lambda role=role: _take_idle(pool, role), lambda entry: Reason.CROWDED)  # type: ignore[misc]


def _take_due(pool: "ConnectionPool", wall: float, mono: float) -> Entry | None:
    """Lend this borrower an idle connection that is due to ask. The lock is held."""
    for entry in pool.state.entries:
        if entry.state is State.IDLE and (wall >= entry.ask_wall or mono >= entry.ask_mono):
            entry.owner = current_borrower()
            entry.state = State.LENT
            return entry
    return None


def _take_idle(pool: "ConnectionPool", role: object) -> Entry | None:
    """Take out an idle connection of this role. The lock is held."""
    for entry in pool.state.entries:
        if entry.state is State.IDLE and entry.role is role and pool.state.retire(entry):
            return entry
    return None


def _put_off(pool: "ConnectionPool", asked: Entry) -> None:
    """Do not ask the same server again for a while, by any connection; never again if it refused to answer."""
    now = (time() + AGAIN, monotonic() + AGAIN) if pool.asks else (float("inf"), float("inf"))
    with pool.lock:
        for entry in pool.state.entries:
            if entry.role is asked.role or not pool.asks:
                entry.ask_wall, entry.ask_mono = now


def _may_stay(pool: "ConnectionPool", entry: Entry, bound: float) -> bool | None:
    """Ask the server, in at most `bound` seconds. None if the connection is lost, or if the answer may still come."""
    link = entry.link
    try:
        count, limit = link.sessions(bound)
    except Exception as error:
        kind = pool.classify(error)
        if kind is Failure.FOREIGN:
            raise
        if kind is not Failure.OTHER or not (link.is_silent() and link.status() is Status.IDLE):
            log.debug("pool %s: the server was asked how full it is, but did not answer: %s", pool.name, error)
            return None
        pool.asks = False
        log.warning(
            "pool %s: the server does not say how many connections it has, so keep_below has no effect here: %s",
            pool.name,
            " ".join(str(error).split()),
        )
        return True
    kept = keep(count, limit, pool.config.keep_below)
    pool.events.emit(Crowded(pool.name, count, limit, kept))
    if not kept:
        log.info(
            "pool %s: connection closed before the freeze: the server has %d of %d connections",
            pool.name,
            count,
            limit,
            extra={"pool": pool.name, "connections": count, "limit": limit, "backend_id": link.backend_id},
        )
    return kept
