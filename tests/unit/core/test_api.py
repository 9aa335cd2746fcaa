"""How a public Pool is put together: what is taken, what is refused, what the environment chooses."""

import re
from collections.abc import Callable
from typing import Any

import pytest

import lambda_pool
from lambda_pool.api import core_of
from lambda_pool.auth.iam import IamToken
from lambda_pool.auth.secrets import SecretsManager
from lambda_pool.endpoints.base import Endpoint, FixedEndpoint
from lambda_pool.endpoints.rds import AuroraCluster, RdsProxy

URL = "postgresql://app@db.example/app"


@pytest.mark.parametrize(("option", "example"), [("auth", "IamToken()"), ("endpoint", "RdsProxy('name')")])
def test_what_is_no_source_is_refused_and_not_shown(option: str, example: str) -> None:
    arguments: dict[str, Any] = {option: "s3cret"}
    with pytest.raises(lambda_pool.ConfigError, match=rf"{option}.*{re.escape(example)}.*not str") as caught:
        lambda_pool.Pool(URL, **arguments)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["Pool", "AsyncPool"])
@pytest.mark.parametrize(
    ("url", "given", "said"),
    [
        ("postgresql://db.example/app", {"auth": IamToken()}, "IamToken needs the database user"),
        ("mysql:///app", {"auth": IamToken(), "endpoint": RdsProxy("p")}, "IamToken needs the database user"),
        ("postgresql://app@/app", {"auth": IamToken()}, "IamToken signs the host name"),
        ("postgresql://app@/app?host=/run/postgresql", {"auth": IamToken()}, "IamToken signs the host name"),
        (f"{URL}?sslmode=prefer", {"auth": IamToken(), "endpoint": AuroraCluster("c")}, "never travel unencrypted"),
        (f"{URL}?sslrootcert=rds-eu-nowhere-9", {}, "no certificate authorities are shipped for a region"),
        (f"{URL}?sslrootcert=rds-proxy&sslmode=verify-ca", {}, "would accept any certificate"),
        ("postgresql://app@/app", {"endpoint": RdsProxy("p"), "reset": "session"}, "reset='session' is not valid"),
        ("postgresql://app@/app?options=-cx%3D1", {"endpoint": RdsProxy("p")}, "not valid behind an RDS Proxy"),
    ],
)
def test_what_no_connect_could_do_is_refused_when_the_pool_is_made(
    kind: str, url: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(lambda_pool.ConfigError, match=said):
        getattr(lambda_pool, kind)(url, **given)


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("postgresql://app@/app", {"auth": IamToken(), "endpoint": RdsProxy("p")}),
        ("postgresql://app@/app", {"auth": IamToken(), "endpoint": FixedEndpoint(Endpoint("db.example", 5432))}),
        (f"{URL}?sslrootcert=/not/there/yet.pem", {}),
        (f"{URL}?sslrootcert=system", {}),
        (f"{URL}?sslrootcert=rds&sslmode=verify-ca", {}),
    ],
)
def test_what_a_connect_may_do_is_left_to_it(url: str, given: dict[str, Any]) -> None:
    lambda_pool.Pool(url, **given)


@pytest.mark.parametrize(("option", "given"), [("auth", IamToken), ("endpoint", RdsProxy)])
def test_a_class_is_no_source_yet(option: str, given: type) -> None:
    with pytest.raises(lambda_pool.ConfigError, match=rf"{option}.*not the class {given.__name__}"):
        lambda_pool.Pool(URL, **{option: given})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("option", "has", "lacks"),
    [
        ("auth", ["credentials"], "needs_tls, rejected, forget"),
        ("auth", ["credentials", "needs_tls", "forget"], "rejected"),
        ("endpoint", ["resolve"], "has_reader, failed, forget"),
    ],
)
def test_a_source_of_ones_own_has_all_that_will_be_asked_of_it(option: str, has: list[str], lacks: str) -> None:
    source = type("Vault", (), dict.fromkeys(has))()
    with pytest.raises(lambda_pool.ConfigError, match=rf"^{option} is not valid: Vault has no {lacks}$"):
        lambda_pool.Pool(URL, **{option: source})


