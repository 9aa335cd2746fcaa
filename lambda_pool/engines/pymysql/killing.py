"""Ending a statement from outside: KILL QUERY, over a second connection."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from ..base import Aside, EngineConnection

if TYPE_CHECKING:
    from .connection import BoundedConnection


def kill_query(
    conn: "BoundedConnection", number: int, timeout: float, aside: Callable[[str], EngineConnection]
) -> bool:
    """Ask the server to end what runs on `conn`, in at most `timeout` seconds. False if it did not work."""
    conn.cancelled = True
    try:
        peer = conn.sock.getpeername()
        # To its address: the name may lead to another server by now, where the number is somebody else's.
        helper = aside("" if isinstance(peer, str | bytes) else peer[0])
        try:
            other: Any = helper.driver_connection
            with other.bounded(timeout):
                # Without parameters PyMySQL sends it as it is; the number is the server's own.
                other.query(f"KILL QUERY {number:d}")
        finally:
            helper.close(timeout)
    except Exception:  # noqa: BLE001 - whatever went wrong, the caller then aborts
        return False
    return True


def stopper(conn: "BoundedConnection", aside: Aside | None) -> Callable[[float], object]:
    """A function that ends the statement of `conn` within the given seconds. Without `aside` it only notes that."""
    known = ref(conn)  # weak: it refers to the socket, which refers to this

    def stop(seconds: float) -> None:
        found = known()
        if found is not None and aside is None:
            found.cancelled = True
        elif found is not None and aside is not None:
            number = int(found.thread_id())  # type: ignore[no-untyped-call]
            kill_query(found, number, seconds, partial(aside, seconds))

    return stop
