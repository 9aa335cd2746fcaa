"""What PostgreSQL's versions and settings differ in: timers, logins, the start of TLS, encodings."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

import lambda_pool
from lambda_pool.api import core_of
from lambda_pool.cli.doctor import diagnose
from lambda_pool.engines.base import Failure
from lambda_pool.events import Crowded
from lambda_pool.testing import PostgresServer
from lambda_pool.testing.certificates import make_certificates
from tests.conftest import FETCHED
from tests.support.context import LambdaContext
from tests.support.recorder import Recorder

Pools = Callable[..., lambda_pool.Pool]


@pytest.fixture
def pool_of() -> Iterator[Pools]:
    made: list[lambda_pool.Pool] = []

    def make(url: str, **options: Any) -> lambda_pool.Pool:
        made.append(lambda_pool.Pool(url, observers=(), **options))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


@pytest.fixture(params=["postgresql15", "postgresql18", *(f"postgresql{each}" for each in FETCHED)])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    found: PostgresServer
    if request.param in {"postgresql15", "postgresql18"}:
        found = request.getfixturevalue("postgres" if request.param == "postgresql15" else "newest_postgres")
    else:
        found = request.getfixturevalue("postgres_of")(request.param.removeprefix("postgresql"))
    return found


def needs_libpq(version: int, url: str, name: str) -> bool:
    """True if it is as new. An older one, such as a system's for psycopg in pure Python, is refused at `Pool()`."""
    if psycopg.pq.version() // 10000 >= version:
        return True
    with pytest.raises(lambda_pool.ConfigError, match=f"{name} is not known to libpq"):
        lambda_pool.Pool(url)
    return False


def value(pool: lambda_pool.Pool, sql: str) -> Any:
    with pool.connection() as conn:
        return conn.execute(sql).fetchone()[0]


