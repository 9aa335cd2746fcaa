"""PyMySQL's connection, opened over a socket of ours that bounds each wait, and set up.

Imported only when the first connection is opened: importing it imports PyMySQL.
"""

import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CR, SERVER_STATUS

from ...errors import ConfigError
from ...waiting import within
from ..base import SILENT, from_elsewhere
from ..slow import OnSlow
from . import private
from .errors import is_answer
from .noted import Noted
from .wire import BoundedSocket, BoundedTlsSocket, Bounds, Line, Wrapping, dial

# Not in pymysql.constants: https://dev.mysql.com/doc/dev/mysql-server/latest/group__group__cs__capabilities__flags.html
SESSION_TRACK = 1 << 23
IN_TRANSACTION: int = SERVER_STATUS.SERVER_STATUS_IN_TRANS

# The server's own first command runs at a login, and not after a reset. NULL if there is none: any other value may
# be text, where PyMySQL's `conv` is the user's own.
INIT_CONNECT = "SELECT NULLIF(@@init_connect <> '', FALSE)"

# Bytes that a server may send in answer to the pool's own questions. Its longest packet is allowed; more than that must
# not fill the function's memory.
_MOST = 1 << 24

if TYPE_CHECKING:
    _Connection = Connection[Any]
else:  # generic in its type stubs only
    _Connection = Connection


class ConnectingConnection(_Connection):
    """A `pymysql.connections.Connection` whose every byte goes over a bounded socket."""

    # PyMySQL's own, which its type stubs leave out.
    server_status: int
    server_capabilities: int
    server_version: str
    ctx: Any

    sock: BoundedSocket | BoundedTlsSocket
    wanted: bool  # whether autocommit is on where nobody changed it
    session_idle: int = 0  # see ConnectRequest
    address: str = ""  # where to connect, whatever the host's name leads to by now
    stand_in: Any = None  # see `patched`
    slow_query: float = 0.0  # see ConnectRequest, as `on_slow` and `patience` are
    on_slow: OnSlow | None = None
    patience: float = 0.0
    comment: Callable[[Any], Any] | None = None  # what `trace_comment` makes of a borrower's statement
    cancelled: bool  # somebody asked the server to end the running statement, or aborted the connection for it
    reads_only: bool  # the pool told the session to make each transaction read-only
    # close() was called while it was open; and before its transaction was ended.
    closed_by_user: bool
    closed_in_transaction: bool

    def __init__(self, **arguments: Any) -> None:
        """The arguments are PyMySQL's."""
        self.line: Line = Line()
        self.noted: Noted = Noted()
        self.cancelled = self.closed_by_user = self.closed_in_transaction = False
        self.reads_only = self._connected = False
        self._largest: int | None = None  # bytes of the longest packet that the server takes, once it was asked
        super().__init__(**arguments)

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
        self.init_command = self.sql_mode = None  # `run_setup` sends them
        context = wrapping = plain = None
        if self.ssl:
            context, self.ctx = self.ctx, Wrapping(self.ctx)
            wrapping = self.ctx
        try:
            with self.bounded(timeout):
                self.line.response_pending = True
                plain = self._dial(deadline)
                self.connect(plain)
                # What the driver notes for a socket that it opens itself.
                self.host_info: str = (
                    "Localhost via UNIX socket" if self.unix_socket else f"socket {self.host}:{self.port}"
                )
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
        """PyMySQL's. Refused inside a block: it would be another session, and half of the work."""
        if self._connected:
            raise pymysql.ProgrammingError(
                "connect() is not allowed on a connection of the pool: leave the block, and borrow another"
            )
        super().connect(sock)

    def write_packet(self, payload: Any) -> None:
        """PyMySQL's, for a part of a command.

        After an error amid LOAD DATA LOCAL it would send one part more: then the same error is raised again instead.
        """
        error = sys.exception()
        if self.line.broken and error is not None:
            raise error
        self.line.broken = True
        super().write_packet(payload)
        self.line.broken = False

    def _dial(self, deadline: float) -> BoundedSocket:
        path = self.unix_socket
        try:
            if path:
                private.note_unix_socket(self)
                addresses: Sequence[Any] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", path)]
            else:
                host = self.address or self.host
                left = deadline - monotonic()
                addresses = within(left, socket.getaddrinfo, host, self.port, 0, socket.SOCK_STREAM)
            return dial(addresses, deadline, self.line, self.bind_address)
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
        """The statements that make a session one of this pool's, after the login and after each reset."""
        names = f"SET NAMES {self.charset}" + (f" COLLATE {self.collation}" if self.collation else "")
        names += f", wait_timeout={self.session_idle}" if self.session_idle else ""
        mode = f"sql_mode={self.escape(self.sql_mode)}" if self.sql_mode else ""
        if self.tracked:
            rest = [mode] if mode else []
            return (", ".join([names, *rest, f"autocommit={int(self.wanted)}", "session_track_state_change=1"]),)
        # Also used behind a pooler: send only statements that it does not pin for, one at a time.
        return (names, f"SET {mode}") if mode else (names,)

    def run_setup(self) -> None:
        """Send what `setup` says and the user's own `init_command`."""
        for statement in self.setup():
            self.query(statement)
        if self.init_command:
            with pymysql.cursors.Cursor(self) as cursor:  # its close() reads every result of a procedure
                cursor.execute(self.init_command)
        self.autocommit(self.wanted)
        if self.in_transaction:
            self.commit()

    def is_set_up_by_server(self) -> bool:
        """Whether the server may have set up this session at its login, in a way that a reset has undone."""
        try:
            self.query(INIT_CONNECT)
        except pymysql.MySQLError as error:
            if not is_answer(error.args[0] if error.args else None):
                raise
            return False  # it has no such command
        # More answers came behind its row, so the packet after that was not looked at. No transaction is open here.
        self.noted.transaction_unknown = False
        return private.result_of(self).rows[0][0] is not None

    @property
    def in_transaction(self) -> bool:
        """True if the server said so, or if nobody can know without asking."""
        return self.noted.transaction_unknown or bool(self.server_status & IN_TRANSACTION)

    def abandon(self) -> None:
        """Close this process's end without a word to the server.

        A task that waits on the socket closes it when it wakes.
        """
        self.line.silent = True
        if self.open and not self.line.attended:
            with suppress(pymysql.Error):  # close() had begun already
                super().close()

    def bounded(self, timeout: float | None, most: float = _MOST) -> Bounds:
        """Bound all reads and writes in a `with` block, together, to `timeout` seconds (None: no bound), `most` bytes.

        If PyMySQL cannot read an answer, the connection counts as lost.
        """
        return Bounds(self, timeout, most)

    def _raised_elsewhere(self, error: BaseException) -> BaseException | None:
        """The error of a signal handler that the driver took for its socket's; None if there is none."""
        inner = error.__context__
        if not isinstance(error, pymysql.MySQLError) or not isinstance(inner, OSError) or not inner.__traceback__:
            return None
        # Otherwise `inner` is from an `except` block of the borrower's.
        caught = str(inner.__traceback__.tb_frame.f_globals.get("__name__", ""))
        return inner if caught.startswith(("pymysql", str(__package__))) and from_elsewhere(inner) else None
