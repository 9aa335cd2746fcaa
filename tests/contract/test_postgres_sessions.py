"""PostgreSQL: a session that was changed is reset with COMMIT, in no further round trip, and others are left alone."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types import numeric
from psycopg.types.string import StrDumper

import lambda_pool
from lambda_pool.testing import FaultyProxy
from tests.contract.conftest import Database
from tests.faults.fuzz.hostile import Front
from tests.support.core import entries


@pytest.fixture
def front(pg: Database) -> Iterator[Front]:
    """What counts round trips: answers, one for each time that the client has spoken."""
    with Front(pg.server.port) as listening:
        yield listening


def through(pg: Database, front: Front, **options: Any) -> lambda_pool.Pool:
    url = pg.server.url(host="127.0.0.1", port=front.port, tls=False, sslmode="disable")
    pool = pg.pool(url, **options)
    pool.warm()
    return pool


CHANGES = [
    "set statement_timeout = '77s'",
    "SET /* c */ statement_timeout = '77s'",
    "set local statement_timeout = 1000; set statement_timeout = '77s'",
    "select 1; set statement_timeout = '77s'",
    "select set_config('statement_timeout', '77s', false)",
    "select set_config('statement_timeout', lower('77S'), 'f')",
]


def at_once(conn: Any, text: str) -> None:
    conn.execute(text)


def in_a_pipeline(conn: Any, text: str) -> None:
    with conn.pipeline():
        for part in text.split(";"):
            conn.execute(part)


def by_a_cursor_of_ones_own(conn: Any, text: str) -> None:
    psycopg.ClientCursor(conn).execute(text)


def by_one_in_a_pipeline(conn: Any, text: str) -> None:
    with conn.pipeline():
        for part in text.split(";"):
            psycopg.Cursor(conn).execute(part)


def many(conn: Any, text: str) -> None:
    for part in text.split(";"):
        conn.cursor().executemany(part, [()])


def streamed(conn: Any, text: str) -> None:
    list(conn.cursor().stream("select set_config('statement_timeout', '77s', false)"))


def copied(conn: Any, text: str) -> None:
    with conn.cursor().copy("copy (select set_config('statement_timeout', '77s', false)) to stdout") as copy:
        list(copy)


def by_a_named_cursor(conn: Any, text: str) -> None:
    with conn.cursor("named") as cursor:
        cursor.execute("select set_config('statement_timeout', '77s', false)")
        cursor.fetchall()


WAYS = [
    at_once,
    in_a_pipeline,
    by_a_cursor_of_ones_own,
    by_one_in_a_pipeline,
    many,
    streamed,
    copied,
    by_a_named_cursor,
]


@pytest.mark.sampled(6, "many cases")
@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_however_it_was_changed_it_is_reset(pg: Database, way: Callable[[Any, str], None], autocommit: bool) -> None:
    if autocommit and way is by_a_named_cursor:
        autocommit = False  # it needs a transaction
    pool = pg.pool(reset="changed", autocommit=autocommit)
    for text in CHANGES:
        with pool.connection() as conn:
            way(conn, text)
            assert pg.query(conn, "show statement_timeout") == [("77s",)]
        with pool.connection() as conn:
            assert pg.query(conn, "show statement_timeout") == [("0",)], text
    assert pool.stats().opened == 1


@pytest.mark.parametrize(
    ("change", "look"),
    [
        (
            sql.SQL("select {}(7)").format(sql.Identifier("pg_advisory_lock")),
            "select count(*) from pg_locks where objid = 7",
        ),
        ("select pg_catalog.\"set_config\"('statement_timeout', '77s', false)", "show statement_timeout"),
        (
            sql.SQL("create table {} (id int)").format(sql.Identifier("pg_temp", "left behind")),
            "select to_regclass('pg_temp.\"left behind\"')",
        ),
        ("update pg_settings set setting = '77' where name = 'statement_timeout'", "show statement_timeout"),
    ],
)
def test_a_quoted_name_hides_nothing(pg: Database, change: Any, look: str) -> None:
    pool = pg.pool(reset="changed")
    with pool.connection() as conn:
        fresh = pg.query(conn, look)
        conn.execute(change)
        assert pg.query(conn, look) != fresh
    with pool.connection() as conn:
        assert pg.query(conn, look) == fresh
    assert pool.stats().opened == 1


@pytest.mark.parametrize("reset", ["changed", "session"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_reset_costs_no_round_trip(pg: Database, front: Front, reset: str, fails: bool) -> None:
    pool = through(pg, front, reset=reset)
    front.spoken()
    try:
        with pool.connection() as conn:
            conn.execute("set statement_timeout = '77s'")
            conn.execute("prepare own as select 1")
            if fails:
                raise LookupError
    except LookupError:
        pass
    assert len(front.spoken()) == 4  # BEGIN, SET, PREPARE, and the end with all else
    with pool.connection() as conn:
        assert pg.query(conn, "show statement_timeout") == [("0",)]
        assert pg.query(conn, "select count(*) from pg_prepared_statements") == [(0,)]
    assert pool.stats().opened == 1


@pytest.mark.sampled(6, "many cases")
@pytest.mark.parametrize(
    "text",
    [
        "select 1",
        "insert into {} values (1)",
        "set local statement_timeout = '7s'",
        "/* a */ SET -- b\n LOCAL statement_timeout = '7s'",
        "select set_config('statement_timeout', '7s', true)",
        "set transaction isolation level serializable",
        "set constraints all deferred",
        "select pg_advisory_xact_lock(1)",
        "select 'listen; set x; select set_config'",
        "create table {}_more (id int)",
        "update {} set id = 2",
    ],
)
def test_what_changed_nothing_is_left_alone(pg: Database, front: Front, text: str) -> None:
    pool = through(pg, front, reset="changed")
    front.spoken()
    with pool.connection() as conn:
        conn.execute(text.format(pg.table))
    begun, _, ended = front.spoken()
    assert begun.startswith(b"C\0\0\0\x0aBEGIN\0")
    assert ended.startswith(b"C\0\0\0\x0bCOMMIT\0Z")  # and nothing else
    pg.execute(f"drop table if exists {pg.table}_more")


def test_set_local_holds_until_the_end(pg: Database) -> None:
    pool = pg.pool(reset="changed")
    with pool.connection() as conn:
        conn.execute("set local statement_timeout = '7s'")
        conn.execute("listen orders")
        with conn.transaction():
            assert pg.query(conn, "show statement_timeout") == [("7s",)]


@pytest.mark.parametrize("reset", ["changed", "session"])
def test_what_psycopg_prepared_is_used_on(pg: Database, reset: str) -> None:
    pool = pg.pool(reset=reset)
    for number in range(12):
        with pool.connection() as conn:
            conn.execute("set statement_timeout = '77s'")
            assert conn.execute("select %s::int + 1", [number]).fetchone() == (number + 1,)
            if number % 3 == 0:
                conn.execute("prepare own as select 1")
    with pool.connection() as conn:
        found = pg.query(
            conn, "select from_sql, statement from pg_prepared_statements where statement like '%int + 1%'"
        )
    assert found == [(False, "select $1::int + 1")]
    assert pool.stats().opened == 1


def test_a_notification_and_an_attribute_are_not_the_next_ones(pg: Database) -> None:
    for reset in ("changed", "session"):
        pool = pg.pool(reset=reset)
        with pool.connection() as conn:
            conn.execute("listen orders")
            conn.execute("notify orders, 'secret of A'")
            conn.tenant = "A"
            conn.row_factory = psycopg.rows.dict_row
        with pool.connection() as conn:
            assert pg.query(conn, "select count(*) from pg_listening_channels()") == [(0,)]
            assert list(conn.notifies(timeout=0.1)) == []
            assert not hasattr(conn, "tenant")
        assert pool.stats().opened == 1


def test_one_reset_after_another(pg: Database) -> None:
    pool = pg.pool(reset="changed")
    for commits in (False, True, True, False):
        with pool.connection() as conn:
            assert pg.query(conn, "show statement_timeout") == [("0",)]
            conn.execute("set statement_timeout = '77s'")
            if commits:
                conn.commit()
    with pool.connection() as conn:
        assert pg.query(conn, "show statement_timeout") == [("0",)]
    assert pool.stats().opened == 1


def test_the_baseline_is_what_the_connection_was_after_its_set_up(pg: Database) -> None:
    def seen(notice: Any) -> None:
        """The set-up's own."""

    pool = pg.pool(reset="changed", connect_args={"row_factory": psycopg.rows.dict_row, "prepare_threshold": 2})
    with pool.connection() as conn:
        conn.add_notice_handler(seen)
        conn.adapters.register_dumper(int, numeric.Int8Dumper)
        conn.of_the_setup = True
        entries(pool)[0].link.set_baseline()
    with pool.connection() as conn:
        conn.remove_notice_handler(seen)
        conn.row_factory = psycopg.rows.tuple_row
        conn.prepare_threshold = 7
        conn.adapters.register_dumper(int, numeric.Int2Dumper)
        conn.execute("set statement_timeout = '77s'")
    with pool.connection() as conn:
        assert conn.execute("select pg_typeof(%s) as type", [1]).fetchone() == {"type": "bigint"}
        assert conn.prepare_threshold == 2
        assert conn.of_the_setup
        conn.remove_notice_handler(seen)


