"""Each door alone, under no fault and around a migration: it ends as it should, and the books agree."""

import pytest

from .ledger import Ledger, run
from .schedule import DOORS, SCHEMA_CHANGED, Act, Fault, Step, When

ENGINES = ["postgresql", "mysql"]


def play(engine: str, steps: list[Step]) -> Ledger:
    ledger = run(engine, [Act((tuple(steps),))], ("proxy",))
    ledger.check()
    return ledger


@pytest.mark.runtime
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.sampled(1 / 2, "starts an environment for each door")
def test_each_door_ends_as_it_is_to_end(engine: str) -> None:
    ledger = play(engine, [Step(f"{door}-{rows}", door, rows, 9.0) for rows in (1, 2) for door in DOORS])
    assert not ledger.failed_untouched()


@pytest.mark.runtime
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.sampled(1 / 2, "starts an environment for each door")
def test_a_changed_schema_costs_one_invocation_of_a_pool_at_most(engine: str) -> None:
    doors = ("reads", "reads", "reads_on_autocommit", "reads_on_autocommit", "reads_in_run", "reads", "reads_in_run")
    steps = [Step(f"first-{number}", door, 2, 9.0) for number, door in enumerate(doors)]
    changes: list[tuple[str, When]] = [
        (door, when) for when in ("before", "point", "frozen") for door in ("reads", "reads_in_run")
    ]
    for number, (first, when) in enumerate([*changes, ("reads_on_autocommit", "point")]):
        steps.append(Step(f"changed-{number}", first, 2, 9.0, 100, Fault(SCHEMA_CHANGED), when, 1))
        steps += [Step(f"after-{number}-{turn}", door, 2, 9.0) for turn, door in enumerate(doors)]
    ledger = play(engine, steps)
    assert [strike.kind for strike in ledger.strikes] == [SCHEMA_CHANGED] * (len(changes) + 1)
    assert ledger.stale()
