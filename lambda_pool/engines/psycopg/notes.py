"""What the pool knows about one connection to PostgreSQL."""

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from psycopg.adapt import AdaptersMap

from ..base import Failure
from ..slow import OnSlow
from .libpq import Unasked

if TYPE_CHECKING:
    from .shared import Shared


class Notes:
    """What the pool knows about a connection, apart from it: the connection's attributes are the borrower's."""

    def __init__(self) -> None:
        self.waits = self.before = self.blocks = 0
        """How often it waited for the server; libpq's transaction status when it last sent something."""
        self.known = False
        """The pool itself waits."""
        self.knowing: set[object] = set()
        """The threads or tasks whose waits belong to a statement that is noted, or to the driver itself."""
        self.piped = False
        """The borrower is in a pipeline of its own, whose cursors note what they send."""
        self.until: float | None = None
        """The time until which the pool waits (monotonic)."""
        self.cancelled = self.closed_in_transaction = False
        self.saving: object = None
        """The thread or task that sends a COMMIT of the borrower's own, and waits for its answer."""
        self.lost_commit = ""
        """The text of the error if that answer was lost, and the connection with it."""
        self.watched = False
        """On an event loop: a running statement must be ended before the invocation ends."""
        self.guarded = False
        """In `Pool.run`: the transaction is not the borrower's to end."""
        self.ended = False
        """The transaction may have been ended all the same."""
        self.unheard = False
        """A cursor that the pool does not track sent a statement that nobody saw."""
        self.noting = False
        """Whether to note what outlives a transaction, and what ends it."""
        self.changed = self.prepared = False
        """The server's session may have been changed; statements may have been prepared in SQL."""
        self.altered = self.touched = False
        """A driver setting may have been changed; so may one that only a reset of the session puts back."""
        self.was_reset = False
        """The server's half of a reset is done."""
        self.hidden: Failure = Failure.OTHER
        """What an error means for every connection of the pool; its borrower may have swallowed it."""
        self.two_phase = self.left_prepared = ""
        """The open two-phase transaction's identifier; that of the last prepared one, unless it was ended since."""
        self.slow_query: float = 0.0
        self.on_slow: OnSlow | None = None
        self.patience: float = 0.0
        """Seconds to wait for the answer to a COMMIT after its task was cancelled."""
        self.adapters: AdaptersMap | None = None
        self.cursor_class: tuple[Any, Any] = (None, None)
        self.server_cursor_class: tuple[Any, Any] = (None, None)
        """The factory that the borrower knows, and the one that makes tracked cursors."""
        self.streams: WeakSet[Any] = WeakSet()
        """Cursors on the server that may be open."""
        self.commenting = self.making = False
        """Their statements end with a comment; the driver is just making a cursor."""
        self.handlers: list[tuple[str, Any]] = []
        self.unasked: Unasked = Unasked()
        self.baseline: Baseline | None = None

    def alone(self, autocommit: bool) -> bool:
        """True in autocommit mode if nothing was open when the last statement was sent: it is its own transaction."""
        return autocommit and not self.before and not self.blocks


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
