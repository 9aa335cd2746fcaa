"""A whole warm invocation on the genuine Lambda runtime: what its caller waits, and what it costs in CPU.

Where valgrind is installed, also the instructions that a handler executes, which no other process's turn can change.
"""

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lambda_pool.testing import LambdaRuntime, MariaDbServer, PostgresServer

from . import counted, django_ways, session_ways, ways
from .environments import ROOT, answer_of, cpu_seconds, environment, open_all
from .rounds import Figure, figure, shuffled

NAME = "invocation"
BASE = "bare global"
OURS = ("lambda_pool", "lambda_pool, metrics")
WORKS = {"empty": "no statement", "one": "one SELECT", "three": "a transaction of three statements"}
ROUNDS = 120
BLOCKS = 12
SETS = 20
"""Further environments, fresh each time, of those three alone whose ratio is a matter of a few percent: where a process
comes to lie in memory changes its times by as much, for as long as it lives."""
CLOSE_ROUNDS = 100
"""Rounds of each of these sets."""
WARM_UP = 30
"""CPython's interpreter and psycopg's prepared statements take that long to settle."""

FRAMEWORK_WORKS = ("one", "three")
FRAMEWORK_SETS = 10

COUNTED = ("bare global", "psycopg_pool, check", "SQLAlchemy QueuePool, pre-ping", "DBUtils", *OURS)
COUNTED_WORKS = ("empty", "one")
COUNTED_INVOCATIONS = 200
_REFERENCES = re.compile(r"I +refs: +([\d,]+)")
_MISSED = re.compile(r"LL[id] misses: +([\d,]+)")
# Of 32 MiB, 16 ways and lines of 64 bytes, so that nothing is missed twice.
_LARGE = "--LL=33554432,16,64"


def over(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """The ratio of medians, block by block: single invocations vary by more than the ratios that are looked for."""
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
    """Our own ways over the bare global, by fresh sets of environments."""
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


def compare_framework(
    server: Any, framework: Any, sets: int = FRAMEWORK_SETS, rounds: int = CLOSE_ROUNDS
) -> dict[str, Any]:
    """A framework on our pool over the same on others, by fresh sets of environments; and their cold starts.

    `framework`: a module with OURS and OF_ENGINE.
    """
    names = framework.OF_ENGINE[server.scheme]
    others = [name for name in names if name != framework.OURS]
    ratios: dict[str, dict[str, list[float]]] = {work: {name: [] for name in others} for work in FRAMEWORK_WORKS}
    cold: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(sets):
        with contextlib.ExitStack() as stack:
            runtimes = {}
            for name in shuffled(list(names)):
                runtimes[name] = stack.enter_context(environment(name, server.scheme, server.url()))
                cold[name].append(answer_of(runtimes[name], {"work": "one"}))
            for work in FRAMEWORK_WORKS:
                in_turns(runtimes, work, WARM_UP)
                times, _cpu = in_turns(runtimes, work, rounds)
                for name in others:
                    ours = statistics.median(times[framework.OURS])
                    ratios[work][name].append(ours / statistics.median(times[name]))
    return {
        "cold_ms": {name: figure(values) for name, values in cold.items()},
        **{work: {name: figure(values) for name, values in of.items()} for work, of in ratios.items()},
    }


# --- instructions -----------------------------------------------------------------------------------------------------


def _environment(url: str) -> dict[str, str]:
    return {**os.environ, "URL": url, "PYTHONHASHSEED": "0", "AWS_LAMBDA_FUNCTION_NAME": "orders"}


def count(name: str, engine: str, url: str, work: str, number: int) -> int:
    """Instructions of a whole process that invokes so often."""
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    command = [sys.executable, "-m", "benchmarks.counted", name, engine, work, str(number)]
    environment = _environment(url)
    # Once without it, so that no run compiles what another finds compiled.
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    done = subprocess.run([*valgrind, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    match = _REFERENCES.search(done.stderr)
    if done.returncode != 0 or match is None:
        raise RuntimeError(f"valgrind counted nothing for {name}:\n{done.stderr[-2000:]}")
    return int(match[1].replace(",", ""))


def lines(name: str, engine: str, url: str, work: str) -> int:
    """Cache lines that one invocation touches, code and data: what it misses in a cache that is empty and large."""
    options = ["--tool=callgrind", "--cache-sim=yes", _LARGE, "--instr-atstart=no", "--callgrind-out-file=/dev/null"]
    command = ["valgrind", *options, sys.executable, "-m", "benchmarks.counted", name, engine, work, counted.WATCHED]
    environment = _environment(url)
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=log) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        for mark, switch in ((counted.READY, "on"), (counted.DONE, "off")):
            # Behind the metrics' own lines; at the output's end there is no mark, and the count is missing below.
            for line in process.stdout:
                if line == mark.lstrip():
                    break
            subprocess.run(["callgrind_control", "-i", switch, str(process.pid)], capture_output=True, check=True)
            process.stdin.write(b".")
            process.stdin.flush()
        process.wait()
        log.seek(0)
        said = log.read()
    missed = _MISSED.findall(said)
    if process.returncode != 0 or len(missed) != len("id"):
        raise RuntimeError(f"valgrind counted no cache lines for {name}:\n{said[-2000:]}")
    return sum(int(number.replace(",", "")) for number in missed)


def instructions(server: Any) -> dict[str, Any]:
    """Of one invocation of the handler alone, driver included: one process's count less another's."""

    def of_way(name: str) -> dict[str, float]:
        base = count(name, server.scheme, server.url(), "one", 0)
        found = {}
        for work in COUNTED_WORKS:
            more = count(name, server.scheme, server.url(), work, COUNTED_INVOCATIONS)
            found[work] = (more - base) / COUNTED_INVOCATIONS
            found[f"{work}, lines"] = lines(name, server.scheme, server.url(), work)
        return found

    # Other processes slow this down and change no count: use every core.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(COUNTED, pool.map(of_way, COUNTED), strict=True))


def measure() -> dict[str, Any]:
    """Both engines."""
    found: dict[str, Any] = {"rounds": ROUNDS, "sets": SETS, "close_rounds": CLOSE_ROUNDS, "instructions": None}
    found["sessions"], found["django"] = {}, {}
    for server in (PostgresServer(), MariaDbServer()):
        with server:
            for statement in ways.SCHEMA[server.scheme]:
                server.execute(statement)
            found[server.scheme] = compare(server)
            found["sessions"][server.scheme] = compare_framework(server, session_ways)
            found["django"][server.scheme] = compare_framework(server, django_ways)
            if server.scheme == "postgresql" and shutil.which("valgrind"):
                found["instructions"] = instructions(server)
    return found
