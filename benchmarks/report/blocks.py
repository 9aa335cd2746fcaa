"""The tables and plots of the page, by the names that page.md uses for them."""

from collections.abc import Callable, Iterable
from typing import Any

from .plots import Bar, bars
from .words import (
    ENGINES,
    OUR_WAYS,
    OURS,
    TIMES,
    Figure,
    Results,
    by,
    count,
    median,
    number,
    spread,
    strong,
    table,
)

Plots = dict[str, str]
"""SVG by file name."""

FRAMEWORKS = ("sessions", "django", "async", "async_sessions")
"""Parts of the results of `invocation` and `network`."""


def plot(plots: Plots, name: str, title: str, unit: str, figures: dict[str, Figure], *, logarithmic: bool) -> str:
    """Draw one, and return the line that shows it."""
    rows = [
        Bar(label, figure["median"], figure["low"], figure["high"], label in OUR_WAYS)
        for label, figure in sorted(figures.items(), key=lambda item: item[1]["median"])
    ]
    plots[f"{name}.svg"] = bars(title, unit, rows, logarithmic=logarithmic)
    return f"![{title}](benchmarks/{name}.svg)\n\n"


def made(part: Results) -> str:
    """When and how a part was measured."""
    return f"`{part['command']}`, {part['date']}, {part['seconds']} s, system load before it {part['load_before']}."


def unique(values: Iterable[Any]) -> list[Any]:
    """The names in order of appearance."""
    return list(dict.fromkeys(values))


def machine(results: Results) -> str:
    """The machine and the versions."""
    parts = list(results.values())
    machines = unique(
        f"a {'virtual machine' if each['virtual'] == 'yes' else 'machine'} with {each['cores']} cores "
        f"({each['processor']}), {each['memory']}, {each['system']}, Linux {each['kernel']}"
        for each in (part["machine"] for part in parts)
    )
    versions = unique(", ".join(f"{name} {version}" for name, version in part["versions"].items()) for part in parts)
    dates = unique(part["date"] for part in parts)
    return f"Measured {', '.join(dates)} on {'; '.join(machines)}. Versions: {'; '.join(versions)}."


def checkout(found: Results, plots: Plots) -> dict[str, str]:
    """One block for each engine."""
    blocks = {}
    for engine, name in ENGINES.items():
        ways = found[engine]
        times = {way: figures["us"] for way, figures in ways.items()}
        title = f"Checkout and return, {name}"
        blocks[engine] = plot(plots, f"checkout-{engine}", title, "microseconds", times, logarithmic=True) + table(
            ("", "validated by", "round trips", "µs", "lambda_pool takes"),
            (
                (
                    strong(way),
                    ways[way]["validates"],
                    count(ways[way]["round_trips"]),
                    spread(ways[way]["us"]),
                    "" if way == OURS else f"{spread(ways[way]['ours_over'])} {TIMES}",
                )
                for way in by(ways, lambda figures: figures["us"]["median"])
            ),
        )
    return blocks


def invocation(found: Results, plots: Plots) -> dict[str, str]:
    """One block for each engine and kind of work."""
    blocks = {"close rounds": str(found["close_rounds"]), "sets": str(found["sets"])}
    for engine, name in ENGINES.items():
        for work, ways in found[engine].items():
            text = table(
                ("", "ms", "over a bare global", "CPU, µs", "CPU over a bare global"),
                (
                    (
                        strong(way),
                        spread(ways[way]["ms"]),
                        spread(ways[way]["over_bare"]),
                        spread(ways[way]["cpu_us"]),
                        spread(ways[way]["cpu_over_bare"]),
                    )
                    for way in by(ways, lambda figures: figures["over_bare"]["median"])
                ),
            )
            if work == "one":
                times = {way: figures["ms"] for way, figures in ways.items()}
                title = f"One SELECT in a transaction, whole invocation, {name}"
                text = plot(plots, f"invocation-{engine}", title, "milliseconds", times, logarithmic=False) + text
            blocks[f"{engine} {work}"] = text
    return blocks | peers(found, FRAMEWORKS)


def network(found: Results, plots: Plots) -> dict[str, str]:
    """The network, and lambda_pool's time on it divided by that of the others."""
    blocks = {key: str(found[key]) for key in ("sets", "rounds")}
    blocks["round trip"] = " and ".join(
        f"{spread(found['round_trip_ms'][engine])} ms ({name})" for engine, name in ENGINES.items()
    )
    return blocks | peers(found, ("drivers", *FRAMEWORKS))


