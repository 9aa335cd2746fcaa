"""`lambda-pool plan --simulate`: tries a simulated fleet, and shows its figures in words, as JSON and as a picture."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any
from xml.sax.saxutils import escape

from lambda_pool.cli.plan.simulation import Database, Found, Sample, Traffic, simulate
from lambda_pool.cli.plan.sizing import Plan
from lambda_pool.cli.terminal import duration, fold

_MOST_AT_ONCE = 50
"""Environments that one function starts at once, where nobody says how many functions there are."""
_ROUNDS = 3
_MOST_INVOCATIONS = 3_000_000
"""They take about a minute, and as many gigabytes as a laptop can spare."""
_BUSY = 0.25
"""Part of the time in which as many invocations run as may run at once."""
_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 24, 56, 48
_COLUMNS, _ROWS = 64, 12
_MEAN = math.exp(Traffic.sigma**2 / 2)
"""The mean of a log-normal time, in medians."""


def traffic(plan: Plan, *, functions: int | None, duration: float | None) -> Traffic:
    """Bursts of one function after another, one invocation for each environment, and a trickle. Raises ValueError."""
    figures = plan.figures
    running = figures.at_work
    count = functions or max(1, math.ceil(figures.environments / min(_MOST_AT_ONCE, running)))
    size = math.ceil(figures.environments / count)
    median = Traffic.median if duration is None else duration / _MEAN
    if not 0 < median < 900:
        raise ValueError(
            f"--duration {duration} is not valid: for a simulation it must be above 0 and at most 900 seconds"
        )
    period = size * median * _MEAN / running / _BUSY
    trickle, seconds = running * 0.04 / median, 1 + _ROUNDS * count * period
    invocations = _ROUNDS * count * size + trickle * seconds
    if invocations > _MOST_INVOCATIONS:
        raise ValueError(
            f"--simulate would try {invocations:,.0f} invocations, and at most {_MOST_INVOCATIONS:,} are possible: "
            "give a smaller --environments"
        )
    return Traffic(
        functions=count,
        size=size,
        burst=size,
        period=period,
        trickle=trickle,
        running=running,
        median=median,
        longest=12 * median,
        seconds=seconds,
    )


def run(plan: Plan, made: Traffic, keep_below: float) -> tuple[Found, Database]:
    """Simulate it on the plan's database."""
    figures = plan.figures
    database = Database(figures.max_connections - figures.reserved, others=figures.others, keep_below=keep_below)
    return simulate(made, database), database


def lines(found: Found, made: Traffic, database: Database) -> list[str]:
    """The figures as text."""
    kept = max((sample.kept for sample in found.samples), default=0)
    room = database.limit - database.others
    in_time = f"no connection within {duration(database.timeout)}"
    said = [
        f"Simulated: {found.environments:,} environments of {made.functions:,} functions "
        f"for {duration(found.seconds)}, at most {made.running:,} running at once, keep_below={database.keep_below:g}.",
        "",
        f"failed      {found.failed:6,}  of {found.invocations:,} invocations: {in_time}",
        f"refused     {found.refused:6,}  of {found.logins:,} logins ({found.refused_part:.1%}); "
        f"{found.logins_a_second:,.1f} logins a second",
        f"checkout            p50 {duration(found.wait(0.5))}, p99 {duration(found.wait(0.99))}, "
        f"longest {duration(found.wait(1))}",
        f"sessions    {found.most_sessions:6,}  at most, of {room:,}; {kept:,} of frozen environments",
    ]
    return [line for text in said for line in (_fold_row(text) if text else [""])]


def _fold_row(text: str) -> list[str]:
    """A row of the table, folded below its third column; a sentence as it is."""
    head, rest = (text[:20], text[20:]) if text[18:20] == "  " else ("", text)
    return fold(rest, head, " " * len(head))


def as_json(found: Found, made: Traffic, database: Database) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "traffic": asdict(made),
        "database": asdict(database),
        "environments": found.environments,
        "invocations": found.invocations,
        "failed": found.failed,
        "logins": found.logins,
        "refused": found.refused,
        "logins_a_second": found.logins_a_second,
        "wait_p50": found.wait(0.5),
        "wait_p99": found.wait(0.99),
        "wait_longest": found.wait(1),
        "most_sessions": found.most_sessions,
        "samples": [list(sample) for sample in found.samples],
    }


def svg(found: Found, database: Database) -> str:
    """Sessions over time: those of frozen environments, those at work on top, and the limit."""
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    room = max(database.limit - database.others, 1)
    most, end = room * 1.1, max(found.seconds, 1e-9)

    def x(at: float) -> float:
        return round(_LEFT + width * min(at / end, 1.0), 1)

    def y(sessions: float) -> float:
        return round(_TOP + height * (1 - min(sessions / most, 1.0)), 1)

    def area(values: list[tuple[float, float, float]], colour: str) -> str:
        there = "L".join(f"{x(at)} {y(high)}" for at, _, high in values)
        back = "L".join(f"{x(at)} {y(low)}" for at, low, _ in reversed(values))
        return f'<path d="M{there}L{back}Z" fill="{colour}"/>'

    title = (
        f"Sessions over time, keep_below={database.keep_below:g}: {found.failed:,} failed, {found.refused:,} refused"
    )
    samples = found.samples
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="12" aria-label="{escape(title)}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="24" font-size="15" fill="#1b1f24">{escape(title)}</text>',
        area([(each.at, 0, each.kept) for each in samples], "#9cc3f0") if samples else "",
        area([(each.at, each.kept, each.kept + each.at_work) for each in samples], "#0969da") if samples else "",
        f'<path d="M{_LEFT} {y(room)}H{_WIDTH - _RIGHT}" stroke="#cf222e" stroke-width="2" stroke-dasharray="6 4"/>',
        f'<text x="{_LEFT + 6}" y="{y(room) - 6}" fill="#cf222e">limit {room:,}</text>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 12}" fill="#57606a">'
        f"0 to {duration(end)}; light: frozen, dark: at work</text>",
    ]
    for mark in (0, room // 2, room):
        parts.append(f'<text x="{_LEFT - 8}" y="{y(mark) + 4}" text-anchor="end" fill="#57606a">{mark}</text>')
    return "\n".join([*filter(None, parts), "</svg>", ""])


def text(found: Found, database: Database) -> str:
    """The same in characters: `#` at work, `.` frozen, `=` the limit."""
    room = max(database.limit - database.others, 1)
    samples = found.samples or [Sample(0.0, 0, 0)]
    rows = []
    for row in range(_ROWS, 0, -1):
        level = room * row / _ROWS
        line = ""
        for column in range(_COLUMNS):
            _, at_work, kept = samples[column * len(samples) // _COLUMNS]
            reached = level - room / _ROWS / 2
            line += "." if kept >= reached else "#" if kept + at_work >= reached else " "
        rows.append(f"{level:6.0f} |{line}".rstrip())
    label = f" limit {room:,}"
    limit = " " * 7 + "=" * (_COLUMNS + 1 - len(label)) + label
    end = " " * 8 + f"0 to {duration(found.seconds)}; # at work, . frozen"
    return "\n".join([limit, *rows, " " * 7 + "+" + "-" * _COLUMNS, end])
