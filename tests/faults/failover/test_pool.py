"""How a pool finds the new writer, against real servers."""

import threading
import time
from contextlib import nullcontext, suppress
from typing import Any

import psycopg
import pymysql
import pytest

from lambda_pool import CommitUncertain, ConnectError, NotCommitted, Pool
from lambda_pool.endpoints.base import Endpoint, Role
from lambda_pool.events import EndpointRefreshed, Pinged, Reason, Replaced
from tests.support.core import entries
from tests.support.recorder import Recorder

from .conftest import DRIVER_ERRORS, FATES, Pair


class Switch:
    """Keeps its answer until it is told that it failed, like the cached endpoints of RDS."""

    has_reader = False

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.switched = False
        self._known: Endpoint | None = None

    def resolve(self, role: Role, timeout: float) -> Endpoint:
        if self._known is None:
            server = self._pair.new if self.switched else self._pair.old
            self._known = Endpoint("localhost", server.port)
        return self._known

    def failed(self, endpoint: Endpoint) -> None:
        self._known = None

    def forget(self) -> None:
        self._known = None


@pytest.fixture
def switch(pair: Pair) -> Switch:
    return Switch(pair)


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


def pool_of(pair: Pair, switch: Switch, *observers: Any, **options: Any) -> Pool:
    return Pool(pair.url(), endpoint=switch, observers=observers, **options)


def open_all(pair: Pair, pool: Pool, count: int) -> list[int]:
    """Open `count` connections at once, and give all of them back."""
    leases = [pool.connection() for _ in range(count)]
    ports = [pair.insert(lease.__enter__(), 0) for lease in leases]
    for lease in leases:
        lease.__exit__(None, None, None)
    return ports


@pytest.mark.parametrize("hidden", ["raised", "wrapped", "swallowed"])
@pytest.mark.sampled(3, "starts two servers")
def test_one_refused_write_condemns_every_silent_connection(
    pair: Pair, switch: Switch, seen: Recorder, hidden: str
) -> None:
    pool = pool_of(pair, switch, seen, max_size=3)
    assert set(open_all(pair, pool, 3)) == {pair.old.port}
    pair.fail_over("demoted")
    switch.switched = True
    assert all(slot.link.is_silent() for slot in entries(pool))
    seen.events.clear()
    if hidden == "raised":
        with pytest.raises(DRIVER_ERRORS, match=r"(?i)read-only"), pool.connection() as conn:
            pair.insert(conn, 1)
    elif hidden == "wrapped":
        with pytest.raises(RuntimeError, match="sorry"), pool.connection() as conn:
            try:
                pair.insert(conn, 1)
            except DRIVER_ERRORS as error:
                raise RuntimeError("sorry") from error
    else:
        # A handler that answers with status 500 instead of raising.
        unsaved = pytest.raises(NotCommitted) if pair.engine == "postgresql" else nullcontext()
        with unsaved, pool.connection() as conn, suppress(*DRIVER_ERRORS):
            pair.insert(conn, 1)
    assert set(open_all(pair, pool, 3)) == {pair.new.port}
    assert [event.reason for event in seen.of(Replaced)] == [Reason.GENERATION] * 2
    assert seen.of(Pinged) == []
    assert [event.host for event in seen.of(EndpointRefreshed)] == []  # the same host, another port
    pool.close()


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.sampled(3, "starts two servers")
def test_run_replays_across_it(pair: Pair, switch: Switch, fate: str) -> None:
    """A transaction that the failover cuts in the middle is replayed on the new writer, and saved once."""
    pool = pool_of(pair, switch)
    tries = []

    def work(conn: Any) -> int:
        tries.append(conn)
        pair.insert(conn, 1)
        if len(tries) == 1 and fate != "demoted":
            fail_over()
        return pair.insert(conn, 2)

    def fail_over() -> None:
        pair.fail_over(fate)
        switch.switched = True

    open_all(pair, pool, 1)
    if fate == "demoted":  # an open transaction would be allowed to end
        fail_over()
    assert pool.run(work) == pair.new.port
    assert len(tries) == 2
    assert [row for row in pair.rows() if row] == [1, 2]
    pool.close()


