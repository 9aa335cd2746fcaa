"""What is reported about a slow statement: its beginning, and never its parameters."""

from collections.abc import Callable
from time import monotonic

OnSlow = Callable[[float, str], None]
"""Called with the seconds that a statement took, and its shortened text."""

_LONGEST = 200


def shorten(statement: str) -> str:
    """A statement on one line of at most 200 characters."""
    # Cut twice: a statement may be megabytes long.
    text = " ".join(statement[: 20 * _LONGEST].split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def tell_if_slow(start: float, limit: float, on_slow: OnSlow, text: Callable[[], str]) -> None:
    """Tell `on_slow` of a statement that began at `start` (monotonic), ended just now, and took more than `limit` s."""
    took = monotonic() - start
    if took > limit:
        on_slow(took, shorten(text()))
