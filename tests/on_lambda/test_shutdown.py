"""The end of an environment, on the genuine runtime: a polite good-bye, and no lock left behind."""

import textwrap
import time
from contextlib import suppress

import pytest

from lambda_pool.testing import PostgresServer
from tests.on_lambda.conftest import FUNCTION, Start
from tests.on_lambda.databases import Database, until

TIMEOUT = 4  # of Init, too, as the emulator has it


@pytest.mark.sampled(1, "a second a case")
def test_a_polite_end_on_every_python(start: Start, database: Database, any_python: str) -> None:
    database.user("polite")
    impolite = database.impolite()
    options = {"max_size": 3, "min_size": 3}
    runtime = start(database.url("polite"), python=any_python, options=options, code=FUNCTION + "\nPOOL.warm()\n")
    assert runtime.invoke().error is None
    assert len(database.sessions("polite")) == 3
    began = time.monotonic()
    ended = runtime.shutdown()
    until(lambda: not database.sessions("polite"), 2)
    assert time.monotonic() - began < 2
    assert not ended.timed_out
    assert "Traceback" not in runtime.log
    time.sleep(0.2)  # MariaDB counts a little later than it forgets a session
    assert database.impolite() == impolite


CHAINED = """
import signal, sys
def mine(number, frame):
    print("my own handler ran", flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, mine)
"""


@pytest.mark.sampled(1, "a second a case")
def test_the_users_own_handler_still_runs(start: Start, database: Database, any_python: str) -> None:
    database.user("chained")
    runtime = start(database.url("chained"), code=CHAINED + FUNCTION, python=any_python)
    assert runtime.invoke().error is None
    ended = runtime.shutdown()
    assert not ended.timed_out
    assert "my own handler ran" in runtime.log
    until(lambda: not database.sessions("chained"), 2)


@pytest.mark.sampled(1, "a second a case")
def test_switched_off_there_is_no_extension(start: Start, database: Database) -> None:
    database.user("without")
    impolite = database.impolite()
    runtime = start(database.url("without"), env={"LAMBDA_POOL_GRACEFUL_SHUTDOWN": "false"})
    assert runtime.invoke().error is None
    assert len(database.sessions("without")) == 1
    runtime.shutdown()
    assert "EXTENSION" not in runtime.log
    until(lambda: database.impolite() == impolite + 1, 5)


def test_what_is_left_of_the_metrics_is_written(start: Start, postgres: PostgresServer) -> None:
    """The first invocation is reported at its end, the second when the interval has passed or the environment ends."""
    runtime = start(postgres.url(), options={"metrics": "emf"})
    for _ in range(2):
        assert runtime.invoke().error is None
    before = runtime.log.count('"CloudWatchMetrics"')
    assert before
    ended = runtime.shutdown()
    assert ended.log.count('"CloudWatchMetrics"') == 1
    assert '"ConnectionsReused":1' in ended.log


LATE = f"""
    import logging
    logging.getLogger("lambda_pool").setLevel("DEBUG")
    code = {FUNCTION!r}
    scope = {{}}
    def handler(event, context):
        if not scope:
            exec(code, scope)
        return scope["handler"](event, context)
"""


def test_where_it_cannot_register_the_function_works_and_says_so_once(start: Start, postgres: PostgresServer) -> None:
    """A package that is imported in an invocation is too late: extensions register during Init."""
    runtime = start(postgres.url(), code=textwrap.dedent(LATE))
    for _ in range(3):
        assert runtime.invoke().error is None
    assert runtime.log.count("import lambda_pool at module scope") == 1


UNDECORATED = {
    "a block": """
        def handler(event, context):
            with POOL.connection() as conn:
                work(conn, event)
    """,
    "run": """
        def handler(event, context):
            POOL.run(lambda conn: work(conn, event))
    """,
    "a pool made after Init": """
        POOL = None

        def handler(event, context):
            global POOL
            POOL = POOL or lambda_pool.Pool(os.environ["URL"])
            with POOL.connection() as conn:
                work(conn, event)
    """,
    "a thread": """
        import threading

        def handler(event, context):
            failed = []

            def borrow():
                try:
                    with POOL.connection() as conn:
                        work(conn, event)
                except BaseException as error:
                    failed.append(error)

            thread = threading.Thread(target=borrow)
            thread.start()
            thread.join()
            if failed:
                raise failed[0]
    """,
}

