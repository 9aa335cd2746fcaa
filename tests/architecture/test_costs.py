"""What a warm invocation and a cold start cost, in what can be counted: no clock is read here.

Statements by the servers' own logs, system calls by strace, modules by `sys.modules`, Python calls by the interpreter's
profiler, memory by its own allocator.
"""

import gc
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from lambda_pool import Pool
from lambda_pool.testing import MariaDbServer, PostgresServer
from tests.support.core import entries

Server = PostgresServer | MariaDbServer


class Context:
    """As much of Lambda's context as the pool looks at."""

    aws_request_id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Server:
    """One engine's server, with a log of all statements."""
    found: Server = request.getfixturevalue("postgres" if request.param == "postgresql" else "mariadb")
    return found


# --- round trips ------------------------------------------------------------------------------------------------------

# A line of its log: <time> [<pid>] postgres@postgres LOG:  execute <unnamed>: select 42
_POSTGRES = r"\[{backend}\] \S+ LOG:  (?:statement|execute [^:]*): ?(.*)"
# "<time>\t<id> Query\tselect 42", without the time where the second is the same.
_MARIADB = r"\t\s*{backend} (?:Query|Execute|Ping|Reset connection)\t?(.*)"


def received(server: Server, backend: int, offset: int, last: str) -> list[str]:
    """What a session's client sent since then, up to the statement `last`, which is not part of it."""
    pattern = (_POSTGRES if server.scheme == "postgresql" else _MARIADB).format(backend=backend)
    until = time.monotonic() + 10
    while True:
        found = re.findall(pattern, server.log[offset:])
        if last in found:
            return found[: found.index(last)]
        assert time.monotonic() < until, "the statement that marks the end is not in the log"
        time.sleep(0.01)


def sent(server: Server, work: Callable[[Any], object], *, autocommit: bool) -> Counter[str]:
    """The statements of 20 warm invocations together."""
    pool = Pool(server.url(), autocommit=autocommit, metrics="emf")
    backends: list[int] = []

    @pool.handler
    def handler(event: object, context: object, conn: Any) -> None:
        backends.append(entries(pool)[0].link.backend_id)
        work(conn.cursor())

    context = Context()
    for _ in range(8):  # psycopg prepares a statement when it runs for the sixth time
        handler({}, context)
    offset = len(server.log)
    for _ in range(20):
        handler({}, context)
    with pool.connection() as conn:
        conn.cursor().execute("select 'the end'")
    assert len(set(backends)) == 1
    begin = {"BEGIN"} if server.scheme == "postgresql" and not autocommit else set()
    found = received(server, backends[0], offset, "select 'the end'")
    pool.close()
    # The transaction in which the end is marked.
    return Counter(found[:-1] if begin else found)


def select(cursor: Any) -> None:
    cursor.execute("select 42")
    assert cursor.fetchone() == (42,)


def test_a_handler_without_a_statement_sends_nothing(server: Server) -> None:
    assert sent(server, lambda cursor: None, autocommit=False) == Counter()


def test_one_statement_with_autocommit_is_one_on_the_wire(server: Server) -> None:
    assert sent(server, select, autocommit=True) == {"select 42": 20}


def test_a_transaction_is_its_statements_and_what_ends_it(server: Server) -> None:
    server.execute("create table if not exists counted (number int)")
    found = sent(server, lambda cursor: cursor.execute("delete from counted"), autocommit=False)
    begin = {"BEGIN": 20} if server.scheme == "postgresql" else {}
    assert found == {"delete from counted": 20, "COMMIT": 20, **begin}


# --- imports ----------------------------------------------------------------------------------------------------------

