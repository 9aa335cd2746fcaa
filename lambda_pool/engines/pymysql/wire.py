"""The socket under a PyMySQL connection: it bounds waits and answers, sees each command, and can send several at once.

PyMySQL takes a socket that is given to it. What it reads and writes is therefore bounded here, below the driver, whose
own timeouts start again with each piece of an answer. On an event loop, only the task waits.
"""

import errno
import os
import socket
import ssl
import struct
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from threading import get_ident
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.constants import CLIENT, COMMAND, CR

from ... import invocation
from ...errors import ConfigError
from ...waiting import READ, WRITE, OverdueError, pause, ready, unbroken
from ..base import from_elsewhere
from ..bounded_socket import UNACKNOWLEDGED, shut_down

Following = tuple[bytes, bytes]
"""A command that goes out with the one before it, and what the driver will want to send when its turn comes."""

# An SSLRequest is a header of 4 bytes and 32 bytes of payload: all that may be sent in clear text if TLS is asked for.
# https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_ssl_request.html
_SSL_REQUEST = 36
# What a result of rows ends with: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_eof_packet.html
_EOF = 9

_ASKING = 1.0  # seconds
_A_MOMENT = 0.01  # seconds that a task may read what is there, while the others wait


class Line:
    """What a connection's sockets have in common: the plain one, and the TLS one that takes its place."""

    def __init__(self) -> None:
        self.response_pending: bool = False
        """A command was announced, and its answer was not read to the end: an exception came between."""
        self.ours: bool = False
        """The pool's own commands run, bounded in time and bytes."""
        self.deadline: float | None = None
        self.room: float = float("inf")
        self.encrypt: bool = False
        """Nothing but the request for TLS may be sent in clear text."""
        self.silent: bool = False
        """Nothing is sent any more: the driver's own close() would send COM_QUIT."""
        self.dry: bool = False
        """Reading finds nothing. This is for a look at what the driver's reader has in its buffer."""
        self.following: Sequence[Following] = ()
        """What goes out in one write with the next command."""
        self.ahead: deque[bytes] = deque()
        """What the driver is about to send, although it was sent already."""
        self.broken: bool = False
        """A packet was not sent to its end: what is sent after it would be taken for the rest of it."""
        self.tail: bytes = b""
        """The last bytes that were received."""
        self.awaited: bool = False
        """The sockets wait on an event loop, where one runs."""
        self.attended: bool = False
        """A task waits on the socket: closing the descriptor would leave it waiting for ever."""
        self.thread: int | None = None
        """The thread that is inside of a command."""
        self.stop: Callable[[float], object] | None = None
        """If they do: asks the server, within the given seconds, to end the statement."""
        self.watched: bool = False
        """A running statement must be ended before the invocation ends."""
        self.reader: Callable[[], Any] = lambda: None
        """A weak reference to the driver's reader."""

    def is_taken(self) -> bool:
        """True if another task or thread is inside of a command."""
        return self.attended or self.thread not in {None, get_ident()}

    def leftover(self) -> bool:
        """True if the driver's reader holds something that was received and not asked for."""
        reader = self.reader()
        if reader is None or reader.closed:
            return False
        if (self.thread or self.attended) and self.is_taken():  # another one reads: a look would wait for it
            return True
        self.dry = True
        try:
            return bool(reader.peek(1))
        finally:
            self.dry = False

    def status_of_rows(self) -> int | None:
        """The server status in the packet that ends the rows, if that was received last. PyMySQL skips it."""
        tail = self.tail
        if len(tail) < _EOF or tail[:3] != b"\5\0\0" or tail[4] != 0xFE:
            return None
        return int.from_bytes(tail[-2:], "little")


