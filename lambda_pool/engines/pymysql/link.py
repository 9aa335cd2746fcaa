"""One PyMySQL connection as the pool drives it."""

import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import pymysql
from pymysql.constants import COMMAND, CR, SERVER_STATUS

from ...errors import LambdaPoolError
from ..base import Condition, Link, Outcome, OverdueError, rest, uncertain
from ..bounded_socket import shut_down
from . import private
from .connection import BoundedConnection
from .errors import is_read_only, is_refusal
from .noted import Noted, again
from .statements import look
from .wire import Following, command, query

_CLEAN, _UNCOMMITTED, _CHANGED = Condition.CLEAN, Condition.UNCOMMITTED, Condition.CHANGED
_IN_TRANSACTION, _AUTOCOMMIT = SERVER_STATUS.SERVER_STATUS_IN_TRANS, SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT

# Not in pymysql.constants: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_reset_connection.html
_COM_RESET_CONNECTION = 0x1F
_PING = command(COMMAND.COM_PING)
# What only the transaction has that `begin` began: it goes with it, and a later one has none.
_SAVEPOINT = "SAVEPOINT lambda_pool_run"
_IS_IT_THERE = "RELEASE SAVEPOINT lambda_pool_run"
_ASKING = 1.0  # seconds
# There is no way back to no database: this one is everybody's to read, and nobody's to write.
_NO_DATABASE = b"information_schema"
# What a borrower may set on the driver's connection, and a reset puts back; the dictionaries are copied.
_ATTRIBUTES = (
    *("charset", "collation", "encoding", "cursorclass", "use_unicode"),
    *("init_command", "sql_mode", "autocommit_mode", "max_allowed_packet"),
)


