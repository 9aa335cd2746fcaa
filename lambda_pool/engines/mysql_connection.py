"""PyMySQL's connection with the two things it lacks: waits bounded by a clock, and a memory of unanswered statements.

Only `engines.mysql` imports this module, when it first connects: importing it imports PyMySQL.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.connections import Connection, MySQLResult
from pymysql.constants import CLIENT, COMMAND, CR, SERVER_STATUS
from pymysql.protocol import EOFPacketWrapper

from ..errors import DeadlineExceeded
from .base import cancelled
from .sockets import UNACKNOWLEDGED

# Not in pymysql.constants: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_reset_connection.html
_COM_RESET_CONNECTION = 0x1F
_IN_TRANSACTION = SERVER_STATUS.SERVER_STATUS_IN_TRANS

# A borrower changes isolation and read-only for the session by SQL alone, so its statements are looked at: these are
# the words of `SET SESSION TRANSACTION …` and of the variables transaction_isolation, tx_read_only and their kin.
_SESSION_WORDS = ("transaction", "tx_")
_SET = ("SET", b"SET")


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
    _current_timeout: float | None
    _execute_command: Callable[[int, bytes], None]
    _read_ok_packet: Callable[[], Any]
    _force_close: Callable[[], None]
    server_version: str
    server_status: int
    server_capabilities: int

    in_doubt = False
    """A statement failed or streams, so that the transaction flag of the last answer may be out of date."""
    session_changed = False
    """The session's isolation level or read-only flag was set."""
    running = False
    """A statement is on the wire."""
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
    """The guarded work ended its own transaction, by raw SQL or an implicit commit."""

    def query(self, sql: Any, unbuffered: bool = False) -> int:
        """Run one statement (every cursor's way to the server)."""
        self.in_doubt = True
        self.running = True
        try:
            affected: int = super().query(sql, unbuffered)
        except Exception as error:
            self.failed_with = error.args
            if self.cancelled:
                raise self._given_up(error) from error
            raise
        finally:
            self.running = False
        if self.cancelled:  # SLEEP() and the like return early instead of failing
            raise self._given_up(TimeoutError("the statement returned early"))
        # A streamed result reports the transaction only with its last packet, and PyMySQL does not look there.
        self.in_doubt = unbuffered
        if sql.lstrip()[:3].upper() in _SET:
            self._look_at(sql)
        if self.guarded and not self.server_status & _IN_TRANSACTION and not unbuffered:
            self.ended = True
        return affected

    def _read_query_result(self, unbuffered: bool = False) -> int:
        self._result = None
        result: Any = _Result(self)
        if unbuffered:
            result.init_unbuffered_query()
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
        if any(word in text for word in _SESSION_WORDS):
            self.session_changed = True

    def commit(self) -> None:
        """COMMIT; refused inside `Pool.run`, which commits itself and could else not know whether a replay is safe."""
        if self.guarded:
            raise pymysql.ProgrammingError("commit() inside Pool.run(): run() commits when the work returns")
        super().commit()
        self.in_doubt = False

    def lost_before_commit(self) -> Exception:
        """The driver's error for a connection whose end was noticed before COMMIT was sent."""
        return pymysql.OperationalError(CR.CR_SERVER_LOST, "Lost connection to MySQL server before COMMIT was sent")

    def rollback(self) -> None:
        """ROLLBACK."""
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

    def reset(self) -> None:
        """COM_RESET_CONNECTION, which keeps only the login, and then what a new connection sets."""
        self._execute_command(_COM_RESET_CONNECTION, b"")
        self._read_ok_packet()
        self.set_character_set(self.charset, self.collation)
        for statement in (self.sql_mode and f"SET sql_mode={self.escape(self.sql_mode)}", self.init_command):
            if statement:
                super().query(statement)
        self.in_doubt = self.session_changed = False
        self._result = None

    def ping_within(self, timeout: float) -> None:
        """COM_PING, answered within `timeout` seconds."""
        with self.bounded(timeout):
            self._execute_command(COMMAND.COM_PING, b"")
            self._read_ok_packet()

    def connect_within(self, timeout: float) -> None:
        """TCP, TLS and login together within `timeout` seconds."""
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
        if self.encrypt and not self.server_capabilities & CLIENT.SSL:
            raise pymysql.OperationalError(
                CR.CR_SSL_CONNECTION_ERROR, "SSL is required, and the server does not support it"
            )
        super()._request_authentication()  # type: ignore[misc]

    @contextmanager
    def bounded(self, timeout: float | None) -> Iterator[None]:
        """Bound all reads and writes in this block, together, to `timeout` seconds (None: no bound).

        PyMySQL's own timeouts start anew with every piece read, so a server that drips bytes would never run into them.
        """
        if timeout is None:
            yield
            return
        deadline = monotonic() + timeout

        def left() -> float:
            rest = deadline - monotonic()
            if rest <= 0:
                raise TimeoutError("no answer in time")
            return rest

        def read(count: int) -> bytes:
            data = b""
            try:
                while len(data) < count:
                    self._sock.settimeout(left())
                    piece = self._rfile.read1(count - len(data))
                    if not piece:
                        raise ConnectionResetError("the server closed the connection")
                    data += piece
            except OSError as error:
                self._force_close()
                raise pymysql.OperationalError(
                    CR.CR_SERVER_LOST, f"Lost connection to MySQL server during query ({error})"
                ) from error
            return data

        def write(data: bytes) -> None:
            try:
                self._sock.settimeout(left())
                self._sock.sendall(data)
            except OSError as error:
                self._force_close()
                raise pymysql.OperationalError(
                    CR.CR_SERVER_GONE_ERROR, f"MySQL server has gone away ({error!r})"
                ) from error

        self._read_bytes = read
        self._write_bytes = write
        try:
            yield
        finally:
            del self._read_bytes, self._write_bytes
            if self._sock is not None:
                self._sock.settimeout(self._read_timeout)
                self._current_timeout = self._read_timeout


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
