"""What the template makes of a new database, of the grant, and of what an organisation asks for."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from lambda_pool.metrics.panels import ALARMS
from lambda_pool.testing.mariadb import MariaDbServer
from lambda_pool.testing.postgres import PostgresServer

from .conftest import CLUSTER, HOST, NETWORK, ORGANISATION, PROXY, ROOT, SCENARIOS
from .stack import CLUSTER_HOST, CLUSTER_ID, PROXY_HOST, Stack

pytestmark = pytest.mark.slow("needs the SAM CLI, which transforms the template")


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_a_new_database_is_reached_by_the_function_alone(template: dict[str, Any], engine: str) -> None:
    resources = Stack(template, {**NETWORK, "Engine": engine}).resources
    port = {"postgresql": 5432, "mysql": 3306}[engine]
    [from_function] = resources["ProxySecurityGroup"]["Properties"]["SecurityGroupIngress"]
    assert from_function["SourceSecurityGroupId"] == NETWORK["FunctionSecurityGroupId"]
    from_proxy = resources["ProxyToCluster"]["Properties"]
    assert from_proxy["SourceSecurityGroupId"] == "sg-000000000000000b1"
    assert from_proxy["GroupId"] == "sg-000000000000000c1"
    for rule in (from_function, from_proxy):
        assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", port, port)
    assert "CidrIp" not in json.dumps([from_function, from_proxy])
    assert resources["Writer"]["Properties"]["PubliclyAccessible"] is False


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_a_new_database_is_encrypted_kept_and_has_no_password_of_ours(template: dict[str, Any], engine: str) -> None:
    resources = Stack(template, {**NETWORK, "Engine": engine}).resources
    cluster, proxy = resources["Cluster"], resources["Proxy"]["Properties"]
    assert cluster["DeletionPolicy"] == cluster["UpdateReplacePolicy"] == "Snapshot"
    for name in ("EnableIAMDatabaseAuthentication", "ManageMasterUserPassword", "StorageEncrypted"):
        assert cluster["Properties"][name] is True
    assert cluster["Properties"]["DeletionProtection"] == "true"
    assert proxy["DefaultAuthScheme"] == "IAM_AUTH"
    assert proxy["RequireTLS"] is True
    assert "Auth" not in proxy
    assert "Password" not in json.dumps(resources).replace("ManageMasterUserPassword", "")


def test_an_existing_database_is_left_alone(template: dict[str, Any]) -> None:
    kinds = {made["Type"] for made in Stack(template, {**NETWORK, **SCENARIOS["proxy by name"]}).resources.values()}
    assert not {kind for kind in kinds if kind.startswith(("AWS::RDS", "AWS::EC2"))}
    opened = Stack(template, {**NETWORK, **SCENARIOS["instance"]}).resources["FunctionToExistingDatabase"]["Properties"]
    assert opened["GroupId"] == "sg-0000000000000d001"
    assert opened["SourceSecurityGroupId"] == NETWORK["FunctionSecurityGroupId"]
    assert opened["FromPort"] == opened["ToPort"] == "6543"


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_the_grant_stands_on_the_page_as_well(template: dict[str, Any], engine: str) -> None:
    blocks = re.findall(r"```sql\n-- (\w+)\n(.*?)```", (ROOT / "docs" / "deploying.md").read_text(), re.DOTALL)
    page = {title.lower(): " ".join(sql.split()) for title, sql in blocks}
    assert page[engine] == Stack(template, {**NETWORK, "Engine": engine}).outputs["GrantSql"]


def test_the_grant_lets_the_user_in_on_postgresql(template: dict[str, Any], postgres: PostgresServer) -> None:
    stack = Stack(template, {**NETWORK, "DatabaseName": "shop-1", "DatabaseUser": "granted"})
    # RDS has this role; here another test may have made it.
    postgres.execute("do $$ begin create role rds_iam; exception when duplicate_object then null; end $$")
    postgres.execute('CREATE DATABASE "shop-1"')
    with psycopg.connect(postgres.url(database="shop-1"), autocommit=True) as administrator:
        administrator.execute("create table numbered (number serial primary key, text text)")
        administrator.execute("create sequence made_before")
        for _ in range(2):  # a second time does no harm
            administrator.execute(stack.outputs["GrantSql"])
        administrator.execute("create table made_later (number serial primary key, text text)")
        assert administrator.execute("select pg_has_role('granted', 'rds_iam', 'member')").fetchone() == (True,)
        administrator.execute("set role granted")
        administrator.execute("insert into numbered (text) values ('first')")
        administrator.execute("insert into made_later (text) values ('first')")
        assert administrator.execute("select * from numbered").fetchall() == [(1, "first")]


def test_the_grant_lets_the_user_in_on_mysql(template: dict[str, Any], mariadb: MariaDbServer) -> None:
    stack = Stack(template, {**NETWORK, "Engine": "mysql", "DatabaseName": "shop_1", "DatabaseUser": "granted"})
    sql = stack.outputs["GrantSql"]
    assert "AWSAuthenticationPlugin AS 'RDS'" in sql
    # The plugin is RDS's own: another takes its place here.
    sql = sql.replace("AWSAuthenticationPlugin AS 'RDS'", "mysql_native_password AS ''")
    for name in ("shop_1", "shopx1"):
        mariadb.execute(f"CREATE DATABASE {name}")
        mariadb.execute(f"CREATE TABLE {name}.numbered (number INT PRIMARY KEY AUTO_INCREMENT, text TEXT)")
    for statement in 2 * sql.split(";"):
        mariadb.execute(statement)
    assert "REQUIRE SSL" in " ".join(str(row[0]) for row in mariadb.execute("SHOW GRANTS FOR granted@'%'"))
    mariadb.execute("ALTER USER granted@'%' REQUIRE NONE")  # what follows is about tables
    with pymysql.connect(host="127.0.0.1", port=mariadb.port, user="granted", autocommit=True) as conn:
        cursor = conn.cursor()
        cursor.execute("INSERT INTO shop_1.numbered (text) VALUES ('first')")
        with pytest.raises(pymysql.err.OperationalError, match="denied"):
            cursor.execute("SELECT * FROM shopx1.numbered")


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_who_logs_in_for_a_proxy_keeps_its_password(template: dict[str, Any], engine: str) -> None:
    grants = {
        database: Stack(template, {**NETWORK, **parameters, "Engine": engine}).outputs["GrantSql"]
        for database, parameters in {
            "proxy": {**PROXY, "DatabaseHost": PROXY_HOST},
            "cluster": {**CLUSTER, "DatabaseHost": HOST},
        }.items()
    }
    for login in ("CREATE USER", "rds_iam" if engine == "postgresql" else "AWSAuthenticationPlugin"):
        assert login in grants["cluster"]
        assert login not in grants["proxy"]
    assert "GRANT SELECT" in grants["proxy"]


AWS = """
aws() { case "$1" in
    cloudformation) cat grant.sql ;;
    rds-data) printf '%s\n' "${@: -1}" >> statements ;;
