"""psycopg's connection, as borrowers get it; it notes what the pool must know about a transaction and a session."""

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from threading import Lock, get_ident
from time import monotonic
from types import TracebackType
from typing import Any

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from ...waiting import hold
from .cursors import tracked
from .libpq import LOOK, BusyError, NoAnswerError, exchange
from .notes import Notes
from .shared import Shared

_IDLE, _ACTIVE = TransactionStatus.IDLE, TransactionStatus.ACTIVE
_NO_PIPELINE = PipelineStatus.OFF

# Seconds: much longer than it takes to note who has got a lock.
_AMID = 1.0

log: logging.Logger = logging.getLogger("lambda_pool")


class OwnedLock:
    """The lock of one connection. Raises BusyError if the thread that wants it holds it already.

    The pool waits for it no longer than for an answer, and then raises NoAnswerError.
    """

    def __init__(self, notes: Notes) -> None:
        self._lock = Lock()
        self._owner = 0
        self._notes = notes

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            if self._owner == get_ident():
                raise BusyError
            until = self._notes.until
            if until is None:
                while not hold(self._lock, _AMID):
                    if not self._owner:  # an exception from a signal handler came before it was noted
                        raise BusyError
            elif not hold(self._lock, until - monotonic()):
                raise NoAnswerError("another thread is at work on the connection")
        self._owner = get_ident()

    def __exit__(self, *_: object) -> None:
        self._owner = 0
        self._lock.release()

    def locked(self) -> bool:
        """Whether any thread holds it."""
        return self._lock.locked()

    def is_held(self, timeout: float | None) -> bool:
        """The same, as there is nothing to wait for: Python closes a generator that nobody reads any more at once."""
        return self.locked()


class PooledConnection(Shared, psycopg.Connection[Any]):
    """A psycopg connection that belongs to a pool.

    `with conn:` does not close it; an outermost `conn.transaction()` is a savepoint in the block's own transaction.
    """

    tracked: Any = staticmethod(tracked)
    me: Any = staticmethod(get_ident)

    def __init__(self, pgconn: Any) -> None:
        super().__init__(pgconn)
        self.lock: Any = OwnedLock(self.pooled)

    # --- waiting ------------------------------------------------------------------------------------------------------

    def wait(self, gen: Any, interval: float = LOOK, timeout: float | None = None) -> Any:
        """Like the driver's, bounded if the pool waits. Also raises NoAnswerError; after a cancel, DeadlineExceeded."""
        unheard = self._about_to_wait(gen)
        until = self.pooled.until
        if until is not None:
            left = max(until - monotonic(), 0.0)
            timeout = left if timeout is None else min(timeout, left)
        try:
            return super().wait(gen, min(interval, LOOK), timeout)
        except BaseException as error:
            self.tell(error, unheard=unheard and until is None)
            late = until is not None and monotonic() >= until
            if late and isinstance(error, psycopg.Error) and error.sqlstate is None:
                raise NoAnswerError("no answer in time") from error
            raise

    def exchange(self, query: bytes | None, answers: Any, *, bounded: bool = False) -> None:
        with self.lock, self.announced():
            self.wait(exchange(self.pgconn, query, answers, self.pooled.unasked, bounded=bounded))

    # --- transactions -------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Iterator[Any]:
        """Like the driver's, but without autocommit it is never outermost: the pool ends the transaction around it."""
        if not self.autocommit and self.pgconn.transaction_status == _IDLE:
            self.pooled.ended = True  # something ended it, and not the pool
            if self.pgconn.pipeline_status == _NO_PIPELINE:
                self.begin()
            else:
                self.execute("")
        outermost = self.pgconn.transaction_status == _IDLE
        block = super().transaction(savepoint_name, force_rollback)
        with self.announced():
            inner = block.__enter__()
        self.pooled.blocks += 1
        blocks = self.pooled.blocks if outermost else None
        try:
            yield inner
            if outermost and not force_rollback:
                self._hear()
        except BaseException as error:
            with self.announced():
                if not block.__exit__(type(error), error, error.__traceback__):
                    raise
        else:
            ending = self.announced() if force_rollback else self.committing(blocks=blocks)
            with ending:
                block.__exit__(None, None, None)
        finally:
            self.pooled.blocks -= 1

    def commit(self) -> None:
        """Like the driver's. Raises ProgrammingError in `Pool.run`, and InFailedSqlTransaction if nothing is saved.

        Raises CommitUncertain if its answer is lost.
        """
        self._refuse("commit")
        self._hear()
        with self.committing():
            super().commit()

    def _hear(self) -> None:
        """Read what a pipeline waits for, before COMMIT: nothing tells later that this was answered with ROLLBACK."""
        if self.pgconn.pipeline_status and self.pgconn.transaction_status == _ACTIVE:
            with self.announced(), super().pipeline():
                pass

    def rollback(self) -> None:
        """Like the driver's. Raises ProgrammingError in `Pool.run`."""
        self._refuse("rollback")
        with self.announced():
            super().rollback()

    def end(self, *, commit: bool) -> None:
        """The driver's own commit() or rollback()."""
        with self.announced():
            if commit:
                super().commit()
            else:
                super().rollback()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Commit, or roll back after an error; the connection stays open for its pool."""
        if self.closed:
            return
        if exc_type is None:
            self.commit()
            return
        try:
            self.rollback()
        except Exception as error:  # noqa: BLE001 - the block's own error must come out
            log.debug("error ignored in rollback on %s: %s", self, error)

    def close(self) -> None:
        if not self.closed:
            self.pooled.closed_in_transaction = self.pgconn.transaction_status != _IDLE
        super().close()

    def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Like the driver's, but it ends when the invocation has no more time. The driver calls it too."""
        super().cancel_safe(timeout=self._patience_for(timeout))

    @contextmanager
    def pipeline(self) -> Iterator[Any]:
        with self._piped(), super().pipeline() as pipeline:
            yield pipeline

    # --- settings -----------------------------------------------------------------------------------------------------

    def notifies(self, *, timeout: float | None = None, stop_after: int | None = None) -> Generator[psycopg.Notify]:
        """Like the driver's, but it ends when the invocation has no more time."""
        with self.announced():
            yield from super().notifies(timeout=self._listening_for(timeout), stop_after=stop_after)

    def drain_notifies(self) -> None:
        with self.announced():
            for _ in super().notifies(timeout=0):
                pass
