"""Nothing grows: a few thousand invocations under chaos. `make soak` runs a hundred thousand."""

from dataclasses import replace

import pytest

from .ledger import run
from .schedule import WAYS, make_schedule
from .soak import Meter, Sample, excess, growth

SEED = 1
INVOCATIONS = 3000
KIB = 3072
"""What an environment's memory may grow by within a short run, in which it is still warming up."""

FLAT = [Sample(environment, 50_000, 20, 2, 4) for environment in (0, 1) for _ in range(20)]


def grown(measure: str, by: int) -> list[Sample]:
    """The same, except that the first environment grows by this much in its second half."""
    return [
        replace(sample, **{measure: getattr(sample, measure) + by}) if 12 <= number < 20 else sample
        for number, sample in enumerate(FLAT)
    ]


def test_what_is_flat_passes() -> None:
    assert not excess(growth(FLAT), kib=1000)


@pytest.mark.parametrize(("measure", "by"), [("rss", 1001), ("descriptors", 2), ("threads", 2), ("sessions", 3)])
def test_what_grows_is_found(measure: str, by: int) -> None:
    [found] = excess(growth(grown(measure, by)), kib=1000)
    assert (found.environment, found.measure) == (0, measure)


def test_too_few_samples_prove_nothing() -> None:
    with pytest.raises(ValueError, match="too few"):
        growth(FLAT[:3])


@pytest.mark.runtime
@pytest.mark.slow("memory that grows shows after thousands of invocations")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_environments_stay_as_they_are(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter(every=60)
    ledger = run(engine, make_schedule(SEED, INVOCATIONS, share=0.1, steps=40, deaths=False), WAYS, watch=meter)
    found = growth(meter.samples)
    with capsys.disabled():
        print(f"\n{engine}: {len(ledger.seen)} invocations, {len(ledger.strikes)} faults, {ledger.seconds:.0f} s")
        print("\n".join(map(str, found)))
    ledger.check()
    assert not excess(found, kib=KIB)