OURS = {
    "lambda_pool",
    "lambda_pool.age",
    "lambda_pool.api",
    "lambda_pool.auth",
    "lambda_pool.auth.base",
    "lambda_pool.auth.iam",
    "lambda_pool.auth.signature",
    "lambda_pool.aws",
    "lambda_pool.aws.environment",
    "lambda_pool.aws.hosts",
    "lambda_pool.aws.identity",
    "lambda_pool.aws.sdk",
    "lambda_pool.backoff",
    "lambda_pool.borrower",
    "lambda_pool.certs",
    "lambda_pool.config",
    "lambda_pool.config.addresses",
    "lambda_pool.config.environment",
    "lambda_pool.config.options",
    "lambda_pool.config.parts",
    "lambda_pool.config.platform",
    "lambda_pool.config.synonyms",
    "lambda_pool.config.url",
    "lambda_pool.config.values",
    "lambda_pool.connector",
    "lambda_pool.crowding",
    "lambda_pool.decorator",
    "lambda_pool.endpoints",
    "lambda_pool.endpoints.base",
    "lambda_pool.engines",
    "lambda_pool.engines.arguments",
    "lambda_pool.engines.base",
    "lambda_pool.engines.slow",
    "lambda_pool.engines.bounded_socket",
    "lambda_pool.errors",
    "lambda_pool.events",
    "lambda_pool.finished",
    "lambda_pool.injection",
    "lambda_pool.invocation",
    "lambda_pool.lifecycle",
    "lambda_pool.core",
    "lambda_pool.core.dispatch",
    "lambda_pool.core.entry",
    "lambda_pool.core.policy",
    "lambda_pool.core.state",
    "lambda_pool.pool",
    "lambda_pool.pooled_context",
    "lambda_pool.reclaim",
    "lambda_pool.release",
    "lambda_pool.request",
    "lambda_pool.replay",
    "lambda_pool.warming",
    "lambda_pool.unavailable",
    "lambda_pool.waiting",
    "lambda_pool.record",
    "lambda_pool.secret",
    "lambda_pool.signature",
    "lambda_pool.sources",
    "lambda_pool.tls",
}
OF_ENGINE = {
    "postgresql": {
        "lambda_pool.engines.psycopg",
        "lambda_pool.engines.psycopg.arguments",
        "lambda_pool.engines.psycopg.connection",
        "lambda_pool.engines.psycopg.cursors",
        "lambda_pool.engines.psycopg.engine",
        "lambda_pool.engines.psycopg.errors",
        "lambda_pool.engines.psycopg.fitness",
        "lambda_pool.engines.psycopg.libpq",
        "lambda_pool.engines.psycopg.engine_connection",
        "lambda_pool.engines.psycopg.notes",
        "lambda_pool.engines.psycopg.occupancy",
        "lambda_pool.engines.psycopg.overridden",
        "lambda_pool.engines.psycopg.shared",
        "lambda_pool.engines.psycopg.statements",
        "lambda_pool.engines.psycopg.timer",
    },
    "mysql": {
        "lambda_pool.engines.pymysql",
        "lambda_pool.engines.pymysql.arguments",
        "lambda_pool.engines.pymysql.baseline",
        "lambda_pool.engines.pymysql.commands",
        "lambda_pool.engines.pymysql.connecting",
        "lambda_pool.engines.pymysql.connection",
        "lambda_pool.engines.pymysql.cursors",
        "lambda_pool.engines.pymysql.engine",
        "lambda_pool.engines.pymysql.errors",
        "lambda_pool.engines.pymysql.killing",
        "lambda_pool.engines.pymysql.engine_connection",
        "lambda_pool.engines.pymysql.noted",
        "lambda_pool.engines.pymysql.occupancy",
        "lambda_pool.engines.pymysql.private",
        "lambda_pool.engines.pymysql.statements",
        "lambda_pool.engines.pymysql.wire",
    },
}
BARE = {
    "postgresql": "import os, psycopg; psycopg.connect(os.environ['URL'])",
    "mysql": "import ssl, pymysql; ssl.create_default_context(); 'localhost'.encode('idna')",
}
COLD = """
import os
from lambda_pool import IamToken, Pool
pool = Pool(os.environ["URL"])
IamToken().token("orders.example", 5432, "app")

@pool.handler
def handler(event, context, conn):
    conn.cursor().execute("select 42")

handler({}, None)
"""
# Modules of the standard library that a bare driver does not load: for signing a token, logging, and reading a URL.
BESIDE_THE_DRIVER = {
    "_blake2",
    "_contextvars",
    "_hashlib",
    "_string",
    "atexit",
    "contextvars",
    "hashlib",
    "hmac",
    "ipaddress",
    "logging",
    "string",
    "threading",
    "urllib",
    "urllib.parse",
}