class _Listening:
    """An observer, which is not a list of them."""

    def on_event(self, event: object) -> None:
        """Hear nothing."""


@pytest.mark.parametrize("observers", [[print], _Listening(), [_Listening], False, 1])
def test_observers_that_observe_nothing_are_refused(observers: Any) -> None:
    with pytest.raises(lambda_pool.ConfigError, match="observers is not valid: it must be a list of objects"):
        lambda_pool.Pool(URL, observers=observers)


def test_observers_may_come_one_by_one() -> None:
    pool = lambda_pool.Pool(URL, observers=iter([_Listening()]))  # type: ignore[call-overload]
    assert len(core_of(pool).events.observers) == 1


@pytest.mark.parametrize("prefix", [None, 1, b"DB_"])
def test_a_prefix_that_is_no_text(prefix: Any) -> None:
    with pytest.raises(lambda_pool.ConfigError, match="prefix is not valid: it must be a string"):
        lambda_pool.Pool.from_env(prefix)


SECRET_URL = "postgresql://u:c4n4ry@h/d"


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: lambda_pool.handler(SECRET_URL),  # type: ignore[arg-type]
        lambda: lambda_pool.Pool.from_env(SECRET_URL),
        lambda: lambda_pool.Pool.from_env("postgresql://u@x:c4n4ry@h/d"),
        lambda: lambda_pool.Pool(URL, name=SECRET_URL),
        lambda: lambda_pool.Pool(URL, reset=SECRET_URL),
        lambda: lambda_pool.Pool(URL, timeout=SECRET_URL),  # type: ignore[call-overload]
        lambda: lambda_pool.Pool(URL, auth=IamToken(SECRET_URL)),
        lambda: lambda_pool.Pool(URL, endpoint=RdsProxy(SECRET_URL)),
        lambda: lambda_pool.Pool(URL).run(print, attempts=SECRET_URL),  # type: ignore[arg-type]
        lambda: lambda_pool.Pool(URL).connection(timeout=SECRET_URL),  # type: ignore[arg-type]
    ],
)
def test_a_url_in_the_wrong_place_is_not_shown(mistake: Callable[[], object]) -> None:
    with pytest.raises(lambda_pool.ConfigError) as caught:
        mistake()
    assert "c4n4ry" not in repr(caught.value)


def test_a_password_as_the_kind_of_login_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_POOL_AUTH", "c4n4ry")
    with pytest.raises(lambda_pool.ConfigError, match="LAMBDA_POOL_AUTH is not valid") as caught:
        lambda_pool.Pool.from_env()
    assert "c4n4ry" not in str(caught.value)


@pytest.mark.parametrize("timeout", [float("inf"), "5s", 0, True])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(lambda_pool.ConfigError, match="timeout="):
        lambda_pool.Pool(URL).connection(timeout=timeout)


@pytest.mark.parametrize(
    ("variable", "value", "kind"),
    [("LAMBDA_POOL_RDS_PROXY", "orders", RdsProxy), ("LAMBDA_POOL_AURORA_CLUSTER", "orders", AuroraCluster)],
)
def test_the_environment_chooses_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, kind: type
) -> None:
    monkeypatch.setenv("LAMBDA_POOL_URL", URL)
    monkeypatch.setenv(variable, value)
    for pool in (lambda_pool.Pool(), lambda_pool.Pool.from_env()):
        assert isinstance(core_of(pool).connector.endpoint, kind)


def test_the_environment_chooses_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_POOL_URL", URL)
    monkeypatch.setenv("LAMBDA_POOL_SECRET_ID", "orders/app")
    for pool in (lambda_pool.Pool(), lambda_pool.Pool.from_env()):
        assert isinstance(core_of(pool).connector.auth, SecretsManager)


def test_the_public_names_are_listed() -> None:
    assert {"Pool", "handler", "CommitUncertain"} <= set(dir(lambda_pool))
    assert {"FakeDriver", "LambdaRuntime"} <= set(dir(lambda_pool.testing))
