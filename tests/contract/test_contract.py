"""What a pool promises, the same on PostgreSQL and on MariaDB, over TLS, against real servers."""

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

import psycopg
import pymysql
import pytest
from pymysql.constants import CLIENT

import lambda_pool
from lambda_pool.testing import FaultyProxy
from tests.contract.conftest import Database
from tests.support.core import entries, release
from tests.support.invoked import invoked
from tests.support.line import Line
from tests.support.speed import FULL

DRIVER_ERRORS = (psycopg.Error, pymysql.MySQLError)
KILLS = 200 if FULL else 30


def backend_of(database: Database, pool: lambda_pool.Pool) -> int:
    with pool.connection() as conn:
        return database.backend(conn)


class TestConnection:
    @pytest.mark.sampled(1, "5 s a case")
    def test_it_is_the_drivers_own_over_tls(self, database: Database) -> None:
        with database.pool().connection() as conn:
            if database.engine == "postgresql":
                assert isinstance(conn, psycopg.Connection)
                assert conn.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (
                    database.server.has_tls,
                )
            else:
                assert isinstance(conn, pymysql.connections.Connection)
                assert database.query(conn, "show status like 'Ssl_cipher'")[0][1]

    def test_reused(self, database: Database) -> None:
        pool = database.pool()
        assert len({backend_of(database, pool) for _ in range(10)}) == 1
        assert (pool.stats().opened, pool.stats().reused, pool.stats().pings) == (1, 9, 0)

    def test_commit_on_success_roll_back_on_error(self, database: Database) -> None:
        pool = database.pool()
        with pool.connection() as conn:
            database.insert(conn, 1)
        with pytest.raises(ZeroDivisionError), pool.connection() as conn:
            database.insert(conn, 2)
            1 / 0  # noqa: B018
        assert database.rows() == [1]
        assert (pool.stats().opened, pool.stats().rolled_back) == (1, 1)

    def test_commit_in_an_invocation(self, database: Database) -> None:
        """The invocation's time limits it, so COMMIT takes another way to the server than without an invocation."""
        with invoked(lambda: 30_000), database.pool().connection() as conn:
            database.insert(conn, 1)
        assert database.rows() == [1]

    def test_autocommit(self, database: Database) -> None:
        pool = database.pool(autocommit=True)
        with pytest.raises(ZeroDivisionError), pool.connection() as conn:
            database.insert(conn, 1)
            1 / 0  # noqa: B018
        assert database.rows() == [1]
        assert pool.stats().opened == 1

    def test_readonly(self, database: Database) -> None:
        for autocommit in (False, True):
            pool = database.pool(autocommit=autocommit)
            with pytest.raises(DRIVER_ERRORS, match=r"(?i)read.only"), pool.connection(readonly=True) as conn:
                database.insert(conn, 1)
            with pool.connection() as conn:
                database.insert(conn, 1 + autocommit)
            assert pool.stats().opened == 1
        assert database.rows() == [1, 2]

    @pytest.mark.parametrize("ended_by", ["commit", "rollback", "begin", "COMMIT", "BEGIN"])
    def test_readonly_holds_for_each_transaction_of_the_borrow(self, database: Database, ended_by: str) -> None:
        pool = database.pool()

        def end(conn: Any) -> None:
            if hasattr(conn, ended_by):
                getattr(conn, ended_by)()
            else:
                database.query(conn, ended_by)

        with pytest.raises(DRIVER_ERRORS, match=r"(?i)read.only"), pool.connection(readonly=True) as conn:
            end(conn)
            database.query(conn, f"select id from {database.table}")
            end(conn)
            database.insert(conn, 1)
        with pool.connection() as conn:
            database.query(conn, "select 1")
            conn.commit()
            database.insert(conn, 2)
        assert (database.rows(), pool.stats().opened) == ([2], 1)

    def test_a_refused_commit_is_the_drivers_error_and_saves_nothing(self, pg: Database) -> None:
        pg.execute(f"alter table {pg.table} add constraint c unique (id) deferrable initially deferred")
        pg.execute(f"alter table {pg.table} drop constraint {pg.table}_pkey")
        pool = pg.pool()
        with pytest.raises(psycopg.errors.UniqueViolation), pool.connection() as conn:
            pg.insert(conn, 1)
            pg.insert(conn, 1)
        assert pg.rows() == []
        assert (pool.stats().opened, pool.stats().idle) == (1, 1)

    def test_a_swallowed_error_is_no_success(self, database: Database) -> None:
        """On PostgreSQL it costs the transaction, on MySQL only the statement."""
        pool = database.pool()
        lost = database.engine == "postgresql"
        with pytest.raises(lambda_pool.NotCommitted) if lost else contextlib.nullcontext(), pool.connection() as conn:
            database.insert(conn, 1)
            with contextlib.suppress(*DRIVER_ERRORS):
                database.insert(conn, 1)
        assert database.rows() == ([] if lost else [1])
        assert pool.stats().idle == 1

    def test_a_later_result_that_is_an_error_costs_the_transaction_and_not_the_connection(self, my: Database) -> None:
        pool = my.pool(connect_args={"client_flag": CLIENT.MULTI_STATEMENTS})
        with pytest.raises(pymysql.MySQLError, match="nothing_of_that_name"), pool.connection() as conn:
            cursor = conn.cursor()
            cursor.execute(f"insert into {my.table} values (1); select nothing_of_that_name")
            cursor.nextset()
        with pool.connection() as conn:
            assert my.query(conn, "select 42") == [(42,)]
        assert (my.rows(), pool.stats().opened) == ([], 1)

    def test_locks_of_a_failed_statement_are_released(self, my: Database) -> None:
        """MySQL's error packets do not say that a transaction is open, but a failed first statement opens one."""
        my.execute(f"insert into {my.table} values (1)")
        pool = my.pool()
        with pool.connection() as conn, contextlib.suppress(pymysql.MySQLError):
            my.insert(conn, 1)
        my.execute("set session innodb_lock_wait_timeout = 1")
        my.execute(f"delete from {my.table} where id = 1")
        assert my.rows() == []


