"""PostgreSQL: schema changes, silent addresses, servers that talk a lot, and exceptions that are somebody else's."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import lambda_pool
from lambda_pool.engines.base import Failure
from lambda_pool.engines.psycopg.engine import PostgresEngine
from lambda_pool.testing import FaultyProxy
from tests.contract.conftest import Database
from tests.support.alarm import alarm
from tests.support.invoked import invoked

# --- the schema changes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_migration_fails_once_an_environment(pg: Database, autocommit: bool) -> None:
    pool = pg.pool(autocommit=autocommit, max_size=3)
    pg.insert_sql = f"insert into {pg.table} values (1)"  # type: ignore[attr-defined]
    pg.execute(f"insert into {pg.table} values (1)")

    def select(conn: Any) -> Any:
        return conn.execute(f"select * from {pg.table} where id = %s", [1]).fetchone()

    with contextlib.ExitStack() as stack:  # each of several connections has its plan
        conns = [stack.enter_context(pool.connection()) for _ in range(3)]
        for conn in conns:
            for _ in range(7):
                select(conn)
    pg.execute(f"alter table {pg.table} add column extra text")
    found = []
    for _ in range(6):
        try:
            with pool.connection() as conn:
                found.append(select(conn))
        except psycopg.errors.FeatureNotSupported as error:
            found.append(str(error))
    assert found[1:] == [(1, None)] * 5


def test_run_shows_no_migration(pg: Database) -> None:
    pool = pg.pool()
    calls = 0

    def work(conn: Any) -> Any:
        nonlocal calls
        calls += 1
        pg.insert(conn, calls)
        for _ in range(7):
            found = conn.execute(f"select * from {pg.table} where id > %s", [0]).fetchall()
        return found

    pool.run(work)
    pg.execute(f"alter table {pg.table} add column extra text")
    assert pool.run(work) == [(1, None), (3, None)]
    assert calls == 3


def test_a_statement_that_somebody_deallocated(pg: Database) -> None:
    pool = pg.pool()
    pool.run(lambda conn: [conn.execute("select %s::int + 1", [1]) for _ in range(7)])
    pool.run(lambda conn: conn.execute("do $$ begin execute 'deallocate all'; end $$"))
    assert pool.run(lambda conn: conn.execute("select %s::int + 1", [1]).fetchone()) == (2,)
    assert pool.stats().opened == 2


@pytest.mark.parametrize(
    ("state", "text", "kind"),
    [
        ("0A000", "cached plan must not change result type", Failure.STALE),
        ("0A000", "this is not implemented", Failure.OTHER),
        ("XX000", "cache lookup failed for type 16385", Failure.STALE),
        ("XX000", "cache lookup failed for relation 16385", Failure.STALE),
        ("XX000", "unexpected", Failure.OTHER),
        ("26000", 'prepared statement "_pg3_0" does not exist', Failure.STALE),
        (None, "consuming input failed: SSL connection has been closed unexpectedly", Failure.LOST),
        (None, "consuming input failed: could not receive data from server: Connection timed out", Failure.LOST),
        (None, "consuming input failed: SSL error: decryption failed or bad record mac", Failure.LOST),
        (None, "connection failed: SSL connection has been closed unexpectedly", Failure.LOST),
        (None, "SSL SYSCALL error: EOF detected", Failure.LOST),
        ("08P01", "query_wait_timeout", Failure.TOO_MANY),
        ("08P01", "server conn crashed?", Failure.LOST),
        (None, "flushing failed: the connection is closed", Failure.LOST),
        (None, "FATAL:  terminating connection due to idle-in-transaction timeout", Failure.LOST),
        (None, "connection failed: SSL error: certificate verify failed", Failure.UNTRUSTED),
    ],
)
def test_what_an_error_means(state: str | None, text: str, kind: Failure) -> None:
    made = psycopg.errors.lookup(state) if state else psycopg.OperationalError
    assert PostgresEngine().classify(made(text)) is kind


def test_what_is_not_the_drivers() -> None:
    for error in (TimeoutError(), ConnectionResetError(), ValueError()):
        assert PostgresEngine().classify(error) is Failure.FOREIGN


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.fixture
def addresses(pg: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What a name stands for."""
    genuine = socket.getaddrinfo

    def stand_for(**names: list[str]) -> None:
        def found(host: str, port: int, **named: Any) -> Any:
            if host not in names:
                return genuine(host, port, **named)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host]]

        monkeypatch.setattr(socket, "getaddrinfo", found)

    return stand_for


@contextlib.contextmanager
def silent(pg: Database, *addresses: str) -> Iterator[None]:
    """Somebody who listens at the server's port, and never says a word."""
    with contextlib.ExitStack() as stack:
        for address in addresses:
            stack.enter_context(socket.create_server((address, pg.server.port)))
        yield


