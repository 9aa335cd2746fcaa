"""Where others are better according to the figures, and why."""

from benchmarks import served

from .words import BARE, ENGINES, METRICS, OURS, RUN, TIMES, Results, count, median, number

_UNCHECKED = (BARE, "AWS wrapper")


def losses(results: Results) -> str:
    """A list in Markdown."""
    found: list[str] = []
    for name, of_part in (
        ("checkout", checkout),
        ("invocation", invocation),
        ("cold", cold),
        ("recovery", recovery),
        ("contention", contention),
        ("server", server),
        ("log_cost", log_cost),
    ):
        if name in results:
            found += of_part(results[name]["found"])
    return "\n".join(f"- {each}" for each in found)


def checkout(found: Results) -> list[str]:
    """Ways that check nothing."""
    of = found["postgresql"]
    lines = [
        f"**A connection in a global** is at hand in {median(of[BARE]['us'])} µs, and the AWS wrapper's in "
        f"{median(of['AWS wrapper']['us'])} µs; lambda_pool's takes {median(of[OURS]['us'])} µs. The other two check "
        "nothing and return nothing."
    ]
    return lines + [
        f"**{peer}** hands a connection out faster with {name}: lambda_pool takes {median(figures['ours_over'])} times "
        f"as long. {peer} validates nothing."
        for engine, name in ENGINES.items()
        for peer, figures in found[engine].items()
        if figures["ours_over"]["median"] > 1 and figures["validates"] == "no" and peer not in _UNCHECKED
    ]


_OF_FRAMEWORKS = {
    "sessions": "SQLAlchemy's `Session` on its own pools",
    "django": "Django on its own connections",
    "async": "`async def` on psycopg_pool, asyncpg or aiomysql",
    "async_sessions": "SQLAlchemy's `AsyncSession` on its own pool",
}


def frameworks(found: Results) -> list[str]:
    """Peers of the same framework, whose statements are the same."""
    lines = []
    for part, words in _OF_FRAMEWORKS.items():
        ratios = [
            figures["median"]
            for of in found[part].values()
            for name in ("one", "three")
            for figures in of[name].values()
        ]
        if max(ratios) > 1:
            lines.append(
                f"**{words}**: a warm invocation on lambda_pool takes {number(min(ratios))} to "
                f"{number(max(ratios))} times as long on loopback, where a check by a round trip costs "
                "next to nothing ([with a network between](#where-a-round-trip-takes-half-a-millisecond))."
            )
    return lines


def server(found: Results) -> list[str]:
    """A server on SQLAlchemy's own pool."""
    ways = found["ways"]
    least = min(ways[peer]["throughput_of_ours"]["median"] for peer in (served.QUEUE, served.PRE_PING))
    if least >= 1:
        return []
    return [
        "**FastAPI on AsyncAdaptedQueuePool** answers more requests a second: lambda_pool "
        f"{number(least)} times as many. Its middleware bounds each request and cleans up after it."
    ]


def invocation(found: Results) -> list[str]:
    """What the decorator costs."""
    return _decorated(found) + frameworks(found)


def _decorated(found: Results) -> list[str]:
    words = {"empty": "no statement", "one": "one SELECT", "three": "three statements"}
    worst = max(
        (found[engine][work][METRICS]["over_bare"]["median"], engine, work)
        for engine in ENGINES
        for work in found[engine]
    )
    ratio, engine, work = worst
    if ratio <= 1:
        return []
    more = found[engine][work][METRICS]["more_us"]
    return [
        f"**A warm invocation on a bare global** is faster: with lambda_pool and its metrics it takes up to "
        f"{number(ratio)} times as long ({ENGINES[engine]}, {words[work]}: {median(more)} µs more). The time goes into "
        "the deadline, the check, the clean-up and the events, and into the emulator's work for one more extension."
    ]


def cold(found: Results) -> list[str]:
    """What importing a pool costs compared with a bare driver."""
    lines = []
    for engine, driver in (("postgresql", "psycopg"), ("mysql", "PyMySQL")):
        ours = found[engine][OURS]
        cpu, memory = ours["cpu"]["over_base"], ours["memory"]["over_base"]
        if cpu["median"] <= 1:
            continue
        reason = "It also signs a token, and has modules of its own to load"
        if engine == "mysql":
            reason += ", which counts for more beside a driver as small as PyMySQL"
        lines.append(
            f"**Bare {driver} with a ready-made token** needs less for a cold start: lambda_pool takes "
            f"{median(cpu)} {TIMES} its CPU ({median(ours['cpu']['is'])} ms) and "
            f"{median(memory)} {TIMES} its memory. {reason}."
        )
    return lines


def recovery(found: Results) -> list[str]:
    """Faults that no check can see."""
    events = found["postgresql"]["events"]
    kept, just = events["failover, sessions kept"], events["black hole, just used"]
    return [
        "**A failover that keeps sessions**: only a refused write shows that the writer is now a reader. So the "
        f"handler sees {count(kept[OURS]['errors'])} error (with `run`, which replays: {count(kept[RUN]['errors'])}). "
        f"With DBUtils it sees {count(kept['DBUtils']['errors'])}, because DBUtils sends a failed statement again on a "
        "new connection, whatever came before it. lambda_pool replays nothing outside of `run`.",
        "**A black hole soon after the last use** (within `ping_after`) is noticed only by the first statement: "
        f"{count(just[OURS]['errors'])} error, at the function's own timeout. The same is true for every way that "
        "keeps a connection. A function that connects each time notices nothing.",
    ]


def contention(found: Results) -> list[str]:
    """Pools that give a crowd of threads more turns."""
    ahead: dict[str, list[str]] = {}
    for shape in found["shapes"]:
        for peer, figures in shape["pools"].items():
            more = figures["throughput_over_ours"]
            if peer != OURS and more["low"] > 1.05:
                ahead.setdefault(peer, []).append(
                    f"{median(more)} {TIMES} with {shape['threads']} on {shape['connections']}"
                )
    starve = {"SQLAlchemy QueuePool", "DBUtils"}
    return [
        f"**{peer}** gives threads more turns a second: {', '.join(where)}. It validates nothing"
        + (", and keeps no order, so some threads wait very long." if peer in starve else ".")
        for peer, where in ahead.items()
    ]


def log_cost(found: Results) -> list[str]:
    """Environments that are rarely invoked."""
    idle = found["rates"]["1"]
    ours, theirs = idle[OURS]["bytes"], idle["Powertools in each invocation"]["bytes"]
    if ours <= theirs:
        return []
    return [
        "**Powertools in each invocation** writes less where an environment is invoked once a minute: "
        f"{number(theirs)} bytes, lambda_pool {number(ours)}. Each report then covers one invocation, and "
        "lambda_pool's has its gauges too."
    ]
