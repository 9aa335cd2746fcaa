"""The goals, and what was reached."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks import async_ways, django_ways, served, session_ways

from .words import BARE, ENGINES, METRICS, OURS, TIMES, Figure, Results, count, number, spread


class Goal(NamedTuple):
    """One goal."""

    what: str
    at_most: str
    measured: str
    met: bool


def goals(results: Results) -> list[Goal]:
    """Every goal that has results."""
    found: list[Goal] = []
    for name, of_part in (
        ("checkout", checkout),
        ("invocation", invocation),
        ("network", network),
        ("cold", cold),
        ("server", server),
        ("round_trips", round_trips),
        ("recovery", recovery),
    ):
        if name in results:
            found += of_part(results[name]["found"])
    return found


def in_short(results: Results) -> list[str]:
    """The goals as text for a terminal."""
    return [
        f"{'ok  ' if goal.met else 'MISS'} {goal.what}: {goal.measured} (at most {goal.at_most})"
        for goal in goals(results)
    ]


def _ratio(what: str, bound: float, figure: Figure) -> Goal:
    return Goal(what, f"{bound} {TIMES}", f"{spread(figure)} {TIMES}", figure["median"] <= bound)


def checkout(found: Results) -> list[Goal]:
    """Checkout and return."""
    bounds = (
        ("postgresql", "psycopg_pool", 0.6),
        ("postgresql", "psycopg_pool, check", 0.03),
        ("postgresql", "SQLAlchemy QueuePool, pre-ping", 0.03),
        ("mysql", "SQLAlchemy QueuePool, pre-ping", 0.05),
    )
    return [
        _ratio(
            f"checkout and return, validated, {ENGINES[engine]}, over {peer}"
            + (" without a check" if peer == "psycopg_pool" else ""),
            bound,
            found[engine][peer]["ours_over"],
        )
        for engine, peer, bound in bounds
    ]


_FRAMEWORKS = {
    "sessions": ("Session", {session_ways.PRE_PING: 0.95, session_ways.QUEUE: 1.03}),
    "django": ("Django", {django_ways.CHECKED: 0.95, django_ways.KEPT: 1.03}),
    "async": ("async def", {async_ways.PSYCOPG_POOL: 1.0, async_ways.ASYNCPG: 1.0}),
    "async_sessions": ("AsyncSession", {async_ways.PRE_PING: 1.0}),
}


def frameworks(found: Results, where: str = "") -> list[Goal]:
    """Whole warm invocations with SQLAlchemy, with Django, and on an event loop. `where`: on which network."""
    works = {"one": "one SELECT", "three": "a transaction of three statements"}
    return [
        _ratio(
            f"whole warm invocation{where}, {ENGINES[engine]}, {words}, {what} on lambda_pool over {peer}",
            bound,
            found[part][engine][work][peer],
        )
        for part, (what, bounds) in _FRAMEWORKS.items()
        for engine in ENGINES
        for work, words in works.items()
        for peer, bound in bounds.items()
        if peer in found[part][engine][work]
    ]


def over_bare(ratio: Callable[[str, str], Figure], where: str = "") -> list[Goal]:
    """The same on a driver. `ratio`: for an engine and a kind of work."""
    works = {"one": "one SELECT in a transaction", "three": "a transaction of three statements"}
    return [
        _ratio(
            f"whole warm invocation with metrics{where}, {engine_name}, {words}, over a bare global",
            1.05,
            ratio(engine, work),
        )
        for engine, engine_name in ENGINES.items()
        for work, words in works.items()
    ]


def invocation(found: Results) -> list[Goal]:
    """Whole warm invocations."""
    return frameworks(found) + over_bare(lambda engine, work: found[engine][work][METRICS]["over_bare"])


def network(found: Results) -> list[Goal]:
    """The same goals, with a round trip that takes as long as between AWS's machines."""
    where = " at 0.5 ms a round trip"
    return frameworks(found, where) + over_bare(lambda engine, work: found["drivers"][engine][work][BARE], where)


def cold(found: Results) -> list[Goal]:
    """Cold starts."""
    ours, on_mysql = found["postgresql"][OURS], found["mysql"][OURS]
    return [
        _ratio("cold start, IAM over TLS, CPU, over the AWS sample", 0.5, ours["cpu_over_sample"]),
        _ratio("cold start, IAM over TLS, CPU, over bare psycopg", 1.15, ours["cpu"]["over_base"]),
        _ratio("cold start, IAM over TLS, CPU, over bare PyMySQL", 1.4, on_mysql["cpu"]["over_base"]),
        _ratio("peak memory, cold, IAM, over bare psycopg", 1.05, ours["memory"]["over_base"]),
    ]


def server(found: Results) -> list[Goal]:
    """A FastAPI server with many requests at once."""
    goals = []
    for peer in (served.QUEUE, served.PRE_PING):
        figures = found["ways"][peer]
        more = figures["throughput_of_ours"]
        what = f"requests a second, FastAPI, lambda_pool over {peer}"
        goals.append(Goal(what, f"(at least) 1 {TIMES}", f"{spread(more)} {TIMES}", more["median"] >= 1))
        goals.append(_ratio(f"99th percentile of their time, over {peer}", 1.0, figures["p99_of_ours"]))
    return goals


def round_trips(found: Results) -> list[Goal]:
    """What is sent over the network."""
    goals: list[Goal] = []
    for engine, engine_name in ENGINES.items():
        extra = max(
            found[engine][way][situation]["round_trips"] - bare["round_trips"]
            for situation, bare in found[engine][BARE].items()
            for way in (OURS, METRICS)
        )
        one = found[engine][METRICS]["one SELECT, autocommit"]
        single = one["statements"] == one["round_trips"] == 1
        goals += [
            Goal(f"round trips beyond the handler's own, warm, {engine_name}", "0", count(extra), extra <= 0),
            Goal(f"statements, one SELECT with autocommit, {engine_name}", "1", count(one["statements"]), single),
        ]
    one = found["postgresql"][METRICS]["one SELECT, transaction"]
    measured = f"{count(one['round_trips'])}: [why](#a-transaction-of-one-statement)"
    what = "round trips of a transaction of one statement, PostgreSQL"
    return [*goals, Goal(what, "2 (BEGIN with it, COMMIT)", measured, one["round_trips"] <= 2)]


def recovery(found: Results) -> list[Goal]:
    """After a kill, and after silence."""
    goals: list[Goal] = []
    for engine, engine_name in ENGINES.items():
        kill, hole = (found[engine]["events"][event][OURS] for event in ("kill", "black hole"))
        text = (
            f"{count(kill['connects'])} connect, {count(kill['errors'])} errors; {spread(kill['ms'])} ms, "
            f"{spread(kill['over_connecting'])} {TIMES} an invocation that connects"
        )
        met = kill["connects"] == 1 and kill["errors"] == 0
        goals.append(Goal(f"recovery after a kill, {engine_name}", "1 connect", text, met))
        rest = hole["ms"]["median"] - found["ping_timeout"] * 1e3
        text = (
            f"{found['ping_timeout']:.0f} s and {number(rest)} ms; {count(hole['connects'])} connect, "
            f"{count(hole['errors'])} errors"
        )
        met = hole["connects"] == 1 and hole["errors"] == 0 and rest < found["ping_timeout"] * 1e3
        goals.append(Goal(f"recovery from a black hole, {engine_name}", "ping_timeout and 1 connect", text, met))
    return goals
