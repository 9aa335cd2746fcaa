"""The server's own timers, set with the login: that costs no round trip, and a reset restores them."""

from math import ceil
from typing import Any

_IDLE = "idle_session_timeout"
_GONE = "client_connection_check_interval"
_LOOK = 2000
"""Milliseconds after which a busy server checks that its client is still there. Without this, the statement that an
environment runs when Lambda ends it goes on, with its locks. One check is one system call on the server."""
# How a server before version 14 refuses them, and how a pooler does that the pool was not told of.
_REFUSALS = (_IDLE, _GONE, "startup parameter", "options")


def with_timers(arguments: dict[str, Any], seconds: float) -> dict[str, Any] | None:
    """The arguments for libpq, with the timers. None for 0 seconds, and if somebody has set the first timer already."""
    from psycopg.pq import Conninfo

    if not seconds:
        return None
    said = arguments.get("options")
    if said is None:  # otherwise PGOPTIONS, or a service file, would no longer be read
        said = next(
            (each.val.decode() for each in Conninfo.get_defaults() if each.keyword == b"options" and each.val), ""
        )
    if _IDLE in said:
        return None
    look = "" if _GONE in said else f" -c {_GONE}={_LOOK}"
    return {**arguments, "options": f"{said} -c {_IDLE}={ceil(seconds * 1000)}{look}".strip()}


def refuses_timers(error: Exception) -> bool:
    """Whether a login may have failed only because of the timers."""
    return any(part in str(error) for part in _REFUSALS)
