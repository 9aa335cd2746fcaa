"""The protocol of engines: everything that the pool knows about a database driver."""

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
    """It has become a reader (a failover), and refuses writes."""
    UNREACHABLE = "unreachable"
    """It refused, is starting up, or did not answer in time: a later attempt may succeed."""
    RESUMING = "resuming"
    """It was reached but is not ready: it accepted and said nothing, or says that it is starting. It may be paused."""
    TOO_MANY = "too_many"
    """No free connection on the server or the proxy: a later attempt may succeed."""
    REJECTED = "rejected"
    """The credentials were refused."""
    UNTRUSTED = "untrusted"
    """No encryption, or a certificate that does not verify."""
    CONFLICT = "conflict"
    """A serialization failure or a deadlock: the transaction may be replayed."""
    STALE = "stale"
    """The schema changed under a cached plan or type: every connection as old as this one may fail too."""
    OTHER = "other"
    """Anything else: the statement's own fault."""
    FOREIGN = "foreign"
    """Raised neither by the driver nor by its socket, but by the caller's code or a signal handler in between."""


TRANSIENT = frozenset({Failure.UNREACHABLE, Failure.RESUMING, Failure.TOO_MANY, Failure.LOST, Failure.SHUTDOWN})
"""Failures to connect that a later attempt may overcome."""

INVALIDATES_POOL = frozenset({Failure.SHUTDOWN, Failure.READ_ONLY, Failure.STALE})
"""Failures that condemn every older connection of the pool too."""


SILENT = "the server accepted the connection and gave no answer in time"
"""What an engine says if the server accepted a connection and never answered the login."""

AUTO_PAUSED = "resuming after being auto-paused"
"""RDS's own words for a cluster that is waking up from 0 ACU."""


class Outcome(Enum):
    """How a borrower's transaction ended at return."""

    NONE = "none"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"
    """It had failed before: the server turned our COMMIT into a rollback, or there is nothing left to commit."""


class Condition(Enum):
    """How a borrower leaves a connection."""

    CLEAN = "clean"
    """As it was lent: there is nothing to do."""
    UNCOMMITTED = "uncommitted"
    """As it was lent, except for an open transaction that has not failed: it only needs a COMMIT."""
    CHANGED = "changed"
    """Anything else: its transaction must be ended, and the connection reset."""


class Defaults(Record):
    """What the driver's own environment says (libpq's PGHOST and the like), used where nobody says anything else.

    `host` and `hostaddr` may be empty; `port` belongs to them; `sslmode` is used where it is the stricter one.
    """

    host: str = ""
    hostaddr: str = ""
    port: int | None = None
    sslmode: str | None = None
    sslrootcert: str | None = None


class ConnectRequest(Record):
    """All that one attempt to connect needs. `timeout` (seconds) bounds TCP, TLS and login together.

    `hostaddr`: the address to connect to, if the host's name must not be looked up; otherwise empty.
    `pooled`: behind a transaction-mode pooler, so nothing may be sent or kept that would pin a backend.
    `reset`: the option of that name: what is reset when a borrower returns the connection.
    `session_idle`: the server is told to end the session after this many idle seconds; 0: it is told nothing.
    `arguments`: what `Engine.arguments` made of the URL's query and of `connect_args`.
    `watched`, `aside` and `patience` are for connections that wait on an event loop. These end a running statement by
    themselves: when their task is cancelled and, if `watched`, before the invocation is over. They do it over a second
    connection. `aside` opens that, within the seconds and to the address that it is given (None: it cannot be opened).
    `patience`: after a cancellation, seconds to wait for the answer to a COMMIT.
    `trace_comment`: each statement of a borrower ends with a comment that names the current trace.
    `on_slow` is told of statements that take longer than `slow_query` seconds; None: they are not reported.
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
    """What a connection is doing, as far as its driver knows: no round trip, and no look at the socket."""

    IDLE = "idle"
    """No transaction is open, and no answer is awaited."""
    IN_TRANSACTION = "in a transaction"
    FAILED = "in a failed transaction"
    BUSY = "busy"
    """A borrower's statement is on the wire, or its result is being read within a transaction."""
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


class Facts(Record):
    """What is known about how a borrower left a connection."""

    condition: Condition
    """CLEAN: open, no transaction, no unfinished result, no changed setting."""
    closed_by_user: bool
    """The borrower closed it on purpose (rather than lost it)."""
    closed_in_transaction: bool
    """The borrower closed it before its transaction was ended, so that the server rolled back."""
    read_only: bool
    """The borrower's own transaction is read-only, so a refused write does not mean a failover."""
    hidden: Failure
    """What the server's error means for every connection, even if the borrower hid or swallowed it; or OTHER."""
    own_transaction: bool
    """False once guarded work may have ended its own transaction."""
    ended: bool
    """True only where it is certain that the transaction was ended."""


