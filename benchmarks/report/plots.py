"""Horizontal bars as SVG, written by hand: no plotting library, and the same bytes from the same results."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from .words import number

_LABEL, _BARS, _VALUE, _ROW, _HEAD = 250, 330, 130, 22, 52
_OURS, _OTHERS, _SPREAD = "#d9480f", "#91a7bd", "#495057"
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'


class Bar(NamedTuple):
    """One bar: its length, and the quartiles as a thin line."""

    label: str
    value: float
    low: float
    high: float
    ours: bool


def bars(title: str, unit: str, rows: Sequence[Bar], *, logarithmic: bool = False) -> str:
    """A chart. `logarithmic`: for values of which the largest is at least a hundred times the smallest."""
    positive = [row.low for row in rows if row.low > 0] or [1.0]
    smallest, largest = min(positive), max(row.high for row in rows)
    start = 10 ** math.floor(math.log10(smallest)) if logarithmic else 0.0
    end = 10 ** math.ceil(math.log10(largest)) if logarithmic else largest

    def place(value: float) -> float:
        if not logarithmic:
            return _BARS * value / end
        if value <= start:
            return 1.0
        return _BARS * (math.log10(value) - math.log10(start)) / (math.log10(end) - math.log10(start))

    height = _HEAD + _ROW * len(rows) + 14
    width = _LABEL + _BARS + _VALUE
    scale = f"{unit}, logarithmic" if logarithmic else unit
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(title)}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="20" {_FONT} font-weight="600" fill="#212529">{escape(title)}</text>',
        f'<text x="12" y="38" {_FONT} fill="#6c757d">{escape(scale)}; the thin line is the middle half</text>',
    ]
    for place_in_list, row in enumerate(rows):
        top = _HEAD + _ROW * place_in_list
        middle = top + _ROW / 2
        length = max(place(row.value), 1.0)
        colour = _OURS if row.ours else _OTHERS
        parts += [
            f'<text x="{_LABEL - 8}" y="{middle + 4:.0f}" {_FONT} text-anchor="end" fill="#212529">'
            f"{escape(row.label)}</text>",
            f'<rect x="{_LABEL}" y="{top + 4}" width="{length:.1f}" height="{_ROW - 8}" fill="{colour}"/>',
            f'<line x1="{_LABEL + place(row.low):.1f}" x2="{_LABEL + place(row.high):.1f}" y1="{middle:.0f}" '
            f'y2="{middle:.0f}" stroke="{_SPREAD}" stroke-width="1.5"/>',
            f'<text x="{_LABEL + max(length, place(row.high)) + 6:.1f}" y="{middle + 4:.0f}" {_FONT} fill="#212529">'
            f"{number(row.value)}</text>",
        ]
    return "\n".join([*parts, "</svg>", ""])
