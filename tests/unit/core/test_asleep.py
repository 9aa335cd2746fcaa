"""`wake_timeout`: who waits for a database that resumes, how long, and what is said."""

import threading
import time
from typing import Any

import psycopg
import pymysql
import pytest

import lambda_pool
from lambda_pool.core import policy
from lambda_pool.engines.base import AUTO_PAUSED, SILENT, Failure
from lambda_pool.engines.psycopg.errors import classify as classify_postgres
from lambda_pool.engines.psycopg.libpq import NoAnswerError
from lambda_pool.engines.pymysql.errors import classify as classify_mysql
from lambda_pool.invocation import Deadline
from lambda_pool.testing import FakeDriver, FakeError
from tests.support.invoked import invoked


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.mark.parametrize("kind", list(Failure))
@pytest.mark.parametrize(("wake_timeout", "resuming"), [(0.0, 5.0), (40.0, 40.0), (2.0, 5.0)])
def test_only_a_database_that_resumes_is_waited_for(kind: Failure, wake_timeout: float, resuming: float) -> None:
    assert policy.patience(kind, 5.0, wake_timeout) == (resuming if kind is Failure.RESUMING else 5.0)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (SILENT, Failure.RESUMING),
        ("FATAL:  the database system is starting up", Failure.RESUMING),
        ("FATAL:  the database system is not yet accepting connections", Failure.RESUMING),
        (f"FATAL:  The Aurora DB instance orders is {AUTO_PAUSED}.", Failure.RESUMING),
        ("FATAL:  the database system is shutting down", Failure.UNREACHABLE),
        ("no answer in time", Failure.UNREACHABLE),
    ],
)
def test_postgresqls_words(text: str, kind: Failure) -> None:
    make = psycopg.OperationalError if text.startswith("FATAL") else NoAnswerError
    assert classify_postgres(make(text)) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (pymysql.OperationalError(2013, SILENT), Failure.RESUMING),
        (pymysql.OperationalError(1105, f"The Aurora DB instance orders is {AUTO_PAUSED}."), Failure.RESUMING),
        (pymysql.OperationalError(2013, "Lost connection to MySQL server during query"), Failure.LOST),
        (pymysql.OperationalError(2003, "Can't connect to MySQL server on 'db' (timed out)"), Failure.UNREACHABLE),
    ],
)
def test_mysqls_words(error: Exception, kind: Failure) -> None:
    assert classify_mysql(error) is kind


def test_a_checkout_waits_for_as_long_as_it_says(driver: FakeDriver) -> None:
    pool = driver.pool(timeout=0.2, wake_timeout=60.0)
    driver.fail("connect", *[FakeError(Failure.RESUMING)] * 3, FakeError(Failure.UNREACHABLE), FakeError(Failure.LOST))
    with pool.connection():
        pass
    assert pool.stats().connect_errors == 5


@pytest.mark.parametrize("options", [{}, {"wake_timeout": 0.8}])
def test_it_gives_up_and_says_what_to_do(driver: FakeDriver, options: dict[str, Any]) -> None:
    pool = driver.pool(timeout=0.3, **options)
    driver.fail("connect", *[FakeError(Failure.RESUMING, "starting")] * 1000)
    start = time.monotonic()
    says = "did not wake within wake_timeout=0.8" if options else "Set wake_timeout"
    with pytest.raises(lambda_pool.ConnectError, match=says):
        pool.connection().__enter__()
    assert time.monotonic() - start >= (0.5 if options else 0.0)
    assert time.monotonic() - start < 5


def test_the_invocation_cuts_it(driver: FakeDriver) -> None:
    pool = driver.pool(timeout=0.2, wake_timeout=600.0)
    driver.fail("connect", *[FakeError(Failure.RESUMING)] * 1000)
    end = time.monotonic() + 0.8
    with invoked(lambda: int((end - time.monotonic()) * 1000)):
        with pytest.raises(lambda_pool.DeadlineExceeded, match="raise the function's timeout"):
            pool.connection().__enter__()
        assert time.monotonic() < end + 5


def test_other_failures_are_waited_for_as_before(driver: FakeDriver) -> None:
    pool = driver.pool(timeout=0.3, wake_timeout=60.0)
    driver.fail("connect", *[FakeError(Failure.UNREACHABLE)] * 1000)
    start = time.monotonic()
    with pytest.raises(lambda_pool.ConnectError):
        pool.connection().__enter__()
    assert time.monotonic() - start < 10


def test_a_timeout_that_the_caller_gives_is_kept(driver: FakeDriver) -> None:
    pool = driver.pool(wake_timeout=60.0)
    driver.fail("connect", *[FakeError(Failure.RESUMING)] * 1000)
    start = time.monotonic()
    with pytest.raises(lambda_pool.ConnectError):
        pool.connection(timeout=0.2).__enter__()
    assert time.monotonic() - start < 10


def test_who_waits_for_the_only_connection_waits_for_the_database_too(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first borrower wakes it; the second, who finds no room, has no shorter patience."""
    pool = driver.pool(timeout=0.3, wake_timeout=60.0, max_size=1)
    awake = threading.Event()
    real = driver.connect

    def connect(request: Any) -> Any:
        if not awake.is_set():
            raise FakeError(Failure.RESUMING)
        return real(request)

    monkeypatch.setattr(driver, "connect", connect)
    failures: list[BaseException] = []

    def borrow() -> None:
        try:
            with pool.connection():
                pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=borrow) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    awake.set()
    for thread in threads:
        thread.join(30)
    assert failures == []


def test_a_deadline_only_ever_grows() -> None:
    deadline = Deadline(5.0)
    before = deadline.at
    deadline.extend(2.0)
    assert deadline.at == before
    deadline.extend(7.0)
    assert deadline.at == pytest.approx(before + 2.0, abs=0.5)


@pytest.mark.parametrize("value", [1.0, 5.0])
def test_it_is_longer_than_timeout(driver: FakeDriver, value: float) -> None:
    with pytest.raises(lambda_pool.ConfigError, match=r"wake_timeout=.* more than timeout \(5\)"):
        driver.pool(wake_timeout=value)
    assert driver.pool(wake_timeout=5.5).config.wake_timeout == 5.5
    assert driver.pool("postgresql://u@h/d?wake_timeout=40").config.wake_timeout == 40.0