@pytest.mark.parametrize("fate", FATES[:2])
@pytest.mark.sampled(1, "starts two servers")
def test_the_next_checkout_reaches_the_new_writer(pair: Pair, switch: Switch, fate: str) -> None:
    pool = pool_of(pair, switch, max_size=3)
    assert set(open_all(pair, pool, 3)) == {pair.old.port}
    pair.fail_over(fate)
    switch.switched = True
    assert set(open_all(pair, pool, 3)) == {pair.new.port}
    pool.close()


@pytest.mark.sampled(1 / 3, "3 s")
def test_a_writer_that_is_late_is_waited_for_where_the_url_asks_for_one(pg_pair: Pair) -> None:
    url = pg_pair.url(port=pg_pair.new.port)
    pool = Pool(f"{url}&target_session_attrs=read-write", observers=(), timeout=20.0)
    with pytest.raises(ConnectError, match=r"hot standby|read-only"), pool.connection(timeout=1.0):
        pass
    late = threading.Timer(0.5, lambda: pg_pair.fail_over("stopped"))
    late.start()
    with pool.connection() as conn:
        assert pg_pair.insert(conn, 1) == pg_pair.new.port
    late.join()
    pool.close()


def test_a_shutdown_that_swallows_the_commit_is_a_failover_too(pg_pair: Pair) -> None:
    """The work is in doubt, and this is reported. But the other connections are as old, and are not kept for it."""
    switch = Switch(pg_pair)
    pg_pair.old.execute(
        "create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(30); return new; end'"
    )
    pg_pair.old.execute(
        "create constraint trigger slow after insert on orders deferrable initially deferred "
        "for each row when (new.id = 7) execute function slow()"
    )
    pool = pool_of(pg_pair, switch, max_size=2)
    open_all(pg_pair, pool, 2)

    def kill() -> None:
        until = time.monotonic() + 20
        found = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'"
        while not pg_pair.old.execute(found):
            assert time.monotonic() < until
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(CommitUncertain), pool.connection() as conn:
        pg_pair.insert(conn, 7)
    killer.join()
    opened = pool.stats().opened
    open_all(pg_pair, pool, 2)
    assert pool.stats().opened == opened + 2
    pool.close()


def test_1836_is_what_an_aurora_reader_says(my_pair: Pair) -> None:
    switch = Switch(my_pair)
    pool = pool_of(my_pair, switch, max_size=2)
    open_all(my_pair, pool, 2)
    switch.switched = True
    with pytest.raises(pymysql.MySQLError, match="1836"), pool.connection() as conn:
        with conn.cursor() as cursor:
            cursor.execute("signal sqlstate 'HY000' set mysql_errno = 1836, message_text = 'Running in read-only mode'")
    assert set(open_all(my_pair, pool, 2)) == {my_pair.new.port}
    pool.close()


def test_another_forbidden_option_is_no_failover(my_pair: Pair) -> None:
    """--secure-file-priv and similar options also cause 1290."""
    pool = pool_of(my_pair, Switch(my_pair))
    text = "The MariaDB server is running with the --secure-file-priv option so it cannot execute this statement"
    with pytest.raises(pymysql.MySQLError, match="1290"), pool.connection() as conn:
        with conn.cursor() as cursor:
            cursor.execute(f"signal sqlstate 'HY000' set mysql_errno = 1290, message_text = '{text}'")
    with pool.connection() as conn:
        my_pair.insert(conn, 1)
    assert pool.stats().opened == 1
    pool.close()


def test_the_words_alone_are_no_failover(pg_pair: Pair) -> None:
    pool = pool_of(pg_pair, Switch(pg_pair))
    with pytest.raises(psycopg.errors.UndefinedTable), pool.connection() as conn:
        conn.execute("select 'read-only transaction' from nowhere")
    with pool.connection():
        pass
    assert pool.stats().opened == 1
    pool.close()
