"""A whole warm invocation, with a round trip of about half a millisecond, as within one availability zone.

The other benchmarks run on loopback, where a check by a round trip costs next to nothing.
"""

import time
from typing import Any

from lambda_pool.testing import MariaDbServer, PostgresServer

from . import async_ways, django_ways, session_ways, ways
from .invocation import compare_peers
from .rounds import Figure, figure, in_turns
from .turns import ONE_WAY, Relay

SETS = 4
ROUNDS = 80
OURS = "lambda_pool, metrics"
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "drivers": {
        "postgresql": (OURS, "bare global", "psycopg_pool, check", "SQLAlchemy QueuePool, pre-ping"),
        "mysql": (OURS, "bare global", "bare global, ping", "SQLAlchemy QueuePool, pre-ping"),
    },
    "sessions": session_ways.OF_ENGINE,
    "django": django_ways.OF_ENGINE,
    "async": async_ways.OF_ENGINE,
    "async_sessions": async_ways.SESSIONS_OF_ENGINE,
}


def round_trip(server: Any, relay: Relay) -> Figure:
    """By how many milliseconds a statement takes longer through the relay than without it."""

    def asking(port: int) -> Any:
        conn = ways.connector(server.scheme, server.url(port=port), autocommit=True)()

        def milliseconds() -> float:
            started = time.perf_counter()
            for _ in range(20):
                conn.cursor().execute("select 42")
            return (time.perf_counter() - started) / 20 * 1e3

        return milliseconds

    times = in_turns({"far": asking(relay.port), "near": asking(server.port)}, 31)
    return figure([far - near for far, near in zip(times["far"], times["near"], strict=True)])


def measure() -> dict[str, Any]:
    """Both engines."""
    found: dict[str, Any] = {"sets": SETS, "rounds": ROUNDS, "round_trip_ms": {}, **{name: {} for name in GROUPS}}
    for server in (PostgresServer(), MariaDbServer()):
        with server, Relay(server.port, ONE_WAY) as relay:
            for statement in ways.SCHEMA[server.scheme]:
                server.execute(statement)
            # Waking up threads takes time too, so the sleep is shorter by that much.
            more = round_trip(server, relay)["median"] / 1e3 - 2 * ONE_WAY
            relay.delay = max(ONE_WAY - more / 2, ONE_WAY / 2)
            found["round_trip_ms"][server.scheme] = round_trip(server, relay)
            url = server.url(port=relay.port)
            for name, of_engine in GROUPS.items():
                names = of_engine[server.scheme]
                found[name][server.scheme] = compare_peers(server.scheme, url, names, SETS, ROUNDS)
    return found