def modules_after(code: str, url: str) -> set[str]:
    """The modules of a new process that has run `code`."""
    script = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    environment = {"PATH": os.environ["PATH"], "AWS_REGION": "eu-central-1", "URL": url}
    environment |= {"AWS_ACCESS_KEY_ID": "ASIAEXAMPLEKEY000001", "AWS_SECRET_ACCESS_KEY": "secret"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


def test_a_cold_start_loads_these_modules(server: Server) -> None:
    """From the import to the first row, over verified TLS, with a token signed on the way."""
    found = modules_after(COLD, server.url())
    ours = {name for name in found if name.partition(".")[0] == "lambda_pool"}
    assert ours == OURS | OF_ENGINE[server.scheme]
    assert found - ours - modules_after(BARE[server.scheme], server.url()) <= BESIDE_THE_DRIVER


# --- work and memory --------------------------------------------------------------------------------------------------


def python_calls(work: Callable[[], object]) -> Counter[str]:
    """The Python functions that are called, by name."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            found[frame.f_code.co_qualname] += 1

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def warm_pool(server: Server) -> Pool:
    """A pool with one connection that has been used."""
    pool = Pool(server.url(), metrics="off")
    for _ in range(3):
        with pool.connection():
            pass
    return pool


def test_a_warm_checkout_calls_few_functions(server: Server) -> None:
    pool = warm_pool(server)

    def borrow() -> None:
        with pool.connection():
            pass

    found = python_calls(borrow)
    pool.close()
    assert found.total() <= 48, found
    assert not [name for name in found if name.startswith("Weak")], "weak collections are written in Python"


OF_A_STATEMENT = {
    "postgresql": {
        *("Shared.cursor", "Shared.cursor_factory", "Shared.adapters", "Shared.note", "Shared._about_to_wait"),
        *("Tracked.execute", "PooledConnection.wait"),
    },
    "mysql": {
        *(f"BoundedConnection.{name}" for name in ("cursor", "cursor_type", "query", "ask_if_undone")),
        *("CommandedConnection._commanded", "CommandedConnection._status_before", "CommandedConnection.settle_stream"),
        *("CommandedConnection._note_answer", "CommandedConnection._note_rows", "ConnectingConnection.tracked"),
    },
}


def test_a_statement_without_traces_calls_nothing_for_them(server: Server) -> None:
    """Of ours only what notes what was said and waits for the answer, each once."""
    pool = warm_pool(server)
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("select 42")
        found = python_calls(lambda: conn.cursor().execute("select 42"))
    pool.close()
    classes = {name.partition(".")[0] for name in OF_A_STATEMENT[server.scheme]}
    ours = {name: count for name, count in found.items() if name.partition(".")[0] in classes}
    assert ours == dict.fromkeys(OF_A_STATEMENT[server.scheme], 1)


def test_a_warm_checkout_leaves_nothing_behind(server: Server) -> None:
    """Neither a thousand borrows nor a borrow that is on keep memory: but for a lease and what it refers to."""
    pool = warm_pool(server)

    def borrow(times: int) -> None:
        for _ in range(times):
            with pool.connection():
                pass

    borrow(1000)
    gc.collect()
    before = sys.getallocatedblocks()
    borrow(1000)
    gc.collect()
    assert sys.getallocatedblocks() - before <= 5
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        with pool.connection():
            held = sys.getallocatedblocks() - before
    finally:
        gc.enable()
    pool.close()
    assert held <= 18


# --- system calls -----------------------------------------------------------------------------------------------------

BORROWING = """
import os, sys
from lambda_pool import Pool
pool = Pool(os.environ["URL"], metrics="off")
for _ in range(3):
    with pool.connection():
        pass
os.write(2, b"BEGIN HERE")
for _ in range(100):
    with pool.connection():
        pass
os.write(2, b"END HERE")
"""
# If the kernel gives a process no clock to read by itself, reading the clock is a system call.
CLOCKS = {"clock_gettime", "gettimeofday"}


def test_a_warm_checkout_is_one_system_call(server: Server, tmp_path: Path) -> None:
    """poll(0) on the socket, and nothing else: no lock that sleeps, no write, no read."""
    trace = tmp_path / "trace"
    subprocess.run(
        ["strace", "-f", "-o", str(trace), sys.executable, "-c", BORROWING],
        env={"PATH": os.environ["PATH"], "URL": server.url()},
        capture_output=True,
        timeout=120,
        check=True,
    )
    text = trace.read_text()
    calls = re.findall(r"^\d+ +(\w+)\((.*)", text.split("BEGIN HERE", 1)[1].split("END HERE", 1)[0], re.MULTILINE)
    found = Counter(name for name, _ in calls if name not in CLOCKS)
    found["write"] -= 1  # of the mark itself
    assert +found == {"poll": 100}
    assert all(arguments.rstrip().endswith(", 0) = 0 (Timeout)") for name, arguments in calls if name == "poll")
