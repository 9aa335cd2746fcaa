"""How the doctor names what a pool is made of, where a `repr` would be for programmers only."""

from __future__ import annotations

from lambda_pool.auth.base import Auth, UrlAuth
from lambda_pool.auth.iam import IamToken
from lambda_pool.auth.secrets import SecretsManager
from lambda_pool.endpoints.base import EndpointSource, FixedEndpoint
from lambda_pool.endpoints.rds import AuroraCluster, RdsProxy


def of_auth(auth: Auth) -> str:
    """Where the login comes from."""
    if isinstance(auth, UrlAuth):
        return "the configured user and password"
    if isinstance(auth, IamToken):
        return "an IAM token"
    if isinstance(auth, SecretsManager):
        return f"the secret {auth.secret_id}"
    return _own(auth)


def of_endpoint(source: EndpointSource) -> str:
    """Where the host comes from."""
    if isinstance(source, FixedEndpoint):
        return "the configured host"
    if isinstance(source, RdsProxy):
        return f"the RDS Proxy {source.name}"
    if isinstance(source, AuroraCluster):
        return f"the Aurora cluster {source.name}"
    return _own(source)


def _own(thing: object) -> str:
    """What the user wrote names itself, or is called by its type's name."""
    return type(thing).__name__ if type(thing).__repr__ is object.__repr__ else repr(thing)
