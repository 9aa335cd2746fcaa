"""When EmfMetrics reports, and what stands in the lines."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from lambda_pool.errors import ConfigError
from lambda_pool.events import (
    CheckedOut,
    Closed,
    Closing,
    ConnectFailed,
    CredentialsRefreshed,
    Crowded,
    EndpointRefreshed,
    Event,
    Forked,
    InvocationEnded,
    Leaked,
    Opened,
    Pinged,
    Reason,
    Replaced,
    Returned,
    Reused,
    RolledBack,
    SlowQuery,
    TimedOut,
    Waited,
)
from lambda_pool.metrics.definitions import METRICS
from lambda_pool.metrics.emf import EmfMetrics
from tests.support.invoked import invoked

from .conftest import Clock
from .emf_schema import Sums, read

Capture = pytest.CaptureFixture[str]


def ended(*, failed: bool = False, cold: bool = False) -> InvocationEnded:
    return InvocationEnded("orders", failed, cold, "r-1")


def borrow(held: float = 0.001, *, pool: str = "orders") -> Returned:
    return Returned(pool, held, 2e-6, reused=True, in_use=1)


def tell(observer: EmfMetrics, *events: Event) -> None:
    for event in events:
        observer.on_event(event)


@pytest.fixture
def emf(clock: Clock) -> EmfMetrics:
    return EmfMetrics()


class TestWhen:
    def test_the_first_invocation_reports(self, emf: EmfMetrics, capsys: Capture) -> None:
        tell(emf, Opened("orders", 0.012, 1, "db", 7), Returned("orders", 0.5, 0.013, reused=False, in_use=1))
        assert capsys.readouterr().out == ""
        tell(emf, ended(cold=True))
        sums = read(capsys.readouterr().out)
        assert sums.totals() == {
            ("orders", "ConnectionsOpened"): 1,
            ("orders", "ConnectTime"): 12_000,
            ("orders", "CheckoutTime"): 13_000,
            ("orders", "HoldTime"): 500_000,
            ("orders", "ConnectionsOpen"): 1,
            ("orders", "ConnectionsInUse"): 1,
        }

    def test_warm_invocations_wait_for_the_interval(self, emf: EmfMetrics, clock: Clock, capsys: Capture) -> None:
        tell(emf, borrow(), ended(cold=True))
        capsys.readouterr()
        for _ in range(59):
            clock.pass_time(1)
            tell(emf, borrow(), ended())
        assert capsys.readouterr().out == ""
        clock.pass_time(1)
        tell(emf, borrow(), ended())
        sums = read(capsys.readouterr().out)
        assert len(sums.documents) == 1
        assert sums.sum("ConnectionsReused") == 60
        assert sums.values("HoldTime") == [1_000] * 60

    @pytest.mark.parametrize("which", ["wall", "mono"])
    def test_either_clock_may_say_that_time_passed(
        self, emf: EmfMetrics, clock: Clock, capsys: Capture, which: str
    ) -> None:
        tell(emf, borrow(), ended())
        setattr(clock, which, getattr(clock, which) + 60)
        tell(emf, ended())
        assert read(capsys.readouterr().out).sum("ConnectionsReused") == 1

    def test_a_clock_set_back_reports(self, emf: EmfMetrics, clock: Clock, capsys: Capture) -> None:
        tell(emf, borrow(), ended())
        clock.wall -= 3600
        tell(emf, ended())
        assert read(capsys.readouterr().out).sum("ConnectionsReused") == 1

    def test_a_failed_invocation_reports(self, emf: EmfMetrics, capsys: Capture) -> None:
        tell(emf, borrow(), ended(failed=True))
        assert read(capsys.readouterr().out).sum("ConnectionsReused") == 1

    @pytest.mark.parametrize(
        "event",
        [
            ConnectFailed("orders", 0.1, 3, "unreachable", "refused", retrying=False),
            TimedOut("orders", 5.0),
            Leaked("orders", 9.0, "app.py:3 in work", ""),
        ],
        ids=lambda event: type(event).__name__,
    )
    def test_trouble_reports_at_once(self, emf: EmfMetrics, capsys: Capture, event: Event) -> None:
        tell(emf, borrow(), event)
        sums = read(capsys.readouterr().out)
        assert sums.sum("ConnectionsReused") == 1
        assert len(sums.documents) == 2

    def test_an_attempt_that_is_retried_waits_for_the_end(self, emf: EmfMetrics, capsys: Capture) -> None:
        tell(emf, ConnectFailed("orders", 0.1, 1, "unreachable", "refused", retrying=True))
        assert capsys.readouterr().out == ""
        tell(emf, Opened("orders", 0.01, 2, "db", 7), ended())
        assert read(capsys.readouterr().out).sum("ConnectErrors", error_class="unreachable") == 1

    def test_closing_reports_once(self, emf: EmfMetrics, capsys: Capture) -> None:
        tell(emf, borrow(), ended(), Closing("orders"))
        assert read(capsys.readouterr().out).sum("ConnectionsReused") == 1
        tell(emf, Closing("orders"), ended(cold=True))
        assert capsys.readouterr().out == ""

    def test_a_hundred_values_report_their_times_alone(self, emf: EmfMetrics, capsys: Capture) -> None:
        for _ in range(250):
            tell(emf, borrow(), ended())
        sums = read(capsys.readouterr().out)
        assert [len(document["HoldTime"]) for document in sums.documents] == [100, 100]
        assert {name for _, name in sums.totals()} == {"HoldTime", "CheckoutTime"}
        tell(emf, Closing("orders"))
        rest = read(capsys.readouterr().out)
        assert (rest.sum("ConnectionsReused"), len(rest.values("HoldTime"))) == (250, 50)

    def test_without_a_handler_time_is_noticed_too(self, emf: EmfMetrics, clock: Clock, capsys: Capture) -> None:
        for _ in range(100):
            clock.pass_time(1)
            tell(emf, borrow())
        assert read(capsys.readouterr().out).sum("ConnectionsReused") == 100

    def test_many_details_do_not_pile_up(self, emf: EmfMetrics, capsys: Capture) -> None:
        for number in range(1_000):
            tell(emf, Opened("orders", 0.01, 1, "db", number), Closed("orders", Reason.DEAD, 1.0, number))
        emitted = read(capsys.readouterr().out)
        assert emitted.sum("ConnectionsOpened") > 950

    def test_no_interval_is_every_invocation(self, clock: Clock, capsys: Capture) -> None:
        emf = EmfMetrics(interval=0)
        for _ in range(3):
            tell(emf, borrow(), ended())
        assert len(read(capsys.readouterr().out).documents) == 3

    @pytest.mark.parametrize("interval", [-1, float("nan"), float("inf"), "60", True, None])
    def test_a_wrong_interval(self, interval: Any) -> None:
        with pytest.raises(ConfigError, match="interval="):
            EmfMetrics(interval=interval)

    def test_a_report_that_fails_is_said_and_goes_no_further(
        self, emf: EmfMetrics, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", None)
            with caplog.at_level(logging.ERROR, "lambda_pool"):
                tell(emf, borrow(), ended(cold=True))
        assert [record.getMessage() for record in caplog.records] == ["pool orders: metrics could not be reported"]


class TestWhat:
    def test_every_metric_has_its_unit(self, emf: EmfMetrics, capsys: Capture) -> None:
        tell(
            emf,
            Opened("orders", 0.012, 1, "db", 7),
            ConnectFailed("orders", 0.1, 1, "unreachable", "refused", retrying=True),
            Replaced("orders", Reason.LIFETIME, 1800.0, 3.0, 7),
            Closed("orders", Reason.LIFETIME, 1800.0, 7),
            Pinged("orders", 0.0005, alive=True),
            Crowded("orders", 61, 100, kept=False),
            Waited("orders", 0.02),
            RolledBack("orders", "error"),
            CredentialsRefreshed("orders"),
            EndpointRefreshed("orders", "db2"),
            SlowQuery("orders", 2.5, "select pg_sleep(%s)"),
            borrow(),
            Leaked("orders", 9.0, "app.py:3 in work", ""),
            TimedOut("orders", 5.0),
            Closing("orders"),
        )
        sums = read(capsys.readouterr().out)
        assert sums.units() == {name: definition.unit for name, definition in METRICS.items()}
        for name, unit in sums.units().items():
            wanted = "Microseconds" if name.endswith("Time") else "Percent" if name.endswith("Used") else "Count"
            assert unit == wanted

    def test_dimensions_are_few_and_the_same_everywhere(self, emf: EmfMetrics, capsys: Capture) -> None:
        tell(emf, Replaced("orders", Reason.DEAD, 1.0, 1.0, 7), borrow(), ended(cold=True))
        for document, directive, _, _ in read(capsys.readouterr().out).metrics:
            assert directive["Dimensions"] == [["service", "function_name", "pool"]]
            assert directive["Namespace"] == "lambda_pool"
            assert [document[name] for name in ("service", "function_name", "pool")] == ["orders-fn"] * 2 + ["orders"]

    def test_details_are_properties(self, emf: EmfMetrics, capsys: Capture) -> None:
        with invoked(None, request_id="8b0a1c5e"):
            tell(
                emf,
                Opened("orders", 0.01, 1, "db.example", 7),
                Replaced("orders", Reason.LIFETIME, 1800.0, 3.0, 7),
                Closed("orders", Reason.LIFETIME, 1800.0, 7),
                Closed("orders", Reason.DEAD, 1800.0, 8),
                RolledBack("orders", "failed transaction"),
                SlowQuery("orders", 2.5, "select pg_sleep(%s)"),
                ConnectFailed("orders", 0.1, 1, "too_many", "FATAL: sorry, too many clients already", retrying=False),
            )
        sums = read(capsys.readouterr().out)
        assert all(document["request_id"] == "8b0a1c5e" for document in sums.documents)
        assert sums.sum("ConnectionsOpened", backend_id=7, host="db.example") == 1
        assert sums.sum("ConnectionsReplaced", reason="lifetime", backend_id=7) == 1
        assert sums.sum("ConnectionsClosed", reason="lifetime") == 1
        assert sums.sum("ConnectionsClosed", reason="dead", backend_id=8) == 1
        assert sums.sum("TransactionsRolledBack", reason="failed transaction") == 1
        assert sums.sum("SlowQueries", statement="select pg_sleep(%s)", seconds=2.5) == 1
        error = "FATAL: sorry, too many clients already"
        assert sums.sum("ConnectErrors", error_class="too_many", error=error) == 1

    def test_the_most_open_and_in_use(self, emf: EmfMetrics, capsys: Capture) -> None:
        tell(emf, Opened("orders", 0.01, 1, "db", 1), Opened("orders", 0.01, 1, "db", 2))
        tell(emf, Returned("orders", 0.1, 0.01, reused=False, in_use=2), borrow())
        tell(emf, Closed("orders", Reason.IDLE, 1.0, 1), Closing("orders"))
        first = read(capsys.readouterr().out)
        assert (first.values("ConnectionsOpen"), first.values("ConnectionsInUse")) == ([2], [2])
        tell(emf, borrow(), Closing("orders"))
        second = read(capsys.readouterr().out)
        assert (second.values("ConnectionsOpen"), second.values("ConnectionsInUse")) == ([1], [1])

    def test_how_full_the_server_was_is_said_once_and_at_its_fullest(self, emf: EmfMetrics, capsys: Capture) -> None:
        tell(emf, Crowded("orders", 61, 100, kept=False), Crowded("orders", 40, 100, kept=True), Closing("orders"))
        assert read(capsys.readouterr().out).values("ServerConnectionsUsed") == [61]
        tell(emf, borrow(), Closing("orders"))
        assert read(capsys.readouterr().out).values("ServerConnectionsUsed") == []

    def test_twenty_different_details_are_reported_at_once(self, emf: EmfMetrics, capsys: Capture) -> None:
        tell(emf, *[Opened("orders", 0.01, 1, "db", number) for number in range(19)])
        assert capsys.readouterr().out == ""
        tell(emf, Opened("orders", 0.01, 1, "db", 19))
        assert read(capsys.readouterr().out).sum("ConnectionsOpened") == 20

    def test_a_long_text_is_cut(self, emf: EmfMetrics, capsys: Capture) -> None:
        tell(emf, ConnectFailed("orders", 0.01, 1, "other", "x" * 500, retrying=False))
        assert read(capsys.readouterr().out).sum("ConnectErrors", error="x" * 300) == 1

    def test_a_line_is_written_in_one_piece(self, emf: EmfMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another thread's output may come between two writes."""
        written: list[str] = []
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=written.append, flush=lambda: None))
        tell(emf, borrow(), Opened("orders", 0.01, 1, "db", 1), Closing("orders"))
        assert len(written) == 2
        assert all(text.endswith("\n") and json.loads(text) for text in written)

    def test_two_pools_do_not_mix(self, emf: EmfMetrics, capsys: Capture) -> None:
        tell(emf, borrow(), borrow(pool="stock"), borrow(pool="stock"), Closing("orders"))
        assert read(capsys.readouterr().out).sum("ConnectionsReused") == 1
        tell(emf, Closing("stock"))
        assert read(capsys.readouterr().out).sum("ConnectionsReused", pool="stock") == 2

    @pytest.mark.parametrize("name", ["größe", " ", ":colon", "x" * 5_000, "tab\tbed", 'quo"ted'])
    def test_any_pool_name_makes_a_dimension(self, emf: EmfMetrics, capsys: Capture, name: str) -> None:
        tell(emf, borrow(pool=name), Closing(name))
        assert read(capsys.readouterr().out).sum("ConnectionsReused") == 1

    def test_powertools_variables_are_heard(self, clock: Clock, capsys: Capture, monkeypatch: Any) -> None:
        monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Shop")
        monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "checkout")
        tell(EmfMetrics(), borrow(), ended(cold=True))
        sums = read(capsys.readouterr().out)
        assert sums.namespaces() == {"Shop"}
        assert sums.sum("ConnectionsReused", service="checkout", function_name="orders-fn") == 1

    def test_arguments_win(self, clock: Clock, capsys: Capture, monkeypatch: Any) -> None:
        monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Shop")
        tell(EmfMetrics(namespace="Stock", service="s"), borrow(), ended(cold=True))
        sums = read(capsys.readouterr().out)
        assert (sums.namespaces(), sums.sum("ConnectionsReused", service="s")) == ({"Stock"}, 1)

    @pytest.mark.parametrize(
        ("name", "value", "silent"),
        [
            ("POWERTOOLS_METRICS_DISABLED", "true", True),
            ("POWERTOOLS_DEV", "1", True),
            ("POWERTOOLS_METRICS_DISABLED", "false", False),
        ],
    )
    def test_powertools_can_switch_it_off(
        self, clock: Clock, capsys: Capture, monkeypatch: Any, name: str, value: str, silent: bool
    ) -> None:
        monkeypatch.setenv(name, value)
        tell(EmfMetrics(), borrow(), ended(cold=True))
        assert (capsys.readouterr().out == "") is silent

    def test_checkouts_are_counted_once_if_told_of_twice(self, emf: EmfMetrics, capsys: Capture) -> None:
        tell(emf, Reused("orders", 1e-6), CheckedOut("orders", 1e-2), borrow(), Closing("orders"))
        sums = read(capsys.readouterr().out)
        assert (sums.sum("ConnectionsReused"), sums.values("CheckoutTime")) == (1, [2])


