"""The protocol of engines: all that the pool knows of a database driver."""

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from enum import Enum
from time import monotonic
from typing import Any, Protocol

from ..auth.base import Credentials
from ..errors import CommitUncertain, DeadlineExceeded, NotCommitted
from ..record import Record
from ..request import note_failure
from ..secret import SecretMapping
from ..tls import Tls
from .slow import OnSlow

log: logging.Logger = logging.getLogger("lambda_pool")


class Failure(Enum):
    """What a driver's error means for the connection and for a second try."""

    LOST = "lost"
    """The connection is gone: reset, aborted, or closed without a message."""
    SHUTDOWN = "shutdown"
    """The server closed it, and said so: an administrator, a restart, a failover."""
    READ_ONLY = "read_only"
    """It turned into a reader (failover), and refuses to write."""
    UNREACHABLE = "unreachable"
    """Refused, starting up, or not answering in time: time may heal it."""
    RESUMING = "resuming"
    """It was reached and is not ready: it accepted and said nothing, or says that it starts. Asleep, perhaps."""
    TOO_MANY = "too_many"
    """No free connection on the server or the proxy: time may heal it."""
    REJECTED = "rejected"
    """The credentials were refused."""
    UNTRUSTED = "untrusted"
    """No encryption, or a certificate that does not verify."""
    CONFLICT = "conflict"
    """A serialization failure or a deadlock: the transaction may be replayed."""
    STALE = "stale"
    """The schema changed under a cached plan or type: every connection that is as old as this one may fail so too."""
    OTHER = "other"
    """Anything else: the statement's own fault."""
    FOREIGN = "foreign"
    """Raised neither by the driver nor by its socket: by the caller's code, or a signal handler that came between."""


TRANSIENT = frozenset({Failure.UNREACHABLE, Failure.RESUMING, Failure.TOO_MANY, Failure.LOST, Failure.SHUTDOWN})
"""Failures to connect that a later attempt may overcome."""

INVALIDATES_POOL = frozenset({Failure.SHUTDOWN, Failure.READ_ONLY, Failure.STALE})
"""Failures that condemn every older connection of the pool too."""


SILENT = "the server accepted the connection and gave no answer in time"
"""What an engine says of a login that was let in and never answered."""

AUTO_PAUSED = "resuming after being auto-paused"
"""RDS's own words for a cluster at 0 ACU that wakes."""


class Outcome(Enum):
    """How a borrower's transaction ended at return."""

    NONE = "none"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"
    """It had failed before: the server made a rollback of our COMMIT, or there is nothing left to commit."""


class Condition(Enum):
    """How a borrower leaves a connection."""

    CLEAN = "clean"
    """As it was lent: nothing is to be done."""
    UNCOMMITTED = "uncommitted"
    """As it was lent, but for a transaction that lives, and that COMMIT alone ends."""
    CHANGED = "changed"
    """Anything else: it is to be ended, and reset."""


class Defaults(Record):
    """What the driver's own environment says (libpq's PGHOST and its like), to be used where nobody says anything else.

    `host` and `hostaddr` may be empty; `port` belongs to them; `sslmode` is used where it is the stricter one.
    """

    host: str = ""
    hostaddr: str = ""
    port: int | None = None
    sslmode: str | None = None
    sslrootcert: str | None = None


