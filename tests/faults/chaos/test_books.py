"""The books find each kind of disagreement, and call nothing wrong that is not."""

import pytest

from .books import Entry, Row, Told, Verdict, audit

ACKNOWLEDGED = Entry("a", 2, Told.ACKNOWLEDGED)
FAILED = Entry("f", 2, Told.FAILED)
UNCERTAIN = Entry("u", 2, Told.UNCERTAIN)
UNKNOWN = Entry("n", 2, Told.UNKNOWN)
ALL = (ACKNOWLEDGED, FAILED, UNCERTAIN, UNKNOWN)


def whole(entry: Entry) -> list[Row]:
    return [(entry.unit, part) for part in range(entry.rows)]


@pytest.mark.parametrize("uncertain", [[], whole(UNCERTAIN)])
@pytest.mark.parametrize("unknown", [[], whole(UNKNOWN)])
def test_they_agree(uncertain: list[Row], unknown: list[Row]) -> None:
    verdict = audit(ALL, [*unknown, *whole(ACKNOWLEDGED), *uncertain])
    assert verdict == Verdict()
    assert verdict.agrees


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([], Verdict(lost=("a",))),
        ([("a", 0)], Verdict(halved=("a",))),
        ([*whole(ACKNOWLEDGED), ("a", 1)], Verdict(doubled=("a",))),
        ([*whole(ACKNOWLEDGED), *whole(ACKNOWLEDGED)], Verdict(doubled=("a",))),
        ([*whole(ACKNOWLEDGED), *whole(FAILED)], Verdict(ghosts=("f",))),
        ([*whole(ACKNOWLEDGED), ("f", 1)], Verdict(halved=("f",), ghosts=("f",))),
        ([*whole(ACKNOWLEDGED), ("u", 0)], Verdict(halved=("u",))),
        ([*whole(ACKNOWLEDGED), *whole(UNCERTAIN), *whole(UNCERTAIN)], Verdict(doubled=("u",))),
        ([*whole(ACKNOWLEDGED), ("n", 1)], Verdict(halved=("n",))),
        ([*whole(ACKNOWLEDGED), *whole(UNKNOWN), ("n", 0)], Verdict(doubled=("n",))),
        ([*whole(ACKNOWLEDGED), ("b", 0)], Verdict(strays=("b",))),
        ([*whole(ACKNOWLEDGED), ("a", 2)], Verdict(strays=("a",))),
        ([*whole(ACKNOWLEDGED), ("a", -1)], Verdict(strays=("a",))),
    ],
)
def test_they_disagree(rows: list[Row], verdict: Verdict) -> None:
    assert audit(ALL, rows) == verdict
    assert not verdict.agrees


def test_an_entry_is_made_once() -> None:
    with pytest.raises(ValueError, match="a is entered twice"):
        audit([ACKNOWLEDGED, Entry("a", 2, Told.FAILED)], [])


def test_a_verdict_names_some_of_the_units() -> None:
    many = Verdict(lost=tuple(f"a{number}" for number in range(20)))
    assert str(many) == ("20 lost (a0, a1, a2, a3, a4, a5, a6, a7, …), 0 doubled, 0 halved, 0 ghosts, 0 strays")
