"""RdsProxy and AuroraCluster: what they find, what they keep, and what they say when there is nothing to find."""

from __future__ import annotations

import copy
import logging
import pickle
import random
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.exceptions
import botocore.session
import pytest
from botocore.stub import Stubber

from lambda_pool.endpoints import api, rds
from lambda_pool.endpoints.api import Calls, NoAnswerError, RdsApi
from lambda_pool.endpoints.base import Endpoint, EndpointSource, Role
from lambda_pool.endpoints.rds import AuroraCluster, RdsProxy
from lambda_pool.errors import ConfigError, EndpointError
from tests.unit.endpoints.conftest import REGION, SESSION_TOKEN, ScriptedApi

PROXY_HOST = "orders.proxy-c0ffee123abc.eu-central-1.rds.amazonaws.com"
READER_HOST = "orders-ro.endpoint.proxy-c0ffee123abc.eu-central-1.rds.amazonaws.com"
CLUSTER_HOST = "orders.cluster-c0ffee123abc.eu-central-1.rds.amazonaws.com"
CLUSTER_READER = "orders.cluster-ro-c0ffee123abc.eu-central-1.rds.amazonaws.com"


class Clock:
    """A wall clock that a test turns."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def proxy(**changes: Any) -> dict[str, Any]:
    return {
        "DBProxyName": "orders",
        "Status": "available",
        "EngineFamily": "POSTGRESQL",
        "Endpoint": PROXY_HOST,
        "RequireTLS": True,
        "Auth": [{"AuthScheme": "SECRETS", "IAMAuth": "REQUIRED"}],
        **changes,
    }


def reader(**changes: Any) -> dict[str, Any]:
    return {
        "DBProxyEndpointName": "orders-ro",
        "DBProxyName": "orders",
        "Status": "available",
        "Endpoint": READER_HOST,
        "TargetRole": "READ_ONLY",
        "IsDefault": False,
        **changes,
    }


DEFAULT = reader(DBProxyEndpointName="default", Endpoint=PROXY_HOST, TargetRole="READ_WRITE", IsDefault=True)


def cluster(**changes: Any) -> dict[str, Any]:
    return {
        "DBClusterIdentifier": "orders",
        "Status": "available",
        "Engine": "aurora-mysql",
        "Endpoint": CLUSTER_HOST,
        "ReaderEndpoint": CLUSTER_READER,
        "Port": 3307,
        "IAMDatabaseAuthenticationEnabled": True,
        "DBClusterMembers": [
            {"DBInstanceIdentifier": "orders-1", "IsClusterWriter": True},
            {"DBInstanceIdentifier": "orders-2", "IsClusterWriter": False},
        ],
        **changes,
    }


def say_proxies(stubber: Stubber, *proxies: dict[str, Any], marker: str = "", after: str = "") -> None:
    asked = {"DBProxyName": "orders"} | ({"Marker": after} if after else {})
    stubber.add_response(
        "describe_db_proxies", {"DBProxies": list(proxies)} | ({"Marker": marker} if marker else {}), asked
    )


def say_endpoints(stubber: Stubber, *endpoints: dict[str, Any], marker: str = "", after: str = "") -> None:
    asked = {"DBProxyName": "orders"} | ({"Marker": after} if after else {})
    answer = {"DBProxyEndpoints": list(endpoints)} | ({"Marker": marker} if marker else {})
    stubber.add_response("describe_db_proxy_endpoints", answer, asked)


def say_clusters(stubber: Stubber, *clusters: dict[str, Any]) -> None:
    stubber.add_response("describe_db_clusters", {"DBClusters": list(clusters)}, {"DBClusterIdentifier": "orders"})


# --- what is found ----------------------------------------------------------------------------------------------------


@pytest.mark.sampled(1 / 3, "5 s")
def test_a_proxy_of_moto(moto: Any) -> None:
    ec2: Any = botocore.session.get_session().create_client("ec2", region_name=REGION)
    subnets = ec2.describe_subnets()["Subnets"]
    made = moto.create_db_proxy(
        DBProxyName="orders",
        EngineFamily="MYSQL",
        Auth=[{"AuthScheme": "SECRETS", "IAMAuth": "DISABLED"}],
        RoleArn="arn:aws:iam::123456789012:role/proxy",
        VpcSubnetIds=[subnets[0]["SubnetId"]],
        RequireTLS=True,
    )["DBProxy"]
    found = RdsProxy("orders").resolve(Role.WRITER, 10.0)
    assert found == Endpoint(made["Endpoint"], 3306, proxy=True, engine="mysql", iam=False, requires_tls=True)
    with pytest.raises(EndpointError, match=f"no RDS Proxy 'ordres' in region {REGION} of this account"):
        RdsProxy("ordres").resolve(Role.WRITER, 10.0)
    # Another region is another account's worth of proxies.
    with pytest.raises(EndpointError, match="in region us-west-2"):
        RdsProxy("orders", region="us-west-2").resolve(Role.WRITER, 10.0)


def test_a_cluster_of_moto(moto: Any) -> None:
    made = moto.create_db_cluster(
        DBClusterIdentifier="orders",
        Engine="aurora-postgresql",
        MasterUsername="root",
        MasterUserPassword="topsecret1",
        Port=5433,
    )["DBCluster"]
    source = AuroraCluster("orders")
    writer = source.resolve(Role.WRITER, 10.0)
    assert (writer.host, writer.port, writer.engine, writer.proxy) == (made["Endpoint"], 5433, "postgresql", False)
    assert source.resolve(Role.READER, 10.0).host in {made["Endpoint"], made["ReaderEndpoint"]}
    with pytest.raises(EndpointError, match="no cluster 'ordres'"):
        AuroraCluster("ordres").resolve(Role.WRITER, 10.0)


def test_both_are_sources_with_readers(in_lambda: pytest.MonkeyPatch) -> None:
    sources: list[EndpointSource] = [RdsProxy("orders"), AuroraCluster("orders")]
    assert all(source.has_reader for source in sources)
    assert [repr(source) for source in sources] == ["RdsProxy('orders')", "AuroraCluster('orders')"]


def test_a_proxys_reader_is_asked_for_only_when_somebody_wants_it(stubber: Stubber) -> None:
    source = RdsProxy("orders")
    say_proxies(stubber, proxy())
    writer = source.resolve(Role.WRITER, 5.0)
    assert writer == Endpoint(PROXY_HOST, 5432, proxy=True, engine="postgresql", iam=True, requires_tls=True)
    stubber.assert_no_pending_responses()
    say_proxies(stubber, proxy())
    say_endpoints(stubber, DEFAULT, reader())
    found = source.resolve(Role.READER, 5.0)
    assert found == Endpoint(READER_HOST, 5432, proxy=True, engine="postgresql", iam=True, requires_tls=True)
    stubber.assert_no_pending_responses()
    assert source.resolve(Role.READER, 5.0) == found
    assert source.resolve(Role.WRITER, 5.0) == writer


@pytest.mark.parametrize(
    "endpoints",
    [
        [],
        [DEFAULT],
        [DEFAULT, reader(Status="creating")],
        [reader(Status="deleting"), reader(Status="incompatible-network")],
        [reader(DBProxyName="others")],
        [reader(Endpoint="")],
        [reader(TargetRole="READ_WRITE")],
    ],
)
def test_without_an_available_reader_the_proxy_itself(stubber: Stubber, endpoints: list[dict[str, Any]]) -> None:
    say_proxies(stubber, proxy())
    say_endpoints(stubber, *endpoints)
    assert RdsProxy("orders").resolve(Role.READER, 5.0).host == PROXY_HOST


def test_all_pages_are_read(stubber: Stubber) -> None:
    say_proxies(stubber, proxy(DBProxyName="others"), marker="p2")
    say_proxies(stubber, proxy(), after="p2")
    say_endpoints(stubber, DEFAULT, marker="e2")
    say_endpoints(stubber, reader(DBProxyEndpointName="zzz", Endpoint="z" + READER_HOST), marker="e3", after="e2")
    say_endpoints(stubber, reader(), after="e3")
    # The first by name, so that every environment chooses the same.
    assert RdsProxy("orders").resolve(Role.READER, 5.0).host == READER_HOST


@pytest.mark.sampled(1 / 3, "6 s")
def test_a_listing_without_end(scripted_api: ScriptedApi) -> None:
    body = "<R><DescribeDBProxiesResult><DBProxies/><Marker>again</Marker></DescribeDBProxiesResult></R>"
    scripted_api.script = lambda request: (200, body)
    with pytest.raises(EndpointError, match="no end after 100 pages"):
        RdsProxy("orders").resolve(Role.WRITER, 60.0)
    assert len(scripted_api.requests) == 100


@pytest.mark.parametrize(
    ("changes", "iam"),
    [
        ({"Auth": [{"IAMAuth": "REQUIRED"}]}, True),
        ({"Auth": [{"IAMAuth": "DISABLED"}]}, False),
        ({"Auth": [{"IAMAuth": "DISABLED"}, {"IAMAuth": "REQUIRED"}]}, None),
        ({"Auth": [{"IAMAuth": "ENABLED"}]}, None),
        ({"Auth": []}, None),
        ({"Auth": [], "DefaultAuthScheme": "IAM_AUTH"}, True),
        ({"Auth": [{"IAMAuth": "DISABLED"}], "DefaultAuthScheme": "NONE"}, False),
    ],
)
def test_what_a_proxy_says_of_iam(stubber: Stubber, changes: dict[str, Any], iam: bool | None) -> None:
    say_proxies(stubber, proxy(**changes))
    assert RdsProxy("orders").resolve(Role.WRITER, 5.0).iam is iam


def test_a_cluster_gives_both_at_once(stubber: Stubber) -> None:
    source = AuroraCluster("orders")
    say_clusters(stubber, cluster())
    assert source.resolve(Role.READER, 5.0) == Endpoint(CLUSTER_READER, 3307, engine="mysql")
    assert source.resolve(Role.WRITER, 5.0) == Endpoint(CLUSTER_HOST, 3307, engine="mysql")


@pytest.mark.parametrize(
    ("changes", "host"),
    [
        ({"DBClusterMembers": [{"IsClusterWriter": True}]}, CLUSTER_HOST),
        ({"DBClusterMembers": []}, CLUSTER_READER),
        ({"ReaderEndpoint": ""}, CLUSTER_HOST),
    ],
)
def test_a_cluster_without_a_reader(stubber: Stubber, changes: dict[str, Any], host: str) -> None:
    say_clusters(stubber, cluster(**changes))
    assert AuroraCluster("orders").resolve(Role.READER, 5.0).host == host


@pytest.mark.parametrize(
    ("engine", "expected"),
    [("aurora-postgresql", "postgresql"), ("postgres", "postgresql"), ("aurora", "mysql"), ("mysql", "mysql")],
)
def test_a_clusters_engine(stubber: Stubber, engine: str, expected: str) -> None:
    say_clusters(stubber, cluster(Engine=engine, IAMDatabaseAuthenticationEnabled=False))
    found = (
        AuroraCluster("ORDERS").resolve(Role.WRITER, 5.0) if False else AuroraCluster("orders").resolve(Role.WRITER, 5)
    )
    assert (found.engine, found.iam) == (expected, False)


# --- what cannot be used ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Status": "creating"}, "'orders' is not available, its status is 'creating': wait"),
        ({"Status": "suspended"}, "its status is 'suspended': RDS has suspended it"),
        ({"Status": "incompatible-network"}, "its status is 'incompatible-network': its subnets"),
        ({"EngineFamily": "SQLSERVER"}, "is for SQLSERVER: lambda_pool speaks PostgreSQL and MySQL"),
        ({"Endpoint": ""}, "gave no usable address for RDS Proxy 'orders'"),
    ],
)
def test_a_proxy_that_serves_nobody(stubber: Stubber, changes: dict[str, Any], message: str) -> None:
    say_proxies(stubber, proxy(**changes))
    with pytest.raises(EndpointError, match=message):
        RdsProxy("orders").resolve(Role.WRITER, 5.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Status": "stopped"}, "its status is 'stopped': start it: aws rds start-db-cluster"),
        ({"Status": "inaccessible-encryption-credentials"}, "KMS key"),
        ({"Engine": "neptune"}, "runs neptune"),
        ({"Port": 70000}, "no usable port for cluster 'orders': '70000'"),
        ({"Endpoint": "/tmp"}, "no usable address for cluster 'orders': Endpoint is '/tmp'"),
    ],
)
def test_a_cluster_that_serves_nobody(stubber: Stubber, changes: dict[str, Any], message: str) -> None:
    say_clusters(stubber, cluster(**changes))
    with pytest.raises(EndpointError, match=message):
        AuroraCluster("orders").resolve(Role.WRITER, 5.0)


@pytest.mark.parametrize("status", ["available", "modifying"])
def test_a_proxy_goes_on_serving_while_it_is_modified(stubber: Stubber, status: str) -> None:
    say_proxies(stubber, proxy(Status=status))
    assert RdsProxy("orders").resolve(Role.WRITER, 5.0).host == PROXY_HOST


@pytest.mark.parametrize("status", ["available", "backing-up", "failing-over", "modifying", "upgrading", "new-status"])
def test_a_cluster_goes_on_serving_during_most_changes(stubber: Stubber, status: str) -> None:
    say_clusters(stubber, cluster(Status=status))
    assert AuroraCluster("orders").resolve(Role.WRITER, 5.0).host == CLUSTER_HOST


@pytest.mark.parametrize("kind", [RdsProxy, AuroraCluster])
@pytest.mark.parametrize(
    "name", ["", " ", "a b", "arn:aws:rds:eu-west-1:1:cluster:x", PROXY_HOST, "ördérs", "o" * 64, 7, None, "o\n"]
)
def test_names_that_are_none(kind: type[RdsProxy] | type[AuroraCluster], name: Any) -> None:
    with pytest.raises(ConfigError, match=f"{kind.__name__}\\("):
        kind(name)


@pytest.mark.parametrize("kind", [RdsProxy, AuroraCluster])
def test_options_that_are_none(kind: type[RdsProxy] | type[AuroraCluster]) -> None:
    for region in ("", "mars", "eu-west", 7):
        with pytest.raises(ConfigError, match="region="):
            kind("orders", region=region)  # type: ignore[arg-type]
    for max_age in (0, -1, float("nan"), float("inf"), True, "60"):
        with pytest.raises(ConfigError, match="max_age="):
            kind("orders", max_age=max_age)  # type: ignore[arg-type]


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_the_answer_is_kept_until_it_is_too_old(stubber: Stubber) -> None:
    clock = Clock()
    source = RdsProxy("orders", max_age=60.0, clock=clock)
    say_proxies(stubber, proxy())
    assert source.resolve(Role.WRITER, 5.0).host == PROXY_HOST
    clock.now += 59
    assert source.resolve(Role.WRITER, 5.0).host == PROXY_HOST
    clock.now += 2
    say_proxies(stubber, proxy(Endpoint="new" + PROXY_HOST))
    assert source.resolve(Role.WRITER, 5.0).host == "new" + PROXY_HOST
    stubber.assert_no_pending_responses()
    # Set back, the clock tells nothing of the age any more.
    clock.now -= 3600
    say_proxies(stubber, proxy())
    assert source.resolve(Role.WRITER, 5.0).host == PROXY_HOST


def test_an_answer_that_may_be_kept_for_a_second_only(stubber: Stubber, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    source = AuroraCluster("orders", max_age=1.0, clock=clock)
    say_clusters(stubber, cluster())
    old = source.resolve(Role.WRITER, 5.0)
    clock.now += 2
    say_clusters(stubber, cluster(Endpoint="new" + old.host))
    assert source.resolve(Role.WRITER, 5.0).host == "new" + old.host
    # While the API fails, it is not asked for each connect either.
    clock.now += 2
    stubber.add_client_error("describe_db_clusters", "AccessDenied")
    for _ in range(3):
        assert source.resolve(Role.WRITER, 5.0).host == "new" + old.host
    stubber.assert_no_pending_responses()


def test_a_failed_connect_looks_again_but_not_more_than_every_ten_seconds(stubber: Stubber) -> None:
    clock = Clock()
    source = RdsProxy("orders", clock=clock)
    say_proxies(stubber, proxy())
    old = source.resolve(Role.WRITER, 5.0)
    for _ in range(5):
        source.failed(old)
        assert source.resolve(Role.WRITER, 5.0) == old
    clock.now += 11
    say_proxies(stubber, proxy(Endpoint="new" + PROXY_HOST))
    new = source.resolve(Role.WRITER, 5.0)
    assert new.host == "new" + PROXY_HOST
    # A late complaint about the old address says nothing about the new one.
    clock.now += 11
    source.failed(old)
    assert source.resolve(Role.WRITER, 5.0) == new


def test_the_last_good_answer_serves_while_the_api_fails(stubber: Stubber, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    source = AuroraCluster("orders", max_age=60.0, clock=clock)
    say_clusters(stubber, cluster())
    found = source.resolve(Role.WRITER, 5.0)
    with caplog.at_level(logging.WARNING, logger="lambda_pool"):
        for _ in range(3):
            clock.now += 100
            stubber.add_client_error("describe_db_clusters", "AccessDenied", http_status_code=403)
            assert source.resolve(Role.WRITER, 5.0) == found
            # Within ten seconds nobody asks again.
            assert source.resolve(Role.WRITER, 5.0) == found
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [caplog.messages[0]]
    assert "rds:DescribeDBClusters" in caplog.messages[0]
    assert "The last known address stays in use: " + CLUSTER_HOST in caplog.messages[0]
    clock.now += 100
    say_clusters(stubber, cluster(Endpoint="new" + CLUSTER_HOST))
    assert source.resolve(Role.WRITER, 5.0).host == "new" + CLUSTER_HOST


@pytest.mark.parametrize("answer", [{"Status": "deleting"}, None])
def test_what_is_gone_is_gone(stubber: Stubber, answer: dict[str, Any] | None) -> None:
    clock = Clock()
    source = AuroraCluster("orders", max_age=60.0, clock=clock)
    say_clusters(stubber, cluster())
    source.resolve(Role.WRITER, 5.0)
    for _ in range(2):
        clock.now += 100
        if answer is None:
            stubber.add_client_error("describe_db_clusters", "DBClusterNotFoundFault", http_status_code=404)
        else:
            say_clusters(stubber, cluster(**answer))
        with pytest.raises(EndpointError, match="deleting" if answer else "no cluster 'orders'"):
            source.resolve(Role.WRITER, 5.0)
    clock.now += 100
    stubber.add_client_error("describe_db_clusters", "AccessDenied", http_status_code=403)
    with pytest.raises(EndpointError, match="rds:DescribeDBClusters"):  # what was known before does not come back
        source.resolve(Role.WRITER, 5.0)


def test_a_known_one_is_looked_up_again_after_an_hour_in_half_of_the_time(
    stubber: Stubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other half is for connecting to what is known."""
    clock = Clock()
    source = AuroraCluster("orders", clock=clock)
    allowed: list[float] = []
    calls = source._api.calls

    def noting(timeout: float) -> Any:
        allowed.append(timeout)
        return calls(timeout)

    monkeypatch.setattr(source._api, "calls", noting)
    say_clusters(stubber, cluster())
    assert source.resolve(Role.WRITER, 8.0).host == CLUSTER_HOST
    clock.now += 3599
    assert source.resolve(Role.WRITER, 8.0).host == CLUSTER_HOST
    clock.now += 2
    say_clusters(stubber, cluster(Endpoint="new" + CLUSTER_HOST))
    assert source.resolve(Role.WRITER, 8.0).host == "new" + CLUSTER_HOST
    assert allowed == [pytest.approx(8.0, abs=1.0), pytest.approx(4.0, abs=0.5)]


