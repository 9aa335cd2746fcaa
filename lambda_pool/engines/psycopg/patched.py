"""A wrapper around psycopg's `connect`, such as that of OpenTelemetry's instrumentor, sees a pool's statements too.

The pool opens connections itself, in bounded time. It then lets the wrapper call a function that only returns the
connection, and that takes over the class of cursors that the wrapper wants. Imported only if there is a wrapper.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ...waiting import finish

log: logging.Logger = logging.getLogger("lambda_pool")


def show(conn: Any, connect: Any, own: Mapping[str, Any], *, awaited: bool) -> None:
    """Show `conn`, which is set up, to the wrapper (of the package wrapt, which instrumentors use) in `connect`.

    `own`: psycopg's own arguments. What the wrapper raises is logged, and what it returns is not used.
    """

    def hand_out(*_: Any, cursor_factory: Any = None, **__: Any) -> Any:
        if cursor_factory is not None:
            conn.cursor_factory = cursor_factory
        return conn

    async def hand_out_awaited(*_: Any, **named: Any) -> Any:
        return hand_out(**named)

    wrapper = getattr(connect, "_self_wrapper", None)
    if wrapper is None:
        return
    try:
        answer = wrapper(hand_out_awaited if awaited else hand_out, None, (), dict(own))
        if awaited:
            finish(answer)
    except Exception:
        log.warning("a wrapper around psycopg's connect() failed with a pool's connection", exc_info=True)
