"""MySQL: what one borrower leaves on the session, and how a connection comes back to what it was when it was opened."""

from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT, FIELD_TYPE

import lambda_pool
from lambda_pool.testing import MariaDbServer
from tests.contract.conftest import Database
from tests.support.written import written

RESETS = ["changed", "transaction", "session"]


@pytest.fixture
def tenant(my: Database) -> str:
    my.execute("create database if not exists tenant_a")
    my.execute("create role if not exists tenant_role")
    my.execute("grant tenant_role to current_user()")
    return "tenant_a"


# --- a baseline is what the connection was after its set-up -----------------------------------------------------------


@pytest.mark.sampled(7, "many cases")
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("pooled", ["", "&pooled=true"])
@pytest.mark.parametrize(
    ("command", "look", "wanted"),
    [
        ("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", "select @@session.tx_isolation", "READ-COMMITTED"),
        ("/* ours */ set role tenant_role", "select current_role()", "tenant_role"),
        ("set time_zone = '+02:00'", "select @@time_zone", "+02:00"),
        ("use tenant_a", "select database()", "tenant_a"),
        ("set autocommit = 1", "select @@autocommit", 0),
        ("select * from seq_1_to_3", "select 1", 1),
    ],
)
def test_the_first_command_is_part_of_it(
    my: Database, tenant: str, reset: str, pooled: str, command: str, look: str, wanted: object
) -> None:
    if pooled and reset == "session":
        reset = "transaction"  # the other is refused there
    pool = my.pool(my.url + pooled, connect_args={"init_command": command}, reset=reset)
    for _ in range(3):
        with pool.connection() as conn:
            assert my.query(conn, look) == [(wanted,)]
            my.query(conn, f"insert into app.{my.table} values ({pool.stats().reused})")
            my.query(conn, "set @left = 1")
    assert pool.stats().opened == 1


@pytest.mark.parametrize("reset", ["changed", "session"])
def test_what_is_set_comes_back_to_it(my: Database, reset: str) -> None:
    first = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
    url = f"{my.url}&sql_mode=ANSI&charset=latin1"
    look = "select @@tx_isolation, @@sql_mode, @@character_set_client, @@autocommit, @@time_zone, @x, database()"
    pool = my.pool(url, connect_args={"init_command": first}, reset=reset, autocommit=True)
    with pool.connection() as conn:
        (fresh,) = my.query(conn, look)
        assert (fresh[0], fresh[2], fresh[3]) == ("READ-COMMITTED", "latin1", 1)
    with pool.connection() as conn:
        my.query(conn, "set session transaction isolation level serializable")
        my.query(conn, "set sql_mode = '', time_zone = '+05:00', @x = 7")
        conn.autocommit(False)
        conn.set_character_set("utf8mb4")
        conn.select_db("mysql")
        my.query(conn, "create temporary table app.scratch (id int)")
    with pool.connection() as conn:
        assert my.query(conn, look) == [fresh]
        with pytest.raises(pymysql.ProgrammingError, match="scratch"):
            my.query(conn, "select * from scratch")
    assert pool.stats().opened == 1


@pytest.mark.parametrize("reset", ["changed", "session"])
def test_what_the_server_sets_up_at_each_login_is_not_reset(my: Database, reset: str) -> None:
    my.execute("create user if not exists greeted@'%' identified by 'hello'")
    my.execute("grant all on app.* to greeted@'%'")
    my.execute("set global init_connect = %s", "SET time_zone = '+03:00'; SET @met = 'é'")
    try:
        pool = my.pool(my.url.replace(f"{my.server.user}:{my.server.password}", "greeted:hello"), reset=reset)
        for number in range(3):
            with pool.connection() as conn:
                assert my.query(conn, "select @@time_zone, @met, @left") == [("+03:00", "é", None)]
                my.query(conn, "set @left = 1")
                my.insert(conn, number)
        assert pool.stats().size == 0
    finally:
        my.execute("set global init_connect = ''")
    with pool.connection() as conn:
        my.query(conn, "set @left = 1")
    with pool.connection() as conn:
        assert my.query(conn, "select @left, @met") == [(None, None)]
    assert (my.rows(), pool.stats().opened) == ([0, 1, 2], 4)


