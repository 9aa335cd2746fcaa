"""Records a bad quarter of an hour in two minutes, and draws it in the way that the dashboard shows it.

    python scripts/draw_dashboard.py record    a real run on the genuine runtime, into docs/dashboard-run.log
    python scripts/draw_dashboard.py           docs/dashboard-run.log, into docs/dashboard.svg

The picture is drawn from the panels that `lambda-pool dashboard` prints; a test draws it again and compares.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from lambda_pool.metrics.definitions import MICROSECONDS
from lambda_pool.metrics.panels import PANELS, Line, Panel

DOCS = Path(__file__).parent.parent / "docs"
RUN = DOCS / "dashboard-run.log"
PICTURE = DOCS / "dashboard.svg"

# --- recording --------------------------------------------------------------------------------------------------------

FUNCTION = """
import threading
import lambda_pool

POOL = lambda_pool.Pool(name="orders", max_size=2, timeout=0.5, ping_after=0.3, max_lifetime=25, slow_query=0.2)
HELD = []

def query(seconds):
    try:
        with POOL.connection() as conn:
            conn.execute("select count(*), pg_sleep(%s) from pg_class", (seconds,))
    except lambda_pool.LambdaPoolError as error:
        return str(error)

@POOL.handler(on_unavailable=lambda event, context, error: {"error": str(error)})
def handler(event, context, conn):
    event = event or {}
    conn.execute("select count(*), pg_sleep(%s) from pg_class", (event.get("slow", 0),))
    if event.get("fail"):
        raise RuntimeError("half way")
    if event.get("leak"):
        lease = POOL.connection()
        lease.__enter__()
        HELD.append(lease)
    threads = [threading.Thread(target=query, args=(event.get("each", 0),)) for _ in range(event.get("threads", 0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {}
"""


def record() -> None:
    """Two minutes of traffic, and the faults during them."""
    from lambda_pool.testing import LambdaRuntime, PostgresServer

    with tempfile.TemporaryDirectory() as folder, PostgresServer() as server:
        (Path(folder) / "function.py").write_text(FUNCTION)
        environment = {
            "LAMBDA_POOL_URL": server.url(),
            "LAMBDA_POOL_METRICS_INTERVAL": "5",
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12",
        }
        with LambdaRuntime("function.handler", code_dir=folder, env=environment, function_name="orders-fn") as runtime:
            _traffic(runtime.invoke, server)
            runtime.shutdown()
            lines = [line for line in runtime.log.splitlines() if line.startswith('{"_aws"')]
    RUN.write_text("".join(_without_address(line) + "\n" for line in lines))


def _without_address(line: str) -> str:
    """Remove where the run's server was, and what its texts say about it: nobody needs that."""
    document = json.loads(line)
    for name, value in (("host", "db.example"), ("error", "the server's own words")):
        if name in document:
            document[name] = value
    return json.dumps(document, separators=(",", ":"))


def _traffic(invoke: Callable[..., Any], server: Any) -> None:
    kill = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'orders'"
    events: list[tuple[float, Callable[[], Any]]] = [
        (20, lambda: server.execute(kill)),
        (35, server.restart),
        (55, server.stop),
        (63, server.start),
        (75, lambda: [invoke({"threads": 6, "each": 0.15}) for _ in range(6)]),
        (85, lambda: [invoke({"slow": 0.3}) for _ in range(5)]),
        (95, lambda: [invoke({"leak": True}) for _ in range(4)]),
        (105, lambda: [invoke({"fail": True}) for _ in range(5)]),
    ]
    start = time.monotonic()
    count = 0
    while (now := time.monotonic() - start) < 120:
        if events and now >= events[0][0]:
            events.pop(0)[1]()
        count += 1
        invoke({"threads": 3} if count % 20 == 0 else {})
        time.sleep(0.4 if count % 50 == 0 else 0.05)


# --- drawing ----------------------------------------------------------------------------------------------------------

PERIOD = 5.0
WIDTH, HEIGHT = 600, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 62, 40, 74
CHARACTER = 6.6  # at most, of the labels' font on average
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#e08214")
INK, FAINT, GRID = "#1b2733", "#5b6b7a", "#e3e8ed"


class Series:
    """The points of one line: (seconds since the beginning, value)."""

    def __init__(self, line: Line, points: list[tuple[float, float]]) -> None:
        self.line = line
        self.points = points
        self.most = max((value for _, value in points), default=0.0)


def draw(lines: Iterable[str]) -> str:
    """The picture of a log."""
    documents = [json.loads(line) for line in lines if line.strip()]
    begin = min(document["_aws"]["Timestamp"] for document in documents) / 1000
    end = max(document["_aws"]["Timestamp"] for document in documents) / 1000 - begin
    parts = [_panel(panel, documents, begin, end) for panel in PANELS]
    parts.append(_reasons(documents))
    rows = math.ceil(len(parts) / 2)
    body = "\n".join(
        f'<g transform="translate({number % 2 * WIDTH},{number // 2 * HEIGHT})">\n{part}\n</g>'
        for number, part in enumerate(parts)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {rows * HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12">\n'
        f"<title>A dashboard of lambda_pool, with two minutes of a real run</title>\n"
        f'<rect width="{2 * WIDTH}" height="{rows * HEIGHT}" fill="#f4f6f8"/>\n{body}\n</svg>\n'
    )


def _panel(panel: Panel, documents: list[dict[str, Any]], begin: float, end: float) -> str:
    series = [Series(line, _points(line, documents, begin)) for line in panel.lines]
    out = [_frame(panel.question)]
    inner = HEIGHT - TOP - BOTTOM
    scales = {}
    for right in (False, True):
        ours = [each for each in series if each.line.right is right]
        if not ours:
            continue
        scales[right] = top = _round_up(max(each.most for each in ours))
        for step in range(5):
            y = TOP + inner - inner * step / 4
            x, anchor = (WIDTH - RIGHT + 6, "start") if right else (LEFT - 6, "end")
            value = top * step / 4
            text = _micros(value) if panel.unit(right=right) == MICROSECONDS else f"{value:g}"
            out.append(_text(x, y + 4, text, anchor))
    for step in range(5):
        y = TOP + inner - inner * step / 4
        out.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
    for step in range(0, int(end) + 1, 30):
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / end
        out.append(_text(x, TOP + inner + 16, f"{step} s", "middle"))
    places = _legend([_label(each.line) for each in series])
    for number, each in enumerate(series):
        colour = COLOURS[number]
        top = scales[each.line.right]
        path = " ".join(
            f"{LEFT + (WIDTH - LEFT - RIGHT) * moment / end:.1f},{TOP + inner - inner * value / top:.1f}"
            for moment, value in each.points
        )
        dashes = ' stroke-dasharray="5 3"' if each.line.right else ""
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dashes}/>')
        for point in path.split():
            x, y = point.split(",")
            out.append(f'<circle cx="{x}" cy="{y}" r="2" fill="{colour}"/>')
        x, row = places[number]
        y = TOP + inner + 38 + row * 18
        out.append(f'<path d="M{x} {y - 4}h18" stroke="{colour}" stroke-width="2.5"{dashes}/>')
        out.append(_text(x + 24, y, _label(each.line), "start", INK))
    return "\n".join(out)


def _label(line: Line) -> str:
    return line.label + (" →" if line.right else "")


def _legend(labels: list[str]) -> list[tuple[int, int]]:
    """Where each label of a legend begins, and in which row, so that none covers another."""
    places, x, row = [], LEFT - 46, 0
    for label in labels:
        width = 24 + round(len(label) * CHARACTER) + 16
        if x + width > WIDTH - 12 and x > LEFT - 46:
            x, row = LEFT - 46, row + 1
        places.append((x, row))
        x += width
    return places


def _points(line: Line, documents: list[dict[str, Any]], begin: float) -> list[tuple[float, float]]:
    """A metric as CloudWatch shows it: one value of the statistic for each period that has any."""
    periods: dict[int, list[float]] = {}
    for document in documents:
        if line.metric in document:
            value = document[line.metric]
            moment = document["_aws"]["Timestamp"] / 1000 - begin
            periods.setdefault(int(moment / PERIOD), []).extend(value if isinstance(value, list) else [value])
    return [(period * PERIOD, _statistic(line.statistic, values)) for period, values in sorted(periods.items())]


def _statistic(name: str, values: list[float]) -> float:
    if name == "Sum":
        return sum(values)
    if name == "Maximum":
        return max(values)
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * float(name[1:]) / 100), len(ordered) - 1)]


