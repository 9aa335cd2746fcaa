"""Every permission in the template is needed, and none is wider than its service lets it be.

Needed: the pool's own calls are made, against control planes that ask the role first, and each fails without its
permission. What others do in the role's name stands in a table, with the page that asks for it.
"""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

import lambda_pool
from lambda_pool.api import core_of
from lambda_pool.endpoints.base import Role as EndpointRole
from tests.support.iam_servers import IamServer
from tests.unit.auth.conftest import (  # noqa: F401 - fixtures
    ACCESS_KEY,
    SECRET_KEY,
    SESSION_TOKEN,
    iam_postgres_server,
    in_lambda,
    no_aws,
)

from .conftest import CLUSTER, KEY, NETWORK, SAM_VENV, SCENARIOS, SECRET
from .guarded_aws import GuardedAws
from .iam import Role, role
from .stack import ACCOUNT, ATTRIBUTES, CLUSTER_ID, PROXY_ID, REGION, Stack

pytestmark = pytest.mark.slow("needs the SAM CLI, which transforms the template")

LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}
"""Lambda writes the function's log: https://docs.aws.amazon.com/lambda/latest/dg/lambda-intro-execution-role.html"""
NETWORK_INTERFACES = {
    "ec2:CreateNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:DeleteNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
}
"""Lambda puts the function into its subnets: https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html"""
TRACES = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}
"""Lambda sends its segments: https://docs.aws.amazon.com/lambda/latest/dg/services-xray.html"""


def needed(scenario: dict[str, str]) -> set[str]:
    """What the function's role must allow, for these parameters."""
    actions = LOGS | NETWORK_INTERFACES
    database, name = scenario.get("Database", "new"), scenario.get("DiscoverByName")
    if scenario.get("Login", "iam") == "iam":
        actions = actions | {"rds-db:connect"}
    else:
        actions = actions | {"secretsmanager:GetSecretValue"}
    if scenario.get("SecretKeyArn"):
        actions = actions | {"kms:Decrypt"}
    if name and database == "proxy":
        actions = actions | {"rds:DescribeDBProxies", "rds:DescribeDBProxyEndpoints"}
    if name and database == "cluster":
        actions = actions | {"rds:DescribeDBClusters"}
    if scenario.get("Tracing") == "on":
        actions = actions | TRACES
    return actions


def test_the_role_allows_what_is_needed_and_no_more(template: dict[str, Any], scenario: dict[str, str]) -> None:
    assert role(Stack(template, scenario), "FunctionRole").allowed == needed(scenario)


def test_the_proxys_role_logs_in_as_the_same_user_and_no_more(template: dict[str, Any]) -> None:
    [statement] = role(Stack(template, NETWORK), "ProxyRole").statements
    assert statement.actions == ("rds-db:connect",)
    assert statement.resources == (f"arn:aws:rds-db:{REGION}:{ACCOUNT}:dbuser:{CLUSTER_ID}/app_function",)
    assert "ProxyRole" not in Stack(template, {**NETWORK, **SCENARIOS["instance"]}).resources


def test_who_may_take_on_the_roles(template: dict[str, Any]) -> None:
    resources = Stack(template, NETWORK).resources
    roles = {name: made for name, made in resources.items() if made["Type"] == "AWS::IAM::Role"}
    assert set(roles) == {"FunctionRole", "ProxyRole"}
    for name, service in (("FunctionRole", "lambda"), ("ProxyRole", "rds")):
        [statement] = roles[name]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert statement["Action"] == "sts:AssumeRole"
        assert statement["Principal"] == {"Service": f"{service}.amazonaws.com"}


# --- not wider than need be -------------------------------------------------------------------------------------------

EXACT = {"rds-db:connect", "secretsmanager:GetSecretValue", "kms:Decrypt", "rds:DescribeDBClusters"}
"""Actions whose one resource is known."""


@pytest.fixture(scope="module")
def authorization() -> dict[str, Any]:
    """AWS's service authorization reference, as cfn-lint carries it: actions, and the resources that they know."""
    [file] = SAM_VENV.glob("lib/python3*/site-packages/cfnlint/data/AdditionalSpecs/Policies.json")
    loaded: dict[str, Any] = json.loads(Path(file).read_text())
    return loaded


