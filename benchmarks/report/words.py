"""Figures as text, and the names that the tables use."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Figure = dict[str, float]
Results = dict[str, Any]

ENGINES = {"postgresql": "PostgreSQL", "mysql": "MariaDB"}
OURS, METRICS, RUN = "lambda_pool", "lambda_pool, metrics", "lambda_pool, run()"
OUR_WAYS = (OURS, METRICS, RUN)
BARE = "bare global"
TIMES = "\N{MULTIPLICATION SIGN}"


def number(value: float) -> str:
    """Three significant digits, and no exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def spread(figure: Figure) -> str:
    """Median and quartiles."""
    if figure["low"] == figure["high"]:
        return number(figure["median"])
    return f"{number(figure['median'])} ({number(figure['low'])} to {number(figure['high'])})"


def median(figure: Figure) -> str:
    """The median alone."""
    return number(figure["median"])


def count(value: float) -> str:
    """A count, or the average of counts."""
    return f"{value:.0f}" if abs(value - round(value)) < 0.005 else f"{value:.1f}"


def strong(name: str) -> str:
    """Mark our own names in the tables."""
    return f"**{name}**" if name in OUR_WAYS else name


def by(ways: dict[str, Any], of: Callable[[Any], float]) -> list[str]:
    """The names, smallest first."""
    return sorted(ways, key=lambda name: of(ways[name]))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
