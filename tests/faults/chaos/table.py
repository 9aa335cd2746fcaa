"""The table that a run prints."""

from collections import Counter
from collections.abc import Iterable

from .environment import Seen
from .ledger import Ledger
from .schedule import DOORS

OUTCOMES = ("saved", "failed", "uncertain", "unknown")


def render(ledger: Ledger) -> str:
    """Faults by kind, the invocations that each hit, what those were told, and the longest. The same for each door.

    Then the verdict.
    """
    by_unit = {seen.step.unit: seen for seen in ledger.seen}
    lines: list[tuple[str, ...]] = [("fault", "strikes", "hit", *OUTCOMES, "longest")]
    kinds = sorted({(strike.kind, strike.frozen) for strike in ledger.strikes}, key=lambda kind: (kind[1], kind[0]))
    for kind, frozen in kinds:
        strikes = [strike for strike in ledger.strikes if (strike.kind, strike.frozen) == (kind, frozen)]
        hit = [by_unit[unit] for strike in strikes for unit in strike.hit]
        lines.append((kind + (" (frozen)" if frozen else ""), str(len(strikes)), *_columns(ledger, hit)))
    struck = {unit for strike in ledger.strikes for unit in strike.hit}
    lines.append(("none", "", *_columns(ledger, [seen for seen in ledger.seen if seen.step.unit not in struck])))
    lines.append(("all", str(len(ledger.strikes)), *_columns(ledger, ledger.seen)))
    text = _aligned(lines)
    doors: list[tuple[str, ...]] = [("door", "invoked", *OUTCOMES, "longest")]
    for door in DOORS:
        through = [seen for seen in ledger.seen if seen.step.door == door]
        if through:
            doors.append((door.replace("_", " "), *_columns(ledger, through)))
    text += ["", *_aligned(doors)]
    latest = max((ledger.lateness(seen) for seen in ledger.seen), default=0.0)
    untouched = [f"  {unit}: {what}" for unit, what in ledger.failed_untouched().items()]
    callers = Counter(seen.caller for seen in ledger.seen if seen.caller)
    return "\n".join(
        [
            f"{ledger.engine}: {len(ledger.seen)} invocations, {len(ledger.strikes)} faults, {ledger.seconds:.0f} s",
            *text,
            f"rows: {ledger.verdict}",
            f"ended more than 100 ms after their deadline: {len(ledger.late())};"
            f" the latest ended {abs(latest) * 1000:.0f} ms {'after' if latest > 0 else 'before'} it",
            f"made by the test to wait for a fault past their deadline:"
            f" {sum(ending.held > 0 for ending in ledger.endings.values())} (that wait does not count)",
            f"after a fault while frozen, failed: {len(ledger.thawed_with_errors())}"
            f" of {sum(seen.frozen for seen in ledger.seen)}",
            f"false alarms: {len(ledger.false_alarms())}; left behind: {len(ledger.left_behind())};"
            f" still on an old schema: {len(ledger.still_stale())}",
            f"errors that callers saw: {dict(callers.most_common())}",
            *(["not saved, though no fault met them themselves:", *untouched] if untouched else []),
        ]
    )


def _aligned(lines: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    text.insert(1, "-" * len(text[0]))
    return text


def _columns(ledger: Ledger, invocations: Iterable[Seen]) -> tuple[str, ...]:
    found = list(invocations)
    told = Counter(ledger.outcome(seen) for seen in found)
    longest = max((seen.ended - seen.began for seen in found), default=0.0)
    return (str(len(found)), *(str(told[outcome]) for outcome in OUTCOMES), f"{longest:.2f} s")
