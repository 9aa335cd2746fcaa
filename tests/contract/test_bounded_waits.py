"""No wait outlasts its bound: a name that is looked up, cancels, a connection that another thread still uses."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg import pq
from pymysql.cursors import SSCursor

import lambda_pool
from lambda_pool import lifecycle, reclaim
from lambda_pool.api import core_of
from lambda_pool.core.entry import State
from lambda_pool.engines.base import Status
from lambda_pool.lifecycle import watch
from tests.contract.conftest import Database
from tests.support.core import entries

Resolve = Callable[[Callable[..., Any]], None]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """resolve(by): look names up in that way."""
    return lambda by: monkeypatch.setattr(socket, "getaddrinfo", by)


@pytest.fixture
def slow_names(resolve: Resolve) -> Iterator[None]:
    """A resolver that answers nobody while the test runs."""
    over = threading.Event()
    resolve(lambda *_, **__: over.wait(20) and [])
    yield
    over.set()


def test_a_name_that_nobody_looks_up_in_time(database: Database, slow_names: None) -> None:
    pool = database.pool(timeout=0.3, connect_timeout=0.3)
    began = time.monotonic()
    with pytest.raises(lambda_pool.ConnectError, match="could not connect to localhost"):
        pool.connection().__enter__()
    assert time.monotonic() - began < 5
    assert pool.stats().size == 0


@pytest.mark.sampled(1, "waits for a time-out")
def test_signals_are_handled_while_a_name_is_looked_up(database: Database, slow_names: None) -> None:
    """As the alarm before the deadline, and the one with which Lambda ends the environment."""
    pool = database.pool(timeout=2.0, connect_timeout=2.0)
    began = time.monotonic()
    handled: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: handled.append(time.monotonic() - began))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(lambda_pool.ConnectError):
            pool.connection().__enter__()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    [after] = handled
    assert after < 1.9


@pytest.mark.parametrize(
    "said",
    [(socket.EAI_AGAIN, "Temporary failure in name resolution"), (socket.EAI_NONAME, "Name or service not known")],
    ids=["not now", "never"],
)
def test_a_name_that_cannot_be_looked_up_is_looked_up_once(
    pg: Database, resolve: Resolve, monkeypatch: pytest.MonkeyPatch, said: tuple[int, str]
) -> None:
    """Libpq would do it again: without a bound, and while every thread of the process stands still."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(*said)

    def start(*_: Any) -> Any:
        raise AssertionError("libpq was called")

    monkeypatch.setattr(pq, "PGconn", SimpleNamespace(connect_start=start))
    resolve(refuse)
    with pytest.raises(lambda_pool.ConnectError, match=said[1]):
        pg.pool(timeout=0.2).connection().__enter__()


def test_the_server_that_is_asked_to_end_a_statement_is_found_by_its_address(my: Database, resolve: Resolve) -> None:
    """The name may lead to another server by now, where the number is somebody else's; or to none, for a while."""
    pool = my.pool()
    genuine, asked = socket.getaddrinfo, []

    def look_up(host: Any, *rest: Any, **named: Any) -> Any:
        asked.append(host)
        return genuine("127.0.0.9" if host == "localhost" else host, *rest, **named)

    with pytest.raises(lambda_pool.NotCommitted), pool.connection() as conn:
        resolve(look_up)
        entry = entries(pool)[0]
        threading.Timer(0.2, reclaim.cancel, (core_of(pool), entry, entry.link, 5.0)).start()
        began = time.monotonic()
        with pytest.raises(lambda_pool.DeadlineExceeded):
            my.query(conn, "select sleep(20)")
        assert time.monotonic() - began < 10
    assert "localhost" not in asked


