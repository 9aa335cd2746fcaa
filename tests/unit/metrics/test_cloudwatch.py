"""PutMetricData, against a server that speaks CloudWatch's API."""

from __future__ import annotations

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from botocore.session import get_session

from lambda_pool import Pool, wsgi
from lambda_pool.errors import ConfigError
from lambda_pool.events import Closing, Event, Forked, InvocationEnded, Opened, Returned, TimedOut, Waited
from lambda_pool.metrics import cloudwatch
from lambda_pool.metrics.cloudwatch import PutMetrics
from lambda_pool.testing import PostgresServer
from tests.support.invoked import invoked
from tests.support.moto import empty

from .conftest import Clock


def borrow(held: float = 0.001) -> Returned:
    return Returned("orders", held, 2e-6, reused=True, in_use=1)


def ended(*, cold: bool = False) -> InvocationEnded:
    return InvocationEnded("orders", failed=False, cold=cold, request_id="r")


def tell(observer: PutMetrics, *events: Event) -> None:
    for event in events:
        observer.on_event(event)


@pytest.fixture
def api(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the server, which is empty and which AWS's variables point to."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    empty(moto_url)
    return get_session().create_client("cloudwatch", region_name="eu-central-1")


def stored(api: Any, metric: str, namespace: str = "lambda_pool") -> tuple[float, float, str]:
    """(sum, number, unit) of what the server has of a metric, with exactly our dimensions."""
    now = datetime.now(UTC)
    points = api.get_metric_statistics(
        Namespace=namespace,
        MetricName=metric,
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(hours=1),
        Period=86_400,
        Statistics=["Sum", "SampleCount"],
        Dimensions=[
            {"Name": "service", "Value": "orders-fn"},
            {"Name": "function_name", "Value": "orders-fn"},
            {"Name": "pool", "Value": "orders"},
        ],
    )["Datapoints"]
    units = {point["Unit"] for point in points}
    return sum(p["Sum"] for p in points), sum(p["SampleCount"] for p in points), units.pop() if units else ""


def test_sums_arrive(api: Any, clock: Clock) -> None:
    put = PutMetrics()
    tell(put, Opened("orders", 0.012, 1, "db", 7), borrow(0.5), ended(cold=True))
    assert stored(api, "HoldTime") == (500_000, 1, "Microseconds")
    for number in range(1_000):
        tell(put, borrow(0.001 + number / 1e6), ended())
    assert stored(api, "HoldTime") == (500_000, 1, "Microseconds")  # gathered, not sent by hundreds
    clock.pass_time(60)
    tell(put, ended())
    assert stored(api, "HoldTime") == (500_000 + 1_000 * 1_000 + 499_500, 1_001, "Microseconds")
    assert stored(api, "ConnectionsReused") == (1_001, 2, "Count")
    assert stored(api, "ConnectTime") == (12_000, 1, "Microseconds")


def test_without_a_handler_the_interval_sends_too(api: Any, clock: Clock) -> None:
    put = PutMetrics()
    for _ in range(250):
        tell(put, borrow())
    assert stored(api, "HoldTime")[1] == 0
    clock.pass_time(60)
    for _ in range(50):
        tell(put, borrow())
    assert stored(api, "HoldTime")[1] == 300


def test_lines_that_fill_before_their_time_do_not_put_off_the_interval(api: Any, clock: Clock) -> None:
    put = PutMetrics()
    for _ in range(7):
        clock.pass_time(10)
        for _ in range(100):
            tell(put, Waited("orders", 0.001))
        tell(put, borrow(), ended())
    assert stored(api, "WaitTime")[1] >= 600


def test_trouble_is_sent_at_once_and_a_shutdown_sends_the_rest(api: Any) -> None:
    put = PutMetrics()
    tell(put, TimedOut("orders", 5.0))
    assert stored(api, "PoolTimeouts") == (1, 1, "Count")
    tell(put, borrow(), Closing("orders"), Closing("orders"))
    assert stored(api, "ConnectionsReused") == (1, 1, "Count")


def test_one_call_takes_many(api: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = watch(monkeypatch)
    put = PutMetrics()
    for number in range(1_000):
        tell(put, borrow(0.001 + number / 1e6))
    tell(put, Closing("orders"))
    assert len(calls) == 1
    assert all(len(datum["Values"]) == len(datum["Counts"]) <= 150 for datum in calls[0])
    assert stored(api, "HoldTime")[1] == 1_000


def test_own_namespace(api: Any) -> None:
    tell(PutMetrics(namespace="Shop"), borrow(), Closing("orders"))
    assert stored(api, "ConnectionsReused", "Shop") == (1, 1, "Count")
    assert stored(api, "ConnectionsReused") == (0, 0, "")


def watch(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> list[list[dict[str, Any]]]:
    """Every batch that is sent. The first calls raise `errors`."""
    calls: list[list[dict[str, Any]]] = []
    left = list(errors)
    real: Callable[..., Any] = cloudwatch._client

    class Client:
        def __init__(self, *wanted: Any) -> None:
            self._real = real(*wanted)

        def put_metric_data(self, **arguments: Any) -> Any:
            calls.append(arguments["MetricData"])
            if left:
                raise left.pop(0)
            return self._real.put_metric_data(**arguments)

    monkeypatch.setattr(cloudwatch, "_client", Client)
    return calls


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "PutMetricData")


@pytest.mark.sampled(3, "many cases")
@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (refused("Throttling"), True),
        (refused("AccessDenied"), False),
        (refused("InternalServiceFault"), False),
        (EndpointConnectionError(endpoint_url="https://monitoring"), True),
        (NoCredentialsError(), True),
        (ReadTimeoutError(endpoint_url="https://monitoring"), False),
    ],
    ids=str,
)
def test_a_failure_is_said_and_nothing_is_sent_twice(
    api: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, *, kept: bool
) -> None:
    watch(monkeypatch, error)
    put = PutMetrics()
    with caplog.at_level(logging.WARNING, "lambda_pool"):
        tell(put, borrow(), ended(cold=True))
    assert [record.name for record in caplog.records] == ["lambda_pool"]
    assert ("kept" in caplog.text, "lost" in caplog.text) == (kept, not kept)
    assert stored(api, "ConnectionsReused")[0] == 0
    tell(put, borrow(), Closing("orders"))
    assert stored(api, "ConnectionsReused")[0] == (2 if kept else 1)


