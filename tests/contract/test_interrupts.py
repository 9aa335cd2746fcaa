"""A signal handler that raises, anywhere in the pool or the driver: no later borrower reads another's answer."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

import lambda_pool
from lambda_pool.testing import FaultyProxy
from tests.contract.conftest import Database
from tests.support.alarm import alarm
from tests.support.core import end_invocation
from tests.support.interrupts import every_place

PLACES = tuple(str(Path(module.__file__ or "").parent) for module in (lambda_pool, psycopg, pymysql))

# Both drivers' own (psycopg's in pure Python), where they are struck while they make a result.
pytestmark = pytest.mark.filterwarnings("ignore:.*(MySQL|PG)[rR]esult.__del__:pytest.PytestUnraisableExceptionWarning")

POOLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "autocommit": {"autocommit": True},
    "session": {"reset": "session"},
    "each time pinged": {"ping_after": 0.0},
}


def strike(database: Database, pool: lambda_pool.Pool, work: Callable[[int], object]) -> None:
    """Strike `work` at every place, and look each time at what the next two borrowers get."""
    numbers = count(1000)

    def prepare() -> Callable[[], object]:
        with pool.connection():
            pass
        number = next(numbers)
        return lambda: work(number)

    for where in every_place(prepare, PLACES, least=50):
        end_invocation(pool)
        try:
            for _ in range(2):
                number = next(numbers)
                with pool.connection() as conn:
                    assert database.query(conn, f"select {number}") == [(number,)]
            with pool.connection() as conn:
                assert database.query(conn, f"select count(*) from {database.table} where id < 0") == [(0,)]
        except BaseException as error:
            error.add_note(f"struck at {where}")
            raise
        assert pool.stats().size == pool.stats().idle <= 1


@pytest.mark.sampled(2, "a second a case")
@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS.keys())
def test_a_statement(database: Database, options: dict[str, Any]) -> None:
    pool = database.pool(**options)

    def work(number: int) -> None:
        with pool.connection() as conn:
            database.insert(conn, number)
            assert database.query(conn, f"select {number}") == [(number,)]

    strike(database, pool, work)


def test_run(database: Database) -> None:
    pool = database.pool()
    strike(database, pool, lambda number: pool.run(lambda conn: database.insert(conn, number)))


@pytest.mark.parametrize("own", [None, "commit()", "COMMIT"])
def test_a_time_limit_of_the_users_own_amid_commit_is_uncertain(database: Database, own: str | None) -> None:
    """Whoever catches it and writes again could write twice."""
    with FaultyProxy("127.0.0.1", database.server.port) as proxy:
        pool = database.pool(database.url.replace(f":{database.server.port}/", f":{proxy.port}/"))
        with ExitStack() as stack, pytest.raises(lambda_pool.CommitUncertain) as caught, pool.connection() as conn:
            database.insert(conn, 1)
            proxy.black_hole()
            stack.enter_context(alarm(0.4, error := TimeoutError("mine")))  # also rings at the end of the block
            if own == "COMMIT":
                database.query(conn, "COMMIT")
            elif own:
                conn.commit()
        assert caught.value.__cause__ is error
        assert pool.stats().in_use == 0


def test_a_time_limit_of_the_users_own_after_commit_does_not_call_the_work_undone(my: Database) -> None:
    """It struck while the pool brought the session back to how it was lent, which here takes longer than COMMIT."""
    pool = my.pool(reset="session", connect_args={"init_command": "do sleep(0.8)"})
    pool.warm()
    told = pytest.raises(lambda_pool.CommitUncertain, match=r"^the transaction is saved, so do not write it again")
    with alarm(0.4, error := TimeoutError("mine")), told as caught:
        with pool.connection() as conn:
            my.insert(conn, 1)
    assert caught.value.__cause__ is error
    assert my.rows() == [1]
    assert pool.stats().size == 0


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_block_that_handles_its_own_time_limit_amid_commit_is_told(database: Database, autocommit: bool) -> None:
    with FaultyProxy("127.0.0.1", database.server.port) as proxy:
        url = database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
        pool = database.pool(url, autocommit=autocommit)
        with pytest.raises(lambda_pool.CommitUncertain), pool.connection() as conn:
            database.insert(conn, 1)
            proxy.black_hole()
            with alarm(0.4, TimeoutError("mine")), suppress(lambda_pool.CommitUncertain, TimeoutError):
                if autocommit:
                    database.insert(conn, 2)
                else:
                    conn.commit()
        assert pool.stats().in_use == 0


def test_a_time_limit_of_the_users_own_amid_what_a_cursor_of_their_own_sent(pg: Database) -> None:
    """Nobody saw what it sent: it may be a COMMIT."""
    with FaultyProxy("127.0.0.1", pg.server.port) as proxy:
        pool = pg.pool(pg.url.replace(f":{pg.server.port}/", f":{proxy.port}/"))
        with pytest.raises(lambda_pool.CommitUncertain) as caught, pool.connection() as conn:
            pg.insert(conn, 1)
            proxy.black_hole()
            with alarm(0.4, error := TimeoutError("mine")):
                psycopg.ClientCursor(conn).execute("COMMIT")
        assert caught.value.__cause__ is error
        assert pool.stats().in_use == 0


@pytest.mark.parametrize("own", [True, False])
def test_the_end_of_a_thread_amid_commit_passes_as_it_is(database: Database, own: bool) -> None:
    with FaultyProxy("127.0.0.1", database.server.port) as proxy:
        pool = database.pool(database.url.replace(f":{database.server.port}/", f":{proxy.port}/"))
        with ExitStack() as stack, pytest.raises(SystemExit) as caught, pool.connection() as conn:
            database.insert(conn, 1)
            proxy.black_hole()
            stack.enter_context(alarm(0.4, error := SystemExit(3)))
            if own:
                conn.commit()
        assert caught.value is error
        assert pool.stats().in_use == 0


def test_a_failing_block(database: Database) -> None:
    pool = database.pool()

    def work(number: int) -> None:
        with pytest.raises(ZeroDivisionError), pool.connection() as conn:
            database.insert(conn, -number)
            raise ZeroDivisionError

    strike(database, pool, work)
    assert all(number > 0 for number in database.rows())


def test_a_statement_after_an_alarm_in_the_connections_own_lock(pg: Database) -> None:
    """It struck where the lock was taken and its owner not yet noted: the rollback to a savepoint ends all the same."""
    pool = pg.pool()
    with pytest.raises(psycopg.ProgrammingError), pool.connection() as conn:
        pg.insert(conn, 1)
        with conn.transaction():
            conn.lock._lock.acquire()
            raise TimeoutError("the user's own alarm")
    with pool.connection() as conn:
        assert pg.query(conn, "select 1") == [(1,)]
    assert pg.rows() == []
