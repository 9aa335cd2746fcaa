"""The one seam for every wait: a pause, a turn in the queue, and who the borrower is.

Whatever waits elsewhere in the package waits through here, so that another way of waiting is another set of these.
"""

from threading import Lock, get_ident
from time import sleep

from .endpoints.base import Role


def current_borrower() -> int:
    """Who borrows: one thread, by its number."""
    return get_ident()


def pause(seconds: float) -> None:
    """Do nothing for so many seconds."""
    sleep(seconds)


class Turn:
    """One borrower's place in a pool's queue."""

    __slots__ = ("_asleep", "owner", "role")

    def __init__(self, owner: int, role: Role) -> None:
        self.owner: int = owner
        self.role: Role = role
        self._asleep = Lock()
        self._asleep.acquire()

    def wait(self, seconds: float) -> bool:
        """Wait for `wake`, at most so many seconds. False if it did not come."""
        return self._asleep.acquire(timeout=seconds)

    def wake(self) -> None:
        """Let the borrower look again. The pool's lock is held, so that no two wake it at once."""
        if self._asleep.locked():
            self._asleep.release()
