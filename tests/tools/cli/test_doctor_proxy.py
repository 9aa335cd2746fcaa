"""What the doctor says of an RDS Proxy: of its targets, of IAM to the database, and of IPv6."""

import errno
import time
from typing import Any

import botocore.session
import pytest
from botocore.stub import Stubber

from lambda_pool import RdsProxy
from lambda_pool.api import core_of
from lambda_pool.auth.base import Credentials
from lambda_pool.cli.doctor import checks, proxy
from lambda_pool.cli.doctor.advice import of_address, of_token
from lambda_pool.cli.doctor.aws import Answer
from lambda_pool.cli.doctor.report import Redactor
from lambda_pool.endpoints.base import Endpoint, FixedEndpoint, Role
from lambda_pool.engines.base import ConnectRequest, Failure
from lambda_pool.testing import FakeDriver, FakeError
from lambda_pool.tls import Tls

HOST = "orders.proxy-c0ffee123abc.eu-central-1.rds.amazonaws.com"
READER = "orders-ro.endpoint.proxy-c0ffee123abc.eu-central-1.rds.amazonaws.com"
FIXED = FixedEndpoint(Endpoint(HOST))


def target(state: str, why: str = "", **more: Any) -> dict[str, Any]:
    health = {"State": state} | ({"Reason": why} if why else {})
    return {"RdsResourceId": "orders-1", "Type": "RDS_INSTANCE", "TargetHealth": health | more}


@pytest.fixture
def rds(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client whose answers botocore's own model checks."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "example")
    client = botocore.session.get_session().create_client("rds", region_name="eu-central-1")
    monkeypatch.setattr(proxy, "create_client", lambda *_: client)
    with Stubber(client) as stubber:
        yield stubber


def say(rds: Stubber, *targets: dict[str, Any]) -> None:
    rds.add_response("describe_db_proxy_targets", {"Targets": list(targets)}, {"DBProxyName": "orders"})


@pytest.mark.sampled(3, "many cases")
@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ([], "The proxy orders has no target: register the database"),
        ([{"Type": "TRACKED_CLUSTER", "RdsResourceId": "cluster"}], "has no target"),
        ([target("REGISTERING")], "orders-1 is REGISTERING, wait until it is"),
        ([target("UNAVAILABLE", "AUTH_FAILURE")], "(AUTH_FAILURE), the proxy cannot log in: its secret must hold"),
        ([target("UNAVAILABLE", "UNREACHABLE")], "the database's security group must let in the proxy's"),
        ([target("UNAVAILABLE", "PENDING_PROXY_CAPACITY")], "the proxy is being made larger: wait"),
        ([target("UNAVAILABLE", Description="Something new.")], "orders-1 is UNAVAILABLE, Something new"),
        ([{"RdsResourceId": "orders-1"}], "orders-1 is of unknown health"),
    ],
)
def test_targets_none_of_which_is_healthy(rds: Stubber, targets: list[dict[str, Any]], says: str) -> None:
    say(rds, *targets)
    [advice] = proxy.of_targets("any.example", RdsProxy("orders"), 10.0)
    assert says in advice


def test_one_healthy_target_is_enough(rds: Stubber) -> None:
    say(rds, target("UNAVAILABLE", "UNREACHABLE"), target("AVAILABLE"))
    assert proxy.of_targets(HOST, FIXED, 10.0) == []


def test_a_further_endpoint_leads_to_its_proxy(rds: Stubber) -> None:
    answer = {"DBProxyEndpoints": [{"DBProxyName": "orders"}]}
    rds.add_response("describe_db_proxy_endpoints", answer, {"DBProxyEndpointName": "orders-ro"})
    say(rds)
    assert "has no target" in proxy.of_targets(READER, FIXED, 10.0)[0]


def test_nobody_is_asked_of_what_is_no_proxy(rds: Stubber) -> None:
    assert proxy.of_targets("db.example", FIXED, 10.0) == []
    rds.assert_no_pending_responses()


def test_who_may_not_ask_is_told_what_to_allow(rds: Stubber) -> None:
    rds.add_client_error("describe_db_proxy_targets", "AccessDenied")
    [advice] = proxy.of_targets(HOST, FIXED, 10.0)
    assert "(AccessDenied): allow rds:DescribeDBProxyTargets" in advice


def test_a_login_that_waits_in_vain_for_the_proxy(rds: Stubber) -> None:
    say(rds, target("UNAVAILABLE", "AUTH_FAILURE"))
    driver = FakeDriver()
    pool = driver.pool(f"postgresql://app:secret@{HOST}/orders", observers=())
    driver.fail("connect", FakeError(Failure.TOO_MANY, "Timed-out waiting to acquire database connection"))
    patient = checks.Patient(core_of(pool), Role.WRITER, time.monotonic() + 20, Redactor())
    patient.endpoint = Endpoint(HOST, 5432, proxy=True)
    finding = checks.login(patient)
    assert finding.status == "failed"
    assert "The proxy orders has no healthy target: orders-1 is UNAVAILABLE (AUTH_FAILURE)" in finding.advice[0]
    assert "the pooler" in " ".join(finding.advice[1:])


@pytest.mark.parametrize(
    ("engine", "grant"), [("postgresql", "GRANT rds_iam TO app"), ("mysql", "IDENTIFIED WITH AWSAuthenticationPlugin")]
)
def test_a_token_that_a_proxy_with_iam_to_the_database_refuses(engine: str, grant: str) -> None:
    request = ConnectRequest(
        host=HOST,
        port=5432,
        database="orders",
        credentials=Credentials(user="app", password=None, iam=True),
        tls=Tls("verify-full"),
        timeout=1.0,
        autocommit=False,
        pooled=True,
        application_name="orders",
    )
    error = RuntimeError("The IAM authentication failed for the role app")
    said = [
        " ".join(of_token(error, engine, request, "eu-central-1", None, Answer(end_to_end=both)))
        for both in (True, False)
    ]
    assert grant in said[0]
    assert "keep its password in the proxy's secret" not in said[0]
    assert "keep its password in the proxy's secret" in said[1]


def test_an_ipv6_address_that_the_function_cannot_reach() -> None:
    error = OSError(errno.ENETUNREACH, "Network is unreachable")
    assert "Ipv6AllowedForDualStack=true" in of_address(error, "2a05:d014::1", 5432, in_lambda=True)[0]
    assert "Ipv6" not in of_address(error, "10.0.0.1", 5432, in_lambda=True)[0]
