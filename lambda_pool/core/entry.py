"""One cached connection: its state, generation and ages. Clock readings are handed in."""

from enum import Enum
from types import CodeType
from typing import TYPE_CHECKING, cast

from ..endpoints.base import Endpoint, Role
from ..engines.base import FleetConnection

if TYPE_CHECKING:
    from ..request import Request


class State(Enum):
    """Where an entry stands. It changes only under the pool's lock, and by one assignment."""

    CONNECTING = "connecting"
    """A borrower has reserved the room, and its connection is being opened."""
    IDLE = "idle"
    """Cached, and lent to nobody."""
    LENT = "lent"
    """With a borrower: being checked, used or returned."""
    GONE = "gone"
    """Given up. Its room is free once its connection is closed. Final."""


class Work(Enum):
    """How far a borrow's work has come, read when the connection is taken from its borrower. See `Entry.state`."""

    OPEN = "open"
    """Its borrower is still working: it is certainly not saved."""
    UNDONE = "undone"
    """It failed, and was or will be rolled back."""
    COMMITTING = "committing"
    """It is being returned: its COMMIT may have been sent, and the answer has not come yet, or never will."""
    ENDED = "ended"
    """All of it is saved."""


# An entry's link is read only where its state says that there is one.
UNOPENED = cast(FleetConnection, None)
_NOWHERE = Endpoint("")
_NEVER = float("inf")
# Seconds before the server's timer ends the session: at `_EARLIER` the connection is replaced, and `_ROUND_TRIP` is
# left for the answer to a ping.
_EARLIER = 1.0
_ROUND_TRIP = 0.5


class Entry:
    """Room for one connection, which one borrower owns while it is lent or connecting.

    Clock readings come in pairs, wall and monotonic, in seconds: either may jump or stop while Lambda freezes.
    """

    def __init__(self, role: Role, owner: int) -> None:
        self.state: State = State.CONNECTING
        self.role: Role = role
        self.owner: int = owner
        self.taker: int | None = None  # who took it away from its owner, and finishes with it
        self.link: FleetConnection = UNOPENED
        self.endpoint: Endpoint = _NOWHERE
        self.work: Work = Work.ENDED
        self.returned: int = 0  # number of its last return to the pool: the larger it is, the later it was used
        self.reuses: int = 0
        self.generation: int = -1
        self.pid: int = -1
        self.lifetime: float = 0.0
        self.created_wall: float = 0.0
        self.created_mono: float = 0.0
        self.idle_wall: float = 0.0
        self.idle_mono: float = 0.0
        # When to ask how crowded the server is: at once for a new connection; never if this server is not asked.
        self.ask_wall: float = 0.0
        self.ask_mono: float = 0.0
        # The server's own timer. If the session was idle for longer than `lasts`, it is about to end. If the server has
        # heard nothing for `silence`, the session could end during a borrow.
        self.lasts: float = _NEVER
        self.silence: float = _NEVER
        self.silent_wall: float = _NEVER
        self.silent_mono: float = _NEVER
        self.answered: bool = False  # `heard` was called in this borrow
        # When it was last surely alive: what the server answered was sent then; or, without that, it was given back.
        self.alive_wall: float = 0.0
        self.alive_mono: float = 0.0
        # The current or last borrow: its start (0: not lent yet, or already reported), its checkout in seconds, and
        # whether it opened a connection.
        self.borrowed_mono: float = 0.0
        self.checkout: float = 0.0
        self.fresh: bool = False
        self.cancel_mono: float = -1.0  # when the statement cancelled in this borrow must have ended; -1 if none was
        self.condemned: bool = False  # its statement was cancelled by another thread: it must not be lent again
        self.request: Request | None = None  # the request that it was borrowed for, in a server that has many at once
        self.where: object = None
        self.instruction: int = 0
        self.stack: tuple[tuple[CodeType, int], ...] = ()

    def opened(
        self,
        link: FleetConnection,
        *,
        generation: int,
        pid: int,
        lifetime: float,
        wall: float,
        mono: float,
        timer: float = 0.0,
        longest: float = 0.0,
        asks: bool = True,
    ) -> None:
        """Take in a connection that was just opened (`lifetime` in seconds, jitter included).

        `timer`: idle seconds after which the server ends it (0: never). `longest`: seconds that an invocation may last.
        `asks`: whether the server is asked how crowded it is.
        """
        self.link = link
        self.generation = generation
        self.pid = pid
        self.lifetime = lifetime
        self.created_wall = self.idle_wall = wall
        self.created_mono = self.idle_mono = mono
        self.lasts = timer - _EARLIER if timer else _NEVER
        self.silence = timer - longest - _ROUND_TRIP if timer else _NEVER
        self.heard(wall, mono)
        self.ask_wall = self.ask_mono = 0.0 if asks else _NEVER

    def heard(self, wall: float, mono: float) -> None:
        """The server answered what was sent at this time, and its timer started again.

        The time of the answer says nothing: it may have been read from the socket's buffer after a freeze.
        """
        self.answered = True
        self.alive_wall, self.alive_mono = wall, mono
        self.silent_wall = wall + self.silence
        self.silent_mono = mono + self.silence

    def age(self, wall: float, mono: float) -> float:
        """Seconds since it was opened: the larger of what both clocks say."""
        return max(wall - self.created_wall, mono - self.created_mono)

    def idle(self, wall: float, mono: float) -> float:
        """Seconds since it was last used: the larger of what both clocks say."""
        return max(wall - self.idle_wall, mono - self.idle_mono)