def formats(authorization: dict[str, Any], action: str) -> list[str]:
    """ARN patterns of the resources that an action can be bound to; none where it knows only `*`."""
    service, _, name = action.partition(":")
    kinds = authorization[service]["Actions"][name.lower()]
    resources = authorization[service]["Resources"]
    return [
        re.sub(r"\$\{\w+\}", "[^:]*", text)
        for kind in kinds.get("Resources", [])
        for text in (resources.get(kind) or resources.get(kind.lower()) or {"ARNFormats": []})["ARNFormats"]
    ]


def test_every_action_is_bound_to_a_resource_where_it_knows_one(
    template: dict[str, Any], scenario: dict[str, str], authorization: dict[str, Any]
) -> None:
    stack = Stack(template, scenario)
    for name in ("FunctionRole", *(["ProxyRole"] if "ProxyRole" in stack.resources else [])):
        for statement in role(stack, name).statements:
            if not statement.allow:
                continue
            for action in statement.actions:
                assert "*" not in action
                known = formats(authorization, action)
                for resource in statement.resources:
                    assert (resource == "*") == (known == []), f"{action} on {resource}"
                    if known:
                        assert resource.split(":")[3:5] == [REGION, ACCOUNT], f"{action} on {resource}"
                if action in EXACT:
                    assert len(statement.resources) == 1
                    assert "*" not in statement.resources[0]
                    assert re.fullmatch("|".join(known), statement.resources[0]), f"{action} on {resource}"


@pytest.mark.parametrize(
    ("name", "action", "resource"),
    [
        ("new MySQL", "rds-db:connect", f"arn:aws:rds-db:{REGION}:{ACCOUNT}:dbuser:{PROXY_ID}/app_function"),
        (
            "cluster by host",
            "rds-db:connect",
            f"arn:aws:rds-db:{REGION}:{ACCOUNT}:dbuser:{CLUSTER['DatabaseResourceId']}/app_function",
        ),
        ("instance with a secret", "secretsmanager:GetSecretValue", SECRET),
        ("cluster by name with a secret of its own key", "kms:Decrypt", KEY),
        ("cluster by name", "rds:DescribeDBClusters", f"arn:aws:rds:{REGION}:{ACCOUNT}:cluster:orders"),
        ("instance", "logs:PutLogEvents", ATTRIBUTES["LogGroup.Arn"]),
    ],
)
def test_exactly_one_resource(template: dict[str, Any], name: str, action: str, resource: str) -> None:
    statements = role(Stack(template, {**NETWORK, **SCENARIOS[name]}), "FunctionRole").statements
    assert [each.resources for each in statements if action in each.actions] == [(resource,)]


def test_the_secrets_key_is_used_through_secrets_manager_alone(template: dict[str, Any]) -> None:
    scenario = SCENARIOS["cluster by name with a secret of its own key"]
    allowed = role(Stack(template, {**NETWORK, **scenario}), "FunctionRole")
    assert not allowed.allows("kms:Decrypt", KEY)
    assert allowed.allows("kms:Decrypt", KEY, {"kms:ViaService": f"secretsmanager.{REGION}.amazonaws.com"})


def test_the_functions_code_cannot_touch_the_network(template: dict[str, Any], scenario: dict[str, str]) -> None:
    allowed = role(Stack(template, scenario), "FunctionRole")
    interface = f"arn:aws:ec2:{REGION}:{ACCOUNT}:network-interface/eni-1"
    for action in NETWORK_INTERFACES:
        assert allowed.allows(action, interface)  # Lambda, in the function's name
        assert not allowed.allows(action, interface, {"lambda:SourceFunctionArn": ATTRIBUTES["Function.Arn"]})


# --- each of the pool's own calls fails without its permission --------------------------------------------------------

CALLS = {
    "rds-db:connect": ("cluster by name", "CredentialsError", "rds-db:connect"),
    "rds:DescribeDBClusters": ("cluster by name", "EndpointError", "may not call rds:DescribeDBClusters"),
    "secretsmanager:GetSecretValue": (
        "cluster by name with a secret of its own key",
        "CredentialsError",
        "allow secretsmanager:GetSecretValue",
    ),
    "kms:Decrypt": ("cluster by name with a secret of its own key", "CredentialsError", "kms:Decrypt on that key"),
}