def peers(found: Results, parts: Iterable[str]) -> dict[str, str]:
    """lambda_pool's time divided by that of the others."""
    blocks = {}
    for part in parts:
        rows = [
            (
                peer,
                name,
                spread(of["one"][peer]),
                spread(of["three"][peer]),
                number(of["cold_ms"][next(iter(of["cold_ms"]))]["median"] / of["cold_ms"][peer]["median"]),
            )
            for engine, name in ENGINES.items()
            for of in (found[part][engine],)
            for peer in of["one"]
        ]
        blocks[part.replace("_", " ")] = table(
            ("lambda_pool takes, over", "engine", "one SELECT", "three statements", "cold start"), rows
        )
    return blocks


def server(found: Results, plots: Plots) -> dict[str, str]:
    """Requests a second, and their times."""
    ways = found["ways"]
    rows = (
        (
            way,
            spread(ways[way]["requests_per_second"]),
            spread(ways[way]["median_ms"]),
            spread(ways[way]["p99_ms"]),
            f"{spread(ways[way]['throughput_of_ours'])} {TIMES}" if "throughput_of_ours" in ways[way] else "",
        )
        for way in ways
    )
    head = ("", "requests a second", "median, ms", "99th percentile, ms", "lambda_pool answers")
    return {key: str(found[key]) for key in ("size", "clients", "requests", "rounds")} | {"ways": table(head, rows)}


def cold(found: Results, plots: Plots) -> dict[str, str]:
    """For each engine the figures on a full core and on a tenth, and the imports."""
    blocks = {
        "quota": "a control group's quota"
        if found["quota"] == "control group"
        else "stopping the process for nine tenths of the time"
    }
    for engine, name in ENGINES.items():
        ways = found[engine]
        times = {way: figures["cpu"]["is"] for way, figures in ways.items()}
        title = f"Cold start with IAM over TLS, {name}"
        blocks[engine] = plot(plots, f"cold-{engine}", title, "milliseconds of CPU", times, logarithmic=False) + table(
            ("", "CPU, ms", "over the bare driver", "over the AWS sample", "wall, ms", "peak memory, MiB", "over bare"),
            (
                (
                    strong(way),
                    spread(ways[way]["cpu"]["is"]),
                    spread(ways[way]["cpu"]["over_base"]),
                    spread(ways[way]["cpu_over_sample"]),
                    spread(ways[way]["wall"]["is"]),
                    median(ways[way]["memory"]["is"]),
                    median(ways[way]["memory"]["over_base"]),
                )
                for way in by(ways, lambda figures: figures["cpu"]["is"]["median"])
            ),
        )
        slow = found[f"{engine} at a tenth"]
        blocks[f"{engine} at a tenth"] = table(
            ("", "wall, ms", "over the bare driver"),
            (
                (strong(way), spread(slow[way]["wall"]["is"]), spread(slow[way]["wall"]["over_base"]))
                for way in by(slow, lambda figures: figures["wall"]["is"]["median"])
            ),
        )
    imports = found["imports"]
    base = imports["Python alone"]

    def more(what: str, field: str) -> str:
        return number(max(imports[what][field]["is"]["median"] - base[field]["is"]["median"], 0.0))

    blocks["imports"] = table(
        ("", "CPU, ms", "peak memory, MiB"),
        (
            (strong(what), more(what, "cpu"), more(what, "memory"))
            for what in by(imports, lambda figures: figures["cpu"]["is"]["median"])
            if what != "Python alone"
        ),
    )
    return blocks


def recovery(found: Results, plots: Plots) -> dict[str, str]:
    """One block for each engine."""
    blocks = {"timeout": str(found["timeout"]), "give up": str(found["give_up"])}

    def cell(figures: Results) -> str:
        errors = f"{figures['errors']:.0f} error{'s' if figures['errors'] > 1 else ''}"
        if not figures["recovered"]:
            return f"never, {errors}"
        return median(figures["ms"]) + (f", {errors}" if figures["errors"] else "")

    for engine, name in ENGINES.items():
        events = found[engine]["events"]
        times = {way: figures["ms"] for way, figures in events["black hole"].items()}
        title = f"From the thaw to the first good answer, after a black hole, {name}"
        blocks[engine] = plot(plots, f"recovery-{engine}", title, "milliseconds", times, logarithmic=True) + table(
            ("", *events), ((strong(way), *(cell(events[event][way]) for event in events)) for way in events["kill"])
        )
    return blocks