class _Bounded:
    """The part of both kinds of socket that is ours. They never block: each wait goes through the seam.

    Where no event loop runs, that blocks the thread.
    """

    line: Line
    patience: float | None = None
    """Seconds that the driver wants to wait for each piece. None: for ever."""
    _asked = _stopped = False
    """A command went out whose answer has not begun; the server was asked to end it."""
    _waited = 0.0
    """When the other tasks had their turn last (monotonic)."""

    if TYPE_CHECKING:
        fileno: Any

    def settimeout(self, value: float | None) -> None:
        """The driver's own timeout, which applies in addition to the line's deadline."""
        self.patience = value
        super().settimeout(0.0)  # type: ignore[misc]

    def gettimeout(self) -> float | None:
        """What the driver wants, which `ssl` puts back after the handshake."""
        return self.patience

    def makefile(self, *arguments: Any, **options: Any) -> Any:
        """The driver's reader."""
        reader = super().makefile(*arguments, **options)  # type: ignore[misc]
        self.line.reader = weakref.ref(reader)
        return reader

    # --- the driver's calls -------------------------------------------------------------------------------------------

    def connect(self, address: Any) -> None:
        """Like the socket's."""
        problem = super().connect_ex(address)  # type: ignore[misc]
        while problem == errno.EAGAIN:  # a Unix socket that too many connect to
            self._check_deadline()
            pause(_A_MOMENT)
            problem = super().connect_ex(address)  # type: ignore[misc]
        if problem == errno.EINPROGRESS:
            self._wait(WRITE)
            problem = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # type: ignore[attr-defined]
        if problem:
            raise OSError(problem, os.strerror(problem))

    def do_handshake(self) -> None:
        """Like that of a TLS socket."""
        self._until_done(super().do_handshake)  # type: ignore[misc]

    def recv_into(self, buffer: Any, *arguments: Any) -> int:
        """Read a piece of an answer. It always waits for the first one, so that other tasks get their turn.

        If rows arrive as fast as they are read, it waits now and then too: other tasks get their turn, and the deadline
        is checked.
        """
        line = self.line
        if line.dry:
            return 0
        self._check_deadline()
        first, self._asked = self._asked, False
        if (first or monotonic() - self._waited > _A_MOMENT) and not self._decrypted():
            self._wait(READ, amid=not first)
        count: int = self._until_done(super().recv_into, buffer, *arguments)  # type: ignore[misc]
        line.room -= count
        if line.room < 0:
            raise ConnectionAbortedError("the answer is longer than any that was expected")
        if count < _EOF:
            line.tail = (line.tail + bytes(buffer[:count]))[-_EOF:]
        else:
            line.tail = bytes(buffer[count - _EOF : count])
        return count

    def sendall(self, data: Any, *arguments: Any) -> None:
        """Send a command, with those that follow it; or nothing, if it was sent already.

        Raises ConfigError for one that no method of ours announced: nobody would see its answer, or what it does to the
        transaction.
        """
        line = self.line
        if line.silent:
            raise ConnectionAbortedError("the connection was already given up")
        if not line.response_pending:
            raise unknown_driver("it sends a command in another way")
        if line.ahead:
            if line.ahead.popleft() != data:
                raise unknown_driver("it sends other bytes for the same command")
            return
        if line.following:
            if len(data) < 4 or int.from_bytes(data[:3], "little") != len(data) - 4:
                raise unknown_driver("it sends a command in pieces")
            following, line.following = line.following, ()
            data = b"".join([data, *(sent for sent, _ in following)])
            line.ahead.extend(expected for _, expected in following)
        self._check_deadline()
        self._asked, self._stopped = True, False
        left = memoryview(data).cast("B")
        while left:
            left = left[self._until_done(super().send, left, *arguments, full=WRITE) :]  # type: ignore[misc]

    def _until_done(self, call: Callable[..., Any], *arguments: Any, full: int = READ) -> Any:
        """Make a call of the socket's own, again until it does not have to wait: for `full`, unless TLS says more."""
        while True:
            try:
                return call(*arguments)
            except BlockingIOError:
                events = full
            except ssl.SSLWantReadError:
                events = READ
            except ssl.SSLWantWriteError:
                events = WRITE
            self._wait(events)

    def _decrypted(self) -> int:
        """Bytes that can be read although the descriptor does not show them."""
        return 0

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _check_deadline(self) -> None:
        """Raises OverdueError if it has passed."""
        deadline = self.line.deadline
        if deadline is not None and monotonic() >= deadline:
            raise OverdueError("no answer in time")

    def _wait(self, events: int, *, amid: bool = False) -> None:
        """Wait for the server. Raises OverdueError, and CancelledError after it has ended the statement.

        `amid`: in the middle of an answer, where readable data does not mean that the whole comes in time.
        """
        line = self.line
        line.attended = line.awaited
        try:
            self._wait_for(events, amid=amid)
        finally:
            line.attended = False
            self._waited = monotonic()

    def _wait_for(self, events: int, *, amid: bool) -> None:
        line = self.line
        left = self.patience
        if line.deadline is not None:
            bound = max(line.deadline - monotonic(), 0.0)
            left = bound if left is None else min(left, bound)
        if line.ours or line.deadline is not None or line.stop is None:
            self._ready(events, left)
            return
        remaining = invocation.remaining() if line.watched else None
        try:
            if remaining is None or (left is not None and left < remaining):
                self._ready(events, left)
                return
            if not (amid and remaining <= 0) and ready(self.fileno(), events, max(remaining, 0.0)):
                return
        except BaseException:
            with unbroken(_ASKING):
                line.stop(invocation.at_most(_ASKING))  # the server is to know that nobody wants its answer
            raise
        patience = invocation.reserve.seconds / 3
        stopped, self._stopped = self._stopped, True
        if not stopped:
            line.stop(patience)
        if stopped or not ready(self.fileno(), events, patience):
            shut_down(self.fileno())
            raise OverdueError("no answer in time")

    def _ready(self, events: int, left: float | None) -> None:
        if not ready(self.fileno(), events, left):
            raise OverdueError("timed out")


