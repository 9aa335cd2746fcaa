"""Cursors of psycopg that tell their connection what was sent, and how long it took."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..slow import timed
from .statements import statement
from .tracking import Said, in_front

if TYPE_CHECKING:
    from .connection import PooledConnection


def tracked(base: Any) -> Any:
    """The same cursor class, with Tracked before it. See `in_front`."""
    return in_front(base, Tracked, TrackedServer)


class Tracked:
    """A mixin in front of a cursor class: it announces its waits to the connection, and notes there what it did."""

    __slots__ = ()

    connection: "PooledConnection"
    pgresult: Any

    def execute(self, query: Any, *args: Any, **named: Any) -> Any:
        """Like the driver's. Also raises InFailedSqlTransaction if a COMMIT saved nothing."""
        return self._say(super().execute, query, args, named)  # type: ignore[misc]

    def executemany(self, query: Any, *args: Any, **named: Any) -> Any:
        """Like the driver's."""
        return self._say(super().executemany, query, args, named)  # type: ignore[misc]

    def stream(self, query: Any, *args: Any, **named: Any) -> Iterator[Any]:
        """Like the driver's. It has the connection to itself until it ends."""
        conn = self.connection
        conn.note(query, None)
        rows = super().stream(query, *args, **named)  # type: ignore[misc]
        try:
            while True:
                with conn.announced():  # not across a yield: another thread may read the next row
                    try:
                        row = next(rows)
                    except StopIteration:
                        return
                yield row
        finally:
            with conn.announced():
                rows.close()

    @contextmanager
    def copy(self, query: Any, *args: Any, **named: Any) -> Iterator[Any]:
        """Like the driver's. It has the connection to itself until it ends."""
        conn = self.connection
        conn.note(query, None)
        try:
            with conn.announced(), super().copy(query, *args, **named) as copy:  # type: ignore[misc]
                yield copy
        except BaseException as error:
            conn.tell_of_statement(query, error)
            raise

    def _say(self, say: Any, query: Any, args: Any, named: Any) -> Any:
        noted = self.connection.pooled
        said = Said(self.connection, query)
        me, knowing = get_ident(), noted.knowing
        nested = me in knowing
        try:
            knowing.add(me)
            if noted.on_slow is None:
                answer = say(query, *args, **named)
            else:
                with timed(noted.slow_query, noted.on_slow, lambda: statement(query)):
                    answer = say(query, *args, **named)
        except BaseException as error:
            said.raised(error)
            raise
        finally:
            if not nested:
                knowing.discard(me)
        if said.answered(self):
            self.set_result(0)  # type: ignore[attr-defined]
        said.check()
        return answer


def _announced(name: str) -> Any:
    """A driver method that asks the server, for a statement that was noted already."""

    def method(self: Any, *args: Any, **named: Any) -> Any:
        with self.connection.announced():
            return getattr(super(TrackedServer, self), name)(*args, **named)

    method.__name__ = name
    return method


class TrackedServer(Tracked):
    """The same for a server-side cursor, which asks the server again for its rows."""

    __slots__ = ()

    def execute(self, query: Any, *args: Any, **named: Any) -> Any:
        """Like the driver's."""
        if self.withhold:  # type: ignore[attr-defined]
            self.connection.pooled.changed = True
        return super().execute(query, *args, **named)

    __next__: Any = _announced("__next__")
    fetchone: Any = _announced("fetchone")
    fetchmany: Any = _announced("fetchmany")
    fetchall: Any = _announced("fetchall")
    scroll: Any = _announced("scroll")
    close: Any = _announced("close")
