"""What is wrapped around `pymysql.connect`, as OpenTelemetry's and X-Ray's instrumentors do, sees a pool's statements.

The pool opens connections itself, in bounded time. The wrapper gets a connection of PyMySQL's that is never opened,
and the cursors of the pool's connection are made by its method `cursor`. Imported only where there is a wrapper.
"""

import logging
from typing import Any

import pymysql
from pymysql.connections import Connection

from .connection import BoundedConnection

log: logging.Logger = logging.getLogger("lambda_pool")


def stand_in(conn: BoundedConnection) -> Any:
    """What the wrapper makes of a connection like `conn`, without its password.

    None where that is neither a connection nor a proxy of one, and where it fails, which is logged.
    """
    user: Any = conn.user  # in bytes, as an open connection has it
    try:
        made = pymysql.connect(defer_connect=True, host=conn.host, port=conn.port, user=user, database=conn.db)
    except Exception:
        log.warning("what is wrapped around pymysql.connect() failed with a pool's connection", exc_info=True)
        return None
    return made if isinstance(made, Connection) else None