class BoundedSocket(_Bounded, socket.socket):
    """A plain socket."""

    def sendall(self, data: Any, *arguments: Any) -> None:
        """Send a command. If TLS is asked for, none that shows a name or a password goes out in clear text."""
        # PyMySQL before 1.2 goes on in plain text if a server offers no TLS; so does any version that is told to.
        if self.line.encrypt and not (len(data) == _SSL_REQUEST and data[5] << 8 & CLIENT.SSL):
            raise pymysql.OperationalError(
                CR.CR_SSL_CONNECTION_ERROR, "SSL is required, and the server does not support it"
            )
        super().sendall(data, *arguments)


class BoundedTlsSocket(_Bounded, ssl.SSLSocket):  # type: ignore[misc]
    """A TLS socket."""

    def _decrypted(self) -> int:
        return self.pending()


class Wrapping:
    """Stands in for the driver's SSLContext while it connects: it makes a socket of ours, with the same line."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.wrapped: BoundedTlsSocket | None = None

    def wrap_socket(self, sock: BoundedSocket, server_hostname: str | None = None) -> BoundedTlsSocket:
        """As SSLContext.wrap_socket(). The handshake ends at the line's deadline."""
        line, patience = sock.line, sock.patience
        self._context.sslsocket_class = BoundedTlsSocket
        wrapped = self._context.wrap_socket(sock, server_hostname=server_hostname, do_handshake_on_connect=False)
        assert isinstance(wrapped, BoundedTlsSocket)
        wrapped.line, wrapped.patience = line, patience
        try:
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()  # the driver knows only the plain one, which is empty by now
            raise
        self.wrapped = wrapped
        return wrapped


# What PyMySQL raises, besides `Exception` itself, if an answer is not what it expects.
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


class Bounds:
    """A `with` block whose reads and writes, together, are bounded in seconds and bytes. `ours`: the pool asks."""

    # A class, not a generator: an exception from a signal handler could leave a generator suspended, and the bounds in
    # force.
    __slots__ = ("_before", "_conn", "_deadline", "_most", "_ours")

    def __init__(self, conn: Any, timeout: float | None, most: float, *, ours: bool = True) -> None:
        self._conn = conn
        self._ours = ours
        self._deadline = None if timeout is None else monotonic() + timeout
        self._most = most

    def __enter__(self) -> None:
        line = self._conn.line
        line.ours = self._ours
        self._before = line.deadline
        line.deadline, line.room = self._deadline, self._most

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        line = self._conn.line
        line.deadline, line.room = self._before, float("inf")
        line.ours = False
        garbled = type(error) is Exception or (isinstance(error, _GARBLED) and not isinstance(error, ConfigError))
        # PyMySQL's error for a file that nobody offered; without cryptography, it raises one of this type, too.
        garbled = garbled or (type(error) is RuntimeError and "LOAD_LOCAL" in str(error))
        if self._ours and error is not None and garbled and not from_elsewhere(error):
            self._conn.abandon()
            raise pymysql.OperationalError(
                CR.CR_MALFORMED_PACKET, f"the server's answer cannot be read ({type(error).__name__}: {error})"
            ) from error


def command(number: int, argument: bytes = b"") -> bytes:
    """A short command as it goes over the wire."""
    return struct.pack("<iB", len(argument) + 1, number) + argument


def query(statement: bytes) -> Following:
    """A statement that follows another."""
    packet = command(COMMAND.COM_QUERY, statement)
    return packet, packet


def unknown_driver(how: str) -> ConfigError:
    """The error for a PyMySQL that does not do what this release was written for."""
    return ConfigError(
        f"this release of lambda-pool does not know PyMySQL {pymysql.VERSION_STRING}: {how}. Install an earlier "
        "PyMySQL, or a newer lambda-pool"
    )


def dial(addresses: Sequence[Any], deadline: float, line: Line, source: str | None = None) -> BoundedSocket:
    """Connect to the first address that answers; they share the time until the deadline.

    In: what getaddrinfo() gives, and the local address to bind to. Raises the last OSError.
    """
    problem: OSError = OSError("no address")
    for number, (family, style, protocol, _, address) in enumerate(addresses):
        sock = BoundedSocket(family, style, protocol)
        sock.line = line
        others = len(addresses) - number - 1
        share = (deadline - monotonic()) / (others + 1)
        end = monotonic() + share
        try:
            if share <= 0:
                raise OverdueError("timed out")
            if source and family != socket.AF_UNIX:
                sock.bind((source, 0))
            sock.settimeout(share)
            sock.connect(address)
            sock.settimeout(None)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNACKNOWLEDGED * 1000))
            # MySQL speaks first. If there are other addresses, a server that says nothing does not get all the time.
            if others and not ready(sock.fileno(), READ, end - monotonic()):
                raise OverdueError("timed out before the server's greeting")
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError) or from_elsewhere(error):
                raise
            problem = error
        else:
            return sock
    raise problem