esac; }
"""


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_one_call_runs_the_grant(template: dict[str, Any], engine: str, tmp_path: Path) -> None:
    outputs = Stack(template, {**NETWORK, "Engine": engine, "DatabaseName": "Shop_1"}).outputs
    (tmp_path / "grant.sql").write_text(outputs["GrantSql"] + "\n")
    subprocess.run(["bash", "-c", AWS + outputs["RunGrant"]], cwd=tmp_path, check=True, timeout=30)
    sent = (tmp_path / "statements").read_text().splitlines()
    # As it stands: PostgreSQL's in one statement, MySQL's in two.
    assert ";".join(sent) == outputs["GrantSql"]
    assert len(sent) == {"postgresql": 1, "mysql": 2}[engine]


# --- what an organisation asks for ------------------------------------------------------------------------------------


def test_everything_that_can_be_is_tagged(template: dict[str, Any], scenario: dict[str, str]) -> None:
    resources = Stack(template, scenario).resources
    expected = {"Key": "application", "Value": scenario.get("ApplicationTag", "shop")}
    # Rules, policies, alarms, dashboards, target groups and versions of layers have none, or none that is asked for.
    tagged = {"Lambda::Function", "Logs::LogGroup", "IAM::Role", "EC2::SecurityGroup"} | {
        f"RDS::{name}" for name in ("DBSubnetGroup", "DBCluster", "DBInstance", "DBProxy", "DBProxyEndpoint")
    }
    for name, made in resources.items():
        tags = made["Properties"].get("Tags", [])
        assert (expected in tags) == (made["Type"].removeprefix("AWS::") in tagged), name


def test_roles_are_bounded_and_data_is_under_the_given_keys(template: dict[str, Any]) -> None:
    for wanted in ({}, ORGANISATION):
        resources = Stack(template, {**NETWORK, **wanted}).resources
        for role in ("FunctionRole", "ProxyRole"):
            boundary = resources[role]["Properties"].get("PermissionsBoundary")
            assert boundary == wanted.get("PermissionsBoundaryArn")
        assert resources["LogGroup"]["Properties"].get("KmsKeyId") == wanted.get("LogKeyArn")
        assert resources["Function"]["Properties"].get("KmsKeyArn") == wanted.get("EnvironmentKeyArn")


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_what_a_new_cluster_tells_of_itself(template: dict[str, Any], engine: str) -> None:
    def cluster(**parameters: str) -> dict[str, Any]:
        found: dict[str, Any] = Stack(template, {**NETWORK, "Engine": engine, **parameters}).resources["Cluster"]
        return found["Properties"]  # type: ignore[no-any-return]

    plain, full = cluster(), cluster(LogExports="on", Insights="advanced", DataApi="on", EngineVersion="1.2")
    assert not {"EnableCloudwatchLogsExports", "EngineVersion"} & set(plain)
    assert plain["EnableHttpEndpoint"] is False
    assert (plain["DatabaseInsightsMode"], plain["PerformanceInsightsRetentionPeriod"]) == ("standard", 7)
    assert full["EnableHttpEndpoint"] is True
    assert full["EngineVersion"] == "1.2"
    assert (full["DatabaseInsightsMode"], full["PerformanceInsightsRetentionPeriod"]) == ("advanced", 465)
    logs = {"postgresql": ["postgresql"], "mysql": ["error", "slowquery"]}[engine]
    assert full["EnableCloudwatchLogsExports"] == logs
    off = cluster(Insights="off")
    assert off["PerformanceInsightsEnabled"] is False
    assert "PerformanceInsightsRetentionPeriod" not in off


def test_without_a_proxy_the_function_alone_reaches_the_cluster_and_it_may_pause(template: dict[str, Any]) -> None:
    stack = Stack(template, {**NETWORK, **SCENARIOS["new without a proxy, which pauses"]})
    assert not [name for name, made in stack.resources.items() if "Proxy" in name or "Proxy" in made["Type"]]
    rule = stack.resources["FunctionToCluster"]["Properties"]
    assert rule["SourceSecurityGroupId"] == NETWORK["FunctionSecurityGroupId"]
    assert rule["GroupId"] == "sg-000000000000000c1"
    scaling = stack.resources["Cluster"]["Properties"]["ServerlessV2ScalingConfiguration"]
    assert scaling["MinCapacity"] == "0"
    assert stack.outputs["ConnectArn"].endswith(f"dbuser:{CLUSTER_ID}/app_function")
    assert CLUSTER_HOST in stack.outputs["DatabaseUrl"]


@pytest.mark.parametrize("proxied", ["true", "false"])
def test_a_reader_has_an_endpoint(template: dict[str, Any], proxied: str) -> None:
    stack = Stack(template, {**NETWORK, "Reader": "true", "Proxied": proxied})
    assert stack.resources["ReaderInstance"]["Properties"]["DBInstanceClass"] == "db.serverless"
    assert stack.outputs["ReaderEndpoint"].startswith("readers-" if proxied == "true" else "shop.cluster-ro-")
    assert "ReaderEndpoint" not in Stack(template, {**NETWORK, "Proxied": proxied}).outputs


def test_the_defaults_are_for_a_new_account(template: dict[str, Any]) -> None:
    # It runs ten invocations at once, and Lambda lets nobody reserve any of them.
    assert "ReservedConcurrentExecutions" not in Stack(template, NETWORK).resources["Function"]["Properties"]
    given = {name for name, declared in template["Parameters"].items() if "Default" in declared}
    assert set(template["Parameters"]) - given == set(NETWORK)


def test_the_page_adds_up_what_the_default_stack_costs(template: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "deploying.md").read_text().partition("\n## What it costs\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]*) \| ([\d.]+)[^|]*\|$", page, re.MULTILINE)
    costs = {what: float(month) for what, _, month in rows}
    [total] = re.findall(r"\*\*([\d.]+)\*\*", page)
    assert round(sum(costs.values()), 2) == float(total)

    def cost(beginning: str) -> float:
        return next(month for what, month in costs.items() if what.startswith(beginning))

    stack = Stack(template, NETWORK)
    hours = 730
    smallest = float(stack.resources["Cluster"]["Properties"]["ServerlessV2ScalingConfiguration"]["MinCapacity"])
    assert cost("the cluster") == round(smallest * 0.12 * hours, 2)
    assert cost("the proxy") == round(8 * 0.015 * hours, 2)
    alarms, watched = alarms_of(stack)
    assert alarms == len(ALARMS) == 6
    assert f"the six alarms, which read {watched} metrics together" in page
    assert cost("the six alarms") == round(watched * 0.10, 2)
    with_budget = alarms_of(Stack(template, {**NETWORK, "ConnectionBudget": "10"}))
    assert (with_budget[0] - alarms, with_budget[1] - watched) == (2, 2)
    assert "`ConnectionBudget` adds two alarms, 0.20." in page


def alarms_of(stack: Stack) -> tuple[int, int]:
    """How many alarms there are, and how many metrics they read."""
    made = [made["Properties"] for made in stack.resources.values() if made["Type"] == "AWS::CloudWatch::Alarm"]
    return len(made), sum(sum("MetricStat" in each for each in alarm.get("Metrics", [])) or 1 for alarm in made)


CHECKOV = ROOT / ".venv-deploy" / "bin" / "checkov"


def test_what_checkov_finds_is_explained(tmp_path: Path) -> None:
    assert CHECKOV.exists(), f"{CHECKOV} is missing: `make setup-all` installs it"
    done = subprocess.run(
        [CHECKOV, "-f", "template.yaml", "--framework", "cloudformation", "--skip-download", "--output", "json"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    results = json.loads(done.stdout)["results"]
    assert len(results["passed_checks"]) > 40
    found = {(check["check_id"], check["resource"].rpartition(".")[2]) for check in results["failed_checks"]}
    page = (ROOT / "docs" / "deploying.md").read_text().partition("\n## What checkov says\n")[2].partition("\n## ")[0]
    explained = {
        (check, resource)
        for check, resources in re.findall(r"^\| (CKV\w+) \| ([^|]+) \|", page, re.MULTILINE)
        for resource in re.findall(r"`(\w+)`", resources)
    }
    assert explained == found