def url_of(pg: Database, host: str, **query: str) -> str:
    return str(pg.server.url(host=host, tls=False, sslmode="disable", **query))


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("before", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"], ["127.0.0.4", "127.0.0.2"]])
def test_a_silent_address_hides_no_other(pg: Database, addresses: Callable[..., None], before: list[str]) -> None:
    """Nor does one that refuses, as 127.0.0.4 does."""
    addresses(several=[*before, "127.0.0.1"])
    pool = pg.pool(url_of(pg, "several"), connect_timeout=1.5, timeout=1.6)
    with silent(pg, "127.0.0.2", "127.0.0.3"), pool.connection() as conn:
        assert conn.info.hostaddr == "127.0.0.1"
    assert pool.stats().connect_errors == 0


def test_all_silent_is_given_up_in_time(pg: Database, addresses: Callable[..., None]) -> None:
    addresses(two=["127.0.0.2", "127.0.0.3"])
    start = time.monotonic()
    with silent(pg, "127.0.0.2", "127.0.0.3"), pytest.raises(lambda_pool.ConnectError, match="no answer in time"):
        pg.pool(url_of(pg, "two"), connect_timeout=0.5, timeout=0.5).connection().__enter__()
    assert time.monotonic() - start < 3


# --- much talk --------------------------------------------------------------------------------------------------------


@pytest.mark.sampled(3, "many cases")
@pytest.mark.parametrize("reset", ["transaction", "changed", "session"])
@pytest.mark.parametrize("pieces", [1, 1500])
def test_a_commit_with_notices_is_saved(pg: Database, reset: str, pieces: int) -> None:
    size = 1_500_000 // pieces
    pg.execute(
        f"create or replace function {pg.table}_talk() returns trigger language plpgsql as $$ begin "
        f"for i in 1..{pieces} loop raise notice '%', repeat('x', {size}); end loop; return null; end $$"
    )
    pg.execute(
        f"create constraint trigger talk after insert on {pg.table} deferrable initially deferred "
        f"for each row execute function {pg.table}_talk()"
    )
    pool = pg.pool(reset=reset)
    heard = []
    with pool.connection() as conn:
        conn.add_notice_handler(lambda notice: heard.append(len(notice.message_primary)))
        conn.execute("set client_min_messages = notice")
        pg.insert(conn, 1)
    assert pg.rows() == [1]
    assert sum(heard) == size * pieces
    assert (pool.stats().opened, pool.stats().idle) == (1, 1)
    pg.execute(f"drop function {pg.table}_talk() cascade")


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("how", ["ping", "before COMMIT", "reset"])
def test_a_backlog_of_notifications_costs_no_connection(pg: Database, how: str) -> None:
    pool = pg.pool(ping_after=0.0 if how == "ping" else 60.0, reset="session" if how == "reset" else "transaction")
    tell = f"select count(pg_notify('{pg.table}', i || repeat('x', 7000))) from generate_series(1, 2000) i"
    if how != "reset":
        with pool.connection() as conn:
            conn.execute(f"listen {pg.table}")
    with pool.connection() as conn:
        backend = conn.info.backend_pid
        if how == "reset":
            conn.execute(f"listen {pg.table}")
            conn.commit()
        if how != "ping":
            pg.insert(conn, 1)
            pg.execute(tell)
            time.sleep(0.2)
    if how == "ping":
        pg.execute(tell)
    with pool.connection() as conn:
        assert conn.info.backend_pid == backend
        if how != "reset":
            conn.commit()
            assert sum(1 for _ in conn.notifies(timeout=5, stop_after=2000)) >= 2000
        else:
            assert list(conn.notifies(timeout=0.1)) == []
    assert pg.rows() == [1] * (how != "ping")
    assert pool.stats().opened == 1


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_notifies_ends_with_the_invocation(pg: Database, timeout: float | None) -> None:
    pool = pg.pool(autocommit=True)
    end = time.monotonic() + 1.0
    # It is given back after the invocation: a busy machine may need more than the little that is left of one.
    with pool.connection() as conn, invoked(lambda: int((end - time.monotonic()) * 1000), reserve=0.5):
        conn.execute("listen nothing")
        assert list(conn.notifies(timeout=timeout)) == []
    assert time.monotonic() < end + 0.5
    assert (pool.stats().opened, pool.stats().idle) == (1, 1)


def leave_a_copy(conn: Any) -> None:
    with (
        contextlib.suppress(KeyError),
        conn.cursor().copy("copy (select generate_series(1, 9)) to stdout") as copy,
    ):
        copy.read()
        raise KeyError


CANCELS: dict[str, Callable[[Any], object]] = {
    "cancel()": lambda conn: conn.cancel(),
    "cancel_safe()": lambda conn: conn.cancel_safe(),
    "a stream that is left": lambda conn: next(conn.cursor().stream("select generate_series(1, 9)")),
    "a copy that fails": leave_a_copy,
}


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("how", CANCELS)
def test_a_cancel_that_is_not_answered_ends_with_the_invocation(pg: Database, how: str) -> None:
    """The borrower's own, and the driver's: it goes over a connection of its own, which no other deadline ends."""
    with FaultyProxy("127.0.0.1", pg.server.port) as proxy:
        pool = pg.pool(pg.url.replace(f":{pg.server.port}/", f":{proxy.port}/"))
        end = time.monotonic() + 1.0
        with pool.connection() as conn, invoked(lambda: int((end - time.monotonic()) * 1000), reserve=0.5):
            proxy.swallow("to_client", existing=False)
            with contextlib.suppress(psycopg.OperationalError):
                CANCELS[how](conn)
            assert 0.1 < end - time.monotonic() < 0.6  # it waited, and no longer
            proxy.heal()
        with pool.connection() as conn:
            assert conn.execute("select 1").fetchone() == (1,)
        assert pool.stats().in_use == 0


# --- whose exception it is --------------------------------------------------------------------------------------------


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("how", ["connect", "ping", "BEGIN", "COMMIT", "COMMIT and reset", "ROLLBACK"])
def test_an_exception_of_the_users_own_passes_at_once(pg: Database, how: str) -> None:
    with FaultyProxy("127.0.0.1", pg.server.port) as proxy:
        pool = pg.pool(
            pg.url.replace(f":{pg.server.port}/", f":{proxy.port}/"),
            ping_after=0.0 if how == "ping" else 60.0,
            ping_timeout=20.0,
            connect_timeout=20.0,
            timeout=20.0,
            reset="changed" if "reset" in how else "transaction",
        )
        if how != "connect":
            pool.warm(strict=True)
        mine, start = TimeoutError("the user's own"), time.monotonic()
        uncertain = how.startswith("COMMIT")
        with pytest.raises(lambda_pool.CommitUncertain if uncertain else TimeoutError) as raised, alarm(0.5, mine):
            if how in {"connect", "ping"}:
                proxy.black_hole()
                pool.connection().__enter__()
            elif how == "BEGIN":
                proxy.black_hole()
                pool.run(lambda conn: None)
            else:
                with pool.connection() as conn:
                    pg.insert(conn, 1)
                    conn.execute("set statement_timeout = '77s'")
                    proxy.black_hole()
                    if how == "ROLLBACK":
                        conn.rollback()
        assert (raised.value.__cause__ if uncertain else raised.value) is mine
        assert time.monotonic() - start < 3
        assert pool.stats().size == 0
        proxy.heal()
        with pool.connection() as conn:
            assert pg.query(conn, "select 1") == [(1,)]


@pytest.mark.parametrize("how", ["rolls back", "in a block of its own", "autocommit", "COPY"])
def test_a_handled_refusal_to_write_is_a_failover_all_the_same(pg: Database, how: str) -> None:
    """Who answers with status 500 instead of raising would else meet the same server again, until it is too old."""
    pool = pg.pool(max_size=2, autocommit=how == "autocommit")
    with pool.connection() as conn, pool.connection() as other:
        first = {pg.backend(conn), pg.backend(other)}
    with pool.connection() as conn:
        conn.execute("set session characteristics as transaction read only")
        conn.commit()
        with contextlib.suppress(psycopg.errors.ReadOnlySqlTransaction):
            if how == "in a block of its own":
                with conn.transaction():
                    pg.insert(conn, 1)
            elif how == "COPY":
                with conn.cursor().copy(f"copy {pg.table} from stdin") as copy:
                    copy.write("1\n")
            else:
                pg.insert(conn, 1)
        conn.rollback()
    with pool.connection() as conn, pool.connection() as other:
        assert first.isdisjoint({pg.backend(conn), pg.backend(other)})
        pg.insert(conn, 2)
    assert pg.rows() == [2]


def test_what_a_readers_own_block_is_refused_is_none(pg: Database) -> None:
    pool = pg.pool()
    for _ in range(2):
        with pool.connection(readonly=True) as conn:
            with contextlib.suppress(psycopg.errors.ReadOnlySqlTransaction):
                pg.insert(conn, 1)
            conn.rollback()
    assert pool.stats().opened == 1


def test_a_plan_that_became_stale_fails_once_where_that_is_handled(pg: Database) -> None:
    """Outside of a transaction nothing else makes the driver prepare it anew."""
    pool = pg.pool(autocommit=True)
    failed = []
    for number in range(3):
        with pool.connection() as conn:
            try:
                for _ in range(7):
                    conn.execute(f"select * from {pg.table}")
            except psycopg.errors.FeatureNotSupported:
                failed.append(number)
        if number == 0:
            pg.execute(f"alter table {pg.table} add name text")
    assert failed == [1]
