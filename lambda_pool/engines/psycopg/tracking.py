"""What cursors for threads and for asyncio have in common: they tell their connection what was sent."""

from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import psycopg
from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import ConnStatus, TransactionStatus

from .statements import asks_to_commit, commits, saves_nothing

if TYPE_CHECKING:
    from .shared import Shared

_IDLE, _IN_ERROR = TransactionStatus.IDLE, TransactionStatus.INERROR

NOTHING_SAVED = (
    "COMMIT came after a statement of this transaction had failed, so the server rolled it back: none of it is saved. "
    "Let that statement's error leave the block, roll back yourself, or put what may fail into `with "
    "conn.transaction():`"
)

_made: WeakValueDictionary[type, type] = WeakValueDictionary()


def in_front(base: Any, plain: type, server: type) -> Any:
    """The same cursor class, with `plain` before it, or with `server` if it is a server-side one.

    A factory that is not a class is returned unchanged: nobody knows what its cursors send.
    """
    if not isinstance(base, type) or issubclass(base, plain):
        return base
    made = _made.get(base)
    if made is None:
        mixin = server if issubclass(base, psycopg.ServerCursor | psycopg.AsyncServerCursor) else plain
        names = {"__slots__": (), "__module__": base.__module__, "__qualname__": base.__qualname__}
        made = _made[base] = type(base.__name__, (mixin, base), names)
    return made


class Said:
    """One statement: what was known before it was sent, and what its answer tells."""

    __slots__ = ("_alive", "_failed", "_tags", "_waits", "conn", "query")

    def __init__(self, conn: "Shared", query: Any) -> None:
        status = conn.pgconn.transaction_status
        self.conn: Shared = conn
        self.query: Any = query
        self._waits = conn.pooled.waits
        self._failed, self._alive = status == _IN_ERROR, conn.pgconn.status == ConnStatus.OK
        self._tags: list[bytes] = []
        if status == _IDLE:
            conn.pooled.ended = True  # the transaction that `Pool.run` had begun, if it did

    def raised(self, error: BaseException) -> None:
        """Note that it failed. Raises CommitUncertain if it commits, and its answer was lost."""
        self.conn.note(self.query, None)
        if self._alive and not self._failed:
            self.conn.tell_of_statement(self.query, error)

    def answered(self, cursor: Any) -> bool:
        """Note that it was answered. True if the cursor must be set to its first result again."""
        conn, result, tags = self.conn, cursor.pgresult, self._tags
        if conn.pooled.waits == self._waits:
            conn.not_called("wait")
        if result is None or conn.pgconn.pipeline_status:  # its answer is yet to come, or was not kept
            conn.note(self.query, None)
            if conn.pgconn.pipeline_status:
                alone = conn.pooled.alone(conn.autocommit)
                if commits(self.query) or (alone and not saves_nothing(self.query)):
                    conn.pooled.saving = conn.me()
        elif conn.pooled.noting or self._failed:
            tags.append(result.command_status or b"")
            while cursor.nextset():
                tags.append(cursor.pgresult.command_status or b"")
            conn.note(self.query, tags)
        return len(tags) > 1

    def check(self) -> None:
        """Raise InFailedSqlTransaction if it was a COMMIT that saved nothing."""
        if self._failed and self._tags[:1] == [b"ROLLBACK"] and asks_to_commit(self.query):
            raise InFailedSqlTransaction(NOTHING_SAVED)