class ConnectRequest(Record):
    """All that one attempt to connect needs. `timeout` (seconds) bounds TCP, TLS and login together.

    `hostaddr`: the address to go to, where the host's name is not to be looked up; else empty.
    `pooled`: behind a transaction-mode pooler: nothing may be sent or kept that would pin a backend.
    `reset`: the option of that name: what is brought back when a borrower returns the connection.
    `session_idle`: seconds after which the server is to end the session where it idles; 0: nothing is said of that.
    `arguments`: what `Engine.arguments` made of the URL's query and of `connect_args`.
    `watched`, `aside` and `patience` are for connections that wait on an event loop: they end what runs by themselves,
    before the invocation is over if it is watched, and when their task is cancelled, over a second connection that
    `aside` opens in at most so many seconds to the address that it is given (None: there can be none). `patience`:
    seconds that the answer to a COMMIT is waited for after that.
    `trace_comment`: each statement of a borrower ends with a comment that names the current trace.
    `on_slow` is told of statements that take longer than `slow_query` seconds; None: nobody wants to know.
    """

    host: str
    port: int
    database: str
    credentials: Credentials
    tls: Tls
    timeout: float
    autocommit: bool
    pooled: bool
    application_name: str
    reset: str = "changed"
    session_idle: float = 0.0
    arguments: Mapping[str, Any] = SecretMapping({})
    hostaddr: str = ""
    watched: bool = False
    aside: "Aside | None" = None
    patience: float = 0.0
    slow_query: float = 0.0
    on_slow: OnSlow | None = None
    trace_comment: bool = False


class Status(Enum):
    """What goes on on a connection, by what its driver knows: no round trip, and no look at the socket."""

    IDLE = "idle"
    """No transaction is open, and no answer awaited."""
    IN_TRANSACTION = "in a transaction"
    FAILED = "in a failed transaction"
    BUSY = "busy"
    """A borrower's statement is on the wire, or its result is read within a transaction."""
    COMMITTING = "committing"
    """A COMMIT of the borrower's own, or a statement in autocommit mode, is on the wire, or its answer was lost."""
    STREAMING = "streaming"
    """A borrower's result is being read, and no transaction is open."""
    ENDING = "ending"
    """The pool's own COMMIT, ROLLBACK, ping or reset is on the wire."""
    CLOSED = "closed"


AT_REST = (Status.IDLE, Status.STREAMING)
"""No work is open that could be lost or saved."""

RUNNING = (Status.BUSY, Status.COMMITTING, Status.STREAMING)
"""The server may be at work for a borrower."""


class Facts:
    """What is known of how a borrower leaves a connection. One is made at each return, so it is no `Record`."""

    __slots__ = (
        "closed_by_user",
        "closed_in_transaction",
        "condition",
        "ended",
        "hidden",
        "own_transaction",
        "read_only",
    )

    def __init__(
        self,
        condition: Condition,
        closed_by_user: bool,
        closed_in_transaction: bool,
        read_only: bool,
        hidden: Failure,
        own_transaction: bool,
        ended: bool = False,
    ) -> None:
        self.condition: Condition = condition
        """CLEAN: open, no transaction, no unfinished result, no changed setting."""
        self.closed_by_user: bool = closed_by_user
        """The borrower closed it on purpose (rather than lost it)."""
        self.closed_in_transaction: bool = closed_in_transaction
        """The borrower closed it before its transaction was ended, so that the server rolled back."""
        self.read_only: bool = read_only
        """The borrower's own transaction is a read-only one, so that a refused write is no failover."""
        self.hidden: Failure = hidden
        """What the server's error means for every connection, though the borrower hid or swallowed it; else OTHER."""
        self.own_transaction: bool = own_transaction
        """False once guarded work may have ended its own transaction."""
        self.ended: bool = ended
        """True only where it is certain that the transaction was ended."""


