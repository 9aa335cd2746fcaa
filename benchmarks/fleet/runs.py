"""The runs, and what each of them must show: `python -m benchmarks fleet [RUN…]`."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from .ground import GIVEN, run
from .spec import Outcome, Spec

RESULTS = Path(__file__).with_name("results.json")
SEEDS = (7, 8, 9)

BIG = Spec()
"""1,000 environments of 20 functions, at most 60 of them at work, on 100 connections."""
SIZED = replace(BIG, options={"keep_below": 0.38})
SMALL = replace(
    BIG, functions=10, size=10, burst=8, running=7, max_connections=15, seconds=14.0, grace=10.0, trickle=8.0
)
"""100 environments on 12 connections (three are the administrators'), as `make test` runs it."""
MYSQL = replace(BIG, engine="mysql", functions=10, size=30, burst=18, running=18, max_connections=30)
LONG = replace(
    BIG,
    functions=10,
    size=12,
    burst=18,
    running=18,
    median=4.0,
    sigma=0.3,
    longest=8.0,
    period=4.8,
    trickle=0.0,
    max_connections=32,
    options={"keep_below": 0.37},
)
OTHERS = replace(BIG, others=70, running=20, burst=20, functions=20, size=15)
WAITING = replace(
    BIG,
    functions=2,
    size=2,
    burst=2,
    running=4,
    median=20.0,
    sigma=0.01,
    longest=20.5,
    period=30.0,
    trickle=0.0,
    seconds=3.0,
    grace=40.0,
    time_out=30.0,
    options={"session_idle": 5},
)
FITTING = replace(BIG, functions=1, size=10, burst=10, running=10, period=0.2, median=0.02, trickle=0.0, seconds=60.0)


class Expectation(NamedTuple):
    """What is wrong with an outcome, in words; nothing if it is correct."""

    text: str
    holds: Callable[[Outcome], bool]


NONE_FAILED = Expectation("0 failed", lambda seen: seen.failed == 0 and seen.unfinished == 0 and seen.invocations > 0)
NONE_REFUSED = Expectation("0 refused", lambda seen: seen.refused == 0)
FEW_REFUSED = Expectation("refused < 15 % of logins", lambda seen: seen.refused_part < 0.15)
MANY_REFUSED = Expectation("refused >= 15 % of logins", lambda seen: seen.refused_part >= 0.15)
SOON = Expectation("p99 of checkouts < 1 s", lambda seen: seen.checkout_p99 < 1.0)
SOME_FAILED = Expectation("some failed", lambda seen: seen.failed > 0)


class Run(NamedTuple):
    """One row of the table."""

    number: str
    what: str
    specs: tuple[Spec, ...]
    expected: tuple[Expectation, ...]


def _seeds(spec: Spec) -> tuple[Spec, ...]:
    return tuple(replace(spec, seed=seed) for seed in SEEDS)


PEERS = ("connect each time", "bare global", "SQLAlchemy, pre-ping", "psycopg_pool")

RUNS = (
    Run("1", "1,000 environments, limit 100, keep_below=0.38, three seeds", _seeds(SIZED), (NONE_FAILED, NONE_REFUSED)),
    Run("2", "the same, defaults", (BIG,), (NONE_FAILED, FEW_REFUSED, SOON)),
    Run(
        "3",
        "through PgBouncer, 20 server connections, max_client_conn 2000",
        (replace(BIG, pooled=True),),
        (NONE_FAILED, Expectation("at most 20 server sessions", lambda seen: seen.most_sessions <= 20)),
    ),
    Run("4", "MariaDB, 300 on 30, defaults", (MYSQL,), (NONE_FAILED,)),
    Run("4b", "MySQL, the same", (replace(MYSQL, given=True),), (NONE_FAILED,)),
    Run(
        "5",
        "a server restart of 2 s in the middle of the run",
        (replace(BIG, restart_at=28.0),),
        (
            Expectation("only those at work fail", lambda seen: seen.failed <= seen.most_at_work),
            Expectation("0 fail after it is ready", lambda seen: seen.failed_after == 0),
            Expectation("first success < 1 s", lambda seen: seen.first_success < 1.0),
            Expectation("at most 500 attempts", lambda seen: seen.attempts <= 500),
        ),
    ),
    Run("6", "4 s invocations, 18 at once on 29: the plan's value", (LONG,), (NONE_FAILED,)),
    Run(
        "6b",
        "the same with keep_below=0.8: too much is kept",
        (replace(LONG, options={"keep_below": 0.8}),),
        (SOME_FAILED,),
    ),
    Run(
        "7",
        "10 environments that fit",
        (FITTING,),
        (
            NONE_FAILED,
            Expectation("opened = environments", lambda seen: seen.counts["Opened"] == seen.environments == 10),
            Expectation("asked at most each 30 s", lambda seen: seen.counts["Crowded"] <= 10 * (1 + seen.wall // 30)),
        ),
    ),
    Run(
        "8",
        "20 s before the first statement, session_idle=5",
        (WAITING, replace(WAITING, engine="mysql")),
        (NONE_FAILED,),
    ),
    Run(
        "10",
        "another application holds 70 of 97, 20 at work",
        (OTHERS,),
        (NONE_FAILED, Expectation("all of its sessions live", lambda seen: seen.others_alive == 70)),
    ),
    Run("11a", "sabotage: the rule is off", (replace(SIZED, sabotage="rule"),), (SOME_FAILED,)),
    Run(
        "11b",
        "sabotage: as 2, and refused logins are tried again at once",
        (replace(BIG, sabotage="backoff"),),
        (MANY_REFUSED,),
    ),
    Run("11c", "sabotage: the timer ends what is lent", (replace(WAITING, sabotage="timer"),), (SOME_FAILED,)),
    *(
        Run(f"13{letter}", f"the same as 1 and 2: {way}", (replace(BIG, way=way),), ())
        for letter, way in zip("abcd", PEERS, strict=True)
    ),
    Run("small", "100 environments on 12 connections", (SMALL,), (NONE_FAILED,)),
)
"""9 and 12 need the genuine runtime, or times exact to the millisecond: they are tests (tests/faults/fleet)."""


def broken(found: Outcome, expected: Iterable[Expectation]) -> list[str]:
    """What is not as it must be."""
    return [each.text for each in expected if not each.holds(found)]


def main(arguments: list[str]) -> int:
    """Run the runs that are named, or all. Return 1 if something is not as it must be."""
    known = {each.number: each for each in RUNS}
    unknown = [name for name in arguments if name not in known]
    if unknown:
        print(f"benchmarks fleet: there is no run {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    wrong = 0
    for name in arguments or [name for name in known if name != "4b" or GIVEN in os.environ]:
        each = known[name]
        outcomes = []
        for spec in each.specs:
            found = run(spec)
            outcomes.append(found)
            missing = broken(found, each.expected)
            wrong += bool(missing)
            print(f"{name:>5}  {each.what} ({spec.engine}, seed {spec.seed}): {found.in_short()}", flush=True)
            held = ", ".join(expected.text for expected in each.expected)
            print(f"       {'BROKEN: ' + ', '.join(missing) if missing else 'holds: ' + held}", flush=True)
        _save(name, outcomes)
    from .page import write

    write()
    return 1 if wrong else 0


def _save(name: str, outcomes: list[Outcome]) -> None:
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[name] = [asdict(each) for each in outcomes]
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