class MysqlLink:
    """One PyMySQL connection. `reset`: the option of that name; behind a pooler nothing is reset."""

    def __init__(self, conn: BoundedConnection, *, autocommit: bool, pooled: bool, reset: str = "transaction") -> None:
        self.conn = conn
        self.session_idle = conn.session_idle
        self._pooled = pooled
        self._reset = "" if pooled else reset
        self._database: bytes | None = conn.db.encode() if isinstance(conn.db, str) else conn.db
        self._set_up = False  # a framework changed the session, which no reset may undo
        self.set_baseline()
        self._autocommit = autocommit
        self._always_read_only = look(conn.init_command or "", several=False).read_only
        self._resetting = False  # a reset went out, and its answers are not read yet
        self._was_reset = self._rolled_back = False
        poller = select.poll()
        poller.register(conn.sock, select.POLLIN)
        self._poll = poller.poll
        self.backend_id: int = conn.thread_id()  # type: ignore[no-untyped-call]

    def set_baseline(self) -> None:
        """What the server was told, it is not told again: a connection that needs a reset is then closed."""
        conn = self.conn
        self._set_up = self._set_up or conn.noted.changed
        self._autocommit = bool(conn.server_status & _AUTOCOMMIT)
        self._attributes = {name: getattr(conn, name) for name in _ATTRIBUTES}
        self._codecs = dict(conn.encoders), dict(conn.decoders)
        self._names = frozenset(vars(conn))
        conn.noted = Noted()

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is noted of the session is as before the block."""
        noted = self.conn.noted
        before = noted.isolation_changed, noted.changed
        yield
        noted.isolation_changed, noted.changed = before

    def read_rest(self, timeout: float | None) -> None:
        """Of all results of the last statement."""
        conn = self.conn
        with conn.bounded(timeout, most=float("inf")):
            result = private.result_of(conn)
            if result is not None and result.unbuffered_active:
                private.read_to_the_end(result)
            while conn.unfinished:
                conn.next_result()

    # --- the warm path ------------------------------------------------------------------------------------------------

    def quiet(self) -> bool:
        """The free check, and PyMySQL's own word: a closed descriptor's number may be somebody else's now."""
        return self.conn.open and not self._poll(0)

    def at_rest(self) -> bool:
        """By the flags of the last answer."""
        line = self.conn.line
        return not (self.conn.server_status & _IN_TRANSACTION or line.unanswered or line.ours)

    def condition(self) -> Condition:
        """By the flags of the last answer, and by what the connection noted of its statements."""
        conn = self.conn
        conn.settle_stream()
        noted = conn.noted
        if (
            not conn.open
            or conn.line.unanswered
            or conn.line.ours
            or conn.line.ahead
            or conn.unfinished
            or noted.in_doubt
            or noted.guarded
            or noted.doomed
            or noted.failed_with
            or noted.undone
            or noted.isolation_changed
            or noted.role_changed
            or noted.moved
            or noted.locked
            or bool(conn.server_status & _AUTOCOMMIT) is not self._autocommit
            or conn.cursorclass is not self._attributes["cursorclass"]
            or (self._reset and self._reset != "transaction" and self._changed())
        ):
            return _CHANGED
        return _UNCOMMITTED if conn.server_status & _IN_TRANSACTION else _CLEAN

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
        unasked = not self.quiet() or conn.overheard
        with conn.bounded(timeout):
            if unasked:
                conn.line.ahead.append(_PING)  # nothing is sent
            conn.ping()
        if unasked:
            raise pymysql.OperationalError(CR.CR_COMMANDS_OUT_OF_SYNC, "the server spoke unasked")
        if not self.quiet() or conn.overheard or self.condition() is not _CLEAN:
            raise OverdueError("the connection is not idle after a ping")

    def sessions(self, timeout: float) -> tuple[int, int]:
        """By the server's counters."""
        from .occupancy import sessions

        return sessions(self.conn, timeout, spoken=not self.quiet())

    def closed_by_user(self) -> bool:
        """PyMySQL tells a close from a loss."""
        return self.conn.closed_by_user

    def closed_in_transaction(self) -> bool:
        """By what the server had said of the transaction until then."""
        return self.conn.closed_in_transaction

    def read_only(self) -> bool:
        """By what the pool or the borrower asked for."""
        return self.conn.noted.read_only or self._always_read_only

    def refused_write(self) -> bool:
        """By what the connection noted of its last failed statement."""
        return is_read_only(self.conn.noted.failed_with)

    def begin(self, *, readonly: bool, guarded: bool, timeout: float) -> None:
        """An explicit transaction: MySQL's implicit ones cannot be read-only, nor seen to end.

        A guarded one is marked by a savepoint, in the same write; a pooler may not take two commands in one.
        """
        conn = self.conn
        marked = guarded and not self._pooled
        with conn.bounded(timeout):
            if marked:
                conn.line.following = [query(_SAVEPOINT.encode())]
            if readonly:
                conn.query("START TRANSACTION READ ONLY")
            elif guarded or self._autocommit:
                conn.begin()
            if marked:
                conn.query(_SAVEPOINT)
        conn.noted = Noted()
        conn.noted.guarded = guarded
        conn.noted.read_only = readonly

    def replayable(self, *, ask: bool = False) -> bool:
        """By the server's word, and where a statement may have ended the transaction, by the savepoint."""
        noted = self.conn.noted
        return not noted.ended and (not noted.unsure or (ask and self._is_marked()))

    def _is_marked(self) -> bool:
        """Ask for the savepoint. One that is gone leaves open whether the server undid all, or the work saved it."""
        conn = self.conn
        if self._pooled or not conn.open or conn.line.unanswered or conn.unfinished:
            return False
        kept = conn.noted.failed_with
        try:
            with conn.bounded(_ASKING):
                conn.query(_IS_IT_THERE)
        except pymysql.MySQLError:
            return False
        finally:
            conn.noted.failed_with = kept
        return True

    def finish(self, *, commit: bool, timeout: float | None, last: bool = True) -> Outcome:
        """COMMIT or ROLLBACK, where a transaction is, or may be, open."""
        conn = self.conn
        deadline = None if timeout is None else monotonic() + timeout
        noted = conn.noted
        guarded, noted.guarded = noted.guarded, False
        if conn.line.unanswered:
            self.sever()  # first: another thread may wait for the answer
            conn.abandon()
        if not conn.open:
            return Outcome.FAILED
        if conn.unfinished:
            if not commit:
                # Reading what may be a million rows, only to roll back, is dearer than a new connection.
                raise LambdaPoolError("a streamed result was left unread")
            self.read_rest(timeout)
        conn.settle_stream()
        if commit and noted.doubt is not None:
            with conn.bounded(rest(deadline)):
                conn.ask_if_undone()
        undone = noted.undone
        lost = noted.doomed or undone is not None
        noted.doomed, noted.undone = False, None
        outcome = self._end(commit=commit and not lost, timeout=rest(deadline), last=last)
        if not lost:
            return outcome
        if commit and guarded and undone is not None:
            raise again(undone)  # so that `run` may begin anew, as if the work had not swallowed it
        return Outcome.FAILED

    def _end(self, *, commit: bool, timeout: float | None, last: bool) -> Outcome:
        """Send COMMIT or ROLLBACK where it is due, and with it a reset where one is."""
        conn = self.conn
        self._rolled_back = not commit
        self._was_reset = False
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
        conn = self.conn
        if not self.quiet():
            # MySQL says nothing unasked but good-bye: COMMIT is then never sent, and nothing is uncertain.
            self.drop()
            raise pymysql.OperationalError(CR.CR_SERVER_LOST, "Lost connection to MySQL server before COMMIT was sent")
        try:
            with conn.bounded(timeout):
                conn.commit()
        except pymysql.MySQLError as error:
            # The server's own "no", on a connection that lives, is an answer. Anything else is none.
            if conn.open and is_refusal(error):
                raise
            raise uncertain(error) from error

    # --- bringing it back ---------------------------------------------------------------------------------------------

    def _changed(self) -> bool:
        """True if the session or the driver's connection is not as it was lent."""
        conn = self.conn
        return (
            conn.noted.changed
            or len(vars(conn)) != len(self._names)
            or conn.encoders != self._codecs[0]
            or conn.decoders != self._codecs[1]
        )

    def _needs_reset(self) -> bool:
        """Whether the server is to forget what was set: where the option asks for it, or the pool cannot do without."""
        noted = self.conn.noted
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
        """Let COM_RESET_CONNECTION, and what makes the session one of this pool, go out with the next command."""
        conn = self.conn
        self._restore_attributes()
        following: list[Following] = [(command(_COM_RESET_CONNECTION), _PING)]
        database = self._place()
        if database:
            move = command(COMMAND.COM_INIT_DB, database)
            following.append((move, move))
        following += [query(statement.encode(conn.encoding)) for statement in conn.setup()]
        if conn.init_command:
            following.append(query(conn.init_command.encode(conn.encoding)))
        conn.line.following = following
        self._resetting = True

    def _read_reset(self) -> None:
        """Read the answers, by the driver's methods that would have asked: what they send went out already."""
        conn = self.conn
        database = self._place()
        self._resetting = False
        conn.ping()
        if database:
            conn.select_db(database)
        conn.run_setup()
        self._was_reset = True

    def _place(self) -> bytes | None:
        """The database to go back to, which no reset does by itself."""
        return self._database or (_NO_DATABASE if self.conn.noted.moved else None)

    def restore(self, timeout: float | None) -> bool:
        """Put back what a borrower changed. A reset that went out with COMMIT costs no further round trip."""
        conn = self.conn
        noted = conn.noted
        if (
            not conn.open
            or conn.line.unanswered
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
            # The borrower's SET pinned it; putting it back would not unpin it, a new connection is not pinned.
            return False
        with conn.bounded(timeout):
            self._bring_back()
        if conn.overheard:
            return False
        conn.noted = Noted()
        return self.quiet() and self.condition() is _CLEAN

    def _bring_back(self) -> None:
        conn = self.conn
        if not self._resetting and self._needs_reset():
            self._follow_with_reset()
            conn.ping()
        if self._resetting:
            self._read_reset()
        elif conn.get_autocommit() is not self._autocommit:
            conn.autocommit(self._autocommit)
        conn.cursorclass = self._attributes["cursorclass"]
        if self._reset == "changed":
            self._restore_attributes()

    def _restore_attributes(self) -> None:
        conn = self.conn
        for name in vars(conn).keys() - self._names:
            delattr(conn, name)
        for name, value in self._attributes.items():
            setattr(conn, name, value)
        conn.encoders, conn.decoders = dict(self._codecs[0]), dict(self._codecs[1])

    def reset_session(self, timeout: float | None) -> None:
        """What `restore` has done already where the option asks for it."""
        if not self._was_reset:
            with self.conn.bounded(timeout):
                self._follow_with_reset()
                self.conn.ping()
                self._read_reset()
            self.conn.noted = Noted()
            if self.conn.overheard or self.condition() is not _CLEAN:
                raise OverdueError("the connection is not idle after a reset")

    # --- ending it ----------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """The connection looks for it after each statement anyway."""

    def running(self) -> bool:
        """What the connection itself noted: of statements, and of what its methods send, such as begin(). Not ours.

        A streamed result counts until it is read: whether somebody waits for its next row, nobody can see from here.
        """
        conn = self.conn
        result = private.result_of(conn)
        busy = conn.line.unanswered or (result is not None and bool(result.unbuffered_active))
        return busy and not conn.line.ours

    def cancel(self, timeout: float, aside: Callable[[], Link]) -> bool:
        """KILL QUERY, which needs a second login. Not through a pooler, where the number may be somebody else's."""
        if self._pooled:
            return False
        conn = self.conn
        conn.cancelled = True
        try:
            helper = aside()
            try:
                other: Any = helper.conn
                if other.sock.getpeername() != conn.sock.getpeername():
                    # The name leads to another server by now, where the number is somebody else's.
                    return False
                with other.bounded(timeout):
                    # Without parameters PyMySQL sends it as it is; the number is the server's own.
                    other.query(f"KILL QUERY {self.backend_id:d}")
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
        result = private.result_of(self.conn)
        if result is not None:
            result.unbuffered_active = False

    def cut(self) -> None:
        """As `sever`, noted for the statement that runs."""
        self.conn.cancelled = True
        self.sever()

    def sever(self) -> None:
        """shutdown() on the socket; PyMySQL notices at its next read."""
        with suppress(Exception):  # already closed: nothing is left to sever
            shut_down(self.conn.sock.fileno())
