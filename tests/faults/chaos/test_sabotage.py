"""The ledger can fail: it notices broken pools, each by what its fault leads to."""

from collections.abc import Callable

import pytest

from .ledger import Ledger, run
from .schedule import IDIOMS, SCHEMA_CHANGED, Act, Fault, Step

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


RESET = Fault("session ended")
CHANGED = Fault(SCHEMA_CHANGED)

BROKEN: list[tuple[str, list[Act], Callable[[Ledger], object]]] = [
    ("needs_the_decorator", steps("undecorated_connection", None), lambda ledger: len(ledger.verdict.lost) == MANY),
    ("needs_the_decorator", steps("undecorated_run", None), lambda ledger: len(ledger.verdict.lost) == MANY),
    ("takes_from_the_block_around", steps("decorated_in_a_block", None), lambda ledger: ledger.verdict.ghosts),
    ("saves_nothing_with_conn", steps("with_conn", None), lambda ledger: len(ledger.verdict.lost) == MANY),
    ("saves_nothing_with_conn", steps("with_conn_in_a_block", None), lambda ledger: len(ledger.verdict.lost) == MANY),
    (
        "lets_a_first_block_commit",
        steps("transaction_first_raises", None),
        lambda ledger: len(ledger.verdict.ghosts) == MANY,
    ),
    (
        "has_no_block_on_autocommit",
        steps("transaction_on_autocommit", RESET, point=1),
        lambda ledger: ledger.verdict.halved,
    ),
    (
        "ignores_the_borrowers_commit",
        steps("commits_then_raises", None, rows=1),
        lambda ledger: len(ledger.verdict.lost) == MANY,
    ),
    ("ignores_the_borrowers_commit", steps("closes", None, rows=1), lambda ledger: len(ledger.verdict.lost) == MANY),
    ("only_warns", steps("closes_early", None), lambda ledger: len(ledger.verdict.lost) == MANY),
    ("believes_the_status_bit", steps("chains_in_run", RESET), lambda ledger: ledger.verdict.doubled),
    ("forgets_threads", steps("thread_writes", None), lambda ledger: len(ledger.verdict.lost) == MANY),
    ("says_nothing", steps("thread_at_work", None), lambda ledger: len(ledger.verdict.lost) == MANY),
    ("calls_a_commit_on_its_way_undone", steps("thread_outlives", None, many=40), lambda ledger: ledger.verdict.ghosts),
    ("only_warns", steps("thread_outlives", None, many=20), lambda ledger: ledger.left_behind()),
    ("undoes_what_was_answered", steps("answers_400", None), lambda ledger: len(ledger.verdict.lost) == MANY),
    (
        "ignores_a_rollback",
        steps("answers_400_after_a_rollback", None, rows=1),
        lambda ledger: len(ledger.verdict.ghosts) == MANY,
    ),
    (
        "undoes_all_after_an_error",
        steps("hides_a_failed_statement", None),
        lambda ledger: len(ledger.verdict.lost) == MANY,
    ),
    (
        "undoes_all_for_a_savepoint",
        steps("fails_in_a_savepoint", None),
        lambda ledger: len(ledger.verdict.lost) == MANY,
    ),
    ("only_warns", steps("hides_a_conflict", None), lambda ledger: len(ledger.verdict.lost) == MANY),
    ("takes_a_conflict_for_success", steps("conflicts_in_run", None), lambda ledger: len(ledger.verdict.lost) == MANY),
    ("keeps_old_plans", steps("reads_in_run", CHANGED, point=1), lambda ledger: ledger.still_stale()),
    ("resets_nothing", steps("changes_the_session", None), lambda ledger: len(ledger.left_behind()) == MANY - 1),
]


@pytest.mark.runtime
@pytest.mark.slow("tries the ledger, not the pool, with a broken pool for each idiom and engine")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "acts", "found"), BROKEN, ids=[f"{name}-{acts[0].steps[0][1].door}" for name, acts, _ in BROKEN]
)
def test_it_is_found_out_by_an_idiom(
    engine: str, name: str, acts: list[Act], found: Callable[[Ledger], object]
) -> None:
    ledger = broken(engine, name, acts)
    assert found(ledger), str(ledger.verdict)


def test_each_idiom_has_a_broken_pool() -> None:
    tried = {acts[0].steps[0][1].door for _, acts, _ in BROKEN}
    same = {
        "decorated_in_a_decorated": "decorated_in_a_block",
        "transaction_first": "transaction_first_raises",
        "commits": "commits_then_raises",
        "reads": "reads_in_run",
        "reads_on_autocommit": "reads_in_run",
    }
    assert tried | set(same) == set(IDIOMS)
    assert set(same.values()) <= tried


@pytest.mark.runtime
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.sampled(1, "runs a chaos")
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
