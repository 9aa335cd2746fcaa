"""What `cursors` does, for the cursors of psycopg's asyncio half."""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ...aio.waits import Unbroken
from .cursors import Said, Sent, in_front
from .statements import may_commit

if TYPE_CHECKING:
    from .async_connection import AsyncPooledConnection


def tracked(base: Any) -> Any:
    """The same cursor class, with AsyncTracked before it. See `in_front`."""
    return in_front(base, AsyncTracked, AsyncTrackedServer)


class AsyncTracked:
    """A mixin in front of a cursor class. See `cursors.Tracked`."""

    __slots__ = ()

    connection: "AsyncPooledConnection"

    async def execute(self, query: Any, *args: Any, **named: Any) -> Any:
        """Like the driver's. Also raises InFailedSqlTransaction if a COMMIT saved nothing."""
        with Said(self, query), self._heard(query):
            return await super().execute(query, *args, **named)  # type: ignore[misc]

    async def executemany(self, query: Any, *args: Any, **named: Any) -> Any:
        with Said(self, query), self._heard(query):
            return await super().executemany(query, *args, **named)  # type: ignore[misc]

    async def stream(self, query: Any, *args: Any, **named: Any) -> AsyncIterator[Any]:
        """Like the driver's. It has the connection to itself until it ends."""
        conn = self.connection
        conn.note(query, None)
        sent = Sent(conn, query)
        rows = super().stream(query, *args, **named)  # type: ignore[misc]
        try:
            while True:
                with sent:  # not across a yield, where another task may go on
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
        noted = self.connection.pooled
        self.connection.note(query, None)
        with Sent(self.connection, query):
            try:
                async with super().copy(query, *args, **named) as copy:  # type: ignore[misc]
                    noted.copying = self
                    yield copy
            finally:
                if noted.copying is self:
                    noted.copying = None

    def _heard(self, query: Any) -> AbstractContextManager[None]:
        """A block in which a cancelled task waits for the answer, if that may be the one to a COMMIT."""
        return Unbroken(self.connection.pooled.patience) if may_commit(query) else nullcontext()


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
        self.connection.pooled.note_stream(self)
        if self.withhold:  # type: ignore[attr-defined]
            self.connection.pooled.changed = True
        return await super().execute(query, *args, **named)

    __anext__: Any = _announced("__anext__")
    fetchone: Any = _announced("fetchone")
    fetchmany: Any = _announced("fetchmany")
    fetchall: Any = _announced("fetchall")
    scroll: Any = _announced("scroll")
    close: Any = _announced("close")
