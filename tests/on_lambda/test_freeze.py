"""Freezes, and what happens to the peer during them: no invocation fails, and the ping keeps its time limit."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from lambda_pool.testing import FaultyProxy, LambdaRuntime
from tests.on_lambda.conftest import Start
from tests.on_lambda.databases import Database
from tests.support.namespace import Namespace

PING_TIMEOUT = 0.4
CONNECT = 2.0  # seconds, with room to spare: what a new connection may take on a busy machine

# `travel` seconds pass for the pool, on both clocks, as they do in a long freeze.
TRAVELLER = """
import os, time
import lambda_pool, lambda_pool.pool, lambda_pool.release

offset = 0.0
for module in (lambda_pool.pool, lambda_pool.release):
    module.time = lambda: time.time() + offset
    module.monotonic = lambda: time.monotonic() + offset
POOL = lambda_pool.Pool(os.environ["URL"], **eval(os.environ["OPTIONS"]))

@POOL.handler
def work(event, context, conn):
    with conn.cursor() as cursor:
        cursor.execute("select 1")
        rows = list(cursor.fetchall())
    stats = POOL.stats()
    backend = conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id()
    return {"rows": rows, "backend": backend, "opened": stats.opened, "pings": stats.pings}

def handler(event, context):
    global offset
    offset += event["travel"]
    return work(event, context)
"""


class Peer:
    """The way to a server, and how it ends while the environment is frozen."""

    def __init__(self, how: str, start: Start, database: Database, namespace: Namespace, stack: ExitStack) -> None:
        self._how = how
        self._database = database
        self._namespace = namespace
        self._arguments: dict[str, Any] = {}
        self._start = start
        database.user("frozen")
        self._url = database.url("frozen")
        if how == "vanishes":
            self._url = database.url("frozen", inside=True)
            self._arguments = {"address": namespace.address, "command_prefix": namespace.prefix}
            stack.callback(namespace.heal)
        elif how == "resets":
            self._proxy = stack.enter_context(FaultyProxy("127.0.0.1", database.server.port))
            self._url = self._url.replace(f":{database.server.port}/", f":{self._proxy.port}/")

    def environment(self, options: dict[str, Any], code: str = TRAVELLER) -> LambdaRuntime:
        return self._start(self._url, options=options, code=code, **self._arguments)

    def end(self, backend: int) -> None:
        if self._how == "vanishes":
            self._namespace.vanish(self._database.port(backend))
        if self._how == "resets":
            self._proxy.reset()
        else:
            self._database.kill(backend)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.mark.sampled(4, "2 s a case")
@pytest.mark.parametrize("seconds", [0, 1, 10])
@pytest.mark.parametrize("how", ["says good-bye", "resets", "vanishes"])
def test_no_invocation_fails(
    start: Start, database: Database, namespace: Namespace, stack: ExitStack, how: str, seconds: int
) -> None:
    options: dict[str, Any] = {"ping_timeout": PING_TIMEOUT}
    if how == "vanishes" and seconds < 5:
        # Silence shows nothing: within `ping_after` of its last use, a connection is trusted.
        options["ping_after"] = 0
    peer = Peer(how, start, database, namespace, stack)
    runtime = peer.environment(options)
    first = runtime.invoke({"travel": 0})
    assert first.error is None, first.error
    runtime.freeze()
    peer.end(first.payload["backend"])
    if seconds == 1:
        time.sleep(seconds)
    runtime.thaw()
    second = runtime.invoke({"travel": seconds if seconds > 1 else 0})
    assert second.error is None, second.error
    assert second.payload["backend"] != first.payload["backend"]
    assert (second.payload["rows"], second.payload["opened"]) == ([[1]], 2)
    took = second.milliseconds / 1000
    if how == "vanishes":
        assert PING_TIMEOUT <= took < PING_TIMEOUT + CONNECT
        assert second.payload["pings"] == 1
    else:
        assert took < CONNECT
    third = runtime.invoke({"travel": 0})
    assert third.payload["backend"] == second.payload["backend"]


@pytest.mark.sampled(1, "a second a case")
def test_a_peer_that_lives_is_pinged_and_kept(start: Start, database: Database) -> None:
    database.user("kept")
    runtime = start(database.url("kept"), code=TRAVELLER)
    backends = set()
    for travel in (0, 1, 10, 50):  # less than `session_idle`
        runtime.invoke({"travel": 0})
        runtime.freeze()
        runtime.thaw()
        answer = runtime.invoke({"travel": travel})
        assert answer.error is None
        backends.add(answer.payload["backend"])
    assert len(backends) == 1
    assert answer.payload["pings"] == 2


REPLAYED = """
import os
import lambda_pool
from lambda_pool.engines.psycopg import arguments
from lambda_pool.engines.pymysql import connection

connection.UNACKNOWLEDGED = arguments.UNACKNOWLEDGED = 1.0
POOL = lambda_pool.Pool(os.environ["URL"], autocommit=True)

def work(conn):
    with conn.cursor() as cursor:
        cursor.execute("select 1")
        cursor.fetchall()
    return conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id()

@POOL.handler
def handler(event, context):
    return POOL.run(work)
"""


@pytest.mark.sampled(1, "2 s a case")
def test_a_peer_that_vanishes_within_ping_after_is_given_up(
    start: Start, database: Database, namespace: Namespace, stack: ExitStack
) -> None:
    """No check without a round trip can notice it. The handler's data is not acknowledged, and `run` starts again."""
    peer = Peer("vanishes", start, database, namespace, stack)
    runtime = peer.environment({}, code=REPLAYED)
    first = runtime.invoke()
    assert first.error is None, first.error
    runtime.freeze()
    peer.end(first.payload)
    runtime.thaw()
    second = runtime.invoke()
    assert second.error is None, second.error
    assert second.payload != first.payload
    assert 1.0 <= second.milliseconds / 1000 < 1.0 + CONNECT