class EngineConnection(Protocol):
    """One physical connection as the pool sees it. Used by one thread at a time, except for `abort`."""

    @property
    def driver_connection(self) -> Any:
        """The driver's own connection, which is what borrowers get."""

    @property
    def backend_id(self) -> int:
        """The server's number for this session: backend pid or thread id. 0 when unknown."""

    def is_silent(self) -> bool:
        """The free check: True if the socket is open and the server sent nothing. No round trip, no wait."""

    def status(self) -> Status:
        """What it is doing, as far as the driver knows. Callable from a signal handler."""

    def inspect(self, *, ask: bool = False) -> Facts:
        """How the borrower left it.

        `ask`: guarded work has failed, so a round trip may be made to find out what is not known. Never raises.
        """

    def ping(self, timeout: float) -> None:
        """One round trip in at most `timeout` seconds. Raises what the driver raises, or TimeoutError."""

    def begin(self, *, readonly: bool, guarded: bool, timeout: float) -> None:
        """Make the borrower's work one transaction, whatever `autocommit` says, in at most `timeout` seconds.

        `guarded` (`Pool.run`): the driver's `commit()` then raises, so that the work cannot end its transaction unseen.
        """

    def commit(self, timeout: float | None, *, last: bool = True) -> Outcome:
        """COMMIT, if a transaction is open, in at most `timeout` seconds (None: no bound).

        `last`: the borrower is done, so the session may be reset in the same round trip.
        Raises CommitUncertain if COMMIT was sent and no answer came; otherwise what the driver raises.
        """

    def rollback(self, timeout: float | None, *, last: bool = True) -> Outcome:
        """ROLLBACK in the same way. Raises what the driver raises; the connection must then be closed."""

    def reset(self, timeout: float | None) -> bool:
        """Restore it to how it was lent, as the option `reset` says. False if that cannot be done: close it."""

    def cancel(self, timeout: float, aside: "Callable[[str], EngineConnection]") -> bool:
        """Ask the server to end the running statement, over a second connection, in at most `timeout` seconds.

        If the driver has no cancel of its own, `aside` opens that connection, to the address that it is given. False if
        it did not work. Callable from a signal handler that interrupted the statement itself: the statement then raises
        DeadlineExceeded.
        """

    def close(self, timeout: float) -> None:
        """Tell the server and close, in at most `timeout` seconds. Never raises."""

    def abort(self, *, cancelled: bool = False) -> None:
        """Shut the socket down from any thread or signal handler: the server rolls back now. Never raises.

        `cancelled`: the running statement raises DeadlineExceeded, as after `cancel`.
        """

    def discard(self) -> None:
        """Close this process's end without a word to the server, e.g. after a fork. Never raises."""


class FrameworkConnection(EngineConnection, Protocol):
    """What a framework that sets up connections needs in addition."""

    def set_baseline(self) -> None:
        """Make its current settings the ones that it is lent with: a framework has set it up. It must be idle."""

    def uncounted(self) -> AbstractContextManager[None]:
        """Whoever sets something in this block will undo it, so it does not count as a borrower's change."""

    def limited(self, timeout: float) -> AbstractContextManager[None]:
        """In this block a framework sets it up: the server answers within `timeout` seconds, or the driver raises."""

    def read_rest(self, timeout: float | None) -> None:
        """Read what the borrower left unread of a streamed result, in at most `timeout` seconds (None: no bound).

        Raises what the driver raises, or TimeoutError; the connection must then be closed.
        """


class FleetConnection(FrameworkConnection, Protocol):
    """What the rule for a fleet needs in addition."""

    @property
    def session_idle(self) -> float:
        """The server was told to end the session after this many idle seconds; 0 if it was told nothing."""

    def sessions(self, timeout: float) -> tuple[int, int]:
        """How many connections the server has, and may have; if the login may have fewer, its own numbers.

        One round trip in at most `timeout` seconds, outside of a transaction. Raises what the driver raises, or
        TimeoutError.
        """


Aside = Callable[[float, str], EngineConnection]


