"""One PyMySQL connection as the pool drives it."""

import select
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from ...errors import LambdaPoolError
from ..base import Condition, Link, Outcome, rest, uncertain
from ..bounded_socket import shut_down
from .errors import is_read_only

if TYPE_CHECKING:
    from .connection import BoundedConnection

_CLEAN, _UNCOMMITTED, _CHANGED = Condition.CLEAN, Condition.UNCOMMITTED, Condition.CHANGED
# Server status: https://dev.mysql.com/doc/dev/mysql-server/latest/mysql__com_8h.html
_IN_TRANSACTION, _AUTOCOMMIT = 1, 2


class MysqlLink:
    """One PyMySQL connection."""

    def __init__(self, conn: "BoundedConnection", *, autocommit: bool, pooled: bool) -> None:
        self.conn = conn
        self._autocommit = autocommit
        self._pooled = pooled
        self._cursorclass = conn.cursorclass
        self._database = conn.db
        self._charset = conn.charset, conn.collation
        self._codecs = dict(conn.encoders), dict(conn.decoders)
        poller = select.poll()
        poller.register(conn._sock, select.POLLIN)
        self._poll = poller.poll
        self.backend_id: int = conn.thread_id()  # type: ignore[no-untyped-call]

    # --- the warm path ------------------------------------------------------------------------------------------------

    def quiet(self) -> bool:
        """The free check, and PyMySQL's own word: a closed descriptor's number may be somebody else's now."""
        poll = self._poll  # a variable first: CPython has no shortcut to a call of an attribute's value
        return not poll(0) and self.conn._sock is not None

    def at_rest(self) -> bool:
        """By the flags of the last answer."""
        conn = self.conn
        return not conn.server_status & _IN_TRANSACTION and not conn.unanswered

    def condition(self) -> Condition:
        """By the flags of the last answer, and by what the connection noted of its statements."""
        conn = self.conn
        status = conn.server_status
        result = conn._result
        if (
            conn._sock is None
            or conn.unanswered
            or (result is not None and (result.unbuffered_active or result.has_next))  # `unfinished`, without the call
            or conn.in_doubt
            or conn.session_changed
            or conn.guarded
            or conn.doomed
            or conn.failed_with
            or bool(status & _AUTOCOMMIT) is not self._autocommit
            or conn.cursorclass is not self._cursorclass
        ):
            return _CHANGED
        return _UNCOMMITTED if status & _IN_TRANSACTION else _CLEAN

    def commit(self, timeout: float | None) -> bool:
        """COMMIT. False if more came than its answer."""
        self._commit(timeout)
        conn = self.conn
        # With completion_type=CHAIN the answer to COMMIT is the next transaction's beginning.
        return not (conn.server_status & _IN_TRANSACTION or conn.overheard)

    # --- everything else ----------------------------------------------------------------------------------------------

    def ping(self, timeout: float) -> None:
        """COM_PING; but a server that has something to say already is heard out instead.

        Else that would be taken for the answer, and ours for the next borrower's.
        """
        conn = self.conn
        if not self.quiet() or conn.overheard:
            conn.hear_out(timeout)
        conn.ping_within(timeout)
        self._check_idle()

    def _check_idle(self) -> None:
        if not self.quiet() or self.conn.overheard or self.condition() is not _CLEAN:
            raise TimeoutError("the connection is not idle after a ping or a reset")

    def closed_by_user(self) -> bool:
        """PyMySQL tells a close from a loss."""
        return bool(self.conn._closed)

    def closed_in_transaction(self) -> bool:
        """Nobody knows: what the driver knew is gone with its connection."""
        return self.closed_by_user()

    def read_only(self) -> bool:
        """MySQL has an error of its own for that (1792), so nothing has to be told apart."""
        return False

    def refused_write(self) -> bool:
        """By what the connection noted of its last failed statement."""
        return is_read_only(self.conn.failed_with)

    def begin(self, *, readonly: bool, guarded: bool, timeout: float) -> None:
        """An explicit transaction: MySQL's implicit ones cannot be read-only, nor seen to end."""
        with self.conn.bounded(timeout):
            if readonly:
                self.conn.query("START TRANSACTION READ ONLY")
            elif guarded or self._autocommit:
                self.conn.begin()
        self.conn.guarded = guarded
        self.conn.ended, self.conn.undone = False, ()

    def replayable(self) -> bool:
        """False once the server was seen outside the transaction, or was sent what may end it."""
        return not self.conn.ended

    def finish(self, *, commit: bool, timeout: float | None) -> Outcome:
        """COMMIT or ROLLBACK, where a transaction is, or may be, open."""
        conn = self.conn
        deadline = None if timeout is None else monotonic() + timeout
        conn.guarded = False
        doomed = conn.doomed or bool(conn.undone)
        conn.doomed, conn.undone = False, ()
        if conn.unanswered:
            conn.abandon()
        if not conn.open:
            return Outcome.FAILED
        if conn.unfinished:
            if not commit:
                # Reading what may be a million rows, only to roll back, is dearer than a new connection.
                raise LambdaPoolError("a streamed result was left unread")
            with conn.bounded(timeout, most=float("inf")):
                self._drain()
            timeout = rest(deadline)
        commit = commit and not doomed
        if not conn.in_transaction:
            return Outcome.NONE
        if not commit:
            with conn.bounded(timeout):
                conn.rollback()
            return Outcome.FAILED if doomed else Outcome.ROLLED_BACK
        self._commit(timeout)
        return Outcome.COMMITTED

    def _drain(self) -> None:
        result = self.conn._result
        if result.unbuffered_active:
            result._finish_unbuffered_query()
        while self.conn._result.has_next:
            self.conn.next_result()

    def _commit(self, timeout: float | None) -> None:
        conn = self.conn
        if not self.quiet():
            # MySQL says nothing unasked but good-bye: COMMIT is then never sent, and nothing is uncertain.
            self.drop()
            raise conn.lost_before_commit()
        try:
            conn.commit_within(timeout)
        except Exception as error:
            from pymysql import MySQLError

            from .errors import is_answer

            # The server's own "no", on a connection that lives, is an answer. Anything else is none.
            if conn.open and isinstance(error, MySQLError) and is_answer(error.args[0] if error.args else None):
                raise
            raise uncertain(error) from error

    def restore(self, timeout: float | None) -> bool:
        """Put back what a borrower changed; only what the server keeps costs a round trip."""
        conn = self.conn
        conn.failed_with = ()
        if conn.overheard:
            return False
        if self.condition() is _CLEAN:
            return True
        if not conn.open or conn.unanswered or conn.in_transaction or conn.unfinished:
            return False
        if conn.session_changed and self._pooled:
            # The borrower's SET pinned it; putting it back would not unpin it, a new connection is not pinned.
            return False
        if conn.role_changed or (conn.moved and not self._database):
            # There is no way back to the role of a login, nor to no database.
            return False
        conn.cursorclass = self._cursorclass
        with conn.bounded(timeout):
            if conn.session_changed:
                if conn.tables_locked:
                    conn.query("UNLOCK TABLES")
                if conn.moved:
                    conn.select_db(self._database)
                conn.rollback()  # ends what SET TRANSACTION said of the next one
                conn.query(_isolation_defaults(conn.server_version))
                if conn.init_command:
                    conn.query(conn.init_command)
                conn.session_changed = conn.tables_locked = conn.moved = False
            if conn.get_autocommit() is not self._autocommit:
                conn.autocommit(self._autocommit)
        return self.condition() is _CLEAN

    def reset_session(self, timeout: float | None) -> None:
        """COM_RESET_CONNECTION."""
        conn = self.conn
        with conn.bounded(timeout):
            conn.reset(*self._charset)
            conn.autocommit(self._autocommit)
        conn.encoders, conn.decoders = dict(self._codecs[0]), dict(self._codecs[1])
        self._check_idle()

    def watch(self) -> None:
        """The connection looks for it after each statement anyway."""

    def running(self) -> bool:
        """What the connection itself noted: of statements, and of what its methods send, such as begin(). Not ours.

        A streamed result counts until it is read: whether somebody waits for its next row, nobody can see from here.
        """
        conn = self.conn
        result = conn._result
        busy = conn.unanswered or (result is not None and bool(result.unbuffered_active))
        return busy and not conn.committing and not conn.is_bounded

    def cancel(self, timeout: float, aside: Callable[[], Link]) -> bool:
        """KILL QUERY, which needs a second login. Not through a pooler, where the number may be somebody else's."""
        if self._pooled:
            return False
        conn = self.conn
        conn.cancelled = True
        try:
            helper = aside()
            try:
                if _peer(helper.conn) != _peer(conn):
                    # The name leads to another server by now, where the number is somebody else's.
                    return False
                with helper.conn.bounded(timeout):
                    # Without parameters PyMySQL sends it as it is; the number is the server's own.
                    helper.conn.query(f"KILL QUERY {self.backend_id:d}")
            finally:
                helper.close(timeout)
        except Exception:  # noqa: BLE001 - whatever went wrong, the caller's answer is to sever
            return False
        return True

    def close(self, timeout: float) -> None:
        """COM_QUIT."""
        conn = self.conn
        self._abandon_result()
        if not conn.open:
            return
        try:
            with conn.bounded(timeout):
                conn.close()
        except Exception:  # noqa: BLE001 - a connection that cannot say good-bye is dropped
            self.drop()

    def drop(self) -> None:
        """Close the descriptor alone."""
        self._abandon_result()
        self.conn.abandon()

    def _abandon_result(self) -> None:
        """A streamed result's destructor would go on to read from the closed connection."""
        result = self.conn._result
        if result is not None:
            result.unbuffered_active = False

    def cut(self) -> None:
        """As `sever`, noted for the statement that runs."""
        self.conn.cancelled = True
        self.sever()

    def sever(self) -> None:
        """shutdown() on the socket; PyMySQL notices at its next read."""
        with suppress(Exception):  # already closed: nothing is left to sever
            shut_down(self.conn._sock.fileno())


def _isolation_defaults(version: str) -> str:
    """Isolation level and read-only flag back to the server's defaults, by the names this server knows."""
    prefix = "tx" if "MariaDB" in version else "transaction"
    return f"SET SESSION {prefix}_isolation = DEFAULT, SESSION {prefix}_read_only = DEFAULT"


def _peer(conn: "BoundedConnection") -> object:
    """The address at the other end."""
    return conn._sock.getpeername()
