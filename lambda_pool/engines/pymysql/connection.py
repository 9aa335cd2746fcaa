"""PyMySQL's connection over a socket of ours, with a memory of what its statements did and of what was not answered.

Every method here that sends something overrides a public one of PyMySQL and calls it. Imported only when the first
connection is opened: importing it imports PyMySQL.
"""

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CLIENT, CR, SERVER_STATUS
from pymysql.cursors import SSCursor

from ...errors import ConfigError, DeadlineExceeded
from ...waiting import aside
from ..base import SILENT, cancelled, from_elsewhere
from . import private
from .errors import is_answer
from .noted import Noted, again, reported
from .statements import look
from .streaming import streaming
from .wire import BoundedSocket, BoundedTlsSocket, Bounds, Line, Wrapping, dial

T = TypeVar("T")

# Not in pymysql.constants: https://dev.mysql.com/doc/dev/mysql-server/latest/group__group__cs__capabilities__flags.html
SESSION_TRACK = 1 << 23
_STATE_CHANGED = 1 << 14
_STATE_KINDS = {0, 1, 2}  # a variable, the database, anything; the others are of transactions
_IN_TRANSACTION = SERVER_STATUS.SERVER_STATUS_IN_TRANS

# Bytes that a server may answer to what the pool asks of its own accord. Its longest packet is honest, and more than
# that must not fill the function's memory.
_MOST = 1 << 24
# Bytes from which on a statement may be more than the server takes; its smallest defaults are above.
_LARGE = 1 << 16

if TYPE_CHECKING:
    _Connection = Connection[Any]
else:  # generic in its type stubs only
    _Connection = Connection


