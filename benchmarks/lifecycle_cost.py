"""What living inside Lambda costs a warm invocation: the decorator with the lifecycle at its defaults, and without it.

In turns in one process, on a real PostgreSQL over TLS. Prints the medians of a handler that runs `SELECT 1` and of one
that does nothing, and the ratio of the first (goal: at most 1.05).
Run: .venv/bin/python -m benchmarks.lifecycle_cost
"""

import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import lambda_pool
from lambda_pool import decorator, lifecycle
from lambda_pool.testing import PostgresServer

from .rounds import figure, in_turns, ratio

# Short turns, so that what else the machine does seldom falls into a single one of a pair.
ROUNDS = 401
CALLS = 50

# What the decorator asks of the lifecycle, answered by nobody.
ABSENT: Any = SimpleNamespace(
    process=SimpleNamespace(cancel_before=0.0),
    end_invocation=lambda context, *, failed: None,
)


class Context:
    """As much of Lambda's context as is looked at."""

    aws_request_id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


def seconds(handler: Any, pieces: Any) -> float:
    """One call's time, averaged over some."""
    context = Context()
    vars(decorator)["lifecycle"] = pieces
    try:
        began = time.perf_counter()
        for _ in range(CALLS):
            handler({}, context)
        return (time.perf_counter() - began) / CALLS
    finally:
        vars(decorator)["lifecycle"] = lifecycle


def main() -> None:
    with PostgresServer() as server:
        pool = lambda_pool.Pool(server.url(), autocommit=True)

        @pool.handler
        def query(event: Any, context: Any, conn: Any) -> Any:
            return conn.execute("SELECT 1").fetchone()

        @pool.handler
        def nothing(event: Any, context: Any, conn: Any) -> None:
            return None

        for name, handler in (("SELECT 1", query), ("nothing", nothing)):
            ways = {"with": partial(seconds, handler, lifecycle), "without": partial(seconds, handler, ABSENT)}
            found = in_turns(ways, ROUNDS)
            ours, theirs = (figure(found[which])["median"] * 1e6 for which in ("with", "without"))
            times = ratio(found["with"], found["without"])
            print(
                f"{name:10}{ours:8.2f} µs, without the lifecycle {theirs:8.2f} µs: "
                f"ratio {times['median']:.3f} ({times['low']:.3f} to {times['high']:.3f})"
            )
        pool.close()


if __name__ == "__main__":
    main()
