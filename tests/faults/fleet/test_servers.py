"""The question and the timer on real servers: what is counted, what it costs, and that no borrower's session ends."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from lambda_pool import Pool, wsgi
from lambda_pool.engines.base import Condition, Status
from lambda_pool.events import Crowded, Reason, Replaced
from lambda_pool.testing import MariaDbServer, PostgresServer
from tests.support.core import entries
from tests.support.pgbouncer import PgBouncer
from tests.support.recorder import Recorder
from tests.support.speed import FULL

Server = PostgresServer | MariaDbServer
TIMER = {
    "postgresql": "select setting from pg_settings where name = 'idle_session_timeout'",
    "mysql": "select @@wait_timeout",
}


class Context:
    """A context whose invocation may last that many seconds, by a clock."""

    aws_request_id = "request-1"

    def __init__(self, seconds: float = 30.0) -> None:
        self._end = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(int((self._end - time.monotonic()) * 1000), 0)


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue("postgres" if request.param == "postgresql" else "mariadb")
    return found


def alone(server: Server, others: str) -> Server:
    """The same server, once the sessions of earlier tests have ended. `others`: counts those that are left."""
    until = time.monotonic() + 10
    while server.execute(others) != [(0,)]:
        assert time.monotonic() < until
        time.sleep(0.01)
    return server


@pytest.fixture
def small(small_postgres: PostgresServer) -> Server:
    """A separate PostgreSQL: no other sessions are counted."""
    return alone(
        small_postgres,
        "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
    )


@pytest.fixture
def small_mysql(small_mariadb: MariaDbServer) -> Server:
    return alone(
        small_mariadb,
        "select count(*) from information_schema.processlist where id <> connection_id() and command <> 'Daemon'",
    )


@pytest.fixture(scope="module")
def small_postgres() -> Iterator[PostgresServer]:
    with PostgresServer(
        tls=False, max_connections=100, log_statements=True, hba=["host all app 127.0.0.1/32 trust"]
    ) as found:
        found.execute("create role app login")
        yield found


@pytest.fixture(scope="module")
def small_mariadb() -> Iterator[MariaDbServer]:
    with MariaDbServer(max_connections=120, log_statements=True) as found:
        yield found


def url_of(server: PostgresServer, database: str = "postgres", query: str = "") -> str:
    return f"postgresql://app@127.0.0.1:{server.port}/{database}?sslmode=disable{query}"


def asked(url: str, **options: Any) -> Crowded:
    """The statements that one invocation sends."""
    seen = Recorder()
    pool = Pool(url, observers=[seen], **options)
    pool.handler(lambda event, context, conn: None)({}, Context())
    pool.close()
    (event,) = seen.of(Crowded)
    assert isinstance(event, Crowded)
    return event


def one(conn: Any, statement: str) -> Any:
    with conn.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


# --- the question -----------------------------------------------------------------------------------------------------


def test_postgresql_counts_all_sessions_and_what_is_reserved(small: PostgresServer) -> None:
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(psycopg.connect(url_of(small)))
        event = asked(url_of(small))
    assert (event.connections, event.limit) == (6, 97)


def test_what_rds_reserves_for_itself_is_not_free(small: PostgresServer) -> None:
    assert asked(url_of(small, query="&options=-c%20rds.rds_superuser_reserved_connections%3D2")).limit == 95


def test_a_roles_own_limit_counts(small: PostgresServer) -> None:
    """The role's own sessions count, whoever else is there."""
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(psycopg.connect(small.url()))
        stack.enter_context(psycopg.connect(url_of(small)))
        small.execute("alter role app connection limit 8")
        try:
            event = asked(url_of(small))
        finally:
            small.execute("alter role app connection limit -1")
    assert (event.connections, event.limit) == (2, 8)


def test_a_databases_own_limit_counts(small: PostgresServer) -> None:
    small.execute("create database narrow connection limit 6")
    with psycopg.connect(url_of(small, "narrow")):
        event = asked(url_of(small, "narrow"))
    assert (event.connections, event.limit) == (2, 6)


