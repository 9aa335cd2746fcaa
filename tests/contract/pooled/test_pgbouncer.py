"""Behind a real PgBouncer in transaction mode: what many pools share, and what nobody may send there."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from lambda_pool import ConfigError, ConnectError, NotCommitted, Pool
from lambda_pool.testing import PostgresServer
from tests.support.context import LambdaContext
from tests.support.pgbouncer import PgBouncer
from tests.support.wire import Tap

POOLS = 8
ROUNDS = 30


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL that logs statements, and the steps of the extended protocol with the statements' names."""
    with PostgresServer(log_statements=True, extra_config=["log_min_duration_statement = 0"]) as server:
        server.execute("create table counters (id int primary key, value int not null)")
        yield server


@pytest.fixture
def bouncer(server: PostgresServer) -> Iterator[PgBouncer]:
    """One server connection for everybody."""
    with PgBouncer(server, default_pool_size=1) as bouncer:
        yield bouncer


def pool_of(url: str, **options: Any) -> Pool:
    return Pool(url, name="orders", observers=(), **options)


@pytest.mark.sampled(1 / 2, "3 s a case")
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_many_pools_share_one_server_connection(server: PostgresServer, tls: bool) -> None:
    server.execute("delete from counters")
    server.execute("insert into counters select n, 0 from generate_series(0, 8) n")
    backends = set()
    failures: list[BaseException] = []

    def count(pool: Pool, number: int) -> None:
        def work(conn: Any) -> Any:
            conn.execute("update counters set value = value + 1 where id in (0, %s)", [number])
            conn.execute("select pg_sleep(0.0005)")
            mine = conn.execute("select value, pg_backend_pid() from counters where id = %s", [number]).fetchone()
            assert mine[1] == conn.execute("select pg_backend_pid()").fetchone()[0]
            return mine

        try:
            for turn in range(ROUNDS):
                value, backend = pool.run(work)
                assert value == turn + 1
                backends.add(backend)
        except BaseException as error:
            failures.append(error)

    with PgBouncer(server, tls=tls, default_pool_size=1) as bouncer:
        pools = [pool_of(bouncer.url(), timeout=30.0, connect_timeout=20.0) for _ in range(POOLS)]
        threads = [threading.Thread(target=count, args=(pool, n), daemon=True) for n, pool in enumerate(pools, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert len(backends) == 1
        for pool in pools:
            assert (pool.stats().opened, pool.stats().closed) == (1, 0)
            pool.close()
    counted = dict(server.execute("select id, value from counters"))
    assert counted == {0: POOLS * ROUNDS, **dict.fromkeys(range(1, POOLS + 1), ROUNDS)}


def test_without_pooled_they_would_clash(bouncer: PgBouncer) -> None:
    # So that the test above cannot pass for a reason of its own.
    pools = [pool_of(bouncer.url(pooled=False)) for _ in range(2)]
    with pytest.raises((psycopg.errors.DuplicatePreparedStatement, psycopg.errors.InvalidSqlStatementName)):
        for _ in range(10):
            for pool in pools:
                with pool.connection() as conn:
                    conn.execute("select %s::int", [1])
    for pool in pools:
        pool.close()


def live_a_whole_life(url: str) -> None:
    """Everything that a pool does on its own, with statements of one kind: `select <number>` and `insert …`."""
    pool = pool_of(url, ping_after=0)
    for _ in range(20):  # psycopg would name the statement from the sixth time on
        with pool.connection() as conn:
            conn.execute("select %s::int", [1])
    with pytest.raises(ZeroDivisionError), pool.connection() as conn:
        conn.execute("select 2")
        1 / 0  # noqa: B018
    with pytest.raises(psycopg.Error), pool.connection() as conn:
        conn.execute("insert into counters values (0, 0), (0, 0)")
    for _ in range(2):
        with pool.connection(readonly=True) as conn:
            conn.execute("select 3")
    with pool.connection() as conn:
        conn.cursor().executemany("select %s::int", [(1,), (2,), (3,)] * 10)
        list(conn.cursor().stream("select %s::int", [4]))
        conn.commit()
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        conn.execute("select 5")
        conn.commit()
        conn.autocommit = True
        conn.execute("select 6")
    assert pool.stats().pings > 20
    tries = []

    def work(conn: Any) -> None:
        tries.append(conn.execute("select 7").fetchone())
        if len(tries) == 1:
            raise psycopg.errors.SerializationFailure("scripted")

    pool.run(work)
    assert len(tries) == 2
    assert pool.stats().opened == 1

    @pool.handler
    def leaks(event: object, context: object) -> None:
        pool.connection().__enter__().execute("select 8")

    with pytest.raises(NotCommitted):
        leaks({}, LambdaContext())
    assert pool.stats().leaked == 1
    pool.close()

    replacing = pool_of(url, max_lifetime=1e-6, autocommit=True)
    for _ in range(3):
        with replacing.connection() as conn:
            conn.execute("select %s::int", [1])
        with replacing.connection(readonly=True) as conn:
            conn.execute("select 3")
    assert replacing.stats().replaced == 5
    replacing.run(lambda conn: conn.execute("select 7"))
    replacing.close()

    own = psycopg.ClientCursor
    client_side = pool_of(url, connect_args={"cursor_factory": own, "application_name": "orders"})
    with client_side.connection() as conn:
        conn.execute("select %s", [9])
    client_side.close()


HANDLERS = {f"select {number}" for number in range(10)} | {"insert into counters values (0, 0), (0, 0)"}
PARAMETRISED = {"select $1::int"}
OURS = {"", "BEGIN", "BEGIN READ ONLY", "BEGIN ISOLATION LEVEL SERIALIZABLE", "COMMIT", "ROLLBACK"}


def test_on_the_wire(bouncer: PgBouncer) -> None:
    with Tap(bouncer.port) as tap:
        live_a_whole_life(bouncer.url(port=tap.port))
        startups, messages = tap.startups, tap.messages
    assert len(startups) >= 6
    for startup in startups:
        assert startup == {"user": "postgres", "database": "postgres", "application_name": "orders"}
    # Simple queries; parse, bind, describe, execute, flush and sync of unnamed statements; terminate. No close, no
    # function call, no copy.
    assert {message.kind for message in messages} == set("QPBDEHSX")
    assert {message.name for message in messages} == {""}
    assert {message.text for message in messages if message.kind == "P"} <= PARAMETRISED | HANDLERS | OURS
    assert {message.text for message in messages if message.kind == "Q"} <= OURS | HANDLERS
    for text in OURS:
        assert text in {message.text for message in messages if message.kind == "Q"}


def test_in_the_servers_log(server: PostgresServer, bouncer: PgBouncer) -> None:
    offset = len(server.log)
    live_a_whole_life(bouncer.url())
    with pool_of(bouncer.url()).connection() as conn:
        [backend] = conn.execute("select pg_backend_pid()").fetchone()
        assert conn.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)
        assert conn.execute("select current_setting('search_path'), count(*) from pg_listening_channels()").fetchone()
        conn.rollback()
    log = server.log[offset:]
    simple = set(re.findall(rf"\[{backend}\].*?LOG:  statement: (.*)", log))
    assert simple <= OURS | HANDLERS | {
        # PgBouncer's own, which carries a client's start-up parameter over; see the test on the wire.
        "SET application_name='orders';",
        "select pg_backend_pid()",
        "select count(*) from pg_prepared_statements",
        "select current_setting('search_path'), count(*) from pg_listening_channels()",
    }
    assert {"BEGIN", "BEGIN READ ONLY", "COMMIT", "ROLLBACK"} <= simple
    extended = re.findall(rf"\[{backend}\].*?(?:parse|bind|execute) (<unnamed>|\S+): (.*)", log)
    assert {name for name, _ in extended} == {"<unnamed>"}
    assert {text for _, text in extended} <= PARAMETRISED | HANDLERS | OURS


@pytest.mark.parametrize("source", ["url", "connect_args", "environment"])
def test_startup_options_are_refused_before_anything_is_sent(
    bouncer: PgBouncer, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    options = "-c statement_timeout=1000"
    with Tap(bouncer.port) as tap:
        url = bouncer.url(port=tap.port)
        with pytest.raises(ConfigError, match=r"PGOPTIONS.*ALTER ROLE"):
            if source == "url":
                pool_of(bouncer.url(port=tap.port, options=options))
            elif source == "connect_args":
                pool_of(url, connect_args={"options": options})
            else:
                monkeypatch.setenv("PGOPTIONS", options)
                with pool_of(url).connection():
                    pass
        assert tap.sent == 0


def test_pgbouncer_would_refuse_them(bouncer: PgBouncer) -> None:
    # So that the test above is about something.
    with pytest.raises(ConnectError, match="unsupported startup parameter: options"):
        with pool_of(bouncer.url(pooled=False, options="-c statement_timeout=1000")).connection():
            pass


def test_a_server_restart_behind_it_is_not_noticed_while_idle(server: PostgresServer, bouncer: PgBouncer) -> None:
    pool = pool_of(bouncer.url())
    with pool.connection() as conn:
        conn.execute("select 1")
    server.restart()
    with pool.connection() as conn:
        assert conn.execute("select 1").fetchone() == (1,)
    assert pool.stats().opened == 1
    pool.close()


def test_run_replays_what_died_behind_it(server: PostgresServer, bouncer: PgBouncer) -> None:
    pool = pool_of(bouncer.url())
    backends = []

    def work(conn: Any) -> int:
        backends.append(conn.execute("select pg_backend_pid()").fetchone()[0])
        if len(backends) == 1:
            server.execute(f"select pg_terminate_backend({backends[0]}, 5000)")
        return int(conn.execute("select 1").fetchone()[0])

    assert pool.run(work) == 1
    assert len(set(backends)) == 2
    pool.close()


def test_a_full_pooler_is_waited_for_and_then_said(server: PostgresServer) -> None:
    with PgBouncer(server, max_client_conn=1) as bouncer:
        first = pool_of(bouncer.url())
        with first.connection() as conn:
            conn.execute("select 1")
        with pytest.raises(ConnectError, match="attempts in") as full:
            with pool_of(bouncer.url(), timeout=0.3).connection():
                pass
        assert "no more connections allowed" in str(full.value)  # maybe the last attempt had no time to hear it
        first.close()


@pytest.fixture
def busy(bouncer: PgBouncer) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else has the only backend, until this connection commits."""
    with psycopg.connect(bouncer.url(pooled=False)) as other:
        other.execute("select 1")
        yield other


def one(conn: Any) -> Any:
    return conn.execute("select 1").fetchone()[0]


def test_begin_waits_for_a_backend_as_long_as_a_checkout_may(bouncer: PgBouncer, busy: psycopg.Connection[Any]) -> None:
    pool = pool_of(bouncer.url(), ping_timeout=0.1, timeout=20.0)
    pool.warm()
    free = threading.Timer(0.6, busy.commit)
    free.start()
    assert pool.run(one) == 1
    free.join()
    assert (pool.stats().opened, pool.stats().closed) == (1, 0)
    pool.close()


def test_that_no_backend_came_free_is_said_in_time(bouncer: PgBouncer, busy: psycopg.Connection[Any]) -> None:
    pool = pool_of(bouncer.url(), ping_timeout=0.1, timeout=0.5)
    with pytest.raises(ConnectError, match=r"the login, but did not answer what is asked.*raise the option timeout"):
        pool.run(one)
    assert (pool.stats().opened, pool.stats().closed) == (1, 1)
    busy.commit()
    assert pool.run(one) == 1
    pool.close()


@contextmanager
def after_opening(pool: Pool, opened: int, call: Callable[[], object]) -> Iterator[None]:
    """Call something beside this block, once the pool has opened so many connections, or when the block ends."""
    over = threading.Event()

    def wait() -> None:
        while pool.stats().opened < opened and not over.wait(0.05):
            pass
        call()

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        yield
    finally:
        over.set()
        waiting.join()


@pytest.mark.sampled(1 / 3, "3 s")
def test_a_pooler_that_gives_up_before_the_checkout_does_is_asked_again(server: PostgresServer) -> None:
    with PgBouncer(server, default_pool_size=1, query_wait_timeout=1) as bouncer:
        pool = pool_of(bouncer.url(), timeout=30.0)

        with psycopg.connect(bouncer.url(pooled=False)) as busy:
            busy.execute("select 1")
            with after_opening(pool, 3, busy.commit):
                assert pool.run(one) == 1
        pool.close()


@pytest.mark.sampled(1 / 3, "restarts a server")
def test_a_pooler_whose_server_comes_back_in_time_is_asked_again() -> None:
    """Until then PgBouncer refuses every transaction at once, for as long as its server_login_retry says."""
    with PostgresServer() as server, PgBouncer(server, server_login_retry=3, query_wait_timeout=1) as bouncer:
        pool = pool_of(bouncer.url(), timeout=30.0)
        assert pool.run(one) == 1
        server.stop("fast")
        said = ""
        for _ in range(100):  # the first ones wait until PgBouncer has noticed
            with pytest.raises(psycopg.OperationalError) as caught, pool.connection() as conn:
                conn.execute("select 1")
            said = str(caught.value)
            if "server_login_retry" in said:
                break
        assert "server_login_retry" in said
        with after_opening(pool, pool.stats().opened + 3, server.start):
            assert pool.run(one) == 1
        pool.close()


def test_one_that_stays_full_is_named_in_time(server: PostgresServer) -> None:
    """The last try is not left with so little time that its own failure would be told."""
    with PgBouncer(server, default_pool_size=1, query_wait_timeout=1) as bouncer:
        pool = pool_of(bouncer.url(), timeout=2.0)
        with psycopg.connect(bouncer.url(pooled=False)) as busy:
            busy.execute("select 1")
            start = time.monotonic()
            with pytest.raises(ConnectError, match="a pooler may have no backend free"):
                pool.run(one)
            assert time.monotonic() - start < 4
        assert pool.stats().in_use == 0
        pool.close()


def test_why_it_ends_a_connection_at_begin_is_said(server: PostgresServer) -> None:
    with PgBouncer(server, pool_mode="statement") as bouncer:
        pool = pool_of(bouncer.url())
        with pytest.raises(psycopg.errors.ProtocolViolation, match=r"^transaction blocks not allowed in statement"):
            pool.run(one)
        pool.close()
