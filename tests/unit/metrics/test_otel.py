"""OpenTelemetry's own SDK reads what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from lambda_pool.errors import ConfigError
from lambda_pool.events import Closed, ConnectFailed, Forked, Opened, Reason, TimedOut
from lambda_pool.metrics import OtelMetrics
from lambda_pool.testing import FakeDriver


class Reader:
    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def read(self) -> dict[str, Any]:
        """name → the metric, with its data points."""
        data = self._reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def count(self, pool: str = "fake") -> dict[str, int]:
        """state → connections."""
        return {
            point.attributes["db.client.connection.state"]: point.value
            for point in self.read()["db.client.connection.count"].data.data_points
            if point.attributes["db.client.connection.pool.name"] == pool
        }


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.provider.shutdown()


def test_names_units_and_attributes_of_the_conventions(reader: Reader) -> None:
    pool = FakeDriver().pool(observers=[OtelMetrics(reader.provider)])
    for _ in range(3):
        with pool.connection():
            pass
    found = reader.read()
    assert {name: metric.unit for name, metric in found.items()} == {
        "db.client.connection.count": "{connection}",
        "db.client.connection.create_time": "s",
        "db.client.connection.wait_time": "s",
        "db.client.connection.use_time": "s",
    }
    for name, times in (("create_time", 1), ("wait_time", 3), ("use_time", 3)):
        (point,) = found[f"db.client.connection.{name}"].data.data_points
        assert point.count == times
        assert 0 < point.sum < 10
        assert dict(point.attributes) == {"db.client.connection.pool.name": "fake"}


def test_the_states_of_connections(reader: Reader) -> None:
    pool = FakeDriver().pool(max_size=2, observers=[OtelMetrics(reader.provider)])
    pool.warm()
    assert reader.count() == {"idle": 1}
    with pool.connection(), pool.connection():
        assert reader.count() == {"idle": 0, "used": 2}
    assert reader.count() == {"idle": 2, "used": 0}
    pool.close()
    assert reader.count() == {"idle": 0, "used": 0}


def test_connections_that_are_lost(reader: Reader) -> None:
    driver = FakeDriver()
    pool = driver.pool(observers=[OtelMetrics(reader.provider)])
    with pool.connection() as conn:
        conn.close()
    assert reader.count() == {"idle": 0, "used": 0}
    with pool.connection():
        pass
    driver.links[-1].kill()
    with pool.connection():
        assert reader.count() == {"idle": 0, "used": 1}
    assert reader.count() == {"idle": 1, "used": 0}


def test_timeouts(reader: Reader) -> None:
    OtelMetrics(reader.provider).on_event(TimedOut("fake", 5.0))
    (point,) = reader.read()["db.client.connection.timeouts"].data.data_points
    assert point.value == 1


def test_a_forked_child_has_none(reader: Reader) -> None:
    otel = OtelMetrics(reader.provider)
    for event in (Opened("fake", 0.01, 1, "db", 1), Opened("fake", 0.01, 1, "db", 2), Forked("fake")):
        otel.on_event(event)
    assert reader.count()["idle"] == 0


def test_what_it_has_no_name_for_is_passed_over(reader: Reader) -> None:
    otel = OtelMetrics(reader.provider)
    otel.on_event(Opened("fake", 0.01, 1, "db", 1))
    otel.on_event(ConnectFailed("fake", 0.1, 1, "unreachable", "refused", retrying=True))
    otel.on_event(Closed("fake", Reason.DEAD, 1.0, 1))
    assert reader.count() == {"idle": 0}


def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(ConfigError, match=r"lambda-pool\[otel\]"):
        OtelMetrics()
