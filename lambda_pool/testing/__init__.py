"""What users test their own functions with: the genuine Lambda runtime, real servers, a faulty network.

Names are resolved lazily, so that a test which needs one tool does not load the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambda_pool.testing.answers import Invocation as Invocation
    from lambda_pool.testing.answers import InvocationError as InvocationError
    from lambda_pool.testing.fakes import FakeDriver as FakeDriver
    from lambda_pool.testing.fakes import FakeError as FakeError
    from lambda_pool.testing.mariadb import MariaDbServer as MariaDbServer
    from lambda_pool.testing.mysql import MySqlServer as MySqlServer
    from lambda_pool.testing.network import FaultyProxy as FaultyProxy
    from lambda_pool.testing.pin_check import Pin as Pin
    from lambda_pool.testing.pin_check import PinCheck as PinCheck
    from lambda_pool.testing.pin_check import PinnedError as PinnedError
    from lambda_pool.testing.postgres import PostgresServer as PostgresServer
    from lambda_pool.testing.runtime import LambdaRuntime as LambdaRuntime

# A new name is one line here and one import above.
_HOMES = {
    "FakeDriver": "lambda_pool.testing.fakes",
    "FakeError": "lambda_pool.testing.fakes",
    "FaultyProxy": "lambda_pool.testing.network",
    "Invocation": "lambda_pool.testing.answers",
    "InvocationError": "lambda_pool.testing.answers",
    "LambdaRuntime": "lambda_pool.testing.runtime",
    "MariaDbServer": "lambda_pool.testing.mariadb",
    "MySqlServer": "lambda_pool.testing.mysql",
    "Pin": "lambda_pool.testing.pin_check",
    "PinCheck": "lambda_pool.testing.pin_check",
    "PinnedError": "lambda_pool.testing.pin_check",
    "PostgresServer": "lambda_pool.testing.postgres",
}


def __getattr__(name: str) -> object:
    """Load the module that holds a public name, on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
