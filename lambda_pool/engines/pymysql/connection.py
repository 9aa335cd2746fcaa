"""PyMySQL's connection with the two things it lacks: waits bounded by a clock, and a memory of unanswered statements.

Only `engines.mysql` imports this module, when it first connects: importing it imports PyMySQL.
"""

import re
import socket
import struct
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import pymysql
from pymysql.connections import Connection, MySQLResult
from pymysql.constants import CLIENT, COMMAND, CR, SERVER_STATUS
from pymysql.protocol import EOFPacketWrapper, MysqlPacket

from ...errors import ConfigError, DeadlineExceeded
from ..base import cancelled
from ..bounded_socket import UNACKNOWLEDGED
from .errors import is_answer

# Not in pymysql.constants: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_reset_connection.html
_COM_RESET_CONNECTION = 0x1F
# COM_QUERY as a packet, and its answer without a word too many, but for status and warnings, two bytes each:
# https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_ok_packet.html
_COMMIT = b"\7\0\0\0\3COMMIT"
_DONE = b"\7\0\0\1\0\0\0"
_IN_TRANSACTION = SERVER_STATUS.SERVER_STATUS_IN_TRANS

# A borrower changes isolation and read-only for the session by SQL alone, so its statements are looked at: these are
# the words of `SET SESSION TRANSACTION …` and of the variables transaction_isolation, tx_read_only and their kin.
_SESSION_WORDS = ("transaction", "tx_")
# And the database by `USE`, which no reset undoes, and tables locked by `LOCK TABLES`, which no COMMIT unlocks.
_TOLD = frozenset({"SET", b"SET", "USE", b"USE", "LOC", b"LOC"})

# First words of what leaves a transaction open, whether it succeeds or fails; CALL and others may commit on their way:
# https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html
_STAYING = frozenset(
    {"select", "insert", "update", "delete", "replace", "with", "values", "table", "do", "use"}
    | {"savepoint", "release", "prepare", "deallocate", "show", "explain", "describe", "desc"}
)
_STAYING_WITH = {
    "create": ("temporary",),
    "drop": ("temporary",),
    "load": ("data", "xml"),
}
_LEAVING_SET = ("autocommit", "password", "statement")
_DEADLOCK = 1213  # which undoes the whole transaction, where other errors undo a statement

# PyMySQL before 1.2 carries bytes as surrogates in the statement's text.
_SURROGATES = "surrogateescape" if pymysql.VERSION[:2] < (1, 2) else "strict"

# The length of a packet that goes on in the next, and the first byte of an error:
# https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html
_LONGEST, _ERROR = 0xFFFFFF, 0xFF

# Bytes that a server may answer to what we ask of our own accord: nothing of it needs more than a few kilobytes, and
# one that never stops must not fill the function's memory.
_MOST = 1 << 20
_PIECE = 1 << 16
# Seconds that a socket may wait longer than is left, to spare the system call that would correct it.
_SLACK = 0.005
# What PyMySQL raises where an answer is not what it expects; besides `Exception` itself.
_GARBLED = (
    struct.error,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
)


if TYPE_CHECKING:
    _Connection = Connection[Any]
else:  # generic in its type stubs only
    _Connection = Connection


