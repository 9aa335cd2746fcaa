"""What metrics cost: bytes of log and dollars, for busy and idle functions, and microseconds of CPU.

The clock is moved by hand, so that five minutes pass at once. The peers themselves write their metrics.
"""

import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from lambda_pool import Pool
from lambda_pool.metrics import cloudwatch, collector
from lambda_pool.testing import PostgresServer

from .round_trips import Context
from .rounds import Figure, figure, in_turns

NAME = "log_cost"
MINUTES = 5
RATES = (1, 60, 1_000)
"""Invocations a minute of one environment."""
CPU_ROUNDS = 25
CPU_INVOCATIONS = 3_000

# https://aws.amazon.com/cloudwatch/pricing/, us-east-1, November 2026
DOLLARS_PER_GB = 0.50
DOLLARS_PER_CALL = 0.01 / 1000


class Log(io.TextIOBase):
    """Replaces standard output: counts what is written, and writes it to the null device like a log."""

    def __init__(self) -> None:
        self.bytes = 0
        self.lines = 0
        self._null = os.open(os.devnull, os.O_WRONLY)

    def write(self, text: str) -> int:
        data = text.encode()
        self.bytes += len(data)
        self.lines += text.count("\n")
        return os.write(self._null, data)


class Clock:
    """A clock that stands still until somebody moves it."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Calls:
    """Replaces CloudWatch's client, and counts the calls."""

    number = 0

    def put_metric_data(self, **_: Any) -> None:
        Calls.number += 1


def select(event: Any, context: Any, conn: Any) -> Any:
    """The shortest useful handler."""
    return conn.execute("select 42").fetchone()


def emf(url: str) -> Callable[[Any, Any], Any]:
    """lambda_pool with its defaults."""
    return Pool(url, metrics="emf").handler(select)


def put(url: str) -> Callable[[Any, Any], Any]:
    """lambda_pool with metrics="cloudwatch"."""
    return Pool(url, metrics="cloudwatch").handler(select)


def powertools(url: str) -> Callable[[Any, Any], Any]:
    """The same two times and the same dimensions, written by Powertools in each invocation."""
    from aws_lambda_powertools import Metrics
    from aws_lambda_powertools.metrics import MetricUnit

    metrics = Metrics(namespace="lambda_pool", service="orders")
    metrics.set_default_dimensions(function_name="orders", pool="postgres")
    inner = Pool(url, metrics="off").handler(select)

    @metrics.log_metrics
    def handler(event: Any, context: Any) -> Any:
        started = time.perf_counter()
        result = inner(event, context)
        held = (time.perf_counter() - started) * 1e6
        metrics.add_metric(name="CheckoutTime", unit=MetricUnit.Microseconds, value=2)
        metrics.add_metric(name="HoldTime", unit=MetricUnit.Microseconds, value=round(held))
        return result

    return handler


def put_each_time(url: str) -> Callable[[Any, Any], Any]:
    """The same two times, sent with PutMetricData in each invocation."""
    inner = Pool(url, metrics="off").handler(select)
    client = Calls()

    def handler(event: Any, context: Any) -> Any:
        result = inner(event, context)
        client.put_metric_data()
        return result

    return handler


WAYS = {
    "lambda_pool": emf,
    'lambda_pool, metrics="cloudwatch"': put,
    "Powertools in each invocation": powertools,
    "PutMetricData in each invocation": put_each_time,
}


def set_clock(clock: Callable[[], float]) -> None:
    """Let the metrics use this clock, whatever the pools' own clocks say."""
    for module in (collector, cloudwatch):
        for name in ("time", "monotonic"):
            if hasattr(module, name):
                setattr(module, name, clock)


def cost(make: Callable[[str], Callable[[Any, Any], Any]], url: str, rate: int, log: Log) -> dict[str, float]:
    """Bytes, calls and dollars of one environment in some minutes with invocations at this rate, its first included."""
    clock = Clock()
    set_clock(clock)
    handler = make(url)
    context = Context()
    log.bytes = log.lines = Calls.number = 0
    number = MINUTES * rate
    for _ in range(number):
        clock.now += 60 / rate
        handler({}, context)
    size, calls = log.bytes / number, Calls.number / number
    return {
        "bytes": size,
        "lines": log.lines / number,
        "calls": calls,
        "dollars_per_million": size * 1e6 / 1e9 * DOLLARS_PER_GB + calls * 1e6 * DOLLARS_PER_CALL,
    }


def cpu(url: str) -> dict[str, Figure]:
    """µs of CPU for a warm invocation of an empty handler, with metrics off and on, reports included."""

    def timed(metrics: str) -> Callable[[], float]:
        def empty(event: Any, context: Any, conn: Any) -> None:
            return

        handler = Pool(url, metrics=metrics).handler(empty)
        context = Context()
        for _ in range(200):
            handler({}, context)

        def once() -> float:
            started = time.process_time()
            for _ in range(CPU_INVOCATIONS):
                handler({}, context)
            return (time.process_time() - started) / CPU_INVOCATIONS * 1e6

        return once

    times = in_turns({"off": timed("off"), "emf": timed("emf")}, CPU_ROUNDS)
    more = [on - off for on, off in zip(times["emf"], times["off"], strict=True)]
    return {"off": figure(times["off"]), "emf": figure(times["emf"]), "difference": figure(more)}


def reports(url: str) -> dict[str, float]:
    """µs that the end of an invocation takes when it reports, median and 99th percentile."""
    from lambda_pool.metrics.emf import EmfMetrics

    clock = Clock()
    set_clock(clock)
    observer = EmfMetrics()
    times: list[float] = []
    method = observer._report

    def timed(*arguments: Any, **named: Any) -> None:
        started = time.perf_counter()
        method(*arguments, **named)
        times.append((time.perf_counter() - started) * 1e6)

    vars(observer)["_report"] = timed
    handler = Pool(url, observers=[observer]).handler(select)
    context = Context()
    for _ in range(500):
        clock.now += 61
        handler({}, context)
    times = times[10:]  # the first one imports json
    return {"median": statistics.median(times), "p99": statistics.quantiles(times, n=100)[98]}


def measure() -> dict[str, Any]:
    """All ways, all rates."""
    os.environ["AWS_LAMBDA_FUNCTION_NAME"] = "orders"
    os.environ.setdefault("AWS_REGION", "eu-central-1")
    cloudwatch._client = lambda region: Calls()
    found: dict[str, Any] = {
        "minutes": MINUTES,
        "dollars_per_gb": DOLLARS_PER_GB,
        "dollars_per_call": DOLLARS_PER_CALL,
    }
    log = Log()
    real, sys.stdout = sys.stdout, log
    clocks = collector.time, collector.monotonic  # type: ignore[attr-defined]
    try:
        with PostgresServer() as server:
            found["cpu"] = cpu(server.url())
            found["rates"] = {
                str(rate): {name: cost(make, server.url(), rate, log) for name, make in WAYS.items()} for rate in RATES
            }
            found["report_us"] = reports(server.url())
    finally:
        sys.stdout = real
        collector.time, collector.monotonic = clocks  # type: ignore[attr-defined]
    return found
