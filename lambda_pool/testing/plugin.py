"""The pytest plugin that comes with lambda_pool: the fixture `lambda_runtime`.

pytest loads this in every project that has lambda_pool installed, so it imports nothing but pytest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from lambda_pool.testing.runtime import LambdaRuntime


class RuntimeFactory(Protocol):
    """What the fixture gives: called like LambdaRuntime, it returns a started one."""

    def __call__(self, handler: str, **options: Any) -> LambdaRuntime: ...


@pytest.fixture
def lambda_runtime() -> Iterator[RuntimeFactory]:
    """A factory of started LambdaRuntime objects, all ended after the test."""
    from lambda_pool.testing.runtime import LambdaRuntime

    with contextlib.ExitStack() as stack:

        def start(handler: str, **options: Any) -> LambdaRuntime:
            return stack.enter_context(LambdaRuntime(handler, **options))

        yield start
