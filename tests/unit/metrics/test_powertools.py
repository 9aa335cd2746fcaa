"""Reports under the namespace of a Metrics that the user has."""

from __future__ import annotations

from typing import Any

import pytest
from aws_lambda_powertools import Metrics
from aws_lambda_powertools.metrics import EphemeralMetrics

from lambda_pool.errors import ConfigError
from lambda_pool.events import (
    Closed,
    Closing,
    ConnectFailed,
    InvocationEnded,
    Leaked,
    Opened,
    Reason,
    Returned,
    SlowQuery,
    TimedOut,
)
from lambda_pool.metrics import PowertoolsMetrics
from lambda_pool.testing import FakeDriver
from tests.support.invoked import invoked

from .emf_schema import read

Capture = pytest.CaptureFixture[str]


class Context:
    aws_request_id = "r-1"
    function_name = "orders-fn"
    memory_limit_in_mb = 128
    invoked_function_arn = "arn:aws:lambda:eu-central-1:1:function:orders-fn"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 10_000


@pytest.fixture
def metrics() -> Any:
    """A Metrics with nothing left in the dictionaries that all of them share."""
    found = Metrics(namespace="Shop", service="checkout")
    found.clear_metrics()
    yield found
    found.clear_default_dimensions()
    found.clear_metrics()


def tell(observer: PowertoolsMetrics) -> None:
    observer.on_event(Returned("orders", 0.001, 2e-6, reused=True, in_use=1))
    observer.on_event(InvocationEnded("orders", failed=False, cold=True, request_id="r"))


def test_under_the_users_namespace_and_service(metrics: Any, capsys: Capture) -> None:
    tell(PowertoolsMetrics(metrics))
    sums = read(capsys.readouterr().out)
    assert sums.namespaces() == {"Shop"}
    assert sums.sum("ConnectionsReused", service="checkout", function_name="orders-fn", pool="orders") == 1


def test_with_the_users_default_dimensions(metrics: Any, capsys: Capture) -> None:
    metrics.set_default_dimensions(environment="prod")
    tell(PowertoolsMetrics(metrics))
    (found, *_) = read(capsys.readouterr().out).metrics
    assert found[1]["Dimensions"] == [["service", "function_name", "pool", "environment"]]
    assert found[0]["environment"] == "prod"


PROPERTIES = ("host", "backend_id", "reason", "error_class", "error", "waited", "where", "held", "statement", "seconds")


def test_no_property_takes_the_place_of_the_users_dimension(metrics: Any, capsys: Capture) -> None:
    own = {name: f"own-{name}" for name in (*PROPERTIES, "request_id")}
    metrics.set_default_dimensions(**own)
    observer = PowertoolsMetrics(metrics)
    with invoked(lambda: 60_000, request_id="r-1"):
        for event in (
            Opened("orders", 0.012, 1, "db", 7),
            Closed("orders", Reason.DEAD, 1.0, 7),
            SlowQuery("orders", 1.0, "select 1"),
            ConnectFailed("orders", 0.1, 1, "unreachable", "refused", retrying=True),
            TimedOut("orders", 5.0),
            Leaked("orders", 5.0, "app.py:1", ""),
            Closing("orders"),
        ):
            observer.on_event(event)
    documents = read(capsys.readouterr().out).documents
    assert len(documents) > 5
    for document in documents:
        assert document | own == document


@pytest.mark.parametrize("pool_outside", [True, False])
def test_beside_log_metrics_in_either_order(metrics: Any, capsys: Capture, *, pool_outside: bool) -> None:
    pool = FakeDriver().pool(observers=[PowertoolsMetrics(metrics, interval=0)])

    def sell(event: Any, context: Any, conn: Any) -> str:
        metrics.add_metric("Sold", "Count", 3)
        return "ok"

    handler = pool.handler(metrics.log_metrics(sell)) if pool_outside else metrics.log_metrics(pool.handler(sell))
    for _ in range(2):
        assert handler({}, Context()) == "ok"
    sums = read(capsys.readouterr().out)
    assert sums.namespaces() == {"Shop"}
    assert (sums.sum("Sold"), sums.sum("ConnectionsOpened"), sums.sum("ConnectionsReused")) == (6, 1, 1)
    assert all(("pool" in document) is ("Sold" not in document) for document in sums.documents)


def test_another_metrics_of_the_process_takes_nothing_of_it(metrics: Any, capsys: Capture) -> None:
    observer = PowertoolsMetrics(metrics)
    observer.on_event(Returned("orders", 0.001, 2e-6, reused=True, in_use=1))
    other = Metrics(namespace="Warehouse", service="stock")
    other.add_metric("Moved", "Count", 1)
    other.flush_metrics()
    assert {name for _, _, name, _ in read(capsys.readouterr().out).metrics} == {"Moved"}
    observer.on_event(Closing("orders"))
    assert read(capsys.readouterr().out).namespaces() == {"Shop"}


def test_an_ephemeral_one(capsys: Capture) -> None:
    tell(PowertoolsMetrics(EphemeralMetrics(namespace="Shop")))
    sums = read(capsys.readouterr().out)
    assert (sums.namespaces(), sums.sum("ConnectionsReused", service="orders-fn")) == ({"Shop"}, 1)


def test_switched_off_by_its_variable(metrics: Any, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_DISABLED", "true")
    tell(PowertoolsMetrics(metrics))
    assert capsys.readouterr().out == ""


def test_what_is_no_metrics() -> None:
    with pytest.raises(ConfigError, match="must be a Powertools Metrics"):
        PowertoolsMetrics("Shop")
    with pytest.raises(ConfigError, match="no namespace"):
        PowertoolsMetrics(EphemeralMetrics())
