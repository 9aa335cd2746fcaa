"""`connection` for asyncio: psycopg's AsyncConnection, with everything that the pool promises about a connection.

The pool's own code is synchronous, and runs in a greenlet: what it calls here (`exchange`, `end`, `put`) waits
through `waiting.finish`. What borrowers call are coroutines.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, nullcontext, suppress
from time import monotonic
from types import TracebackType
from typing import Any
from weakref import ref

import psycopg
from psycopg.generators import copy_from
from psycopg.pq import PipelineStatus, TransactionStatus

from ... import invocation
from ...aio.generators import TURNS, turn
from ...aio.waits import Unbroken, in_greenlet, ready, spawn
from ...waiting import WRITE, finish, poll
from ..bounded_socket import shut_down
from .async_cursors import tracked
from .libpq import BusyError, NoAnswerError, exchange, request_cancel
from .notes import Notes
from .shared import Shared

_IDLE, _ACTIVE = TransactionStatus.IDLE, TransactionStatus.ACTIVE
_NO_PIPELINE = PipelineStatus.OFF
_SETTERS = frozenset({"autocommit", "isolation_level", "read_only", "deferrable"})
# Seconds between two checks of psycopg's wait. A signal ends a wait of the event loop anyway.
_LOOK = 1.0
# Seconds that a server gets to end the statement that a cancelled task waited for.
_ASKING = 1.0

log: logging.Logger = logging.getLogger("lambda_pool")


class OwnedLock(asyncio.Lock):
    """The lock of one connection. Raises BusyError if the task that wants it holds it already.

    The pool waits for it no longer than for an answer, and then raises NoAnswerError.
    """

    _owner: object = None
    _closing = False

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self._notes = notes

    def close(self) -> None:
        """The generator that holds it is being closed now. The loop does that in a task of its own after a `break`."""
        self._owner, self._closing = asyncio.current_task(), True

    def is_held(self, timeout: float | None) -> bool:
        """True if its owner still holds it. A generator that is being closed gets `timeout` seconds to end."""
        if not in_greenlet():
            return self.locked()
        return finish(self._is_held(self._notes.patience if timeout is None else timeout))

    async def _is_held(self, seconds: float | None) -> bool:
        for _ in range(TURNS):
            if self._closing or not self.locked():
                break
            await turn()
        if self._closing:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await super().acquire()
                    super().release()
        return self.locked()

    async def acquire(self) -> Any:
        task, until = asyncio.current_task(), self._notes.until
        left = None if until is None else until - monotonic()
        if self.locked() and self._owner is task and await self._is_held(left):
            raise BusyError
        if until is None or not self.locked():
            await super().acquire()
        else:
            try:
                async with asyncio.timeout(until - monotonic()):
                    await super().acquire()
            except TimeoutError:
                raise NoAnswerError("another task is at work on the connection") from None
        self._owner = task
        return True

    def release(self) -> None:
        self._owner, self._closing = None, False
        super().release()


class AsyncPooledConnection(Shared, psycopg.AsyncConnection[Any]):
    """A psycopg connection for asyncio that belongs to a pool.

    `async with conn:` does not close it; an outermost `conn.transaction()` is a savepoint in the block's own.
    """

    tracked: Any = staticmethod(tracked)
    me: Any = staticmethod(asyncio.current_task)

    _lock: asyncio.Lock
    _lock_of: Callable[[], asyncio.AbstractEventLoop | None]

    # --- waiting ------------------------------------------------------------------------------------------------------

    @property
    def lock(self) -> Any:
        """Like the driver's, but one per event loop: a lock belongs for ever to the first loop that waits for it."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self._lock
        if self._lock_of() is not loop:
            self._lock, self._lock_of = OwnedLock(self.pooled), ref(loop)
        return self._lock

    @lock.setter
    def lock(self, value: asyncio.Lock) -> None:
        self._lock, self._lock_of = value, lambda: None

    async def wait(self, gen: Any, interval: float = _LOOK, timeout: float | None = None) -> Any:
        """Like the driver's, bounded if the pool waits. Also raises NoAnswerError; after a cancel, DeadlineExceeded."""
        noted, unheard = self.pooled, self._about_to_wait(gen)
        try:
            if timeout is not None:  # from notifies(), which expects psycopg's own error for it
                if noted.unasked.own:  # `_drain` waits for nothing, and a cancellation would hide an answered COMMIT
                    return psycopg.waiting.wait(gen, self.pgconn.socket, _LOOK, timeout)
                return await super().wait(gen, max(interval, _LOOK), timeout)
            # In a pipeline, the answer to a COMMIT is awaited after its statement has returned.
            with Unbroken(noted.patience) if noted.saving == self.me() else nullcontext():
                amid = self.pgconn.transaction_status == _ACTIVE
                return await self._listen(_Talk(gen, self.pgconn.socket, amid=amid))
        except BaseException as error:
            self.tell(error, unheard=unheard and noted.until is None)
            raise

    async def _listen(self, talk: "_Talk") -> Any:
        """Wait for the answer, but end the statement when the task is cancelled, and before the invocation is over."""
        noted = self.pooled
        remaining = invocation.remaining() if noted.watched and not noted.unasked.own else None
        end = None if remaining is None else monotonic() + remaining
        try:
            if end is None or (noted.until is not None and noted.until < end):
                return await talk.go_on(noted.until)
            try:
                return await talk.go_on(end)
            except NoAnswerError:
                asked, noted.cancelled = noted.cancelled, True
                if asked:  # rows are still coming
                    shut_down(self.pgconn.socket)
                    raise
            patience = invocation.reserve.seconds / 3
            return await self._end_statement(talk, patience)
        except asyncio.CancelledError:
            # If the answer is read to its end, the connection can be kept, and the server does not work on for nobody.
            with Unbroken(_ASKING), suppress(psycopg.Error):
                await self._end_statement(talk, invocation.at_most(_ASKING))
                await self._read_copy(monotonic() + invocation.at_most(_ASKING))
            raise

    async def _end_statement(self, talk: "_Talk", patience: float) -> Any:
        """Ask the server to end the running statement, and abort the connection if it does not.

        Out: the result, if the statement had ended by then. Raises what the driver raises.
        """
        if self.pgconn.transaction_status != _ACTIVE:
            return None
        try:
            await spawn(request_cancel, self.pgconn, monotonic() + patience)
            return await talk.go_on(monotonic() + invocation.at_most(patience))
        except NoAnswerError:
            shut_down(self.pgconn.socket)
            raise

    async def _read_copy(self, until: float) -> None:
        """Read the rest of a COPY that had just begun: psycopg does not. Raises OperationalError if there is none."""
        got: object = memoryview(b"")
        while isinstance(got, memoryview):
            got = await _Talk(copy_from(self.pgconn), self.pgconn.socket, amid=True).go_on(until)

    def exchange(self, query: bytes | None, answers: Any, *, bounded: bool = False) -> None:
        finish(self._exchange(query, answers, bounded=bounded))

    async def _exchange(self, query: bytes | None, answers: Any, *, bounded: bool) -> None:
        async with self.lock:
            with self.announced():
                await self.wait(exchange(self.pgconn, query, answers, self.pooled.unasked, bounded=bounded))

    # --- transactions -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> AsyncIterator[Any]:
        """Like the driver's, but without autocommit it is never outermost: the pool ends the transaction around it."""
        if not self.autocommit and self.pgconn.transaction_status == _IDLE:
            self.pooled.ended = True  # something ended it, and not the pool
            if self.pgconn.pipeline_status == _NO_PIPELINE:
                await spawn(self.begin)
            else:
                await self.execute("")
        outermost = self.pgconn.transaction_status == _IDLE
        block = super().transaction(savepoint_name, force_rollback)
        with self.announced():
            inner = await block.__aenter__()
        self.pooled.blocks += 1
        blocks = self.pooled.blocks if outermost else None
        try:
            yield inner
            if outermost and not force_rollback:
                await self._hear()
        except BaseException as error:
            with Unbroken(self.pooled.patience), self.announced():
                if not await block.__aexit__(type(error), error, error.__traceback__):
                    raise
        else:
            ending = self.announced() if force_rollback else self.committing(blocks=blocks)
            with Unbroken(self.pooled.patience), ending:
                await block.__aexit__(None, None, None)
        finally:
            self.pooled.blocks -= 1

    async def commit(self) -> None:
        """Like the driver's. Raises ProgrammingError in `AsyncPool.run`, InFailedSqlTransaction if nothing is saved.

        A cancelled task waits for the answer first; CommitUncertain if that does not come.
        """
        self._refuse("commit")
        await self._hear()
        with Unbroken(self.pooled.patience), self.committing():
            await super().commit()

    async def _hear(self) -> None:
        """Read what a pipeline waits for, before COMMIT: nothing tells later that this was answered with ROLLBACK."""
        if self.pgconn.pipeline_status and self.pgconn.transaction_status == _ACTIVE:
            with self.announced():
                async with super().pipeline():
                    pass

    async def rollback(self) -> None:
        """Like the driver's. Raises ProgrammingError in `AsyncPool.run`."""
        self._refuse("rollback")
        with self.announced():
            await super().rollback()

    def end(self, *, commit: bool) -> None:
        """The driver's own commit() or rollback()."""
        with self.announced():
            finish(super().commit() if commit else super().rollback())

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Commit, or roll back after an error; the connection stays open for its pool."""
        if self.closed:
            return
        if exc_type is None:
            await self.commit()
            return
        try:
            await self.rollback()
        except Exception as error:  # noqa: BLE001 - the block's own error must come out
            log.debug("error ignored in rollback on %s: %s", self, error)

    async def close(self) -> None:
        if not self.closed:
            self.pooled.closed_in_transaction = self.pgconn.transaction_status != _IDLE
        await super().close()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Like the driver's, but it ends when the invocation has no more time. The driver calls it too."""
        await super().cancel_safe(timeout=self._patience_for(timeout))

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[Any]:
        with self._piped():
            async with super().pipeline() as pipeline:
                yield pipeline

    # --- settings -----------------------------------------------------------------------------------------------------

    def put(self, name: str, value: Any) -> None:
        if name in _SETTERS:
            finish(getattr(self, f"set_{name}")(value))
        else:
            setattr(self, name, value)

    async def notifies(
        self, *, timeout: float | None = None, stop_after: int | None = None
    ) -> AsyncGenerator[psycopg.Notify]:
        """Like the driver's, but it ends when the invocation has no more time."""
        coming = super().notifies(timeout=self._listening_for(timeout), stop_after=stop_after)
        try:
            while True:
                with self.announced():
                    try:
                        notify = await anext(coming)
                    except StopAsyncIteration:
                        return
                yield notify
        except GeneratorExit:
            self.lock.close()
            raise
        finally:
            await coming.aclose()

    def drain_notifies(self) -> None:
        finish(self._drain())

    async def _drain(self) -> None:
        with self.announced():
            async for _ in super().notifies(timeout=0):
                pass


class _Talk:
    """One of psycopg's generators, which can be continued after a wait that ended early.

    `amid`: in the middle of an answer, where readable data does not mean that the whole comes in time.
    """

    def __init__(self, gen: Generator[Any, Any, Any], fd: int, *, amid: bool) -> None:
        self._gen = gen
        self._fd = fd
        self._amid = amid
        self._wanted: int | None = None

    async def go_on(self, until: float | None) -> Any:
        """Its result. Raises what it raises, or NoAnswerError at the time `until` (monotonic; None: no bound)."""
        try:
            if self._wanted is None:
                self._wanted = next(self._gen)
            while True:
                # Sending is nearly always possible at once, and then needs no round of the event loop.
                got = poll(self._fd, self._wanted) if self._wanted & WRITE else 0
                if not got:
                    left = None if until is None else max(until - monotonic(), 0.0)
                    if left != 0.0 or not self._amid:
                        got = await ready(self._fd, self._wanted, left)
                        self._amid = True
                if not got:
                    raise NoAnswerError("no answer in time")
                self._wanted = self._gen.send(got)
        except StopIteration as end:
            return end.value
