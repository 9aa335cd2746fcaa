"""What `cursors` does, for the cursors of psycopg's asyncio half."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import psycopg
from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import ConnStatus

from ...aio.waits import Unbroken
from ...errors import DeadlineExceeded
from ..slow import timed
from .cursors import NOTHING_SAVED
from .statements import asks_to_commit, commits, may_commit, statement

if TYPE_CHECKING:
    from .async_connection import AsyncPooledConnection

_IDLE, _IN_ERROR = psycopg.pq.TransactionStatus.IDLE, psycopg.pq.TransactionStatus.INERROR

_made: WeakValueDictionary[type, type] = WeakValueDictionary()


def tracked(base: Any) -> Any:
    """The same cursor class, with AsyncTracked before it. See `cursors.tracked`."""
    if not isinstance(base, type) or issubclass(base, AsyncTracked):
        return base
    made = _made.get(base)
    if made is None:
        mixin = AsyncTrackedServer if issubclass(base, psycopg.AsyncServerCursor) else AsyncTracked
        names = {"__slots__": (), "__module__": base.__module__, "__qualname__": base.__qualname__}
        made = _made[base] = type(base.__name__, (mixin, base), names)
    return made


class AsyncTracked:
    """In front of a cursor class. See `cursors.Tracked`."""

    __slots__ = ()

    connection: "AsyncPooledConnection"
    pgresult: Any

    async def execute(self, query: Any, *args: Any, **named: Any) -> Any:
        """As the driver's. Raises InFailedSqlTransaction too where a COMMIT saved nothing."""
        return await self._say(super().execute, query, args, named)  # type: ignore[misc]

    async def executemany(self, query: Any, *args: Any, **named: Any) -> Any:
        """As the driver's."""
        return await self._say(super().executemany, query, args, named)  # type: ignore[misc]

    async def stream(self, query: Any, *args: Any, **named: Any) -> AsyncIterator[Any]:
        """As the driver's. It has the connection to itself until it ends."""
        conn = self.connection
        conn.note(query, None)
        rows = super().stream(query, *args, **named)  # type: ignore[misc]
        try:
            while True:
                with conn.announced():  # not over a yield, where another task may go on
                    try:
                        row = await anext(rows)
                    except StopAsyncIteration:
                        return
                yield row
        finally:
            with conn.announced():
                await rows.aclose()

    @asynccontextmanager
    async def copy(self, query: Any, *args: Any, **named: Any) -> AsyncIterator[Any]:
        """As the driver's. It has the connection to itself until it ends."""
        conn = self.connection
        conn.note(query, None)
        with conn.announced():
            async with super().copy(query, *args, **named) as copy:  # type: ignore[misc]
                yield copy

    async def _say(self, say: Any, query: Any, args: Any, named: Any) -> Any:
        conn = self.connection
        status = conn.pgconn.transaction_status
        failed, alive = status == _IN_ERROR, conn.pgconn.status == ConnStatus.OK
        if status == _IDLE:
            conn.pooled.ended = True  # what `AsyncPool.run` had begun, if it did
        waits = conn.pooled.waits
        try:
            with conn.announced():
                answer = await self._timed(say, query, args, named)
        except BaseException as error:
            conn.note(query, None)
            if alive and not failed and isinstance(error, psycopg.Error | DeadlineExceeded):
                conn.tell_of_statement(query, error)
            raise
        if conn.pooled.waits == waits:
            conn.not_called("wait")
        result = self.pgresult
        if result is None or conn.pgconn.pipeline_status:  # its answer is yet to come, or was not kept
            conn.note(query, None)
            if conn.pgconn.pipeline_status and commits(query):
                conn.pooled.saving = conn.me()
        elif conn.pooled.noting or failed:
            tags = [result.command_status or b""]
            while self.nextset():  # type: ignore[attr-defined]
                tags.append(self.pgresult.command_status or b"")
            if len(tags) > 1:
                await self.set_result(0)  # type: ignore[attr-defined]
            conn.note(query, tags)
            if failed and tags[0] == b"ROLLBACK" and asks_to_commit(query):
                raise InFailedSqlTransaction(NOTHING_SAVED)
        return answer

    async def _timed(self, say: Any, query: Any, args: Any, named: Any) -> Any:
        noted = self.connection.pooled
        if may_commit(query):
            with Unbroken(noted.patience):
                return await say(query, *args, **named)
        if noted.on_slow is None:
            return await say(query, *args, **named)
        with timed(noted.slow_query, noted.on_slow, lambda: statement(query)):
            return await say(query, *args, **named)


def _announced(name: str) -> Any:
    """A method of the driver's that asks the server for what is known already."""

    async def method(self: Any, *args: Any, **named: Any) -> Any:
        with self.connection.announced():
            return await getattr(super(AsyncTrackedServer, self), name)(*args, **named)

    method.__name__ = name
    return method


class AsyncTrackedServer(AsyncTracked):
    """The same for a server-side cursor, which asks the server again for its rows."""

    __slots__ = ()

    async def execute(self, query: Any, *args: Any, **named: Any) -> Any:
        """As the driver's."""
        if self.withhold:  # type: ignore[attr-defined]
            self.connection.pooled.changed = True
        return await super().execute(query, *args, **named)

    __anext__: Any = _announced("__anext__")
    fetchone: Any = _announced("fetchone")
    fetchmany: Any = _announced("fetchmany")
    fetchall: Any = _announced("fetchall")
    scroll: Any = _announced("scroll")
    close: Any = _announced("close")