@pytest.mark.mariadb
@pytest.mark.parametrize("reset", ["changed", "session"])
def test_all_answers_to_a_reset_may_come_at_once(my: Database, reset: str) -> None:
    pool = my.pool(my.url.partition("?")[0] + "?sslmode=disable", reset=reset)  # TLS would hand them over one by one
    for number in range(5):
        with pool.connection() as conn:
            assert my.query(conn, "select @left") == [(None,)]
            my.query(conn, "set @left = 1")
            if number % 2:
                my.insert(conn, number)
    assert pool.stats().opened == 1


@pytest.mark.parametrize("reset", ["changed", "session"])
def test_a_connection_without_converters_is_kept(my: Database, reset: str) -> None:
    pool = my.pool(reset=reset, connect_args={"conv": {}})
    for _ in range(3):
        with pool.connection() as conn:
            assert my.query(conn, "select 1, @left") == [("1", None)]
            my.query(conn, "set @left = 1")
    assert pool.stats().opened == 1


# --- reset="changed" --------------------------------------------------------------------------------------------------


CHANGES = [
    "set @left = 1",
    "/* why */ set @left = 1",
    "-- why\nset time_zone = '+05:00'",
    "set @@time_zone = '+05:00'",
    "# why\nuse mysql",
    "create temporary table scratch (id int)",
    "prepare it from 'select 1'",
    "call sets_it()",
    "call tells_it(@left)",
    "get diagnostics @left = number",
    pytest.param("analyze select @left := 5", marks=pytest.mark.mariadb),
    pytest.param("values (1) into @left", marks=pytest.mark.mariadb),
    pytest.param("execute immediate 'select 1 into @left'", marks=pytest.mark.mariadb),
    pytest.param("begin not atomic select 1 into @left; end", marks=pytest.mark.mariadb),
    "select 1 into @left",
    "select @left := 5",
    "lock tables {table} write",
    "/* x */ lock tables {table} read",
    "handler {table} open",
    "select get_lock('left', 1)",
    "do get_lock('left', 1)",
    "select get_lock/* x */('left', 1)",
    "insert into {table} values (get_lock('left', 1))",
    "insert into {table} select @left := 9",
    "select 1 into/* x */@left",
    "create /* x */ temporary table scratch as select 1 as id",
    "create or replace /* x */ temporary table scratch as select 1 as id",
    "flush tables with read lock",
    "backup stage start",
]


