"""The ledger can fail: broken pools are found out, each by what its fault leads to."""

from collections.abc import Callable

import pytest

from .ledger import Ledger, run
from .schedule import Act, Fault, Step

ENGINES = ["postgresql", "mysql"]
MANY = 6


def steps(
    door: str, fault: Fault | None, *, when: str = "point", point: int = 2, rows: int = 2, many: int = MANY
) -> list[Act]:
    """A cold invocation, and then a few of one door under one fault."""
    found = [Step("first", "handler", 1, 5.0)]
    for number in range(many):
        found.append(Step(f"{door}-{number}", door, rows, 1.0, 100, fault, when, point))  # type: ignore[arg-type]
    return [Act((tuple(found),))]


# COMMIT passes, and its answer does not.
ANSWER_LOST = Fault("cut", "to_client", 0)


def broken(engine: str, name: str, acts: list[Act]) -> Ledger:
    ledger = run(engine, acts, ("proxy",), env={"SABOTAGE": name})
    with pytest.raises(AssertionError):
        ledger.check()
    return ledger


@pytest.mark.runtime
@pytest.mark.slow("tries the ledger, not the pool, with seven broken pools an engine")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "acts", "found"),
    [
        ("acknowledges_without_commit", steps("handler", None), lambda ledger: len(ledger.verdict.lost) == MANY + 1),
        ("replays_after_commit", steps("run", ANSWER_LOST), lambda ledger: ledger.verdict.doubled),
        ("saves_what_failed", steps("raises", None), lambda ledger: len(ledger.verdict.ghosts) == MANY),
        ("saves_in_parts", steps("handler", Fault("reset"), point=1), lambda ledger: ledger.verdict.halved),
        ("calls_uncertain_failed", steps("handler", ANSWER_LOST), lambda ledger: ledger.verdict.ghosts),
        (
            "forgets_the_deadline",
            steps("handler", Fault("swallow", "to_client"), point=1, many=1),  # 10 s, until Lambda ends it
            lambda ledger: ledger.late(),
        ),
        (
            "trusts_what_was_frozen",
            steps("handler", Fault("end"), when="frozen"),
            lambda ledger: ledger.thawed_with_errors(),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_is_found_out(engine: str, name: str, acts: list[Act], found: Callable[[Ledger], object]) -> None:
    ledger = broken(engine, name, acts)
    assert found(ledger), str(ledger.verdict)


@pytest.mark.runtime
@pytest.mark.parametrize("engine", ENGINES)
def test_the_genuine_pool_passes_the_same(engine: str) -> None:
    acts = [
        Act(
            (
                tuple(
                    Step(f"{number}-{step.unit}", step.door, step.rows, 3.0, 100, step.fault, step.when, step.point)
                    for step in act.steps[0]
                ),
            )
        )
        for number, act in enumerate(
            [
                *steps("run", ANSWER_LOST),
                *steps("raises", None),
                *steps("handler", Fault("reset"), point=1),
                *steps("handler", ANSWER_LOST),
                *steps("handler", Fault("end"), when="frozen"),
            ]
        )
    ]
    ledger = run(engine, acts, ("proxy",))
    ledger.check()
    assert {ledger.outcome(seen) for seen in ledger.seen} == {"saved", "failed", "uncertain"}