def test_what_cannot_be_sent_is_bounded(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch, *[NoCredentialsError() for _ in range(3_000)])
    put = PutMetrics(interval=0)
    for _ in range(500):
        tell(put, borrow(), ended())
    assert len(put._unsent) == 1_000


# --- an invocation whose time runs out --------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[cloudwatch._Timeouts]:
    """The timeouts of each client that was made."""
    found: list[cloudwatch._Timeouts] = []
    real = cloudwatch._client

    def make(session: Any, region: str | None, timeouts: cloudwatch._Timeouts) -> Any:
        found.append(timeouts)
        return real(session, region, timeouts)

    monkeypatch.setattr(cloudwatch, "_client", make)
    return found


@pytest.mark.parametrize("left", [800, 1_000, 3_000, 4_200, 900_000])
def test_a_call_fits_into_what_the_invocation_has_left(
    api: Any, made: list[cloudwatch._Timeouts], left: int, clock: Clock
) -> None:
    put = PutMetrics()
    for _ in range(2):
        with invoked(lambda: left):
            tell(put, borrow(), ended())
        clock.pass_time(61)
    tell(put, ended())
    (timeouts,) = made[:1]
    # Connecting, the TLS handshake and the answer.
    assert 2 * timeouts.connect + timeouts.read <= left / 1000 - 0.1
    assert len(made) == len(set(made))  # made once for each, and kept
    assert stored(api, "ConnectionsReused")[0] == 2


