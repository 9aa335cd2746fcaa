"""The schedule: the same from the same seed, and rich enough."""

import subprocess
import sys

import pytest

from tests.support.runtime_api import ROOT

from . import schedule
from .schedule import DOORS, WAYS, expected_failures, faults, invocations, make_schedule, units

SEEDS = range(20)


def test_a_seed_decides_everything() -> None:
    assert make_schedule(7, 500) == make_schedule(7, 500)
    assert make_schedule(7, 500) != make_schedule(8, 500)


def test_also_in_another_process() -> None:
    code = "from tests.faults.chaos.schedule import make_schedule; print(make_schedule(7, 200))"
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(make_schedule(7, 200))


@pytest.mark.sampled(1 / 3, "8 s")
def test_five_thousand_invocations_have_a_thousand_faults() -> None:
    for seed in SEEDS:
        acts = make_schedule(seed, 5000)
        assert invocations(acts) >= 5000
        assert faults(acts) >= 1000


def test_every_door_and_every_fault_is_drawn() -> None:
    acts = make_schedule(1, 5000)
    steps = [step for act in acts for own in act.steps for step in own]
    assert {step.door for step in steps} == set(DOORS)
    for frozen, kinds in (
        (False, schedule._NETWORK | schedule._NAMESPACE | schedule._ANY | schedule._SECRET),
        (True, schedule._FROZEN_NETWORK | schedule._FROZEN_NAMESPACE | schedule._FROZEN_ANY),
    ):
        drawn = {step.fault.kind for step in steps if step.fault and (step.when == "frozen") is frozen}
        assert drawn >= set(kinds)
    for frozen, kinds in ((False, schedule._SERVER), (True, schedule._SERVER_FROZEN)):
        assert {act.fault.kind for act in acts if act.fault and act.frozen is frozen} == set(kinds)
    assert {act.late for act in acts if act.frozen} == {True, False}


def test_no_two_transactions_share_a_name() -> None:
    steps = [step for act in make_schedule(1, 2000) for own in act.steps for step in own]
    names = [unit for step in steps for unit in units(step)]
    assert len(names) == len(set(names))
    for step in steps:
        for engine in ("postgresql", "mysql"):
            assert expected_failures(step, engine) <= set(units(step))


def test_without_deaths_no_environment_is_killed() -> None:
    steps = [step for act in make_schedule(1, 5000, WAYS, deaths=False) for own in act.steps for step in own]
    assert not any(step.fault and step.fault.kind == "runtime killed" for step in steps)
