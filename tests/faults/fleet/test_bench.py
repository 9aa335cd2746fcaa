"""The bench itself: a small fleet on a small server, the sabotage that it must notice, and the simulation beside it."""

from dataclasses import replace

import pytest

from benchmarks.fleet import page
from benchmarks.fleet.ground import run
from benchmarks.fleet.runs import BIG, RUNS, SMALL, broken
from benchmarks.fleet.spec import Outcome, Spec
from lambda_pool.cli.plan import simulation
from lambda_pool.cli.plan.simulation import Database, Traffic, schedule, simulate

MEASURED = page.outcomes()
"""By the number of the run."""


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
@pytest.mark.sampled(1 / 3, "a hundred environments")
def test_a_hundred_environments_on_twelve_connections(engine: str) -> None:
    """At most seven at work, in turn: nobody is turned away."""
    small = SMALL if engine == "postgresql" else replace(SMALL, engine="mysql", max_connections=12)
    found = run(small)
    print(found.in_short())
    assert found.errors == {}
    assert (found.failed, found.unfinished) == (0, 0)
    assert found.environments > 40
    assert found.counts["Closed crowded"] > 20
    assert found.most_sessions <= 13


@pytest.mark.slow("a hundred environments once more")
def test_without_the_rule_they_are_turned_away() -> None:
    """What the bench would show if it were not for the rule."""
    found = run(replace(SMALL, seconds=8.0, sabotage="rule", options={"timeout": 1}))
    print(found.in_short())
    assert found.failed > found.invocations / 4


@pytest.mark.slow("1,000 environments, three minutes")
def test_a_thousand_environments_with_the_plans_value() -> None:
    each = next(each for each in RUNS if each.number == "1")
    found = run(each.specs[0])
    assert broken(found, each.expected) == []


def test_the_schedule_is_the_same_for_every_way() -> None:
    first = schedule(BIG)
    assert first == schedule(replace(BIG, way="bare global", options={"keep_below": 0.2}, sabotage="rule"))
    assert first != schedule(replace(BIG, seed=8))


# --- the simulation ---------------------------------------------------------------------------------------------------


def simulated(spec: Spec) -> simulation.Found:
    reserved = 3 if spec.engine == "postgresql" else 0
    keep_below = 1.0 if spec.sabotage == "rule" else float(spec.options.get("keep_below", 0.6))
    return simulate(spec, Database(spec.max_connections - reserved, others=spec.others, keep_below=keep_below))


def measured(*numbers: str) -> list[object]:
    return [
        pytest.param(outcome, id=f"{number}-{outcome.spec.seed}")
        for number in numbers
        for outcome in MEASURED.get(number, [])
    ]


@pytest.mark.parametrize("outcome", measured("1", "2", "4", "4b", "6", "6b", "10"))
def test_it_says_what_was_measured(outcome: Outcome) -> None:
    """Whether anybody fails, whether anybody is refused, and how many logins there are."""
    found = simulated(outcome.spec)
    assert found.invocations == pytest.approx(outcome.invocations, abs=3)
    assert bool(found.failed) is bool(outcome.failed)
    assert bool(found.refused) is bool(outcome.refused)
    if not outcome.failed:
        let_in = outcome.logins - outcome.refused
        assert found.logins - found.refused == pytest.approx(let_in, rel=0.2)


def test_the_measured_runs_are_there() -> None:
    assert {"1", "2", "4", "6", "6b", "10"} <= set(MEASURED)


def test_the_page_shows_them() -> None:
    assert page.BEGIN + page.table() + page.END in page.PATH.read_text()


def test_what_must_hold_held() -> None:
    """Of each run that was measured last."""
    wrong = {
        each.number: missing
        for each in RUNS
        for outcome in MEASURED.get(each.number, [])
        if (missing := broken(outcome, each.expected))
    }
    assert wrong == {}
    if "11b" in MEASURED:
        assert MEASURED["11b"][0].refused > MEASURED["6b"][0].refused


@pytest.mark.parametrize("keep_below", [0.0, 0.2, 0.38])
def test_up_to_the_plans_value_nobody_is_refused(keep_below: float) -> None:
    found = simulate(Traffic(), Database(97, keep_below=keep_below))
    assert (found.failed, found.refused) == (0, 0)
    assert found.most_sessions <= 97
    assert max(sample.kept for sample in found.samples) <= keep_below * 97


def test_a_simulation_is_repeatable() -> None:
    assert vars(simulate(Traffic(seed=3), Database(97))) == vars(simulate(Traffic(seed=3), Database(97)))


def test_a_bare_global_fails_most() -> None:
    found = simulate(Traffic(), Database(97, keep_below=1.0, session_idle=0.0))
    assert found.failed > found.invocations / 2


def test_without_a_pause_most_logins_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a fast server, as in the simulation: on a busy one, each login is itself a pause."""
    with_pauses = simulate(Traffic(), Database(97))
    monkeypatch.setattr("lambda_pool.cli.plan.simulation.crowded_backoff", lambda left, chance: 0.0)
    at_once = simulate(Traffic(), Database(97))
    assert with_pauses.failed == 0
    assert with_pauses.refused_part < 0.2
    assert at_once.refused_part > 0.5
