"""What a session of PyMySQL was when it was lent: whether it is still that, and how it comes back to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

from pymysql.constants import COMMAND

from ...waiting import FreeCheck, OverdueError
from ..base import Condition
from .commands import AUTOCOMMIT
from .connecting import IN_TRANSACTION, INIT_CONNECT
from .connection import BoundedConnection
from .noted import Noted
from .statements import look
from .wire import Following, command, query

# Not in pymysql.constants: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_reset_connection.html
_COM_RESET_CONNECTION = 0x1F
PING: bytes = command(COMMAND.COM_PING)
# A session cannot go back to no database. Everybody may read this one, and nobody may write to it.
_NO_DATABASE = b"information_schema"
# What a borrower may set on the driver's connection, and a reset puts back; the dictionaries are copied.
_ATTRIBUTES = (
    *("cursorclass", "charset", "collation", "encoding", "use_unicode"),
    *("init_command", "sql_mode", "autocommit_mode", "max_allowed_packet"),
)
_attributes_of = attrgetter(*_ATTRIBUTES)


class BaselineConnection:
    """One PyMySQL connection. `reset`: the option of that name; behind a pooler nothing is reset."""

    def __init__(self, conn: BoundedConnection, *, pooled: bool, reset: str) -> None:
        self.driver_connection = conn
        self.session_idle: int = conn.session_idle
        self._socket = FreeCheck(conn.sock.fileno())
        self._pooled = pooled
        self._reset = "" if pooled else reset
        self._database: bytes | None = conn.db.encode() if isinstance(conn.db, str) else conn.db
        self._set_up = False  # a framework changed the session, which no reset may undo
        self._always_read_only = look(conn.init_command or "", several=False).read_only
        self.set_baseline()
        self._autocommit = conn.wanted
        # By the name that the server knows. A new session has what is set globally, which may be read-only.
        name = b"tx_read_only" if "MariaDB" in conn.server_version else b"transaction_read_only"
        self._read_write = b"SET SESSION %s = DEFAULT" % name
        self._resetting = self._was_reset = self._rolled_back = self._lacks_set_up = False
        self.backend_id: int = conn.thread_id()  # type: ignore[no-untyped-call]

    def set_baseline(self) -> None:
        """The server is not told again what the framework told it: a connection that needs a reset is then closed."""
        conn = self.driver_connection
        noted = conn.noted
        self._set_up = self._set_up or noted.changed
        self._always_read_only |= noted.read_only and noted.isolation_changed and not noted.reader
        self._autocommit = bool(conn.server_status & AUTOCOMMIT)
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

    def is_silent(self) -> bool:
        """Asks the kernel. False if PyMySQL has closed it: the descriptor's number may be somebody else's now."""
        return self.driver_connection.open and self._socket.is_silent()

    def _condition(self) -> Condition:
        conn = self.driver_connection
        if conn.line.thread is not None:  # a thread that waits for a row holds the reader that is looked into below
            return Condition.CHANGED
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
            or conn.reads_only
            or noted.rollback_only
            or noted.incomplete
            or noted.left_prepared
            or noted.failed_with
            or noted.undone
            or noted.isolation_changed
            or noted.role_changed
            or noted.moved
            or noted.locked
            or bool(conn.server_status & AUTOCOMMIT) is not self._autocommit
            or conn.cursorclass is not self._attributes[0]
            or (self._reset and self._reset != "transaction" and self._changed())
        ):
            return Condition.CHANGED
        return Condition.UNCOMMITTED if conn.server_status & IN_TRANSACTION else Condition.CLEAN

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

    # --- bringing it back ---------------------------------------------------------------------------------------------

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
        following: list[Following] = [(command(_COM_RESET_CONNECTION), PING)]
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
        conn.reads_only = False
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
        if not (self.is_silent() and self._condition() is Condition.CLEAN):
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
        if conn.reads_only:
            self._let_write()
        conn.cursorclass = self._attributes[0]
        if self._reset == "changed":
            self._restore_attributes()

    def _let_write(self) -> None:
        """Undo what `begin` told the session; nothing is sent if that went out with the end of the transaction."""
        conn = self.driver_connection
        with self.uncounted():
            conn.query(self._read_write.decode())
        conn.reads_only = False

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
        if self._condition() is not Condition.CLEAN:
            raise OverdueError("the connection is not idle after a reset")
