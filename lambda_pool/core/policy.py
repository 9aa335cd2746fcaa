"""What to do with a cached connection at checkout and at return, and when work may be done again.

Pure: plain facts in, a decision out.
"""

from enum import Enum

from ..endpoints.base import Role
from ..engines.base import Condition, Failure
from ..events import Reason
from .entry import Entry

TIMER_MARGIN = 5.5
"""Seconds by which a session outlasts the longest invocation: the default of `ping_after`, and time for an answer on
its way, so that the timer adds no reason to ping."""


class Verdict(Enum):
    """What to do with a cached connection that need not be replaced."""

    REUSE = "reuse"
    """Lend it as it is: no round trip."""
    PING = "ping"
    """One bounded round trip decides."""


def at_checkout(
    entry: Entry,
    wall: float,
    mono: float,
    generation: int,
    pid: int,
    role: Role,
    silent: bool,
    ping_after: float,
    max_idle: float,
) -> Verdict | Reason:
    """Decide on one cached connection.

    In: the entry, both clocks now (seconds), the pool's generation, this process's id, the role that is asked for,
    whether the free check found the socket `silent`, and two options in seconds: `ping_after` and `max_idle` (infinite
    if it is off). Out: a verdict, or the reason to close it and open another.
    """
    if entry.pid != pid:
        return Reason.FORKED
    if entry.generation != generation:
        return Reason.GENERATION
    # The last use is never before the opening, so these two also catch every clock that went backwards.
    if wall < entry.idle_wall or mono < entry.idle_mono:
        return Reason.CLOCK
    if wall - entry.created_wall > entry.lifetime or mono - entry.created_mono > entry.lifetime:
        return Reason.LIFETIME
    idle = max(wall - entry.idle_wall, mono - entry.idle_mono)
    if idle > max_idle or idle > entry.lasts:
        return Reason.IDLE
    if entry.role is not role:
        return Reason.ROLE
    # If the server has heard nothing for too long, its timer could end the session in the middle of the borrow.
    heard = wall <= entry.silent_wall and mono <= entry.silent_mono
    alive = max(wall - entry.alive_wall, mono - entry.alive_mono) <= ping_after
    return Verdict.REUSE if silent and heard and alive else Verdict.PING


def keep(count: int, limit: int, part: float) -> bool:
    """Whether an idle session may stay across a freeze, on a server that has `count` sessions of at most `limit`.

    `part` is the option `keep_below`. Frozen sessions are then at most `part` of the limit, and the rest is left for
    environments at work.
    """
    return count <= part * limit


def session_timer(session_idle: float, longest: float) -> float:
    """After how many idle seconds the server should end a session; 0 if it should not.

    In: the option `session_idle`, and the seconds that an invocation may last: the timer must not end a session that
    is lent and waits for its borrower's first statement.
    """
    return max(session_idle, longest + TIMER_MARGIN) if session_idle else 0.0


def patience(kind: Failure, timeout: float, wake_timeout: float) -> float:
    """Seconds that a checkout may take in all, after an attempt to connect that failed like this.

    In: the options of these names; `wake_timeout` is 0 if nobody should wait for a database that resumes.
    """
    return max(timeout, wake_timeout) if kind is Failure.RESUMING else timeout


class Step(Enum):
    """The next step when a borrower gives a connection back."""

    COMMIT = "commit"
    """A transaction that COMMIT alone ends: one round trip."""
    END = "end"
    """Commit or roll back, and find out what became of the transaction."""
    RESTORE = "restore"
    """Bring the session back to how it was lent."""
    KEEP = "keep"
    """Cache it."""
    CLOSE = "close"
    """It cannot be lent again."""


def at_return(
    condition: Condition,
    *,
    failed: bool,
    closed: bool,
    ended: bool,
    condemned: bool,
    restored: bool | None,
    reset: bool,
) -> Step:
    """Decide on one connection that comes back. It is called again after each step, until it says KEEP or CLOSE.

    In: how the borrower left it; whether the borrower's block `failed`; whether the borrower `closed` it; whether its
    transaction has been `ended`; whether it is `condemned` (a failover, a COMMIT whose answer is lost); whether it was
    brought back to how it was lent (None: not tried yet); and whether each return must `reset` the session.
    """
    if closed:
        return Step.CLOSE
    if not ended:
        if failed or reset or condition is Condition.CHANGED:
            return Step.END
        return Step.KEEP if condition is Condition.CLEAN else Step.COMMIT
    if condemned:
        return Step.CLOSE
    if restored is None:
        return Step.RESTORE
    return Step.KEEP if restored else Step.CLOSE


_LOSSES = frozenset({Failure.LOST, Failure.SHUTDOWN})
_UNDONE_BY_SERVER = frozenset({Failure.CONFLICT, Failure.READ_ONLY, Failure.STALE})


def may_replay(kind: Failure, *, own_transaction: bool, lost: bool) -> bool:
    """Whether work that raised may be called again: its transaction is surely undone, and a second try may succeed.

    In: what its error means; whether the transaction still is the one that was begun for it; whether the connection
    that it was given is `lost`. The loss of another connection has undone nothing.
    """
    if not own_transaction:
        return False
    return lost if kind in _LOSSES else kind in _UNDONE_BY_SERVER


def may_replay_refused_commit(kind: Failure, *, own_transaction: bool) -> bool:
    """The same for work that ended well, but whose COMMIT was refused or never sent.

    If the answer to COMMIT was lost, the error is CommitUncertain, which is none of these kinds.
    """
    return own_transaction and (kind in _LOSSES or kind in _UNDONE_BY_SERVER)
