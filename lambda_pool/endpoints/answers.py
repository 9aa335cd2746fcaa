"""Makes endpoints of what the RDS API's answers say about a proxy or a cluster.

Answers are data from outside. A value that is missing, null, absurd or of another type gives an EndpointError, or
counts as not given where that is harmless.
"""

from collections.abc import Iterable
from typing import Any

from ..aws.hosts import RDS_ENGINES
from ..config import PORTS
from ..errors import EndpointError
from .base import Endpoint

_FAMILIES = {"POSTGRESQL": "postgresql", "MYSQL": "mysql"}

# Statuses in which no client is served, and what to do about each. Every other one (`available`, `modifying`,
# `backing-up`, `failing-over`, …, and those to come) is left to the connect itself to judge: during most changes
# the database goes on answering. Proxies: the API reference of DBProxy; clusters:
# https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/accessing-monitoring.html
_DEAD_PROXY = {
    "creating": "wait until RDS has created it",
    "deleting": "it is being deleted: name another",
    "incompatible-network": "its subnets or security groups do not fit: give it free addresses in two zones",
    "insufficient-resource-limits": "RDS has no room for it: raise the account's limits or use larger subnets",
    "suspended": "RDS has suspended it: look at its events in the RDS console",
    "suspending": "RDS is suspending it: look at its events in the RDS console",
    "reactivating": "wait until RDS has reactivated it",
}
_DEAD_CLUSTER = {
    "cloning-failed": "delete it and clone again",
    "creating": "wait until RDS has created it",
    "deleting": "it is being deleted: name another",
    "inaccessible-encryption-credentials": "RDS cannot use its KMS key: enable the key, or restore from a backup",
    "inaccessible-encryption-credentials-recoverable": "RDS cannot use its KMS key: enable it and start the cluster",
    "migrating": "wait until the snapshot is restored",
    "migration-failed": "delete it and restore the snapshot again",
    "starting": "wait until it has started",
    "stopped": "start it: aws rds start-db-cluster",
    "stopping": "it is being stopped: start it afterwards with aws rds start-db-cluster",
}


def read_proxy(proxies: Iterable[object], name: str) -> Endpoint | None:
    """The default endpoint of the proxy called `name` among those that describe_db_proxies gave; None if missing.

    `Endpoint.iam`: True where every login must be an IAM one, False where none may be. Raises EndpointError.
    """
    what = f"RDS Proxy {name!r}"
    proxy = _named(proxies, "DBProxyName", name)
    if proxy is None:
        return None
    _check_status(what, proxy, _DEAD_PROXY)
    family = _text(proxy, "EngineFamily")
    if family is not None and family.upper() not in _FAMILIES:
        raise EndpointError(f"{what} is for {family[:50]}: lambda_pool speaks PostgreSQL and MySQL")
    engine = _FAMILIES[family.upper()] if family else ""
    return Endpoint(
        host=_host(what, proxy, "Endpoint"),
        # It cannot be chosen: https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/rds-proxy-connecting.html
        port=PORTS.get(engine),
        proxy=True,
        engine=engine,
        iam=_proxy_iam(proxy),
        requires_tls=proxy.get("RequireTLS") is True,
    )


def read_proxy_reader(endpoints: Iterable[object], name: str, writer: Endpoint) -> Endpoint | None:
    """A read-only endpoint of the same proxy among those that describe_db_proxy_endpoints gave; None if none is usable.

    If there are several, it is the first one by name, so that all functions choose the same one.
    """
    found: dict[str, str] = {}
    for endpoint in _mappings(endpoints):
        host = _plausible(_text(endpoint, "Endpoint"))
        status = _text(endpoint, "Status") or ""
        if (
            host is not None
            and _text(endpoint, "TargetRole") == "READ_ONLY"
            and _same(_text(endpoint, "DBProxyName"), name)
            and status.lower() not in _DEAD_PROXY
        ):
            found[_text(endpoint, "DBProxyEndpointName") or host] = host
    if not found:
        return None
    return writer.replace(host=found[min(found)])


