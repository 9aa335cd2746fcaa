"""PyMySQL's connection and cursors for `async def`: the same methods, those that talk to the server as coroutines.

The driver's own code runs, in a greenlet over the sockets of `awaited`. Tasks that share a connection take turns.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from pymysql.constants import CLIENT

from ...aio.waits import Unbroken, spawn
from .connection import BoundedConnection
from .statements import look

T = TypeVar("T")


class AsyncConnection:
    """A `pymysql.connections.Connection` whose methods are awaited. `driver_connection` is the driver's own.

    `async with conn:` commits or rolls back, and does not close.
    """

    def __init__(self, conn: BoundedConnection, patience: float) -> None:
        """`patience`: seconds that the answer to COMMIT is waited for after its task was cancelled."""
        self.driver_connection = conn
        self._patience = patience
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<AsyncConnection of {self.driver_connection!r}>"

    async def _do(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        async with self._turn:
            return await spawn(call, *arguments, **named)

    async def _end(self, call: Callable[..., T], *arguments: Any) -> T:
        """The same for what may commit, whose answer is heard whoever cancels the task."""
        async with self._turn:
            with Unbroken(self._patience):
                return await spawn(call, *arguments)

    async def _say(self, sql: str | bytes, call: Callable[..., T], *arguments: Any) -> T:
        """The same for a statement."""
        seen = look(sql, several=bool(self.driver_connection.client_flag & CLIENT.MULTI_STATEMENTS))
        return await (self._end if seen.begins_anew or seen.commits else self._do)(call, *arguments)

    # --- what talks to the server -------------------------------------------------------------------------------------

    async def query(self, sql: str | bytes, unbuffered: bool = False) -> int:
        """Run one statement. Out: the number of rows."""
        return await self._say(sql, self.driver_connection.query, sql, unbuffered)

    async def begin(self) -> None:
        """BEGIN; refused inside `AsyncPool.run`."""
        await self._end(self.driver_connection.begin)

    async def commit(self) -> None:
        """COMMIT; refused inside `AsyncPool.run`. A cancellation of the task waits for the answer."""
        await self._end(self.driver_connection.commit)

    async def rollback(self) -> None:
        """ROLLBACK."""
        await self._do(self.driver_connection.rollback)

    async def autocommit(self, value: bool) -> None:
        """SET autocommit."""
        await self._end(self.driver_connection.autocommit, value)

    async def ping(self) -> None:
        """COM_PING."""
        await self._do(self.driver_connection.ping)

    async def select_db(self, db: str) -> None:
        """USE."""
        await self._do(self.driver_connection.select_db, db)

    async def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """SET NAMES."""
        await self._do(self.driver_connection.set_character_set, charset, collation)

    async def show_warnings(self) -> Any:
        """SHOW WARNINGS."""
        return await self._do(self.driver_connection.show_warnings)

    async def next_result(self, unbuffered: bool = False) -> int:
        """Read the next result of a statement that has several."""
        return await self._do(self.driver_connection.next_result, unbuffered)

    async def kill(self, thread_id: int) -> None:
        """End another session."""
        await self._do(self.driver_connection.kill, thread_id)

    async def close(self) -> None:
        """Tell the server, and close."""
        await self._do(self.driver_connection.close)

    # --- what does not ------------------------------------------------------------------------------------------------

    def cursor(self, cursor: Any = None) -> "AsyncCursor":
        """A new cursor of the given class of PyMySQL's, or of the connection's."""
        return AsyncCursor(self, self.driver_connection.cursor(cursor))

    @property
    def open(self) -> bool:
        """True if it is connected."""
        return self.driver_connection.open

    def get_autocommit(self) -> bool:
        """Whether the server said that autocommit is on."""
        return bool(self.driver_connection.get_autocommit())

    def affected_rows(self) -> int:
        """Rows of the last statement."""
        return int(self.driver_connection.affected_rows())  # type: ignore[no-untyped-call]

    def insert_id(self) -> int:
        """The last statement's generated number."""
        return int(self.driver_connection.insert_id())  # type: ignore[no-untyped-call]

    def thread_id(self) -> int:
        """The server's number for this session."""
        return int(self.driver_connection.thread_id())  # type: ignore[no-untyped-call]

    def get_server_info(self) -> str:
        """The server's version."""
        return str(self.driver_connection.get_server_info())  # type: ignore[no-untyped-call]

    def get_host_info(self) -> str:
        """Where the server is."""
        return str(self.driver_connection.get_host_info())

    def get_proto_info(self) -> int:
        """The protocol's version."""
        return int(self.driver_connection.get_proto_info())  # type: ignore[no-untyped-call]

    def character_set_name(self) -> str:
        """What statements and rows are encoded in."""
        return str(self.driver_connection.character_set_name())  # type: ignore[no-untyped-call]

    def escape(self, obj: Any, mapping: Any = None) -> str:
        """A value as SQL."""
        return str(self.driver_connection.escape(obj, mapping))

    def literal(self, obj: Any) -> str:
        """A value as SQL."""
        return str(self.driver_connection.literal(obj))

    async def __aenter__(self) -> "AsyncConnection":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit on success, roll back on error; the connection stays open for its pool."""
        await self._end(self.driver_connection.__exit__, kind, error, trace)


class AsyncCursor:
    """A cursor of PyMySQL's whose methods are awaited. `async for row in cursor` reads rows."""

    def __init__(self, conn: AsyncConnection, cursor: Any) -> None:
        self.connection = conn
        self.driver_cursor = cursor

    async def execute(self, query: str | bytes, args: Any = None) -> int:
        """Run one statement. Out: the number of rows."""
        return int(await self.connection._say(query, self.driver_cursor.execute, query, args))

    async def executemany(self, query: str | bytes, args: Iterable[Any]) -> int | None:
        """Run one statement with several sets of parameters. Out: the number of rows."""
        return await self.connection._do(self.driver_cursor.executemany, query, args)

    async def callproc(self, procname: str, args: Sequence[Any] = ()) -> Any:
        """Call a stored procedure."""
        return await self.connection._do(self.driver_cursor.callproc, procname, args)

    async def fetchone(self) -> Any:
        """The next row; None behind the last one."""
        return await self.connection._do(self.driver_cursor.fetchone)

    async def fetchmany(self, size: int | None = None) -> Any:
        """The next rows."""
        return await self.connection._do(self.driver_cursor.fetchmany, size)

    async def fetchall(self) -> Any:
        """All rows that are left."""
        return await self.connection._do(self.driver_cursor.fetchall)

    async def scroll(self, value: int, mode: str = "relative") -> None:
        """Move to another row."""
        await self.connection._do(self.driver_cursor.scroll, value, mode)

    async def nextset(self) -> bool | None:
        """Go on to the next result."""
        return await self.connection._do(self.driver_cursor.nextset)

    async def close(self) -> None:
        """Read what is left, and close."""
        await self.connection._do(self.driver_cursor.close)

    def mogrify(self, query: str | bytes, args: Any = None) -> str:
        """The statement as it would be sent."""
        return str(self.driver_cursor.mogrify(query, args))

    @property
    def description(self) -> Any:
        """The columns of the result; None without one."""
        return self.driver_cursor.description

    def setinputsizes(self, *args: Any) -> None:
        """Nothing, as the driver's."""

    def setoutputsizes(self, *args: Any) -> None:
        """Nothing, as the driver's."""

    def fetchall_unbuffered(self) -> "AsyncCursor":
        """The rows of a streamed result, for `async for`."""
        return self

    @property
    def warning_count(self) -> int:
        """Warnings of the last statement."""
        return int(self.driver_cursor.warning_count)

    @property
    def rowcount(self) -> int:
        """Rows of the last statement."""
        return int(self.driver_cursor.rowcount)

    @property
    def rownumber(self) -> int | None:
        """The current row."""
        return self.driver_cursor.rownumber  # type: ignore[no-any-return]

    @property
    def lastrowid(self) -> int | None:
        """The last statement's generated number."""
        return self.driver_cursor.lastrowid  # type: ignore[no-any-return]

    @property
    def arraysize(self) -> int:
        """How many rows `fetchmany` reads."""
        return int(self.driver_cursor.arraysize)

    @arraysize.setter
    def arraysize(self, value: int) -> None:
        self.driver_cursor.arraysize = value

    def __aiter__(self) -> "AsyncCursor":
        return self

    async def __anext__(self) -> Any:
        row = await self.fetchone()
        if row is None:
            raise StopAsyncIteration
        return row

    async def __aenter__(self) -> "AsyncCursor":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