def contention(found: Results, plots: Plots) -> dict[str, str]:
    """Turns and waits."""
    shapes = found["shapes"]
    pools = list(shapes[0]["pools"])
    crowded = next(shape for shape in shapes if (shape["threads"], shape["connections"]) == (16, 4))
    longest = {pool: figures["longest_wait_us"] for pool, figures in crowded["pools"].items()}
    title = "Longest wait for a connection, 16 threads on 4"
    turns = table(
        ("turns a second", *map(strong, pools)),
        (
            (
                f"{shape['threads']} on {shape['connections']}",
                *(spread(shape["pools"][pool]["turns_per_second"]) for pool in pools),
            )
            for shape in shapes
        ),
    )
    waits = table(
        ("longest wait over median wait", *map(strong, pools)),
        (
            (
                f"{shape['threads']} on {shape['connections']}",
                *(spread(shape["pools"][pool]["longest_over_median"]) for pool in pools),
            )
            for shape in shapes
            if shape["threads"] > shape["connections"]
        ),
    )
    return {
        "turns": turns,
        "waits": plot(plots, "contention", title, "microseconds", longest, logarithmic=True) + waits,
    }


def round_trips(found: Results, plots: Plots) -> dict[str, str]:
    """One block for each engine, and the experiment with BEGIN."""
    blocks = {}
    for engine, name in ENGINES.items():
        ways = {way: counts for way, counts in found[engine].items() if way != "no database"}
        situations = list(ways[OURS])
        blocks[engine] = table(
            (name, *situations),
            (
                (
                    strong(way),
                    *(
                        f"{count(ways[way][situation]['statements'])} / {count(ways[way][situation]['round_trips'])}"
                        for situation in situations
                    ),
                )
                for way in by(ways, lambda counts: sum(each["round_trips"] for each in counts.values()))
            ),
        )
    near, far = found["carried"]["loopback"], found["carried"]["round trip of 0.5 ms"]
    blocks["carried"] = table(
        (
            "",
            "round trips",
            "µs on loopback",
            "over the first",
            "CPU, µs",
            "µs at 0.5 ms a round trip",
            "over the first",
        ),
        (
            (
                way,
                count(far[way]["round_trips"]),
                spread(near[way]["us"]),
                median(near[way]["over_itself"]),
                number(near[way]["cpu_us"]),
                spread(far[way]["us"]),
                median(far[way]["over_itself"]),
            )
            for way in near
        ),
    )
    return blocks


def log_cost(found: Results, plots: Plots) -> dict[str, str]:
    """Bytes, dollars and CPU time."""
    rates = found["rates"]
    ways = list(next(iter(rates.values())))
    cpu, report = found["cpu"], found["report_us"]
    return {
        "minutes": str(found["minutes"]),
        "prices": f"log ingestion at {found['dollars_per_gb']:.2f} USD/GB, PutMetricData at "
        f"{found['dollars_per_call'] * 1000:.2f} USD for 1,000 calls",
        "bytes": table(
            ("bytes of log for each invocation", *(f"{rate} a minute" for rate in rates)),
            ((strong(way), *(number(rates[rate][way]["bytes"]) for rate in rates)) for way in ways),
        ),
        "dollars": table(
            ("USD for a million invocations", *(f"{rate} a minute" for rate in rates)),
            ((strong(way), *(f"{rates[rate][way]['dollars_per_million']:.3f}" for rate in rates)) for way in ways),
        ),
        "cpu": f"A warm invocation of a handler that does nothing takes {spread(cpu['off'])} µs of CPU without metrics "
        f"and {spread(cpu['emf'])} µs with them, reports included: {spread(cpu['difference'])} µs more. The one "
        f"invocation in a minute that reports takes {number(report['median'])} µs more at its end (99th percentile "
        f"{number(report['p99'])} µs).",
    }


PARTS: dict[str, Callable[[Results, Plots], dict[str, str]]] = {
    "checkout": checkout,
    "invocation": invocation,
    "network": network,
    "cold": cold,
    "recovery": recovery,
    "contention": contention,
    "server": server,
    "round_trips": round_trips,
    "log_cost": log_cost,
}