def test_the_baselines_adapters_are_kept_if_it_is_set_again(pg: Database) -> None:
    """Django does that at the checkout after a reset."""
    pool = pg.pool(reset="changed")
    with pool.connection() as conn:
        conn.adapters.register_dumper(int, numeric.Int8Dumper)
        entries(pool)[0].link.set_baseline()
    for _ in range(2):
        with pool.connection() as conn:
            entries(pool)[0].link.set_baseline()
            assert conn.execute("select pg_typeof(%s)", [1]).fetchone() == ("bigint",)
            conn.adapters.register_dumper(int, numeric.Int2Dumper)


def test_an_adapter_of_the_program_counts_if_it_is_registered_after_warm(pg: Database) -> None:
    """As for a connection of psycopg's own. Under provisioned concurrency, a decorator in the middle of Init warms."""

    class Later(str):
        """Known to nobody else."""

    pool = pg.pool(reset="changed")
    pool.warm(strict=True)
    psycopg.adapters.register_dumper(Later, StrDumper)
    for _ in range(2):  # also after a reset
        with pool.connection() as conn:
            assert conn.execute("select pg_typeof(%t)", [Later("x")]).fetchone() == ("text",)
            conn.adapters.register_dumper(int, numeric.Int2Dumper)
    assert pool.stats().opened == 1


