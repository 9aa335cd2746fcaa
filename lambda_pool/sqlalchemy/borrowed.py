"""One connection while SQLAlchemy has it: its transaction ends the pool's way, bounded, and with the pool's errors."""

import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic, time
from typing import Any

from .. import borrower, invocation
from ..core.entry import Entry, State
from ..engines.base import AT_REST, MIN_IO_TIMEOUT, Condition, Outcome
from ..errors import CommitUncertain, NotCommitted
from ..events import Reason
from ..pool import ConnectionPool
from ..release import end_transaction
from ..waiting import outer, unbroken

log: logging.Logger = logging.getLogger("lambda_pool")

# Seconds to read the rest of a stream, only to roll back. A new connection takes as long.
_REST = 0.1
# How often an error may have been wrapped: by SQLAlchemy, by pandas, by its user.
_WRAPPED = 8
# Packages whose frames stand between a checkout and the user's line.
_MACHINERY = ("sqlalchemy", "sqlmodel", "pandas", "lambda_pool", "contextlib", "functools", "weakref")


class LeftOpenError(Exception):
    """Stands for a borrower that gave a connection back in the middle of a transaction: it is never committed."""


class Borrowed:
    """One entry of a pool, lent to SQLAlchemy."""

    __slots__ = ("broken", "conn", "detached", "entry", "failed_with", "holder", "level_set", "pool", "set_up")

    def __init__(self, pool: ConnectionPool, entry: Entry, conn: Any) -> None:
        self.pool: ConnectionPool = pool
        self.entry: Entry = entry
        self.conn: Any = conn
        """The connection as SQLAlchemy has it."""
        self.set_up: bool = False
        """What SQLAlchemy and its user set when it was opened has become its baseline."""
        self.broken: bool = False
        """The answer to COMMIT or to ROLLBACK was lost: it may still come, and would be taken for another answer."""
        self.detached: bool = False
        self.failed_with: int = 0
        """The id() of the driver's last error: the error itself refers to frames that refer to the connection."""
        self.level_set: bool = False
        """It has an isolation level of this borrow, which SQLAlchemy has not taken back."""
        self.holder: Callable[[], Any] | None = None
        """A weak reference to what SQLAlchemy gave out for it."""

    @property
    def dropped(self) -> bool:
        """Whether it was detached, and then invalidated or forgotten: SQLAlchemy tells nobody of that."""
        if not self.detached or self.holder is None:
            return False
        held = self.holder()
        return held is None or not held.is_valid

    @property
    def foreign(self) -> bool:
        """Borrowed before a fork: nothing may be sent on it, because its server is talking with the parent."""
        return self.entry.pid != self.pool.pid

    def note_borrower(self) -> None:
        """Note the line outside of SQLAlchemy that caused this checkout, for a leak's report."""
        frame = sys._getframe(1)
        while (caller := outer(frame)) and frame.f_globals.get("__name__", "").partition(".")[0] in _MACHINERY:
            frame = caller
        borrower.note(self.entry, frame, deep=self.pool.config.leak_after > 0)

    def limited(self, deadline: invocation.Deadline | None = None) -> AbstractContextManager[None]:
        """In this block, what SQLAlchemy asks is answered by the deadline, or the connection fails."""
        return self.entry.link.limited(self._bound() if deadline is None else max(deadline.left(), MIN_IO_TIMEOUT))

    def settle(self) -> None:
        """Commit what the `connect` event left open, and take what it has set as the baseline.

        Raises what the driver raises if it is lost: SQLAlchemy passes over errors of some questions of its own.
        """
        if self.entry.link.status() not in AT_REST:
            self.entry.link.commit(self._bound(), last=False)
        if not self.entry.link.is_silent():
            self.entry.link.ping(self.pool.config.ping_timeout)
        if self.pool.config.reset != "session":  # which undoes it at each return, so it is set up again
            self.entry.link.set_baseline()
        self.set_up = True

    def begin_read_only(self, timeout: float | None = None) -> None:
        """A read-only transaction, unless one is open. `timeout`: seconds for BEGIN at a checkout."""
        if self.entry.link.status() in AT_REST:
            self.entry.link.begin(readonly=True, guarded=False, timeout=timeout or self._bound())

    def note_failure(self, error: BaseException | None) -> bool:
        """Let a failover condemn each connection that is as old as this one. Out: whether `error` means one."""
        return self.pool.note_failover(self.entry, self.pool.kind_of(self.entry, error))

    def commit(self) -> None:
        """COMMIT, if a transaction is open. Raises NotCommitted, CommitUncertain, or what the driver raises.

        If the error that made the transaction fail is on its way out, it is raised in place of NotCommitted: pandas
        closes an ExitStack on that way, which commits.
        """
        if self.foreign:
            raise NotCommitted(
                f"pool {self.pool.name}: this connection belongs to the parent process, so nothing is committed: close "
                "sessions before a fork, and open new ones in the child"
            )
        on_its_way = sys.exception()
        try:
            with unbroken(self.pool.config.timeout):
                end_transaction(self.pool, self.entry, commit=True, last=False)
        except BaseException as error:
            self.broken = isinstance(error, CommitUncertain)
            self.note_failure(error.__cause__ or error)
            if on_its_way is not None and isinstance(error, NotCommitted) and self._led_to(on_its_way):
                raise on_its_way from on_its_way.__cause__
            raise
        finally:
            del on_its_way  # it may refer to this frame

    def _led_to(self, error: BaseException | None) -> bool:
        """Whether the driver's last error on this connection is this one, or was wrapped in it."""
        for _ in range(_WRAPPED):
            if error is None:
                break
            if id(error) == self.failed_with:
                return True
            error = error.__cause__ or error.__context__
        return False

    def roll_back(self) -> None:
        """ROLLBACK, if a transaction is open. If that fails, the connection is closed, which has the same effect."""
        if self.broken or self.foreign:
            return
        link, self.broken = self.entry.link, True
        self.note_failure(None)
        try:
            with unbroken(self.pool.config.timeout):
                link.read_rest(min(_REST, self._bound()))
                wall, mono = time(), monotonic()
                if link.rollback(self._bound(), last=False) is not Outcome.NONE:
                    self.entry.heard(wall, mono)
            self.broken = False
        except Exception as error:  # noqa: BLE001 - only what was to be undone is lost
            log.debug("pool %s: rolling back failed, so the connection is closed: %s", self.pool.name, error)
            self.note_failure(error)
        finally:
            if self.broken:
                link.close(MIN_IO_TIMEOUT)  # or aborted, where another task or thread still waits on it

    def break_off(self, error: BaseException) -> None:
        """Let go of the connection: a setting that was made for this borrow cannot be taken back."""
        self.broken = True
        log.debug("pool %s: undoing a setting failed, so the connection is closed: %s", self.pool.name, error)
        self.note_failure(error)
        if not self.foreign:
            self.entry.link.close(MIN_IO_TIMEOUT)

    def give_back(self) -> None:
        """Return it to its pool. What is open is rolled back, with a warning: nobody has asked for that."""
        pool, entry = self.pool, self.entry
        if self.broken:
            self.discard()
        elif self.foreign:
            pool.release(entry)
        elif pool.config.reset != "session" and entry.link.inspect().condition is Condition.CLEAN:
            pool.give_back(entry)
        else:
            self._warn_if_left_open()
            with unbroken(pool.config.timeout):
                pool.release(entry, LeftOpenError())

    def undo_left_open(self) -> None:
        """Roll back what is open, with a warning: nobody has asked for that."""
        if not self.broken and self._warn_if_left_open():
            end_transaction(self.pool, self.entry, commit=False, last=False)

    def _warn_if_left_open(self) -> bool:
        pool, entry = self.pool, self.entry
        if entry.state is not State.LENT or entry.link.status() in AT_REST:
            return False
        where, stack = borrower.describe(entry)
        log.warning(
            "pool %s: a connection came back in the middle of a transaction, which is rolled back (borrowed at "
            "%s): commit or roll back, and close the session or the connection%s",
            *(pool.name, where, stack),
            extra={"pool": pool.name, "where": where},
        )
        return True

    def fail(self, error: BaseException) -> None:
        """Take it back: it could not be lent. One whose set-up failed half way is not kept."""
        if self.set_up:
            self.pool.release(self.entry, error)
        else:
            self.discard()

    def discard(self) -> None:
        """Close it: it is broken, or SQLAlchemy does not want it any more."""
        self.pool.emit_returned(self.entry)
        self.pool.discard(self.entry, Reason.BROKEN)

    def _bound(self) -> float:
        """Seconds for work that is not worth a longer wait than a checkout."""
        return max(invocation.at_most(self.pool.config.timeout), MIN_IO_TIMEOUT)
