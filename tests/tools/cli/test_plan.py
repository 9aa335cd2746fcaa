"""`lambda-pool plan`: the arithmetic, what it asks real servers and AWS, and what it prints."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import psycopg
import pytest
from botocore.stub import ANY, Stubber
from hypothesis import given
from hypothesis import strategies as st

from lambda_pool.cli import main
from lambda_pool.cli.plan import chart, live, report
from lambda_pool.cli.plan.sizing import Figures, Fit, ProxyAdvice, plan
from lambda_pool.cli.terminal import Terminal
from lambda_pool.testing import MariaDbServer, PostgresServer

FIGURES = Figures(max_connections=200, environments=60, reserved=3, others=7)


def sized(**changes: Any) -> Figures:
    return Figures(**{**vars(FIGURES), **changes})


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_the_simplest_case() -> None:
    made = plan(FIGURES)
    assert (made.available, made.budget, made.per_environment) == (190, 152, 1)
    assert (made.now.connections, made.doubled.connections) == (60, 120)
    assert made.now.fit is made.doubled.fit is Fit.FITS
    assert made.reserved_concurrency == 152
    assert made.proxy is ProxyAdvice.NO
    assert made.most is None


@pytest.mark.parametrize(
    ("changes", "now", "proxy"),
    [
        ({"environments": 76}, Fit.FITS, ProxyAdvice.NO),
        ({"environments": 77}, Fit.FITS, ProxyAdvice.SOON),
        ({"environments": 152}, Fit.FITS, ProxyAdvice.SOON),
        ({"environments": 153}, Fit.TIGHT, ProxyAdvice.YES),
        ({"environments": 190}, Fit.TIGHT, ProxyAdvice.YES),
        ({"environments": 191}, Fit.TOO_MANY, ProxyAdvice.YES),
        ({"environments": 10, "workers": 16}, Fit.TIGHT, ProxyAdvice.YES),
        ({"environments": 10, "workers": 4, "max_size": 2}, Fit.FITS, ProxyAdvice.SOON),
        ({"environments": 500, "proxy_percent": 90}, Fit.TOO_MANY, ProxyAdvice.THERE),
    ],
)
def test_where_the_lines_are(changes: dict[str, int], now: Fit, proxy: ProxyAdvice) -> None:
    made = plan(sized(**changes))
    assert (made.now.fit, made.proxy) == (now, proxy)


def test_lambda_throttles_what_its_bounds_do_not_allow() -> None:
    made = plan(sized(reserved_concurrency=100, account_concurrency=1000))
    assert (made.doubled.environments, made.doubled.throttled) == (100, True)
    assert made.now.throttled is False
    assert made.most is not None
    assert made.most.connections == 100
    # What the functions want decides about a proxy, not what it lets through.
    assert plan(sized(environments=500, reserved_concurrency=100)).proxy is ProxyAdvice.YES


def test_a_proxy_takes_its_share_and_lends_by_the_transaction() -> None:
    made = plan(sized(environments=900, proxy_percent=50, rate=400.0, query_seconds=0.1))
    assert made.available == 100
    assert made.backend == 48
    assert made.reserved_concurrency is None
    assert report.good(made)
    assert not report.good(plan(sized(environments=900, proxy_percent=50, rate=4000.0, query_seconds=0.1)))


def test_the_rules_of_thumb() -> None:
    made = plan(sized(cores=4, spindles=1, rate=100.0, query_seconds=0.25))
    assert [formula.connections for formula in made.formulas] == [9, 30, 3]
    assert [formula.connections for formula in plan(FIGURES).formulas] == [None, None, 3]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"environments": 0}, "environments=0"),
        ({"max_connections": 0}, "max_connections=0"),
        ({"workers": 0}, "workers=0"),
        ({"max_size": -1}, "max_size=-1"),
        ({"others": -1}, "others=-1"),
        ({"headroom": 1.0}, "headroom=1.0"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"rate": float("inf")}, "rate=inf"),
        ({"proxy_percent": 101}, "proxy_percent=101"),
        ({"reserved_concurrency": -1}, "reserved_concurrency=-1"),
    ],
)
def test_figures_that_cannot_be(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        plan(sized(**changes))


figures = st.builds(
    Figures,
    max_connections=st.integers(1, 20_000),
    environments=st.integers(1, 10_000),
    reserved=st.integers(0, 50),
    others=st.integers(0, 20_000),
    workers=st.integers(1, 64),
    max_size=st.integers(1, 10),
    reserved_concurrency=st.none() | st.integers(0, 10_000),
    account_concurrency=st.none() | st.integers(0, 10_000),
    proxy_percent=st.none() | st.integers(1, 100),
    headroom=st.floats(0, 0.99),
    rate=st.none() | st.floats(0, 1e6),
    query_seconds=st.none() | st.floats(0, 1e3),
    cores=st.none() | st.integers(0, 256),
)


@given(figures)
def test_what_is_to_be_reserved_is_the_most_that_the_budget_holds(given_figures: Figures) -> None:
    made = plan(given_figures)
    assert 0 <= made.budget <= made.available <= given_figures.max_connections
    if made.reserved_concurrency is not None:
        assert made.reserved_concurrency * made.per_environment <= made.budget
        assert (made.reserved_concurrency + 1) * made.per_environment > made.budget
        bounded = plan(Figures(**{**vars(given_figures), "reserved_concurrency": made.reserved_concurrency}))
        assert bounded.now.fit is bounded.doubled.fit is Fit.FITS
    assert made.doubled.connections >= made.now.connections


@given(figures)
def test_every_plan_can_be_said_and_drawn(given_figures: Figures) -> None:
    made = plan(given_figures)
    assert " ".join(report.lines(made, [], Terminal(io.StringIO()))).partition("  ")[0].endswith(".")
    assert json.loads(json.dumps(report.as_json(made, [])))["good"] is report.good(made)
    drawing = ElementTree.fromstring(chart.svg(made))
    for element in drawing.iter():
        for name in ("x", "y"):
            value = element.get(name)
            assert value is None or -1 <= float(value) <= 720
    rows = chart.text(made).splitlines()
    assert 19 <= len(rows) <= 21
    assert all(len(row) <= 80 for row in rows)


def test_the_chart_draws_the_line_the_limit_and_the_marks() -> None:
    made = plan(FIGURES)
    for drawn in (chart.svg(made), chart.text(made)):
        for text in ("limit 190", "budget 152", "now 60", "doubled 120", "to reserve 152"):
            assert text in drawn
    rows = chart.text(made).splitlines()
    # The line rises from the lower left.
    assert rows[15].startswith("     0 |*")
    stars = [row.index("*") for row in rows[:16] if "*" in row]
    assert stars == sorted(stars, reverse=True)


# --- the command ------------------------------------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["plan", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_from_figures(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "--max-connections", "200", "--others", "7", "--environments", "60")
    assert code == 0
    assert out.startswith("It fits, today and when the traffic has doubled")
    assert "200 max_connections - 3 reserved - 7 of others" in out
    assert "60 environments x 1 max_size" in out
    assert "limit 190" in out
    said = " ".join(out.split())
    assert re.search(r" \? cores x 2 [^?]*: give --cores ", said)
    assert re.search(r" \? peak rate [^?]*: give --rate and --query-time ", said)


def test_environments_by_rate_and_duration(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--max-connections", "100", "--rate", "150", "--duration", "0.4", "--json")
    code, out, _ = command(capsys, *arguments)
    answer = json.loads(out)
    assert code == 0
    assert answer["figures"]["environments"] == 60
    assert answer["formulas"][1]["connections"] == 72


def test_a_bad_finding_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "--max-connections", "100", "--environments", "90", "--workers", "2")
    assert code == 1
    assert "180 connections at the peak, and 77 in the budget" in out
    # With several workers it is Managed Instances', where a concurrency counts invocations and not environments.
    assert "set MaxExecutionEnvironments to 38 and let Lambda throttle the rest" in out
    assert "\nMaxExecutionEnvironments to set: 38 (the budget, 2 for each environment).\n" in out
    assert "to set 38" in out
    assert "reserve" not in out.replace("3 reserved", "")


def test_what_bounds_environments_of_one_worker_is_their_concurrency(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "--max-connections", "100", "--environments", "90")
    assert code == 1
    assert "reserve a concurrency of 77 and let Lambda throttle the rest" in " ".join(out.split())
    assert "\nReserved concurrency to set: 77 (the budget, 1 for each environment).\n" in out
    assert "MaxExecutionEnvironments" not in out


@pytest.mark.parametrize(("workers", "reserve", "most"), [("1", 77, None), ("2", None, 38)])
def test_programs_are_told_which_of_the_two_to_set(
    workers: str, reserve: int | None, most: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = command(capsys, "--max-connections", "100", "--environments", "9", "--workers", workers, "--json")
    answer = json.loads(out)
    assert (answer["reserved_concurrency"], answer["max_execution_environments"]) == (reserve, most)


def test_no_bound_of_zero_is_advised(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "--max-connections", "30", "--environments", "1", "--workers", "32")
    assert code == 1
    assert " ".join(out.split()).startswith(
        "32 connections at the peak, and 21 in the budget, too few for even one environment: "
        "put an RDS Proxy in front. "
    )
    assert "to set: not even one environment fits into the budget." in out


def test_the_chart_goes_to_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "chart.svg"
    code, out, _ = command(capsys, "--max-connections", "100", "--environments", "10", "--chart", str(file))
    assert code == 0
    assert ElementTree.fromstring(file.read_text()).tag.endswith("svg")
    assert str(file) in out


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["--environments", "10"], "--max-connections, or --instance with its class, or --acu"),
        (["--max-connections", "10"], "--environments, or --rate and --duration"),
        (["--max-connections", "10", "--environments", "0"], "environments=0"),
        (["--live", "--url", "oracle://db", "--environments", "1"], "postgresql:// or mysql://"),
        (
            ["--max-connections", "10", "--environments", "2", "--rate", "100", "--query-time", "1e308"],
            "rate=100.0 with query_seconds=1e+308",
        ),
    ],
)
def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str], arguments: list[str], fix: str) -> None:
    code, out, err = command(capsys, *arguments)
    assert (code, out) == (2, "")
    assert fix in err


# --- real servers -----------------------------------------------------------------------------------------------------


def test_a_postgresql_tells_its_limits(capsys: pytest.CaptureFixture[str]) -> None:
    with PostgresServer() as postgres:  # a server of its own: no other sessions must be counted
        postgres.execute("create role planner login password 'planner'")
        url = postgres.url(user="planner", password="planner")
        [(limit,)] = postgres.execute("select current_setting('max_connections')::int")
        with psycopg.connect(postgres.url()), psycopg.connect(url):  # somebody else's, and one of the function
            code, out, _ = command(capsys, url, "--environments", "1", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["figures"]["max_connections"] == limit
    assert answer["figures"]["reserved"] == 3
    assert answer["figures"]["others"] == 1
    assert any("max_connections" in source for source in answer["asked"])


def test_a_mariadb_tells_its_limits(mariadb: MariaDbServer, capsys: pytest.CaptureFixture[str]) -> None:
    mariadb.execute("create or replace user planner@'%' identified by 'planner'")
    mariadb.execute("grant process on *.* to planner@'%'")
    mariadb.execute(f"grant all on {mariadb.database}.* to planner@'%'")
    [(limit,)] = mariadb.execute("select @@max_connections")
    url = mariadb.url(user="planner", password="planner")
    code, out, _ = command(capsys, "--live", "--url", url, "--environments", "1", "--others", "5", "--json")
    answer = json.loads(out)
    assert code == 0
    assert (answer["figures"]["max_connections"], answer["figures"]["reserved"]) == (limit, 0)
    assert answer["figures"]["others"] == 5  # the given value wins


@pytest.mark.sampled(1 / 3, "5 s")
def test_a_server_that_is_not_there_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql://app:hunter2@localhost:1/app?connect_timeout=1"
    code, _, err = command(capsys, "--live", "--url", url, "--environments", "1")
    assert code == 2
    assert "could not connect" in err
    assert "hunter2" not in err


# --- AWS --------------------------------------------------------------------------------------------------------------


class FakeAws:
    """botocore's own stubs, checked against its service models."""

    def __init__(self) -> None:
        self.stubs: dict[str, Stubber] = {}
        session = botocore.session.get_session()
        for service in ("lambda", "cloudwatch", "rds"):
            aws = session.create_client(
                service, region_name="eu-central-1", aws_access_key_id="key", aws_secret_access_key="secret"
            )
            self.stubs[service] = Stubber(aws)
            self.stubs[service].activate()

    def client(self, service: str, region: str | None) -> Any:
        return self.stubs[service].client


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    fake = FakeAws()
    monkeypatch.setattr(live, "client", fake.client)
    yield fake
    for stub in fake.stubs.values():
        stub.assert_no_pending_responses()


