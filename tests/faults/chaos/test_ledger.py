"""The ledger, both engines: writes under faults, one fault for every five writes, and the books agree."""

import pytest

from tests.support.speed import FULL

from .ledger import run
from .schedule import WAYS, Way, make_failover, make_schedule
from .table import render

SEED = 1
INVOCATIONS = 5000 if FULL else 300
FAULTS = INVOCATIONS / 5


@pytest.mark.sampled(1, "23 s a case")
@pytest.mark.runtime
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_nothing_is_lost(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = run(engine, make_schedule(SEED, INVOCATIONS), WAYS)
    with capsys.disabled():
        print(f"\nseed {SEED}, {render(ledger)}")
    assert len(ledger.seen) >= INVOCATIONS
    assert len(ledger.strikes) >= FAULTS
    assert sum(strike.frozen for strike in ledger.strikes) >= FAULTS / 10
    assert all(strike.hit for strike in ledger.strikes if strike.frozen or strike.environment is not None)
    ledger.check()


PROXIED: tuple[Way, ...] = ("proxy", "secret", "proxy")


@pytest.mark.runtime
@pytest.mark.timeout(300)
@pytest.mark.parametrize("when", ["live", "frozen", "frozen, and thawed before the new writer writes"])
@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
@pytest.mark.sampled(1 / 2, "starts two servers and an environment")
def test_nothing_is_lost_in_a_failover(engine: str, when: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The writer is killed, and another, which has received every commit that was acknowledged, takes its place."""
    acts = make_failover(SEED, PROXIED, frozen=when != "live", late="before" in when)
    ledger = run(engine, acts, PROXIED)
    with capsys.disabled():
        print(f"\n{when}, {render(ledger)}")
    assert [strike.kind for strike in ledger.strikes] == ["failed over"]
    assert ledger.strikes[0].hit
    ledger.check()
