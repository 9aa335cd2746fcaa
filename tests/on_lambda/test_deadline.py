"""The invocation's deadline, on the genuine runtime: it limits every wait and, on request, every statement."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from lambda_pool.testing import FaultyProxy
from tests.on_lambda.conftest import Start
from tests.on_lambda.databases import PASSWORD, Database, until
from tests.support.pgbouncer import PgBouncer

TIMEOUT = 4  # also of Init, in the emulator
BEFORE = 1.5  # seconds, of which a third is for the cancel, which a busy machine does not use up by chance

STATEMENT = """
import os
from concurrent.futures import ThreadPoolExecutor
import lambda_pool

POOL = lambda_pool.Pool(os.environ["URL"], **eval(os.environ["OPTIONS"]))

def rows(conn, sql):
    with conn.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())

def in_thread(sql):
    with POOL.connection() as conn:
        return rows(conn, sql)

@POOL.handler
def injected(event, context, conn):
    return rows(conn, event["sql"])

@POOL.handler
def threaded(event, context):
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(in_thread, event["sql"]).result()

def handler(event, context):
    work = threaded if event["where"] == "thread" else injected
    left = context.get_remaining_time_in_millis
    try:
        found = work(event, context)
    except lambda_pool.DeadlineExceeded as error:
        return {"caught": str(error), "left": left() / 1000, "size": POOL.stats().size}
    return {"rows": found, "opened": POOL.stats().opened, "size": POOL.stats().size}
"""


@dataclass
class Way:
    """A server and the URL that leads there."""

    database: Database
    url: str


@pytest.fixture(params=["postgresql", "mysql", "genuine_mysql", "pgbouncer"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    if request.param == "genuine_mysql":
        database: Database = request.getfixturevalue("genuine_database")
    else:
        databases = request.getfixturevalue("databases")
        database = databases["mysql" if request.param == "mysql" else "postgresql"]
    database.user("hurried")
    if request.param != "pgbouncer":
        yield Way(database, database.url("hurried"))
        return
    with PgBouncer(database.server, {"hurried": PASSWORD}) as pooler:
        yield Way(database, pooler.url("hurried"))


@pytest.mark.parametrize("where", ["handler", "thread"])
@pytest.mark.sampled(1 / 2, "waits for a deadline")
def test_a_statement_ends_before_the_deadline(start: Start, way: Way, where: str) -> None:
    options = {"cancel_before_deadline": BEFORE}
    runtime = start(way.url, timeout=TIMEOUT, options=options, code=STATEMENT)
    assert runtime.invoke({"sql": "select 1", "where": where}).payload["opened"] == 1
    began = time.monotonic()
    answer = runtime.invoke({"sql": way.database.sleeper, "where": where})
    took = time.monotonic() - began
    assert answer.error is None, answer.error
    assert "cancel_before_deadline" in answer.payload["caught"]
    assert 0 < answer.payload["left"] <= BEFORE
    assert took < TIMEOUT
    assert way.database.running(way.database.sleeper) == 0
    # The next one works, on the same connection, and for longer than the time that was left.
    pause = way.database.sleeper.replace("60", "0.8")
    again = runtime.invoke({"sql": pause, "where": where})
    assert again.error is None
    assert (len(again.payload["rows"]), again.payload["opened"], again.payload["size"]) == (1, 1, 1)


@pytest.mark.sampled(1 / 2, "4 s a case")
def test_the_alarm_ends_with_its_invocation(start: Start, database: Database) -> None:
    """No later statement is hit, and no signal comes while nothing runs: it would end the process."""
    database.user("alarmed")
    options = {"cancel_before_deadline": TIMEOUT - 1.0}
    runtime = start(database.url("alarmed"), timeout=TIMEOUT, options=options, code=STATEMENT)
    quick = {"sql": "select 1", "where": "handler"}
    # The alarm of the first one, which pays for Init, may ring.
    until(lambda: "rows" in runtime.invoke(quick).payload, 30)
    opened, pid = runtime.invoke(quick).payload["opened"], runtime.pid
    for _ in range(8):
        answer = runtime.invoke({"sql": database.sleeper.replace("60", "0.2"), "where": "handler"})
        assert answer.error is None
        assert "rows" in answer.payload, answer.payload
    time.sleep(1.1)
    assert runtime.invoke(quick).payload["opened"] == opened
    assert runtime.pid == pid


PROXIED = STATEMENT.replace(
    'POOL = lambda_pool.Pool(os.environ["URL"],',
    """
