"""Everything that a handler leaves behind is cleaned up before the environment freezes, on the genuine runtime."""

import re

import pytest

from lambda_pool.testing import Invocation
from tests.on_lambda.conftest import Start
from tests.on_lambda.databases import Database, until

LEAKING = """
import os, threading, time
import lambda_pool

POOL = lambda_pool.Pool(os.environ["URL"], max_size=2)
kept = []
go_on, gone_on = threading.Event(), threading.Event()

def run(conn, sql):
    with conn.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []

def backend(conn):
    number = conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id()
    print("backend", number, flush=True)
    return number

def leak():
    lease = POOL.connection()
    conn = lease.__enter__()  # the borrower's line
    kept.append(lease)
    run(conn, "insert into leaks values (1)")
    return backend(conn)

def hold():
    try:
        with POOL.connection() as conn:  # the thread's line
            kept.append(backend(conn))
            run(conn, "insert into leaks values (2)")
            ready.set()
            if sleeper:
                run(conn, sleeper)
            go_on.wait(30)
            run(conn, "insert into leaks values (3)")
    except Exception as error:
        kept.append(type(error).__name__)
    finally:
        gone_on.set()

@POOL.handler
def handler(event, context):
    global ready, sleeper
    what = (event or {}).get("what")
    if what == "leak":
        return leak()
    if what == "thread":
        ready, sleeper = threading.Event(), event.get("then")
        threading.Thread(target=hold, daemon=True).start()
        ready.wait(10)
        if sleeper:
            time.sleep(0.3)  # until it runs
        return kept[-1]
    if what == "go on":
        go_on.set()
        gone_on.wait(10)
        return kept[-1]
    with POOL.connection() as conn:
        stats = POOL.stats()
        return {"backend": backend(conn), "leaked": stats.leaked, "size": stats.size, "in_use": stats.in_use}
"""


@pytest.fixture
def leaks(database: Database) -> None:
    database.user("leaky")
    database.execute("drop table if exists leaks")
    database.execute("create table leaks (id int)")


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(LEAKING.splitlines(), 1) if text in line)


def left_open(answer: Invocation) -> int:
    """The backend of an invocation that left its transaction open, which is not a success."""
    assert answer.error is not None, answer.payload
    assert "ended normally with a transaction still open" in answer.error["errorMessage"]
    return int(re.findall(r"^backend (\d+)$", answer.log, re.MULTILINE)[-1])


@pytest.mark.sampled(1, "a second a case")
def test_a_leaked_transaction_is_rolled_back_and_told_where_it_was_borrowed(
    start: Start, database: Database, leaks: None
) -> None:
    runtime = start(database.url("leaky"), code=LEAKING)
    leaked = runtime.invoke({"what": "leak"})
    lost = left_open(leaked)
    # This is before the freeze: nothing of it is open on the server.
    runtime.freeze()
    until(lambda: lost not in database.sessions("leaky"), 5)
    assert database.execute("select * from leaks") == []
    runtime.thaw()
    warning = re.search(r"\[WARNING\].*a connection was held for .*", leaked.log)
    assert warning is not None
    assert f"function.py:{line_of('the borrower')} in leak" in warning[0]
    after = runtime.invoke()
    assert after.payload["backend"] != lost
    assert (after.payload["leaked"], after.payload["size"], after.payload["in_use"]) == (1, 1, 1)


@pytest.mark.sampled(1, "a second a case")
def test_a_thread_that_goes_on_is_told_and_its_connection_never_lent_again(
    start: Start, database: Database, leaks: None
) -> None:
    runtime = start(database.url("leaky"), code=LEAKING)
    held = runtime.invoke({"what": "thread"})
    lost = left_open(held)
    runtime.freeze()
    until(lambda: lost not in database.sessions("leaky"), 5)
    runtime.thaw()
    warning = re.search(r"\[WARNING\].*a connection was held for .*", held.log)
    assert warning is not None
    assert f"function.py:{line_of('the thread')} in hold" in warning[0]
    # The thread wakes up in a later invocation, and finds its connection gone.
    woken = runtime.invoke({"what": "go on"})
    assert woken.payload in {"OperationalError", "InterfaceError"}
    seen = {runtime.invoke().payload["backend"] for _ in range(3)}
    assert lost not in seen
    assert len(seen) == 1
    assert database.execute("select * from leaks") == []
    assert runtime.invoke().payload["leaked"] == 1


@pytest.mark.sampled(1, "a second a case")
def test_a_threads_statement_ends_with_the_invocation_too(start: Start, database: Database, leaks: None) -> None:
    """Its locks would be held for as long as it runs: a server at work does not notice that its client has gone."""
    runtime = start(database.url("leaky"), code=LEAKING)
    held = runtime.invoke({"what": "thread", "then": database.sleeper})
    lost = left_open(held)
    runtime.freeze()
    until(lambda: lost not in database.sessions("leaky"), 5)
    assert database.execute("select * from leaks") == []
    runtime.thaw()
    assert runtime.invoke({"what": "go on"}).payload in {"OperationalError", "QueryCanceled", "DeadlineExceeded"}
