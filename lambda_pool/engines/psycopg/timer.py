"""The server's own timers, told with the login: that costs no round trip, and a reset brings them back."""

from math import ceil
from typing import Any

_IDLE = "idle_session_timeout"
_GONE = "client_connection_check_interval"
_LOOK = 2000
"""Milliseconds after which a server at work looks whether its client is still there. Without that, what an environment
ran when Lambda ended it goes on to its own end, with its locks. One look is one system call of the server's."""
# How a server before version 14 refuses them, and how a pooler does that nobody told the pool of.
_REFUSALS = (_IDLE, _GONE, "startup parameter", "options")


def with_timers(arguments: dict[str, Any], seconds: float) -> dict[str, Any] | None:
    """What libpq is told, and the timers with it. None for 0 seconds, and where somebody has set the first already."""
    from psycopg.pq import Conninfo

    if not seconds:
        return None
    said = arguments.get("options")
    if said is None:  # else PGOPTIONS, or a service file, would no longer be read
        said = next(
            (each.val.decode() for each in Conninfo.get_defaults() if each.keyword == b"options" and each.val), ""
        )
    if _IDLE in said:
        return None
    look = "" if _GONE in said else f" -c {_GONE}={_LOOK}"
    return {**arguments, "options": f"{said} -c {_IDLE}={ceil(seconds * 1000)}{look}".strip()}


def refuses_timers(error: Exception) -> bool:
    """Whether a login may have failed for the timers alone."""
    return any(part in str(error) for part in _REFUSALS)
