"""How a public Pool is put together: what is taken, what is refused, what the environment chooses."""

from typing import Any

import pytest

import lambda_pool
from lambda_pool.auth.secrets import SecretsManager
from lambda_pool.endpoints.rds import AuroraCluster, RdsProxy

URL = "postgresql://app@db.example/app"


@pytest.mark.parametrize(("option", "method"), [("auth", "credentials"), ("endpoint", "resolve")])
def test_what_is_no_source_is_refused_and_not_shown(option: str, method: str) -> None:
    arguments: dict[str, Any] = {option: "s3cret"}
    with pytest.raises(lambda_pool.ConfigError, match=rf"{option}.*method {method}\(\)") as caught:
        lambda_pool.Pool(URL, **arguments)
    assert "s3cret" not in str(caught.value)


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
        assert isinstance(pool._endpoint, kind)


def test_the_environment_chooses_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_POOL_URL", URL)
    monkeypatch.setenv("LAMBDA_POOL_SECRET_ID", "orders/app")
    for pool in (lambda_pool.Pool(), lambda_pool.Pool.from_env()):
        assert isinstance(pool._auth, SecretsManager)


def test_the_public_names_are_listed() -> None:
    assert {"Pool", "handler", "CommitUncertain"} <= set(dir(lambda_pool))
    assert {"FakeDriver", "LambdaRuntime"} <= set(dir(lambda_pool.testing))
