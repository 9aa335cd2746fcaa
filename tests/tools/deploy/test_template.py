"""template.yaml: valid, complete for every way to deploy, and in step with the package's own definitions."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import lambda_pool
from lambda_pool.api import core_of
from lambda_pool.auth.iam import IamToken
from lambda_pool.auth.secrets import SecretsManager
from lambda_pool.cli import main
from lambda_pool.config import DEFAULT_PREFIX, make, read_environment
from lambda_pool.endpoints.base import Role
from lambda_pool.endpoints.rds import AuroraCluster, RdsProxy
from lambda_pool.metrics.definitions import DIMENSIONS, METRICS

from .conftest import BY_SECRET, CLUSTER, HOST, INSTANCE, NETWORK, PROXY, ROOT, SCENARIOS, SECRET, run_sam
from .stack import PROXY_HOST, REGION, Stack

pytestmark = pytest.mark.slow("needs the SAM CLI, which transforms the template")

TEXT = (ROOT / "template.yaml").read_text()


def test_sam_and_cfn_lint_have_nothing_to_say() -> None:
    for name, *arguments in (["cfn-lint", "template.yaml"], ["sam", "validate", "--lint", "-t", "template.yaml"]):
        done = run_sam(name, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_cfn_lint_has_nothing_to_say_about_what_sam_makes_of_it(template: dict[str, Any], tmp_path: Path) -> None:
    transformed = tmp_path / "template.json"
    transformed.write_text(json.dumps(template))
    done = run_sam("cfn-lint", str(transformed))
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_rule_is_suppressed() -> None:
    assert "ignore_checks" not in TEXT
    assert not (ROOT / ".cfnlintrc").exists()


def test_every_way_to_deploy_is_complete(template: dict[str, Any], scenario: dict[str, str]) -> None:
    stack = Stack(template, scenario)  # raises for whatever refers to nothing
    assert stack.broken_rules == []
    assert {"FunctionArn", "LayerArn", "FunctionRoleArn", "LogGroupName"} <= set(stack.outputs)
    assert ("DatabaseUrl" in stack.outputs) == ("DiscoverByName" not in scenario)
    layers = [name for name, made in stack.resources.items() if made["Type"] == "AWS::Lambda::LayerVersion"]
    assert stack.resources["Function"]["Properties"]["Layers"] == layers
    assert stack.outputs["LayerArn"] == layers[0]


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({**PROXY}, "DatabaseHost, or DiscoverByName"),
        ({**CLUSTER, "DatabaseHost": HOST, "DiscoverByName": "orders"}, "one must be empty"),
        ({**INSTANCE, "DatabaseHost": "", "DiscoverByName": "orders"}, "give DatabaseHost"),
        ({**INSTANCE, "DatabaseResourceId": ""}, "needs DatabaseResourceId"),
        ({**INSTANCE, "Login": "secret"}, "needs SecretArn"),
        (BY_SECRET, "Login must be iam"),
        ({"DatabaseHost": HOST}, "has no DatabaseHost"),
        ({"DatabasePort": "6432"}, "DatabasePort must be empty"),
        ({**PROXY, "DatabaseHost": HOST, "DatabasePort": "6432"}, "DatabasePort must be empty"),
    ],
)
def test_a_wrong_combination_is_refused_before_anything_is_made(
    template: dict[str, Any], parameters: dict[str, str], complaint: str
) -> None:
    rules = Stack(template, {**NETWORK, **parameters}).broken_rules
    assert len(rules) == 1
    assert complaint in rules[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DatabaseName", 'app"; drop table orders'),
        ("DatabaseUser", "app'@'%"),
        ("DatabaseUser", "App"),
        ("DatabaseUser", "a" * 33),
        ("DatabaseHost", "orders.example:5432"),
        ("DatabaseHost", "postgresql://orders.example"),
        ("DatabasePort", "0"),
        ("DatabaseResourceId", "orders"),
        ("DatabaseResourceId", "arn:aws:rds:eu-central-1:123456789012:db-proxy:prx-0a1b2c3d4e5f60718"),
        ("DiscoverByName", "arn:aws:rds:eu-central-1:123456789012:cluster:orders"),
        ("SecretArn", "orders"),
        ("SecretArn", SECRET[:-7] + "*"),
        ("SecretKeyArn", "alias/aws/secretsmanager"),
        ("AlarmTopicArn", "on-call@example.com"),
        ("Architecture", "x86"),
        ("PermissionsBoundaryArn", "boundary"),
        ("LogKeyArn", "alias/logs"),
        ("EnvironmentKeyArn", "0f1e2d3c-aaaa-bbbb-cccc-123456abcdef"),
        ("ApplicationTag", "a<b"),
        ("EngineVersion", "latest"),
    ],
)
def test_a_wrong_value_is_refused(template: dict[str, Any], name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        Stack(template, {**NETWORK, name: value})


def test_the_secret_that_rds_keeps_is_one_too(template: dict[str, Any]) -> None:
    managed = (
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rds!db-0a1b2c3d-0000-1111-2222-333344445555-AbCdEf"
    )
    stack = Stack(template, {**NETWORK, **INSTANCE, "Login": "secret", "SecretArn": managed})
    SecretsManager(managed)  # refuses what is none
    assert managed in json.dumps(stack.resources["FunctionRole"])


def test_every_parameter_has_a_description_and_a_place_in_the_console() -> None:
    described = re.findall(r"^  (\w+):\n    Description: ", TEXT.partition("\nRules:")[0], re.MULTILINE)
    declared = re.findall(r"^  (\w+):\n", TEXT.partition("\nParameters:\n")[2].partition("\nRules:")[0], re.MULTILINE)
    listed = [name for names in re.findall(r"Parameters: \[(.*)\]", TEXT) for name in names.split(", ")]
    assert described == declared
    assert sorted(listed) == sorted(declared)


# --- the function's settings ------------------------------------------------------------------------------------------


def function(template: dict[str, Any], parameters: dict[str, str]) -> dict[str, Any]:
    properties: dict[str, Any] = Stack(template, {**NETWORK, **parameters}).resources["Function"]["Properties"]
    return properties


def test_the_pool_takes_the_functions_variables(template: dict[str, Any], scenario: dict[str, str]) -> None:
    variables = function(template, scenario)["Environment"]["Variables"]
    environment = read_environment(environ=variables)
    config = make(environment.url, environment.name, {}, environment.options)
    assert config.url.engine == scenario.get("Engine", "postgresql")
    assert (config.url.user, config.url.database, config.name) == ("app_function", "app", "app")
    assert config.url.password is None
    assert config.max_size == 1
    discovered = environment.rds_proxy or environment.aurora_cluster
    assert (config.url.host == "") == bool(discovered)


@pytest.mark.parametrize(
    ("name", "auth", "endpoint", "host", "port"),
    [
        ("new PostgreSQL", IamToken, None, PROXY_HOST, None),
        ("proxy by name", IamToken, RdsProxy, "", None),
        ("cluster by name", IamToken, AuroraCluster, "", None),
        ("instance", IamToken, None, HOST, 6543),
        ("instance with a secret", SecretsManager, None, HOST, None),
    ],
)
def test_the_pool_logs_in_as_the_parameters_say(
    template: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    auth: type,
    endpoint: type | None,
    host: str,
    port: int | None,
) -> None:
    for key, value in function(template, SCENARIOS[name])["Environment"]["Variables"].items():
        monkeypatch.setenv(key, value)
    pool = lambda_pool.Pool.from_env()
    assert type(core_of(pool).connector.auth) is auth
    if endpoint is not None:
        assert type(core_of(pool).connector.endpoint) is endpoint
    assert (pool.config.url.host, pool.config.url.port) == (host, port)
    if name == "new PostgreSQL":
        assert core_of(pool).connector.endpoint.resolve(Role.WRITER, 1.0).proxy


def test_only_variables_of_the_pool_are_set(template: dict[str, Any]) -> None:
    variables = function(template, {})["Environment"]["Variables"]
    assert all(name.startswith(DEFAULT_PREFIX) for name in variables)


def test_reserved_concurrency_is_the_connection_budget(template: dict[str, Any]) -> None:
    assert int(function(template, {"ConnectionBudget": "37"})["ReservedConcurrentExecutions"]) == 37
    assert "ReservedConcurrentExecutions" not in function(template, {"ConnectionBudget": "0"})
    # Environments times connections each must be the budget.
    assert function(template, {})["Environment"]["Variables"]["LAMBDA_POOL_MAX_SIZE"] == "1"


def test_xray_is_off_unless_asked_for(template: dict[str, Any]) -> None:
    assert function(template, {})["TracingConfig"] == {"Mode": "PassThrough"}
    assert function(template, {"Tracing": "on"})["TracingConfig"] == {"Mode": "Active"}


def test_the_log_is_kept_for_as_long_as_asked(template: dict[str, Any]) -> None:
    stack = Stack(template, {**NETWORK, "LogRetentionDays": "7"})
    assert int(stack.resources["LogGroup"]["Properties"]["RetentionInDays"]) == 7
    assert stack.resources["Function"]["Properties"]["LoggingConfig"]["LogGroup"] == "shop-LogGroup-1"


def test_the_python_version_is_the_same_everywhere(template: dict[str, Any]) -> None:
    # The layers are built for what `Runtime:` says; the rest must not say anything else.
    assert set(re.findall(r"python(3\.\d+)", TEXT)) == {template["Resources"]["Function"]["Properties"]["Runtime"][6:]}


# --- metrics ----------------------------------------------------------------------------------------------------------

ARGUMENTS = ["--function", "shop-Function-1", "--pool", "app", "--region", REGION, "--log-group", "shop-LogGroup-1"]
TOPIC = "arn:aws:sns:eu-central-1:123456789012:on-call"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What the command `lambda-pool dashboard` prints for the same function."""
    assert main(["dashboard", *ARGUMENTS, "--format", "json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def body(template: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Stack(template, NETWORK).resources["Dashboard"]["Properties"]["DashboardBody"])
    return found


def test_the_dashboard_is_the_one_that_the_command_prints(
    template: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    by_command = json.loads(printed(capsys)["PutDashboard"]["DashboardBody"])
    in_template = body(template)
    *shared, budget = in_template.pop("widgets")
    assert shared == by_command.pop("widgets")
    assert in_template == by_command
    assert budget["properties"]["title"] == "How close is the function to its connection budget?"


def test_every_metric_is_drawn_under_its_own_dimensions(template: dict[str, Any]) -> None:
    metrics = [metric for widget in body(template)["widgets"] for metric in widget["properties"].get("metrics", [])]
    ours = [metric for metric in metrics if metric[0] == "lambda_pool"]
    assert {metric[1] for metric in ours} == set(METRICS)
    for metric in ours:
        assert tuple(metric[2:-1:2]) == DIMENSIONS


def test_the_alarms_are_those_that_the_command_prints(
    template: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    resources = Stack(template, {**NETWORK, "AlarmTopicArn": TOPIC, "ConnectionBudget": "20"}).resources
    alarms = {name: made["Properties"] for name, made in resources.items() if made["Type"] == "AWS::CloudWatch::Alarm"}
    for expected in printed(capsys, "--topic", TOPIC)["PutMetricAlarm"]:
        name = expected.pop("AlarmName").rpartition("-connections-")[2]
        assert alarms.pop("".join(word.capitalize() for word in name.split("-")) + "Alarm") == expected
    assert set(alarms) == {"ThrottledAlarm", "BudgetNearlySpentAlarm"}
    for alarm in alarms.values():
        assert alarm["TreatMissingData"] == "notBreaching"
        assert alarm["AlarmActions"] == alarm["OKActions"] == [TOPIC]


def test_without_a_topic_alarms_tell_nobody(template: dict[str, Any]) -> None:
    for made in Stack(template, NETWORK).resources.values():
        if made["Type"] == "AWS::CloudWatch::Alarm":
            assert not {"AlarmActions", "OKActions"} & set(made["Properties"])


def test_the_budget_alarm_counts_in_the_budget(template: dict[str, Any]) -> None:
    alarm = Stack(template, {**NETWORK, "ConnectionBudget": "40"}).resources["BudgetNearlySpentAlarm"]["Properties"]
    assert alarm["Metrics"][0]["Expression"] == "100 * environments / 40"
    without = Stack(template, {**NETWORK, "ConnectionBudget": "0"}).resources
    assert not {"BudgetNearlySpentAlarm", "ThrottledAlarm"} & set(without)