def test_forgetting(stubber: Stubber) -> None:
    source = AuroraCluster("orders")
    for host in (CLUSTER_HOST, "new" + CLUSTER_HOST):
        say_clusters(stubber, cluster(Endpoint=host))
        assert source.resolve(Role.WRITER, 5.0).host == host
        source.forget()


def test_a_pickle_holds_nothing_that_was_found(stubber: Stubber) -> None:
    source = AuroraCluster("orders", region=REGION)
    say_clusters(stubber, cluster())
    source.resolve(Role.WRITER, 5.0)
    pickled = pickle.dumps(source)
    assert CLUSTER_HOST.encode() not in pickled
    say_clusters(stubber, cluster())
    assert pickle.loads(pickled).resolve(Role.WRITER, 5.0).host == CLUSTER_HOST
    assert copy.deepcopy({"endpoint": source})["endpoint"] is source


def test_an_error_is_asked_about_once_a_second(stubber: Stubber) -> None:
    clock = Clock()
    source = RdsProxy("orders", clock=clock)
    stubber.add_client_error("describe_db_proxies", "DBProxyNotFoundFault", http_status_code=404)
    for _ in range(3):
        with pytest.raises(EndpointError, match="no RDS Proxy 'orders'"):
            source.resolve(Role.WRITER, 5.0)
    clock.now += 1
    say_proxies(stubber, proxy())
    assert source.resolve(Role.WRITER, 5.0).host == PROXY_HOST


