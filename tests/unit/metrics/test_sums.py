"""Whatever happens, in whatever order: what goes in comes out, once, in valid lines."""

from __future__ import annotations

import contextlib
import io
import signal
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_pool import events
from lambda_pool.events import Event, Reason, Returned
from lambda_pool.metrics import collector
from lambda_pool.metrics.emf import EmfMetrics
from lambda_pool.metrics.numbers import _drain
from tests.support.speed import examples

from .conftest import Clock
from .emf_schema import read

GAUGES = {"ConnectionsOpen", "ConnectionsInUse"}

pools = st.sampled_from(["orders", "stock"])
seconds = st.floats(0, 900, allow_nan=False)
texts = st.text(max_size=600)
small = st.integers(0, 2**31)
reasons = st.sampled_from(list(Reason))

happenings = st.one_of(
    st.builds(events.Opened, pools, seconds, st.integers(1, 9), texts, small),
    st.builds(events.ConnectFailed, pools, seconds, st.integers(1, 9), texts, texts, st.booleans()),
    st.builds(events.Pinged, pools, seconds, st.booleans()),
    st.builds(events.Replaced, pools, reasons, seconds, seconds, small),
    st.builds(events.Closed, pools, reasons, seconds, small),
    st.builds(events.Waited, pools, seconds),
    st.builds(events.TimedOut, pools, seconds),
    st.builds(events.Returned, pools, seconds, seconds, st.booleans(), st.integers(1, 9)),
    st.builds(events.RolledBack, pools, texts),
    st.builds(events.Leaked, pools, seconds, texts, texts),
    st.builds(events.CredentialsRefreshed, pools),
    st.builds(events.EndpointRefreshed, pools, texts),
    st.builds(events.SlowQuery, pools, seconds, texts),
    st.builds(events.InvocationEnded, pools, st.booleans(), st.booleans(), st.uuids().map(str)),
    st.builds(events.Closing, pools),
    st.builds(events.Reused, pools, seconds),
    st.builds(events.CheckedOut, pools, seconds),
)
# A burst of the same: a report line fills up, or many details gather.
bursts = st.tuples(happenings, st.integers(1, 130)).map(lambda pair: [pair[0]] * pair[1])
# Time passes, an environment freezes for hours on one clock or both, a clock is set back.
pauses = st.tuples(
    st.sampled_from([0.0, 1.0, 59.0, 61.0, 86400.0, -3600.0]), st.sampled_from([0.0, 0.5, 61.0, 86400.0])
)


def micros(value: float) -> int:
    return int(value * 1e6 + 0.5)


def expected(told: list[Event]) -> dict[tuple[str, str], float]:
    """The sum of each (pool, metric), by the meaning of each metric."""
    sums: Counter[tuple[str, str]] = Counter()

    def add(event: Event, metric: str, value: int = 1) -> None:
        sums[event.pool, metric] += value

    for event in told:
        match event:
            case events.Opened():
                add(event, "ConnectionsOpened")
                add(event, "ConnectTime", micros(event.seconds))
            case events.ConnectFailed():
                add(event, "ConnectErrors")
            case events.Pinged():
                add(event, "PingTime", micros(event.seconds))
            case events.Replaced():
                add(event, "ConnectionsReplaced")
            case events.Closed():
                add(event, "ConnectionsClosed")
            case events.Waited():
                add(event, "WaitTime", micros(event.seconds))
            case events.TimedOut():
                add(event, "PoolTimeouts")
            case events.Returned():
                add(event, "HoldTime", micros(event.held))
                add(event, "CheckoutTime", micros(event.checkout))
                add(event, "ConnectionsReused", int(event.reused))
            case events.RolledBack():
                add(event, "TransactionsRolledBack")
            case events.Leaked():
                add(event, "ConnectionsLeaked")
            case events.CredentialsRefreshed():
                add(event, "CredentialsRefreshed")
            case events.EndpointRefreshed():
                add(event, "EndpointRefreshed")
            case events.SlowQuery():
                add(event, "SlowQueries")
    return {key: value for key, value in sums.items() if value}


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.one_of(bursts, pauses), max_size=25), st.sampled_from([0.0, 60.0]))
def test_what_goes_in_comes_out_once(story: list[list[Event] | tuple[float, float]], interval: float) -> None:
    clock = Clock()
    told: list[Event] = []
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(collector, "time", lambda: clock.wall)
        patch.setattr(collector, "monotonic", lambda: clock.mono)
        emf = EmfMetrics(interval=interval)
        for chapter in story:
            if isinstance(chapter, tuple):
                clock.wall += chapter[0]
                clock.mono += chapter[1]
                continue
            for event in chapter:
                emf.on_event(event)
                told.append(event)
        for _ in range(2):  # a shutdown, and one more: nothing is left for it
            for pool in ("orders", "stock"):
                emf.on_event(events.Closing(pool))
        after = out.tell()
        emf.on_event(events.Closing("orders"))
        assert out.tell() == after
    sums = read(out.getvalue())
    counted = {key: value for key, value in sums.totals().items() if key[1] not in GAUGES and value}
    assert counted == expected(told)
    for metric, kind in (("HoldTime", Returned), ("WaitTime", events.Waited), ("ConnectTime", events.Opened)):
        assert len(sums.values(metric)) == sum(type(event) is kind for event in told)


def test_a_shutdown_in_the_middle_of_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    """Lambda's signal may come at any instruction: nothing is told twice, and nothing waits for ever."""
    emf = EmfMetrics()
    closings = 0

    def close(number: int, frame: Any) -> None:
        nonlocal closings
        closings += 1
        emf.on_event(events.Closing("orders"))

    before = signal.signal(signal.SIGALRM, close)
    told = 0
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0003)
        while closings < 300 and told < 500_000:
            emf.on_event(Returned("orders", 0.001, 2e-6, reused=True, in_use=1))
            told += 1
            if told % 7 == 0:
                emf.on_event(events.InvocationEnded("orders", failed=True, cold=False, request_id="r"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    emf.on_event(events.Closing("orders"))
    sums = read(capsys.readouterr().out)
    assert closings >= 300
    assert sums.sum("ConnectionsReused") == len(sums.values("HoldTime")) == told


def test_what_is_appended_meanwhile_is_kept() -> None:
    class Raced(list[int]):
        """Another thread appends between the two steps of taking."""

        def __getitem__(self, index: Any) -> Any:
            taken = super().__getitem__(index)
            self.append(3)
            return taken

    values = Raced([1, 2])
    assert _drain(values) == [1, 2]
    assert values == [3]
