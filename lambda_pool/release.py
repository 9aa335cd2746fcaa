"""The way back: a borrower's transaction is ended, and its connection is restored to how it was lent, or closed."""

import logging
from time import monotonic, time
from typing import TYPE_CHECKING

from . import borrower, invocation
from .core.entry import Entry, Work
from .core.policy import Step, at_return
from .engines.base import MIN_IO_TIMEOUT, Condition, Failure, Outcome, may_be_handled, uncertain
from .errors import CommitUncertain, NotCommitted
from .events import Reason, RolledBack
from .invocation import Deadline

if TYPE_CHECKING:
    from .pool import ConnectionPool

log: logging.Logger = logging.getLogger("lambda_pool")

_CLOSED = (
    "a block closed its connection in the middle of a transaction: what it had not committed is not saved. Let the "
    "pool close connections, or commit first"
)
_SWALLOWED = (
    "a block ended normally, but its transaction had failed or its connection was lost, and the error was swallowed: "
    "none of the transaction is saved"
)
_SAVED = (
    "the transaction is saved, so do not write it again: an error of your own ended the block only while its "
    "connection was brought back to how it was lent"
)


def release(pool: "ConnectionPool", entry: Entry, error: BaseException | None, *, strict: bool | None) -> None:
    """Take a connection back: end its transaction, bring it back to how it was lent, cache it or close it.

    `error` is what the borrower's block raised; if there is one, what goes wrong here is logged and not raised.
    `strict`: a block that ended well but whose work is not saved raises NotCommitted (None: the option `unsaved`
    decides).
    """
    if entry.pid != pool.pid:
        # Borrowed before a fork: this process owns only a descriptor of it.
        entry.link.discard()
        return
    try:
        close_as, problem = _end(pool, entry, error, strict=strict)
        if close_as is not None:
            pool.emit_returned(entry)
        elif pool.config.leak_after:
            _look_how_long(pool, entry)
    except BaseException:  # of the caller's own observer or endpoint source, or of its alarm
        pool.discard(entry, Reason.BROKEN)
        raise
    if close_as is None:
        pool.give_back(entry)
    else:
        pool.discard(entry, close_as)
    try:
        if problem is not None and (error is None or not isinstance(problem, Exception)):
            raise problem
        if problem is not None:
            log.debug("pool %s: cleaning up after an error failed too: %s", pool.name, problem)
    finally:
        del problem  # it refers to this frame, and would keep the connection until the next garbage collection


def _end(
    pool: "ConnectionPool", entry: Entry, error: BaseException | None, *, strict: bool | None
) -> tuple[Reason | None, BaseException | None]:
    """End the transaction, and bring the connection back to how it was lent.

    Out: why it must be closed, None if it may be lent again; and what went wrong, to be raised once it is safe.
    """
    link = entry.link
    problem: BaseException | None = None
    condemned = ended = closed = saved = False
    restored: bool | None = None
    facts = link.inspect()
    condition = facts.condition
    entry.work = Work.COMMITTING if error is None else Work.UNDONE
    if error is not None or condition is Condition.CHANGED:
        condemned = pool.note_failover(entry, pool.kind_of(entry, error))
        closed = facts.closed_by_user
    while True:
        step = at_return(
            condition,
            failed=error is not None,
            closed=closed,
            ended=ended,
            condemned=condemned,
            restored=restored,
            reset=pool.config.reset == "session",
        )
        if step is Step.KEEP or step is Step.CLOSE:
            break
        try:
            if step is Step.RESTORE:
                restored = _restore(pool, entry, saved=saved)
            else:
                ended = True
                saved = end_transaction(pool, entry, commit=error is None, strict=strict) is Outcome.COMMITTED
                if step is Step.COMMIT and link.inspect().condition is Condition.CLEAN:
                    restored = True
        except BaseException as failure:  # noqa: BLE001 - raised by `release`, once the connection is safe
            problem = problem or failure
            if step is Step.RESTORE:
                restored = False
            condemned = pool.note_failover(entry, pool.classify(failure.__cause__ or failure)) or condemned
            condemned = condemned or isinstance(failure, CommitUncertain)
    if not isinstance(problem, CommitUncertain):
        entry.work = Work.ENDED if error is None and problem is None else Work.UNDONE
    if closed and error is None and problem is None and facts.closed_in_transaction:
        problem = _unsaved(pool, _CLOSED, strict=strict)
    try:
        return None if step is Step.KEEP else Reason.USER_CLOSED if closed else Reason.BROKEN, problem
    finally:
        del problem  # it refers to this frame, and would keep the connection until the next garbage collection


def _look_how_long(pool: "ConnectionPool", entry: Entry) -> None:
    """Tell of a borrow that took longer than `leak_after`."""
    held = monotonic() - entry.borrowed_mono
    if entry.borrowed_mono and held > pool.config.leak_after:
        borrower.emit_leaked(pool.events, entry, held)


def end_transaction(
    pool: "ConnectionPool", entry: Entry, *, commit: bool, strict: bool | None = None, last: bool = True
) -> Outcome:
    """Commit or roll back, if a transaction is or may be open. Raises NotCommitted, or what the engine raises.

    `strict`: see `release`. `last`: see `EngineConnection.commit`.
    """
    left = invocation.remaining()
    # COMMIT is sent even after the deadline: otherwise the work is surely lost.
    timeout = None if left is None else max(left, MIN_IO_TIMEOUT)
    wall, mono = time(), monotonic()
    if commit:
        try:
            outcome = entry.link.commit(timeout, last=last)
        except NotCommitted as error:  # the connection is still at work
            unsaved = _unsaved(pool, str(error), strict=strict)
            if unsaved:
                raise unsaved from error
            return Outcome.FAILED
    else:
        # A rollback that takes longer than a checkout may take is given up: closing has the same effect.
        outcome = entry.link.rollback(min(pool.config.timeout, timeout or pool.config.timeout), last=last)
    if outcome is not Outcome.NONE:
        entry.heard(wall, mono)
    if outcome is Outcome.ROLLED_BACK:
        pool.events.emit(RolledBack(pool.name, "error"))
    elif outcome is Outcome.FAILED and commit:
        pool.events.emit(RolledBack(pool.name, "failed transaction"))
        unsaved = _unsaved(pool, _SWALLOWED, strict=strict)
        if unsaved:
            raise unsaved
    return outcome


def _unsaved(pool: "ConnectionPool", why: str, *, strict: bool | None) -> NotCommitted | None:
    """The error for a block that ended well but saved nothing; None if only a warning is wanted."""
    text = f"pool {pool.name}: {why}"
    if pool.config.unsaved == "raise" if strict is None else strict:
        return NotCommitted(text)
    log.warning("%s", text)
    return None


def _restore(pool: "ConnectionPool", entry: Entry, *, saved: bool) -> bool:
    """Bring it back to how it was lent. False if that did not work. `saved`: the block's work is committed."""
    try:
        return entry.link.reset(max(Deadline(pool.config.ping_timeout).left(), MIN_IO_TIMEOUT))
    except BaseException as error:
        if isinstance(error, Exception) and pool.classify(error) is not Failure.FOREIGN:
            log.debug("pool %s: taking a connection back failed: %s", pool.name, error)
            return False
        if saved and may_be_handled(error):  # a time limit of the user's own: who catches it may not write again
            raise uncertain(f"{_SAVED} ({type(error).__name__}: {error})") from error
        raise
