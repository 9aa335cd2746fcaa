"""What is said to libpq itself: cancels, logins that are none, and answers that no question of the pool's needs."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import pq
from psycopg.waiting import wait

from lambda_pool import CommitUncertain, ConfigError, LambdaPoolError
from lambda_pool.engines.psycopg.libpq import NoAnswerError, Unasked, connect, exchange, request_cancel
from lambda_pool.testing import FaultyProxy, PostgresServer
from tests.contract.conftest import Database

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

MORE = "the server sends more than any answer could need"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own, which libpq would read."""
    for name in list(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)


def opened(conninfo: str) -> PGconn:
    return connect(conninfo, time.monotonic() + 20, pooled=False)


def ask(pgconn: PGconn, query: str, unasked: Unasked | None = None, *, bounded: bool = True) -> list[PGresult]:
    """As the pool asks: all results, or the error."""
    answers: list[PGresult] = []
    wait(exchange(pgconn, query.encode(), answers, unasked or Unasked(), bounded=bounded), pgconn.socket, timeout=20)
    return answers


@pytest.fixture
def pgconn(postgres: PostgresServer) -> Iterator[PGconn]:
    """A connection that psycopg knows nothing of."""
    made = opened(postgres.url())
    yield made
    made.finish()


@pytest.fixture
def local(postgres: PostgresServer) -> Iterator[PGconn]:
    """The same over a Unix socket."""
    [(where,)] = postgres.execute("show unix_socket_directories")
    login = f"user={postgres.user} password={postgres.password} dbname=postgres"
    made = opened(f"host={where} port={postgres.port} {login}")
    yield made
    made.finish()


# --- cancels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("libpq", ["today's", "one that waits as long as it takes"])
def test_a_cancel_ends_what_runs_and_nothing_else(
    postgres: PostgresServer, pgconn: PGconn, libpq: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pgconn.send_query(b"select pg_sleep(60)")
    while pgconn.flush():
        pass
    running = f"select count(*) from pg_stat_activity where pid = {pgconn.backend_pid} and state = 'active'"
    until = time.monotonic() + 20
    while postgres.execute(running) == [(0,)]:  # a cancel that comes first cancels nothing
        assert time.monotonic() < until
    if libpq != "today's":
        monkeypatch.setattr(pq, "version", lambda: 160_008)
    request_cancel(pgconn, time.monotonic() + 20)
    with pytest.raises(psycopg.errors.QueryCanceled):
        wait(exchange(pgconn, None, None, Unasked(), bounded=True), pgconn.socket, timeout=20)
    [answer] = ask(pgconn, "select 1")
    assert answer.get_value(0, 0) == b"1"


def test_a_cancel_that_reaches_nobody_says_why(postgres: PostgresServer) -> None:
    with FaultyProxy("127.0.0.1", postgres.port) as proxy:
        pgconn = opened(postgres.url(port=proxy.port))
        proxy.refuse()
        with pytest.raises(psycopg.OperationalError, match=r"Connection refused|error 111"):
            request_cancel(pgconn, time.monotonic() + 20)
        pgconn.finish()


def test_a_cancel_that_nobody_answers_ends_in_time(postgres: PostgresServer) -> None:
    with FaultyProxy("127.0.0.1", postgres.port) as proxy:
        pgconn = opened(postgres.url(port=proxy.port))
        proxy.swallow("to_client", existing=False)
        start = time.monotonic()
        with pytest.raises(NoAnswerError):
            request_cancel(pgconn, start + 0.3)
        assert time.monotonic() < start + 5
        pgconn.finish()


def test_so_does_one_of_a_libpq_that_waits_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pq, "version", lambda: 160_008)
    over = threading.Event()
    pgconn: Any = SimpleNamespace(get_cancel=lambda: SimpleNamespace(cancel=lambda: over.wait(3)))
    start = time.monotonic()
    with pytest.raises(NoAnswerError):
        request_cancel(pgconn, start + 0.3)
    assert time.monotonic() < start + 3
    over.set()


# --- logins -----------------------------------------------------------------------------------------------------------