def test_the_versions(postgres: PostgresServer, newest_postgres: PostgresServer) -> None:
    versions = [int(each.execute("show server_version_num")[0][0]) // 10000 for each in (postgres, newest_postgres)]
    assert versions[1] >= 18
    assert versions[0] >= 14


@pytest.mark.slow("only the full run has them")
@pytest.mark.parametrize("version", FETCHED)
def test_each_version_is_what_it_is_named(postgres_of: Callable[[str], PostgresServer], version: str) -> None:
    assert postgres_of(version).execute("show server_version_num")[0][0].startswith(version)


# --- timers -----------------------------------------------------------------------------------------------------------


def test_a_transaction_that_the_server_ends_is_lost(newest_postgres: PostgresServer, pool_of: Pools) -> None:
    """`transaction_timeout`, from version 17 on, ends the session with the transaction."""
    pool = pool_of(newest_postgres.url(options="-c transaction_timeout=300"))
    with pytest.raises(psycopg.Error, match="due to transaction timeout") as caught, pool.connection() as conn:
        conn.execute("select 1")
        time.sleep(0.6)
        conn.execute("select 2")
    assert core_of(pool).classify(caught.value) is Failure.LOST
    assert value(pool, "select 3") == 3


def test_work_that_it_ended_is_run_again(newest_postgres: PostgresServer, pool_of: Pools) -> None:
    pool = pool_of(newest_postgres.url(options="-c transaction_timeout=300"))
    calls = []

    def work(conn: Any) -> int:
        calls.append(1)
        conn.execute("select 1")
        if len(calls) == 1:
            time.sleep(0.6)
        return int(conn.execute("select 42").fetchone()[0])

    assert pool.run(work) == 42
    assert len(calls) == 2


@pytest.fixture
def login_trigger(newest_postgres: PostgresServer) -> Iterator[None]:
    newest_postgres.execute("create schema login")
    newest_postgres.execute(
        "create function login.greet() returns event_trigger language plpgsql as "
        "$$ begin perform set_config('login.met', 'yes', false); end $$"
    )
    newest_postgres.execute("create event trigger greet on login execute function login.greet()")
    yield
    newest_postgres.execute("drop event trigger greet")
    newest_postgres.execute("drop schema login cascade")


@pytest.mark.parametrize("reset", ["changed", "session"])
@pytest.mark.usefixtures("login_trigger")
def test_what_a_trigger_sets_at_each_login_is_not_reset(
    newest_postgres: PostgresServer, pool_of: Pools, reset: str
) -> None:
    pool = pool_of(newest_postgres.url(), reset=reset)
    for _ in range(3):
        with pool.connection() as conn:
            assert conn.execute("select current_setting('login.met')").fetchone() == ("yes",)
            conn.execute("set login.mine = 'yes'")
            conn.execute("prepare mine as select 1")
        assert pool.stats().size == 0
    newest_postgres.execute("alter event trigger greet disable")
    for _ in range(2):
        with pool.connection() as conn:
            conn.execute("set login.mine = 'yes'")
    assert pool.stats().opened == 4


def test_a_session_that_the_server_ended_is_replaced(server: PostgresServer, pool_of: Pools) -> None:
    pool = pool_of(server.url(options="-c idle_session_timeout=300"))
    first = value(pool, "select pg_backend_pid()")
    time.sleep(0.6)
    assert value(pool, "select pg_backend_pid()") != first
    assert value(pool, "show idle_session_timeout") == "300ms"


def test_what_is_reserved_for_some_roles_is_not_free(newest_postgres: PostgresServer) -> None:
    """From version 16 on, there is more than what is reserved for superusers."""
    seen = Recorder()
    pool = lambda_pool.Pool(newest_postgres.url(), observers=[seen])
    pool.handler(lambda event, context, conn: None)({}, LambdaContext(30_000))
    pool.close()
    ((most,),) = newest_postgres.execute("show max_connections")
    assert [event.limit for event in seen.of(Crowded)] == [int(most) - 3 - 4]


# --- logins -----------------------------------------------------------------------------------------------------------


def test_scram_is_bound_to_the_tls_channel(postgres: PostgresServer, pool_of: Pools) -> None:
    url = postgres.url(channel_binding="require", require_auth="scram-sha-256")
    if needs_libpq(16, url, "require_auth"):
        assert value(pool_of(url), "select 1") == 1


def test_without_tls_there_is_no_channel(server: PostgresServer, pool_of: Pools) -> None:
    url = server.url(tls=False, sslmode="disable", channel_binding="require")
    start = time.monotonic()
    with pytest.raises(lambda_pool.ConnectError, match="channel binding required, but SSL not in use"):
        pool_of(url).connection().__enter__()
    assert time.monotonic() - start < 4  # it is not tried again


# --- TLS from the first byte ------------------------------------------------------------------------------------------


class TlsFirst:
    """TLS from the first byte, as PostgreSQL speaks it from version 17 on, in front of a server without TLS."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        certificates = make_certificates(folder, ["localhost"])
        self.ca = certificates.ca
        self._target = ("127.0.0.1", server.port)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates.certificate, certificates.key)
        self._context.set_alpn_protocols(["postgresql"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(plain, server_side=True) as client:
            if client.selected_alpn_protocol() != "postgresql":
                return
            with socket.create_connection(self._target) as session:
                threading.Thread(target=_copy, args=(session, client), daemon=True).start()
                _copy(client, session)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


@pytest.fixture
def tls_first(newest_postgres: PostgresServer, tmp_path: Path) -> Iterator[TlsFirst]:
    made = TlsFirst(newest_postgres, tmp_path)
    yield made
    made.close()


def test_tls_from_the_first_byte(newest_postgres: PostgresServer, tls_first: TlsFirst, pool_of: Pools) -> None:
    url = newest_postgres.url(
        port=tls_first.port, tls=False, sslmode="verify-full", sslrootcert=str(tls_first.ca), sslnegotiation="direct"
    )
    if needs_libpq(17, url, "sslnegotiation"):
        pool = pool_of(url)
        for _ in range(3):
            assert value(pool, "select 1") == 1
        assert pool.stats().opened == 1


def test_an_older_server_does_not_speak_it(postgres: PostgresServer, pool_of: Pools) -> None:
    url = postgres.url(sslnegotiation="direct")
    if needs_libpq(17, url, "sslnegotiation"):
        with pytest.raises(lambda_pool.ConnectError, match="take sslnegotiation=direct out of the URL"):
            pool_of(url, timeout=2.0).connection().__enter__()


# --- encodings --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["LATIN1", "SQL_ASCII", "EUC_JP"])
def encoded(request: pytest.FixtureRequest, server: PostgresServer) -> Iterator[tuple[str, str]]:
    """The URL of a database in an encoding other than UTF-8, and the encoding."""
    name = f"in_{request.param.lower()}"
    server.execute(f"drop database if exists {name}")
    server.execute(f"create database {name} encoding '{request.param}' locale 'C' template template0")
    yield server.url(database=name), request.param
    server.execute(f"drop database {name} with (force)")


@pytest.mark.sampled(3, "half a second a case")
def test_databases_that_are_not_utf_8(encoded: tuple[str, str], pool_of: Pools) -> None:
    url, encoding = encoded
    word = {"LATIN1": "café", "SQL_ASCII": "plain", "EUC_JP": "日本"}[encoding]
    pool = pool_of(url, reset="session", name="café 日本")

    @pool.handler
    def handler(event: object, context: object, conn: Any) -> Any:
        conn.execute("create table if not exists words (word text)")
        conn.execute("insert into words values (%s)", [word])
        return conn.execute("select word from words limit 1").fetchone()[0]

    for _ in range(2):
        found = handler({}, None)
        assert (found.decode() if isinstance(found, bytes) else found) == word
    with pytest.raises(psycopg.errors.UndefinedColumn), pool.connection() as conn:
        conn.execute(f'select "{word}" from words')
    report = diagnose(pool)
    assert [step for step in report["steps"] if step["status"] == "failed"] == []
    [version] = [step["facts"]["version"] for step in report["steps"] if step["step"] == "query"]
    assert isinstance(version, str)