def function(aws: FakeAws, *, reserved: int | None, managed: bool = False, size: str | None = None) -> None:
    described: dict[str, Any] = {"FunctionName": "orders"}
    if managed:
        described["CapacityProviderConfig"] = {
            "LambdaManagedInstancesCapacityProviderConfig": {
                "CapacityProviderArn": "arn:aws:lambda:eu-central-1:123456789012:capacity-provider:p",
                "PerExecutionEnvironmentMaxConcurrency": 32,
            }
        }
    if size is not None:
        described["Environment"] = {"Variables": {"LAMBDA_POOL_MAX_SIZE": size, "SECRET": "hunter2"}}
    stub = aws.stubs["lambda"]
    stub.add_response("get_function_configuration", described, {"FunctionName": "orders"})
    stub.add_response(
        "get_account_settings",
        {"AccountLimit": {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 700}},
        {},
    )
    concurrency = {} if reserved is None else {"ReservedConcurrentExecutions": reserved}
    stub.add_response("get_function_concurrency", concurrency, {"FunctionName": "orders"})


def metrics(aws: FakeAws, peak: list[float], invocations: list[float]) -> None:
    now = datetime.now(UTC)
    results = [
        {"Id": "concurrentexecutions", "Values": peak, "Timestamps": [now] * len(peak)},
        {"Id": "invocations", "Values": invocations, "Timestamps": [now] * len(invocations)},
    ]
    expected = {"MetricDataQueries": ANY, "StartTime": ANY, "EndTime": ANY}
    aws.stubs["cloudwatch"].add_response("get_metric_data", {"MetricDataResults": results}, expected)


