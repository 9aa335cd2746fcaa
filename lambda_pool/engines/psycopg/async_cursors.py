"""What `cursors` does, for the cursors of psycopg's asyncio half."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ...aio.waits import Unbroken
from ..slow import timed
from .statements import may_commit, statement
from .tracking import Said, in_front

if TYPE_CHECKING:
    from .async_connection import AsyncPooledConnection


def tracked(base: Any) -> Any:
    """The same cursor class, with AsyncTracked before it. See `in_front`."""
    return in_front(base, AsyncTracked, AsyncTrackedServer)


class AsyncTracked:
    """A mixin in front of a cursor class. See `cursors.Tracked`."""

    __slots__ = ()

    connection: "AsyncPooledConnection"
    pgresult: Any

    async def execute(self, query: Any, *args: Any, **named: Any) -> Any:
        """Like the driver's. Also raises InFailedSqlTransaction if a COMMIT saved nothing."""
        return await self._say(super().execute, query, args, named)  # type: ignore[misc]

    async def executemany(self, query: Any, *args: Any, **named: Any) -> Any:
        """Like the driver's."""
        return await self._say(super().executemany, query, args, named)  # type: ignore[misc]

    async def stream(self, query: Any, *args: Any, **named: Any) -> AsyncIterator[Any]:
        """Like the driver's. It has the connection to itself until it ends."""
        conn = self.connection
        conn.note(query, None)
        rows = super().stream(query, *args, **named)  # type: ignore[misc]
        try:
            while True:
                with conn.announced():  # not across a yield, where another task may go on
                    try:
                        row = await anext(rows)
                    except StopAsyncIteration:
                        return
                yield row
        except GeneratorExit:
            conn.lock.close()
            raise
        finally:
            with conn.announced():
                await rows.aclose()

    @asynccontextmanager
    async def copy(self, query: Any, *args: Any, **named: Any) -> AsyncIterator[Any]:
        """Like the driver's. It has the connection to itself until it ends."""
        conn = self.connection
        conn.note(query, None)
        try:
            with conn.announced():
                async with super().copy(query, *args, **named) as copy:  # type: ignore[misc]
                    yield copy
        except BaseException as error:
            conn.tell_of_statement(query, error)
            raise

    async def _say(self, say: Any, query: Any, args: Any, named: Any) -> Any:
        said = Said(self.connection, query)
        try:
            with self.connection.announced():
                answer = await self._timed(say, query, args, named)
        except BaseException as error:
            said.raised(error)
            raise
        if said.answered(self):
            await self.set_result(0)  # type: ignore[attr-defined]
        said.check()
        return answer

    async def _timed(self, say: Any, query: Any, args: Any, named: Any) -> Any:
        noted = self.connection.pooled
        heard = Unbroken(noted.patience) if may_commit(query) else nullcontext()
        if noted.on_slow is None:
            with heard:
                return await say(query, *args, **named)
        with timed(noted.slow_query, noted.on_slow, lambda: statement(query)), heard:
            return await say(query, *args, **named)


def _announced(name: str) -> Any:
    """A driver method that asks the server, for a statement that was noted already."""

    async def method(self: Any, *args: Any, **named: Any) -> Any:
        with self.connection.announced():
            return await getattr(super(AsyncTrackedServer, self), name)(*args, **named)

    method.__name__ = name
    return method


class AsyncTrackedServer(AsyncTracked):
    """The same for a server-side cursor, which asks the server again for its rows."""

    __slots__ = ()

    async def execute(self, query: Any, *args: Any, **named: Any) -> Any:
        """Like the driver's."""
        if self.withhold:  # type: ignore[attr-defined]
            self.connection.pooled.changed = True
        return await super().execute(query, *args, **named)

    __anext__: Any = _announced("__anext__")
    fetchone: Any = _announced("fetchone")
    fetchmany: Any = _announced("fetchmany")
    fetchall: Any = _announced("fetchall")
    scroll: Any = _announced("scroll")
    close: Any = _announced("close")