@pytest.mark.sampled(12, "many cases")
@pytest.mark.parametrize("ends", ["well", "badly"])
@pytest.mark.parametrize("statement", CHANGES)
def test_a_session_that_was_changed_is_reset_and_no_other(my: Database, statement: str, ends: str) -> None:
    my.execute("create or replace procedure sets_it() set @left = 1")
    my.execute("create or replace procedure tells_it(out told int) set told = 1")
    pool = my.pool(reset="changed")
    try:
        with pool.connection() as conn:
            my.query(conn, "set @before = 1")
        with pool.connection() as conn:
            assert my.query(conn, "select @before") == [(None,)]
            my.query(conn, statement.format(table=my.table))
            if ends == "badly":
                raise LookupError
    except LookupError:
        pass
    with pool.connection() as conn:
        look = "select @left, @@time_zone, database(), is_used_lock('left')"
        assert my.query(conn, look) == [(None, "SYSTEM", "app", None)]
        my.query(conn, "create temporary table scratch (id int)")
    with pool.connection() as conn:
        my.insert(conn, 5)
    with my.pool(name="other").connection() as conn:  # no lock is left
        my.query(conn, "set lock_wait_timeout = 2")
        my.query(conn, f"alter table {my.table} add column more int")
    assert pool.stats().opened == 1


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_the_reset_costs_no_round_trip(my: Database, how: str) -> None:
    pool = my.pool(reset="changed", connect_args={"init_command": "set @begun = 1"})
    with pool.connection() as conn:
        pass
    with written(conn) as writes, pool.connection() as conn:
        my.insert(conn, 1)
    assert writes == [f"insert into {my.table} values (1)".encode(), b"COMMIT"]
    with written(conn) as writes:
        try:
            with pool.connection() as conn:
                my.query(conn, "set @left = 1")
                my.insert(conn, 2)
                if how == "rollback":
                    raise LookupError
        except LookupError:
            pass
    assert writes == [b"set @left = 1", f"insert into {my.table} values (2)".encode(), how.upper().encode()]
    with written(conn) as writes, pool.connection() as conn:
        assert my.query(conn, "select @left, @begun") == [(None, 1)]
    assert writes == [b"select @left, @begun"]
    assert my.rows() == ([1, 2] if how == "commit" else [1])


def test_what_is_set_on_the_connection_itself(my: Database) -> None:
    pool = my.pool(reset="changed")
    with pool.connection() as conn:
        conn.tenant = "a"
        conn.cursorclass = pymysql.cursors.DictCursor
        conn.decoders[FIELD_TYPE.LONG] = str
        conn.encoders[int] = lambda value, mapping=None: "'other'"
        conn.commit = None
    with pool.connection() as again:
        assert again is conn
        assert not hasattr(conn, "tenant")
        with conn.cursor() as cursor:
            cursor.execute("select cast(%s as signed)", (5,))
            assert cursor.fetchone() == (5,)
        conn.commit()
    assert pool.stats().opened == 1


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize(
    ("name", "value"), [("use_unicode", False), ("encoding", "latin1"), ("max_allowed_packet", 1), ("sql_mode", "ANSI")]
)
def test_one_attribute_of_the_drivers_own(my: Database, name: str, value: object, writes: bool) -> None:
    pool = my.pool()
    with pool.connection() as conn:
        before = getattr(conn, name)
        setattr(conn, name, value)
        if writes:
            my.insert(conn, 1)
    with pool.connection() as again:
        assert again is conn
        assert getattr(conn, name) == before
        assert my.query(conn, "select 'ä'") == [("ä",)]


def test_a_refused_commit_with_a_reset_behind_it_is_the_servers_error(my: Database) -> None:
    """What came back with it is read all the same, and the connection lives."""
    pool = my.pool(reset="session", unsaved="raise")
    with pytest.raises(pymysql.MySQLError), pool.connection() as conn:
        my.insert(conn, 1)
        conn.begin()  # commits
        my.query(conn, "set @left = 1")
        my.query(conn, "nonsense")
    with pool.connection() as conn:
        assert my.query(conn, "select @left") == [(None,)]
    assert my.rows() == [1]
    assert pool.stats().opened == 1


# --- in every mode ----------------------------------------------------------------------------------------------------


