"""Answers of the RDS API, right, damaged and absurd: an endpoint or an EndpointError, never another exception."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_pool.endpoints.answers import read_cluster, read_proxy, read_proxy_reader
from lambda_pool.endpoints.base import Endpoint, Role
from lambda_pool.endpoints.rds import AuroraCluster, RdsProxy
from lambda_pool.errors import EndpointError
from tests.support.damaged import damaged
from tests.support.speed import examples

EXAMPLES = settings(max_examples=examples(2_500), deadline=None)

_absurd: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 65535, 65536, 10**400]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["", " ", "available", "x" * 100_000, "a,b", "/tmp", "@x", "10.0.0.1", "a..b", "\u017f.example", "."]
    ),
    st.binary(max_size=5),
    st.just(datetime(2026, 1, 1)),
    st.lists(st.one_of(st.none(), st.text(max_size=3), st.dictionaries(st.text(max_size=3), st.none())), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


def _damaged(right: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return damaged(right, _absurd)


_names = st.sampled_from(["orders", "ORDERS", "others"])
_hosts = st.sampled_from(["a.proxy-b.eu-west-1.rds.amazonaws.com", "b.example", "c.example."])
_proxies = _damaged(
    {
        "DBProxyName": _names,
        "Status": st.sampled_from(["available", "modifying", "creating", "suspended", "Deleting"]),
        "EngineFamily": st.sampled_from(["POSTGRESQL", "MYSQL", "SQLSERVER", "mysql"]),
        "Endpoint": _hosts,
        "RequireTLS": st.booleans(),
        "DefaultAuthScheme": st.sampled_from(["NONE", "IAM_AUTH"]),
        "Auth": st.lists(_damaged({"IAMAuth": st.sampled_from(["REQUIRED", "DISABLED", "ENABLED"])}), max_size=3),
    }
)
_endpoints = _damaged(
    {
        "DBProxyEndpointName": st.sampled_from(["a", "b"]),
        "DBProxyName": _names,
        "Status": st.sampled_from(["available", "creating"]),
        "Endpoint": _hosts,
        "TargetRole": st.sampled_from(["READ_ONLY", "READ_WRITE"]),
    }
)
_clusters = _damaged(
    {
        "DBClusterIdentifier": _names,
        "Status": st.sampled_from(["available", "stopped", "failing-over"]),
        "Engine": st.sampled_from(["aurora-postgresql", "aurora-mysql", "postgres", "mysql", "neptune", "docdb"]),
        "Endpoint": _hosts,
        "ReaderEndpoint": _hosts,
        "Port": st.integers(1, 65535),
        "IAMDatabaseAuthenticationEnabled": st.booleans(),
        "DBClusterMembers": st.lists(_damaged({"IsClusterWriter": st.booleans()}), max_size=3),
    }
)


def check(endpoint: Endpoint, *, proxy: bool) -> None:
    """What every endpoint is, wherever it came from."""
    assert 0 < len(endpoint.host) <= 253
    assert not set(endpoint.host) & set(" ,/@:\x00\n")
    assert not endpoint.host.endswith(".")
    assert endpoint.port is None or (type(endpoint.port) is int and 0 < endpoint.port < 65536)
    assert endpoint.engine in {"", "postgresql", "mysql"}
    assert endpoint.iam in {None, True, False}
    assert type(endpoint.requires_tls) is bool
    assert endpoint.proxy is proxy


@EXAMPLES
@given(st.lists(st.one_of(_proxies, _absurd), max_size=3))
def test_proxies(answer: list[Any]) -> None:
    with suppress(EndpointError):
        found = read_proxy(answer, "orders")
        if found is None:
            named = [str(p.get("DBProxyName")).lower() for p in answer if isinstance(p, dict)]
            assert "orders" not in named
        else:
            check(found, proxy=True)


@EXAMPLES
@given(st.lists(st.one_of(_endpoints, _absurd), max_size=4))
def test_proxy_endpoints(answer: list[Any]) -> None:
    writer = Endpoint("writer", 5432, proxy=True, engine="postgresql", iam=True, requires_tls=True)
    found = read_proxy_reader(answer, "orders", writer)
    if found is not None:
        check(found, proxy=True)
        given_hosts = {
            str(e["Endpoint"]).removesuffix(".")
            for e in answer
            if isinstance(e, dict) and e.get("TargetRole") == "READ_ONLY" and "Endpoint" in e
        }
        assert found.host in given_hosts


@EXAMPLES
@given(st.lists(st.one_of(_clusters, _absurd), max_size=3))
def test_clusters(answer: list[Any]) -> None:
    with suppress(EndpointError):
        found = read_cluster(answer, "orders")
        if found is not None:
            for endpoint in found:
                check(endpoint, proxy=False)
            assert found[0].port == found[1].port


class _FakeClient:
    """Gives whatever it was told to, to whatever it is asked."""

    class meta:
        region_name = "eu-west-1"

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers

    def _answer(self, **parameters: str) -> Any:
        answer = self._answers.pop(0) if self._answers else {}
        if isinstance(answer, Exception):
            raise answer
        return answer

    describe_db_proxies = describe_db_proxy_endpoints = describe_db_clusters = _answer

    def close(self) -> None:
        pass


class _Fault(Exception):
    """As botocore's ClientError, with any content at all."""

    def __init__(self, response: Any) -> None:
        super().__init__("fault")
        self.response = response


_listed = _damaged(
    {
        "DBProxies": st.lists(_proxies, min_size=1, max_size=2),
        "DBProxyEndpoints": st.lists(_endpoints, max_size=2),
        "DBClusters": st.lists(_clusters, min_size=1, max_size=2),
        "Marker": st.just(""),
    }
)
_answers = st.one_of(
    _listed,
    _listed,
    _listed.map(lambda answer: answer | {"Marker": "x"}),
    st.builds(lambda value: value, _absurd),  # as one kind: one_of() would count each of its own
    _damaged(
        {
            "Error": _damaged(
                {"Code": st.sampled_from(["DBProxyNotFoundFault", "AccessDenied", "Throttling", "Other"])}
            ),
            "ResponseMetadata": _damaged({"HTTPStatusCode": st.integers(200, 599)}),
        }
    ).map(_Fault),
    st.builds(ValueError, st.text(max_size=5)),
)


@settings(max_examples=examples(2_500), deadline=None)
@given(
    st.sampled_from([RdsProxy, AuroraCluster]), st.sampled_from(list(Role)), st.lists(_answers, min_size=1, max_size=4)
)
def test_whole_look_ups(kind: type[RdsProxy] | type[AuroraCluster], role: Role, answers: list[Any]) -> None:
    source = kind("orders")
    source._api._client = lambda deadline: _FakeClient(answers)  # type: ignore[method-assign]
    with suppress(EndpointError):
        check(source.resolve(role, 0.2), proxy=kind is RdsProxy)