class BoundedConnection(_Connection):
    """A `pymysql.connections.Connection`; to its borrowers no different."""

    # PyMySQL's own, which its type stubs leave out.
    _sock: Any
    _rfile: Any
    _result: Any
    _closed: bool
    _read_timeout: float | None
    _current_timeout: float | None = None
    _next_seq_id: int
    _affected_rows: int
    encoding: str
    server_version: str
    server_status: int
    server_capabilities: int

    unanswered = False
    """A command was sent, and its answer was not read to the end: an exception came between."""
    in_doubt = False
    """A statement failed or streams, so that the transaction flag of the last answer may be out of date."""
    session_changed = False
    """What may outlive a transaction unseen was set: the isolation level, the read-only flag, or one of these three."""
    moved = False
    """Another database was chosen."""
    tables_locked = False
    """Tables were locked by hand."""
    role_changed = False
    """Another role was taken."""
    committing = False
    """What is on the wire is the pool's own COMMIT."""
    cancelled = False
    """It is being ended because its invocation ends."""
    doomed = False
    """So was a statement of this transaction, which must not be committed: KILL QUERY undoes the statement alone."""
    encrypt = False
    """An unencrypted connection is refused."""
    guarded = False
    """`Pool.run` holds the transaction: `commit()` is refused."""
    failed_with: tuple[Any, ...] = ()
    """Number and text of the last error of a statement."""
    ended = False
    """The guarded work ended its own transaction, by raw SQL or an implicit commit, or may have."""
    undone: tuple[Any, ...] = ()
    """Number and text of the deadlock by which the server undid the guarded transaction."""

    def __init__(self, **arguments: Any) -> None:
        """PyMySQL's, whose arguments these are."""
        # Its own from the beginning: CPython has a shortcut to an object's attributes, and none to its class's.
        self.unanswered = self.in_doubt = self.session_changed = self.cancelled = self.doomed = self.guarded = False
        self.failed_with = ()
        super().__init__(**arguments)

    def query(self, sql: Any, unbuffered: bool = False) -> int:
        """Run one statement (every cursor's way to the server)."""
        if self.cancelled:  # said on another thread of a statement that had just ended
            self.cancelled = False
        # What PyMySQL's own does, and `_execute_command` here: two calls less on the way of each statement.
        if isinstance(sql, str):
            command = sql.encode(self.encoding, _SURROGATES)
        else:
            command = sql = bytes(sql) if isinstance(sql, bytearray) else sql  # as `executemany` makes it
        if self.guarded:
            self._guard(sql)
        try:
            if self.unanswered:
                self.abandon()
            self.unanswered = True
            _Connection._execute_command(self, COMMAND.COM_QUERY, command)  # type: ignore[attr-defined]
            affected = self._affected_rows = self._read_query_result(unbuffered)
            self.unanswered = False
        except BaseException as error:
            self.in_doubt = True
            if isinstance(error, Exception):
                self.failed_with = error.args
                if self.guarded and error.args[:1] == (_DEADLOCK,):
                    self.undone = error.args
                self._note_answer(error)
                if self.cancelled:
                    raise self._given_up(error) from error
            raise
        if self.cancelled:  # SLEEP() and the like return early instead of failing
            self.in_doubt = True
            raise self._given_up(TimeoutError("the statement returned early"))
        # A streamed result reports the transaction only with its last packet, and PyMySQL does not look there.
        if self.in_doubt is not unbuffered:
            self.in_doubt = unbuffered
        if sql.lstrip()[:3].upper() in _TOLD:
            self._look_at(sql)
        if self.guarded and not self.server_status & _IN_TRANSACTION and not unbuffered:
            self.ended = True
        return affected

    def _guard(self, sql: str | bytes) -> None:
        """Look at a statement of `Pool.run`'s work before it is sent: its answer may never come.

        Raises the deadlock's error again, as PostgreSQL does: what follows it would be a transaction without its
        beginning.
        """
        if self.undone:
            raise pymysql.OperationalError(*self.undone)
        if not _stays(sql, several=bool(self.client_flag & CLIENT.MULTI_STATEMENTS)):
            self.ended = True

    def _refuse_if_guarded(self, method: str) -> None:
        """`Pool.run` commits itself, and could else not know whether a replay is safe."""
        if self.guarded:
            raise pymysql.ProgrammingError(f"{method}() inside Pool.run(): run() commits when the work returns")

    def _execute_command(self, command: int, sql: str | bytes) -> None:
        """Send one command: every command's way to the server.

        One that was left unanswered ends the connection, because its answer would be taken for the next one's.
        """
        if self.unanswered:
            self.abandon()
        self.unanswered = True
        _Connection._execute_command(self, command, sql)  # type: ignore[attr-defined]

    def _note_answer(self, error: Exception) -> None:
        """An error of the server's own is an answer."""
        if isinstance(error, pymysql.MySQLError) and error.args and is_answer(error.args[0]):
            self.unanswered = False

    def _read_ok_packet(self) -> Any:
        try:
            packet = super()._read_ok_packet()  # type: ignore[misc]
        except Exception as error:
            self._note_answer(error)
            if self.cancelled:
                raise self._given_up(error) from error
            raise
        self.unanswered = self.cancelled = False  # the answer was faster than the cancel, if there was one
        return packet

    def next_result(self, unbuffered: bool = False) -> int:
        """Read the next result of a statement that has several."""
        # Inside `_execute_command`, which reads what is left of the statement before, its own command is unanswered.
        before, self.unanswered = self.unanswered, True
        try:
            affected = super().next_result(unbuffered)
        except Exception as error:
            self.in_doubt = True
            self._note_answer(error)
            raise
        self.unanswered = before
        return affected

    def show_warnings(self) -> Any:
        """SHOW WARNINGS."""
        rows = super().show_warnings()  # type: ignore[no-untyped-call]
        self.unanswered = False
        return rows

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """SET NAMES."""
        super().set_character_set(charset, collation)
        self.unanswered = False

    def abandon(self) -> None:
        """Close this process's end, without a word to the server."""
        self._force_close()  # type: ignore[attr-defined]

    def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        """Read one packet, and raise the error in it. As PyMySQL does, in fewer steps: each row comes by here."""
        if self._current_timeout != self._read_timeout:
            self._sock.settimeout(self._read_timeout)
            self._current_timeout = self._read_timeout
        data, length = b"", _LONGEST
        while length == _LONGEST:  # then another continues it
            head = self._read_bytes(4)  # type: ignore[attr-defined]
            length, number = head[0] | head[1] << 8 | head[2] << 16, head[3]
            if number != self._next_seq_id:
                self._lose_step(number)
            self._next_seq_id = (number + 1) & 0xFF
            piece = self._read_bytes(length)  # type: ignore[attr-defined]
            data = data + piece if data else piece
        packet = packet_type(data, self.encoding)
        if data[0] == _ERROR:
            if self._result is not None and self._result.unbuffered_active:
                self._result.unbuffered_active = False
            packet.raise_for_error()
        return packet

    def _lose_step(self, number: int) -> NoReturn:
        """Give up a connection whose packets are not numbered as they should be."""
        self.abandon()
        if number == 0:  # as servers number the good-bye that they say unasked
            raise pymysql.OperationalError(CR.CR_SERVER_LOST, "Lost connection to MySQL server during query")
        raise pymysql.InternalError(f"Packet sequence number wrong - got {number} expected {self._next_seq_id}")

    def _read_query_result(self, unbuffered: bool = False) -> int:
        self._result = None
        result: Any = _Result(self)
        if unbuffered:
            try:
                result.init_unbuffered_query()
            except BaseException:
                # Before PyMySQL 1.1.2 its destructor would read on, of which there is nothing.
                result.unbuffered_active, result.connection = False, None
                raise
        else:
            result.read()
        self._result = result
        if result.server_status is not None:
            self.server_status = result.server_status
        return int(result.affected_rows)

    def _given_up(self, error: BaseException) -> DeadlineExceeded:
        self.cancelled = False
        self.doomed = True
        return cancelled(error)

    def _look_at(self, statement: str | bytes) -> None:
        text = (statement if isinstance(statement, str) else statement.decode("latin1")).lower()
        first, second, *_ = (*text.split(None, 2), "", "")
        self.moved |= first == "use"
        self.tables_locked |= first == "lock"
        self.role_changed |= second == "role"
        if first != "set" or second == "role" or any(word in text for word in _SESSION_WORDS):
            self.session_changed = True

    def select_db(self, db: Any) -> None:
        """USE."""
        super().select_db(db)
        self.moved = self.session_changed = True

    def commit(self) -> None:
        """COMMIT; refused inside `Pool.run`."""
        self._refuse_if_guarded("commit")
        super().commit()
        self.in_doubt = False

    def commit_within(self, timeout: float | None) -> None:
        """`commit()`, answered within `timeout` seconds (None: no bound).

        What nearly every COMMIT is answered with is understood here: `bounded` gives the connection other methods for a
        while, and a warm invocation takes 70,000 instructions more.
        """
        if timeout is None:
            with self.bounded(None):
                self.commit()
            return
        deadline = monotonic() + timeout
        sock = self._sock
        self.unanswered = self.committing = True
        try:
            sock.settimeout(timeout)
            sock.sendall(_COMMIT)
            self._next_seq_id = 1
            self._result = None
            heard = self._rfile.read1(len(_DONE) + 4)
            if len(heard) == len(_DONE) + 4 and heard.startswith(_DONE):
                self.server_status = heard[-4] | heard[-3] << 8
                self.unanswered = self.cancelled = False
            else:
                with self.bounded(max(deadline - monotonic(), 0.0), heard=heard):
                    self._read_ok_packet()
        except OSError as error:
            self.abandon()
            raise pymysql.OperationalError(
                CR.CR_SERVER_LOST, f"Lost connection to MySQL server during COMMIT ({error})"
            ) from error
        finally:
            self.committing = False
            if self._sock is not None:
                sock.settimeout(self._read_timeout)
                self._current_timeout = self._read_timeout
        self.in_doubt = False

    def lost_before_commit(self) -> Exception:
        """The driver's error for a connection whose end was noticed before COMMIT was sent."""
        return pymysql.OperationalError(CR.CR_SERVER_LOST, "Lost connection to MySQL server before COMMIT was sent")

    def begin(self) -> None:
        """BEGIN, which commits what was before it; refused inside `Pool.run`."""
        self._refuse_if_guarded("begin")
        super().begin()

    def autocommit(self, value: bool) -> None:
        """SET autocommit, which commits where it switches that on; then refused inside `Pool.run`."""
        if value and not self.get_autocommit():
            self._refuse_if_guarded("autocommit")
        super().autocommit(value)

    def ping(self, reconnect: bool = False) -> None:  # type: ignore[override]
        """COM_PING. It never connects anew: amid a block that would be another session, and half of the work."""
        super().ping(reconnect=False)

    def rollback(self) -> None:
        """ROLLBACK."""
        if self.guarded:
            self.ended, self.undone = True, ()
        super().rollback()
        self.in_doubt = False

    @property
    def in_transaction(self) -> bool:
        """True if the server said so, or if nobody can know without asking."""
        return self.in_doubt or bool(self.server_status & _IN_TRANSACTION)

    @property
    def unfinished(self) -> bool:
        """True if a result waits on the wire."""
        result = self._result
        return result is not None and bool(result.unbuffered_active or result.has_next)

    def reset(self, charset: str, collation: str | None) -> None:
        """COM_RESET_CONNECTION, which keeps only the login, and then what a new connection sets."""
        self._execute_command(_COM_RESET_CONNECTION, b"")
        self._read_ok_packet()
        self.set_character_set(charset, collation)
        for statement in (self.sql_mode and f"SET sql_mode={self.escape(self.sql_mode)}", self.init_command):
            if statement:
                self.query(statement)
        self.in_doubt = self.session_changed = False
        self._result = None

    def ping_within(self, timeout: float) -> None:
        """COM_PING, answered within `timeout` seconds."""
        with self.bounded(timeout):
            self._execute_command(COMMAND.COM_PING, b"")
            self._read_ok_packet()

    def hear_out(self, timeout: float) -> NoReturn:
        """Read what the server said unasked, which is its good-bye, and raise it."""
        with self.bounded(timeout):
            self._next_seq_id = 1
            self._read_packet()
            raise pymysql.OperationalError(CR.CR_COMMANDS_OUT_OF_SYNC, "the server spoke unasked")

    @property
    def overheard(self) -> bool:
        """True if the last answer announced another, or was not all that was decrypted: the socket shows neither."""
        pending = getattr(self._sock, "pending", None)
        return bool(self.server_status & SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS or (pending and pending()))

    def connect_within(self, timeout: float) -> None:
        """TCP, TLS and login together within `timeout` seconds."""
        if self.user is None:
            raise ConfigError(
                "the URL names no user, and this machine's is not known: write mysql://user@host/database"
            )
        deadline = monotonic() + timeout
        with self.bounded(timeout):
            self.connect(self._dial(deadline))

    def _dial(self, deadline: float) -> socket.socket:
        path = self.unix_socket
        try:
            if path:
                addresses: list[Any] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", path)]
            else:
                addresses = socket.getaddrinfo(self.host, self.port, 0, socket.SOCK_STREAM)
            return _first_answering(addresses, deadline)
        except OSError as error:
            target = path or self.host
            raise pymysql.OperationalError(
                CR.CR_CONN_HOST_ERROR, f"Can't connect to MySQL server on {target!r} ({error})"
            ) from error

    def _request_authentication(self) -> None:
        # PyMySQL before 1.2 goes on in plain text, password and all, where a server offers no TLS.
        # Nor does any go on if connect_args switch TLS off.
        if self.encrypt and not (self.ssl and self.server_capabilities & CLIENT.SSL):
            raise pymysql.OperationalError(
                CR.CR_SSL_CONNECTION_ERROR, "SSL is required, and the server does not support it"
            )
        super()._request_authentication()  # type: ignore[misc]

    @property
    def is_bounded(self) -> bool:
        """True inside of a `bounded` block."""
        return "_read_bytes" in vars(self)

    def bounded(self, timeout: float | None, most: float = _MOST, heard: bytes = b"") -> "_Bounds":
        """Bound all reads and writes in a `with` block, together, to `timeout` seconds (None: no bound), `most` bytes.

        `heard`: what was read already of what is to be read.

        PyMySQL's own timeouts start anew with every piece read, so a server that drips bytes would never run into them.
        An answer that PyMySQL cannot read is the loss of the connection.
        """
        return _Bounds(self, timeout, most, heard)


