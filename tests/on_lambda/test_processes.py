"""More than one process: Managed Instances' workers, and `multiprocessing` inside a handler."""

import signal
import textwrap
from pathlib import Path

import pytest

from lambda_pool.testing.processes import is_alive, send
from tests.on_lambda.conftest import Start
from tests.on_lambda.databases import Database, until
from tests.support.runtime_api import Runtime, RuntimeApi

WORKER = """
    import os, time
    import lambda_pool

    POOL = lambda_pool.Pool(os.environ["URL"], **eval(os.environ["OPTIONS"]))
    if os.environ["WARM"]:
        POOL.warm()

    @POOL.handler
    def handler(event, context, conn):
        time.sleep(event["sleep"])
        with conn.cursor() as cursor:
            cursor.execute("select 1")
            cursor.fetchall()
        stats = POOL.stats()
        return {
            "pid": os.getpid(),
            "backend": conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id(),
            "socket": os.readlink(f"/proc/self/fd/{conn.fileno() if hasattr(conn, 'info') else conn._sock.fileno()}"),
            "opened": stats.opened,
            "reused": stats.reused,
            "size": stats.size,
        }
"""


@pytest.mark.sampled(1 / 2, "four processes on one runtime")
@pytest.mark.parametrize("warm", [True, False])
def test_four_workers_four_backends(tmp_path: Path, database: Database, any_python: str, warm: bool) -> None:
    """The runtime forks its workers before any of them imports the handler."""
    database.user("worker")
    (tmp_path / "function.py").write_text(textwrap.dedent(WORKER))
    env = {
        "AWS_LAMBDA_INITIALIZATION_TYPE": "lambda-managed-instances",
        "AWS_LAMBDA_MAX_CONCURRENCY": "4",
        "URL": database.url("worker"),
        "OPTIONS": "{}",
        "WARM": "1" if warm else "",
    }
    with RuntimeApi() as api, Runtime(api, tmp_path, env=env, python=any_python) as runtime:
        until(lambda: api.requests.count("GET /2018-06-01/runtime/invocation/next") == 4, 20)
        assert len(database.sessions("worker")) == (4 if warm else 0)
        first = api.invoke(*[{"sleep": 0.5}] * 4)
        for what in ("pid", "backend", "socket"):
            assert len({found[what] for found in first}) == 4, what
        assert {found["pid"] for found in first} == set(runtime.pids[1:])
        assert database.sessions("worker") == {found["backend"] for found in first}
        for _ in range(5):
            again = api.invoke(*[{"sleep": 0.2}] * 4)
            assert {found["backend"] for found in again} == {found["backend"] for found in first}
        for found in again:
            # Counted by each worker for itself.
            assert (found["opened"], found["reused"], found["size"]) == (1, 5 + warm, 1)
        assert "POST /2020-01-01/extension/register" not in api.requests
        # One worker's end is its own.
        gone = first[0]
        send([gone["pid"]], signal.SIGTERM)
        until(lambda: gone["backend"] not in database.sessions("worker"), 5)
        until(lambda: not is_alive(gone["pid"]), 5)  # otherwise it would be asked for another answer
        rest = api.invoke(*[{"sleep": 0.5}] * 3)
        assert {found["backend"] for found in rest} == {found["backend"] for found in first[1:]}
        assert "Traceback" not in runtime.log


PARENT = """
import multiprocessing, os, time
import lambda_pool

POOL = lambda_pool.Pool(os.environ["URL"], max_size=2)

def run(conn, sql):
    with conn.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []

def backend(conn):
    return conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id()

def child(pipe, ending):
    with POOL.connection() as conn:
        run(conn, "insert into forked values (2)")
        found = backend(conn)
    pipe.send((found, POOL.stats().size))
    if ending == "terminated":
        for _ in range(600):
            time.sleep(0.1)  # a signal just before a sleep does not shorten it

@POOL.handler
def handler(event, context, conn):
    if not event:
        return {"backend": backend(conn), "rows": sorted(run(conn, "select id from forked"))}
    with POOL.connection():
        pass  # one more, idle while the others are born
    run(conn, "insert into forked values (1)")
    start = multiprocessing.get_context(event["method"])
    children = []
    for _ in range(3):
        ours, theirs = start.Pipe()
        process = start.Process(target=child, args=(theirs, event["ending"]))
        process.start()
        theirs.close()
        children.append((process, ours))
    found = []
    for process, pipe in children:
        found.append(pipe.recv())
        if event["ending"] == "terminated":
            process.terminate()
        process.join(20)
        found[-1] += (process.exitcode,)
    run(conn, "insert into forked values (3)")
    stats = POOL.stats()
    return {"backend": backend(conn), "children": found, "opened": stats.opened, "size": stats.size}
"""


@pytest.mark.sampled(2, "a second a case")
@pytest.mark.parametrize(
    ("method", "ending"),
    [("fork", "by itself"), ("fork", "terminated"), ("spawn", "by itself"), ("forkserver", "by itself")],
)
def test_multiprocessing_in_a_handler(
    start: Start, database: Database, any_python: str, method: str, ending: str
) -> None:
    database.user("forked")
    database.execute("drop table if exists forked")
    database.execute("create table forked (id int)")
    runtime = start(database.url("forked"), code=PARENT, python=any_python)
    before = runtime.invoke()
    answer = runtime.invoke({"method": method, "ending": ending}, timeout=60)
    assert answer.error is None, answer.error
    children = answer.payload["children"]
    ours = {answer.payload["backend"], before.payload["backend"]}
    assert len(ours) == 1
    assert (answer.payload["opened"], answer.payload["size"]) == (2, 2)
    assert len({backend for backend, _, _ in children} | ours) == 4
    assert {(size, code) for _, size, code in children} == {(1, -15 if ending == "terminated" else 0)}
    assert "refused to register" not in answer.log
    until(lambda: len(database.sessions("forked")) == 2, 5)
    after = runtime.invoke()
    assert after.payload == {"backend": before.payload["backend"], "rows": [[1], [2], [2], [2], [3]]}
    ended = runtime.shutdown()
    assert not ended.timed_out
    until(lambda: not database.sessions("forked"), 5)
