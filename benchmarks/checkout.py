"""A warm checkout and return: microseconds and round trips, beside poll(0), the lower limit of any validation."""

import select
import socket
import timeit
from collections.abc import Callable
from typing import Any

from lambda_pool.testing import MariaDbServer, PostgresServer

from . import ways
from .rounds import figure, in_turns, ratio
from .turns import Relay

NAME = "checkout"
ROUNDS = 41
SLICE = 0.008
"""Seconds for which one candidate is measured in one round."""
FLOOR = "poll(0) alone"
OURS = "lambda_pool"
# Opening a connection takes a thousand times as long. It is measured where it belongs: in `cold` and `invocation`.
LEFT_OUT = {
    "no database",
    "bare global, Powertools metrics",
    "connect each time",
    "SQLAlchemy NullPool",
}


def sliced(call: Callable[[], object]) -> Callable[[], float]:
    """A function that times `call` for SLICE seconds and returns microseconds for each call."""
    once = min(timeit.repeat(call, number=20, repeat=5)) / 20
    number = max(20, int(SLICE / once))
    return lambda: timeit.timeit(call, number=number) / number * 1e6


def round_trips(server: Any, name: str) -> float:
    """How many round trips a warm checkout and return takes."""
    with Relay(server.port) as relay:
        way = ways.WAYS[name](server.scheme, server.url(port=relay.port), autocommit=False)
        for _ in range(3):
            way.once()
        before = relay.turns
        for _ in range(50):
            way.once()
        turns = (relay.turns - before) / 50
        way.close()
    return turns


def compare(server: Any) -> dict[str, Any]:
    """All ways of one engine."""
    names = [name for name in ways.OF_ENGINE[server.scheme] if name not in LEFT_OUT]
    opened = {name: ways.WAYS[name](server.scheme, server.url(), autocommit=False) for name in names}
    with socket.create_connection(("127.0.0.1", server.port)) as idle:
        poller = select.poll()
        poller.register(idle, select.POLLIN)
        candidates = {FLOOR: sliced(lambda: poller.poll(0))}
        for name, way in opened.items():
            way.once()
            candidates[name] = sliced(way.once)
        times = in_turns(candidates, ROUNDS)
    for way in opened.values():
        way.close()
    return {
        name: {
            "us": figure(column),
            "over_ours": ratio(column, times[OURS]),
            "ours_over": ratio(times[OURS], column),
            "round_trips": 0.0 if name == FLOOR else round_trips(server, name),
            "validates": "the socket" if name == FLOOR else ways.VALIDATES.get(name, "no"),
        }
        for name, column in times.items()
    }


def measure() -> dict[str, Any]:
    """Both engines."""
    found: dict[str, Any] = {"rounds": ROUNDS}
    for server in (PostgresServer(), MariaDbServer()):
        with server:
            found[server.scheme] = compare(server)
    return found
