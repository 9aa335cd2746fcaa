"""What the pool knows about one connection to PostgreSQL."""

from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from psycopg.adapt import AdaptersMap

from ..base import Failure
from ..slow import OnSlow
from .libpq import Unasked

if TYPE_CHECKING:
    from .shared import Shared


class Notes:
    """What the pool knows about a connection, apart from it: the connection's attributes are the borrower's."""

    waits: int = 0
    """How often it waited for the server."""
    before: int = 0
    """libpq's transaction status when it last sent something."""
    blocks: int = 0
    """How many of the driver's own transaction() blocks are open."""
    piped: bool = False
    """The borrower is in a pipeline of its own, whose cursors note what they send."""
    copying: object = None
    """The cursor whose copy() has the connection to itself. Its data may come from any thread or task."""
    until: float | None = None
    """The time until which the pool waits (monotonic)."""
    cancelled: bool = False
    """The pool asked the server to end the statement that runs, or cut the connection under it."""
    saving: object = None
    """The thread or task that sends a COMMIT of the borrower's own, and waits for its answer."""
    lost_commit: str = ""
    """The text of the error if that answer was lost, and the connection with it."""
    watched: bool = False
    """On an event loop: a running statement must be ended before the invocation ends."""
    guarded: bool = False
    """In `Pool.run`: the transaction is not the borrower's to end."""
    ended: bool = False
    """The transaction may have been ended all the same."""
    unheard: bool = False
    """A cursor that the pool does not track sent a statement that nobody saw."""
    noting: bool = False
    """Whether to note what outlives a transaction, and what ends it."""
    changed: bool = False
    """The server's session may have been changed."""
    prepared: bool = False
    """Statements may have been prepared in SQL."""
    altered: bool = False
    """A driver setting may have been changed."""
    touched: bool = False
    """A driver setting may have been changed that only a reset of the session puts back."""
    was_reset: bool = False
    """The server's half of a reset is done."""
    hidden: Failure = Failure.OTHER
    """What an error means for every connection of the pool; its borrower may have swallowed it."""
    closed_in_transaction: bool = False
    """The borrower closed it, and a transaction was open."""
    two_phase: str = ""
    """The open two-phase transaction's identifier."""
    left_prepared: str = ""
    """The identifier of the last prepared transaction, unless it was ended since."""
    slow_query: float = 0.0
    on_slow: OnSlow | None = None
    """What is told of a statement that takes longer than `slow_query` seconds."""
    patience: float = 0.0
    """Seconds to wait for the answer to a COMMIT after its task was cancelled."""
    adapters: AdaptersMap | None = None
    """How it converts values, once somebody has asked for that."""
    cursor_class: tuple[Any, Any] = (None, None)
    server_cursor_class: tuple[Any, Any] = (None, None)
    """The factory that the borrower knows, and the one that makes tracked cursors."""
    commenting: bool = False
    """Its statements end with a comment."""
    making: bool = False
    """The driver is just making a cursor."""
    baseline: "Baseline | None" = None

    def __init__(self) -> None:
        self.knowing: set[object] = set()
        """The threads or tasks whose waits belong to a statement that is noted, or to the driver itself."""
        self.streams: set[ReferenceType[Any]] = set()
        """Cursors on the server that may be open. Not a WeakSet: each return asks whether it is empty."""
        self.handlers: list[tuple[str, Any]] = []
        """The borrower's, each with the driver's name for its kind."""
        self.unasked: Unasked = Unasked()
        self.doubtful: set[Any] = set()
        """Cursors whose last statement in the pipeline is a COMMIT: its answer is yet to come."""

    def alone(self, autocommit: bool) -> bool:
        """True in autocommit mode if nothing was open when the last statement was sent: it is its own transaction."""
        return autocommit and not self.before and not self.blocks

    def knows(self, me: object) -> bool:
        """Whether it is known what a thread or task waits for: the pool asked, a statement is noted, or it copies."""
        return self.unasked.own or self.copying is not None or me in self.knowing

    def note_unheard(self, me: object, *, in_transaction: bool, autocommit: bool) -> bool:
        """Note that a cursor that is not tracked sends a statement: it may be any. Out: whether it may commit."""
        self.unheard = self.unheard or not self.ended
        self.ended = self.changed = self.prepared = True
        saves = in_transaction or self.alone(autocommit)
        if saves and self.piped:  # its answer is awaited later
            self.saving = me
        return saves

    def note_stream(self, cursor: Any) -> None:
        """Note a cursor on the server before it is opened."""
        self.streams.add(ref(cursor, self.streams.discard))

    def open_streams(self) -> list[Any]:
        """The cursors on the server that nobody has closed, and that somebody still refers to."""
        return [cursor for known in list(self.streams) if (cursor := known()) is not None and not cursor.closed]


class Baseline:
    """What a connection is once it is set up, and is again after a reset."""

    def __init__(self, conn: "Shared") -> None:
        self.settings: tuple[Any, ...] = conn.settings()
        self.names: frozenset[str] = frozenset(vars(conn))
        before = conn.pooled.baseline
        own = conn.pooled.adapters or (None if before is None else before.adapters)
        self.adapters: AdaptersMap | None = None if own is None else AdaptersMap(own)
        """None for the program's, as they are when they are read first: they may be registered after `warm()`."""
        self.handlers: list[tuple[str, Any]] = list(conn.pooled.handlers)


class Announced:
    """A block in which it is known what this thread or task waits for: its waits are the driver's own, or are noted."""

    __slots__ = ("_me", "_nested", "conn")

    def __init__(self, conn: "Shared") -> None:
        self.conn: Shared = conn

    def __enter__(self) -> None:
        self._me, knowing = self.conn.me(), self.conn.pooled.knowing
        self._nested = self._me in knowing
        knowing.add(self._me)

    def __exit__(self, kind: object = None, error: BaseException | None = None, trace: object = None) -> None:
        if not self._nested:
            self.conn.pooled.knowing.discard(self._me)
