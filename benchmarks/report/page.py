"""docs/benchmarks.md and its plots, from the results: `python -m benchmarks.report.page` rewrites them."""

import re
from pathlib import Path

from ..results import NEWEST_PATH, OLDEST_PATH, load
from .blocks import PARTS, Plots, machine, made
from .goals import goals
from .losses import losses
from .words import Results, table

ROOT = Path(__file__).parents[2]
PATH = ROOT / "docs" / "benchmarks.md"
_TEMPLATE = Path(__file__).with_name("page.md")
# <checkout: postgresql>, alone on its line or in a sentence.
_PLACE = re.compile(r"<(\w+)(?:: ([^<>\n]+))?>")


def render() -> dict[str, str]:
    """The page and its plots, by their path below docs/."""
    plots: Plots = {}
    results, other = load(NEWEST_PATH), load(OLDEST_PATH)
    blocks = {
        "machine": machine(results),
        "goals": reached(results),
        "machine_other": machine(other),
        "goals_other": reached(other),
        "losses": losses(results),
    }
    for name, part in PARTS.items():
        if name in results:
            blocks[f"{name}: made"] = made(results[name])
            blocks |= {f"{name}: {key}": text for key, text in part(results[name]["found"], plots).items()}

    def fill(match: re.Match[str]) -> str:
        name, key = match[1], match[2]
        if key is not None and name not in results:
            return "(not measured yet)"
        return blocks[name if key is None else f"{name}: {key}"]

    text = _PLACE.sub(fill, _TEMPLATE.read_text())
    return {"benchmarks.md": text, **{f"benchmarks/{name}": plots[name] for name in sorted(plots)}}


def reached(results: Results) -> str:
    """The table of the goals, and of what was reached."""
    return table(
        ("", "at most", "measured", "reached"),
        ((goal.what, goal.at_most, goal.measured, "yes" if goal.met else "**no**") for goal in goals(results)),
    )


def write() -> None:
    """Write the page and its plots."""
    (PATH.parent / "benchmarks").mkdir(parents=True, exist_ok=True)
    for name, text in render().items():
        (PATH.parent / name).write_text(text)


if __name__ == "__main__":
    write()
