"""Cursors of psycopg that tell their connection what was said, and how long it took."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import psycopg
from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import ConnStatus

from ...errors import DeadlineExceeded
from ..slow import timed
from .statements import asks_to_commit, commits, statement

if TYPE_CHECKING:
    from .connection import PooledConnection

_IDLE, _IN_ERROR = psycopg.pq.TransactionStatus.IDLE, psycopg.pq.TransactionStatus.INERROR

_made: WeakValueDictionary[type, type] = WeakValueDictionary()


def tracked(base: Any) -> Any:
    """The same cursor class, with Tracked before it; what the cursors of a factory that is no class say is unknown."""
    if not isinstance(base, type) or issubclass(base, Tracked):
        return base
    made = _made.get(base)
    if made is None:
        mixin = TrackedServer if issubclass(base, psycopg.ServerCursor) else Tracked
        names = {"__slots__": (), "__module__": base.__module__, "__qualname__": base.__qualname__}
        made = _made[base] = type(base.__name__, (mixin, base), names)
    return made


class Tracked:
    """In front of a cursor class: each of its waits is announced to the connection, and what it did is noted there."""

    __slots__ = ()

    connection: "PooledConnection"
    pgresult: Any

    def execute(self, query: Any, *args: Any, **named: Any) -> Any:
        """As the driver's. Raises InFailedSqlTransaction too where a COMMIT saved nothing."""
        return self._say(super().execute, query, args, named)  # type: ignore[misc]

    def executemany(self, query: Any, *args: Any, **named: Any) -> Any:
        """As the driver's."""
        return self._say(super().executemany, query, args, named)  # type: ignore[misc]

    def stream(self, query: Any, *args: Any, **named: Any) -> Iterator[Any]:
        """As the driver's. It has the connection to itself until it ends."""
        conn = self.connection
        conn.note(query, None)
        with conn.announced():
            yield from super().stream(query, *args, **named)  # type: ignore[misc]

    @contextmanager
    def copy(self, query: Any, *args: Any, **named: Any) -> Iterator[Any]:
        """As the driver's. It has the connection to itself until it ends."""
        conn = self.connection
        conn.note(query, None)
        with conn.announced(), super().copy(query, *args, **named) as copy:  # type: ignore[misc]
            yield copy

    def _say(self, say: Any, query: Any, args: Any, named: Any) -> Any:
        conn = self.connection
        status = conn.pgconn.transaction_status
        failed, alive = status == _IN_ERROR, conn.pgconn.status == ConnStatus.OK
        if status == _IDLE:
            conn.pooled.ended = True  # what `Pool.run` had begun, if it did
        waits = conn.pooled.waits
        known, conn.pooled.known = conn.pooled.known, True
        try:
            if conn.pooled.on_slow is None:
                answer = say(query, *args, **named)
            else:
                with timed(conn.pooled.slow_query, conn.pooled.on_slow, lambda: statement(query)):
                    answer = say(query, *args, **named)
        except BaseException as error:
            conn.note(query, None)
            if alive and not failed and isinstance(error, psycopg.Error | DeadlineExceeded):
                conn.tell_of_statement(query, error)
            raise
        finally:
            conn.pooled.known = known
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
                self.set_result(0)  # type: ignore[attr-defined]
            conn.note(query, tags)
            if failed and tags[0] == b"ROLLBACK" and asks_to_commit(query):
                raise InFailedSqlTransaction(NOTHING_SAVED)
        return answer


def _announced(name: str) -> Any:
    """A method of the driver's that asks the server for what is known already."""

    def method(self: Any, *args: Any, **named: Any) -> Any:
        with self.connection.announced():
            return getattr(super(TrackedServer, self), name)(*args, **named)

    method.__name__ = name
    return method


class TrackedServer(Tracked):
    """The same for a server-side cursor, which asks the server again for its rows."""

    __slots__ = ()

    def execute(self, query: Any, *args: Any, **named: Any) -> Any:
        """As the driver's."""
        if self.withhold:  # type: ignore[attr-defined]
            self.connection.pooled.changed = True
        return super().execute(query, *args, **named)

    __next__: Any = _announced("__next__")
    fetchone: Any = _announced("fetchone")
    fetchmany: Any = _announced("fetchmany")
    fetchall: Any = _announced("fetchall")
    scroll: Any = _announced("scroll")
    close: Any = _announced("close")


NOTHING_SAVED = (
    "COMMIT came after a statement of this transaction had failed, so the server rolled it back: nothing of it is "
    "saved. Let that statement's error out, roll back yourself, or put what may fail into `with conn.transaction():`"
)
