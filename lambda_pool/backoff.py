"""How long to wait before another try, with randomness that survives snapshots."""

import os
from collections.abc import Callable

# Full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/): the first wait is up to
# 50 ms, which a server that restarts or sheds connections needs at least; the cap keeps several tries within 5 s.
_BASE = 0.05
_CAP = 1.0
# If the server has no room: 50 to 500 ms, and the upper bound falls in the last seconds.
_FLOOR = 0.05
_SPREAD = 0.45
_SHARES = 8
# Seconds that are kept for the last of several attempts, however long the wait before it would be.
LAST_TRY = 0.25


def uniform() -> float:
    """A number in [0, 1) from the kernel: two clones of one snapshot never draw the same."""
    return int.from_bytes(os.urandom(6), "big") / 2**48


def crowded_backoff(left: float, chance: Callable[[], float] = uniform) -> float:
    """Seconds to wait after the server had no room, with `left` seconds to go until the caller gives up.

    A refusal costs the server a whole login, so nobody asks again at once. Those who waited longest ask most often.
    """
    return _FLOOR + chance() * min(_SPREAD, max(left, 0.0) / _SHARES)


def backoff(attempt: int) -> float:
    """Seconds to wait after the given attempt (1 is the first) failed."""
    return uniform() * min(_CAP, _BASE * 2.0 ** min(attempt - 1, 10))
