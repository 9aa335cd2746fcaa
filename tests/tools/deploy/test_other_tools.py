"""deploy/: the same function with Terraform, the CDK and the Serverless Framework, each read by its own tool."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import provider_arguments
from .conftest import NETWORK, ROOT, run_sam
from .test_policies import LOGS, NETWORK_INTERFACES

pytestmark = pytest.mark.slow("needs the CDK and the Serverless Framework, which need Node.js")

DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".venv-deploy"
LAYER = "arn:aws:lambda:eu-central-1:123456789012:layer:lambda-pool:1"
CONNECT = "arn:aws:rds-db:eu-central-1:123456789012:dbuser:prx-0a1b2c3d4e5f60718/app"
URL = "postgresql://app@orders.proxy-c0ffee123456.eu-central-1.rds.amazonaws.com/app"
VARIABLES = {
    "LAMBDA_POOL_URL": URL,
    "LAMBDA_POOL_AUTH": "iam",
    "LAMBDA_POOL_NAME": "lambda-pool",
    "LAMBDA_POOL_MAX_SIZE": "1",
}


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a tool without credentials. Returns what it prints."""
    assert (TOOLS / ".ready").exists(), f"{TOOLS} is missing: `make setup-all` makes it"
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), **variables}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def cdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `cdk synth` makes."""
    out = tmp_path_factory.mktemp("cdk")
    context = {
        "layer_arn": LAYER,
        "database_url": URL,
        "connect_arn": CONNECT,
        "vpc_id": NETWORK["VpcId"],
        "zones": "eu-central-1a,eu-central-1b",
        "subnet_ids": NETWORK["SubnetIds"],
        "security_group_id": NETWORK["FunctionSecurityGroupId"],
        "connection_budget": "20",
    }
    work = tmp_path_factory.mktemp("home")
    folder = DEPLOY / "cdk"
    app = f"{TOOLS / 'bin' / 'python'} {folder / 'app.py'}"
    given = [word for name, value in context.items() for word in ("-c", f"{name}={value}")]
    program = TOOLS / "node_modules" / ".bin" / "cdk"
    run(program, "synth", "--quiet", "--no-notices", "--app", app, "--output", out, *given, cwd=work)
    return out / "lambda-pool.template.json"


@pytest.fixture(scope="module")
def serverless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `serverless package` makes."""
    folder = tmp_path_factory.mktemp("serverless")
    shutil.copytree(DEPLOY / "serverless", folder, dirs_exist_ok=True)
    given = {
        "layerArn": LAYER,
        "databaseUrl": URL,
        "connectArn": CONNECT,
        "subnetIds": NETWORK["SubnetIds"],
        "securityGroupId": NETWORK["FunctionSecurityGroupId"],
    }
    parameters = [f"--param={name}={value}" for name, value in given.items()]
    program = TOOLS / "node_modules" / ".bin" / "osls"
    said = run(program, "package", *parameters, cwd=folder, SLS_TELEMETRY_DISABLED="1", SLS_NOTIFICATIONS_MODE="off")
    assert "Warning" not in said
    return folder / ".serverless" / "cloudformation-template-update-stack.json"


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both files, as python-hcl2 reads them."""
    code = "import hcl2, json, sys; print(json.dumps([hcl2.load(open(name)) for name in sys.argv[1:]]))"
    files = [DEPLOY / "terraform" / name for name in ("main.tf", "variables.tf")]
    main, variables = json.loads(run(TOOLS / "bin" / "python", "-c", code, *files, cwd=tmp_path_factory.mktemp("tf")))
    return {**main, **variables}


def resources(template: Path, kind: str) -> list[dict[str, Any]]:
    """The properties of all resources of a kind."""
    made = json.loads(template.read_text())["Resources"].values()
    return [each["Properties"] for each in made if each["Type"] == kind]


def test_cfn_lint_has_nothing_to_say(cdk: Path, serverless: Path) -> None:
    # The CDK itself adds a dependency that would be there without.
    done = run_sam("cfn-lint", "--ignore-checks", "W3005", "--template", str(cdk), str(serverless))
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_the_same_function(cdk: Path, serverless: Path) -> None:
    for template in (cdk, serverless):
        [function] = resources(template, "AWS::Lambda::Function")
        assert (function["Handler"], function["Runtime"]) == ("app.handler", "python3.13")
        assert function["Architectures"] == ["arm64"]
        assert (function["MemorySize"], function["Timeout"]) == (512, 10)
        assert function["Layers"] == [LAYER]
        assert function["Environment"]["Variables"] == VARIABLES
        subnets = function["VpcConfig"]["SubnetIds"]
        assert subnets in (NETWORK["SubnetIds"].split(","), {"Fn::Split": [",", NETWORK["SubnetIds"]]})
        assert function["VpcConfig"]["SecurityGroupIds"] == [NETWORK["FunctionSecurityGroupId"]]
        [log] = resources(template, "AWS::Logs::LogGroup")
        assert log["RetentionInDays"] == 30
    assert resources(cdk, "AWS::Lambda::Function")[0]["ReservedConcurrentExecutions"] == 20


def statements(template: Path) -> Iterator[tuple[str, set[str], Any]]:
    """Effect, actions and resource of every statement in a template."""
    documents = [each["PolicyDocument"] for each in resources(template, "AWS::IAM::RolePolicy")]
    for role in resources(template, "AWS::IAM::Role"):
        documents += [policy["PolicyDocument"] for policy in role["Policies"]]
    for document in documents:
        for statement in document["Statement"]:
            actions = statement["Action"]
            yield statement["Effect"], {actions} if isinstance(actions, str) else set(actions), statement["Resource"]


def test_it_may_do_the_same(cdk: Path, serverless: Path) -> None:
    for template in (cdk, serverless):
        allowed = {action for effect, actions, _ in statements(template) if effect == "Allow" for action in actions}
        [login] = [resource for _, actions, resource in statements(template) if "rds-db:connect" in actions]
        assert login == CONNECT
        [denied] = [actions for effect, actions, _ in statements(template) if effect == "Deny" if "s3:*" not in actions]
        assert denied == NETWORK_INTERFACES
        if template is cdk:
            assert allowed == {"rds-db:connect"} | LOGS | NETWORK_INTERFACES
        else:  # the framework's own statements, and AWS's policy for functions in subnets
            assert allowed == {"rds-db:connect", "logs:CreateLogGroup", "logs:TagResource"} | LOGS


def test_terraforms_names_are_declared_and_used(terraform: dict[str, Any]) -> None:
    text = (DEPLOY / "terraform" / "main.tf").read_text()
    variables = {name.strip('"') for block in terraform["variable"] for name in block}
    both = text + (DEPLOY / "terraform" / "variables.tf").read_text()
    assert set(re.findall(r"\bvar\.(\w+)", text)) == variables
    assert set(re.findall(r"\bvar\.(\w+)", both)) == variables
    for kind, prefix in (("resource", r"(?<!data\.)\b(aws_\w+)\.(\w+)"), ("data", r"\bdata\.(\w+)\.(\w+)")):
        declared = {
            (type_.strip('"'), name.strip('"'))
            for block in terraform[kind]
            for type_, made in block.items()
            for name in made
        }
        used = set(re.findall(prefix, text))
        assert used <= declared, f"{kind}: {used - declared}"


def test_terraforms_arguments_are_those_of_the_providers(terraform: dict[str, Any]) -> None:
    read = [
        wrong
        for kind in ("resource", "data")
        for block in terraform[kind]
        for type_, made in block.items()
        for settings in made.values()
        for wrong in provider_arguments.wrong(TOOLS / "providers", kind, type_, settings)
    ]
    assert read == []


def test_a_wrong_argument_would_be_found() -> None:
    settings = {"function_name": ["f"], "role": ["r"], "memroy_size": [512], "vpc_config": [{"subnet_ids": [[]]}]}
    assert provider_arguments.wrong(TOOLS / "providers", "resource", "aws_lambda_function", settings) == [
        "aws_lambda_function has no memroy_size",
        "aws_lambda_function's vpc_config needs security_group_ids",
    ]


def test_terraforms_function_is_the_same() -> None:
    text = (DEPLOY / "terraform" / "main.tf").read_text()
    settings = dict(
        re.findall(r"^  (\w+) += (.+)$", text.partition('"aws_lambda_function"')[2].partition("\n}")[0], re.M)
    )
    assert settings["handler"] == '"app.handler"'
    assert settings["runtime"] == '"python3.13"'
    assert settings["architectures"] == '["arm64"]'
    assert (settings["memory_size"], settings["timeout"]) == ("512", "10")
    assert set(re.findall(r"^      (LAMBDA_POOL_\w+)", text, re.M)) == set(VARIABLES)
    allow, _, deny = text.partition('"no_network_for_code"')
    action = r'"((?:rds-db|logs|ec2):\w+)"'
    assert set(re.findall(action, allow)) == {"rds-db:connect"} | LOGS | NETWORK_INTERFACES
    assert set(re.findall(action, deny)) == NETWORK_INTERFACES


def test_what_checkov_asks_is_answered(tmp_path: Path) -> None:
    checkov: list[str | Path] = [TOOLS / "bin" / "checkov", "-d", DEPLOY / "terraform", "--framework", "terraform"]
    said = json.loads(run(*checkov, "--skip-download", "--soft-fail", "--output", "json", "--quiet", cwd=tmp_path))
    found = {check["check_id"] for check in said["results"]["failed_checks"]}
    assert found == set(re.findall(r"CKV_\w+", (DEPLOY / "README.md").read_text()))
