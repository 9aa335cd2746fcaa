"""How many sessions a MySQL or MariaDB server has, and how many it may have."""

import pymysql
from pymysql.constants import CR

from ..base import tightest
from . import private
from .connection import BoundedConnection
from .wire import query

# Everybody may ask these two, and neither reads the list of sessions. Only that list tells how many of them are this
# account's own, so the limit of an account is compared with all sessions.
_COUNT = "SHOW GLOBAL STATUS LIKE 'Threads_connected'"
_LIMITS = "SELECT @@max_connections, @@max_user_connections"


def sessions(conn: BoundedConnection, timeout: float, *, spoken: bool) -> tuple[int, int]:
    """How many there are, and may be: for the server or the account, whichever is nearest its limit.

    One round trip in at most `timeout` seconds. `spoken`: the server has said something unasked, which would be taken
    for the answer. Raises what PyMySQL raises.
    """
    if spoken or conn.overheard:
        raise pymysql.OperationalError(CR.CR_COMMANDS_OUT_OF_SYNC, "the server sent unexpected data")
    with conn.bounded(timeout):
        conn.line.following = [query(_LIMITS.encode())]
        conn.query(_COUNT)
        count = int(private.result_of(conn).rows[0][1])
        conn.query(_LIMITS)
        limit, own = (int(value) for value in private.result_of(conn).rows[0])
        if conn.in_transaction:
            conn.rollback()
    return tightest([(count, limit), (count, own or -1)])
