"""Cursors of psycopg that tell their connection what was sent, what came of it, and how long it took."""

from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import psycopg
from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import ConnStatus, TransactionStatus

from ..slow import tell_if_slow
from .notes import Announced
from .statements import asks_to_commit, commits, saves_nothing, statement

if TYPE_CHECKING:
    from .connection import PooledConnection

_IDLE, _IN_ERROR = TransactionStatus.IDLE, TransactionStatus.INERROR

NOTHING_SAVED = (
    "COMMIT came after a statement of this transaction had failed, so the server rolled it back: none of it is saved. "
    "Let that statement's error leave the block, roll back yourself, or put what may fail into `with "
    "conn.transaction():`"
)

_made: WeakValueDictionary[tuple[type, ...], type] = WeakValueDictionary()


def tracked(base: Any) -> Any:
    """The same cursor class, with Tracked before it. See `in_front`."""
    return in_front(base, Tracked, TrackedServer)


def in_front(base: Any, plain: type, server: type) -> Any:
    """The same cursor class, with `plain` before it, or with `server` if it is a server-side one.

    A factory that is not a class is returned unchanged: nobody knows what its cursors send.
    """
    if not isinstance(base, type) or issubclass(base, plain):
        return base
    mixin = server if issubclass(base, psycopg.ServerCursor | psycopg.AsyncServerCursor) else plain
    return joined(base, (mixin, base))


def joined(base: type, bases: tuple[type, ...]) -> type:
    """A class of these bases that looks like `base`, made once."""
    made = _made.get(bases)
    if made is None:
        names = {"__slots__": (), "__module__": base.__module__, "__qualname__": base.__qualname__}
        made = _made[bases] = type(base.__name__, bases, names)
    return made


def is_a_cursors(gen: Any) -> bool:
    """Whether one of the driver's generators is a cursor's, and not a pipeline's.

    psycopg does not say whose wait it is. Where this cannot tell, it is taken for the pipeline's own, and not noted.
    """
    frame = getattr(gen, "gi_frame", None)
    return frame is not None and isinstance(frame.f_locals.get("self"), psycopg.Cursor | psycopg.AsyncCursor)


class Sent(Announced):
    """A block that waits for the answer to one statement, or for a part of it. Its connection learns if that is lost.

    Raises CommitUncertain if the statement commits and its answer was lost.
    """

    __slots__ = ("_alive", "_failed", "query")

    def __init__(self, conn: Any, query: Any) -> None:
        super().__init__(conn)
        self.query: Any = query
        self._failed = conn.pgconn.transaction_status == _IN_ERROR
        self._alive = conn.pgconn.status == ConnStatus.OK

    def __exit__(self, kind: object = None, error: BaseException | None = None, trace: object = None) -> None:
        try:
            if error is not None:
                self.conn.note(self.query, None)
                if self._alive and not self._failed:
                    self.conn.tell_of_statement(self.query, error)
        finally:
            super().__exit__()  # last: see `PostgresConnection.status`


class Said(Sent):
    """A block in which a cursor says one statement. Its connection learns what that was, and what came of it.

    Also raises InFailedSqlTransaction if the statement was a COMMIT that saved nothing.
    """

    __slots__ = ("_cursor", "_start", "_waits")

    def __init__(self, cursor: Any, query: Any) -> None:
        super().__init__(cursor.connection, query)
        self._cursor = cursor

    def __enter__(self) -> None:
        conn = self.conn
        self._waits, self._start = conn.pooled.waits, monotonic()
        if conn.pgconn.transaction_status == _IDLE:
            conn.pooled.ended = True  # the transaction that `Pool.run` had begun, if it did
        super().__enter__()

    def __exit__(self, kind: object = None, error: BaseException | None = None, trace: object = None) -> None:
        noted, query = self.conn.pooled, self.query
        try:
            super().__exit__(kind, error, trace)
            if error is None:
                self._note_answer()
        finally:
            if noted.on_slow is not None:  # last: an observer may be broken off, and the note must not be missing
                tell_if_slow(self._start, noted.slow_query, noted.on_slow, lambda: statement(query))

    def _note_answer(self) -> None:
        conn, cursor, query = self.conn, self._cursor, self.query
        if conn.pooled.waits == self._waits:
            if type(cursor).__module__ != "psycopg":
                return  # a borrower's own class may send nothing, like one that answers from a cache
            conn.not_called("wait")
        if cursor.pgresult is None or conn.pgconn.pipeline_status:  # its answer is yet to come, or was not kept
            conn.note(query, None)
            if conn.pgconn.pipeline_status:
                alone = conn.pooled.alone(conn.autocommit)
                if commits(query) or (alone and not saves_nothing(query)):
                    conn.pooled.saving = conn.me()
                if asks_to_commit(query):  # whether the transaction has failed is often not known yet
                    conn.pooled.doubtful.add(cursor)
                else:
                    conn.pooled.doubtful.discard(cursor)
        elif conn.pooled.noting or self._failed:
            tags = [cursor.pgresult.command_status or b""]
            while cursor.nextset():
                tags.append(cursor.pgresult.command_status or b"")
            conn.note(query, tags)
            if len(tags) > 1:
                at_once(cursor.set_result(0))
            if self._failed and tags[0] == b"ROLLBACK" and asks_to_commit(query):
                raise InFailedSqlTransaction(NOTHING_SAVED)


def at_once(answer: Any) -> None:
    """Run a coroutine that waits for nothing, also where no event loop runs. Anything else is an answer already."""
    if isinstance(answer, Coroutine):
        with suppress(StopIteration):
            answer.send(None)
        answer.close()


class Tracked:
    """A mixin in front of a cursor class: it announces its waits to the connection, and notes there what it did."""

    __slots__ = ()

    connection: "PooledConnection"

    def execute(self, query: Any, *args: Any, **named: Any) -> Any:
        """Like the driver's. Also raises InFailedSqlTransaction if a COMMIT saved nothing."""
        with Said(self, query):
            return super().execute(query, *args, **named)  # type: ignore[misc]

    def executemany(self, query: Any, *args: Any, **named: Any) -> Any:
        with Said(self, query):
            return super().executemany(query, *args, **named)  # type: ignore[misc]

    def stream(self, query: Any, *args: Any, **named: Any) -> Iterator[Any]:
        """Like the driver's. It has the connection to itself until it ends."""
        conn = self.connection
        conn.note(query, None)
        sent = Sent(conn, query)
        rows = super().stream(query, *args, **named)  # type: ignore[misc]
        try:
            while True:
                with sent:  # not across a yield: another thread may read the next row
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
        noted = self.connection.pooled
        self.connection.note(query, None)
        with Sent(self.connection, query):
            try:
                with super().copy(query, *args, **named) as copy:  # type: ignore[misc]
                    noted.copying = self
                    yield copy
            finally:
                if noted.copying is self:
                    noted.copying = None


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
        self.connection.pooled.note_stream(self)
        if self.withhold:  # type: ignore[attr-defined]
            self.connection.pooled.changed = True
        return super().execute(query, *args, **named)

    __next__: Any = _announced("__next__")
    fetchone: Any = _announced("fetchone")
    fetchmany: Any = _announced("fetchmany")
    fetchall: Any = _announced("fetchall")
    scroll: Any = _announced("scroll")
    close: Any = _announced("close")