class EngineConnection(Protocol):
    """One physical connection as the pool sees it. Used by one thread at a time, but for `abort`."""

    @property
    def driver_connection(self) -> Any:
        """The driver's own connection, which is what borrowers get."""

    @property
    def backend_id(self) -> int:
        """The server's number for this session: backend pid or thread id. 0 when unknown."""

    def is_silent(self) -> bool:
        """The free check: True if the socket is open and the server sent nothing. No round trip, no wait."""

    def status(self) -> Status:
        """What goes on, by what the driver knows. Callable from a signal handler."""

    def inspect(self, *, ask: bool = False) -> Facts:
        """How a borrower leaves it.

        `ask`: guarded work has failed, so that a round trip may find out what is not known. Never raises.
        """

    def ping(self, timeout: float) -> None:
        """One round trip in at most `timeout` seconds. Raises what the driver raises, or TimeoutError."""

    def begin(self, *, readonly: bool, guarded: bool, timeout: float) -> None:
        """Make the borrower's work one transaction, whatever `autocommit` says, in at most `timeout` seconds.

        `guarded` (`Pool.run`): the driver's `commit()` then raises, so that the work cannot end its transaction unseen.
        """

    def commit(self, timeout: float | None, *, last: bool = True) -> Outcome:
        """COMMIT, if a transaction is open, in at most `timeout` seconds (None: no bound).

        `last`: the borrower is done, so that the session may be reset in the same round trip.
        Raises CommitUncertain if COMMIT was sent and no answer came; else what the driver raises.
        """

    def rollback(self, timeout: float | None, *, last: bool = True) -> Outcome:
        """ROLLBACK likewise. Raises what the driver raises; the connection is then to be closed."""

    def reset(self, timeout: float | None) -> bool:
        """Bring it back to how it was lent, as the option `reset` says. False if it cannot be, and must be closed."""

    def cancel(self, timeout: float, aside: "Callable[[str], EngineConnection]") -> bool:
        """Ask the server to end the running statement, over a second connection, in at most `timeout` seconds.

        `aside` opens one to the address that it is given, where the driver has no cancel of its own. False if it did
        not work. Callable from a signal handler that interrupted the statement itself, which then raises
        DeadlineExceeded.
        """

    def close(self, timeout: float) -> None:
        """Tell the server and close, in at most `timeout` seconds. Never raises."""

    def abort(self, *, cancelled: bool = False) -> None:
        """Shut the socket down from any thread or signal handler: the server rolls back now. Never raises.

        `cancelled`: what runs raises DeadlineExceeded, as after `cancel`.
        """

    def discard(self) -> None:
        """Close this process's end without a word to the server, e.g. after a fork. Never raises."""


class FrameworkConnection(EngineConnection, Protocol):
    """What a framework that sets a connection up needs beside that."""

    def set_baseline(self) -> None:
        """Take the settings that it has now for those that it is lent with: a framework has set it up. It is idle."""

    def uncounted(self) -> AbstractContextManager[None]:
        """What is set in this block will be undone by whoever set it, so it does not count as a borrower's change."""

    def limited(self, timeout: float) -> AbstractContextManager[None]:
        """What a framework asks in this block, to set it up, is answered in `timeout` seconds, or the driver raises."""

    def read_rest(self, timeout: float | None) -> None:
        """Read what the borrower left unread of a streamed result, in at most `timeout` seconds (None: no bound).

        Raises what the driver raises, or TimeoutError; the connection is then to be closed.
        """


class FleetConnection(FrameworkConnection, Protocol):
    """What the rule for a fleet needs beside that."""

    @property
    def session_idle(self) -> float:
        """Seconds after which the server ends it where it idles, because it was told so; 0 if it was not."""

    def sessions(self, timeout: float) -> tuple[int, int]:
        """How many connections the server has, and how many it may have; where the login may have fewer, of these.

        One round trip in at most `timeout` seconds, in no transaction. Raises what the driver raises, or TimeoutError.
        """


Aside = Callable[[float, str], EngineConnection]


class Engine(Protocol):
    """One driver. Stateless; importing its module imports no driver, `load()` does."""

    name: str
    default_port: int
    awaited: bool
    """Its connections wait on an event loop."""

    def load(self) -> None:
        """Import the driver. Raises ConfigError that names the extra to install."""

    def arguments(self, parameters: Mapping[str, str], given: Mapping[str, Any], *, pooled: bool) -> Mapping[str, Any]:
        """What the driver is to be told, of a URL's parameters (texts) and of `connect_args`, which win.

        Raises ConfigError for what the driver does not know, and for what would overrule the pool.
        """

    def defaults(self) -> Defaults:
        """What the driver's own environment says. Raises ConfigError."""

    def connect(self, request: ConnectRequest) -> FleetConnection:
        """Open one connection. Raises what the driver raises, without the variables on its way (see `private`)."""

    def cursor(self, conn: Any) -> AbstractContextManager[Any]:
        """A cursor with rows that are tuples and parameters that are %s, whatever the user gave the connection."""

    def in_coroutines(self, conn: Any, patience: float) -> Any:
        """What borrowers get of the driver's connection where it is awaited. `patience`: see ConnectRequest."""

    def classify(self, error: BaseException) -> Failure:
        """What an error, of the driver or the operating system, means."""