class Deployed:
    """The function's pool as the stack configures it, with the policies of its role in force."""

    def __init__(self, stack: Stack, allowed: Role, server: IamServer, monkeypatch: pytest.MonkeyPatch) -> None:
        login = json.dumps({"username": server.server.user, "password": server.server.password})
        key = next((each.resources[0] for each in allowed.statements if "decrypt" in each.policy), "")
        self.aws = GuardedAws(
            allowed, engine="aurora-postgresql", port=server.port, secret_arn=SECRET, key_arn=key, secret=login
        )
        variables = stack.resources["Function"]["Properties"]["Environment"]["Variables"]
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", self.aws.url)
        self._server = server
        self._resource_id = stack._parameters["DatabaseResourceId"]

    def connect(self) -> None:
        """Log in and ask something, as a first invocation does."""
        pool = lambda_pool.Pool.from_env()
        with self.aws, contextlib.closing(pool):
            # RDS itself asks IAM when a token comes in; the server here lets in whom its checker knows.
            arn = f"arn:aws:rds-db:{REGION}:{ACCOUNT}:dbuser:{self._resource_id}/{pool.config.url.user}"
            self._server.checker.reset(ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)
            if self._resource_id and not self.aws.may("rds-db:connect", arn):
                self._server.checker.reset("nobody", SECRET_KEY, SESSION_TOKEN)
            with pool.connection() as conn:
                assert conn.execute("select 1").fetchone() == (1,)


def deploy(template: dict[str, Any], name: str) -> Stack:
    """The scenario, for the database and the user that the test's server has."""
    chosen = {**NETWORK, **SCENARIOS[name], "Engine": "postgresql", "DatabaseName": "postgres", "DatabaseUser": "app"}
    return Stack(template, chosen)


@pytest.mark.parametrize("action", CALLS)
def test_a_permission_that_is_taken_away_is_missed(
    template: dict[str, Any],
    in_lambda: pytest.MonkeyPatch,  # noqa: F811
    iam_postgres_server: IamServer,  # noqa: F811
    action: str,
) -> None:
    name, error, text = CALLS[action]
    stack = deploy(template, name)
    allowed = role(stack, "FunctionRole")
    with_all = Deployed(stack, allowed, iam_postgres_server, in_lambda)
    with_all.connect()
    assert action in {asked for asked, _ in with_all.aws.asked}
    with pytest.raises(getattr(lambda_pool, error), match=re.escape(text)):
        Deployed(stack, allowed.without(action), iam_postgres_server, in_lambda).connect()


@pytest.mark.parametrize("action", ["rds:DescribeDBProxies", "rds:DescribeDBProxyEndpoints"])
def test_a_permission_to_find_a_proxy_that_is_taken_away_is_missed(
    template: dict[str, Any],
    in_lambda: pytest.MonkeyPatch,  # noqa: F811
    iam_postgres_server: IamServer,  # noqa: F811
    action: str,
) -> None:
    stack = deploy(template, "proxy by name")
    allowed = role(stack, "FunctionRole")

    def find(may: Role) -> str:
        # The connect itself would go to a proxy's own port, where no proxy is.
        deployed = Deployed(stack, may, iam_postgres_server, in_lambda)
        with deployed.aws:
            return core_of(lambda_pool.Pool.from_env()).connector.endpoint.resolve(EndpointRole.READER, 5.0).host

    assert find(allowed) == "127.0.0.1"
    with pytest.raises(lambda_pool.EndpointError, match=f"may not call {action}"):
        find(allowed.without(action))


def test_the_calls_that_are_tried_here_are_all_that_the_pool_makes(template: dict[str, Any]) -> None:
    ours = set().union(*(needed(scenario) for scenario in SCENARIOS.values())) - LOGS - NETWORK_INTERFACES - TRACES
    assert ours == {*CALLS, "rds:DescribeDBProxies", "rds:DescribeDBProxyEndpoints"}
