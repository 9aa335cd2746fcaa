"""What must hold whatever a server sends."""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pymysql

import lambda_pool
from lambda_pool.api import core_of
from tests.faults.fuzz.conftest import Target

ALLOWED = (lambda_pool.LambdaPoolError, psycopg.Error, pymysql.MySQLError)

# Seconds that a busy machine may add to a bound.
SLACK = 1.0


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error with its causes and contexts."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def shown(error: BaseException) -> str:
    """Everything that a log could show of an error, locals but for those of the tests included."""
    parts = ["".join(traceback.format_exception(error))]
    for each in chain(error):
        parts += [repr(each), str(each), repr(each.args), repr({k: v for k, v in vars(each).items() if k != "pgconn"})]
    return "\n".join(parts)


def attempt(target: Target, call: Callable[[], object], within: float) -> tuple[object, BaseException | None]:
    """Call, and check the outcome against what must always hold: a bounded time, an allowed error, no password."""
    start = time.monotonic()
    result: object = None
    failure: BaseException | None = None
    try:
        result = call()
    except ALLOWED as error:
        failure = error
        assert target.secret not in shown(error)
    seconds = time.monotonic() - start
    assert seconds < within + SLACK, f"took {seconds:.2f} s instead of {within}"
    return result, failure


def check_served(target: Target, pool: lambda_pool.Pool) -> None:
    """Now that the server is good again, the pool works and has lost nothing."""
    stats = pool.stats()
    assert stats.in_use == stats.waiting == 0
    assert stats.size == stats.idle <= pool.config.max_size
    target.front.play()
    # The short bounds were for the hostile server; the good one may be on a busy machine.
    core = core_of(pool)
    core.config = core.connector._config = core.config.replace(timeout=5.0, connect_timeout=5.0, ping_timeout=5.0)
    answer = attempt(target, lambda: _ask(target, pool), 5.0)
    assert answer == ((42,), None)
    stats = pool.stats()
    assert (stats.size, stats.idle, stats.in_use, stats.waiting) == (1, 1, 0, 0)
    assert stats.opened - stats.closed == 1
    assert target.secret not in repr(pool) + repr(stats)


def _ask(target: Target, pool: lambda_pool.Pool) -> Any:
    # It may fail twice: a connection of the hostile server is found dead by its borrower, who is told.
    for last in (False, True):
        try:
            with pool.connection() as conn:
                cursor = conn.cursor()
                cursor.execute("select 42")
                return cursor.fetchone()
        except (psycopg.OperationalError, pymysql.OperationalError, pymysql.InterfaceError):
            if last:
                raise
    raise AssertionError("unreachable")


@contextmanager
def no_secret_logged(target: Target, caplog: Any) -> Iterator[None]:
    """Nothing that is logged in this block, at any level by any library, shows the password."""
    caplog.clear()
    with caplog.at_level(1):
        yield
    assert target.secret not in caplog.text