@pytest.mark.parametrize("of", ["requests", "an invocation"])
def test_many_cancels_that_nobody_answers_end_in_time(monkeypatch: pytest.MonkeyPatch, of: str) -> None:
    """They are asked one after the other, so that those before must not use up the time of those behind."""
    began = time.monotonic()
    ended: list[float] = []

    def link() -> Any:
        ends: list[float] = []

        def abort(*, cancelled: bool) -> None:
            if not ends:
                ended.append(time.monotonic() - began)
            ends.append(time.monotonic())

        def cancel(within: float, aside: object) -> bool:
            return threading.Event().wait(within)

        return SimpleNamespace(status=lambda: Status.BUSY, cancel=cancel, abort=abort)

    lent = [SimpleNamespace(state=State.LENT, link=link(), cancel_mono=-1.0, borrowed_mono=0.0) for _ in range(10)]
    for each in lent:
        each.endpoint = SimpleNamespace(proxy=False)
    pool: Any = SimpleNamespace(
        config=SimpleNamespace(cancel_before_deadline=0.6),
        state=SimpleNamespace(entries=lent),
        lock=threading.RLock(),
        awaited=False,
    )
    if of == "an invocation":
        reclaim.cancel_running(pool, began + 0.2)
    else:
        monkeypatch.setattr(lifecycle, "pools", lambda: [pool])
        began = time.monotonic()
        stops = [watch.watch(1.0, 0.6, lambda entry, mine=each: entry is mine) for each in lent]  # type: ignore[misc]
        while len(ended) < len(lent):
            assert time.monotonic() < began + 10
            time.sleep(0.01)
        for stop in stops:
            stop()
    assert len(ended) == len(lent)
    assert max(ended) < 1.0  # each with its own third of the time, the last one would end after 2 s


def test_where_no_thread_can_be_started_the_next_request_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = threading.Event()
    genuine = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def look() -> list[Any]:
        seen.set()
        return []

    monkeypatch.setattr(lifecycle, "pools", look)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    watch.watch(1.0, 0.9, lambda entry: True)()
    monkeypatch.setattr(threading.Thread, "start", genuine)
    stop = watch.watch(1.0, 0.9, lambda entry: True)
    assert seen.wait(5)
    stop()


def test_connections_of_an_event_loop_are_not_cancelled_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """They look at the clock themselves, and what is cancelled twice is not kept."""
    looked: list[Any] = []
    config = SimpleNamespace(cancel_before_deadline=0.5)
    pools = [SimpleNamespace(config=config, awaited=awaited) for awaited in (True, False)]
    monkeypatch.setattr(lifecycle, "pools", lambda: pools)
    monkeypatch.setattr(watch, "cancel_running_of", lambda pool, until, concerned: looked.append(pool))
    watch._Watched(time.monotonic() + 0.4, 0.5, lambda entry: True).look()
    assert looked == pools[1:]


@contextmanager
def used_elsewhere(database: Database, conn: Any) -> Iterator[None]:
    """A thread that a handler left behind waits on its connection, which is given back in this block."""
    began = threading.Event()
    over = threading.Event()

    def listen() -> None:
        with conn.cursor() as cursor:
            cursor.execute("listen nothing")
        conn.commit()
        began.set()
        try:
            for _ in conn.notifies(timeout=20):
                pass
        except Exception:
            over.set()

    def read() -> None:
        cursor = conn.cursor(SSCursor)
        cursor.execute("select repeat('x', 100000) union all select sleep(20)")
        began.set()
        try:
            cursor.fetchall()
        except Exception:
            over.set()

    thread = threading.Thread(target=listen if database.engine == "postgresql" else read)
    thread.start()
    assert began.wait(10)
    time.sleep(0.2)
    yield
    thread.join(30)
    assert over.is_set()


def test_one_that_a_left_thread_waits_on_is_replaced_in_time(database: Database) -> None:
    pool = database.pool(autocommit=True, ping_after=0, ping_timeout=0.3, timeout=5.0)
    context = pool.connection()
    conn = context.__enter__()
    with used_elsewhere(database, conn):
        entry = entries(pool)[0]
        core_of(pool).give_back(entry)
        began = time.monotonic()
        with pool.connection() as other:
            assert other is not conn
            assert database.query(other, "select 42") == [(42,)]
        assert time.monotonic() - began < 5
