"""What metrics cost: µs per warm invocation, µs per report, bytes of log per invocation.

    python benchmarks/metrics_cost.py [postgresql://user:password@host/database]

Without a URL it starts a PostgreSQL of its own. Everything is measured in one run, metrics on and off in turns.
"""

from __future__ import annotations

import gc
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from lambda_pool import Pool
from lambda_pool.metrics import collector
from lambda_pool.metrics.emf import EmfMetrics

ROUNDS = 30
INVOCATIONS = 5_000


class Context:
    """As much of Lambda's context as a pool looks at."""

    aws_request_id = "8b0a1c5e-5f0c-4d8e-9a50-1f2f5b6c7d8e"
    function_name = "orders"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 30_000


class Log(io.TextIOBase):
    """Stands in standard output's place: keeps each line, and writes it to the null device as a log would be."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._null = os.open(os.devnull, os.O_WRONLY)

    def write(self, text: str) -> int:
        self.lines.append(text)
        return os.write(self._null, text.encode())


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def noop(event: Any, context: Any, conn: Any) -> None:
    """The shortest handler: what is measured is the pool alone."""


def select(event: Any, context: Any, conn: Any) -> Any:
    """A handler with the shortest useful hold."""
    return conn.execute("select 1").fetchone()


def micros_per_invocation(url: str, metrics: str) -> float:
    """One pool's warm invocations, in µs each, reports included."""
    pool = Pool(url, metrics=metrics)
    handler = pool.handler(noop)
    context = Context()
    for _ in range(200):
        handler({}, context)
    gc.collect()
    start = time.process_time()  # CPU time: other processes' turns do not count
    for _ in range(INVOCATIONS):
        handler({}, context)
    took = time.process_time() - start
    pool.close()
    return took / INVOCATIONS * 1e6


def in_turns(url: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"off": [], "emf": []}
    for turn in range(ROUNDS):
        for metrics in ("off", "emf") if turn % 2 else ("emf", "off"):
            found[metrics].append(micros_per_invocation(url, metrics))
    return found


def report_times(url: str, log: Log) -> dict[str, list[float]]:
    """µs of the invocation's end that reports, by what it reports."""
    clock = Clock()
    collector.time = collector.monotonic = clock  # type: ignore[attr-defined]
    observer = EmfMetrics()
    found: dict[str, list[float]] = {}

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> None:
            start = time.perf_counter()
            method(*arguments, **named)
            found.setdefault(name, []).append((time.perf_counter() - start) * 1e6)

        return call

    observer._report_full = timed("100 warm invocations", observer._report_full)  # type: ignore[method-assign]
    observer._at_end = timed("once in 60 s", observer._at_end)  # type: ignore[method-assign]
    pool = Pool(url, observers=[observer])
    handler = pool.handler(select)
    context = Context()
    for number in range(20_000):
        clock.now += 60 / 1_000
        handler({}, context)
        if number == 2_000:
            found.clear()  # the first report imports Powertools
    pool.close()
    return found


def bytes_per_invocation(url: str, log: Log) -> float:
    """Bytes of log over five minutes of 1,000 invocations each, the first invocation's report included."""
    clock = Clock()
    collector.time = collector.monotonic = clock  # type: ignore[attr-defined]
    pool = Pool(url, metrics="emf")
    handler = pool.handler(select)
    context = Context()
    log.lines.clear()
    for _ in range(5_000):
        clock.now += 60 / 1_000
        handler({}, context)
    pool.close()
    return sum(len(line.encode()) for line in log.lines) / 5_000


def measure(url: str) -> None:
    log = Log()
    real, sys.stdout = sys.stdout, log
    try:
        turns = in_turns(url)
        reports = report_times(url, log)
        size = bytes_per_invocation(url, log)
    finally:
        sys.stdout = real
    off, on = (statistics.median(turns[kind]) for kind in ("off", "emf"))
    pairs = [with_metrics - without for with_metrics, without in zip(turns["emf"], turns["off"], strict=True)]
    print(f"warm invocation, metrics off        {off:6.2f} µs")
    print(f"warm invocation, metrics on         {on:6.2f} µs (reports included)")
    print(f"difference, median of {ROUNDS} pairs      {statistics.median(pairs):6.2f} µs")
    print(f"difference, fastest rounds          {min(turns['emf']) - min(turns['off']):6.2f} µs")
    for name, times in reports.items():
        ordered = sorted(times)
        middle, late = statistics.median(times), ordered[int(len(ordered) * 0.99)]
        print(f"report, {name:<22}      {middle:6.1f} µs (p99 {late:.1f}, {len(times)} reports)")
    print(f"log, 1,000 invocations in a minute  {size:6.2f} bytes an invocation")


def main() -> None:
    os.environ.setdefault("AWS_LAMBDA_FUNCTION_NAME", "orders")
    if len(sys.argv) > 1:
        measure(sys.argv[1])
        return
    from lambda_pool.testing.servers import PostgresServer

    with PostgresServer() as server:
        measure(server.url())


if __name__ == "__main__":
    main()
