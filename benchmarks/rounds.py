"""Measures in turns, so that a noisy moment of the machine affects all candidates, and says how certain a figure is."""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Figure = dict[str, float]
"""`median`, and the first and the third quartile as `low` and `high`."""

_ORDER = random.Random(7)


def in_turns(candidates: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Ask each candidate for a figure in each round, in an order that is shuffled each time."""
    found: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for _ in range(rounds):
        _ORDER.shuffle(names)
        for name in names:
            found[name].append(candidates[name]())
    return found


def shuffled(names: Sequence[str]) -> list[str]:
    """The names in random order."""
    order = list(names)
    _ORDER.shuffle(order)
    return order


def figure(values: Sequence[float]) -> Figure:
    """The median and the quartiles."""
    if len(values) == 1:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Ours divided by theirs, round by round."""
    return figure([mine / other for mine, other in zip(ours, theirs, strict=True)])


def rounded(value: Any, digits: int = 5) -> Any:
    """The same, with numbers rounded to significant digits, for a file."""
    if isinstance(value, dict):
        return {key: rounded(inner, digits) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner, digits) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    return value