class Engine(Protocol):
    """One driver. Stateless. Importing its module does not import the driver; `load()` does."""

    name: str
    awaited: bool
    """Its connections wait on an event loop."""

    def load(self) -> None:
        """Import the driver. Raises ConfigError that names the extra to install."""

    def arguments(self, parameters: Mapping[str, str], given: Mapping[str, Any], *, pooled: bool) -> Mapping[str, Any]:
        """What to pass to the driver, from a URL's parameters (texts) and from `connect_args`, which win.

        Raises ConfigError for what the driver does not know, and for what would overrule the pool.
        """

    def defaults(self) -> Defaults:
        """What the driver's own environment says. Raises ConfigError."""

    def connect(self, request: ConnectRequest) -> FleetConnection:
        """Open one connection. Raises what the driver raises, without the variables of its frames (see `private`)."""

    def cursor(self, conn: Any) -> AbstractContextManager[Any]:
        """A cursor whose rows are tuples and whose parameters are %s, whatever the user gave the connection."""

    def in_coroutines(self, conn: Any) -> Any:
        """What borrowers get for the driver's connection if it is awaited."""

    def classify(self, error: BaseException) -> Failure:
        """What an error, of the driver or the operating system, means."""


# The packages that a driver's error may pass through: the driver's own, what it builds on, and ours.
_KNOWN = sys.stdlib_module_names | {"lambda_pool", "psycopg", "psycopg_binary", "psycopg_c", "pymysql"}


def from_elsewhere(error: BaseException) -> bool:
    """True if an error came from a signal handler, or from other code that is neither the driver's nor ours.

    Only what the driver or its socket raised says something about the connection. The type does not tell: a handler of
    SIGALRM may well raise TimeoutError, which is an OSError too.
    """
    trace = error.__traceback__
    known = by_a_driver = False
    while trace is not None:
        known = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] in _KNOWN
        by_a_driver = by_a_driver or known
        trace = trace.tb_next
    return by_a_driver and not known


def may_be_handled(error: BaseException) -> bool:
    """True for what code catches, to do its work again perhaps; False for the end of a thread, a task or a process.

    gevent.Timeout is no Exception, and is caught like one.
    """
    gevent = sys.modules.get("gevent")
    return isinstance(error, Exception) or (gevent is not None and isinstance(error, gevent.Timeout))


MIN_IO_TIMEOUT = 0.05
"""Seconds that even a COMMIT after the deadline gets: work whose COMMIT is never sent is certainly lost."""


def rest(deadline: float | None) -> float | None:
    """Seconds until a deadline (monotonic; None: there is none), and at least MIN_IO_TIMEOUT."""
    return None if deadline is None else max(deadline - monotonic(), MIN_IO_TIMEOUT)


AUTOCOMMITTED = "in autocommit mode each statement commits by itself, so a "
"""Comes before the text of `lost_answer` for a statement that was its own transaction."""


def lost_answer(error: BaseException, perhaps: str = "") -> str:
    """What to say of a COMMIT whose answer was lost. `perhaps`: comes first if nobody said COMMIT itself."""
    return (
        f"{perhaps}COMMIT was sent and its answer was lost ({type(error).__name__}: {error}): the transaction may or "
        "may not be saved. Look before you write it again"
    )


def uncertain(text: str) -> CommitUncertain:
    """The error, to be raised now."""
    return note_failure(CommitUncertain(text))


def at_work(users: str, *, saving: bool) -> CommitUncertain | NotCommitted:
    """The error for a connection that is given back while it is in use. `saving`: what runs may commit by itself."""
    end = f"the connection was still at work when it was given back: {users} before its block ends"
    if not saving:
        return NotCommitted(f"{end}; nothing was committed")
    return uncertain(
        f"{end}; a COMMIT, or a statement in autocommit mode, was not answered yet, and may or may not be saved: look "
        "before you write it again"
    )


def warn_left_prepared(xid: str, by: str) -> None:
    """Warn that a borrower left a two-phase transaction after its first phase. `by`: what would end it."""
    log.warning(
        "a block left the prepared transaction %s behind. It is neither saved nor undone, and keeps its locks, until "
        "it is ended by %s with its xid, on any connection",
        xid,
        by,
    )


def cancelled(error: BaseException, *, answered: bool) -> DeadlineExceeded:
    """The error for a statement that the pool has ended. `answered`: `error` is the server's.

    Otherwise the pool shut the socket, and the driver says that the server did it.
    """
    said = f": {type(error).__name__}: {error}" if answered else "; the server did not answer"
    return note_failure(
        DeadlineExceeded(
            "the statement was ended because the end of its invocation, its request or this environment came, or was "
            f"nearer than cancel_before_deadline{said}"
        )
    )


def cause(error: BaseException) -> BaseException:
    """The driver's own error: `error`, or its cause if `cancelled` made it."""
    return error.__cause__ or error if isinstance(error, DeadlineExceeded) else error


def tightest(found: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The pair of a count and its limit that is nearest its limit. A negative limit means that there is none."""
    return max((pair for pair in found if pair[1] >= 0), key=lambda pair: pair[0] / max(pair[1], 1))