def _reasons(documents: list[dict[str, Any]]) -> str:
    """The answer of Logs Insights to the question why connections were replaced and closed."""
    counts: dict[str, Counter[str]] = {"ConnectionsReplaced": Counter(), "ConnectionsClosed": Counter()}
    for document in documents:
        for metric, by_reason in counts.items():
            by_reason[document.get("reason", "")] += document.get(metric, 0)
    out = [_frame("Why connections were replaced and closed")]
    header = ("reason", "replaced", "closed")
    closed = counts["ConnectionsClosed"]
    rows = [
        (why, str(counts["ConnectionsReplaced"][why]), str(number)) for why, number in closed.most_common() if number
    ]
    for number, row in enumerate([header, *rows]):
        y = TOP + 26 + number * 26
        out.append(_text(LEFT, y, row[0], "start", FAINT if number == 0 else INK))
        out.append(_text(LEFT + 260, y, row[1], "end", FAINT if number == 0 else INK))
        out.append(_text(LEFT + 380, y, row[2], "end", FAINT if number == 0 else INK))
        out.append(f'<path d="M{LEFT} {y + 9}H{LEFT + 380}" stroke="{GRID}"/>')
    return "\n".join(out)


def _frame(title: str) -> str:
    return (
        f'<rect x="6" y="6" width="{WIDTH - 12}" height="{HEIGHT - 12}" rx="6" fill="#fff" stroke="{GRID}"/>\n'
        f'<text x="20" y="27" font-size="14" font-weight="600" fill="{INK}">{escape(title)}</text>'
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str = FAINT) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _round_up(value: float) -> float:
    """The next 1, 2, 4 or 8 times a power of ten; at least 4, so that counts get whole numbers on their axis."""
    if value <= 4:
        return 4.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value)


def _micros(value: float) -> str:
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} µs"


def main() -> None:
    if sys.argv[1:] == ["record"]:
        record()
    PICTURE.write_text(draw(RUN.read_text().splitlines()))


if __name__ == "__main__":
    main()
