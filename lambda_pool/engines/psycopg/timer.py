"""The server's own timer for idle sessions, told with the login: it costs no round trip, and a reset brings it back."""

from math import ceil
from typing import Any

_NAME = "idle_session_timeout"
# How a server before version 14 refuses it, and how a pooler does that nobody told the pool of.
_REFUSALS = (_NAME, "startup parameter", "options")


def with_timer(arguments: dict[str, Any], seconds: float) -> dict[str, Any] | None:
    """What libpq is told, and the timer with it. None for 0 seconds, and where somebody has set that timer already."""
    from psycopg.pq import Conninfo

    if not seconds:
        return None
    said = arguments.get("options")
    if said is None:  # else PGOPTIONS, or a service file, would no longer be read
        said = next(
            (each.val.decode() for each in Conninfo.get_defaults() if each.keyword == b"options" and each.val), ""
        )
    if _NAME in said:
        return None
    return {**arguments, "options": f"{said} -c {_NAME}={ceil(seconds * 1000)}".strip()}


def refuses_timer(error: Exception) -> bool:
    """Whether a login may have failed for the timer alone."""
    return any(part in str(error) for part in _REFUSALS)
