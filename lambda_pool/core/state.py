"""Which entries one pool has, which of them are idle or lent, and who waits for one.

Every method is called with the pool's lock held. An entry's state is the only record of where it stands. It changes by
one assignment, the last in its method. So an exception from a signal handler leaves either the old state or the new
one, and `reclaim` finds what such an exception left behind.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..endpoints.base import Role
from ..events import Reason
from .entry import Entry, State, Work

if TYPE_CHECKING:
    from ..request import Request
    from ..waiting import Turn

_IDLE, _LENT, _GONE = State.IDLE, State.LENT, State.GONE


class PoolState:
    """Room for at most `max_size` entries, handed out first come, first served."""

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.entries: list[Entry] = []
        self.queue: deque[Turn] = deque()
        self.generation: int = 0
        self._closed: int = 0  # entries of an older generation were there when the pool was closed
        self._returns = 0
        self.reused: int = 0  # by entries that are gone; the others count their own

    def idle(self) -> list[Entry]:
        """The idle entries, in the order in which they were given back."""
        found = [entry for entry in self.entries if entry.state is _IDLE]
        found.sort(key=lambda entry: entry.returned)
        return found

    # --- taking -------------------------------------------------------------------------------------------------------

    def acquire(
        self, role: Role, owner: int, turn: "Turn | None" = None, *, request: "Request | None" = None
    ) -> Entry | None:
        """The idle entry of this role that was used last; else room for a new one; else the entry idle for longest.

        None if there is nothing, or if others wait and `turn` is not the first of them. A `turn` that was passed over
        joins the queue again.
        """
        if turn is not None and turn not in self.queue:
            self.queue.append(turn)
        if self.queue and self.queue[0] is not turn:
            return None
        found = None
        for entry in self.entries:
            if entry.state is _IDLE and entry.role is role and (found is None or entry.returned > found.returned):
                found = entry
        if found is None:
            new = self.make_room(role, owner, request=request)
            idle = self.idle() if new is None else []
            if not idle:
                return new
            found = idle[0]
        found.owner = owner
        found.request = request
        found.state = _LENT
        return found

    def make_room(
        self, role: Role, owner: int, limit: int | None = None, *, request: "Request | None" = None
    ) -> Entry | None:
        """Room for a new entry, unless there are `limit` (by default `max_size`) already."""
        if len(self.entries) >= min(limit or self.max_size, self.max_size):
            return None
        entry = Entry(role, owner)
        entry.request = request
        self.entries.append(entry)
        return entry

    def held_by(self, owner: int, request: object) -> int:
        """How many entries this borrower holds for this request. A server's thread may hold those of others, too."""
        return sum(
            entry.owner == owner and entry.request is request
            for entry in self.entries
            if entry.state is _LENT or entry.state is State.CONNECTING
        )

    # --- the queue ----------------------------------------------------------------------------------------------------

    def leave(self, turn: "Turn") -> None:
        """Leave the queue, and let the borrower that is first now look."""
        if turn in self.queue:
            self.queue.remove(turn)
        self.wake()

    def forget_turns(self, owner: int) -> None:
        """Remove the places of a borrower that does not wait: an exception left them behind in the queue."""
        for turn in [turn for turn in self.queue if turn.owner == owner]:
            self.queue.remove(turn)
        self._pass_over_abandoned()

    def wake(self) -> None:
        """Let the first in the queue look again, if there is something to find."""
        if self.queue:
            self._pass_over_abandoned()
        if self.queue and (len(self.entries) < self.max_size or any(entry.state is _IDLE for entry in self.entries)):
            self.queue[0].wake()

    def _pass_over_abandoned(self) -> None:
        """Drop the first places if their event loop does not run. Further back they do no harm."""
        while self.queue and self.queue[0].abandoned:
            self.queue.popleft().wake()

    # --- giving back and giving up ------------------------------------------------------------------------------------

    def give_back(self, entry: Entry) -> bool:
        """Make a lent entry idle, and wake a borrower that waits. False if it was taken away meanwhile."""
        if entry.state is not _LENT or entry.condemned:
            return False
        self._returns += 1
        entry.returned = self._returns
        entry.work = Work.ENDED  # otherwise the next borrower, who has not got it yet, would answer for it
        entry.state = _IDLE
        self.wake()
        return True

    def retire(self, entry: Entry) -> bool:
        """Take an entry out for good; its room stays taken until `free`. False if somebody did so before."""
        if entry.state is _GONE:
            return False
        entry.state = _GONE
        return True

    def retire_idle(self, owner: int) -> Entry | None:
        """Take out one idle entry that is not of this generation, if there is one."""
        for entry in self.idle():
            if entry.generation != self.generation:
                entry.owner = owner
                entry.state = _GONE
                return entry
        return None

    def retire_stuck(self, owner: int, is_stuck: Callable[[int], bool]) -> Entry | None:
        """Take out one entry whose borrower never goes on, if there is one."""
        for entry in self.entries:
            if entry.state is not _IDLE and is_stuck(entry.taker or entry.owner):
                entry.taker = owner
                entry.state = _GONE
                return entry
        return None

    def close(self) -> None:
        """Make every entry outdated."""
        self.generation += 1
        self._closed = self.generation

    def why_outdated(self, entry: Entry) -> Reason:
        """Why an entry is not of this generation."""
        return Reason.POOL_CLOSED if entry.generation < self._closed else Reason.GENERATION

    def reclaim(self, owner: int, *, alone: bool, since: float, cannot_go_on: Callable[[int], bool]) -> list[Entry]:
        """Take out what was lent after `since` (monotonic, seconds), and what was left half open or half closed.

        `alone`: take it from every borrower, not only from this one. Called when this borrower borrows nothing any
        more: what it still seems to be doing was left behind by an exception. `cannot_go_on` says of another borrower
        whether it will never finish what it is doing.
        """
        self.forget_turns(owner)
        found = []
        for entry in self.entries:
            if entry.state is _LENT:
                # 0 means that it is being checked, so it was lent just now.
                if (alone or entry.owner == owner) and not 0.0 < entry.borrowed_mono < since:
                    entry.taker = owner
                    entry.state = _GONE
                    found.append(entry)
            elif entry.state is not _IDLE and ((who := entry.taker or entry.owner) == owner or cannot_go_on(who)):
                # Leave what another borrower is opening or taking away: that one will finish it.
                entry.state = _GONE
                found.append(entry)
        self.wake()
        return found

    def reclaim_of(self, request: object, owner: int) -> list[Entry]:
        """Take out what was lent for this request, and what `owner`, who cleans up, left half open or closed in it."""
        found = [
            entry
            for entry in self.entries
            if entry.request is request
            and entry.state is not _IDLE
            and (entry.state is _LENT or (entry.taker or entry.owner) == owner)
        ]
        for entry in found:
            entry.taker = owner
            entry.state = _GONE
        self.wake()
        return found

    def free(self, entry: Entry) -> None:
        """Give up the room of an entry that was taken out, so that a waiting borrower can use it."""
        if entry in self.entries:  # not after a fork
            self.entries.remove(entry)
            self.reused += entry.reuses
        self.wake()
