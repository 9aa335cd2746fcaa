"""How many sessions a PostgreSQL server has, and how many it may have."""

from functools import partial
from typing import TYPE_CHECKING

import psycopg
from psycopg.pq import TransactionStatus

from ..base import tightest

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from .async_connection import AsyncPooledConnection
    from .connection import PooledConnection

# Everybody may read these. The list of sessions costs twenty times as much, so it is read only if the role has a limit
# of its own. What is reserved for others is not free: since version 16 and on RDS, there is more of that.
_QUESTION = b" ".join(
    b"""
SELECT s.n, c.l - c.r, s.here, d.datconnlimit, CASE WHEN r.rolconnlimit >= 0 THEN (
    SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a WHERE a.usesysid OPERATOR(pg_catalog.=) r.oid
  ) ELSE 0 END, r.rolconnlimit
FROM (
    SELECT pg_catalog.sum(numbackends) AS n,
      pg_catalog.sum(numbackends) FILTER (WHERE datname = pg_catalog.current_database()) AS here
    FROM pg_catalog.pg_stat_database WHERE datid <> 0
  ) s,
  (
    SELECT pg_catalog.sum(setting::int) FILTER (WHERE name = 'max_connections') AS l,
      pg_catalog.sum(setting::int) FILTER (WHERE name <> 'max_connections') AS r
    FROM (
      SELECT name, coalesce(nullif(pg_catalog.current_setting(name, true), ''), '0') AS setting
      FROM pg_catalog.unnest(ARRAY['max_connections', 'superuser_reserved_connections', 'reserved_connections',
        'rds.rds_superuser_reserved_connections']) AS name
    ) settings
  ) c,
  pg_catalog.pg_database d, pg_catalog.pg_roles r
WHERE d.datname = pg_catalog.current_database() AND r.rolname = session_user
""".split()
)


def sessions(conn: "PooledConnection | AsyncPooledConnection", timeout: float) -> tuple[int, int]:
    """How many there are, and may be: for the server, the database or the role, whichever is nearest its limit.

    One round trip in at most `timeout` seconds. Raises what psycopg raises.
    """
    answers: list[PGresult] = []
    conn.within(timeout, partial(conn.exchange, _QUESTION, answers, bounded=True))
    if len(answers) != 1 or answers[0].ntuples != 1 or conn.pgconn.transaction_status != TransactionStatus.IDLE:
        raise psycopg.OperationalError("the server did not answer with exactly one row")
    numbers = [int(answers[0].get_value(0, column) or 0) for column in range(answers[0].nfields)]
    return tightest(zip(numbers[::2], numbers[1::2], strict=True))