WORK = """
import os
import lambda_pool

if os.environ.get("EARLY"):
    POOL = lambda_pool.Pool(os.environ["URL"])

def work(conn, event):
    with conn.cursor() as cursor:
        for statement in event:
            cursor.execute(statement)
"""


@pytest.mark.parametrize("way", UNDECORATED)
@pytest.mark.sampled(1 / 2, "waits for a time-out")
def test_a_timeout_ends_what_runs_whoever_borrowed(start: Start, database: Database, way: str) -> None:
    """Even without the decorator, the statement ends on the server, and the next invocation finds no lock."""
    database.user("undecorated")
    database.execute("drop table if exists plain")
    database.execute("create table plain (id int primary key)")
    database.execute("insert into plain values (1)")
    code = WORK + textwrap.dedent(UNDECORATED[way])
    env = {} if way == "a pool made after Init" else {"EARLY": "1"}
    runtime = start(database.url("undecorated"), code=code, timeout=TIMEOUT, env=env)
    update = "update plain set id = id + 1"
    assert runtime.invoke([update]).error is None
    for _ in range(2):
        assert runtime.invoke([update, database.sleeper], timeout=10).error is not None
        with suppress(AssertionError):
            until(lambda: database.running(database.sleeper) == 0, 2)
            break
        # The process has 0.2 s for it. If the machine was busy for that long, the second try shows what it can do.
        for backend in database.sessions("undecorated"):
            database.kill(backend)
    else:
        raise AssertionError("its statement went on, twice")
    assert runtime.invoke([update]).error is None
    assert database.execute("select id from plain") == [(3,)]
    database.execute("drop table plain")


@pytest.mark.parametrize("busy", ["handler", "statement"])
@pytest.mark.sampled(1 / 2, "waits for a time-out")
def test_a_timeout_in_a_transaction_frees_its_locks(start: Start, database: Database, busy: str) -> None:
    """A handler or its statement outlives the timeout and holds row locks: they are gone soon, not after a minute."""
    database.user("locking")
    database.execute("drop table if exists locked")
    database.execute("create table locked (id int primary key)")
    database.execute("insert into locked values (1)")
    runtime = start(database.url("locking"), timeout=TIMEOUT)
    runtime.invoke()
    outlive = {"sleep_after": 60} if busy == "handler" else {"then": database.sleeper}
    began = time.monotonic()
    answer = runtime.invoke({"sql": "update locked set id = 2 where id = 1", **outlive}, timeout=10)
    assert answer.error is not None
    assert time.monotonic() - began >= TIMEOUT - 0.1
    if database.engine == "postgresql":
        database.execute("do $$ begin set local lock_timeout = '5s'; update locked set id = 3; end $$")
    else:
        database.execute("set innodb_lock_wait_timeout = 5")
        database.execute("update locked set id = 3")
        database.execute("set innodb_lock_wait_timeout = default")
    assert database.execute("select id from locked") == [(3,)]
    assert database.running(database.sleeper) == 0


@pytest.mark.sampled(1 / 2, "waits for a time-out")
def test_on_the_runtime_of_python_3_11(start: Start, database: Database) -> None:
    """It waits for events on the main thread, where no Python signal handler can run. A timeout is handled, and the end
    of an idle environment is no worse than without the package."""
    database.user("eleven")
    env = {"AWS_EXECUTION_ENV": "AWS_Lambda_python3.11"}
    runtime = start(database.url("eleven"), timeout=TIMEOUT, env=env)
    assert runtime.invoke().error is None
    assert runtime.invoke({"sql": database.sleeper}, timeout=10).error is not None
    until(lambda: not database.sessions("eleven"), 5)
    assert database.running(database.sleeper) == 0
    assert runtime.invoke().error is None
    assert not runtime.shutdown().timed_out
    until(lambda: not database.sessions("eleven"), 2)