@pytest.mark.sampled(6, "many cases")
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize(
    "statement",
    ["use tenant_a", "/* x */ USE tenant_a", "# x\nuse tenant_a", "-- x\n use tenant_a", "/*!50000 use tenant_a */"],
)
@pytest.mark.parametrize("named", [True, False])
def test_the_database_is_the_pools_own(my: Database, tenant: str, reset: str, statement: str, named: bool) -> None:
    url = my.url if named else my.url.replace("/app?", "/?")
    pool = my.pool(url, reset=reset)
    backends = set()
    for _ in range(3):
        with pool.connection() as conn:
            assert my.query(conn, "select database()")[0][0] in ({"app"} if named else {None, "information_schema"})
            my.query(conn, statement)
            assert my.query(conn, "select database()") == [("tenant_a",)]
            backends.add(my.backend(conn))
    assert len(backends) == 1
    assert pool.stats().opened == 1


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("word", ["database", "SCHEMA"])
def test_a_database_that_was_made_anew_is_chosen_again(my: Database, reset: str, word: str) -> None:
    my.execute("create database if not exists made_anew")
    pool = my.pool(my.url.replace("/app?", "/made_anew?"), reset=reset)
    with pool.connection() as conn:
        my.query(conn, f"/* x */ drop {word} made_anew")
        my.query(conn, "create database made_anew")
    with pool.connection() as conn:
        assert my.query(conn, "select database()") == [("made_anew",)]
    assert pool.stats().opened == 1


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("statement", ["set role tenant_role", "/* x */ SET /* y */ ROLE tenant_role"])
def test_a_role_is_not_left_to_the_next(my: Database, tenant: str, reset: str, statement: str) -> None:
    pool = my.pool(reset=reset)
    with pool.connection() as conn:
        my.query(conn, statement)
        assert my.query(conn, "select current_role()") == [("tenant_role",)]
    with pool.connection() as conn:
        assert my.query(conn, "select current_role()") == [(None,)]


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize(
    "statement",
    ["flush tables with read lock", "/* x */ lock tables {table} write", "select get_lock('held', 1)"],
)
def test_no_lock_survives_a_block_that_failed(my: Database, reset: str, statement: str) -> None:
    pool = my.pool(reset=reset)
    with pytest.raises(LookupError), pool.connection() as conn:
        my.query(conn, statement.format(table=my.table))
        raise LookupError
    with my.pool(name="other").connection() as conn:
        assert my.query(conn, "select get_lock('held', 0)") == [(1,)]
        my.query(conn, "set lock_wait_timeout = 1")
        my.query(conn, f"alter table {my.table} add column more int")


@pytest.mark.parametrize("reset", ["transaction", "changed"])
def test_nothing_of_it_goes_through_a_pooler(reset: str) -> None:
    """Which may take one command at a time, and pins for a SET that it does not know."""
    with MariaDbServer(log_statements=True) as server:
        pool = lambda_pool.Pool(server.url(pooled="true"), observers=(), reset=reset)
        with pool.connection() as conn:
            conn.cursor().execute("set @left = 1")
        pool.run(lambda conn: conn.cursor().execute("select 1"))
        assert pool.stats().opened == 1
        pool.close()
        ours = [line for line in server.log.splitlines() if "session_track" in line or "SAVEPOINT" in line]
        assert ours == []


def test_several_statements_in_one(my: Database) -> None:
    pool = my.pool(reset="transaction", connect_args={"client_flag": CLIENT.MULTI_STATEMENTS})
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("select 1; /* x */ use mysql; set session transaction read only")
    with pool.connection() as conn:
        assert my.query(conn, "select database(), @@tx_read_only") == [("app", 0)]
    assert pool.stats().opened == 1


def test_a_server_that_tracks_nothing(my: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones; there the statements' own words must do."""
    from lambda_pool.engines.pymysql import connecting

    monkeypatch.setattr(connecting, "SESSION_TRACK", 0)
    pool = my.pool(reset="changed")
    for statement in ("set @left = 1", "prepare it from 'select 1'", "create temporary table scratch (id int)"):
        with pool.connection() as conn:
            my.query(conn, statement)
        with pool.connection() as conn:
            assert my.query(conn, "select @left") == [(None,)]
            my.query(conn, "create temporary table scratch (id int)")
    assert pool.stats().opened == 1


def test_a_pool_that_only_reads_tables_of_nobody_sends_no_commit(my: Database) -> None:
    pool: Any = my.pool()
    with pool.connection() as conn:
        pass
    with written(conn) as writes, pool.connection() as conn:
        my.query(conn, "select 1")
    assert writes == [b"select 1"]
