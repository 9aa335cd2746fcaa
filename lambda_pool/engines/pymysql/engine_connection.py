"""One PyMySQL connection as the pool drives it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from time import monotonic

import pymysql
from pymysql.constants import COMMAND, CR, SERVER_STATUS

from ... import invocation
from ...errors import CommitUncertain, LambdaPoolError
from ...waiting import FreeCheck, OverdueError
from ..base import (
    Condition,
    EngineConnection,
    Facts,
    Failure,
    Outcome,
    Status,
    at_work,
    rest,
    uncertain,
    warn_left_prepared,
)
from ..bounded_socket import shut_down
from . import private
from .connecting import INIT_CONNECT
from .connection import BoundedConnection
from .cursors import read_on
from .errors import is_read_only, is_refusal
from .killing import kill_query
from .noted import Noted
from .statements import look
from .wire import Bounds, Following, command, query

_CLEAN, _UNCOMMITTED, _CHANGED = Condition.CLEAN, Condition.UNCOMMITTED, Condition.CHANGED
_IN_TRANSACTION, _AUTOCOMMIT = SERVER_STATUS.SERVER_STATUS_IN_TRANS, SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT

# Not in pymysql.constants: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_reset_connection.html
_COM_RESET_CONNECTION = 0x1F
_PING = command(COMMAND.COM_PING)
# Only the transaction that `begin` began has this: it ends with that, and a later one has none.
_SAVEPOINT = "SAVEPOINT lambda_pool_run"
_IS_IT_THERE = "RELEASE SAVEPOINT lambda_pool_run"
_ASKING = 1.0  # seconds
# A session cannot go back to no database. Everybody may read this one, and nobody may write to it.
_NO_DATABASE = b"information_schema"
# What a borrower may set on the driver's connection, and a reset puts back; the dictionaries are copied.
_ATTRIBUTES = (
    *("cursorclass", "charset", "collation", "encoding", "use_unicode"),
    *("init_command", "sql_mode", "autocommit_mode", "max_allowed_packet"),
)
_attributes_of = attrgetter(*_ATTRIBUTES)


class MysqlConnection:
    """One PyMySQL connection. `reset`: the option of that name; behind a pooler nothing is reset."""

    def __init__(self, conn: BoundedConnection, *, pooled: bool, reset: str) -> None:
        self.driver_connection = conn
        self.session_idle: int = conn.session_idle
        self._socket = FreeCheck(conn.sock.fileno())
        self._pooled = pooled
        self._reset = "" if pooled else reset
        self._database: bytes | None = conn.db.encode() if isinstance(conn.db, str) else conn.db
        self._set_up = False  # a framework changed the session, which no reset may undo
        self.set_baseline()
        self._autocommit = conn.wanted
        self._always_read_only = look(conn.init_command or "", several=False).read_only
        self._resetting = self._was_reset = self._rolled_back = self._lacks_set_up = False
        self.backend_id: int = conn.thread_id()  # type: ignore[no-untyped-call]

    def set_baseline(self) -> None:
        """The server is not told again what the framework told it: a connection that needs a reset is then closed."""
        conn = self.driver_connection
        self._set_up = self._set_up or conn.noted.changed
        self._autocommit = bool(conn.server_status & _AUTOCOMMIT)
        self._attributes = _attributes_of(conn)
        self._codecs = dict(conn.encoders), dict(conn.decoders)
        self._names = frozenset(vars(conn))
        conn.noted = Noted()

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Afterwards, the notes on the session are as before the block."""
        noted = self.driver_connection.noted
        before = noted.isolation_changed, noted.changed
        yield
        noted.isolation_changed, noted.changed = before

    def limited(self, timeout: float) -> Bounds:
        """The socket bounds it."""
        return Bounds(self.driver_connection, timeout, float("inf"), ours=False)

    def read_rest(self, timeout: float | None) -> None:
        """Read the rest of all results of the last statement."""
        with self.driver_connection.bounded(timeout, most=float("inf")):
            read_on(self.driver_connection)

    # --- the warm path ------------------------------------------------------------------------------------------------

    def is_silent(self) -> bool:
        """Asks the kernel. False if PyMySQL has closed it: the descriptor's number may be somebody else's now."""
        return self.driver_connection.open and self._socket.is_silent()

    def status(self) -> Status:
        """From the flags of the last answer, and what the connection noted about its statements.

        A streamed result counts until it is read: whether somebody waits for its next row cannot be seen from here.
        """
        conn = self.driver_connection
        if conn.line.ours:
            return Status.ENDING
        if conn.line.response_pending:
            if conn.alone and not conn.open and not conn.saves:
                return Status.IDLE  # lost during a statement that saves nothing
            return Status.COMMITTING if conn.alone or conn.saves else Status.BUSY
        in_transaction = conn.server_status & _IN_TRANSACTION
        result = private.result_of(conn)
        if result is not None and result.unbuffered_active:
            return Status.BUSY if in_transaction else Status.STREAMING
        return Status.IN_TRANSACTION if in_transaction else Status.IDLE

    def inspect(self, *, ask: bool = False) -> Facts:
        """From the server's word and what the connection noted; `ask` looks for the savepoint of guarded work."""
        conn, noted = self.driver_connection, self.driver_connection.noted
        return Facts(
            self._condition(),
            conn.closed_by_user,
            conn.closed_in_transaction,
            noted.read_only or self._always_read_only,
            Failure.READ_ONLY if is_read_only(noted.failed_with) else Failure.OTHER,
            not noted.ended and (not noted.unsure or (ask and self._is_marked())),
            noted.ended,
        )

    def _condition(self) -> Condition:
        conn = self.driver_connection
        if conn.line.thread is not None:  # a thread that waits for a row holds the reader that is looked into below
            return _CHANGED
        conn.settle_stream()
        noted = conn.noted
        if (
            not conn.open
            or conn.line.response_pending
            or conn.line.ours
            or conn.line.ahead
            or conn.overheard
            or conn.unfinished
            or noted.transaction_unknown
            or noted.guarded
            or noted.read_only
            or noted.rollback_only
            or noted.incomplete
            or noted.left_prepared
            or noted.failed_with
            or noted.undone
            or noted.isolation_changed
            or noted.role_changed
            or noted.moved
            or noted.locked
            or bool(conn.server_status & _AUTOCOMMIT) is not self._autocommit
            or conn.cursorclass is not self._attributes[0]
            or (self._reset and self._reset != "transaction" and self._changed())
        ):
            return _CHANGED
        return _UNCOMMITTED if conn.server_status & _IN_TRANSACTION else _CLEAN

    # --- everything else ----------------------------------------------------------------------------------------------

    def ping(self, timeout: float) -> None:
        """COM_PING; but if the server has sent something already, that is read instead.

        Otherwise it would be taken for the answer, and the real answer for the next borrower's.
        """
        conn = self.driver_connection
        unasked = not self.is_silent() or conn.overheard
        with conn.bounded(timeout):
            if unasked:
                conn.line.ahead.append(_PING)  # nothing is sent
            conn.ping()
        if unasked:
            raise pymysql.OperationalError(CR.CR_COMMANDS_OUT_OF_SYNC, "the server sent unexpected data")
        if not self.is_silent() or self._condition() is not _CLEAN:
            raise OverdueError("the connection is not idle after a ping")

    def sessions(self, timeout: float) -> tuple[int, int]:
        """From the server's counters."""
        from .occupancy import sessions

        return sessions(self.driver_connection, timeout, spoken=not self.is_silent())

    def begin(self, *, readonly: bool, guarded: bool, timeout: float) -> None:
        """Begin an explicit transaction: MySQL's implicit ones cannot be read-only, and nobody sees them end.

        A guarded one is marked by a savepoint, in the same write; not behind a pooler, which may not take two in one.
        """
        conn = self.driver_connection
        marked = guarded and not self._pooled
        with conn.bounded(timeout):
            if marked:
                conn.line.following = [query(_SAVEPOINT.encode())]
            if readonly:
                conn.query("START TRANSACTION READ ONLY")
            elif guarded or self._autocommit:
                conn.query("START TRANSACTION")  # for sql_mode=ORACLE, BEGIN begins a block of statements
            if marked:
                conn.query(_SAVEPOINT)
        conn.noted = conn.noted.for_transaction(readonly=readonly, guarded=guarded)

    def _is_marked(self) -> bool:
        """Ask for the savepoint. If it is gone, either the server undid all, or the work saved it: nobody knows."""
        conn = self.driver_connection
        if self._pooled or not conn.open or conn.line.response_pending or conn.unfinished:
            return False
        kept = conn.noted.failed_with
        try:
            with conn.bounded(invocation.at_most(_ASKING)):
                conn.query(_IS_IT_THERE)
        except pymysql.MySQLError:
            return False
        finally:
            conn.noted.failed_with = kept
        return True

    def commit(self, timeout: float | None, *, last: bool = True) -> Outcome:
        """COMMIT, if a transaction is, or may be, open."""
        return self._finish(commit=True, timeout=timeout, last=last)

    def rollback(self, timeout: float | None, *, last: bool = True) -> Outcome:
        """ROLLBACK, if a transaction is, or may be, open."""
        return self._finish(commit=False, timeout=timeout, last=last)

    def _finish(self, *, commit: bool, timeout: float | None, last: bool) -> Outcome:
        conn = self.driver_connection
        deadline, noted = None if timeout is None else monotonic() + timeout, conn.noted
        guarded, noted.guarded = noted.guarded, False
        if noted.left_prepared:
            warn_left_prepared(noted.left_prepared, "XA COMMIT or XA ROLLBACK")
            noted.left_prepared = ""
        taken = conn.line.is_taken()
        if conn.line.response_pending or taken:
            own = conn.saves or (conn.alone and taken)
            self.abort()  # first: another thread may wait for the answer
            conn.abandon()
            if commit and (own or taken) and not noted.lost_commit:
                raise at_work("let each task and thread that uses it end", saving=own)
        if conn.line.silent or not conn.open:
            if commit and noted.lost_commit:
                raise CommitUncertain(noted.lost_commit)
            if commit and noted.unclear:
                raise noted.failed()
            # If nothing was open, all that was answered is saved.
            return Outcome.NONE if conn.alone and noted.undone is None else Outcome.FAILED
        if conn.unfinished:
            if not commit:
                # Reading perhaps a million rows, only to roll back, costs more than a new connection.
                raise LambdaPoolError("a streamed result was left unread")
            self.read_rest(timeout)
        conn.settle_stream()
        if commit:
            with conn.bounded(rest(deadline)):
                conn.ask_if_undone()
        lost, error = noted.take_failure(told=commit and (guarded or noted.unclear))
        outcome = self._end(commit=commit and not lost, timeout=rest(deadline), last=last)
        if error is not None:
            raise error
        return Outcome.FAILED if lost else outcome

    def _end(self, *, commit: bool, timeout: float | None, last: bool) -> Outcome:
        """Send COMMIT or ROLLBACK if it is due, together with a reset if one is due."""
        conn = self.driver_connection
        self._rolled_back, self._was_reset = not commit, False
        if not conn.in_transaction:
            return Outcome.NONE
        if last and self._needs_reset():
            self._follow_with_reset()
        if commit:
            self._commit(timeout)
            return Outcome.COMMITTED
        with conn.bounded(timeout):
            conn.rollback()
        return Outcome.ROLLED_BACK

    def _commit(self, timeout: float | None) -> None:
        conn = self.driver_connection
        try:
            with conn.bounded(timeout):
                conn.commit()
        except pymysql.MySQLError as error:  # also for an answer that cannot be read
            # The server's own "no", on a live connection, is an answer. Nothing else is.
            if not conn.noted.saving or (conn.open and is_refusal(error)):
                raise
            raise uncertain(error) from error

    # --- bringing it back ---------------------------------------------------------------------------------------------

    def _changed(self) -> bool:
        """True if the session or the driver's connection is not as it was lent."""
        conn = self.driver_connection
        return (
            conn.noted.changed
            or len(vars(conn)) != len(self._names)
            or _attributes_of(conn) != self._attributes
            or conn.encoders != self._codecs[0]
            or conn.decoders != self._codecs[1]
        )

    def _needs_reset(self) -> bool:
        """Whether the server must forget what was set: the option asks for it, or the pool cannot do without."""
        noted = self.driver_connection.noted
        if not self._reset or self._set_up or noted.role_changed:  # there is no way back to the role of a login
            return False
        return (
            self._reset == "session"
            or (self._reset == "changed" and noted.changed)
            or noted.isolation_changed
            or noted.moved
            or noted.locked
            or (noted.named_lock and self._rolled_back)
        )

    def _follow_with_reset(self) -> None:
        """Let COM_RESET_CONNECTION, and the set-up of a session of this pool, go out with the next command."""
        conn = self.driver_connection
        self._restore_attributes()
        following: list[Following] = [(command(_COM_RESET_CONNECTION), _PING)]
        database = self._place()
        if database:
            move = command(COMMAND.COM_INIT_DB, database)
            following.append((move, move))
        following += [query(statement.encode(conn.encoding)) for statement in (INIT_CONNECT, *conn.setup())]
        if conn.init_command:
            following.append(query(conn.init_command.encode(conn.encoding)))
        conn.line.following = following
        self._resetting = True  # until its answers are read

    def _read_reset(self) -> None:
        """Read the answers, with the driver's methods that would have asked: what they send went out already."""
        conn = self.driver_connection
        database = self._place()
        self._resetting = False
        conn.ping()
        if database:
            conn.select_db(database)
        self._lacks_set_up = conn.is_set_up_by_server()
        conn.run_setup()
        self._was_reset = True

    def _place(self) -> bytes | None:
        """The database to go back to: no reset does that by itself."""
        return self._database or (_NO_DATABASE if self.driver_connection.noted.moved else None)

    def reset(self, timeout: float | None) -> bool:
        """Put back what a borrower changed. A reset that went out with COMMIT costs no further round trip."""
        conn, noted = self.driver_connection, self.driver_connection.noted
        if (
            not conn.open
            or conn.line.response_pending
            or conn.line.ours
            or conn.unfinished
            or noted.role_changed
            or (conn.in_transaction and not self._resetting)
        ):
            return False
        due = noted.changed and self._reset == "changed"
        if (self._pooled or self._set_up) and (
            due or noted.isolation_changed or noted.moved or noted.locked or noted.named_lock
        ):
            # The borrower's SET pinned it, and putting it back would not unpin it. A new connection is not pinned.
            return False
        with conn.bounded(timeout):
            self._bring_back()
        if conn.overheard:
            return False
        conn.noted = Noted()
        if not (self.is_silent() and self._condition() is _CLEAN):
            return False
        if self._reset == "session" and not self._was_reset:
            self._reset_session(timeout)
        return not self._lacks_set_up

    def _bring_back(self) -> None:
        conn = self.driver_connection
        if not self._resetting and self._needs_reset():
            self._follow_with_reset()
            conn.ping()
        if self._resetting:
            self._read_reset()
        elif conn.get_autocommit() is not self._autocommit:
            conn.autocommit(self._autocommit)
        conn.cursorclass = self._attributes[0]
        if self._reset == "changed":
            self._restore_attributes()

    def _restore_attributes(self) -> None:
        conn = self.driver_connection
        for name in vars(conn).keys() - self._names:
            delattr(conn, name)
        for name, value in zip(_ATTRIBUTES, self._attributes, strict=True):
            setattr(conn, name, value)
        conn.encoders, conn.decoders = dict(self._codecs[0]), dict(self._codecs[1])

    def _reset_session(self, timeout: float | None) -> None:
        with self.driver_connection.bounded(timeout):
            self._follow_with_reset()
            self.driver_connection.ping()
            self._read_reset()
        self.driver_connection.noted = Noted()
        if self._condition() is not _CLEAN:
            raise OverdueError("the connection is not idle after a reset")

    # --- ending it ----------------------------------------------------------------------------------------------------

    def cancel(self, timeout: float, aside: Callable[[str], EngineConnection]) -> bool:
        """KILL QUERY, which needs a second login. Not through a pooler, where the number may be somebody else's."""
        return not self._pooled and kill_query(self.driver_connection, self.backend_id, timeout, aside)

    def close(self, timeout: float) -> None:
        """COM_QUIT."""
        conn = self.driver_connection
        self.driver_connection.drop_result()
        if conn.line.silent or not conn.open:
            return
        if conn.line.is_taken():  # another thread or task waits on the descriptor, which must not be closed under it
            self.abort()
            return
        try:
            with conn.bounded(timeout):
                conn.close()
            conn.closed_by_user = False
        except Exception:  # noqa: BLE001 - a connection that cannot be closed politely is dropped
            self.discard()

    def discard(self) -> None:
        """Close the descriptor alone."""
        self.driver_connection.drop_result()
        self.driver_connection.abandon()

    def abort(self, *, cancelled: bool = False) -> None:
        """shutdown() on the socket; PyMySQL notices at its next read."""
        if cancelled:
            self.driver_connection.cancelled = True
        with suppress(Exception):  # already closed: nothing is left to abort
            shut_down(self.driver_connection.sock.fileno())