def test_a_reader_that_cannot_be_looked_up_does_not_hide_the_writer(stubber: Stubber) -> None:
    source = RdsProxy("orders")
    say_proxies(stubber, proxy())
    stubber.add_client_error("describe_db_proxy_endpoints", "AccessDenied", "not authorized", http_status_code=403)
    with pytest.raises(EndpointError, match="may not call rds:DescribeDBProxyEndpoints: allow it"):
        source.resolve(Role.READER, 5.0)
    say_proxies(stubber, proxy())
    assert source.resolve(Role.WRITER, 5.0).host == PROXY_HOST


# --- the API as it fails ----------------------------------------------------------------------------------------------


def fault(code: str, message: str = "said the API") -> str:
    return f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"


def described(**changes: str) -> str:
    values = {"DBProxyName": "orders", "Status": "available", "EngineFamily": "MYSQL", "Endpoint": PROXY_HOST} | changes
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in values.items())
    return f"<R><DescribeDBProxiesResult><DBProxies><member>{inner}</member></DBProxies></DescribeDBProxiesResult></R>"


@pytest.mark.sampled(8, "boto3 tries again")
@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (403, fault("AccessDenied", "User: arn:aws:sts::1:assumed-role/f is not authorized"), "assumed-role/f is not"),
        (403, fault("AccessDenied"), "may not call rds:DescribeDBProxies: allow it"),
        (403, fault("ExpiredToken"), "refused the AWS credentials .ExpiredToken."),
        (403, fault("InvalidClientTokenId"), "refused the AWS credentials"),
        (400, fault("InvalidParameterValue", "no"), "answered rds:DescribeDBProxies with InvalidParameterValue: .*no"),
        (200, "<html>Welcome to the hotel's network</html>", "holds no DBProxies|could not be read"),
        (200, "not even XML", "could not be read"),
        (200, "", "could not be read|holds no"),
        (404, fault("DBProxyNotFoundFault"), "there is no RDS Proxy 'orders' in region eu-central-1"),
    ],
)
def test_an_answer_that_is_none(scripted_api: ScriptedApi, status: int, body: str, message: str) -> None:
    scripted_api.script = lambda request: (status, body)
    with pytest.raises(EndpointError, match=message):
        RdsProxy("orders").resolve(Role.WRITER, 10.0)
    assert len(scripted_api.requests) == 1