# The packages that an error of a driver comes by: its own, what it stands on, and ours.
_KNOWN = sys.stdlib_module_names | {"lambda_pool", "psycopg", "psycopg_binary", "psycopg_c", "pymysql"}


def from_elsewhere(error: BaseException) -> bool:
    """True if an error came out of a signal's handler, or other code that is neither the driver's nor ours.

    Only what the driver or its socket raised says something of the connection. By its type nobody can tell: a handler
    of SIGALRM may well raise TimeoutError, which is an OSError too.
    """
    trace = error.__traceback__
    known = by_a_driver = False
    while trace is not None:
        known = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] in _KNOWN
        by_a_driver = by_a_driver or known
        trace = trace.tb_next
    return by_a_driver and not known


MIN_IO_TIMEOUT = 0.05
"""Seconds that even a COMMIT after the deadline gets: one that is never sent is surely lost."""


def rest(deadline: float | None) -> float | None:
    """Seconds until a deadline (monotonic; None: there is none), and at least MIN_IO_TIMEOUT."""
    return None if deadline is None else max(deadline - monotonic(), MIN_IO_TIMEOUT)


AUTOCOMMITTED = "autocommit mode was on, so with the statement a "
"""What stands before that of a statement that was its own transaction."""


def lost_answer(error: BaseException, perhaps: str = "") -> CommitUncertain:
    """The error for a COMMIT whose answer was lost. `perhaps`: what stands before that where it was not said."""
    return CommitUncertain(
        f"{perhaps}COMMIT was sent and its answer was lost ({type(error).__name__}: {error}): "
        "the transaction may or may not be saved; look before you write it again"
    )


def uncertain(error: BaseException, perhaps: str = "") -> CommitUncertain:
    """The same, to be raised now."""
    return noted(lost_answer(error, perhaps))


def noted(error: CommitUncertain) -> CommitUncertain:
    """An error that is raised now: a middleware is to learn of it, whatever a framework makes of it."""
    note_failure(error)
    return error


def at_work(users: str, *, saving: bool) -> CommitUncertain | NotCommitted:
    """The error for a connection that is given back while it is used. `saving`: what runs may commit by itself."""
    end = f"the connection was still at work when it was given back: {users} before its block ends"
    if not saving:
        return NotCommitted(f"{end}; nothing was committed")
    return noted(
        CommitUncertain(
            f"{end}; a COMMIT, or a statement in autocommit mode, was not answered yet, which may or may not be saved: "
            "look before you write it again"
        )
    )


def warn_left_prepared(xid: str, by: str) -> None:
    """Say that a borrower left a transaction of two phases after the first. `by`: what would end it."""
    log.warning(
        "a block left the prepared transaction %s behind: it is neither saved nor undone, and holds its locks, until "
        "%s with its xid ends it, on any connection",
        xid,
        by,
    )


def cancelled(error: BaseException) -> DeadlineExceeded:
    """The error for a statement that was ended because its invocation ends."""
    found = DeadlineExceeded(
        "the statement was ended because its invocation ends (see cancel_before_deadline): "
        f"{type(error).__name__}: {error}"
    )
    note_failure(found)
    return found


def cause(error: BaseException) -> BaseException:
    """What the driver said: `error`, or, where that is `cancelled`, what stands behind it."""
    return error.__cause__ or error if isinstance(error, DeadlineExceeded) else error


def tightest(found: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Of counts and their limits (negative: there is none), the one that is nearest its limit."""
    return max((pair for pair in found if pair[1] >= 0), key=lambda pair: pair[0] / max(pair[1], 1))
