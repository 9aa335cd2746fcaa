"""A signal handler that raises, anywhere in the pool: nothing is lost, doubled or stuck after the invocation's end."""

import gc
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

import pytest

import lambda_pool
from lambda_pool import IamToken, RdsProxy, SecretsManager, invocation
from lambda_pool.api import core_of
from lambda_pool.auth.secrets import _Answer
from lambda_pool.aws.environment import AwsCredentials
from lambda_pool.aws.identity import AwsIdentity
from lambda_pool.core.entry import State
from lambda_pool.endpoints.base import Endpoint, Role
from lambda_pool.engines.base import Failure
from lambda_pool.secret import Secret
from lambda_pool.testing import FakeDriver, FakeError
from tests.support.core import end_invocation, entries, idle, queue
from tests.support.interrupts import every_place, handler, run_interrupted

ENDPOINT = Endpoint("db.example", 5432)
Prepare = Callable[[FakeDriver, lambda_pool.Pool], Callable[[], object]]


def borrow(pool: lambda_pool.Pool, **arguments: Any) -> None:
    with pool.connection(**arguments) as conn:
        conn.execute("insert")


def check(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
    """After `end_invocation`: every slot is idle, nobody waits, no lock is held, no connection got away."""
    assert not core_of(pool).lock._is_owned()  # type: ignore[attr-defined]
    assert not queue(pool)
    assert {slot.state for slot in entries(pool)} <= {State.IDLE}
    assert len(idle(pool)) == len(entries(pool)) == len(set(map(id, idle(pool))))
    assert {id(slot) for slot in idle(pool)} == {id(slot) for slot in entries(pool)}
    assert len(entries(pool)) <= pool.config.max_size
    kept = {id(slot.link) for slot in entries(pool)}
    if sum(link.alive for link in driver.links) > len(kept):
        gc.collect()
    for link in driver.links:
        # Known to nobody but this list and this loop: a real one would have been closed with its last reference.
        assert not link.alive or id(link) in kept or sys.getrefcount(link) <= 3
    stats = pool.stats()
    assert (stats.size, stats.in_use, stats.waiting) == (len(entries(pool)), 0, 0)
    # The one event that was being told of when the signal came may be missing.
    assert abs(stats.opened - stats.closed - stats.size) <= 1
    driver.obey()
    # All of them can be lent at once, to one borrower each, and come back.
    leases = [pool.connection() for _ in range(pool.config.max_size)]
    conns = [lease.__enter__() for lease in leases]
    assert len({id(conn) for conn in conns}) == pool.config.max_size
    for conn in conns:
        conn.execute("select")
    with pytest.raises(lambda_pool.PoolTimeout, match="already holds"):
        pool.connection().__enter__()
    for lease in leases:
        lease.__exit__(None, None, None)
    assert pool.stats().idle == pool.config.max_size


def cold(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    return lambda: borrow(pool)


def warm(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    borrow(pool)
    return lambda: borrow(pool)


def clean(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    borrow(pool)

    def work() -> None:
        with pool.connection():
            pass

    return work


def pinged(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    borrow(pool)
    driver.links[0].readable = True
    return lambda: borrow(pool)


def dead(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    borrow(pool)
    driver.links[0].kill()
    return lambda: borrow(pool)


def failed_over(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    borrow(pool)
    driver.links[0].readable = True
    driver.fail("ping", FakeError(Failure.SHUTDOWN))
    return lambda: borrow(pool)


def retried(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    driver.fail("connect", FakeError(Failure.UNREACHABLE))
    return lambda: borrow(pool)


def refused(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    driver.fail("connect", FakeError(Failure.OTHER))

    def work() -> None:
        with pytest.raises(lambda_pool.ConnectError):
            borrow(pool)

    return work


def failing_block(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    borrow(pool)

    def work() -> None:
        with pytest.raises(ZeroDivisionError), pool.connection() as conn:
            conn.execute("insert")
            1 / 0  # noqa: B018

    return work


def read_only(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    return lambda: borrow(pool, readonly=True)


def lost_at_begin(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    borrow(pool)
    driver.fail("begin", FakeError(Failure.LOST))
    return lambda: borrow(pool, readonly=True)


def run(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    return lambda: pool.run(lambda conn: conn.execute("insert"))


def replayed(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    driver.fail("execute", FakeError(Failure.CONFLICT), FakeError(Failure.LOST))
    return lambda: pool.run(lambda conn: conn.execute("insert"))


def lost_commit(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    driver.fail("commit", lambda_pool.CommitUncertain("lost"))

    def work() -> None:
        with pytest.raises(lambda_pool.CommitUncertain):
            borrow(pool)

    return work


def warmed(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    return pool.warm


def closed(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    pool.warm()
    return pool.close


def closed_while_lent(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    pool.warm()

    def work() -> None:
        with pool.connection():
            pool.close()

    return work


def one_too_many(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    pool.warm()

    def work() -> None:
        leases = [pool.connection() for _ in range(pool.config.max_size)]
        for lease in leases:
            lease.__enter__()
        with pytest.raises(lambda_pool.PoolTimeout):
            pool.connection().__enter__()
        for lease in leases:
            lease.__exit__(None, None, None)

    return work


def leaked(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
    pool.warm()
    pool.connection().__enter__()
    return lambda: end_invocation(pool)


SCENARIOS: list[Prepare] = [
    cold,
    warm,
    clean,
    pinged,
    dead,
    failed_over,
    retried,
    refused,
    failing_block,
    read_only,
    lost_at_begin,
    run,
    replayed,
    lost_commit,
    warmed,
    closed,
    closed_while_lent,
    one_too_many,
    leaked,
]
POOLS: dict[str, dict[str, Any]] = {
    "one": {},
    "two": {"max_size": 2, "min_size": 2},
    "session": {"reset": "session", "leak_after": 100.0},
}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambda_pool.connector.backoff", lambda attempt: 0.0)
    monkeypatch.setattr("lambda_pool.replay.backoff", lambda attempt: 0.0)


def struck_everywhere(
    options: dict[str, Any], scenario: Prepare, after: Callable[[lambda_pool.Pool, FakeDriver], None]
) -> None:
    """Strike the scenario at every place, each time on a new pool."""
    made: list[tuple[lambda_pool.Pool, FakeDriver]] = []

    def prepare() -> Callable[[], object]:
        driver = FakeDriver()
        pool = driver.pool(timeout=5.0, **options)
        made[:] = [(pool, driver)]
        return scenario(driver, pool)

    for where in every_place(prepare):
        [(pool, driver)] = made
        try:
            after(pool, driver)
        except BaseException as error:
            error.add_note(f"struck at {where}")
            raise


@pytest.mark.sampled(11, "many cases")
@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS.keys())
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_alone(scenario: Prepare, options: dict[str, Any]) -> None:
    def after(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        end_invocation(pool)
        check(pool, driver)

    struck_everywhere(options, scenario, after)


class Neighbour:
    """Another thread that borrows once, and what came of it."""

    def __init__(self, pool: lambda_pool.Pool) -> None:
        self.pool = pool
        self.holds = threading.Event()
        self.stop = False
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._borrow, daemon=True)
        self.thread.start()

    def _borrow(self) -> None:
        try:
            with self.pool.connection() as conn:
                conn.execute("select")
                self.holds.set()
                # Until somebody waits for it.
                while not self.stop and not queue(self.pool):
                    time.sleep(0)
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        self.stop = True
        self.thread.join(10)
        assert not self.thread.is_alive()
        # Its connection may have been taken away at the end of the invocation; nothing else may happen to it.
        taken = isinstance(self.error, FakeError) and self.error.failure is Failure.LOST
        assert self.error is None or taken or isinstance(self.error, lambda_pool.NotCommitted)


@pytest.mark.parametrize("leave", [False, True], ids=["gets it", "gives up"])
def test_waiting(leave: bool) -> None:
    neighbours: list[Neighbour] = []

    def waits(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
        neighbours[:] = [Neighbour(pool)]
        assert neighbours[0].holds.wait(10)
        if not leave:
            return lambda: borrow(pool)
        neighbours[0].pool = pool

        def work() -> None:
            with pytest.raises(lambda_pool.PoolTimeout):
                borrow(pool, timeout=0.000001)

        return work

    def after(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        end_invocation(pool)
        neighbours[0].end()
        check(pool, driver)

    struck_everywhere({}, waits, after)


@pytest.mark.parametrize("how", ["well", "with an error", "broken", "closed"])
def test_returning_while_somebody_waits(how: str) -> None:
    neighbours: list[Neighbour] = []

    def hands_over(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
        lease = pool.connection()
        conn = lease.__enter__()
        conn.execute("insert")
        neighbours[:] = [Neighbour(pool)]
        while not queue(pool):
            time.sleep(0)
        if how == "broken":
            driver.fail("commit", FakeError(Failure.LOST))
        neighbours[0].stop = True

        def work() -> None:
            if how == "closed":
                pool.close()
            try:
                lease.__exit__(ValueError, ValueError() if how == "with an error" else None, None)
            except FakeError:
                assert how == "broken"

        return work

    def after(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        end_invocation(pool)
        neighbours[0].end()
        end_invocation(pool)
        check(pool, driver)

    struck_everywhere({}, hands_over, after)


class Context:
    aws_request_id = "1"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 10_000


@pytest.mark.sampled(1 / 2, "3 s a case")
@pytest.mark.parametrize("options", [{}, {"cancel_before_deadline": 1.0}], ids=["plain", "alarmed"])
def test_a_decorated_handler_works_again_at_the_next_invocation(options: dict[str, Any]) -> None:
    handlers: list[Callable[..., Any]] = []
    alarm = signal.getsignal(signal.SIGALRM)

    def invoked(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
        @pool.handler
        def handler(event: Any, context: Any, conn: Any) -> Any:
            conn.execute("insert")
            return conn.number

        handlers[:] = [handler]
        return lambda: handler(None, Context())

    def after(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        assert handlers[0](None, Context()) == driver.links[-1].driver_connection.number
        assert not invocation.running
        assert signal.getitimer(signal.ITIMER_REAL)[1] == 0.0  # pytest-timeout's own, if any, which rings once
        assert signal.getsignal(signal.SIGALRM) is alarm
        check(pool, driver)

    struck_everywhere(options, invoked, after)


@pytest.mark.sampled(1 / 3, "7 s")
def test_what_a_handler_left_borrowed_is_taken_back() -> None:
    """Wherever its clean-up was struck, in both pools, and although the handler's module still has the connections."""
    others: list[tuple[lambda_pool.Pool, FakeDriver]] = []
    handlers: list[Callable[..., Any]] = []
    kept: list[Any] = []

    def leaves(driver: FakeDriver, pool: lambda_pool.Pool) -> Callable[[], object]:
        other = FakeDriver()
        pools = [pool, other.pool(name="other")]
        others[:] = [(pools[1], other)]

        @pool.handler
        def handler(event: str, context: Any) -> None:
            for each in pools:
                lease = each.connection()
                conn = lease.__enter__()
                conn.execute(event)
                kept.append((lease, conn))
                if event == "select":
                    lease.__exit__(None, None, None)

        kept.clear()
        handlers[:] = [handler]

        def work() -> None:
            with pytest.raises(lambda_pool.NotCommitted):
                handler("insert", Context())

        return work

    def after(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        handlers[0]("select", Context())
        for each in ((pool, driver), *others):
            check(*each)

    struck_everywhere({}, leaves, after)


Ask = Callable[[Any], object]
SOURCES: dict[str, tuple[Callable[[], Any], Ask]] = {
    "token": (IamToken, lambda auth: auth.credentials(ENDPOINT, "app", 5.0)),
    "secret": (lambda: SecretsManager("orders"), lambda auth: auth.credentials(ENDPOINT, "app", 5.0)),
    "address": (lambda: RdsProxy("orders"), lambda proxy: proxy.resolve(Role.WRITER, 5.0)),
    "keys": (AwsIdentity, lambda identity: identity.credentials(5.0)),
}


@pytest.mark.parametrize(("make", "ask"), SOURCES.values(), ids=SOURCES.keys())
def test_who_asks_aws_leaves_other_threads_no_lock(
    make: Callable[[], Any], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = AwsCredentials("key", Secret("key"), None)
    monkeypatch.setattr(AwsIdentity, "_find", lambda *_: (found, None))
    monkeypatch.setattr(RdsProxy, "_ask", lambda *_: ENDPOINT)
    login = _Answer("1", Secret('{"username": "app", "password": "open sesame"}'))
    monkeypatch.setattr(SecretsManager, "_ask", lambda *_: login)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with handler(), ThreadPoolExecutor() as others:
        for place in count(1):
            source = make()
            where = run_interrupted(partial(ask, source), place)
            for lock in [each for each in vars(source).values() if hasattr(each, "acquire")]:
                assert others.submit(lock.acquire, timeout=1.0).result(), where
            if where is None:
                break
    assert place > 10
