"""An RDS Proxy that takes IAM logins only, also to the database; its dual-stack endpoints; its statuses."""

from typing import Any

import botocore.session
import pytest
from botocore.stub import Stubber

from lambda_pool import CredentialsError, EndpointError, IamToken, RdsProxy
from lambda_pool.endpoints.answers import _DEAD_PROXY
from lambda_pool.endpoints.base import Role
from lambda_pool.engines.base import Failure
from lambda_pool.testing import FakeDriver, FakeError
from tests.unit.endpoints.test_rds import PROXY_HOST, proxy, reader, say_endpoints, say_proxies

END_TO_END: dict[str, Any] = {"DefaultAuthScheme": "IAM_AUTH", "Auth": [], "EndpointNetworkType": "DUAL"}


def borrow(driver: FakeDriver, **arguments: Any) -> None:
    url = "postgresql://app:password@/orders" if "auth" not in arguments else "postgresql://app@/orders"
    with driver.pool(url, endpoint=RdsProxy("orders"), **arguments).connection():
        pass


def test_a_token_goes_through_end_to_end(stubber: Stubber) -> None:
    say_proxies(stubber, proxy(**END_TO_END))
    driver = FakeDriver()
    borrow(driver, auth=IamToken())
    [request] = driver.requests
    assert (request.host, request.port, request.pooled, request.tls.required) == (PROXY_HOST, 5432, True, True)
    assert request.credentials.iam
    assert request.credentials.password is not None
    assert request.credentials.password.reveal().startswith(f"{PROXY_HOST}:5432/?")


def test_a_password_is_refused_with_what_to_do(stubber: Stubber) -> None:
    say_proxies(stubber, proxy(**END_TO_END))
    driver = FakeDriver()
    driver.fail("connect", FakeError(Failure.REJECTED, "This RDS proxy has no credentials for the role app"))
    with pytest.raises(CredentialsError, match="The RDS API says that only IAM logins are accepted there"):
        borrow(driver)


@pytest.mark.parametrize("network", ["IPV4", "IPV6", "DUAL"])
def test_an_endpoint_of_any_network_is_a_host_name(stubber: Stubber, network: str) -> None:
    """Which addresses it has is for DNS to say, and each is tried."""
    say_proxies(stubber, proxy(EndpointNetworkType=network, TargetConnectionNetworkType="IPV6"))
    say_endpoints(stubber, reader(EndpointNetworkType=network))
    source = RdsProxy("orders")
    assert source.resolve(Role.READER, 5.0).host.startswith("orders-ro.")
    assert source.resolve(Role.WRITER, 5.0).host == PROXY_HOST


def test_every_status_of_the_service_is_served_or_explained() -> None:
    shape: Any = botocore.session.get_session().get_service_model("rds").shape_for("DBProxyStatus")
    statuses = set(shape.enum)
    assert statuses - {"available", "modifying"} == set(_DEAD_PROXY)


@pytest.mark.parametrize("status", ["suspended", "suspending", "reactivating"])
def test_a_proxy_that_is_suspended(stubber: Stubber, status: str) -> None:
    say_proxies(stubber, proxy(Status=status))
    driver = FakeDriver()
    with pytest.raises(EndpointError, match=f"RDS Proxy 'orders' is not available, its status is '{status}': "):
        borrow(driver, auth=IamToken())
    assert driver.requests == []
