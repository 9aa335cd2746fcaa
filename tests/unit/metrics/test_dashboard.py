"""The dashboard, its alarms and queries: complete, and accepted by the API they are for."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.session import get_session

from lambda_pool.cli import main
from lambda_pool.metrics.definitions import DIMENSIONS, METRICS
from lambda_pool.metrics.panels import ALARMS, PANELS, QUERIES

from .emf_schema import read

Capture = pytest.CaptureFixture[str]
ARGUMENTS = ["dashboard", "--function", "orders-fn", "--pool", "orders"]


@pytest.fixture
def api(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return get_session().create_client("cloudwatch", region_name="eu-central-1", endpoint_url=moto_url)


def printed(capsys: Capture, *arguments: str) -> Any:
    assert main([*ARGUMENTS, *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_metric_is_drawn_and_no_axis_mixes_units() -> None:
    assert {line.metric for panel in PANELS for line in panel.lines} == set(METRICS)
    for panel in PANELS:
        assert panel.unit(right=False) is not None
        for line in panel.lines:
            assert METRICS[line.metric].unit == panel.unit(right=line.right)


def test_alarms_and_queries_know_their_metrics() -> None:
    for alarm in ALARMS:
        assert {metric for metric, _ in alarm.metrics.values()} <= set(METRICS)
        assert all(name in (alarm.expression or name) for name in alarm.metrics)
        assert 0 < alarm.minutes <= alarm.of
    five = {panel.question.rstrip("?") for panel in PANELS}
    assert five == {query.question.partition("?")[0] for query in QUERIES}


def test_the_api_takes_dashboard_and_alarms(api: Any, capsys: Capture) -> None:
    found = printed(capsys, "--format", "json", "--region", "eu-central-1", "--topic", "arn:aws:sns:eu-central-1:1:t")
    api.put_dashboard(**found["PutDashboard"])
    for alarm in found["PutMetricAlarm"]:
        api.put_metric_alarm(**alarm)
    stored = api.get_dashboard(DashboardName="orders-fn-orders-connections")["DashboardBody"]
    widgets = json.loads(stored)["widgets"]
    assert len(widgets) == len(PANELS) + 1 + len(QUERIES)
    assert len({(widget["x"], widget["y"]) for widget in widgets}) == len(widgets)
    alarms = api.describe_alarms()["MetricAlarms"]
    assert {alarm["AlarmName"] for alarm in alarms} == {
        f"orders-fn-orders-connections-{alarm.name}" for alarm in ALARMS
    }


def test_graphs_name_the_dimensions_that_are_emitted(capsys: Capture) -> None:
    found = printed(capsys, "--format", "json", "--region", "eu-central-1", "--service", "checkout")
    widgets = json.loads(found["PutDashboard"]["DashboardBody"])["widgets"]
    metrics = [metric for widget in widgets for metric in widget["properties"].get("metrics", [])]
    ours = [metric for metric in metrics if metric[0] == "lambda_pool"]
    assert len(ours) == sum(len(panel.lines) for panel in PANELS)
    for metric in ours:
        names = metric[2:-1]
        assert tuple(names[::2]) == DIMENSIONS
        assert names[1::2] == ["checkout", "orders-fn", "orders"]


def test_cloudformation_says_the_same(capsys: Capture) -> None:
    api_input = printed(capsys, "--format", "json", "--region", "eu-central-1")
    resources = printed(capsys, "--format", "cloudformation")["Resources"]
    properties = resources.pop("Dashboard")["Properties"]
    text = properties["DashboardBody"]["Fn::Sub"]
    assert text.count("${") == text.count("${AWS::Region}") > 0
    filled = json.loads(text.replace("${AWS::Region}", "eu-central-1"))
    assert filled == json.loads(api_input["PutDashboard"]["DashboardBody"])
    assert {resource["Type"] for resource in resources.values()} == {"AWS::CloudWatch::Alarm"}
    assert [resource["Properties"] for resource in resources.values()] == api_input["PutMetricAlarm"]


def test_names_that_need_care(capsys: Capture) -> None:
    arguments = ["dashboard", "--function", "orders-fn", "--pool", 'größe ${x} "q"', "--region", "eu-central-1"]
    for style in ("json", "cloudformation", "queries"):
        assert main([*arguments, "--format", style]) == 0
        out = capsys.readouterr().out
        assert "größe" not in out
        if style == "cloudformation":
            found = json.loads(out)["Resources"]["Dashboard"]["Properties"]
            assert found["DashboardName"] == "orders-fn-gr--e---x---q--connections"
            assert "${!x}" in found["DashboardBody"]["Fn::Sub"]
        if style == "queries":
            assert r'filter pool = "gr??e ${x} \"q\""' in out


def test_queries_for_each_question(capsys: Capture) -> None:
    assert main([*ARGUMENTS, "--format", "queries"]) == 0
    out = capsys.readouterr().out
    assert out.count('filter pool = "orders"') == len(QUERIES)


def test_a_region_is_needed(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    assert main([*ARGUMENTS, "--format", "json"]) == 2
    assert "--region" in capsys.readouterr().err


def test_the_picture_in_the_documentation_is_of_this_dashboard() -> None:
    """After a change of panels: python scripts/draw_dashboard.py."""
    path = Path(__file__).parents[3] / "scripts" / "draw_dashboard.py"
    spec = importlib.util.spec_from_file_location("draw_dashboard", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    lines = script.RUN.read_text().splitlines()
    assert len(read(lines).documents) == len(lines) > 100
    assert script.draw(lines) == script.PICTURE.read_text()


def test_the_documentation_has_every_metric_and_query() -> None:
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    for name, definition in METRICS.items():
        assert f"| {name} | {definition.unit} | {definition.meaning} |" in text
    for query in QUERIES:
        assert query.text.format(pool="orders") in text


def test_the_templates_dashboard_is_as_the_script_writes_it() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import refresh_template as r; print(r.filled(r.TEMPLATE.read_text()) == r.TEMPLATE.read_text())",
        ],
        cwd=Path(__file__).resolve().parents[3] / "scripts",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "True\n", f"run scripts/refresh_template.py {done.stderr}"