class _Bounds:
    """What `BoundedConnection.bounded` gives: stands in for PyMySQL's reading and writing while its block runs."""

    # No generator: a signal's exception would leave that suspended, to be ended at some later time.
    __slots__ = ("_conn", "_deadline", "_heard", "_room", "_set")

    def __init__(self, conn: BoundedConnection, timeout: float | None, most: float, heard: bytes) -> None:
        self._conn = conn
        self._deadline = None if timeout is None else monotonic() + timeout
        self._room = most
        self._heard = heard
        self._set = float("inf")  # seconds: the socket's own timeout, of ours

    def __enter__(self) -> None:
        conn = self._conn
        conn._read_bytes = self._read  # type: ignore[attr-defined]
        if self._deadline is not None:
            conn._write_bytes = self._write  # type: ignore[attr-defined]
            conn._current_timeout = conn._read_timeout  # so that PyMySQL leaves the socket's timeout to us

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        conn = self._conn
        vars(conn).pop("_read_bytes", None)
        vars(conn).pop("_write_bytes", None)
        if self._deadline is not None and conn._sock is not None:
            conn._sock.settimeout(conn._read_timeout)
        if type(error) is Exception or isinstance(error, _GARBLED):
            conn.abandon()
            raise pymysql.OperationalError(
                CR.CR_MALFORMED_PACKET, f"the server's answer cannot be read ({type(error).__name__}: {error})"
            ) from error

    def _hurry(self, deadline: float) -> None:
        """Let the socket wait no longer than until the deadline. Raises TimeoutError when that has passed."""
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        # Each call is a system call; one for the two reads of an answer that is there is enough.
        if left < self._set - _SLACK:
            self._conn._sock.settimeout(left)
            self._set = left

    def _read(self, count: int) -> bytes:
        conn, deadline = self._conn, self._deadline
        self._room -= count
        if self._room < 0:
            raise ValueError("it is longer than any that was to come")
        if deadline is None:
            return _Connection._read_bytes(conn, count)  # type: ignore[attr-defined,no-any-return]
        try:
            piece, self._heard = self._heard[:count], self._heard[count:]
            if not piece and count:
                self._hurry(deadline)
                piece = conn._rfile.read1(min(count, _PIECE))
            if len(piece) == count:  # nearly always
                return piece
            data = bytearray(piece)
            while piece and len(data) < count:
                self._hurry(deadline)
                piece = conn._rfile.read1(min(count - len(data), _PIECE))
                data += piece
            if len(data) < count:
                raise ConnectionResetError("the server closed the connection")
        except OSError as error:
            conn.abandon()
            raise pymysql.OperationalError(
                CR.CR_SERVER_LOST, f"Lost connection to MySQL server during query ({error})"
            ) from error
        return bytes(data)

    def _write(self, data: bytes) -> None:
        assert self._deadline is not None
        try:
            self._hurry(self._deadline)
            self._conn._sock.sendall(data)
        except OSError as error:
            self._conn.abandon()
            raise pymysql.OperationalError(
                CR.CR_SERVER_GONE_ERROR, f"MySQL server has gone away ({error!r})"
            ) from error