@pytest.mark.parametrize("commits", [True, False])
def test_a_reset_that_fails_closes_the_connection_and_what_is_saved_is_saved(pg: Database, commits: bool) -> None:
    pg.execute("create role unprivileged login password 'unprivileged'")
    pg.execute(f"grant all on {pg.table} to unprivileged")
    pg.execute("revoke execute on function pg_advisory_unlock_all() from public")
    try:
        pool = pg.pool(
            pg.server.url(user="unprivileged", password="unprivileged"),
            reset="changed",
        )
        try:
            with pool.connection() as conn:
                pg.insert(conn, 1)
                conn.execute("set statement_timeout = '77s'")
                if not commits:
                    raise LookupError
        except LookupError:
            pass
        assert pg.rows() == [1] * commits
        assert pool.stats().size == 0
    finally:
        pg.execute("grant execute on function pg_advisory_unlock_all() to public")
        pg.execute("drop owned by unprivileged")
        pg.execute("drop role unprivileged")


def test_a_commit_that_the_server_refuses_is_no_success_with_a_reset(pg: Database) -> None:
    pg.execute(f"alter table {pg.table} add constraint late unique (id) deferrable initially deferred")
    pool = pg.pool(reset="changed")
    with pytest.raises(psycopg.errors.UniqueViolation), pool.connection() as conn:
        conn.execute(f"alter table {pg.table} drop constraint {pg.table}_pkey")
        pg.insert(conn, 1)
        pg.insert(conn, 1)
        conn.execute("set statement_timeout = '77s'")
    assert pg.rows() == []
    with pool.connection() as conn:
        assert pg.query(conn, "show statement_timeout") == [("0",)]


def test_an_answer_that_is_lost_is_uncertain_also_with_a_reset(pg: Database) -> None:
    with FaultyProxy("127.0.0.1", pg.server.port) as proxy:
        pool = pg.pool(pg.url.replace(f":{pg.server.port}/", f":{proxy.port}/"), reset="changed")
        with pytest.raises(lambda_pool.CommitUncertain), pool.connection() as conn:
            pg.insert(conn, 1)
            conn.execute("listen orders")
            proxy.cut(after=0, direction="to_client")
        assert pool.stats().size == 0
