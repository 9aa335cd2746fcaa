"""MySQL: a read-only borrow writes nothing, not even by DDL, which ends the transaction that it is sent in."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT

from tests.contract.conftest import Database
from tests.support.core import entries
from tests.support.written import written

ENDINGS = {
    "ddl": ["create table made_by_a_reader (id int)"],
    "ddl behind another statement": ["select 1; create table made_by_a_reader (id int)"],
    "a commit in front": ["commit; insert into {table} values (1)"],
    "a lock": ["lock tables {table} write", "insert into {table} values (1)"],
    "a procedure with ddl": ["call reader_makes()"],
    "a procedure that commits": ["call reader_commits()"],
    "a prepared statement": ["prepare it from 'create table made_by_a_reader (id int)'", "execute it"],
    "autocommit": ["set autocommit = 1", "insert into {table} values (1)"],
}
HIDDEN = {"a procedure with ddl", "a procedure that commits", "a prepared statement"}
"""What only the server sees, and not the pool: see docs/limits.md."""


@pytest.fixture
def reader_makes(my: Database) -> Iterator[None]:
    my.execute("create or replace procedure reader_makes() create table made_by_a_reader (id int)")
    my.execute(f"create or replace procedure reader_commits() begin commit; insert into {my.table} values (1); end")
    yield
    my.execute("drop table if exists made_by_a_reader")


@pytest.mark.sampled(7, "many cases")
@pytest.mark.parametrize(
    ("way", "ending"),
    [
        *product(["block", "run", "autocommit=true"], ENDINGS),
        *product(["pooled=true"], [ending for ending in ENDINGS if ending not in HIDDEN]),
    ],
)
def test_what_ends_a_read_only_transaction_writes_nothing(
    my: Database, reader_makes: None, ending: str, way: str
) -> None:
    url = f"{my.url}&{way}" if "=" in way else my.url
    pool = my.pool(url, connect_args={"client_flag": CLIENT.MULTI_STATEMENTS})

    def work(conn: Any) -> None:
        with conn.cursor() as cursor:
            for statement in ENDINGS[ending]:
                cursor.execute(statement.format(table=my.table))
                while cursor.nextset():
                    pass

    with pytest.raises(pymysql.OperationalError, match=r"1792|1099"):  # or that the table is locked for reading
        if way == "run":
            pool.run(work, readonly=True)
        else:
            with pool.connection(readonly=True) as conn:
                work(conn)
    assert my.execute("show tables like 'made_by_a_reader'") == []
    assert my.rows() == []
    with pool.connection() as conn:
        my.query(conn, "create table made_by_a_reader (id int)")
        my.insert(conn, 2)
    assert my.rows() == [2]
    assert pool.stats().opened == 1 or way == "pooled=true"


def test_a_session_that_stays_read_only_is_lent_to_nobody(my: Database) -> None:
    pool = my.pool()
    pool.warm(strict=True)
    link: Any = entries(pool)[0].link
    link._read_write = b"set session there_is_no_such_variable = default"
    with pool.connection(readonly=True) as conn:
        my.query(conn, "select 1")
    with pool.connection() as conn:
        my.insert(conn, 1)
    assert (my.rows(), pool.stats().opened) == ([1], 2)


@pytest.mark.parametrize("end", ["commit", "rollback", "block"])
@pytest.mark.parametrize("reset", ["changed", "session", "transaction"])
def test_a_read_only_borrow_costs_one_round_trip_and_leaves_what_is_set_globally(
    my: Database, reset: str, end: str
) -> None:
    pool = my.pool(reset=reset)
    with pool.connection() as conn:
        my.query(conn, "select 1")
    with written(conn) as writes, pool.connection(readonly=True) as conn:
        my.query(conn, "select 1")
        if end != "block":
            getattr(conn, end)()
    assert len(writes) == 3 + (end != "block")  # the session is told after the borrower's own COMMIT
    with written(conn) as writes, pool.connection() as conn:
        my.insert(conn, 1)
    assert len(writes) == 2
    my.execute("set global tx_read_only = 1")
    try:
        with pool.connection(readonly=True) as conn:
            my.query(conn, "select 1")
        with pool.connection() as conn:
            assert my.query(conn, "select @@tx_read_only") == [(1,)]
    finally:
        my.execute("set global tx_read_only = 0")
    assert pool.stats().opened == 1