@pytest.mark.sampled(1, "half a second a case")
@pytest.mark.parametrize(
    "trouble", [(400, fault("Throttling", "Rate exceeded")), (503, fault("ServiceUnavailable")), (500, "")]
)
def test_what_passes_is_tried_again_within_the_time(scripted_api: ScriptedApi, trouble: tuple[int, str]) -> None:
    answers = [trouble, trouble, (200, described())]
    scripted_api.script = lambda request: answers.pop(0)
    assert RdsProxy("orders").resolve(Role.WRITER, 20.0).host == PROXY_HOST
    assert len(scripted_api.requests) == 3


def test_keys_that_were_refused_are_looked_up_again(
    scripted_api: ScriptedApi, in_lambda: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Somebody logs in again while a server goes on, and a tool writes the new keys into the profile."""
    in_lambda.delenv("AWS_ACCESS_KEY_ID")
    in_lambda.setattr(rds, "_ASK_EVERY", 0.0)
    profile = "[default]\naws_access_key_id = {}\naws_secret_access_key = S\naws_session_token = T\n"
    (tmp_path / "credentials").write_text(profile.format("OLD"))
    source = RdsProxy("orders")
    scripted_api.script = lambda request: (403, fault("ExpiredToken"))
    with pytest.raises(EndpointError, match="refused the AWS credentials"):
        source.resolve(Role.WRITER, 10.0)
    (tmp_path / "credentials").write_text(profile.format("NEW"))
    scripted_api.script = lambda request: (200, described())
    assert source.resolve(Role.WRITER, 10.0).host == PROXY_HOST
    assert ["OLD/" in scripted_api.signed[0], "NEW/" in scripted_api.signed[1]] == [True, True]


@pytest.mark.sampled(1 / 3, "3 s")
def test_throttling_that_does_not_pass(scripted_api: ScriptedApi) -> None:
    scripted_api.script = lambda request: (400, fault("Throttling", "Rate exceeded"))
    begin = time.monotonic()
    with pytest.raises(EndpointError, match="throttles rds:DescribeDBProxies"):
        RdsProxy("orders").resolve(Role.WRITER, 5.0)
    assert time.monotonic() - begin < 7
    assert len(scripted_api.requests) > 1


def test_clones_of_a_snapshot_do_not_ask_again_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def throttle(**parameters: str) -> None:
        said: Any = {"Error": {"Code": "Throttling"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
        raise botocore.exceptions.ClientError(said, "DescribeDBProxies")

    client = SimpleNamespace(meta=SimpleNamespace(region_name=REGION), describe_db_proxies=throttle)
    snapshot = random.getstate()
    pauses: list[list[float]] = []
    for _ in range(2):
        random.setstate(snapshot)
        clock = Clock()
        slept: list[float] = []

        def sleep(seconds: float, clock: Clock = clock, slept: list[float] = slept) -> None:
            clock.now += seconds
            slept.append(seconds)

        monkeypatch.setattr(api, "time", SimpleNamespace(monotonic=clock))
        monkeypatch.setattr(api, "waiting", SimpleNamespace(pause=sleep))
        with pytest.raises(NoAnswerError, match="throttles"):
            Calls(client, clock.now + 5.0).list("describe_db_proxies", "DBProxies")
        pauses.append(slept)
    assert len(pauses[0]) > 2
    assert pauses[0] != pauses[1]


def test_an_api_that_hangs_costs_no_more_than_the_timeout(scripted_api: ScriptedApi) -> None:
    source = RdsProxy("orders")
    scripted_api.script = lambda request: (200, described())
    source.resolve(Role.WRITER, 10.0)  # imports and all
    source.forget()
    scripted_api.script = lambda request: None
    begin = time.monotonic()
    with pytest.raises(
        EndpointError, match=r"gave no answer to rds:DescribeDBProxies .*com.amazonaws.eu-central-1.rds"
    ):
        source.resolve(Role.WRITER, 3.0)
    assert time.monotonic() - begin < 5


def test_an_api_out_of_reach(in_lambda: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        in_lambda.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(EndpointError, match=r"interface endpoint com\.amazonaws.eu-central-1.rds"):
            RdsProxy("orders").resolve(Role.WRITER, 5.0)


def test_no_time_at_all(scripted_api: ScriptedApi) -> None:
    for timeout in (0.0, -1.0, 0.05):
        with pytest.raises(EndpointError, match="no time left"):
            RdsProxy("orders").resolve(Role.WRITER, timeout)
    assert scripted_api.requests == []


def test_no_time_left_by_the_making_of_the_client(in_lambda: pytest.MonkeyPatch) -> None:
    """That is nothing that the network is to blame for."""

    def slow(self: RdsApi, deadline: float) -> SimpleNamespace:
        time.sleep(max(0.0, deadline - time.monotonic()) + 0.01)
        return SimpleNamespace(close=lambda: None)

    in_lambda.setattr(RdsApi, "_client", slow)
    with pytest.raises(EndpointError, match="no time left to ask the RDS API: raise the option timeout"):
        RdsProxy("orders").resolve(Role.WRITER, 0.2)


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"])
def test_an_environment_that_lacks_something(
    scripted_api: ScriptedApi, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delenv(missing)
    with pytest.raises(EndpointError, match=r"could not be asked: .*AWS_|AWS_REGION"):
        RdsProxy("orders").resolve(Role.WRITER, 5.0)
    assert scripted_api.requests == []


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize(
    ("name", "value"), [("AWS_ENDPOINT_URL", "nonsense"), ("AWS_PROFILE", "missing"), ("AWS_MAX_ATTEMPTS", "many")]
)
def test_an_environment_that_is_wrong(in_lambda: pytest.MonkeyPatch, name: str, value: str) -> None:
    in_lambda.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    in_lambda.setenv(name, value)
    with pytest.raises(EndpointError, match="RDS API"):
        RdsProxy("orders").resolve(Role.WRITER, 5.0)


def test_no_error_or_log_holds_a_secret(scripted_api: ScriptedApi, caplog: pytest.LogCaptureFixture) -> None:
    quoting = f"The Canonical String should have been 'POST / x-amz-security-token:{SESSION_TOKEN}'"
    scripted_api.script = lambda request: (403, fault("SignatureDoesNotMatch", quoting))
    with caplog.at_level(logging.DEBUG), pytest.raises(EndpointError, match="SignatureDoesNotMatch") as caught:
        RdsProxy("orders").resolve(Role.WRITER, 10.0)
    # All frames but this test's own.
    error = caught.value.with_traceback(caught.tb.tb_next)
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "_explain" in shown or "_ask" in shown
    for text in (shown, str(caught.value), caplog.text):
        assert SESSION_TOKEN not in text
        assert "secret/key" not in text


def test_without_botocore(in_lambda: pytest.MonkeyPatch) -> None:
    in_lambda.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(ConfigError, match=r"not installed: pip install 'lambda-pool\[aws\]'"):
        RdsProxy("orders").resolve(Role.WRITER, 5.0)


def test_making_one_loads_no_sdk() -> None:
    code = (
        "import sys; from lambda_pool import RdsProxy, AuroraCluster; RdsProxy('orders'); AuroraCluster('orders');"
        "assert not [m for m in sys.modules if m.split('.')[0] in {'boto3', 'botocore', 'ssl', 'urllib3'}], sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- threads ----------------------------------------------------------------------------------------------------------


def test_one_thread_asks_and_the_others_use_what_is_known(scripted_api: ScriptedApi) -> None:
    clock = Clock()
    source = RdsProxy("orders", max_age=60.0, clock=clock)
    scripted_api.script = lambda request: (200, described())
    source.resolve(Role.WRITER, 10.0)
    clock.now += 100
    asked = threading.Event()
    go_on = threading.Event()

    def slowly(request: dict[str, str]) -> tuple[int, str]:
        asked.set()
        go_on.wait(10)
        return 200, described(Endpoint="new" + PROXY_HOST)

    scripted_api.script = slowly
    found: list[Endpoint] = []
    thread = threading.Thread(target=lambda: found.append(source.resolve(Role.WRITER, 20.0)))
    thread.start()
    assert asked.wait(10)
    assert source.resolve(Role.WRITER, 10.0).host == PROXY_HOST
    go_on.set()
    thread.join(20)
    assert [endpoint.host for endpoint in found] == ["new" + PROXY_HOST]
    assert len(scripted_api.requests) == 2


def test_with_nothing_known_one_thread_asks_and_the_others_wait(scripted_api: ScriptedApi) -> None:
    source = RdsProxy("orders")
    go_on = threading.Event()

    def slowly(request: dict[str, str]) -> tuple[int, str]:
        go_on.wait(10)
        return 200, described()

    scripted_api.script = slowly
    found: list[Endpoint] = []
    threads = [threading.Thread(target=lambda: found.append(source.resolve(Role.WRITER, 30.0))) for _ in range(5)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while not scripted_api.requests and time.monotonic() < until:
        time.sleep(0.01)
    with pytest.raises(EndpointError, match=r"another thread was still looking up RDS Proxy 'orders' after 0\.1 s"):
        source.resolve(Role.WRITER, 0.1)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert len(found) == 5
    assert len(scripted_api.requests) == 1


@pytest.mark.sampled(1 / 3, "3 s")
def test_a_fork_while_another_thread_asks(scripted_api: ScriptedApi) -> None:
    source = RdsProxy("orders")
    scripted_api.script = lambda request: None

    def ask() -> None:
        with pytest.raises(EndpointError):
            source.resolve(Role.WRITER, 10.0)

    thread = threading.Thread(target=ask)
    thread.start()
    until = time.monotonic() + 20
    while not scripted_api.requests and time.monotonic() < until:
        time.sleep(0.01)
    # What a child does first; the lock that the asking thread holds stays with the parent.
    source.forget()
    scripted_api.script = lambda request: (200, described())
    assert source.resolve(Role.WRITER, 10.0).host == PROXY_HOST
    thread.join(20)


def test_the_constants_are_in_order() -> None:
    assert rds._ASK_EVERY < rds._REFRESH_EVERY < rds._MAX_AGE
