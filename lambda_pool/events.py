"""What a pool tells its observers, and the protocol they follow. Times are seconds; no event ever holds a secret."""

from enum import StrEnum
from typing import Protocol

from .record import Record


class Reason(StrEnum):
    """Why a cached connection was replaced or closed."""

    DEAD = "dead"
    """The free check or the ping found it dead: closed by the server, the network, or a failover."""
    BROKEN = "broken"
    """It broke, or was left unusable (unfinished COPY, unread result), while it was in use."""
    USER_CLOSED = "user_closed"
    """The borrower closed it."""
    LIFETIME = "lifetime"
    """Older than `max_lifetime`."""
    IDLE = "idle"
    """Idle for longer than `max_idle`, or so long that the server is about to end it (`session_idle`)."""
    GENERATION = "generation"
    """Opened before a server shutdown, a failover or a restore that another connection ran into."""
    FORKED = "forked"
    """Opened by the parent process."""
    CLOCK = "clock"
    """A clock went backwards, so that its age is unknown."""
    ROLE = "role"
    """It leads to the other role (reader or writer) and `max_size` leaves no room for both."""
    LEAKED = "leaked"
    """Its borrower still held it when the invocation ended."""
    CROWDED = "crowded"
    """The server has more than `keep_below` of the connections that it may have, so none is kept across a freeze."""
    POOL_CLOSED = "pool_closed"
    """`Pool.close()`, a shutdown or a snapshot."""


class Server(Record):
    """Which database it was about. `engine` is "postgresql" or "mysql"; a field that is empty or 0 is not known."""

    engine: str = ""
    host: str = ""
    port: int = 0
    database: str = ""


class Event(Record):
    """Root of all events. `pool` is the pool's name."""

    pool: str


class Opened(Event):
    """A physical connection was opened in `seconds`, at the given `attempt` (1 is the first)."""

    seconds: float
    attempt: int
    host: str
    backend_id: int
    server: Server = Server()


class ConnectFailed(Event):
    """One attempt to connect failed. `kind` is the class of failure, `error` its text; `retrying`: another follows."""

    seconds: float
    attempt: int
    kind: str
    error: str
    retrying: bool
    server: Server = Server()


class Reused(Event):
    """A cached connection was lent again; `seconds` is what the whole checkout took."""

    seconds: float


class CheckedOut(Event):
    """A connection was lent to the borrower it was opened for; `seconds` is what the whole checkout took."""

    seconds: float


class Pinged(Event):
    """A round trip checked a connection: `alive` is what it found."""

    seconds: float
    alive: bool


class Replaced(Event):
    """A cached connection was replaced by a new one. `age` and `idle` are those of the old one."""

    reason: Reason
    age: float
    idle: float
    backend_id: int


class Closed(Event):
    """A connection was closed. Follows every `Replaced`, too."""

    reason: Reason
    age: float
    backend_id: int


class Crowded(Event):
    """The server says that it has `connections` of at most `limit`. `kept`: this pool's idle ones stay open."""

    connections: int
    limit: int
    kept: bool


class Waited(Event):
    """A borrower got a connection after it had queued for `seconds`."""

    seconds: float
    server: Server = Server()


class TimedOut(Event):
    """A borrower gave up after `seconds`."""

    seconds: float
    server: Server = Server()


class Returned(Event):
    """A connection was returned after `held` seconds. There is one event for each checkout, however it ended.

    `checkout`: seconds that its whole checkout took. `reused`: it was a cached one. `in_use`: connections lent just
    before it was returned, including itself.
    """

    held: float
    checkout: float
    reused: bool
    in_use: int


class RolledBack(Event):
    """A transaction was rolled back at return. `cause`: `error` or `failed transaction`."""

    cause: str


class Leaked(Event):
    """A borrower held a connection past the invocation's end or past `leak_after`; `where` is its file and line."""

    held: float
    where: str
    stack: str


class CredentialsRefreshed(Event):
    """A cached credential was rejected and fetched again."""


class EndpointRefreshed(Event):
    """The address of the writer or the reader has changed since the last connect: it is `host` now."""

    host: str


class SlowQuery(Event):
    """A statement took longer than `slow_query`; its text is cut and holds no parameters."""

    seconds: float
    statement: str


class InvocationEnded(Event):
    """A decorated handler, or a middleware's request, returned or (`failed`) raised. `cold`: the first one here."""

    failed: bool
    cold: bool
    request_id: str


class Closing(Event):
    """The environment is about to shut down or to be snapshotted. What is not flushed now is lost."""


class Forked(Event):
    """The process is a fork. It has no connections, and its parent reports what happened before."""


class Observer(Protocol):
    """Receives every event of the pools it is given to, on the thread where it happens.

    That is mostly the borrower's. What an invocation, a request or the process leaves open is closed, and reported, by
    the thread that cleans up. Must be quick and must not use the pool. If it raises an error, the error is logged and
    ignored.
    """

    def on_event(self, event: Event) -> None:
        """Take one event."""
