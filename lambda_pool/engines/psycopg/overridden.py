"""psycopg's methods of a connection that are overridden only to note what they did."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .shared import Shared


def _note_two_phase(conn: "Shared", prepared: bool, xid: Any = "") -> None:
    named = str(xid) or (conn.pooled.two_phase if prepared else "")
    conn.pooled.two_phase, conn.pooled.left_prepared = named, named if prepared else ""


def _note_setting(conn: "Shared", value: Any) -> None:
    conn.pooled.altered = True


OVERRIDDEN: dict[str, Callable[..., None]] = {
    "tpc_begin": lambda conn, xid: _note_two_phase(conn, False, xid),
    "tpc_prepare": lambda conn: _note_two_phase(conn, True),
    "tpc_commit": lambda conn, xid=None: _note_two_phase(conn, False),
    "tpc_rollback": lambda conn, xid=None: _note_two_phase(conn, False),
    "set_autocommit": _note_setting,
    "set_isolation_level": _note_setting,
    "set_read_only": _note_setting,
    "set_deferrable": _note_setting,
    "add_notice_handler": lambda conn, callback: conn.pooled.handlers.append(("notice_handler", callback)),
    "add_notify_handler": lambda conn, callback: conn.pooled.handlers.append(("notify_handler", callback)),
    "remove_notice_handler": lambda conn, callback: conn.pooled.handlers.remove(("notice_handler", callback)),
    "remove_notify_handler": lambda conn, callback: conn.pooled.handlers.remove(("notify_handler", callback)),
}
"""The methods, and what notes that one of them succeeded."""


def overridden(name: str, genuine: Any, then: Callable[..., None]) -> Any:
    """A driver method whose waits, if any, are known. `then` is called with the same arguments if it succeeds."""

    def known(conn: "Shared") -> AbstractContextManager[None]:
        # Both are answered with ROLLBACK, and no error, if the transaction has failed.
        if name in {"tpc_prepare", "tpc_commit"}:
            return conn.committing(blocks=None, two_phase=name == "tpc_commit")
        return nullcontext() if name.endswith("_handler") else conn.announced()

    def method(self: "Shared", *args: Any, **named: Any) -> None:
        with known(self):
            genuine(self, *args, **named)
        then(self, *args, **named)

    async def coroutine(self: "Shared", *args: Any, **named: Any) -> None:
        with known(self):
            await genuine(self, *args, **named)
        then(self, *args, **named)

    made: Any = coroutine if iscoroutinefunction(genuine) else method
    made.__name__, made.__doc__ = name, getattr(genuine, "__doc__", None)
    return made
