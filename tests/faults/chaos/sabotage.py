"""Pools that are broken on purpose, inside of the function: the ledger must find out. See test_sabotage.py."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import psycopg
import pymysql

from lambda_pool import CommitUncertain, LambdaPoolError, api, invocation, lifecycle, pool, reclaim
from lambda_pool.core.entry import Work
from lambda_pool.core.policy import Verdict
from lambda_pool.engines.base import Facts, Failure, Outcome
from lambda_pool.engines.psycopg import engine as postgres_engine
from lambda_pool.engines.psycopg import engine_connection as postgres
from lambda_pool.engines.psycopg import shared as postgres_shared
from lambda_pool.engines.psycopg.connection import PooledConnection
from lambda_pool.engines.pymysql import engine as mysql_engine
from lambda_pool.engines.pymysql import engine_connection as mysql
from lambda_pool.engines.pymysql.connection import BoundedConnection
from lambda_pool.lifecycle import alarm
from tests.faults.chaos.call import OwnError

DRIVER_ERRORS = (psycopg.Error, pymysql.MySQLError)

LINKS: tuple[Any, ...] = (postgres.PostgresConnection, mysql.MysqlConnection)
CONNECTIONS: tuple[Any, ...] = (PooledConnection, BoundedConnection)


def acknowledges_without_commit() -> None:
    """Says that it is saved, but rolls back."""
    for link in LINKS:

        def commit(self: Any, timeout: float | None, *, last: bool = True, genuine: Any = link.rollback) -> Outcome:
            genuine(self, timeout, last=last)
            return Outcome.COMMITTED

        link.commit = commit


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
        link.rollback = link.commit


def saves_in_parts() -> None:
    """Commits after each statement, and calls it a transaction."""
    genuine = pool.ConnectionPool.open

    def opened(self: Any, entry: Any, deadline: Any) -> None:
        genuine(self, entry, deadline)
        conn = entry.link.driver_connection
        if hasattr(conn, "pgconn"):
            conn.autocommit = True
            entry.link._autocommit = True
        else:
            conn.autocommit(True)
            entry.link._autocommit = True

    pool.ConnectionPool.open = opened  # type: ignore[method-assign]


def calls_uncertain_failed() -> None:
    """Reports a COMMIT whose answer was lost as if it had been refused."""
    for link in LINKS:

        def commit(self: Any, timeout: float | None, *, last: bool = True, genuine: Any = link.commit) -> Outcome:
            try:
                outcome: Outcome = genuine(self, timeout, last=last)
            except CommitUncertain as error:
                raise RuntimeError(f"not saved: {error}") from error.__cause__
            return outcome

        link.commit = commit


def forgets_the_deadline() -> None:
    """Waits as if the invocation had no end."""
    vars(alarm)["cancel_running"] = lambda pool, within: None
    invocation.remaining = lambda: None


def trusts_what_was_frozen() -> None:
    """Lends what it has without a check."""
    vars(pool)["at_checkout"] = lambda *facts, **named: Verdict.REUSE


# --- the idioms -------------------------------------------------------------------------------------------------------


def _undo_where(wanted: Callable[[Any], object]) -> None:
    """Roll back, and report a commit, where `wanted` says so of the driver's connection."""
    for link in LINKS:

        def commit(self: Any, timeout: float | None, *, last: bool = True, genuine: Any = link.commit) -> Outcome:
            if wanted(self.driver_connection):
                self.rollback(timeout, last=last)
                return Outcome.COMMITTED
            outcome: Outcome = genuine(self, timeout, last=last)
            return outcome

        link.commit = commit


def _around_release(change: Callable[[Any, BaseException | None], BaseException | None]) -> None:
    """Give `release` another error than the block's."""
    genuine = pool.ConnectionPool.release

    def release(self: Any, entry: Any, error: BaseException | None = None, *, strict: bool | None = None) -> None:
        genuine(self, entry, change(entry, error), strict=strict)

    pool.ConnectionPool.release = release  # type: ignore[method-assign]


def needs_the_decorator() -> None:
    """Silently undoes what is done outside of a decorated handler."""
    _around_release(lambda entry, error: error or (None if invocation.running else OSError("undecorated")))


def saves_nothing_with_conn() -> None:
    """`with conn:` ends without a COMMIT."""
    for connection in CONNECTIONS:
        connection.__exit__ = lambda self, *details: self.rollback()


def lets_a_first_block_commit() -> None:
    """What comes first ends the transaction by itself: `conn.transaction()`, and on MySQL what `begin()` began."""
    genuine = PooledConnection.transaction

    @contextmanager
    def transaction(self: Any, *arguments: Any) -> Iterator[Any]:
        with genuine(self, *arguments) as block:
            yield block
        self.end(commit=True)

    replace(PooledConnection, transaction=transaction)
    replace(BoundedConnection, begin=lambda self: self.query("set autocommit = 1"))


def has_no_block_on_autocommit() -> None:
    """`conn.transaction()` and `begin()` do nothing."""
    replace(PooledConnection, transaction=lambda self: nullcontext())
    replace(BoundedConnection, begin=lambda self: None)


