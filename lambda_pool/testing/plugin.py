"""The pytest plugin that comes with lambda_pool: the fixtures to test your own functions with.

pytest loads this in every project that has lambda_pool installed, so it imports nothing but pytest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from lambda_pool.testing.mariadb import MariaDbServer
    from lambda_pool.testing.postgres import PostgresServer
    from lambda_pool.testing.runtime import LambdaRuntime


class RuntimeFactory(Protocol):
    """What the fixture gives: called like LambdaRuntime, it returns a started one."""

    def __call__(self, handler: str, **options: Any) -> LambdaRuntime: ...


_RUNTIMES = pytest.StashKey[list["LambdaRuntime"]]()


@pytest.fixture
def lambda_runtime(request: pytest.FixtureRequest) -> Iterator[RuntimeFactory]:
    """A factory of started LambdaRuntime objects, all ended after the test.

    When the test fails, its report shows the end of each one's log.
    """
    from lambda_pool.testing.runtime import LambdaRuntime

    started = request.node.stash.setdefault(_RUNTIMES, [])
    with contextlib.ExitStack() as stack:

        def start(handler: str, **options: Any) -> LambdaRuntime:
            runtime = stack.enter_context(LambdaRuntime(handler, **options))
            started.append(runtime)
            return runtime

        yield start
        started.clear()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A private PostgreSQL on loopback, without TLS, for the whole test run; the superuser's database is empty."""
    from lambda_pool.testing.postgres import PostgresServer

    with PostgresServer(tls=False) as server:
        yield server


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[MariaDbServer]:
    """A private MariaDB on loopback for the whole test run; its database `app` is empty."""
    from lambda_pool.testing.mariadb import MariaDbServer

    with MariaDbServer() as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the functions of a failed test wrote to its report, unless the error shows it already."""
    report = yield
    if report.when == "call" and report.failed:
        error = "" if call.excinfo is None else call.excinfo.exconly()
        for runtime in item.stash.get(_RUNTIMES, []):
            report.sections.append((f"log of {runtime.handler}", runtime.log_beside(error)))
    return report
