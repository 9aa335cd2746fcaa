"""One checked, reused database connection per AWS Lambda environment.

Importing this package costs next to nothing: each public name is loaded when it is first used, a driver when a pool is
made for its engine, and an AWS SDK only if a credential or an endpoint needs it.
"""

import os

__version__ = "0.1.0"

# Type checkers treat this name as true. So typing itself is not loaded, which would be most of what importing this
# package costs (5 of 6 ms).
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .aio.pool import AsyncPool
    from .api import Pool, handler
    from .auth.iam import IamToken
    from .auth.secrets import SecretsManager
    from .endpoints.rds import AuroraCluster, RdsProxy
    from .errors import (
        CommitUncertain,
        ConfigError,
        ConnectError,
        CredentialsError,
        DeadlineExceeded,
        EndpointError,
        LambdaPoolError,
        NotCommitted,
        PoolTimeout,
    )
    from .stats import PoolStats

_HOMES = {
    "Pool": "api",
    "AsyncPool": "aio.pool",
    "handler": "api",
    "IamToken": "auth.iam",
    "SecretsManager": "auth.secrets",
    "RdsProxy": "endpoints.rds",
    "AuroraCluster": "endpoints.rds",
    "PoolStats": "stats",
    "LambdaPoolError": "errors",
    "ConfigError": "errors",
    "CredentialsError": "errors",
    "EndpointError": "errors",
    "ConnectError": "errors",
    "PoolTimeout": "errors",
    "DeadlineExceeded": "errors",
    "CommitUncertain": "errors",
    "NotCommitted": "errors",
}

__all__ = [
    "AsyncPool",
    "AuroraCluster",
    "CommitUncertain",
    "ConfigError",
    "ConnectError",
    "CredentialsError",
    "DeadlineExceeded",
    "EndpointError",
    "IamToken",
    "LambdaPoolError",
    "NotCommitted",
    "Pool",
    "PoolStats",
    "PoolTimeout",
    "RdsProxy",
    "SecretsManager",
    "handler",
]


if "AWS_LAMBDA_RUNTIME_API" in os.environ:
    # An environment hears of its own end only if it asks during Init, which may be over when the first pool is made.
    from .lifecycle import shutdown

    shutdown.install()


def __getattr__(name: str) -> "Any":
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