def test_mysql_counts_all_sessions_and_an_accounts_own_limit(small_mysql: MariaDbServer) -> None:
    plain = Pool(small_mysql.url())
    small_mysql.execute("create user few@'%' identified by 'few' with max_user_connections 40")
    small_mysql.execute("grant select on app.* to few@'%'")
    with plain.connection():
        event = asked(small_mysql.url())
        assert (event.connections, event.limit) == (2, 120)
        port = small_mysql.port
        event = asked(f"mysql://few:few@127.0.0.1:{port}/app?sslmode=require")
        assert (event.connections, event.limit) == (2, 40)
    plain.close()


@pytest.mark.parametrize("options", [{}, {"autocommit": True}, {"reset": "session"}, {"reset": "transaction"}])
def test_it_is_asked_in_no_transaction_and_leaves_nothing(server: Server, options: dict[str, Any]) -> None:
    pool = Pool(server.url(), **options)

    @pool.handler
    def handler(event: object, context: object, conn: Any) -> None:
        one(conn, "select 1")

    for _ in range(3):
        handler({}, Context())
        (entry,) = entries(pool)
        entry.ask_wall = 0.0
        assert entry.link.status() is Status.IDLE
        assert entry.link.is_silent()
        assert entry.link.inspect().condition is Condition.CLEAN or options.get("reset") == "session"
    assert pool.stats().opened == 1
    pool.close()


@pytest.mark.sampled(1 / 2, "4 s a case")
def test_at_most_one_statement_more_in_30_seconds(server: Server) -> None:
    """Environments that fit open one connection each, and three thousand warm invocations ask only by the clock."""
    environments = [Pool(server.url(), name=f"environment-{number}") for number in range(10)]

    def work(event: object, context: object, conn: Any) -> None:
        one(conn, "select 42")

    handlers = [pool.handler(work) for pool in environments]
    for handler in handlers:
        handler({}, Context())
    offset = len(server.log)
    began = time.monotonic()
    for _ in range(300):
        for handler in handlers:
            handler({}, Context())
    periods = 1 + int((time.monotonic() - began) / 30)
    log = server.log[offset:]
    questions = len(re.findall(r"SELECT s.n, c.l|SHOW GLOBAL STATUS", log))
    assert [pool.stats().opened for pool in environments] == [1] * 10
    assert sum(pool.stats().pings for pool in environments) <= 10 * periods
    assert questions <= 10 * (periods - 1)
    assert log.count("select 42") == 3000
    for pool in environments:
        pool.close()