def read_cluster(clusters: Iterable[object], name: str) -> tuple[Endpoint, Endpoint] | None:
    """Writer and reader endpoint of the cluster called `name` among those that describe_db_clusters gave.

    None if it is missing. The reader is the writer's endpoint again where the cluster has no reader. `Endpoint.iam`
    is False where IAM logins are switched off. Raises EndpointError.
    """
    what = f"cluster {name!r}"
    cluster = _named(clusters, "DBClusterIdentifier", name)
    if cluster is None:
        return None
    _check_status(what, cluster, _DEAD_CLUSTER)
    engine = _text(cluster, "Engine")
    if engine is not None and engine.lower() not in RDS_ENGINES:
        raise EndpointError(f"{what} runs {engine[:50]}: lambda_pool speaks PostgreSQL and MySQL")
    port = cluster.get("Port")
    if port is not None and not (type(port) is int and 0 < port < 65536):
        raise EndpointError(f"the RDS API gave no usable port for {what}: {str(port)[:50]!r}")
    writer = Endpoint(
        host=_host(what, cluster, "Endpoint"),
        port=port,
        engine=RDS_ENGINES[engine.lower()] if engine else "",
        iam=False if cluster.get("IAMDatabaseAuthenticationEnabled") is False else None,
    )
    reader = _plausible(_text(cluster, "ReaderEndpoint"))
    if reader is None or not _has_reader(cluster):
        return writer, writer
    return writer, writer.replace(host=reader)


def _has_reader(cluster: dict[str, Any]) -> bool:
    """False if the answer lists the cluster's members, and all of them are writers."""
    members = cluster.get("DBClusterMembers")
    if not isinstance(members, list) or not members:
        return True
    return any(member.get("IsClusterWriter") is not True for member in _mappings(members))


def _proxy_iam(proxy: dict[str, Any]) -> bool | None:
    if _text(proxy, "DefaultAuthScheme") == "IAM_AUTH":
        return True
    listed = proxy.get("Auth")
    # Each entry is for one database user. The login's user is not known here, so only what all of them say counts.
    said = {_text(auth, "IAMAuth") for auth in _mappings(listed if isinstance(listed, list) else [])}
    if said == {"REQUIRED"}:
        return True
    return False if said == {"DISABLED"} else None


def _check_status(what: str, described: dict[str, Any], dead: dict[str, str]) -> None:
    status = (_text(described, "Status") or "").lower()
    if status in dead:
        raise EndpointError(f"{what} is not available, its status is {status!r}: {dead[status]}")


def _named(described: Iterable[object], key: str, name: str) -> dict[str, Any] | None:
    return next((one for one in _mappings(described) if _same(_text(one, key), name)), None)


def _same(given: str | None, name: str) -> bool:
    # RDS keeps names in lower case and does not tell cases apart.
    return given is not None and given.lower() == name.lower()


def _mappings(values: Iterable[object]) -> Iterable[dict[str, Any]]:
    return (value for value in values if isinstance(value, dict))


def _text(described: dict[str, Any], key: str) -> str | None:
    value = described.get(key)
    return value if isinstance(value, str) and value else None


def _host(what: str, described: dict[str, Any], key: str) -> str:
    host = _plausible(_text(described, key))
    if host is None:
        raise EndpointError(
            f"the RDS API gave no usable address for {what}: {key} is {str(described.get(key))[:100]!r}"
        )
    return host


def _plausible(host: str | None) -> str | None:
    """A host name as DNS knows it, without a trailing dot; None for anything else."""
    if host is None:
        return None
    host = host.removesuffix(".")
    # A comma or a slash would make libpq read a list or a socket's path.
    letters = host.replace("-", "").replace(".", "")
    return host if len(host) <= 253 and letters.isalnum() and host.isascii() and host[0] != "." else None
