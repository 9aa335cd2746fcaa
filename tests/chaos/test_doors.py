"""Each door alone, under no fault and around a migration: it ends as it is to end, and the books agree."""

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
def test_each_door_ends_as_it_is_to_end(engine: str) -> None:
    ledger = play(engine, [Step(f"{door}-{rows}", door, rows, 9.0) for rows in (1, 2) for door in DOORS])
    assert not ledger.failed_untouched()


@pytest.mark.runtime
@pytest.mark.parametrize("when", ["before", "point", "frozen"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_changed_schema_costs_one_invocation_of_a_pool_at_most(engine: str, when: When) -> None:
    doors = ("reads", "reads", "reads_on_autocommit", "reads_on_autocommit", "reads_in_run", "reads", "reads_in_run")
    steps = [Step(f"{turn}-{number}", door, 2, 9.0) for turn in "ab" for number, door in enumerate(doors)]
    for number, first in enumerate(("reads", "reads_in_run", "reads_on_autocommit")):
        steps.append(Step(f"changed-{number}", first, 2, 9.0, 100, Fault(SCHEMA_CHANGED), when, 1))
        steps += [Step(f"after-{number}-{turn}", door, 2, 9.0) for turn, door in enumerate(doors)]
    ledger = play(engine, steps)
    assert [strike.kind for strike in ledger.strikes] == [SCHEMA_CHANGED] * 3