def test_where_it_may_not_be_asked_the_connection_is_kept(
    small: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    small.execute("create database closed")
    with psycopg.connect(small.url(database="closed"), autocommit=True) as admin:
        admin.execute("revoke select on pg_catalog.pg_stat_database from public")
    pool = Pool(url_of(small, "closed"))
    handler = pool.handler(lambda event, context, conn: None)
    for _ in range(3):
        handler({}, Context())
        entries(pool)[0].ask_wall = min(entries(pool)[0].ask_wall, float("inf"))
    assert pool.stats().opened == 1
    found = [record for record in caplog.records if "keep_below has no effect here" in record.getMessage()]
    assert len(found) == 1
    pool.close()


def test_nobody_elses_session_is_ended(small: PostgresServer) -> None:
    """Another application holds most of the connections: ours come and go beside it."""
    seen = Recorder()
    with ExitStack() as stack:
        others = [stack.enter_context(psycopg.connect(url_of(small), autocommit=True)) for _ in range(70)]
        pools = [Pool(url_of(small), observers=[seen], name=f"environment-{number}") for number in range(20)]
        for _ in range(3):
            for pool in pools:
                pool.handler(lambda event, context, conn: conn.execute("select 1") and None)({}, Context())
        assert all(entries(pool) == [] for pool in pools)
        assert {event.limit for event in seen.of(Crowded)} == {97}
        assert [one(conn, "select 1") for conn in others] == [1] * 70


# --- the server's timer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"reset": "session"}, {"autocommit": True}])
def test_the_timer_is_set_and_outlives_a_reset(server: Server, options: dict[str, Any]) -> None:
    pool = Pool(server.url(), session_idle=7, **options)
    found = []

    @pool.handler
    def handler(event: object, context: object, conn: Any) -> None:
        found.append(int(one(conn, TIMER[server.scheme])))
        with conn.cursor() as cursor:
            cursor.execute(
                "set session wait_timeout = 99" if server.scheme == "mysql" else "set idle_session_timeout = 99"
            )

    for _ in range(3):
        handler({}, Context(30))
    unit = 1 if server.scheme == "mysql" else 1000
    assert pool.stats().opened == 1
    assert [number / unit for number in found] == pytest.approx([35] * 3, abs=1)
    pool.close()


def test_the_end_of_a_request_is_no_time_out(server: Server) -> None:
    """Its connection is lent to later requests, and to a WebSocket or a task that has no end."""
    pool = Pool(server.url())

    def application(environ: object, start_response: Any) -> list[bytes]:
        with pool.connection() as conn:
            start_response("200 OK", [])
            return [str(one(conn, TIMER[server.scheme])).encode()]

    answer: Any = wsgi.Middleware(application, pool, request_timeout=20)({}, lambda *_: None)
    assert b"".join(answer) in {b"905500", b"906"}
    answer.close()
    pool.close()


def test_without_the_option_the_servers_own_timer_stays(server: Server) -> None:
    pool = Pool(server.url(), session_idle=0)
    with pool.connection() as conn:
        assert int(one(conn, TIMER[server.scheme])) in {0, 28800}
    pool.close()


def test_options_of_the_users_own_stay(small: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(url_of(small, query="&options=-c%20work_mem%3D7MB"))
    with pool.connection() as conn:
        assert one(conn, "show work_mem") == "7MB"
        assert one(conn, "show idle_session_timeout") == "905500ms"
    pool.close()
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=9MB")
    pool = Pool(url_of(small))
    with pool.connection() as conn:
        assert one(conn, "show work_mem") == "9MB"
        assert one(conn, "show idle_session_timeout") == "905500ms"
        assert one(conn, "show client_connection_check_interval") == "2s"
    pool.close()


def test_a_timer_of_the_users_own_stays(small: PostgresServer) -> None:
    pool = Pool(url_of(small, query="&options=-c%20idle_session_timeout%3D77s"))
    with pool.connection() as conn:
        assert one(conn, "show idle_session_timeout") == "77s"
    pool.close()
    pool = Pool(url_of(small, query="&options=-c%20client_connection_check_interval%3D9s"))
    with pool.connection() as conn:
        assert one(conn, "show client_connection_check_interval") == "9s"
        assert one(conn, "show idle_session_timeout") == "905500ms"
    pool.close()


AT_WORK = """
import lambda_pool, sys
with lambda_pool.Pool(sys.argv[1], metrics="off").connection() as conn:
    conn.execute("insert into held values (1)")
    print("at work", flush=True)
    conn.execute("select pg_sleep(60)")
"""


@pytest.mark.sampled(1 / 2, "waits for the server's timer")
def test_the_server_ends_what_a_killed_environment_ran(small: PostgresServer) -> None:
    """Lambda kills an environment that does not end, and then nobody is left to cancel the statement."""
    small.execute("create table if not exists held (id int)")
    small.execute("grant insert on held to app")
    found = "select 1 from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'"
    with subprocess.Popen([sys.executable, "-c", AT_WORK, url_of(small)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        until = time.monotonic() + 20
        while not small.execute(found):
            assert time.monotonic() < until
            time.sleep(0.05)
        process.kill()
    until = time.monotonic() + 20
    while small.execute(found):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert small.execute("select * from held") == []


def test_where_the_timer_is_refused_the_login_goes_on_without(small: PostgresServer) -> None:
    """A pooler that the pool does not know about refuses the unknown setting; later logins do not try again."""
    with PgBouncer(
        small, {"app": "app"}, auth_type="trust", server_tls_sslmode="disable", log_connections=1
    ) as bouncer:
        pool = Pool(f"postgresql://app@127.0.0.1:{bouncer.port}/postgres?sslmode=disable")
        refusals = []
        for _ in range(3):
            with pool.connection() as conn:
                one(conn, "select 1")
            pool.close()
            refusals.append(bouncer.log.count("unsupported startup parameter"))
        assert pool.stats().opened == 3
        assert pool.stats().connect_errors == 0
        assert refusals[0] > 0
        assert refusals == [refusals[0]] * 3


def test_behind_a_pooler_no_timer_is_set(small: PostgresServer) -> None:
    with PgBouncer(small, {"app": "app"}, auth_type="trust", server_tls_sslmode="disable") as bouncer:
        pool = Pool(f"postgresql://app@127.0.0.1:{bouncer.port}/postgres?sslmode=disable&pooled=true", session_idle=5)
        with pool.connection() as conn:
            assert one(conn, "show idle_session_timeout") == "0"
        assert "unsupported startup parameter" not in bouncer.log
        pool.close()


@pytest.mark.sampled(1 / 2, "waits for the server's timer")
def test_the_server_ends_what_a_vanished_environment_left(server: Server) -> None:
    pool = Pool(server.url(), session_idle=1)
    backends = []

    @pool.handler
    def handler(event: object, context: object, conn: Any) -> None:
        backends.append(entries(pool)[0].link.backend_id)

    handler({}, Context(0.5))
    sessions = (
        "select count(*) from pg_stat_activity where pid = {}"
        if server.scheme == "postgresql"
        else "select count(*) from information_schema.processlist where id = {}"
    ).format(backends[0])
    other = Pool(server.url())

    def there() -> bool:
        with other.connection() as conn:
            return bool(one(conn, sessions))

    assert there()
    until = time.monotonic() + 20
    while there():
        assert time.monotonic() < until
        time.sleep(0.25)
    handler({}, Context(0.5))  # the next invocation does not notice
    assert pool.stats().opened == 2
    other.close()
    pool.close()


WAIT = 20.0 if FULL else 3.0


@pytest.mark.sampled(1 / 2, "3 s a case")
def test_a_handler_may_wait_before_its_first_statement(server: Server) -> None:
    """It lasts longer than `session_idle`: the server's timer leaves the invocation its time."""
    pool = Pool(server.url(), session_idle=5 if FULL else 1)

    @pool.handler
    def handler(event: object, context: object, conn: Any) -> int:
        time.sleep(WAIT)
        return int(one(conn, "select 42"))

    assert handler({}, Context(WAIT * 1.5)) == 42
    pool.close()


@pytest.mark.sampled(1 / 2, "waits for the server's timer")
def test_borrowers_who_say_nothing_do_not_let_the_session_end(server: Server) -> None:
    """One after another, each within its time and none past `ping_after`: only a ping tells the server about them."""
    pool = Pool(server.url(), session_idle=1)

    @pool.handler
    def handler(event: dict[str, bool], context: object, conn: Any) -> None:
        time.sleep(1.7)
        if event["speaks"]:
            one(conn, "select 42")

    # The server also sees the question after the first; only in the last of them would its timer end.
    for number in range(6):
        handler({"speaks": number == 5}, Context(2.0))
    pool.close()


@pytest.mark.sampled(1 / 2, "waits for the server's timer")
def test_a_thaw_about_when_the_server_ends_it(server: Server) -> None:
    """Within 50 ms of the timer, and around the second before it: no statement of a handler is hit by its end."""
    found: Server
    with (
        PostgresServer(max_connections=150, extra_config=["fsync=off"])
        if server.scheme == "postgresql"
        else MariaDbServer(max_connections=150)
    ) as found:
        seen = Recorder()
        for _ in range(5 if FULL else 1):
            pools = [Pool(found.url(), session_idle=1, observers=[seen], name=f"{number}") for number in range(100)]
            opened = []

            def work(event: object, context: object, conn: Any) -> None:
                one(conn, "select 1")

            handlers = [pool.handler(work) for pool in pools]
            for handler in handlers:
                handler({}, Context(1.0))
                opened.append(time.monotonic())
            timer = entries(pools[0])[0].link.session_idle
            assert 6 <= timer <= 7  # whole seconds on MySQL
            for number, handler in enumerate(handlers):
                at = opened[number] + timer + (number % 25 - 12) / 240 - (1.0 if number % 4 == 0 else 0.0)
                time.sleep(max(at - time.monotonic(), 0))
                handler({}, Context(1.0))
            for pool in pools:
                pool.close()
        assert {event.reason for event in seen.of(Replaced)} <= {Reason.IDLE, Reason.DEAD}
