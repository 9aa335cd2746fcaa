"""Pools that are broken on purpose, inside of the function: the ledger must find out. See test_sabotage.py."""

from typing import Any

from lambda_pool import CommitUncertain, api, invocation, pool
from lambda_pool.core.policy import REUSE
from lambda_pool.engines.base import Outcome
from lambda_pool.engines.psycopg import link as postgres
from lambda_pool.engines.pymysql import link as mysql
from lambda_pool.lifecycle import alarm

LINKS: tuple[Any, ...] = (postgres.PostgresLink, mysql.MysqlLink)


def acknowledges_without_commit() -> None:
    """Says that it is saved, and rolls back."""
    for link in LINKS:

        def finish(self: Any, *, commit: bool, timeout: float | None, genuine: Any = link.finish) -> Outcome:
            genuine(self, commit=False, timeout=timeout)
            return Outcome.COMMITTED if commit else Outcome.ROLLED_BACK

        def commit(self: Any, timeout: float | None, genuine: Any = link.finish) -> bool:
            genuine(self, commit=False, timeout=timeout)
            return True

        link.finish, link.commit = finish, commit


def replays_after_commit() -> None:
    """Writes again when nobody knows whether it is saved."""
    genuine = api.Pool.run

    def run(self: Any, work: Any, **options: Any) -> Any:
        try:
            return genuine(self, work, **options)
        except CommitUncertain:
            return run(self, work, **options)

    api.Pool.run = run  # type: ignore[method-assign]


def saves_what_failed() -> None:
    """Commits what a handler's own error should have undone."""
    for link in LINKS:

        def finish(self: Any, *, commit: bool, timeout: float | None, genuine: Any = link.finish) -> Outcome:
            outcome: Outcome = genuine(self, commit=True, timeout=timeout)
            return outcome

        link.finish = finish


def saves_in_parts() -> None:
    """Commits after each statement, and calls it a transaction."""
    genuine = pool.ConnectionPool._open

    def opened(self: Any, entry: Any, limit: Any) -> None:
        genuine(self, entry, limit)
        conn = entry.link.conn
        if hasattr(conn, "pgconn"):
            conn.autocommit = True
            entry.link._autocommit = True
        else:
            conn.autocommit(True)
            entry.link._autocommit = True

    pool.ConnectionPool._open = opened  # type: ignore[method-assign]


def calls_uncertain_failed() -> None:
    """Reports a COMMIT whose answer was lost as if it had been refused."""
    for module in (postgres, mysql):
        module.uncertain = lambda error: RuntimeError(f"not saved: {error}")  # type: ignore[attr-defined]


def forgets_the_deadline() -> None:
    """Waits as if the invocation had no end."""
    vars(alarm)["cancel_running"] = lambda pool, within: None
    invocation.remaining = lambda: None


def trusts_what_was_frozen() -> None:
    """Lends what it has without a look."""
    vars(pool)["at_checkout"] = lambda *facts, **named: REUSE


def apply(name: str) -> None:
    """Break every pool of this process."""
    globals()[name]()