from lambda_pool.endpoints.base import Endpoint

class Proxied:
    has_reader = False
    def resolve(self, role, timeout):
        return Endpoint("localhost", proxy=True)
    def failed(self, endpoint): ...
    def forget(self): ...

POOL = lambda_pool.Pool(os.environ["URL"], endpoint=Proxied(),""",
)


@pytest.mark.parametrize("where", ["handler", "thread"])
@pytest.mark.sampled(1 / 2, "waits for a deadline")
def test_behind_a_proxy_that_passes_no_cancel_on_the_connection_is_dropped(
    start: Start, database: Database, where: str
) -> None:
    database.user("proxied")
    code = PROXIED.replace('Endpoint("localhost",', f'Endpoint("localhost", {database.server.port},')
    options = {"cancel_before_deadline": BEFORE}
    runtime = start(database.url("proxied"), timeout=TIMEOUT, options=options, code=code)
    answer = runtime.invoke({"sql": database.sleeper, "where": where})
    assert answer.error is None, answer.error
    assert "cancel_before_deadline" in answer.payload["caught"]
    assert 0 < answer.payload["left"] <= BEFORE
    assert answer.payload["size"] == 0
    assert runtime.invoke({"sql": "select 1", "where": where}).payload["opened"] == 2
    # A proxy ends the statement. Without one PostgreSQL notices the lost client only when the statement ends.
    for backend in database.sessions("proxied"):
        database.kill(backend)


WAITING = """
import os, threading
from concurrent.futures import ThreadPoolExecutor
import lambda_pool

patient = dict(cancel_before_deadline=0.5, timeout=60, connect_timeout=60, ping_timeout=60, ping_after=0, max_size=1)
POOL = lambda_pool.Pool(os.environ["URL"], **patient)
hold, held = threading.Event(), threading.Event()

def holder():
    with POOL.connection():
        held.set()
        hold.wait(60)

def unavailable(event, context, error):
    hold.set()
    return {"caught": type(error).__name__, "left": context.get_remaining_time_in_millis() / 1000}

@POOL.handler(on_unavailable=unavailable)
def work(event, context, conn):
    return {"opened": POOL.stats().opened}

def borrow():
    with POOL.connection():
        return POOL.stats().opened

@POOL.handler
def in_thread(event, context):
    with ThreadPoolExecutor(1) as threads:
        try:
            return {"opened": threads.submit(borrow).result()}
        except lambda_pool.LambdaPoolError as error:
            return unavailable(event, context, error)

def handler(event, context):
    if event.get("hold"):
        threading.Thread(target=holder, daemon=True).start()
        held.wait(5)
    return (in_thread if event.get("thread") else work)(event, context)
"""


@pytest.mark.parametrize("wait", ["queue", "connect", "retry", "ping", "thread"])
@pytest.mark.sampled(2, "waits for a deadline")
def test_every_wait_ends_before_the_deadline(start: Start, database: Database, wait: str) -> None:
    database.user("waiting")
    with FaultyProxy("127.0.0.1", database.server.port) as proxy:
        url = database.url("waiting").replace(f":{database.server.port}/", f":{proxy.port}/")
        runtime = start(url, timeout=TIMEOUT, code=WAITING)
        event: dict[str, Any] = {}
        if wait == "queue":
            event = {"hold": True}
        elif wait == "connect":
            proxy.black_hole()
        elif wait == "retry":
            proxy.refuse()
        elif wait == "thread":
            event = {"thread": True}
            assert runtime.invoke(event).payload == {"opened": 1}
            proxy.black_hole()
        else:
            assert runtime.invoke(event).payload == {"opened": 1}
            proxy.black_hole()
        answer = runtime.invoke(event)
    assert answer.error is None, answer.error
    assert answer.payload["caught"] == "DeadlineExceeded"
    # If the backoff (up to a second) would end after the deadline, the pool does not wait for another attempt.
    assert 0 < answer.payload["left"] < (1.7 if wait == "retry" else 0.6)
