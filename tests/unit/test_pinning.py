"""Which statements pin behind an RDS Proxy, by their text."""

import pytest

from lambda_pool.testing.pinning import LARGEST, reason, shown


@pytest.mark.parametrize(
    "sql",
    [
        "SET search_path = shop",
        "/* first */ set time zone 'UTC'",
        "-- note\nSET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "RESET ALL",
        "select set_config('app.user', '7', false)",
        "SELECT 1; SET work_mem = '1MB'",
        "PREPARE a AS SELECT 1",
        "EXECUTE a(1)",
        "DEALLOCATE ALL",
        "DISCARD ALL",
        "create temp table t (id int)",
        "CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1",
        "select 1 as one into temp t",
        "DECLARE c CURSOR FOR SELECT 1",
        "LISTEN orders",
        "UNLISTEN *",
        "LOAD 'auto_explain'",
        "select nextval('s')",
        "insert into t values (setval('s', 3))",
        "select pg_advisory_lock(1)",
        "select pg_try_advisory_lock_shared(1, 2)",
        "select '" + "x" * LARGEST + "'",
    ],
)
def test_what_pins_on_postgresql(sql: str) -> None:
    assert reason(sql, "postgresql")


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "select 1",
        "BEGIN READ ONLY",
        "SET LOCAL search_path = shop",
        "set transaction isolation level serializable",
        "SET CONSTRAINTS ALL DEFERRED",
        "select set_config('app.user', '7', true)",
        "update orders set state = 'paid' where id = 1",
        "insert into temp values (1)",
        "with a as (select 1) insert into temp select * from a",
        "insert into notes values ('SET x = 1; LISTEN y; nextval(')",
        "insert into notes values (E'it\\'s; LISTEN y')",
        "select $a$ pg_advisory_lock(1) $a$",
        'select "nextval(" from t',
        "select pg_advisory_xact_lock(1)",
        "PREPARE TRANSACTION 'a'",
        "NOTIFY orders",
        "select 1 -- ; SET x = 1",
    ],
)
def test_what_does_not_pin_on_postgresql(sql: str) -> None:
    assert reason(sql, "postgresql") is None


@pytest.mark.parametrize(
    "sql",
    [
        "SET @user = 7",
        "set sql_mode = 'ANSI', @a := 1",
        "SET foreign_key_checks = 0",
        "SET SESSION max_execution_time = 100",
        "SET GLOBAL max_connections = 10",
        "/*!40101 SET unique_checks = 0 */",
        "SET TRANSACTION READ ONLY",
        "SET @@transaction_isolation = 'SERIALIZABLE'",
        "SET ROLE admin",
        "select @a := id from t",
        "select id into @a from t",
        "LOCK TABLES t WRITE",
        "LOCK TABLE t READ",
        "FLUSH TABLES WITH READ LOCK",
        "select get_lock('a', 1)",
        "DO GET_LOCK('a', 1)",
        "CREATE TEMPORARY TABLE t (id int)",
        "PREPARE a FROM 'select 1'",
        "EXECUTE a",
        "DEALLOCATE PREPARE a",
        "select '" + "x" * LARGEST + "'",
    ],
)
def test_what_pins_on_mysql(sql: str) -> None:
    assert reason(sql, "mysql")


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "select 1",
        "START TRANSACTION READ ONLY",
        "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
        "SET CHARACTER SET utf8mb4",
        "SET AUTOCOMMIT = 0",
        "SET @@session.time_zone = '+00:00', sql_mode = 'ANSI,STRICT_ALL_TABLES'",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET SESSION transaction_isolation = 'SERIALIZABLE'",
        "SET PASSWORD FOR app = 'x'",
        "USE shop",
        "update orders set state = 'paid' where id = 1",
        "insert into notes values ('SET @x = 1; LOCK TABLES', \"get_lock(\", 'it''s \\' fine')",
        "select 1 # ; SET @x = 1",
        "select @@version",
        "select release_lock('a')",
    ],
)
def test_what_does_not_pin_on_mysql(sql: str) -> None:
    assert reason(sql, "mysql") is None


def test_no_text_is_shown() -> None:
    assert shown("SET /* why */ app.key = 's3cret'\n", "postgresql") == "SET app.key = '…'"
    assert shown('SET @key = "s3cret"', "mysql") == 'SET @key = "…"'


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_nothing_of_a_text_is_shown_whose_end_is_missing(engine: str) -> None:
    assert shown("insert into t values ('a', 's3cr", engine) == "insert into t values ('…', '…'"
    assert shown("select 1 /* s3cr", engine) == "select 1"
    assert "s3cr" not in shown('select "s3cr', engine)


def test_nothing_of_a_text_is_shown_that_ends_at_its_escape() -> None:
    assert shown(r"select 's3cr\'"[:-1], "mysql") == "select '…'"
    assert shown(r"select E's3cr\'"[:-1], "postgresql") == "select '…'"
    assert shown("select $$s3cr", "postgresql") == "select '…'"
    assert shown("select a$b$c from t", "postgresql") == "select a$b$c from t"