def ignores_the_borrowers_commit() -> None:
    """`conn.commit()` is left to the end of the block, which may be something other than a COMMIT."""
    inside: list[Any] = []
    genuine_release = pool.ConnectionPool.release

    def release(self: Any, *arguments: Any, **named: Any) -> None:
        inside.append(self)
        try:
            genuine_release(self, *arguments, **named)
        finally:
            inside.pop()

    pool.ConnectionPool.release = release  # type: ignore[method-assign]
    for connection in CONNECTIONS:

        def commit(self: Any, genuine: Any = connection.commit) -> None:
            if inside:
                genuine(self)

        connection.commit = commit


def ignores_a_rollback() -> None:
    """`conn.rollback()` does nothing."""
    for connection in CONNECTIONS:
        connection.rollback = lambda self: None


def believes_the_status_bit() -> None:
    """Treats every transaction as the one that `run` began."""
    for link in LINKS:
        genuine = link.inspect

        def inspect(self: Any, *, ask: bool = False, genuine: Any = genuine) -> Facts:
            facts: Facts = genuine(self, ask=ask)
            return facts.replace(own_transaction=True)

        link.inspect = inspect


def forgets_threads() -> None:
    """Undoes what another thread did on the handler's connection."""
    strange: set[int] = set()
    for connection in CONNECTIONS:

        def cursor(self: Any, *arguments: Any, genuine: Any = connection.cursor) -> Any:
            if threading.current_thread() is not threading.main_thread():
                strange.add(id(self))
            return genuine(self, *arguments)

        connection.cursor = cursor
    _undo_where(lambda conn: id(conn) in strange)


def only_warns() -> None:
    """As unsaved="warn"."""
    for each in lifecycle.pools():
        vars(each.config)["unsaved"] = "warn"


def says_nothing() -> None:
    """Raises nothing of its own at the end of a block."""
    genuine = pool.ConnectionPool.release

    def release(self: Any, *arguments: Any, **named: Any) -> None:
        with suppress(LambdaPoolError):
            genuine(self, *arguments, **named)

    pool.ConnectionPool.release = release  # type: ignore[method-assign]


def undoes_all_after_an_error() -> None:
    """Treats a statement that failed as the whole transaction, and says nothing."""
    failed: set[int] = set()
    query = BoundedConnection.query

    def noting(self: Any, *arguments: Any) -> Any:
        try:
            return query(self, *arguments)
        except Exception:
            failed.add(id(self))
            raise

    replace(BoundedConnection, query=noting)
    _undo_where(lambda conn: id(conn) in failed)
    says_nothing()


def undoes_what_was_answered() -> None:
    """Rolls back because of an error that the handler has turned into an answer."""
    raised: list[OwnError] = []
    OwnError.__init__ = lambda self, *text: raised.append(self)  # type: ignore[method-assign]
    _undo_where(lambda conn: raised)


def undoes_all_for_a_savepoint() -> None:
    """Going back to a savepoint undoes the transaction."""
    genuine = PooledConnection.transaction

    @contextmanager
    def transaction(self: Any, *arguments: Any) -> Iterator[Any]:
        try:
            with genuine(self, *arguments) as block:
                yield block
        except Exception:
            self.end(commit=False)
            raise

    query = BoundedConnection.query

    def shortened(self: Any, sql: Any, *arguments: Any) -> Any:
        return query(self, "rollback" if "rollback to" in str(sql) else sql, *arguments)

    replace(PooledConnection, transaction=transaction)
    replace(BoundedConnection, query=shortened)


def takes_a_conflict_for_success() -> None:
    """`run` succeeds although the server undid its work."""
    genuine = api.Pool.run

    def run(self: Any, work: Any, **options: Any) -> Any:
        with suppress(*DRIVER_ERRORS):
            return genuine(self, work, attempts=1, **options)

    api.Pool.run = run  # type: ignore[method-assign]


def calls_a_commit_on_its_way_undone() -> None:
    """Takes a connection away while a thread is committing on it, and says that nothing is saved."""
    genuine = reclaim._revoke
    vars(reclaim)["_revoke"] = lambda *facts: Work.OPEN if genuine(*facts) is not Work.ENDED else Work.ENDED


def takes_from_the_block_around() -> None:
    """The end of an invocation takes back what was borrowed before it began."""
    genuine = reclaim.end_invocation
    vars(reclaim)["end_invocation"] = lambda pool, since, *, alone: genuine(pool, 0.0, alone=alone)


def keeps_old_plans() -> None:
    """Does not notice a changed schema: connections stay, and `run` does not replay."""
    for module in (postgres_engine, postgres_shared, mysql_engine):
        genuine = module.classify

        def classify(error: BaseException, genuine: Any = genuine) -> Failure:
            kind: Failure = genuine(error)
            stale = kind is Failure.STALE or "definition has changed" in str(error)
            return Failure.OTHER if stale else kind

        vars(module)["classify"] = classify


def resets_nothing() -> None:
    """Leaves a session as its borrower left it."""
    for each in lifecycle.pools():
        vars(each.config)["reset"] = "transaction"


def replace(connection: Any, **methods: Any) -> None:
    """Replace methods of a driver's connection."""
    for name, method in methods.items():
        setattr(connection, name, method)


def apply(name: str) -> None:
    """Break every pool of this process."""
    globals()[name]()
