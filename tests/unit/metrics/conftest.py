from __future__ import annotations

import pytest

from lambda_pool.metrics import collector


class Clock:
    """Wall and monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.mono = 1_000.0

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.mono += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The collector's clock, standing still until it is moved."""
    clock = Clock()
    monkeypatch.setattr(collector, "time", lambda: clock.wall)
    monkeypatch.setattr(collector, "monotonic", lambda: clock.mono)
    return clock


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function's environment, and none of Powertools' variables."""
    for name in ("NAMESPACE", "DISABLED"):
        monkeypatch.delenv(f"POWERTOOLS_METRICS_{name}", raising=False)
    for name in ("POWERTOOLS_SERVICE_NAME", "POWERTOOLS_DEV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders-fn")