class TestPowertools:
    def test_its_provider_would_write_the_same(self, clock: Clock, capsys: Capture) -> None:
        from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

        tell(EmfMetrics(), Opened("orders", 0.012, 1, "db", 7), *[borrow() for _ in range(3)], ended(cold=True))
        documents = read(capsys.readouterr().out).documents
        assert len(documents) > 1
        for each in documents:
            del each["_aws"]["Timestamp"]
            [directive] = each["_aws"]["CloudWatchMetrics"]
            metrics = {
                metric["Name"]: {"Unit": metric["Unit"], "StorageResolution": 60, "Value": each[metric["Name"]]}
                for metric in directive["Metrics"]
            }
            [names] = directive["Dimensions"]
            dimensions = {name: each[name] for name in names}
            rest = {name: each[name] for name in each.keys() - {"_aws", *metrics, *dimensions}}
            provider = AmazonCloudWatchEMFProvider(namespace=directive["Namespace"], dimension_set=dimensions)
            theirs: dict[str, Any] = dict(provider.serialize_metric_set(metrics, dimensions, rest))
            del theirs["_aws"]["Timestamp"]
            assert theirs == each

    def test_what_the_user_gathers_is_not_touched(self, emf: EmfMetrics, clock: Clock, capsys: Capture) -> None:
        from aws_lambda_powertools import Metrics

        metrics = Metrics(namespace="Shop", service="checkout")
        metrics.add_metric("Sold", "Count", 3)
        tell(emf, borrow())
        clock.pass_time(60)
        tell(emf, ended())
        assert read(capsys.readouterr().out).namespaces() == {"lambda_pool"}
        tell(emf, borrow())
        metrics.flush_metrics()
        users = read(capsys.readouterr().out)
        assert {name for _, _, name, _ in users.metrics} == {"Sold"}
        assert users.namespaces() == {"Shop"}