def test_a_function_tells_its_figures(aws: FakeAws, capsys: pytest.CaptureFixture[str]) -> None:
    function(aws, reserved=40, size="2")
    metrics(aws, [7.0, 31.0, 12.0], [600.0, 9000.0])
    code, out, _ = command(capsys, "--max-connections", "200", "--function", "orders", "--json")
    answer = json.loads(out)
    assert code == 0
    found = answer["figures"]
    assert (found["environments"], found["max_size"], found["workers"]) == (31, 2, 1)
    assert (found["reserved_concurrency"], found["account_concurrency"], found["rate"]) == (40, 1000, 30.0)
    assert answer["most"]["connections"] == 80
    assert "hunter2" not in out


def test_managed_instances_workers_count(aws: FakeAws, capsys: pytest.CaptureFixture[str]) -> None:
    function(aws, reserved=None, managed=True)
    metrics(aws, [3.0], [])
    code, out, _ = command(capsys, "--max-connections", "100", "--function", "orders")
    assert code == 1
    assert "3 environments x 32 workers x 1 max_size" in out
    assert "workers 32 (Lambda)" in out


def test_a_function_that_has_not_run_needs_a_figure(aws: FakeAws, capsys: pytest.CaptureFixture[str]) -> None:
    function(aws, reserved=None)
    metrics(aws, [], [])
    code, _, err = command(capsys, "--max-connections", "100", "--function", "orders")
    assert code == 2
    assert "--environments" in err


