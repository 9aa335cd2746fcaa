"""Wrappers around psycopg's `connect`, such as that of OpenTelemetry's instrumentor, see a pool's statements too.

The pool opens connections itself, in bounded time. It then lets the wrappers call a function that only returns the
connection, and that takes over the class of cursors that they want. Imported only if there is a wrapper.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ...waiting import finish

log: logging.Logger = logging.getLogger("lambda_pool")


def show(conn: Any, connect: Any, own: Mapping[str, Any], *, awaited: bool) -> None:
    """Show `conn`, which is set up, to each wrapper (of the package wrapt, which instrumentors use) in `connect`.

    `own`: psycopg's own arguments. What a wrapper raises is logged, and what it returns is not used.
    """

    def hand_out(*_: Any, cursor_factory: Any = None, **__: Any) -> Any:
        if cursor_factory is not None:
            conn.cursor_factory = cursor_factory
        return conn

    async def hand_out_awaited(*_: Any, **named: Any) -> Any:
        return hand_out(**named)

    shown: Callable[..., Any] = hand_out_awaited if awaited else hand_out
    call = _around(connect, shown)
    if call is shown:
        return
    try:
        answer = call(**own)
        if awaited:
            finish(answer)
    except Exception:
        log.warning("a wrapper around psycopg's connect() failed with a pool's connection", exc_info=True)


def _around(connect: Any, inner: Callable[..., Any]) -> Callable[..., Any]:
    """`inner` with the wrappers that are around `connect`, in their order."""
    wrapper = getattr(connect, "_self_wrapper", None)
    if wrapper is None:
        return inner
    below = _around(getattr(connect, "__wrapped__", None), inner)
    return lambda *args, **named: wrapper(below, None, args, named)
