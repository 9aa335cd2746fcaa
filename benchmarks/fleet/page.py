"""The table in docs/fleet.md, from benchmarks/fleet/results.json."""

import json
from pathlib import Path
from typing import Any

from .runs import PEERS, RESULTS, RUNS
from .spec import Outcome, Spec

PATH = Path(__file__).resolve().parent.parent.parent / "docs" / "fleet.md"
BEGIN = "<!-- by make bench NAME=fleet -->\n"
END = "<!-- until here -->\n"
_ENGINES = {"postgresql": "PostgreSQL", "mysql": "MariaDB"}


def outcomes() -> dict[str, list[Outcome]]:
    """The last results, by the number of the run."""
    kept: dict[str, list[dict[str, Any]]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return {
        number: [Outcome(**{**each, "spec": Spec(**each["spec"])}) for each in found] for number, found in kept.items()
    }


def table() -> str:
    """All runs that have results."""
    found = outcomes()
    lines = [
        "| run | what | failed | checkout p50, p99, longest | logins, refused | sessions at most |",
        "|---|---|---|---|---|---|",
    ]
    for each in RUNS:
        for outcome in found.get(each.number, []):
            spec = outcome.spec
            which = f", seed {spec.seed}" if len(each.specs) > 1 and spec.engine == each.specs[0].engine else ""
            which += f", {_ENGINES[spec.engine]}" if len({one.engine for one in each.specs}) > 1 else ""
            times = (outcome.checkout_p50, outcome.checkout_p99, outcome.checkout_max)
            lines.append(
                f"| {each.number} | {each.what}{which} | {_failed(outcome)} | "
                f"{', '.join(f'{seconds * 1000:,.0f}' for seconds in times)} ms | "
                f"{outcome.logins:,}, {outcome.refused:,} ({outcome.refused_part:.1%}) | {outcome.most_sessions} |"
            )
    return "\n".join(lines) + "\n"


def _failed(outcome: Outcome) -> str:
    text = f"{outcome.failed:,} of {outcome.invocations:,}"
    return f"{text}; {outcome.unfinished} unfinished" if outcome.unfinished else text


def write() -> None:
    """Put the table between its marks."""
    text = PATH.read_text()
    head, rest = text.split(BEGIN)
    PATH.write_text(head + BEGIN + table() + END + rest.split(END)[1])


__all__ = ["PEERS", "outcomes", "table", "write"]
