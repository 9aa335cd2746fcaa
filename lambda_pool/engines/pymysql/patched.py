"""Wrappers around `pymysql.connect`, such as OpenTelemetry's and X-Ray's instrumentors, see a pool's statements too.

The pool opens connections itself, in bounded time. The wrapper gets a PyMySQL connection that is never opened. The
method `cursor` of what it returns makes the cursors of the pool's connection. Imported only if there is a wrapper.
"""

import logging
from typing import Any

import pymysql
from pymysql.connections import Connection

from .connection import BoundedConnection

log: logging.Logger = logging.getLogger("lambda_pool")


def stand_in(conn: BoundedConnection) -> Any:
    """What the wrapper makes of a connection like `conn`, without its password.

    None if that is neither a connection nor a proxy of one, or if it fails, which is logged.
    """
    user: Any = conn.user  # in bytes, as an open connection has it
    try:
        made = pymysql.connect(defer_connect=True, host=conn.host, port=conn.port, user=user, database=conn.db)
    except Exception:
        log.warning("a wrapper around pymysql.connect() failed with a pool's connection", exc_info=True)
        return None
    return made if isinstance(made, Connection) else None
