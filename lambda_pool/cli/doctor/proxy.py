"""What AWS says about an RDS Proxy that finishes no login: whether it has a healthy target.

AWS is asked only after a login failed, and for a limited time. Without an answer everything else goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from lambda_pool.aws import environment
from lambda_pool.aws.hosts import Kind, recognise
from lambda_pool.aws.identity import AwsIdentity
from lambda_pool.aws.sdk import code_of, create_client, load_session, no_bodies_logged
from lambda_pool.endpoints.base import EndpointSource
from lambda_pool.endpoints.rds import RdsProxy
from lambda_pool.waiting import within

# https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_TargetHealth.html
_REASONS = {
    "AUTH_FAILURE": "the proxy cannot log in: its secret must hold the user's password, or, with IAM_AUTH, its role "
    "must be allowed rds-db:connect",
    "CONNECTION_FAILED": "the proxy cannot connect: look at the database's log and its limits",
    "INVALID_REPLICATION_STATE": "the target does not replicate",
    "PENDING_PROXY_CAPACITY": "the proxy is being made larger: wait",
    "PROMOTED": "the target was promoted: it no longer belongs to the cluster",
    "UNREACHABLE": "the database's security group must let in the proxy's security group",
}


def of_targets(host: str, source: EndpointSource, seconds: float) -> list[str]:
    """What to do about the proxy's targets; nothing if there is no proxy, or if one of its targets is healthy."""
    known = recognise(host)
    if not isinstance(source, RdsProxy) and (known is None or not known.proxy):
        return []
    deadline = time.monotonic() + seconds

    def work() -> list[str]:
        keys = AwsIdentity().credentials(seconds)
        region = (known.region if known else "") or environment.region() or ""
        rds = create_client(load_session(), "rds", region, keys, deadline)
        with no_bodies_logged():
            name = source.name if isinstance(source, RdsProxy) else _name(rds, host)
            return read_targets(name, rds.describe_db_proxy_targets(DBProxyName=name)["Targets"])

    try:
        return within(seconds, work)
    except Exception as error:  # noqa: BLE001 - botocore's errors have no common root; a diagnosis goes on without
        code = code_of(error) or type(error).__name__
        return [
            f"AWS did not say whether the proxy has a healthy target ({code}): allow rds:DescribeDBProxyTargets, or "
            "look at the proxy's target group in the RDS console."
        ]


def _name(rds: Any, host: str) -> str:
    """The proxy's name, from its own host name or from that of one of its further endpoints."""
    known = recognise(host)
    assert known is not None
    if known.kind is Kind.PROXY:
        return known.identifier
    found = rds.describe_db_proxy_endpoints(DBProxyEndpointName=known.identifier)["DBProxyEndpoints"]
    return str(found[0]["DBProxyName"])


def read_targets(name: str, targets: Iterable[object]) -> list[str]:
    """What to do, according to the API's answer."""
    instances = [target for target in targets if isinstance(target, dict) and target.get("Type") != "TRACKED_CLUSTER"]
    if not instances:
        return [f"The proxy {name} has no target: register the database (aws rds register-db-proxy-targets)."]
    healths = [(str(target.get("RdsResourceId") or "?"), _health(target)) for target in instances]
    if any(health.get("State") == "AVAILABLE" for _, health in healths):
        return []
    told = "; ".join(f"{resource} is {_told(health)}" for resource, health in healths)
    return [f"The proxy {name} has no healthy target: {told}."]


def _health(target: dict[str, Any]) -> dict[str, Any]:
    health = target.get("TargetHealth")
    return health if isinstance(health, dict) else {}


def _told(health: dict[str, Any]) -> str:
    state, why = str(health.get("State") or "of unknown health"), str(health.get("Reason") or "")
    mend = _REASONS.get(
        why, "wait until it is registered" if state == "REGISTERING" else str(health.get("Description") or "")
    )
    return " ".join(filter(None, (state, why and f"({why})"))) + (f", {mend.rstrip('.')}" if mend else "")
