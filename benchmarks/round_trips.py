"""What the server really receives for each warm invocation: statements by its log, round trips by a relay. It is exact.

Also the price and the gain of carrying BEGIN with a transaction's first statement.
"""

import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg

from lambda_pool.testing import MariaDbServer, PostgresServer

from . import ways
from .carried_begin import CarryingCursor
from .rounds import figure, in_turns, ratio
from .turns import ONE_WAY, Relay

NAME = "round_trips"
WARM_UP = 8
"""psycopg prepares a statement when it runs for the sixth time."""
INVOCATIONS = 20
SITUATIONS = {
    "no statement": ("empty", False),
    "one SELECT, autocommit": ("one", True),
    "one SELECT, transaction": ("one", False),
    "three statements, transaction": ("three", False),
}

# PostgreSQL: "… LOG:  statement: BEGIN", "… LOG:  execute <unnamed>: select 42". Empty queries count.
_POSTGRES = re.compile(r"LOG:  (?:statement|execute [^:]*): ?(.*)")
# MariaDB: "<time> <id> Query\tselect 42"; Ping has no text.
_MARIADB = re.compile(r"\t\s*\d+ (Query|Ping|Execute|Reset connection)\t?(.*)")


class Context:
    """As much of Lambda's context as the ways look at."""

    aws_request_id = "8b0a1c5e-5f0c-4d8e-9a50-1f2f5b6c7d8e"
    function_name = "orders"
    memory_limit_in_mb = 256
    invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:orders"

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


def statements(server: Any, written: str) -> list[str]:
    """The statements that the server received, according to its log."""
    if server.scheme == "postgresql":
        return [text.strip() or "(empty query)" for text in _POSTGRES.findall(written)]
    return [text.strip() if kind == "Query" else kind.upper() for kind, text in _MARIADB.findall(written)]


def count(server: Any, name: str, work: str, autocommit: bool) -> dict[str, Any]:
    """Statements, round trips and connections of one warm invocation."""
    context = Context()
    with Relay(server.port) as relay:
        way = ways.WAYS[name](server.scheme, server.url(port=relay.port), autocommit=autocommit)
        for _ in range(WARM_UP):
            way.handler({"work": work}, context)
        time.sleep(0.05)  # the log is written by another process
        offset, turns = len(server.log), relay.turns
        for _ in range(INVOCATIONS):
            way.handler({"work": work}, context)
        turns = relay.turns - turns
        time.sleep(0.05)
        found = Counter(statements(server, server.log[offset:]))
        way.close()
    return {
        "statements": sum(found.values()) / INVOCATIONS,
        "round_trips": turns / INVOCATIONS,
        "what": {text: number / INVOCATIONS for text, number in sorted(found.items())},
    }


def carried() -> dict[str, Any]:
    """A transaction of one statement: as psycopg sends it, with BEGIN carried, and without a transaction."""

    def once(conn: Any) -> Callable[[], float]:
        def seconds() -> float:
            started = time.perf_counter()
            for _ in range(10):
                conn.execute("select 42").fetchone()
                conn.commit()
            return (time.perf_counter() - started) / 10

        return seconds

    def cpu(conn: Any) -> float:
        run = once(conn)
        started = time.thread_time()
        for _ in range(40):
            run()
        return (time.thread_time() - started) / 400 * 1e6

    found: dict[str, Any] = {}
    with PostgresServer() as server:
        for where, delay in (("loopback", None), ("round trip of 0.5 ms", ONE_WAY)):
            with Relay(server.port, delay or 0.0) as relay:
                url = server.url(port=None if delay is None else relay.port, tls=False, sslmode="disable")
                conns = {
                    "BEGIN by itself": psycopg.connect(url),
                    "BEGIN carried": psycopg.connect(url, cursor_factory=CarryingCursor),
                    "autocommit": psycopg.connect(url, autocommit=True),
                }
                times = in_turns({name: once(conn) for name, conn in conns.items()}, 21)
                found[where] = {
                    name: {
                        "us": figure([second * 1e6 for second in column]),
                        "over_itself": ratio(column, times["BEGIN by itself"]),
                    }
                    for name, column in times.items()
                }
                if delay is None:
                    for name, conn in conns.items():
                        found[where][name]["cpu_us"] = cpu(conn)
                else:
                    for name, conn in conns.items():
                        before = relay.turns
                        once(conn)()
                        found[where][name]["round_trips"] = (relay.turns - before) / 10
                for conn in conns.values():
                    conn.close()
    return found


def measure() -> dict[str, Any]:
    """Both engines, all ways."""
    found: dict[str, Any] = {"invocations": INVOCATIONS}
    for server in (PostgresServer(log_statements=True), MariaDbServer(log_statements=True)):
        with server:
            for statement in ways.SCHEMA[server.scheme]:
                server.execute(statement)
            names = [name for name in ways.OF_ENGINE[server.scheme] if name != "bare global, Powertools metrics"]
            found[server.scheme] = {
                name: {situation: count(server, name, *how) for situation, how in SITUATIONS.items()} for name in names
            }
    found["carried"] = carried()
    return found
