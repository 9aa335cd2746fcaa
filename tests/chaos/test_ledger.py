"""The ledger, both engines: thousands of writes under a thousand faults, and the books agree."""

import pytest

from .ledger import run
from .schedule import WAYS, make_schedule
from .table import render

SEED = 1
INVOCATIONS = 5000
FAULTS = 1000


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
