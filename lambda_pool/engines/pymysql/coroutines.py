"""PyMySQL's connection and cursors for `async def`: the same methods, those that talk to the server as coroutines.

The driver's own code runs in a greenlet, and its sockets wait on the event loop. Tasks that share a connection take
turns.
"""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from operator import attrgetter
from types import TracebackType
from typing import Any, TypeVar

from pymysql.constants import CLIENT

from ...aio.waits import Unbroken, spawn
from .connection import BoundedConnection
from .statements import look

T = TypeVar("T")


def _awaited(name: str, doc: str, *, ends: bool = False) -> Any:
    """The driver's method of that name, as a coroutine. `ends`: it may end a transaction."""

    async def method(self: Any, *args: Any, **named: Any) -> Any:
        return await self._do(getattr(self._driver, name), *args, ends=ends, **named)

    method.__name__, method.__doc__ = name, doc
    return method


def _known(name: str, doc: str) -> Any:
    """The driver's method of that name, which does not ask the server."""

    def method(self: Any, *args: Any, **named: Any) -> Any:
        return getattr(self._driver, name)(*args, **named)

    method.__name__, method.__doc__ = name, doc
    return method


def _attribute(name: str, doc: str) -> Any:
    """The driver's attribute of that name."""
    return property(attrgetter(f"_driver.{name}"), doc=doc)


class AsyncConnection:
    """A `pymysql.connections.Connection` whose methods are awaited. `driver_connection` is the driver's own.

    `async with conn:` commits or rolls back, and does not close.
    """

    def __init__(self, conn: BoundedConnection) -> None:
        self.driver_connection = self._driver = conn
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<AsyncConnection of {self.driver_connection!r}>"

    async def _do(self, call: Callable[..., T], *arguments: Any, ends: bool = False, **named: Any) -> T:
        """`ends`: it may commit, so its answer is waited for even if the task is cancelled."""
        async with self._turn:
            with Unbroken(self.driver_connection.patience) if ends else nullcontext():
                return await spawn(call, *arguments, **named)

    async def _say(self, sql: str | bytes, call: Callable[..., T], *arguments: Any) -> T:
        """The same for a statement."""
        seen = look(sql, several=bool(self.driver_connection.client_flag & CLIENT.MULTI_STATEMENTS))
        return await self._do(call, *arguments, ends=seen.begins_anew or seen.commits)

    # --- what talks to the server -------------------------------------------------------------------------------------

    async def query(self, sql: str | bytes, unbuffered: bool = False) -> int:
        """Run one statement. Out: the number of rows."""
        return await self._say(sql, self.driver_connection.query, sql, unbuffered)

    begin: Any = _awaited("begin", "BEGIN; refused inside `AsyncPool.run`.", ends=True)
    commit: Any = _awaited(
        "commit",
        "COMMIT; refused inside `AsyncPool.run`. A cancellation of the task waits for the answer.",
        ends=True,
    )
    rollback: Any = _awaited("rollback", "ROLLBACK.")
    autocommit: Any = _awaited("autocommit", "SET autocommit.", ends=True)
    ping: Any = _awaited("ping", "COM_PING.")
    select_db: Any = _awaited("select_db", "USE.")
    set_character_set: Any = _awaited("set_character_set", "SET NAMES.")
    show_warnings: Any = _awaited("show_warnings", "SHOW WARNINGS.")
    next_result: Any = _awaited("next_result", "Read the next result of a statement that has several.")
    kill: Any = _awaited("kill", "End another session.")
    close: Any = _awaited("close", "Tell the server, and close.")

    # --- what does not ------------------------------------------------------------------------------------------------

    def cursor(self, cursor: Any = None) -> "AsyncCursor":
        """A new cursor of the given class of PyMySQL's, or of the connection's."""
        return AsyncCursor(self, self.driver_connection.cursor(cursor))

    open: Any = _attribute("open", "True if it is connected.")
    get_autocommit: Any = _known("get_autocommit", "Whether the server said that autocommit is on.")
    affected_rows: Any = _known("affected_rows", "Rows of the last statement.")
    insert_id: Any = _known("insert_id", "The last statement's generated number.")
    thread_id: Any = _known("thread_id", "The server's number for this session.")
    get_server_info: Any = _known("get_server_info", "The server's version.")
    get_host_info: Any = _known("get_host_info", "Where the server is.")
    get_proto_info: Any = _known("get_proto_info", "The protocol's version.")
    character_set_name: Any = _known("character_set_name", "The encoding of statements and rows.")
    escape: Any = _known("escape", "A value as SQL.")
    literal: Any = _known("literal", "A value as SQL.")

    async def __aenter__(self) -> "AsyncConnection":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit on success, roll back on error; the connection stays open for its pool."""
        await self._do(self.driver_connection.__exit__, kind, error, trace, ends=True)


class AsyncCursor:
    """A cursor of PyMySQL's whose methods are awaited. `async for row in cursor` reads rows."""

    def __init__(self, conn: AsyncConnection, cursor: Any) -> None:
        self.connection = conn
        self.driver_cursor = self._driver = cursor
        self._do = conn._do

    async def execute(self, query: str | bytes, args: Any = None) -> int:
        """Run one statement. Out: the number of rows."""
        return int(await self.connection._say(query, self.driver_cursor.execute, query, args))

    executemany: Any = _awaited(
        "executemany", "Run one statement with several sets of parameters. Out: the number of rows."
    )
    callproc: Any = _awaited("callproc", "Call a stored procedure.")
    fetchone: Any = _awaited("fetchone", "The next row; None after the last one.")
    fetchmany: Any = _awaited("fetchmany", "The next rows.")
    fetchall: Any = _awaited("fetchall", "All rows that are left.")
    scroll: Any = _awaited("scroll", "Move to another row.")
    nextset: Any = _awaited("nextset", "Go on to the next result.")
    close: Any = _awaited("close", "Read what is left, and close.")
    mogrify: Any = _known("mogrify", "The statement as it would be sent.")
    setinputsizes: Any = _known("setinputsizes", "Does nothing, like the driver's.")
    setoutputsizes: Any = _known("setoutputsizes", "Does nothing, like the driver's.")
    description: Any = _attribute("description", "The columns of the result; None without one.")
    warning_count: Any = _attribute("warning_count", "Warnings of the last statement.")
    rowcount: Any = _attribute("rowcount", "Rows of the last statement.")
    rownumber: Any = _attribute("rownumber", "The current row.")
    lastrowid: Any = _attribute("lastrowid", "The last statement's generated number.")

    @property
    def arraysize(self) -> int:
        """How many rows `fetchmany` reads."""
        return int(self.driver_cursor.arraysize)

    @arraysize.setter
    def arraysize(self, value: int) -> None:
        self.driver_cursor.arraysize = value

    def fetchall_unbuffered(self) -> "AsyncCursor":
        """The rows of a streamed result, for `async for`."""
        return self

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
