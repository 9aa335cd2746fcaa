"""The books: what every writer was told, compared with what the database holds. Pure: no server, no clock."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Told(StrEnum):
    """What a writer was told of a transaction."""

    ACKNOWLEDGED = "acknowledged"
    """It is saved: each of its rows must be there, once."""
    FAILED = "failed"
    """It is not saved: none of its rows may be there."""
    UNCERTAIN = "uncertain"
    """CommitUncertain, or its like in autocommit mode: all of it is there once, or none of it."""
    UNKNOWN = "unknown"
    """Nobody was told: the environment ended before that. It counts as uncertain."""


@dataclass(frozen=True)
class Entry:
    """One transaction: the name that its rows carry, how many they are, and what its writer was told."""

    unit: str
    rows: int
    told: Told


Row = tuple[str, int]
"""A row in the database: its unit's name, and its number within the unit, from 0."""


@dataclass(frozen=True)
class Verdict:
    """What does not agree, by the names of the units."""

    lost: tuple[str, ...] = ()
    """Acknowledged, but not there."""
    doubled: tuple[str, ...] = ()
    """A row is there more than once."""
    halved: tuple[str, ...] = ()
    """Some rows are there and others are not."""
    ghosts: tuple[str, ...] = ()
    """Reported as failed, but there anyway."""
    strays: tuple[str, ...] = ()
    """Rows that nobody should have written."""

    @property
    def agrees(self) -> bool:
        """True if nothing is wrong."""
        return not (self.lost or self.doubled or self.halved or self.ghosts or self.strays)

    def __str__(self) -> str:
        found: Mapping[str, tuple[str, ...]] = vars(self)
        parts = (f"{len(units)} {kind}{f' ({_some(units)})' if units else ''}" for kind, units in found.items())
        return ", ".join(parts)


def _some(units: tuple[str, ...]) -> str:
    return ", ".join(units[:8]) + (", …" if len(units) > 8 else "")


def audit(entries: Iterable[Entry], rows: Iterable[Row]) -> Verdict:
    """Compare. A unit that is entered twice is the caller's error: ValueError."""
    expected: dict[str, Entry] = {}
    for entry in entries:
        if expected.setdefault(entry.unit, entry) is not entry:
            raise ValueError(f"the unit {entry.unit} is entered twice")
    there: dict[str, Counter[int]] = {}
    for unit, part in rows:
        there.setdefault(unit, Counter())[part] += 1
    strays = sorted(
        unit for unit, parts in there.items() if unit not in expected or set(parts) - set(range(expected[unit].rows))
    )
    lost, doubled, halved, ghosts = [], [], [], []
    for unit, entry in expected.items():
        parts = there.get(unit, Counter())
        if not parts:
            if entry.told is Told.ACKNOWLEDGED:
                lost.append(unit)
            continue
        if max(parts.values()) > 1:
            doubled.append(unit)
        if len(parts) < entry.rows:
            halved.append(unit)
        if entry.told is Told.FAILED:
            ghosts.append(unit)
    return Verdict(tuple(lost), tuple(doubled), tuple(halved), tuple(ghosts), tuple(strays))
