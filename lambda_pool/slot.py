"""One cached connection: its state, generation and ages. Pure: no clock, no lock, no I/O."""

from enum import Enum
from types import CodeType
from typing import cast

from .endpoints.base import Endpoint, Role
from .engines.base import Link


class State(Enum):
    """Where a slot stands. `Slot.shift` is the way from one to another; `Shelf.take` and `put` on the warm path."""

    CONNECTING = "connecting"
    """Reserved by a borrower who is opening its connection."""
    IDLE = "idle"
    """Cached, and nobody's."""
    LENT = "lent"
    """With a borrower: being checked, used or returned."""
    GONE = "gone"
    """Given up, and nobody's any more; its room is free once its connection is closed. Final."""

    sources: "tuple[State, ...]"


# Kept on the members: a dictionary would call Enum's hash, which is written in Python.
State.CONNECTING.sources = (State.LENT,)
State.IDLE.sources = (State.LENT,)
State.LENT.sources = (State.IDLE, State.CONNECTING)
State.GONE.sources = (State.CONNECTING, State.IDLE, State.LENT)

# A slot's link is read only where its state says that there is one; a type with None would cost the warm path a check.
UNOPENED = cast(Link, None)
_NOWHERE = Endpoint("")


class Slot:
    """Room for one connection. Its owner, while lent or connecting, is one thread.

    Clock readings come in pairs, wall and monotonic, in seconds: either may jump or stop while Lambda freezes.
    """

    __slots__ = (
        "borrowed_mono",
        "cancel_mono",
        "checkout",
        "created_mono",
        "created_wall",
        "endpoint",
        "expires_mono",
        "expires_wall",
        "fresh",
        "generation",
        "idle_mono",
        "idle_wall",
        "instruction",
        "lifetime",
        "link",
        "owner",
        "pid",
        "reuses",
        "role",
        "stack",
        "state",
        "taker",
        "where",
    )

    def __init__(self, role: Role, owner: int) -> None:
        self.state = State.CONNECTING
        self.role = role
        self.owner = owner
        self.taker: int | None = None  # the thread that took it away from its owner, and sees to its end
        self.link: Link = UNOPENED
        self.endpoint = _NOWHERE
        self.reuses = 0
        self.generation = -1
        self.pid = -1
        self.lifetime = 0.0
        self.expires_wall = self.expires_mono = 0.0
        self.created_wall = self.created_mono = 0.0
        self.idle_wall = self.idle_mono = 0.0
        # Of the borrow that is on, or was last: since when, how long its checkout took, and whether it opened anew.
        self.borrowed_mono = 0.0
        self.checkout = 0.0
        self.cancel_mono = -1.0  # when its statement was cancelled last
        self.fresh = False
        self.where: object = None
        self.instruction = 0
        self.stack: tuple[tuple[CodeType, int], ...] = ()

    def shift(self, source: State, to: State, taker: int | None = None) -> bool:
        """Change state if it still is `source`; False if another thread was faster.

        `taker`: the thread that takes it away from its owner.

        Atomic: CPython switches threads where a function begins, after a call and where a loop turns, and none of these
        comes between the look and the change. Raises RuntimeError on a move that makes no sense: a bug in the pool.
        """
        if source not in to.sources:
            raise RuntimeError(f"a slot cannot go from {source.value} to {to.value}")
        if self.state is not source:
            return False
        self.state = to
        self.taker = taker
        return True

    def opened(self, link: Link, *, generation: int, pid: int, lifetime: float, wall: float, mono: float) -> None:
        """Take in a connection that was just opened (`lifetime` in seconds, jitter included)."""
        self.link = link
        self.generation = generation
        self.pid = pid
        self.lifetime = lifetime
        self.expires_wall = wall + lifetime
        self.expires_mono = mono + lifetime
        self.created_wall = self.idle_wall = wall
        self.created_mono = self.idle_mono = mono

    def age(self, wall: float, mono: float) -> float:
        """Seconds since it was opened: the larger of what both clocks say."""
        return max(wall - self.created_wall, mono - self.created_mono)

    def idle(self, wall: float, mono: float) -> float:
        """Seconds since it was last used: the larger of what both clocks say."""
        return max(wall - self.idle_wall, mono - self.idle_mono)
