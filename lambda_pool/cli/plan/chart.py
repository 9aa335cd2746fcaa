"""Connections over concurrency, with the limit drawn in: as SVG or as text, without a library."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

from lambda_pool.cli.plan.sizing import Plan
from lambda_pool.cli.terminal import fold

_WIDTH, _HEIGHT = 720, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 24, 98, 56
_COLUMNS, _ROWS = 64, 16
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Axes:
    """How far the axes reach, and the distance of their marks."""

    environments: int
    connections: int
    x_step: int
    y_step: int


def axes(plan: Plan) -> Axes:
    """Room for the doubled traffic, the limit and what to set, and for what Lambda may start if that is not far off."""
    wanted = 2 * plan.figures.at_work
    furthest = max(wanted, plan.reserved_concurrency or 1)
    if plan.most is not None and plan.most.environments <= 3 * furthest:
        furthest = max(furthest, plan.most.environments)
    environments = max(2, round(furthest * 1.15))
    connections = max(2, round(max(plan.available, min(environments * plan.per_environment, plan.available * 3)) * 1.1))
    return Axes(environments, connections, _step(environments), _step(connections))


def _step(reach: int) -> int:
    """A round distance that fits at most six times."""
    power = 1
    while True:
        for factor in _STEPS:
            step = factor * power
            if step >= 1 and step == int(step) and reach / step <= 6:
                return int(step)
        power *= 10


def _points(plan: Plan) -> list[tuple[int, str]]:
    """Concurrencies worth a mark."""
    points = [(plan.figures.at_work, "now"), (2 * plan.figures.at_work, "doubled")]
    if plan.reserved_concurrency:
        # Managed Instances have no concurrency to reserve: there it is MaxExecutionEnvironments.
        points.append((plan.reserved_concurrency, "to set" if plan.figures.workers > 1 else "to reserve"))
    return points


def svg(plan: Plan) -> str:
    """The chart as an SVG document, readable on a light and on a dark background."""
    reach = axes(plan)
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(environments: float) -> float:
        return round(_LEFT + width * environments / reach.environments, 1)

    def y(connections: float) -> float:
        return round(_TOP + height * (1 - min(connections, reach.connections) / reach.connections), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="12" aria-label="{escape(title(plan))}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="24" font-size="15" fill="#1b1f24">{escape(title(plan))}</text>',
    ]
    for mark in range(0, reach.connections + 1, reach.y_step):
        parts.append(f'<path d="M{_LEFT} {y(mark)}H{_WIDTH - _RIGHT}" stroke="#e3e6ea"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(mark) + 4}" text-anchor="end" fill="#57606a">{mark}</text>')
    for mark in range(0, reach.environments + 1, reach.x_step):
        parts.append(
            f'<text x="{x(mark)}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle" fill="#57606a">{mark}</text>'
        )
    parts.append(
        f'<text x="{_LEFT + width / 2}" y="{_HEIGHT - 12}" text-anchor="middle" fill="#57606a">'
        "environments at once (concurrency)</text>"
    )
    # Where the line leaves the chart at its top, it ends there.
    end = min(reach.environments, reach.connections / plan.per_environment)
    line = f"M{x(0)} {y(0)}L{x(end)} {y(end * plan.per_environment)}"
    parts.append(f'<path d="{line}" stroke="#0969da" stroke-width="3" fill="none"/>')
    for connections, name, colour in (
        (plan.available, _limit(plan), "#cf222e"),
        (plan.budget, f"budget {plan.budget}", "#bf8700"),
    ):
        parts.append(
            f'<path d="M{_LEFT} {y(connections)}H{_WIDTH - _RIGHT}" stroke="{colour}" stroke-width="2" '
            'stroke-dasharray="6 4"/>'
        )
        above = -6 if colour == "#cf222e" else 16
        parts.append(f'<text x="{_LEFT + 6}" y="{y(connections) + above}" fill="{colour}">{name}</text>')
    for number, (environments, name) in enumerate(_points(plan)):
        top = _TOP - 12 - 16 * number
        parts.append(
            f'<path d="M{x(environments)} {top}V{_HEIGHT - _BOTTOM}" stroke="#57606a" stroke-dasharray="2 3"/>'
        )
        shift, anchor = (-5, "end") if x(environments) > _LEFT + 110 else (5, "start")
        place = f'x="{x(environments) + shift}" y="{top + 4}" text-anchor="{anchor}"'
        parts.append(f'<text {place} fill="#1b1f24">{name} {environments}</text>')
    return "\n".join([*parts, "</svg>", ""])


def title(plan: Plan) -> str:
    """What the chart shows."""
    each = f"{plan.per_environment} connection{'s' if plan.per_environment > 1 else ''} for each environment"
    what = "Connections to the proxy" if plan.figures.proxy_percent is not None else "Connections"
    return f"{what} over concurrency: {each}"


def _limit(plan: Plan) -> str:
    shared = "the proxy shares " if plan.figures.proxy_percent is not None else "limit "
    return f"{shared}{plan.available}"


def text(plan: Plan) -> str:
    """The chart in characters: `*` connections, `=` the limit, `-` the budget, `|` a mark below."""
    reach = axes(plan)
    grid = [[" "] * _COLUMNS for _ in range(_ROWS)]

    def column(environments: float) -> int:
        return min(_COLUMNS - 1, round((_COLUMNS - 1) * environments / reach.environments))

    def row(connections: float) -> int:
        return _ROWS - 1 - min(_ROWS - 1, round((_ROWS - 1) * connections / reach.connections))

    for environments, _ in _points(plan):
        for line in grid:
            line[column(environments)] = "|"
    grid[row(plan.budget)] = ["-"] * _COLUMNS
    grid[row(plan.available)] = ["="] * _COLUMNS
    for place in range(_COLUMNS):
        connections = place / (_COLUMNS - 1) * reach.environments * plan.per_environment
        if connections <= reach.connections:
            grid[row(connections)][place] = "*"
    lines = []
    for number, line in enumerate(grid):
        mark = reach.connections * (_ROWS - 1 - number) / (_ROWS - 1)
        left = f"{mark:6.0f}" if number % 5 == 0 else " " * 6
        lines.append(f"{left} |{''.join(line)}".rstrip())
    lines.append(" " * 7 + "+" + "-" * _COLUMNS)
    names = ", ".join(f"{name} {environments}" for environments, name in sorted(_points(plan)))
    indent = " " * 8
    legend = [
        f"0 to {reach.environments} environments; | {names}",
        f"* connections, = {_limit(plan)}, - budget {plan.budget}",
    ]
    return "\n".join([*lines, *(line for text in legend for line in fold(text, indent, indent))])
