"""Whether this version of psycopg still has what the pool overrides and calls."""

from inspect import signature
from typing import Any, NoReturn

import psycopg

from ...errors import ConfigError
from .overridden import OVERRIDDEN

# The methods of psycopg's classes that are overridden or called here: a later version could drop or rename them.
_NEEDED = {
    psycopg.Connection: (
        *("wait", "cursor", "transaction", "pipeline", "notifies", "commit", "rollback", "adapters", "cancel_safe"),
        *OVERRIDDEN,
    ),
    psycopg.Cursor: ("execute", "executemany", "stream", "copy", "nextset", "set_result"),
    psycopg.ServerCursor: ("fetchone", "fetchmany", "fetchall", "scroll", "close"),
}
# The same names of its asyncio half.
_ASYNC: dict[Any, Any] = {
    psycopg.Connection: psycopg.AsyncConnection,
    psycopg.Cursor: psycopg.AsyncCursor,
    psycopg.ServerCursor: psycopg.AsyncServerCursor,
}


def check_driver(*, awaited: bool = False) -> None:
    """Raises ConfigError if this version of psycopg lacks what is overridden here. `awaited`: in its asyncio half."""
    for genuine, names in _NEEDED.items():
        owner = _ASYNC[genuine] if awaited else genuine
        for name in names:
            if not hasattr(owner, name):
                unfit(f"{owner.__name__}.{name}() is gone")
    connection: Any = _ASYNC[psycopg.Connection] if awaited else psycopg.Connection
    if not {"gen", "interval", "timeout"} <= signature(connection.wait).parameters.keys():
        unfit(f"{connection.__name__}.wait() does not take gen, interval and timeout")


def unfit(what: str) -> NoReturn:
    """Raises ConfigError."""
    raise ConfigError(
        f"psycopg {psycopg.__version__} cannot be used: {what}, and safe transactions need that. Install a version "
        "that lambda-pool was tested with (see its constraints), or a newer lambda-pool"
    )
