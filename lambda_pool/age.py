"""How old a cached credential is, for a process that may be frozen at any time."""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""A wall clock: seconds since 1970, such as `time.time`."""


class Birth:
    """The moment something was made, by the wall clock and by the monotonic one."""

    __slots__ = ("_monotonic", "_wall")

    def __init__(self, clock: Clock) -> None:
        self._wall = clock()
        self._monotonic = time.monotonic()

    @property
    def wall(self) -> float:
        """Seconds since 1970, by the wall clock."""
        return self._wall

    def age(self, clock: Clock) -> float:
        """Seconds since then: the larger of what both clocks say, infinity if one of them went backwards.

        The monotonic clock may stand still while an environment is frozen, the wall clock may be set back.
        """
        wall = clock() - self._wall
        monotonic = time.monotonic() - self._monotonic
        return float("inf") if wall < 0 or monotonic < 0 else max(wall, monotonic)
