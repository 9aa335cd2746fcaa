"""Where others are better, by the figures, and why."""

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
        ("log_cost", log_cost),
    ):
        if name in results:
            found += of_part(results[name]["found"])
    return "\n".join(f"- {each}" for each in found)


def checkout(found: Results) -> list[str]:
    """Those that check nothing."""
    of = found["postgresql"]
    lines = [
        f"**A connection in a global** is there in {median(of[BARE]['us'])} µs (the AWS wrapper's in "
        f"{median(of['AWS wrapper']['us'])} µs), from lambda_pool in {median(of[OURS]['us'])} µs. Nothing is checked "
        "there, and nothing given back."
    ]
    return lines + [
        f"**{peer}** hands a connection out faster with {name}: lambda_pool takes {median(figures['ours_over'])} times "
        "as long. Nothing is validated there."
        for engine, name in ENGINES.items()
        for peer, figures in found[engine].items()
        if figures["ours_over"]["median"] > 1 and figures["validates"] == "no" and peer not in _UNCHECKED
    ]


def invocation(found: Results) -> list[str]:
    """What the decorator costs."""
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
        f"{number(ratio)} times as long ({ENGINES[engine]}, {words[work]}: {median(more)} µs more). That is the "
        "deadline, the check, the clean-up and the events, and in the emulator one extension more to look after."
    ]


def cold(found: Results) -> list[str]:
    """What importing a pool costs beside a bare driver."""
    lines = []
    for engine, driver in (("postgresql", "psycopg"), ("mysql", "PyMySQL")):
        ours = found[engine][OURS]
        cpu, memory = ours["cpu"]["over_base"], ours["memory"]["over_base"]
        if cpu["median"] <= 1:
            continue
        reason = "It also signs a token, and its modules are loaded"
        if engine == "mysql":
            reason += ", which is a larger part beside a driver as small as PyMySQL"
        lines.append(
            f"**Bare {driver} with a ready-made token** starts with less: lambda_pool takes {median(cpu)} {TIMES} its "
            f"CPU ({median(ours['cpu']['is'])} ms) and {median(memory)} {TIMES} its memory. {reason}."
        )
    return lines


def recovery(found: Results) -> list[str]:
    """What no check can see."""
    events = found["postgresql"]["events"]
    kept, just = events["failover, sessions kept"], events["black hole, just used"]
    return [
        "**A failover that keeps sessions**: only a refused write tells that the writer is now a reader, so that the "
        f"handler sees {count(kept[OURS]['errors'])} error (with `run`, which replays: {count(kept[RUN]['errors'])}). "
        f"With DBUtils it sees {count(kept['DBUtils']['errors'])}: it sends a statement that failed once more on a new "
        "connection, whatever came before it. In lambda_pool nothing is replayed outside of `run`.",
        "**A black hole within `ping_after` of the last use** is noticed by the first statement and not before: "
        f"{count(just[OURS]['errors'])} error, at the function's own timeout. So it is for all that keep a connection; "
        "who connects each time does not notice.",
    ]


def contention(found: Results) -> list[str]:
    """Who gets more turns out of a crowd."""
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
        f"**{peer}** lets threads take more turns a second: {', '.join(where)}. It validates nothing"
        + (", and serves whoever comes, so that some wait for ever." if peer in starve else ".")
        for peer, where in ahead.items()
    ]


def log_cost(found: Results) -> list[str]:
    """Environments that are seldom invoked."""
    idle = found["rates"]["1"]
    ours, theirs = idle[OURS]["bytes"], idle["Powertools in each invocation"]["bytes"]
    if ours <= theirs:
        return []
    return [
        "**Powertools in each invocation** writes less where an environment is invoked once a minute: "
        f"{number(theirs)} bytes, lambda_pool {number(ours)}. Each report then holds one invocation, and lambda_pool's "
        "its gauges too."
    ]