class TestProcesses:
    def test_a_forked_child_reports_nothing_of_its_parent(self, emf: EmfMetrics, capfd: Any) -> None:
        tell(emf, Opened("orders", 0.01, 1, "db", 7), borrow(), borrow())
        child = os.fork()
        if child == 0:
            try:
                tell(emf, Forked("orders"), borrow(), Closing("orders"))
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        of_child = read(capfd.readouterr().out)
        assert of_child.totals() == {
            ("orders", "ConnectionsReused"): 1,
            ("orders", "CheckoutTime"): 2,
            ("orders", "HoldTime"): 1_000,
            ("orders", "ConnectionsOpen"): 0,
            ("orders", "ConnectionsInUse"): 1,
        }
        tell(emf, Closing("orders"))
        of_parent = read(capfd.readouterr().out)
        assert (of_parent.sum("ConnectionsReused"), of_parent.sum("ConnectionsOpened")) == (2, 1)

    def test_a_fork_while_another_thread_reports(self, emf: EmfMetrics, capfd: Any) -> None:
        """The child must not wait for a lock whose holder does not exist in it."""
        held, release = threading.Event(), threading.Event()

        def report() -> None:
            with emf._lock:
                held.set()
                release.wait(10)

        thread = threading.Thread(target=report)
        thread.start()
        assert held.wait(10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, for just this
            child = os.fork()
        if child == 0:
            try:
                tell(emf, Forked("orders"), borrow(), Closing("orders"))
            finally:
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        release.set()
        thread.join(10)
        assert (status, read(capfd.readouterr().out).sum("ConnectionsReused")) == (0, 1)

    def test_threads_lose_nothing(self, emf: EmfMetrics, capsys: Capture) -> None:
        def work() -> None:
            for _ in range(2_000):
                tell(emf, borrow(), Waited("orders", 0.001))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            tell(emf, Closing("orders"))
        for thread in threads:
            thread.join(60)
        tell(emf, Closing("orders"))
        sums = read(capsys.readouterr().out)
        assert sums.sum("ConnectionsReused") == 8_000
        assert len(sums.values("HoldTime")) == len(sums.values("WaitTime")) == 8_000


def test_lines_are_compact_json(emf: EmfMetrics, capsys: Capture) -> None:
    tell(emf, borrow(), ended(cold=True))
    (line,) = capsys.readouterr().out.splitlines()
    assert line == json.dumps(json.loads(line), separators=(",", ":"))


def test_sums_reads_what_others_wrote() -> None:
    assert Sums().totals() == {}
