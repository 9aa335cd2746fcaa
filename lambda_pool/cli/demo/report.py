"""What the demo says in the end: a table, what went wrong, and what was seen, all from the figures of the run."""

from __future__ import annotations

import ast
from typing import Any

from lambda_pool.cli.demo.script import Measured, Result
from lambda_pool.cli.demo.ways import EACH_TIME, GLOBAL, OURS, WAYS, Way
from lambda_pool.cli.terminal import WIDTH, Terminal, clip, fold

_TITLE = 20
_COLUMNS = f"{'err':>4}{'conn':>5}{'extra':>6}{'ms':>5}"
_CELL = len(_COLUMNS)
_RULE = "-" * (_TITLE + len(WAYS) * _CELL)
_MOST_REASONS = 3

_NOTES = (
    "err: invocations that went wrong, and orders saved although their invocation had failed. conn: connections "
    "opened. extra: statements other than the handler's and BEGIN, COMMIT, ROLLBACK. Both are from the server's own "
    "record. ms: median of the good orders, as the caller sees them. fails half way: the handler raises or the server "
    "refuses a statement, in turn. Then come a freeze and a good order."
)


def report(result: Result, terminal: Terminal) -> str:
    """The whole text, 80 columns wide at most."""
    paragraphs = [_table(result, terminal)]
    paragraphs += [lines for way in WAYS if (lines := _reasons(way, result.total(way), terminal))]
    paragraphs.append([terminal.paint(line, "dim") for line in _fold(_NOTES)])
    paragraphs.append([line for sentence in sentences(result) for line in _fold(sentence)])
    return "\n\n".join("\n".join(lines) for lines in paragraphs)


def _fold(text: str) -> list[str]:
    return fold(text, width=WIDTH)


def _table(result: Result, terminal: Terminal) -> list[str]:
    lengths = [f"{code_lines(way.source(result.engine).read_text())} lines of code" for way in WAYS]
    lines = [
        _row("", [terminal.paint(f"{way.title:>{_CELL}}", "bold") for way in WAYS]),
        _row("", [terminal.paint(f"{length:>{_CELL}}", "dim") for length in lengths]),
        _row("", [_COLUMNS for _ in WAYS]),
        _RULE,
    ]
    for index, title in enumerate(result.steps):
        lines.append(_row(title, [_cell(result.cells[way][index], terminal) for way in WAYS]))
    return [*lines, _RULE, _row("all", [_cell(result.total(way), terminal) for way in WAYS])]


def _row(title: str, cells: list[str]) -> str:
    return "".join([f"{title:<{_TITLE}}", *cells])


def _cell(cell: Measured, terminal: Terminal) -> str:
    errors = terminal.paint(f"{cell.errors:>4}", "red" if cell.errors else "green")
    return f"{errors}{cell.traffic.connections:>5}{cell.traffic.extra:>6}{_milliseconds(cell.median):>5}"


def _milliseconds(median: float | None) -> str:
    if median is None:
        return "-"
    return f"{median:.1f}" if median < 99.95 else f"{median:.0f}"


def code_lines(source: str) -> int:
    """Lines of code: without blank lines and the module's docstring."""
    first, *_ = ast.parse(source).body
    documented = isinstance(first, ast.Expr)
    return sum(1 for line in source.splitlines()[first.end_lineno if documented else 0 :] if line.strip())


def _reasons(way: Way, total: Measured, terminal: Terminal) -> list[str]:
    """What the errors were, the most frequent first."""
    if not total.reasons:
        return []
    lines = [f"{count:>6} x {text}" for text, count in total.reasons.most_common(_MOST_REASONS)]
    shown = f" ({len(lines)} of {len(total.reasons)} kinds)" if len(lines) < len(total.reasons) else ""
    return [terminal.paint(f"The errors of {way.title}{shown}:", "bold"), *(clip(line, WIDTH) for line in lines)]


def sentences(result: Result) -> list[str]:
    """What was seen, in plain words."""
    return [_bare_global(result.total(GLOBAL)), _each_time(result), _ours(result)]


def _bare_global(total: Measured) -> str:
    return (
        f"The bare global got {total.failed} of {total.invocations} invocations wrong, saved "
        f"{_count(total.stray, 'order')} whose own invocation had failed, and was "
        f"{f'frozen {total.left_open} times' if total.left_open else 'never frozen'} with a transaction open."
    )


def _each_time(result: Result) -> str:
    total = result.total(EACH_TIME)
    return (
        f"Connecting each time made {_count(total.errors, 'error')} and opened "
        f"{_count(total.traffic.connections, 'connection')} for {total.invocations} invocations; a warm one took "
        f"{_milliseconds(_warm(result, EACH_TIME))} ms, with lambda_pool {_milliseconds(_warm(result, OURS))} ms."
    )


def _warm(result: Result, way: Way) -> float | None:
    """The median of the last step, which is the longest."""
    return result.cells[way][-1].median


def _ours(result: Result) -> str:
    total, last = result.total(OURS), result.cells[OURS][-1]
    connections = _count(total.traffic.connections, "connection")
    if total.traffic.connections == 1 + total.ended:
        connections += f", the first and one for each of the {total.ended} that the server ended"
    return (
        f"lambda_pool made {_count(total.errors, 'error')} and opened {connections}; its last {last.invocations} "
        f"invocations sent {_count(last.traffic.extra, 'statement')} beyond the handler's own."
    )


def _count(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"


def as_json(result: Result) -> dict[str, Any]:
    """The same figures for programs; times are in milliseconds."""
    return {
        "database": result.database,
        "ways": {
            way.module: {
                "title": way.title,
                "lines_of_code": code_lines(way.source(result.engine).read_text()),
                "steps": {title: _figures(cell) for title, cell in zip(result.steps, result.cells[way], strict=True)},
                "total": _figures(result.total(way)),
            }
            for way in WAYS
        },
        "sentences": sentences(result),
    }


def _figures(cell: Measured) -> dict[str, Any]:
    return {
        "invocations": cell.invocations,
        "errors": cell.errors,
        "failed_invocations": cell.failed,
        "stray_orders": cell.stray,
        "frozen_in_transaction": cell.left_open,
        "sessions_ended_by_server": cell.ended,
        "connections": cell.traffic.connections,
        "extra_statements": cell.traffic.extra,
        "median_milliseconds": cell.median,
        "reasons": dict(cell.reasons),
    }