def _stays(statement: str | bytes, *, several: bool) -> bool:
    """False for a statement that may end its transaction. `several`: it may be more than one."""
    text = (statement if isinstance(statement, str) else statement.decode("latin1")).lower()
    # Comments first, but for those that are executed. What was passed over is not looked at again (`(?>`, `*+`): with
    # thirty blanks in front of something else, trying every other way would take minutes.
    match = re.match(r"(?>[\s(]|/\*(?!m?!).*?\*/|(?:#|--\s)[^\n]*\n)*+(\w+)\s*(\w*)", text, re.DOTALL)
    if match is None or (several and ";" in text.rstrip("; \t\r\n")):
        return False
    first, second = match.groups()
    if first == "set":
        return not any(word in text for word in _LEAVING_SET)
    if first == "rollback":
        return bool(re.search(r"rollback\s+(work\s+)?to\b", text))
    return first in _STAYING or second in _STAYING_WITH.get(first, ())


class _Result(MySQLResult):
    """A result that knows whether its SELECT left a transaction open: the last packet says so, and PyMySQL reads past.

    Unseen, a handler that only reads would keep its snapshot, and the next invocation would read old rows.
    """

    def _check_packet_is_eof(self, packet: Any) -> bool:
        if not packet.is_eof_packet():
            return False
        end = EOFPacketWrapper(packet)
        self.warning_count, self.has_next = end.warning_count, end.has_next
        self.server_status = end.server_status
        return True

    def _read_rowdata_packet_unbuffered(self) -> Any:
        conn: Any = self.connection
        try:
            return super()._read_rowdata_packet_unbuffered()  # type: ignore[misc]
        except Exception as error:
            if conn is not None and conn.cancelled:
                raise conn._given_up(error) from error
            raise


def _first_answering(addresses: list[Any], deadline: float) -> socket.socket:
    """Connect to the first address that answers before the deadline. Raises the last OSError."""
    problem: OSError = OSError("no address")
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            left = deadline - monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            sock.settimeout(left)
            sock.connect(address)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNACKNOWLEDGED * 1000))
        except OSError as error:
            sock.close()
            problem = error
        else:
            return sock
    raise problem
