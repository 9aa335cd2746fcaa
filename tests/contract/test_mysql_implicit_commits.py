"""MySQL: a statement that commits by itself, or may, and fails: what it saved is never told as undone."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pymysql
import pytest
from pymysql.cursors import SSCursor

import lambda_pool
from tests.contract.conftest import Database
from tests.contract.test_own_commits import through
from tests.support.deadlock import Deadlock

Statement = Callable[[Database], str]


def create(my: Database) -> str:
    """The table is there already: 1050."""
    return f"create table {my.table} (id int)"


def truncate(my: Database) -> str:
    """Another table refers to it: 1701."""
    my.execute(f"create table {my.table}_p (id int primary key) engine=innodb")
    my.execute(f"create table {my.table}_c (id int, foreign key (id) references {my.table}_p (id)) engine=innodb")
    return f"truncate table {my.table}_p"


def drop(my: Database) -> str:
    """There is no such table: 1051."""
    return f"drop table {my.table}_nowhere"


@pytest.fixture(params=[create, truncate, drop])
def refused(request: pytest.FixtureRequest, my: Database) -> Any:
    """A statement that commits what came before it, and is then refused."""
    yield request.param(my)
    my.execute(f"drop table if exists {my.table}_c, {my.table}_p")


def nothing(conn: Any) -> None:
    """A block that ends by itself."""


def do(pool: lambda_pool.Pool, work: Callable[[Any], None], how: str, end: Callable[[Any], object] = nothing) -> None:
    """Do the work in `run`, in a block, or in a block `with conn:`, and then end the transaction in that way."""
    if how == "run":
        pool.run(work)
        return
    with pool.connection() as conn:
        if how == "with conn":
            with conn:
                work(conn)
        else:
            work(conn)
        end(conn)


def refuses_to_commit(why: str, conn: Any) -> None:
    with pytest.raises(pymysql.InternalError, match=why):
        conn.commit()


def swallow(my: Database, conn: Any, sql: str) -> None:
    with pytest.raises(pymysql.MySQLError):
        my.query(conn, sql)


@pytest.mark.sampled(8, "many cases")
@pytest.mark.parametrize("end", ["block", "commit()", "with conn", "run", "COMMIT"])
@pytest.mark.parametrize("more", [True, False])
def test_what_came_before_it_is_saved_and_so_is_what_follows(my: Database, refused: str, end: str, more: bool) -> None:
    pool = my.pool()
    calls: list[int] = []

    def work(conn: Any) -> None:
        calls.append(1)
        my.insert(conn, 1)
        swallow(my, conn, refused)
        assert my.rows() == [1]
        if more:
            my.insert(conn, 2)

    ends = {"commit()": lambda conn: conn.commit(), "COMMIT": lambda conn: my.query(conn, "commit")}
    do(pool, work, end, ends.get(end, nothing))
    assert calls == [1]
    assert my.rows() == ([1, 2] if more else [1])


def test_work_that_it_saved_is_not_done_again(my: Database) -> None:
    calls: list[int] = []

    def work(conn: Any) -> None:
        calls.append(1)
        my.insert(conn, 1)
        swallow(my, conn, create(my))
        raise pymysql.OperationalError(1213, "a real one does the same")

    with pytest.raises(pymysql.OperationalError, match="a real one"):
        my.pool().run(work)
    assert calls == [1]
    assert my.rows() == [1]


def test_a_temporary_table_commits_nothing(my: Database) -> None:
    with my.pool().connection() as conn:
        my.insert(conn, 1)
        my.query(conn, "create temporary table scratch (id int)")
        swallow(my, conn, "create temporary table scratch (id int)")
        my.insert(conn, 2)
        conn.rollback()
    assert my.rows() == []


def test_one_that_the_deadline_ended_leaves_no_half(my: Database) -> None:
    """It had committed, and waited for a lock: it alone is undone."""
    reader = my.pool(name="reader")
    with reader.connection() as holds, my.pool().connection() as conn:
        my.query(holds, f"select * from {my.table}")
        my.insert(conn, 1)
        backend = my.backend(conn)

        def end() -> None:
            time.sleep(0.3)
            conn.cancelled = True
            my.execute(f"kill query {backend}")

        thread = threading.Thread(target=end)
        thread.start()
        with pytest.raises(lambda_pool.DeadlineExceeded):
            my.query(conn, f"alter table {my.table} add column more int")
        thread.join()
        my.insert(conn, 2)
    assert my.rows() == [1, 2]


# --- where nobody knows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["commit", "rollback"])
@pytest.mark.parametrize("how", ["block", "run", "commit()", "with conn"])
def test_a_procedure_that_ended_the_transaction_and_failed(my: Database, body: str, how: str) -> None:
    """Whether it saved or undid what came before it, the server does not say. Nothing is added to it."""
    my.execute(f"create or replace procedure ends_and_fails() begin {body}; signal sqlstate '45000'; end")
    pool = my.pool()

    def work(conn: Any) -> None:
        my.insert(conn, 1)
        swallow(my, conn, "call ends_and_fails()")
        if how == "run":
            with suppress(lambda_pool.CommitUncertain):
                my.insert(conn, 2)
        else:
            my.insert(conn, 2)

    known = "may be saved or undone"
    with pytest.raises(lambda_pool.CommitUncertain, match=known) as caught:
        do(pool, work, how, partial(refuses_to_commit, known) if how == "commit()" else nothing)
    assert "the server undid" not in str(caught.value)
    assert my.rows() == ([1] if body == "commit" else [])


@pytest.mark.parametrize("attempts", [1, 3])
def test_work_that_does_not_swallow_its_error_raises_just_that(my: Database, attempts: int) -> None:
    my.execute("create or replace procedure ends_and_fails() begin commit; signal sqlstate '45000'; end")
    calls: list[int] = []

    def work(conn: Any) -> None:
        calls.append(1)
        my.insert(conn, 1)
        my.query(conn, "call ends_and_fails()")

    with pytest.raises(pymysql.OperationalError, match="1644"):
        my.pool().run(work, attempts=attempts)
    assert (my.rows(), calls) == ([1], [1])


def test_after_it_a_rollback_is_a_new_beginning(my: Database) -> None:
    my.execute("create or replace procedure ends_and_fails() begin commit; signal sqlstate '45000'; end")
    with my.pool().connection() as conn:
        my.insert(conn, 1)
        swallow(my, conn, "call ends_and_fails()")
        conn.rollback()
        my.insert(conn, 2)
    assert my.rows() == [1, 2]


def test_a_procedure_that_failed_and_ended_nothing_costs_nothing(my: Database) -> None:
    my.execute("create or replace procedure fails() signal sqlstate '45000'")
    with my.pool().connection() as conn:
        my.insert(conn, 1)
        swallow(my, conn, "call fails()")
        my.insert(conn, 2)
    assert my.rows() == [1, 2]


# --- what a failed procedure began ------------------------------------------------------------------------------------


@pytest.fixture
def deadlock(my: Database) -> Any:
    yield Deadlock(my)
    my.execute(f"drop table if exists {my.table}_l")


@pytest.mark.sampled(1, "half a second a case")
@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("how", ["block", "with conn", "commit()"])
def test_what_it_began_is_undone_by_a_deadlock(my: Database, deadlock: Deadlock, autocommit: bool, how: str) -> None:
    """The answer of a statement that failed does not tell whether a transaction is open."""
    begin = "start transaction; " if autocommit else ""
    my.execute(
        f"create or replace procedure writes_and_fails() begin {begin}insert into {my.table} values (1); "
        "signal sqlstate '45000'; end"
    )
    error: Any = pymysql.OperationalError if how == "with conn" else lambda_pool.NotCommitted

    def work(conn: Any) -> None:
        swallow(my, conn, "call writes_and_fails()")
        deadlock.swallow(conn)
        with suppress(pymysql.InternalError):
            my.insert(conn, 2)

    undid = "the server undid this transaction"
    with pytest.raises(error):
        do(
            my.pool(autocommit=autocommit),
            work,
            how,
            partial(refuses_to_commit, undid) if how == "commit()" else nothing,
        )
    assert my.rows() == []


def test_two_errors_before_anything_was_begun_undo_nothing(my: Database) -> None:
    with my.pool().connection() as conn:
        for _ in range(2):
            with pytest.raises(pymysql.ProgrammingError):
                my.query(conn, "selec 1")
        my.insert(conn, 2)
    assert my.rows() == [2]


# --- its own answer is lost -------------------------------------------------------------------------------------------


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("in_run", [False, True])
@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("create table {table}_m (id int)", "commits what came before it, so a COMMIT was sent"),
        ("/* x */ alter table {table}_a add column more int", "commits what came before it, so a COMMIT was sent"),
        ("call it_commits()", "may commit by itself, so perhaps a COMMIT was sent"),
        pytest.param("begin not atomic commit; end", "may commit by itself, so perhaps", marks=pytest.mark.mariadb),
    ],
)
def test_what_came_before_it_may_be_saved(my: Database, statement: str, words: str, in_run: bool) -> None:
    my.execute("create or replace procedure it_commits() commit")
    my.execute(f"create table {my.table}_a (id int)")
    with through(my) as (pool, line):

        def work(conn: Any) -> None:
            my.insert(conn, 1)
            line.cut(after=0, direction="to_client")
            with pytest.raises(lambda_pool.CommitUncertain, match=words):
                my.query(conn, statement.format(table=my.table))

        with pytest.raises(lambda_pool.CommitUncertain, match=words):
            do(pool, work, "run" if in_run else "block")
        assert pool.stats().size == 0
    until = time.monotonic() + 5
    while my.rows() != [1] and time.monotonic() < until:
        time.sleep(0.01)
    assert my.rows() == [1]
    time.sleep(0.2)
    my.execute(f"drop table if exists {my.table}_m, {my.table}_a")


def close(conn: Any, cursor: Any) -> None:
    """Which reads the rest."""
    cursor.close()


def close_and_swallow(conn: Any, cursor: Any) -> None:
    with suppress(lambda_pool.CommitUncertain, pymysql.MySQLError):
        cursor.close()


def go_on(conn: Any, cursor: Any) -> None:
    """Which reads the rest first."""
    conn.ping()


def leave(conn: Any, cursor: Any) -> None:
    """The end of the block reads the rest."""


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("in_run", [False, True])
@pytest.mark.parametrize("rest", [close, close_and_swallow, go_on, leave])
def test_what_it_saved_before_its_rows_were_lost(my: Database, rest: Callable[[Any, Any], None], in_run: bool) -> None:
    my.execute(
        f"create or replace procedure commits_and_reads() begin insert into {my.table} values (1); commit; "
        "select repeat('x', 100000) union all select sleep(0.3); end"
    )
    with through(my) as (pool, line):

        def work(conn: Any) -> None:
            cursor = conn.cursor(SSCursor)
            cursor.execute("call commits_and_reads()")
            assert cursor.fetchone() == ("x" * 100000,)
            line.cut(after=0, direction="to_client")
            rest(conn, cursor)

        with pytest.raises(lambda_pool.CommitUncertain, match="may commit by itself, so perhaps a COMMIT was sent"):
            do(pool, work, "run" if in_run else "block")
        assert pool.stats().size == 0
    assert my.rows() == [1]