class BoundedConnection(_Connection):
    """A `pymysql.connections.Connection`; to its borrowers no different, but that `with conn:` commits."""

    # PyMySQL's own, which its type stubs leave out.
    server_status: int
    server_capabilities: int
    ctx: Any

    sock: BoundedSocket | BoundedTlsSocket
    wanted: bool  # whether autocommit is on where nobody changed it
    session_idle: int = 0  # see ConnectRequest
    sockets: tuple[type[BoundedSocket], type[BoundedTlsSocket]] = BoundedSocket, BoundedTlsSocket  # without, with TLS
    stand_in: Any = None  # see `patched`
    cancelled: bool = False  # somebody asked the server to end the running statement, or aborted the connection for it
    # close() was called while it was open; and before its transaction was ended.
    closed_by_user: bool = False
    closed_in_transaction: bool = False

    def __init__(self, **arguments: Any) -> None:
        """PyMySQL's, whose arguments these are."""
        self.line: Line = Line()
        self.noted: Noted = Noted()
        self.cancelled = self.closed_by_user = self.closed_in_transaction = self._connected = False
        self._largest: int | None = None  # bytes of the longest packet that the server takes, once it was asked
        super().__init__(**arguments)

    # --- connecting ---------------------------------------------------------------------------------------------------

    def connect_within(self, timeout: float) -> None:
        """TCP, TLS, login and set-up together within `timeout` seconds. Raises what the driver raises."""
        if self.user is None:
            raise ConfigError(
                "the URL names no user, and the user of this process is not known: write mysql://user@host/database"
            )
        deadline = monotonic() + timeout
        self.wanted = bool(self.autocommit_mode)
        setup = self.init_command, self.sql_mode
        self.autocommit_mode: Any = None
        self.init_command = self.sql_mode = None  # they have their place in `run_setup`
        context = wrapping = plain = None
        if self.ssl:
            context, self.ctx = self.ctx, Wrapping(self.ctx, self.sockets[1])
            wrapping = self.ctx
        try:
            with self.bounded(timeout):
                self.line.response_pending = True
                plain = self._dial(deadline)
                self.connect(plain)
                self.sock = (wrapping and wrapping.wrapped) or plain
                self.line.response_pending, self._connected = False, True
                self.init_command, self.sql_mode = setup
                self.run_setup()
        except BaseException as error:
            self.abandon()
            if (raised := self._raised_elsewhere(error)) is not None:
                raise raised from None
            if plain is not None and monotonic() >= deadline and isinstance(error, pymysql.MySQLError | OSError):
                raise pymysql.OperationalError(CR.CR_SERVER_LOST, SILENT) from error
            raise
        finally:
            if context is not None:
                self.ctx = context
        self.noted = Noted()

    def connect(self, sock: Any = None) -> None:
        """PyMySQL's. Refused in a block: it would be another session, and half of the work."""
        if self._connected:
            raise pymysql.ProgrammingError("connect() on a connection of the pool: leave the block, and borrow another")
        super().connect(sock)

    def _dial(self, deadline: float) -> BoundedSocket:
        path = self.unix_socket
        try:
            if path:
                addresses: Sequence[Any] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", path)]
            else:
                addresses = aside(socket.getaddrinfo, self.host, self.port, 0, socket.SOCK_STREAM)
            return dial(addresses, deadline, self.line, self.sockets[0], self.bind_address)
        except OSError as error:
            if from_elsewhere(error):
                raise
            text = f"Can't connect to MySQL server on {path or self.host!r} ({error})"
            raise pymysql.OperationalError(CR.CR_CONN_HOST_ERROR, text) from error

    @property
    def tracked(self) -> bool:
        """True if the server reports what changes on the session."""
        return bool(self.client_flag & self.server_capabilities & SESSION_TRACK)

    def setup(self) -> tuple[str, ...]:
        """What makes a session one of this pool, after the login and after each reset."""
        names = f"SET NAMES {self.charset}" + (f" COLLATE {self.collation}" if self.collation else "")
        names += f", wait_timeout={self.session_idle}" if self.session_idle else ""
        mode = f"sql_mode={self.escape(self.sql_mode)}" if self.sql_mode else ""
        if self.tracked:
            rest = [mode] if mode else []
            return (", ".join([names, *rest, f"autocommit={int(self.wanted)}", "session_track_state_change=1"]),)
        # Behind a pooler too: one by one, as it knows them and does not pin for them.
        return (names, f"SET {mode}") if mode else (names,)

    def run_setup(self) -> None:
        """Send what `setup` says and the user's own `init_command`."""
        for statement in self.setup():
            self.query(statement)
        if self.init_command:
            with pymysql.cursors.Cursor(self) as cursor:  # whose end reads every result of a procedure
                cursor.execute(self.init_command)
        self.autocommit(self.wanted)
        if self.in_transaction:
            self.commit()

    # --- every way to the server --------------------------------------------------------------------------------------

    def _commanded(self, call: Callable[..., T], *arguments: Any) -> T:
        """Let the driver send one command, and note how it was answered.

        One that was left unanswered ends the connection, because its answer would be taken for the next one's.
        """
        line = self.line
        if line.response_pending:
            self.abandon()
        before = self._status_before()
        self.cancelled = False  # said on another thread of a command that had just ended
        line.response_pending = True
        try:
            answer = call(*arguments)
        except BaseException as error:
            self._failed(error, before)
            raise
        line.response_pending = False
        self.noted.transaction_unknown = self.noted.streams = False
        return answer

    def _status_before(self) -> int:
        """The server's status before a command: its last word, and what an unread stream may have begun."""
        status = self.server_status
        if self.noted.streams and not status & SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT:
            status |= _IN_TRANSACTION
        return status

    def _failed(self, error: BaseException, before: int) -> None:
        """Note what an error means; raise what it stands for, where that is another. `before`: the status till then."""
        raised = self._raised_elsewhere(error)
        if raised is not None:
            self.abandon()
            raise raised from None
        self.noted.transaction_unknown = True
        if not isinstance(error, Exception):
            return
        self.noted.failed_with = error.args
        if isinstance(error, pymysql.MySQLError) and error.args and is_answer(error.args[0]):
            self.line.response_pending = self.noted.streams = False
            if before & _IN_TRANSACTION:
                self.noted.doubt = type(error)(*error.args)
        if self.cancelled:
            raise self._given_up(error) from error

    def _raised_elsewhere(self, error: BaseException) -> BaseException | None:
        """The error of a signal's handler that the driver took for its socket's; None if there is none."""
        inner = error.__context__
        if not isinstance(error, pymysql.MySQLError) or not isinstance(inner, OSError) or not inner.__traceback__:
            return None
        # Else the borrower is at work in an `except` block of its own.
        caught = str(inner.__traceback__.tb_frame.f_globals.get("__name__", ""))
        return inner if caught.startswith(("pymysql", __name__)) and from_elsewhere(inner) else None

    def _given_up(self, error: BaseException) -> DeadlineExceeded:
        self.cancelled = False
        self.noted.rollback_only = True
        return cancelled(error)

    def query(self, sql: Any, unbuffered: bool = False) -> int:
        """Run one statement (every cursor's way to the server)."""
        self.ask_if_undone()
        if self.noted.guarded and self.noted.undone is not None:
            # What follows would be a transaction without its beginning; PostgreSQL refuses it as well.
            raise again(self.noted.undone)
        seen = look(sql, several=bool(self.client_flag & CLIENT.MULTI_STATEMENTS))
        self.noted.note(seen, tracked=self.tracked)  # before it is sent: its answer may never come
        if len(sql) > _LARGE and self._largest is None:
            self._largest = 0  # also if no answer comes
            self._commanded(super().query, "SELECT @@max_allowed_packet")
            self._largest = int(private.result_of(self).rows[0][0])
        try:
            affected = self._commanded(super().query, sql, unbuffered)
        except pymysql.MySQLError as error:
            explained = self._explained(error, sql)
            if explained is None:
                raise
            raise explained from error
        self._note_answer()
        if self.cancelled:  # SLEEP() and the like return early instead of failing
            self.noted.transaction_unknown = True
            raise self._given_up(TimeoutError("the statement returned early"))
        if seen.begins_anew:
            self.noted.begin_anew(rolled_back=seen.rolls_back)
        if self.noted.guarded and not self.in_transaction:
            self.noted.ended = True
        return affected

    def _note_answer(self) -> None:
        """Note what the answer to a statement said of transaction and session."""
        result = private.result_of(self)
        if result is None:
            return
        if result.unbuffered_active:
            self.noted.streams = self.noted.transaction_unknown = True
        elif result.server_status is None:
            self._note_rows()
        elif result.server_status & _STATE_CHANGED and self.tracked and not self.noted.changed:
            self.noted.changed = bool(reported(result.message) & _STATE_KINDS)

    def _note_rows(self) -> None:
        """Note what the packet behind the last row said. Unseen, a block that only reads would keep its snapshot."""
        status = self.line.status_of_rows()
        self.noted.transaction_unknown = status is None
        if status is not None:
            self.server_status = status

    def settle_stream(self) -> None:
        """Where a streamed result was read to its end, note what its last packet said."""
        if self.noted.streams and not self.unfinished:
            before, self.noted.streams = self._status_before(), False
            self._note_rows()
            if self.noted.transaction_unknown and before & _IN_TRANSACTION:  # it ended with an untold error
                why = "a streamed result ended with an error"
                self.noted.doubt = pymysql.OperationalError(CR.CR_UNKNOWN_ERROR, why)

    def next_result(self, unbuffered: bool = False) -> int:
        """Read the next result of a statement that has several."""
        # Inside of another command, which reads what is left of the statement before, its own is unanswered.
        nested, self.line.response_pending = self.line.response_pending, True
        try:
            affected = super().next_result(unbuffered)
        except BaseException as error:
            self._failed(error, self.server_status)
            raise
        self.line.response_pending = nested
        self._note_answer()
        return affected

    def read_next_by(self, read: Callable[[], T]) -> T:
        """Read the next row of a streamed result."""
        try:
            return read()
        except BaseException as error:
            self._failed(error, self._status_before())
            raise

    def cursor(self, cursor: Any = None) -> Any:
        """A new cursor of the given class, or of the connection's."""
        made = self.cursor_type(cursor or self.cursorclass)(self)
        return made if self.stand_in is None else self.stand_in.cursor(lambda _: made)

    def cursor_type(self, asked: Any) -> Any:
        """The class of a new cursor: one that streams tells its connection of errors."""
        streams = isinstance(asked, type) and issubclass(asked, SSCursor)
        return streaming(asked) if streams else asked

    # --- transactions -------------------------------------------------------------------------------------------------

    @property
    def in_transaction(self) -> bool:
        """True if the server said so, or if nobody can know without asking."""
        return self.noted.transaction_unknown or bool(self.server_status & _IN_TRANSACTION)

    def ask_if_undone(self) -> None:
        """After a statement failed inside of a transaction: ask whether the server undid the whole of it."""
        self.settle_stream()
        if self.noted.doubt is not None:
            self.ping()

    def _refuse_if_guarded(self, method: str) -> None:
        """`Pool.run` commits itself, and could else not know whether a replay is safe."""
        if self.noted.guarded:
            raise pymysql.ProgrammingError(f"{method}() inside Pool.run(): run() commits when the work returns")

    def commit(self) -> None:
        """COMMIT; refused inside `Pool.run`."""
        self._refuse_if_guarded("commit")
        self._commanded(super().commit)
        self.noted.begin_anew()

    def begin(self) -> None:
        """BEGIN, which commits what was before it; refused inside `Pool.run`."""
        self._refuse_if_guarded("begin")
        self._commanded(super().begin)
        self.noted.begin_anew()

    def rollback(self) -> None:
        """ROLLBACK."""
        self.noted.ended |= self.noted.guarded
        self._commanded(super().rollback)
        self.noted.begin_anew(rolled_back=True)

    def autocommit(self, value: bool) -> None:
        """SET autocommit, which commits where it switches that on; then refused inside `Pool.run`."""
        if value and not self.get_autocommit():
            self._refuse_if_guarded("autocommit")
        self._commanded(super().autocommit, value)

    def __exit__(self, *exc_info: object) -> None:
        """Commit on success, roll back on error; the connection stays open. Inside `Pool.run`, that does both."""
        failed = exc_info[0] is not None
        if not self.open:
            return
        if self.noted.guarded:
            self.noted.rollback_only |= failed
        elif failed:
            with suppress(pymysql.MySQLError):  # the block's own error is the one to see
                self.rollback()
        else:
            self.ask_if_undone()
            undone = self.noted.undone
            if undone is not None:
                self.rollback()
                raise again(undone)
            self.commit()

    # --- the driver's other commands ----------------------------------------------------------------------------------

    def ping(self, reconnect: bool = False) -> None:  # type: ignore[override]
        """COM_PING. It never connects anew: amid a block that would be another session, and half of the work."""
        doubt, self.noted.doubt = self.noted.doubt, None
        self._commanded(super().ping, False)
        if doubt is not None and not self.server_status & _IN_TRANSACTION:
            self.noted.undone = doubt

    def select_db(self, db: Any) -> None:
        """USE."""
        self.noted.moved = self.noted.changed = True
        self._commanded(super().select_db, db)

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """SET NAMES; while it connects, `setup` says it."""
        if self._connected:
            self.noted.changed = True
            self._commanded(super().set_character_set, charset, collation)

    def show_warnings(self) -> Any:
        """SHOW WARNINGS."""
        return self._commanded(super().show_warnings)

    def close(self) -> None:
        """Tell the server, and close."""
        if self.line.silent and not self.open:
            return  # given up by the pool, which is no error of the borrower's
        if self.open:
            self.closed_by_user, self.closed_in_transaction = True, self.in_transaction
        self.line.response_pending = True
        self.line.ahead.clear()
        super().close()

    # --- for the pool -------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Close this process's end, without a word to the server."""
        self.line.silent = True
        if self.open:
            with suppress(pymysql.Error):  # close() had begun already
                super().close()

    def drop_result(self) -> None:
        """Let nobody read the rest of a streamed result: PyMySQL would try to on a closed connection as well."""
        result = private.result_of(self)
        if result is not None:
            result.unbuffered_active = result.has_next = False

    @property
    def unfinished(self) -> bool:
        """True if a result waits on the wire."""
        result = private.result_of(self)
        return result is not None and bool(result.unbuffered_active or result.has_next)

    @property
    def overheard(self) -> bool:
        """True if more came than the last answer: announced, decrypted, or read already. The socket shows none."""
        if not self.open:
            return False
        more = self.server_status & SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS or self.line.leftover()
        return bool(more or (isinstance(self.sock, BoundedTlsSocket) and self.sock.pending()))

    def bounded(self, timeout: float | None, most: float = _MOST) -> Bounds:
        """Bound all reads and writes in a `with` block, together, to `timeout` seconds (None: no bound), `most` bytes.

        An answer that PyMySQL cannot read is the loss of the connection.
        """
        return Bounds(self, timeout, most)

    def _explained(self, error: Exception, sql: Any) -> Exception | None:
        """An error that says that the statement was too long: the server's own word is often lost on the way."""
        number = error.args[0] if error.args else None
        if number not in {1153, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST} or not self._largest:
            return None
        size = len(sql.encode(self.encoding) if isinstance(sql, str) else sql) + 1
        if size <= self._largest:
            return None
        self.noted.ended = True  # it would fail again
        return type(error)(
            number,
            f"{error.args[1]} (the statement is {size} bytes long, and the server takes {self._largest}: send it in "
            "parts, or raise max_allowed_packet)",
        )