class TestReturn:
    """Nothing of one borrower reaches the next."""

    @pytest.mark.parametrize("reset", ["changed", "transaction"])
    def test_autocommit_is_restored(self, database: Database, reset: str) -> None:
        for start in (False, True):
            pool = database.pool(autocommit=start, reset=reset)
            with pool.connection() as conn:
                if database.engine == "postgresql":
                    conn.autocommit = not start
                else:
                    conn.autocommit(not start)
            with pool.connection() as conn:
                assert (conn.autocommit if database.engine == "postgresql" else conn.get_autocommit()) is start
            assert pool.stats().opened == 1

    @pytest.mark.parametrize("reset", ["changed", "transaction"])
    def test_isolation_and_read_only_are_restored(self, database: Database, reset: str) -> None:
        pool = database.pool(reset=reset)
        with pool.connection() as conn:
            if database.engine == "postgresql":
                conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
                conn.read_only = True
                conn.deferrable = True
            else:
                database.query(conn, "set session transaction isolation level serializable")
        if database.engine == "mysql":
            with pool.connection() as conn:
                assert database.query(conn, "select @@session.tx_isolation") == [("REPEATABLE-READ",)]
                database.query(conn, "set session transaction isolation level serializable, read only")
        with pool.connection() as conn:
            if database.engine == "postgresql":
                assert (conn.isolation_level, conn.read_only, conn.deferrable) == (None, None, None)
                assert database.query(conn, "show transaction_isolation") == [("read committed",)]
            else:
                assert database.query(conn, "select @@session.tx_isolation, @@session.tx_read_only") == [
                    ("REPEATABLE-READ", 0)
                ]
            database.insert(conn, 1)
        assert pool.stats().opened == 1

    def test_row_and_cursor_classes_are_restored(self, database: Database) -> None:
        pool = database.pool()
        with pool.connection() as conn:
            if database.engine == "postgresql":
                conn.row_factory = psycopg.rows.dict_row
            else:
                conn.cursorclass = pymysql.cursors.DictCursor
        with pool.connection() as conn:
            assert database.query(conn, "select 1") == [(1,)]

    def test_closed_by_the_user(self, database: Database, caplog: pytest.LogCaptureFixture) -> None:
        pool = database.pool()
        with pool.connection() as conn:
            database.insert(conn, 1)
            conn.commit()
            conn.close()
        assert "none of the transaction" not in caplog.text
        with pool.connection() as conn:
            assert database.query(conn, "select 1") == [(1,)]
        assert database.rows() == [1]
        assert pool.stats().opened == 2

    def test_with_conn_does_not_close_it_on_psycopg(self, pg: Database) -> None:
        pool = pg.pool()
        with pool.connection() as conn:
            with conn:
                pg.insert(conn, 1)
            assert not conn.closed
        assert pg.rows() == [1]
        assert pool.stats().idle == 1

    def test_an_unbuffered_result_left_open(self, my: Database) -> None:
        my.execute(f"insert into {my.table} select seq from seq_1_to_5000")
        pool = my.pool()
        with pool.connection() as conn:
            my.insert(conn, 10001)
            cursor = conn.cursor(pymysql.cursors.SSCursor)
            cursor.execute(f"select * from {my.table}")
            cursor.fetchone()
        assert 10001 in my.rows()
        with pool.connection() as conn:
            assert my.query(conn, "select 1") == [(1,)]
        with pytest.raises(ZeroDivisionError), pool.connection() as conn:
            my.insert(conn, 10002)
            cursor = conn.cursor(pymysql.cursors.SSCursor)
            cursor.execute(f"select * from {my.table}")
            cursor.fetchone()
            1 / 0  # noqa: B018
        assert 10002 not in my.rows()
        with pool.connection() as conn:
            assert my.query(conn, "select 1") == [(1,)]

    def test_an_unbuffered_select_holds_no_transaction_open(self, my: Database) -> None:
        """The last packet of a streamed result has the transaction flag, but PyMySQL does not look at it."""
        pool = my.pool()
        with pool.connection() as conn:
            cursor = conn.cursor(pymysql.cursors.SSCursor)
            cursor.execute(f"select * from {my.table}")
            cursor.fetchall()
        my.execute(f"alter table {my.table} add column x int")  # waits for every open transaction on the table
        assert pool.stats().idle == 1

    @pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
    def test_a_server_side_cursor_left_open(self, pg: Database) -> None:
        pool = pg.pool()
        with pool.connection() as conn:
            pg.insert(conn, 1)
            cursor = conn.cursor("named")
            cursor.execute("select generate_series(1, 5000)")
            cursor.fetchone()
        assert pg.rows() == [1]
        with pool.connection() as conn:
            assert pg.query(conn, "select count(*) from pg_cursors") == [(0,)]

    def test_a_stream_left_open_is_an_error_and_saves_nothing(self, pg: Database) -> None:
        pool = pg.pool()
        with (
            pytest.raises(lambda_pool.LambdaPoolError, match="still at work"),
            pool.connection() as conn,
        ):
            pg.insert(conn, 1)
            rows = conn.cursor().stream("select generate_series(1, 5000)")
            next(rows)
        assert pg.rows() == []
        with pool.connection() as conn:
            assert pg.query(conn, "select 1") == [(1,)]

    # psycopg before 3.3.9 reports this when the statement of a lost connection is garbage-collected.
    @pytest.mark.filterwarnings("ignore:.*Cursor.copy:pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("direction", ["from stdin", "to stdout"])
    def test_a_copy_left_open_is_an_error_and_saves_nothing(self, pg: Database, direction: str) -> None:
        pg.execute(f"insert into {pg.table} select generate_series(1, 50000)")
        pool = pg.pool()
        with pytest.raises((lambda_pool.LambdaPoolError, psycopg.Error)), pool.connection() as conn:
            pg.insert(conn, 100001)
            copy = conn.cursor().copy(f"copy {pg.table} {direction}")
            copy.__enter__()
        with contextlib.suppress(psycopg.Error):  # otherwise psycopg before 3.3.9 raises it in the garbage collector
            copy.__exit__(None, None, None)
        assert 100001 not in pg.rows()
        with pool.connection() as conn:
            assert pg.query(conn, "select 1") == [(1,)]

    def test_a_pipeline_left_open_is_an_error(self, pg: Database) -> None:
        pool = pg.pool()
        with pytest.raises(lambda_pool.LambdaPoolError, match="still at work"), pool.connection() as conn:
            pipeline = conn.pipeline()
            pipeline.__enter__()
            conn.execute("select 1")
        with pool.connection() as conn:
            assert pg.query(conn, "select 1") == [(1,)]

    def test_what_came_behind_the_answer_to_commit_costs_the_connection(
        self, my: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The rest would be taken for the answer to the next borrower's statement."""
        pool = my.pool()
        with invoked(lambda: 30_000), pool.connection() as conn:
            my.insert(conn, 1)
            monkeypatch.setattr(type(conn), "overheard", True)
        assert my.rows() == [1]
        assert (pool.stats().size, pool.stats().closed) == (0, 1)

    @pytest.mark.parametrize("open_it", ["block", "two-phase"])
    def test_what_the_driver_refuses_to_commit_is_not_committed(self, pg: Database, open_it: str) -> None:
        pool = pg.pool()
        with pytest.raises(psycopg.ProgrammingError, match="commit"), pool.connection() as conn:
            block = conn.transaction()
            if open_it == "block":
                block.__enter__()
            else:
                conn.tpc_begin("two-phase")
            pg.insert(conn, 1)
        assert pg.rows() == []
        with pool.connection() as conn:
            assert pg.query(conn, "select 1") == [(1,)]

    def test_reset_session(self, database: Database) -> None:
        pool = database.pool(reset="session")
        with pool.connection() as conn:
            if database.engine == "postgresql":
                for _ in range(8):
                    conn.execute("select 1")  # this becomes a prepared statement
                conn.execute("set application_name to 'mine'")
                conn.execute("create temporary table temporary (id int)")
            else:
                database.query(conn, "set @mine = 5")
                database.query(conn, "create temporary table temporary (id int)")
        with pool.connection() as conn:
            if database.engine == "postgresql":
                assert database.query(conn, "show application_name") == [("postgres",)]
                for _ in range(8):
                    conn.execute("select 1")
            else:
                assert database.query(conn, "select @mine") == [(None,)]
                assert database.query(conn, "select @@autocommit, @@character_set_client") == [(0, "utf8mb4")]
            database.query(conn, "create temporary table temporary (id int)")
        assert pool.stats().opened == 1

    def test_reset_session_again_and_again(self, database: Database) -> None:
        """A statement that the driver prepares after a few runs is prepared again whenever it is gone."""
        pool = database.pool(reset="session")
        for number in range(30):
            with pool.connection() as conn:
                for _ in range(1 + number % 3):
                    assert database.query(conn, "select 42") == [(42,)]
        assert pool.stats().opened == 1


class TestLiveness:
    def test_a_packet_that_nobody_acknowledges_is_given_up_after_ten_seconds(self, database: Database) -> None:
        with database.pool().connection() as conn:
            number = conn.fileno() if database.engine == "postgresql" else conn._sock.fileno()
            with socket.socket(fileno=os.dup(number)) as sock:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000

    def test_killed_while_idle(self, database: Database) -> None:
        pool = database.pool()
        first = backend_of(database, pool)
        database.kill(first)
        second = backend_of(database, pool)
        assert second != first
        assert pool.stats().replaced == 1

    @pytest.mark.sampled(1, "2 s a case")
    def test_killed_again_and_again_nobody_notices(self, database: Database) -> None:
        pool = database.pool()
        seen = set()
        for number in range(KILLS):
            with pool.connection() as conn:
                seen.add(database.backend(conn))
                database.insert(conn, number)
            database.kill(max(seen) if database.engine == "mysql" else database.backend(conn))
        assert database.rows() == list(range(KILLS))
        assert pool.stats().opened == KILLS

    @pytest.mark.sampled(1 / 2, "a second a case")
    def test_a_statement_may_take_longer_than_a_connect(self, database: Database) -> None:
        """The time limit of the login, TLS included, ends with the login."""
        with database.pool(connect_timeout=0.5, ping_timeout=0.5).connection() as conn:
            sleep = "select pg_sleep(1.5)" if database.engine == "postgresql" else "select sleep(1.5)"
            assert len(database.query(conn, sleep)) == 1

    def test_a_notification_does_not_cost_the_connection(self, pg: Database) -> None:
        pool = pg.pool(autocommit=True, reset="transaction")
        with pool.connection() as conn:
            conn.execute("listen news")
            backend = pg.backend(conn)
        pg.execute("notify news, 'hello'")
        time.sleep(0.05)
        with pool.connection() as conn:
            assert pg.backend(conn) == backend
            assert [notify.payload for notify in conn.notifies(timeout=1, stop_after=1)] == ["hello"]
        assert pool.stats().pings == 1

    @pytest.mark.sampled(1 / 2, "a second a case")
    @pytest.mark.parametrize("freeze", ["proxy", "server"])
    def test_a_black_hole_costs_the_pings_bound_and_one_connect(self, database: Database, freeze: str) -> None:
        """A peer that accepts and never answers: ping_timeout, not minutes."""
        with FaultyProxy("127.0.0.1", database.server.port) as proxy:
            pool = database.pool(
                database.url.replace(f":{database.server.port}/", f":{proxy.port}/"), ping_after=0, ping_timeout=0.4
            )
            first = backend_of(database, pool)
            start = time.monotonic()
            pool.close()
            backend_of(database, pool)
            connect = time.monotonic() - start
            if freeze == "proxy":
                proxy.black_hole(new=False)
            else:
                proxy.delay(60, new=False)
            start = time.monotonic()
            second = backend_of(database, pool)
            took = time.monotonic() - start
        assert second != first
        assert 0.4 <= took <= 0.4 + connect + 1.0, (took, connect)

    @pytest.mark.sampled(1, "a second a case")
    def test_a_restarted_server(self, own_server: Callable[[str], Any], database: Database) -> None:
        server = own_server(database.engine)
        pool = lambda_pool.Pool(server.url(), observers=(), max_size=3, min_size=3)
        pool.warm()
        server.restart()
        for _ in range(5):
            with pool.connection() as conn:
                assert database.query(conn, "select 1") == [(1,)]
        pool.close()

    def test_lifetime_and_idle(self, database: Database) -> None:
        pool = database.pool(max_lifetime=0.05)
        first = backend_of(database, pool)
        time.sleep(0.06)
        assert backend_of(database, pool) != first
        assert database.is_gone(first)
        pool = database.pool(max_idle=0.05)
        first = backend_of(database, pool)
        time.sleep(0.06)
        assert backend_of(database, pool) != first
        assert pool.stats().pings == 0

    def test_a_closed_pool_leaves_no_backend(self, database: Database) -> None:
        pool = database.pool(max_size=3, min_size=3)
        pool.warm()
        backends = [slot.link.backend_id for slot in entries(pool)]
        pool.close()
        assert all(map(database.is_gone, backends))


class TestConnecting:
    @pytest.mark.parametrize(
        ("part", "error"),
        [
            ("password", lambda_pool.CredentialsError),
            ("database", lambda_pool.ConnectError),
            ("host", lambda_pool.ConnectError),
            ("ca", lambda_pool.ConnectError),
        ],
    )
    def test_what_time_does_not_heal_raises_at_once_and_shows_no_password(
        self, database: Database, part: str, error: type[Exception], caplog: pytest.LogCaptureFixture
    ) -> None:
        url = database.url
        secret = database.server.password
        if part == "password":
            url, secret = url.replace(secret, "wr0ng-s3cret"), "wr0ng-s3cret"
        elif part == "database":
            before, mark, query = url.partition("?")
            url = f"{before.rpartition('/')[0]}/nowhere{mark}{query}"
        elif part == "host":
            url = url.replace("@localhost", "@no-such-host.invalid")
        elif database.server.has_tls:
            url = url.replace(quote_plus(str(database.server.ca_path)), "/etc/ssl/certs/ca-certificates.crt")
        else:
            url += "?sslmode=verify-full"
        pool = database.pool(url, timeout=20.0)
        start = time.monotonic()
        with caplog.at_level(logging.DEBUG), pytest.raises(error) as caught, pool.connection():
            pass
        assert time.monotonic() - start < 10
        assert isinstance(caught.value.__cause__, Exception)
        assert secret not in f"{caught.value} {caught.value.__cause__!r} {pool!r} {caplog.text}"

    @pytest.mark.sampled(1 / 2, "2 s a case")
    def test_refused_then_there(self, own_server: Callable[[str], Any], database: Database) -> None:
        server = own_server(database.engine)
        url = server.url()
        server.stop()
        pool = lambda_pool.Pool(url, observers=(), timeout=60.0)
        timer = threading.Timer(0.5, server.start)
        timer.start()
        with pool.connection() as conn:
            assert database.query(conn, "select 1") == [(1,)]
        timer.join()
        assert pool.stats().connect_errors > 0
        pool.close()

    @pytest.mark.sampled(1 / 2, "2 s a case")
    def test_too_many_connections(self, own_server: Callable[[str], Any], database: Database) -> None:
        server = own_server(database.engine)
        if database.engine == "postgresql":
            server.execute("alter role postgres connection limit -1")
            server.execute("create role few login password 'few' connection limit 1")
            url = server.url(user="few", password="few")
        else:
            server.execute("create user few@'%' identified by 'few' with max_user_connections 1")
            server.execute("grant all on app.* to few@'%'")
            url = server.url(user="few", password="few")
        holder = lambda_pool.Pool(url, observers=())
        holder.warm(strict=True)
        pool = lambda_pool.Pool(url, observers=(), timeout=60.0)
        timer = threading.Timer(0.5, holder.close)
        timer.start()
        with pool.connection() as conn:
            assert database.query(conn, "select 1") == [(1,)]
        timer.join()
        assert pool.stats().connect_errors > 0
        pool.close()

    @pytest.mark.sampled(1, "a second a case")
    def test_a_server_that_never_answers_a_login(self, database: Database) -> None:
        """TCP is accepted, and nothing follows: one attempt ends at connect_timeout, all together at timeout."""
        with FaultyProxy("127.0.0.1", database.server.port) as proxy:
            proxy.black_hole()
            pool = database.pool(
                database.url.replace(f":{database.server.port}/", f":{proxy.port}/"), timeout=0.7, connect_timeout=0.3
            )
            start = time.monotonic()
            with pytest.raises(lambda_pool.ConnectError, match="attempts in"), pool.connection():
                pass
            assert time.monotonic() - start < 3

    @pytest.mark.sampled(1, "a second a case")
    def test_a_server_that_answers_bit_by_bit(self, database: Database) -> None:
        """No single wait is long, but all waits together end at connect_timeout."""
        with FaultyProxy("127.0.0.1", database.server.port) as proxy:
            proxy.delay(0.3)
            proxy.halve("to_client", pause=0.3)
            url = database.server.url(tls=False).replace(f":{database.server.port}/", f":{proxy.port}/")
            pool = database.pool(f"{url}?sslmode=disable", timeout=0.7, connect_timeout=0.7)
            start = time.monotonic()
            with pytest.raises(lambda_pool.ConnectError), pool.connection():
                pass
            assert time.monotonic() - start < 3

    @pytest.mark.sampled(1, "a second a case")
    def test_plain_text_is_refused_where_tls_is_asked_for(
        self, own_server: Callable[[str], Any], database: Database
    ) -> None:
        server: Any
        from lambda_pool.testing import MariaDbServer, PostgresServer

        if database.engine == "postgresql":
            server = PostgresServer(extra_config=["ssl = off"])
        else:
            server = MariaDbServer(extra_config=["--skip-ssl"])
        with _without_own_check(server):
            url = server.url(tls=False)
            pool = lambda_pool.Pool(url + "?sslmode=require", observers=())
            with pytest.raises(lambda_pool.ConnectError, match="SSL"), pool.connection():
                pass


@contextlib.contextmanager
def _without_own_check(server: Any) -> Any:
    server.start()
    try:
        yield
    finally:
        server.close()


class TestRun:
    def test_replayed_after_a_loss_before_commit(self, database: Database) -> None:
        pool = database.pool()
        calls = []

        def work(conn: Any) -> str:
            calls.append(1)
            database.insert(conn, 1)
            if len(calls) == 1:
                database.kill(database.backend(conn))
            database.query(conn, "select 1")
            return "done"

        assert pool.run(work) == "done"
        assert len(calls) == 2
        assert database.rows() == [1]

    def test_a_body_that_has_yet_to_run_is_an_error(self, database: Database) -> None:
        pool = database.pool()

        def generator(conn: Any) -> Any:
            database.insert(conn, 1)
            yield

        async def coroutine(conn: Any) -> None:
            database.insert(conn, 1)

        async def both(conn: Any) -> Any:
            database.insert(conn, 1)
            yield

        for work in (generator, coroutine, both):
            with pytest.raises(lambda_pool.ConfigError, match=f"the work {work.__name__} returned a .*would run after"):
                pool.run(work)
        assert (pool.stats().opened, pool.stats().in_use) == (1, 0)

    @pytest.mark.sampled(2, "half a second a case")
    def test_a_deadlock_is_replayed(self, database: Database) -> None:
        database.execute(f"insert into {database.table} values (1), (2)")
        column = "note"
        database.execute(f"alter table {database.table} add column {column} int default 0")
        pool = database.pool(max_size=2)
        barrier = threading.Barrier(2, timeout=20)
        calls: list[int] = []
        errors: list[BaseException] = []

        def transfer(first: int, second: int) -> None:
            tries = 0

            def work(conn: Any) -> None:
                nonlocal tries
                tries += 1
                calls.append(1)
                database.query(conn, f"update {database.table} set {column} = {column} + 1 where id = {first}")
                if tries == 1:
                    barrier.wait()
                database.query(conn, f"update {database.table} set {column} = {column} + 1 where id = {second}")

            try:
                pool.run(work)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=transfer, args=order) for order in ((1, 2), (2, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []
        assert len(calls) >= 3  # the victim may lock its first row again before the other one gets it
        assert database.execute(f"select {column} from {database.table} order by id") == [(2,), (2,)]

    def test_a_serialization_failure_is_replayed(self, pg: Database) -> None:
        pg.execute(f"insert into {pg.table} values (1)")
        pool = pg.pool()
        calls: list[int] = []

        def work(conn: Any) -> None:
            calls.append(1)
            conn.execute("set transaction isolation level repeatable read")
            pg.query(conn, f"select * from {pg.table}")
            if len(calls) == 1:
                pg.execute(f"update {pg.table} set id = 2")
            pg.query(conn, f"update {pg.table} set id = 3")

        pool.run(work)
        assert len(calls) == 2
        assert pg.rows() == [3]

    def test_commit_inside_is_refused(self, database: Database) -> None:
        pool = database.pool()

        def work(conn: Any) -> None:
            database.insert(conn, 1)
            conn.commit()

        with pytest.raises(DRIVER_ERRORS, match=r"(?i)commit"):
            pool.run(work)
        assert database.rows() == []
        with pool.connection() as conn:
            database.insert(conn, 2)
            conn.commit()
        assert database.rows() == [2]

    def test_inner_transaction_blocks_are_savepoints(self, pg: Database) -> None:
        """Otherwise the end of the inner block would COMMIT in the middle of work that may be replayed."""
        pool = pg.pool()

        def work(conn: Any) -> None:
            with conn.transaction():
                pg.insert(conn, 1)
            assert pg.rows() == []

        pool.run(work)
        assert pg.rows() == [1]

    def test_work_that_ended_its_own_transaction_is_not_replayed(self, my: Database) -> None:
        pool = my.pool()
        calls: list[int] = []

        def work(conn: Any) -> None:
            calls.append(1)
            my.insert(conn, len(calls))
            my.query(conn, f"create table {my.table}_x (id int)")  # commits implicitly
            my.kill(my.backend(conn))
            my.query(conn, "select 1")

        with pytest.raises(pymysql.MySQLError):
            pool.run(work)
        my.execute(f"drop table {my.table}_x")
        assert calls == [1]
        assert my.rows() == [1]

    def test_readonly(self, database: Database) -> None:
        pool = database.pool()
        with pytest.raises(DRIVER_ERRORS, match=r"(?i)read.only"):
            pool.run(lambda conn: database.insert(conn, 1), readonly=True)
        pool.run(lambda conn: database.insert(conn, 1))
        assert pool.stats().opened == 1


class TestLostBeforeCommit:
    """The server's good-bye had arrived before COMMIT was sent, so that nothing is uncertain."""

    def test_run_replays(self, database: Database) -> None:
        pool = database.pool()
        calls: list[int] = []

        def work(conn: Any) -> None:
            calls.append(1)
            database.insert(conn, 1)
            if len(calls) == 1:
                database.kill(database.backend(conn))
                wait_for_goodbye(conn)

        pool.run(work)
        assert calls == [1, 1]
        assert database.rows() == [1]

    def test_a_block_raises_the_drivers_error(self, database: Database) -> None:
        pool = database.pool()
        with pytest.raises(DRIVER_ERRORS), pool.connection() as conn:
            database.insert(conn, 1)
            database.kill(database.backend(conn))
            wait_for_goodbye(conn)
        assert database.rows() == []
        assert pool.stats().size == 0


def wait_for_goodbye(conn: Any) -> None:
    poller = select.poll()
    poller.register(conn if hasattr(conn, "pgconn") else conn._sock, select.POLLIN)
    assert poller.poll(5000)


class TestCommitUncertain:
    @pytest.mark.parametrize("how", ["run", "connection"])
    def test_the_answer_to_commit_is_lost(self, database: Database, how: str) -> None:
        """The proxy swallows the server's answer to COMMIT: nobody here can know whether it was saved."""
        with FaultyProxy("127.0.0.1", database.server.port) as proxy:
            pool = database.pool(database.url.replace(f":{database.server.port}/", f":{proxy.port}/"))
            calls: list[int] = []

            def work(conn: Any) -> None:
                calls.append(1)
                database.insert(conn, 1)
                proxy.cut(after=0, direction="to_client")

            with pytest.raises(lambda_pool.CommitUncertain) as caught:
                if how == "run":
                    pool.run(work)
                else:
                    with pool.connection() as conn:
                        work(conn)
            assert isinstance(caught.value.__cause__, DRIVER_ERRORS)
            assert calls == [1]
            assert pool.stats().size == 0
            assert database.rows() in ([], [1])

    @pytest.mark.sampled(3, "many cases")
    @pytest.mark.parametrize(("how", "reset"), [("run", "transaction"), ("connection", "session")])
    def test_it_was_cancelled_before_it_was_answered(self, database: Database, how: str, reset: str) -> None:
        """As at the end of an invocation, on another thread: work whose COMMIT was sent may still be saved."""
        with Line(database.server.port) as line:
            url = database.url.replace(f":{database.server.port}/", f":{line.port}/")
            pool = database.pool(url, reset=reset)
            calls: list[int] = []

            def work(conn: Any) -> None:
                calls.append(1)
                database.insert(conn, 1)
                line.lose(pool)

            with pytest.raises(lambda_pool.CommitUncertain):
                if how == "run":
                    pool.run(work)
                else:
                    with pool.connection() as conn:
                        work(conn)
            assert calls == [1]
            assert pool.stats().size == 0


class TestFork:
    def test_a_child_leaves_its_parents_connection_alone(self, database: Database) -> None:
        pool = database.pool()
        backend = backend_of(database, pool)
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - measured in the parent
            try:
                os.write(theirs, str(backend_of(database, pool)).encode())
                pool.close()
            finally:
                os._exit(0)
        os.close(theirs)
        with os.fdopen(ours) as pipe:
            childs = int(pipe.read() or 0)
        os.waitpid(child, 0)
        assert childs not in {0, backend}
        assert backend_of(database, pool) == backend
        assert database.is_gone(childs)

    def test_forked_while_lent(self, database: Database) -> None:
        pool = database.pool()
        with pool.connection() as conn:
            database.insert(conn, 1)
            lent = entries(pool)[0]
            child = os.fork()
            if child == 0:  # pragma: no cover - measured in the parent
                break_out = 1
                try:
                    release(pool, entries(pool)[0] if entries(pool) else lent, None)
                    break_out = 0
                finally:
                    os._exit(break_out)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            database.insert(conn, 2)
        assert database.rows() == [1, 2]
        assert pool.stats().opened == 1
