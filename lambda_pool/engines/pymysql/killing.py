"""Ending a statement from outside: KILL QUERY, over a second connection."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import ref

from ..base import Aside, EngineConnection

if TYPE_CHECKING:
    from .connection import BoundedConnection


def kill_query(conn: "BoundedConnection", number: int, timeout: float, aside: Callable[[], EngineConnection]) -> bool:
    """Ask the server to end what runs on `conn`, in at most `timeout` seconds. False if it did not work."""
    conn.cancelled = True
    try:
        helper = aside()
        try:
            other: Any = helper.driver_connection
            if other.sock.getpeername() != conn.sock.getpeername():
                # The name leads to another server by now, where the number is somebody else's.
                return False
            with other.bounded(timeout):
                # Without parameters PyMySQL sends it as it is; the number is the server's own.
                other.query(f"KILL QUERY {number:d}")
        finally:
            helper.close(timeout)
    except Exception:  # noqa: BLE001 - whatever went wrong, the caller's answer is to abort
        return False
    return True


def stopper(conn: "BoundedConnection", aside: Aside | None) -> Callable[[float], object]:
    """What ends the statement that `conn` waits for, in at most so many seconds; where nobody can, only notes it."""
    known = ref(conn)  # which knows the socket that knows this

    def stop(seconds: float) -> None:
        found = known()
        if found is not None and aside is None:
            found.cancelled = True
        elif found is not None and aside is not None:
            number = int(found.thread_id())  # type: ignore[no-untyped-call]
            kill_query(found, number, seconds, lambda: aside(seconds))

    return stop
