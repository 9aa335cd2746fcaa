"""The template, transformed by SAM itself, and what `sam build` makes of it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SAM_VENV = ROOT / ".venv-sam"
NETWORK = {
    "VpcId": "vpc-0a1b2c3d4e5f60718",
    "SubnetIds": "subnet-0a1b2c3d4e5f60718,subnet-0f1e2d3c4b5a69788",
    "FunctionSecurityGroupId": "sg-0000000000000f001",
}
HOST = "orders.c0ffee123456.eu-central-1.rds.amazonaws.com"
SECRET = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders-AbCdEf"
KEY = "arn:aws:kms:eu-central-1:123456789012:key/0f1e2d3c-aaaa-bbbb-cccc-123456abcdef"
PROXY = {"Database": "proxy", "DatabaseResourceId": "prx-0f0f0f0f0f0f0f0f0"}
CLUSTER = {"Database": "cluster", "DatabaseResourceId": "cluster-ORDERS0123456789ABCDEFGHIJ"}
INSTANCE = {"Database": "instance", "DatabaseResourceId": "db-ORDERS0123456789ABCDEFGHIJ", "DatabaseHost": HOST}
BY_SECRET = {"Login": "secret", "SecretArn": SECRET}

ORGANISATION = {
    "ApplicationTag": "orders",
    "PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/boundary",
    "LogKeyArn": KEY,
    "EnvironmentKeyArn": KEY,
}

SCENARIOS: dict[str, dict[str, str]] = {
    "new PostgreSQL": {},
    "new MySQL": {"Engine": "mysql"},
    "new without a proxy, which pauses": {"Proxied": "false", "MinCapacity": "0"},
    "new with all that an organisation asks for": {
        "Reader": "true",
        "EngineVersion": "17.5",
        "DataApi": "on",
        "LogExports": "on",
        "Insights": "advanced",
        "ConnectionBudget": "20",
        **ORGANISATION,
    },
    "proxy by host": {**PROXY, "DatabaseHost": "orders.proxy-c0ffee123456.eu-central-1.rds.amazonaws.com"},
    "proxy by name": {**PROXY, "DiscoverByName": "orders"},
    "cluster by host": {**CLUSTER, "DatabaseHost": HOST.replace(".c0ff", ".cluster-c0ff")},
    "cluster by name": {**CLUSTER, "DiscoverByName": "orders", "Engine": "mysql"},
    "instance": {**INSTANCE, "DatabasePort": "6543", "DatabaseSecurityGroupId": "sg-0000000000000d001"},
    "instance with a secret": {**INSTANCE, **BY_SECRET, "DatabaseResourceId": ""},
    "cluster by name with a secret of its own key": {
        **CLUSTER,
        **BY_SECRET,
        "DatabaseResourceId": "",
        "DiscoverByName": "orders",
        "SecretKeyArn": KEY,
    },
    "traced, alarms told": {
        "Tracing": "on",
        "Architecture": "x86_64",
        "AlarmTopicArn": "arn:aws:sns:eu-central-1:123456789012:on-call",
    },
}

TRANSFORM = """
import json, sys
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

template = yaml_parse(sys.stdin.read())
for resource in template["Resources"].values():
    for key in ("CodeUri", "ContentUri"):  # where `sam package` would have put it
        if key in resource["Properties"]:
            resource["Properties"][key] = "s3://bucket/" + resource["Properties"][key].strip("/")
print(json.dumps(Translator({}, Parser()).translate(template, {})))
"""


def run_sam(name: str, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program of the SAM CLI's environment, without credentials, telemetry or the network."""
    program = SAM_VENV / "bin" / name
    assert program.exists(), f"{program} is missing: `make setup` installs it"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "AWS_DEFAULT_REGION": "eu-central-1",
        "SAM_CLI_TELEMETRY": "0",
        "PIP_NO_INDEX": "1",
    }
    return subprocess.run(
        [str(program), *arguments],
        cwd=ROOT,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    """The template as CloudFormation gets it."""
    done = run_sam("python", "-c", TRANSFORM, text=(ROOT / "template.yaml").read_text())
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `sam build` filled."""
    folder = tmp_path_factory.mktemp("sam-build")
    done = run_sam("sam", "build", "--build-dir", str(folder), "--cache-dir", str(folder / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(params=SCENARIOS)
def scenario(request: pytest.FixtureRequest) -> dict[str, str]:
    """The parameters of each supported way to deploy, in turn."""
    return {**NETWORK, **SCENARIOS[request.param]}
