"""What is reported about a slow statement: its beginning, and never its parameters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

OnSlow = Callable[[float, str], None]
"""Called with the seconds that a statement took, and its shortened text."""

_LONGEST = 200


def shorten(statement: str) -> str:
    """A statement on one line of at most 200 characters."""
    # Cut twice: a statement may be megabytes long.
    text = " ".join(statement[: 20 * _LONGEST].split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


@contextmanager
def timed(limit: float, on_slow: OnSlow, text: Callable[[], str]) -> Iterator[None]:
    """Tell `on_slow` if this block takes longer than `limit` seconds, however it ends."""
    start = monotonic()
    try:
        yield
    finally:
        tell_if_slow(start, limit, on_slow, text)


def tell_if_slow(start: float, limit: float, on_slow: OnSlow, text: Callable[[], str]) -> None:
    """The same for a statement that began at `start` (monotonic) and has just ended."""
    took = monotonic() - start
    if took > limit:
        on_slow(took, shorten(text()))