def test_options_of_the_environment_are_refused_behind_a_pooler(pg: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stand in no URL, and a pooler refuses them, or worse, gives them to somebody else."""
    monkeypatch.setenv("PGOPTIONS", "-c statement_timeout=1000")
    with pytest.raises(ConfigError, match="options"), pg.pool(f"{pg.url}&pooled=true").connection():
        pass
    with pg.pool().connection() as conn:
        assert pg.query(conn, "show statement_timeout") == [("1s",)]


@contextmanager
def scripted(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that lets in whoever comes, and then says what it is told to; its connection string."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with suppress(OSError), client:
                        (length,) = struct.unpack("!i", client.recv(4))
                        client.recv(length - 4)
                        client.sendall(b"R" + struct.pack("!ii", 8, 0))
                        talk(client)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"postgresql://app@127.0.0.1:{listener.getsockname()[1]}/orders?sslmode=disable"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_a_login_with_no_end_is_given_up(pg: Database) -> None:
    """Long before it has filled the function's memory."""
    text = b"setting\0" + b"x" * 20_000 + b"\0"
    parameter = b"S" + struct.pack("!i", len(text) + 4) + text

    def flood(client: socket.socket) -> None:
        for _ in range(10_000):  # 200 MB
            client.sendall(parameter)

    with scripted(flood) as url, pytest.raises(LambdaPoolError, match="more than any login could need"):
        with pg.pool(url, connect_timeout=20.0, timeout=20.0).connection():
            pass


@pytest.mark.parametrize("state", [b"T", b"E"])
def test_a_login_into_somebody_elses_transaction_is_none(pg: Database, state: bytes) -> None:
    def ready(client: socket.socket) -> None:
        client.sendall(b"Z" + struct.pack("!i", 5) + state)
        client.recv(100)

    with scripted(ready) as url, pytest.raises(LambdaPoolError, match="the server accepted the login, but is not idle"):
        with pg.pool(url).connection():
            pass


# --- answers ----------------------------------------------------------------------------------------------------------


def test_what_no_question_needs_is_not_read_to_its_end(pgconn: PGconn) -> None:
    with pytest.raises(psycopg.OperationalError, match=MORE):
        ask(pgconn, "select repeat('x', 1000) from generate_series(1, 100000)")


def test_nor_a_hundred_answers_to_one_question(pgconn: PGconn) -> None:
    assert len(ask(pgconn, "select 1;" * 100)) == 100
    with pytest.raises(psycopg.OperationalError, match=MORE):
        ask(pgconn, "select 1;" * 101)


def test_a_server_on_the_same_machine_may_say_as_much_as_it_likes(local: PGconn) -> None:
    """Nobody else can have sent it."""
    [answer] = ask(local, "select repeat('x', 20000000)")
    assert answer.get_value(0, 0) == b"x" * 20_000_000


def test_a_long_question_arrives_whole_whatever_comes_in_meanwhile(pgconn: PGconn, postgres: PostgresServer) -> None:
    """More than the system's buffers hold, in both directions."""
    ask(pgconn, "listen news")
    text = "x" * 7_000
    postgres.execute(f"select count(pg_notify('news', i || '{text}')) from generate_series(1, 1000) i")
    unasked = Unasked()
    unasked.listen(pgconn)
    [answer] = ask(pgconn, f"select length('{'x' * 30_000_000}')", unasked)
    assert answer.get_value(0, 0) == b"30000000"
    assert unasked.notified


def test_notifications_that_nobody_waits_for_are_dropped(pgconn: PGconn) -> None:
    [_, _, answer] = ask(pgconn, "listen news; notify news; select 1")
    assert answer.get_value(0, 0) == b"1"
    [answer] = ask(pgconn, "select 2")
    assert answer.get_value(0, 0) == b"2"


def test_a_handler_that_fails_in_the_borrowers_own_statement_fails_there(pg: Database) -> None:
    def fail(notify: psycopg.Notify) -> None:
        raise ZeroDivisionError

    pool = pg.pool()
    with pytest.raises(CommitUncertain) as caught, pool.connection() as conn:
        conn.execute("listen orders")
        conn.commit()
        conn.add_notify_handler(fail)
        with closing(conn.cursor()) as cursor:
            cursor.execute("notify orders")
            conn.commit()
            cursor.execute("select 1")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)  # in the middle of the answer to COMMIT
    with pool.connection() as conn:
        assert pg.query(conn, "select 1") == [(1,)]