def test_a_proxy_tells_its_share(aws: FakeAws, capsys: pytest.CaptureFixture[str]) -> None:
    groups = {"TargetGroups": [{"ConnectionPoolConfig": {"MaxConnectionsPercent": 60}}]}
    aws.stubs["rds"].add_response("describe_db_proxy_target_groups", groups, {"DBProxyName": "orders"})
    arguments = ("--max-connections", "100", "--environments", "500", "--rate", "100", "--query-time", "0.1")
    code, out, _ = command(capsys, *arguments, "--proxy", "orders")
    assert code == 0
    assert "The proxy needs about 12 of its 60 connections at the peak." in out


def test_what_aws_refuses_is_said(aws: FakeAws, capsys: pytest.CaptureFixture[str]) -> None:
    aws.stubs["lambda"].add_client_error(
        "get_function_configuration", "ResourceNotFoundException", "Function not found: orders"
    )
    code, _, err = command(capsys, "--max-connections", "100", "--function", "orders")
    assert code == 2
    assert "Function not found: orders" in err


@contextmanager
def without_aws(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield


def test_without_a_region_aws_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with without_aws(monkeypatch, tmp_path):
        code, _, err = command(capsys, "--max-connections", "100", "--function", "orders")
    assert code == 2
    assert "region" in err


# --- the fleet --------------------------------------------------------------------------------------------------------


def test_what_counts_is_what_runs_at_once() -> None:
    made = plan(Figures(max_connections=100, environments=1000, running=60, reserved=3))
    assert made.now.connections == 60
    assert made.proxy is not ProxyAdvice.YES
    assert made.fleet is not None
    assert (made.fleet.keep_below, made.fleet.kept, made.fleet.limit) == (0.38, 36, 97)
    assert [(cost.keep_below, cost.without_room) for cost in made.fleet.costs] == [(0.6, 21), (0.8, 40), (1.0, 60)]
    text = " ".join(report.lines(made, [], Terminal(io.StringIO())))
    assert "keep_below to set: 0.38" in text
    assert "put an RDS Proxy" not in text
    assert report.good(made)


def test_many_environments_alone_need_no_proxy() -> None:
    made = plan(Figures(max_connections=100, environments=1000, reserved=3))
    assert "no more than 77 run at once: say how many do with --running" in report.verdict(made)


def test_more_at_work_than_there_is_room_for() -> None:
    made = plan(Figures(max_connections=50, environments=1000, running=60))
    assert made.fleet is not None
    assert made.fleet.keep_below == 0
    assert made.proxy is ProxyAdvice.YES


@pytest.mark.parametrize("changes", [{"workers": 4}, {"proxy_percent": 90}])
def test_where_nothing_freezes_or_a_proxy_shares_nothing_is_to_be_kept(changes: dict[str, int]) -> None:
    assert plan(sized(**changes)).fleet is None


@given(figures, st.integers(1, 10_000))
def test_with_the_planned_value_kept_and_at_work_fit(given_figures: Figures, running: int) -> None:
    made = plan(Figures(**{**vars(given_figures), "running": running}))
    if made.fleet is not None and made.fleet.keep_below:
        assert made.fleet.keep_below * made.fleet.limit + made.fleet.at_work <= made.fleet.limit + 1e-6
        assert all(cost.keep_below > made.fleet.keep_below and cost.without_room > 0 for cost in made.fleet.costs)


def test_running_must_be_a_number_of_invocations() -> None:
    with pytest.raises(ValueError, match="running=0"):
        plan(sized(running=0))


FLEET = ["plan", "--max-connections", "100", "--environments", "1000", "--running", "60", "--simulate"]


def test_a_simulation_is_printed_and_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(FLEET) == 0
    out = capsys.readouterr().out
    assert re.search(r"failed +0  of 3,\d{3} invocations", out)
    assert "limit 97" in out
    picture = tmp_path / "fleet.svg"
    assert main([*FLEET, "--chart", str(picture)]) == 0
    assert ElementTree.fromstring(picture.read_text()).tag.endswith("svg")


def test_a_simulation_says_if_somebody_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FLEET, "--keep-below", "1", "--duration", "4", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["failed"] > 0
    assert found["refused"] <= found["logins"]
    assert found["database"]["keep_below"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--keep-below", "1.5"], "--keep-below 1.5 is not valid"),
        (["--functions", "0"], "--functions 0 is not valid"),
        (["--duration", "0"], "--duration 0.0 is not valid"),
        (["--proxy-percent", "90"], "for environments that freeze"),
        (["--environments", "2000000"], "give a smaller --environments"),
    ],
)
def test_a_simulation_of_what_cannot_be(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FLEET, *arguments]) == 2
    assert said in capsys.readouterr().err
