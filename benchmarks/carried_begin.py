"""An experiment: BEGIN sent together with the first statement, in one round trip instead of two.

psycopg's own pipeline does not do that: it waits for BEGIN's answer before it sends what follows (3.1 to 3.3). So here
BEGIN is queued as a statement of its own, while psycopg believes that it is in autocommit mode. docs/benchmarks.md says
why lambda_pool does not do it.
"""

from typing import Any

import psycopg

_IDLE = 0


class CarryingCursor(psycopg.Cursor[Any]):
    """A cursor whose first statement carries BEGIN."""

    def execute(self, query: Any, params: Any = None, *, prepare: Any = None, binary: Any = None) -> Any:
        """As psycopg's."""
        conn = self._conn
        if conn.pgconn.transaction_status != _IDLE or conn.autocommit or conn._pipeline:
            return super().execute(query, params, prepare=prepare, binary=binary)
        with conn.pipeline():
            conn._autocommit = True
            try:
                psycopg.Cursor(conn).execute(conn._get_tx_start_command(), prepare=False)
                super().execute(query, params, prepare=prepare, binary=binary)
            finally:
                conn._autocommit = False
        return self
