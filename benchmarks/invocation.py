"""A whole warm invocation on the genuine Lambda runtime: how long its caller waits, and what it costs in CPU."""

import contextlib
import statistics
from collections.abc import Sequence
from typing import Any

from lambda_pool.testing import LambdaRuntime, MariaDbServer, PostgresServer

from . import async_ways, django_ways, session_ways, ways
from .environments import answer_of, cpu_seconds, environment, open_all
from .rounds import Figure, figure, shuffled

NAME = "invocation"
BASE = "bare global"
OURS = ("lambda_pool", "lambda_pool, metrics")
WORKS = {"empty": "no statement", "one": "one SELECT", "three": "a transaction of three statements"}
ROUNDS = 120
BLOCKS = 12
SETS = 20
"""Further sets of environments, fresh each time, of only the three whose ratio is a few percent: where a process lies
in memory changes its times by as much, for as long as it lives."""
CLOSE_ROUNDS = 100
"""Rounds of each of these sets."""
WARM_UP = 30
"""CPython's interpreter and psycopg's prepared statements take this long to settle."""

FRAMEWORK_WORKS = ("one", "three")
FRAMEWORK_SETS = 6


def over(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """The ratio of medians, block by block: single invocations differ by more than the ratios that we look for."""
    size = len(ours) // BLOCKS
    blocks = [slice(start, start + size) for start in range(0, size * BLOCKS, size)]
    return figure([statistics.median(ours[block]) / statistics.median(theirs[block]) for block in blocks])


def in_turns(runtimes: dict[str, LambdaRuntime], work: str, rounds: int) -> tuple[dict[str, list[float]], ...]:
    """Milliseconds and microseconds of CPU, one invocation of each in each round."""
    pids = {name: runtime.pid or 0 for name, runtime in runtimes.items()}
    times: dict[str, list[float]] = {name: [] for name in runtimes}
    cpu: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(rounds):
        for name in shuffled(list(runtimes)):
            before = cpu_seconds(pids[name])
            times[name].append(answer_of(runtimes[name], {"work": work}))
            cpu[name].append((cpu_seconds(pids[name]) - before) * 1e6)
    return times, cpu


def compare(server: Any) -> dict[str, Any]:
    """All ways of one engine, all kinds of work."""
    names = ways.OF_ENGINE[server.scheme]
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        runtimes = open_all(stack, names, server.scheme, server.url())
        for work in WORKS:
            in_turns(runtimes, work, WARM_UP)
            times, cpu = in_turns(runtimes, work, ROUNDS)
            found[work] = {
                name: {
                    "ms": figure(times[name]),
                    "over_bare": over(times[name], times[BASE]),
                    "cpu_us": figure(cpu[name]),
                    "cpu_over_bare": over(cpu[name], cpu[BASE]),
                }
                for name in names
            }
    for work, ours in compare_closely(server).items():
        for name, figures in ours.items():
            found[work][name] |= figures
    return found


def compare_closely(server: Any) -> dict[str, dict[str, dict[str, Figure]]]:
    """Our own ways compared with the bare global, by fresh sets of environments."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {
        work: {name: {"over_bare": [], "cpu_over_bare": [], "more_us": []} for name in OURS} for work in WORKS
    }
    for _ in range(SETS):
        with contextlib.ExitStack() as stack:
            runtimes = open_all(stack, (BASE, *OURS), server.scheme, server.url())
            for work in WORKS:
                in_turns(runtimes, work, WARM_UP)
                times, cpu = in_turns(runtimes, work, CLOSE_ROUNDS)
                middle = {name: statistics.median(times[name]) for name in times}
                middle_cpu = {name: statistics.median(cpu[name]) for name in cpu}
                for name in OURS:
                    values[work][name]["over_bare"].append(middle[name] / middle[BASE])
                    values[work][name]["cpu_over_bare"].append(middle_cpu[name] / middle_cpu[BASE])
                    values[work][name]["more_us"].append((middle[name] - middle[BASE]) * 1e3)
    return {
        work: {name: {what: figure(each) for what, each in figures.items()} for name, figures in ours.items()}
        for work, ours in values.items()
    }


def compare_peers(
    engine: str, url: str, names: Sequence[str], sets: int = FRAMEWORK_SETS, rounds: int = CLOSE_ROUNDS
) -> dict[str, Any]:
    """Our own way, the first of `names`, beside the others, by fresh sets of environments. Also their cold starts."""
    mine, *others = names
    ratios: dict[str, dict[str, list[float]]] = {work: {name: [] for name in others} for work in FRAMEWORK_WORKS}
    cold: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(sets):
        with contextlib.ExitStack() as stack:
            runtimes = {}
            for name in shuffled(list(names)):
                runtimes[name] = stack.enter_context(environment(name, engine, url))
                cold[name].append(answer_of(runtimes[name], {"work": "one"}))
            for work in FRAMEWORK_WORKS:
                in_turns(runtimes, work, WARM_UP)
                times, _cpu = in_turns(runtimes, work, rounds)
                for name in others:
                    ours = statistics.median(times[mine])
                    ratios[work][name].append(ours / statistics.median(times[name]))
    return {
        "cold_ms": {name: figure(values) for name, values in cold.items()},
        **{work: {name: figure(values) for name, values in of.items()} for work, of in ratios.items()},
    }


def measure() -> dict[str, Any]:
    """Both engines."""
    found: dict[str, Any] = {"rounds": ROUNDS, "sets": SETS, "close_rounds": CLOSE_ROUNDS}
    frameworks = {
        "sessions": session_ways.OF_ENGINE,
        "django": django_ways.OF_ENGINE,
        "async": async_ways.OF_ENGINE,
        "async_sessions": async_ways.SESSIONS_OF_ENGINE,
    }
    found |= {name: {} for name in frameworks}
    for server in (PostgresServer(), MariaDbServer()):
        with server:
            for statement in ways.SCHEMA[server.scheme]:
                server.execute(statement)
            found[server.scheme] = compare(server)
            for name, of_engine in frameworks.items():
                found[name][server.scheme] = compare_peers(server.scheme, server.url(), of_engine[server.scheme])
    return found