@pytest.mark.parametrize("left", [-5, 0, 500])
def test_without_time_for_a_call_the_numbers_wait_for_the_next_report(
    api: Any, made: list[cloudwatch._Timeouts], left: int
) -> None:
    put = PutMetrics()
    with invoked(lambda: left):
        tell(put, TimedOut("orders", 1.0), borrow(), ended(cold=True))
    assert made == []
    assert stored(api, "PoolTimeouts")[0] == 0
    with invoked(lambda: 1_000):
        tell(put, borrow(), ended(cold=True))
    assert stored(api, "PoolTimeouts")[0] == 1
    assert stored(api, "ConnectionsReused")[0] == 2


def test_the_time_that_making_a_client_takes_counts(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    left = 5_000
    real = cloudwatch._client

    def make(*wanted: Any) -> Any:
        nonlocal left
        left = 300
        return real(*wanted)

    monkeypatch.setattr(cloudwatch, "_client", make)
    put = PutMetrics()
    with invoked(lambda: left):
        tell(put, borrow(), ended(cold=True))
    assert stored(api, "ConnectionsReused")[0] == 0
    tell(put, Closing("orders"))
    assert stored(api, "ConnectionsReused")[0] == 1


def test_a_shutdown_sends_whatever_its_invocation_has_left(api: Any) -> None:
    put = PutMetrics()
    with invoked(lambda: 0):
        tell(put, borrow(), Closing("orders"))
    assert stored(api, "ConnectionsReused")[0] == 1


def test_what_finds_no_time_is_bounded(made: list[cloudwatch._Timeouts]) -> None:
    put = PutMetrics(interval=0)
    with invoked(lambda: 0):
        for _ in range(500):
            tell(put, borrow(), ended())
    assert (len(put._unsent), made) == (1_000, [])


def test_a_cloudwatch_that_never_answers_costs_an_invocation_its_rest_at_most(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cloudwatch, "_PATIENT", cloudwatch._Timeouts(1.0, 20.0))  # a hang, and no matter of moments
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    put = PutMetrics()
    with socket.create_server(("127.0.0.1", 0)) as silent, invoked(lambda: 2_000):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        tell(put, borrow(), ended(cold=True))
    assert time.monotonic() - begin < 10
    assert "did not take" in caplog.text


@pytest.mark.parametrize(("seconds", "calls"), [(30.0, 1), (0.7, 0)])
def test_nor_does_it_cost_a_request_more(
    postgres: PostgresServer, api: Any, monkeypatch: pytest.MonkeyPatch, seconds: float, calls: int
) -> None:
    """Its answer may wait for the report."""
    sent = watch(monkeypatch)
    pool = Pool(postgres.url(), observers=[PutMetrics(interval=0)])

    def application(environ: object, start_response: Any) -> list[bytes]:
        with pool.connection():
            start_response("200 OK", [])
        return [b""]

    answer = wsgi.Middleware(application, pool, request_timeout=seconds)({}, lambda *_: None)
    list(answer)
    answer.close()  # type: ignore[attr-defined]
    assert len(sent) == calls
    pool.close()


def test_many_addresses_share_the_time_for_connecting(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudwatch, "count_addresses", lambda client: 4)
    client = cloudwatch._client(get_session(), "eu-central-1", cloudwatch._PATIENT)
    config = client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (0.25, 2.0)
    assert config.retries == {"mode": "standard", "total_max_attempts": 1}


def test_a_forked_child_sends_nothing_of_its_parent(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch, NoCredentialsError())
    put = PutMetrics()
    tell(put, borrow(), ended(cold=True))
    assert put._unsent
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # from Python 3.12 on: the server's threads are ours to keep
        child = os.fork()
    if child == 0:
        try:
            tell(put, Forked("orders"))
            os._exit(len(put._unsent))
        finally:
            os._exit(99)
    assert os.waitpid(child, 0)[1] == 0


def test_without_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudwatch, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"lambda-pool\[aws\]"):
        PutMetrics()
