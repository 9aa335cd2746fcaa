"""The pool on a scripted driver: queue, retries, returns, replays. No server, no network."""

import contextlib
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import lambda_pool
from lambda_pool.api import core_of
from lambda_pool.core.entry import Entry, State
from lambda_pool.core.state import PoolState
from lambda_pool.endpoints.base import Endpoint, FixedEndpoint, Role
from lambda_pool.engines.base import ConnectRequest, Failure, Outcome
from lambda_pool.events import (
    CheckedOut,
    Closed,
    ConnectFailed,
    Event,
    Leaked,
    Opened,
    Pinged,
    Reason,
    Replaced,
    Returned,
    Reused,
    RolledBack,
    TimedOut,
    Waited,
)
from lambda_pool.testing import FakeDriver, FakeError
from tests.support.core import acquire, end_invocation, entries, idle, release, take_away
from tests.support.invoked import invoked
from tests.support.recorder import Recorder


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


@pytest.fixture
def pool(driver: FakeDriver, seen: Recorder) -> lambda_pool.Pool:
    return driver.pool(observers=[seen])


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "waited 10 s in vain"
        time.sleep(0.001)


class TestCheckout:
    def test_one_connection_is_reused(self, pool: lambda_pool.Pool, driver: FakeDriver, seen: Recorder) -> None:
        for _ in range(5):
            with pool.connection() as conn:
                assert conn is driver.links[0].driver_connection
        stats = pool.stats()
        assert (stats.size, stats.idle, stats.in_use, stats.opened, stats.reused) == (1, 1, 0, 1, 4)
        assert [type(event) for event in seen.events] == [Opened, CheckedOut, Returned, *[Reused, Returned] * 4]

    def test_construction_opens_nothing(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        assert driver.requests == []
        assert pool.stats().size == 0

    def test_a_dead_one_is_replaced_before_it_is_seen(
        self, pool: lambda_pool.Pool, driver: FakeDriver, seen: Recorder
    ) -> None:
        with pool.connection():
            pass
        driver.links[0].kill()
        with pool.connection() as conn:
            assert conn is driver.links[1].driver_connection
        assert seen.of(Pinged)[0].alive is False
        assert seen.of(Replaced)[0].reason is Reason.DEAD
        assert seen.of(Closed)[0].reason is Reason.DEAD
        stats = pool.stats()
        assert (stats.opened, stats.replaced, stats.closed, stats.pings) == (2, 1, 1, 1)

    def test_a_readable_one_that_answers_is_kept(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        with pool.connection():
            pass
        driver.links[0].readable = True
        with pool.connection() as conn:
            assert conn is driver.links[0].driver_connection
        assert driver.links[0].history == ["ping"]

    def test_ping_after_zero_pings_each_time(self, driver: FakeDriver) -> None:
        pool = driver.pool(ping_after=0)
        for _ in range(3):
            with pool.connection():
                time.sleep(0.001)
        assert pool.stats().pings == 2

    @pytest.mark.parametrize("clock", ["time", "monotonic"])
    def test_a_freeze_amid_the_end_of_a_transaction_counts_as_idle(
        self, pool: lambda_pool.Pool, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, clock: str
    ) -> None:
        """A server's request may be answered by then, so that the environment freezes. The peer may go meanwhile."""
        real = getattr(time, clock)
        with pool.connection() as conn:
            conn.execute("insert")
            link = driver.links[0]
            commit = link.commit

            def thawed(timeout: float | None, *, last: bool = True) -> Outcome:
                for module in ("pool", "release"):
                    monkeypatch.setattr(f"lambda_pool.{module}.{clock}", lambda: real() + 60.0)
                return commit(timeout, last=last)

            monkeypatch.setattr(link, "commit", thawed)
        with pool.connection():
            assert link.history == ["execute", "commit", "ping"]

    def test_lifetime_has_jitter_of_a_tenth(self, driver: FakeDriver) -> None:
        pool = driver.pool(max_size=50, min_size=50, max_lifetime=100.0)
        pool.warm()
        lifetimes = [slot.lifetime for slot in entries(pool)]
        assert all(90 <= lifetime <= 110 for lifetime in lifetimes)
        assert max(lifetimes) - min(lifetimes) > 5

    def test_a_shutdown_condemns_the_older_ones(self, driver: FakeDriver, seen: Recorder) -> None:
        pool = driver.pool(max_size=3, min_size=3, observers=[seen])
        pool.warm()
        driver.links[2].readable = True
        driver.fail("ping", FakeError(Failure.SHUTDOWN))
        for _ in range(3):
            with pool.connection():
                pass
        with pool.connection(), pool.connection(), pool.connection():
            pass
        reasons = [event.reason for event in seen.of(Replaced)]
        assert sorted(reasons) == [Reason.DEAD, Reason.GENERATION, Reason.GENERATION]
        assert pool.stats().pings == 1

    def test_a_failover_while_it_is_opened_condemns_it_too(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        real = driver.connect

        def connect(request: Any) -> Any:
            link = real(request)
            pool.close()  # raises the generation, like a failover that another thread runs into
            return link

        driver.connect = connect  # type: ignore[method-assign]
        with pool.connection():
            assert pool.stats().size == 1
        assert pool.stats().size == 0
        assert driver.links[0].history == ["close"]

    def test_one_that_is_taken_away_while_it_is_checked_is_closed_and_another_found(
        self, pool: lambda_pool.Pool, driver: FakeDriver
    ) -> None:
        """The end of an invocation also takes back a connection that a thread has just taken off the shelf."""
        with pool.connection():
            pass
        link = driver.links[0]
        link.kill()

        def ping(timeout: float) -> None:
            take_away(pool)
            raise FakeError(Failure.LOST)

        link.ping = ping  # type: ignore[method-assign]
        with pool.connection() as conn:
            assert conn is driver.links[1].driver_connection
            assert pool.stats().size == 1
        assert link.history[-1] == "close"

    def test_entering_twice_is_refused(self, pool: lambda_pool.Pool) -> None:
        lease = pool.connection()
        with lease, pytest.raises(lambda_pool.LambdaPoolError, match="twice"), lease:
            pass
        special = pool.connection(timeout=5.0)
        with special, pytest.raises(lambda_pool.LambdaPoolError, match="twice"), special:
            pass
        assert (pool.stats().size, pool.stats().idle) == (1, 1)

    def test_entering_what_still_waits_in_another_thread_is_refused(self, pool: lambda_pool.Pool) -> None:
        lease = pool.connection()

        def enter() -> None:
            with lease:
                pass

        with pool.connection():
            waits = in_thread(enter)
            until(lambda: pool.stats().waiting == 1)
            with pytest.raises(lambda_pool.LambdaPoolError, match="twice"), lease:
                pass
        waits.join()
        with lease:  # one after the other is fine
            assert pool.stats().in_use == 1
        assert (pool.stats().size, pool.stats().idle) == (1, 1)

    @pytest.mark.parametrize("timeout", [0, -1, float("nan")])
    def test_a_wrong_timeout(self, pool: lambda_pool.Pool, timeout: float) -> None:
        with pytest.raises(lambda_pool.ConfigError, match="timeout="):
            pool.connection(timeout=timeout)


class TestQueue:
    def test_first_come_first_served(self, driver: FakeDriver) -> None:
        pool = driver.pool(max_size=1)
        order: list[int] = []
        threads = []

        def borrow(number: int) -> None:
            with pool.connection():
                order.append(number)

        with pool.connection():
            for number in range(8):
                threads.append(in_thread(lambda number=number: borrow(number)))  # type: ignore[misc]
                until(lambda number=number: pool.stats().waiting == number + 1)  # type: ignore[misc]
        for thread in threads:
            thread.join(10)
        assert order == list(range(8))
        assert len(driver.links) == 1

    def test_how_long_a_borrower_waited_is_told(self, driver: FakeDriver, seen: Recorder) -> None:
        pool = driver.pool(max_size=1, observers=[seen])

        def wait() -> None:
            with pool.connection():
                pass

        with pool.connection():
            thread = in_thread(wait)
            until(lambda: pool.stats().waiting == 1)
            time.sleep(0.05)
        thread.join(10)
        (waited,) = seen.of(Waited)
        assert 0.05 <= waited.seconds < 5

    def test_nobody_overtakes_who_waits(self, driver: FakeDriver) -> None:
        """Not even a thread that has just given the connection back, and asks before the waiting thread wakes up."""
        pool = driver.pool(max_size=1)
        for _ in range(20):
            order: list[str] = []

            def wait(order: list[str] = order) -> None:
                with pool.connection():
                    order.append("who waited")

            with pool.connection():
                thread = in_thread(wait)
                until(lambda: pool.stats().waiting == 1)
            with pool.connection():
                order.append("who came back")
            thread.join(10)
            assert order == ["who waited", "who came back"]

    def test_who_waits_is_woken_only_for_something(self) -> None:
        """Each needless wake-up costs a switch of threads, or a round of the event loop."""

        class Waiting:
            role, abandoned = Role.WRITER, False

            def __init__(self, owner: int) -> None:
                self.owner, self.woken = owner, 0

            def wait(self, seconds: float) -> bool:
                raise AssertionError("nobody waits here")

            def wake(self) -> None:
                self.woken += 1

        state, first, second = PoolState(max_size=1), Waiting(2), Waiting(3)
        entry = state.acquire(Role.WRITER, 1)
        assert entry is not None
        entry.state = State.LENT
        state.queue.extend((first, second))
        state.give_back(entry)
        assert state.acquire(Role.WRITER, first.owner, first) is entry
        state.leave(first)
        assert (first.woken, second.woken) == (1, 0)
        state.give_back(entry)
        assert (first.woken, second.woken) == (1, 1)

    def test_a_waiter_times_out_with_stats_and_the_last_cause(self, driver: FakeDriver, seen: Recorder) -> None:
        pool = driver.pool(max_size=1, timeout=0.05, observers=[seen])
        driver.fail("connect", FakeError(Failure.OTHER, "no such database"))
        with pytest.raises(lambda_pool.ConnectError):
            pool.connection().__enter__()
        caught: list[BaseException] = []

        def wait() -> None:
            try:
                pool.connection().__enter__()
            except lambda_pool.PoolTimeout as error:
                caught.append(error)

        borrowed = sys._getframe().f_lineno + 1
        with pool.connection():
            in_thread(wait).join(10)
        assert "in_use=1" in str(caught[0])
        assert re.search(r"last failure to connect, \d+ s ago: .*no such database", str(caught[0]))
        here = self.test_a_waiter_times_out_with_stats_and_the_last_cause.__code__
        assert f"borrowed at {here.co_filename}:{borrowed} in {here.co_name}): hold them" in str(caught[0])
        assert "raise max_size (1)" in str(caught[0])
        assert pool.stats().timeouts == 1
        assert len(seen.of(TimedOut)) == 1
        assert pool.stats().waiting == 0

    def test_a_waiter_whose_invocation_ends_is_told_so(self, driver: FakeDriver) -> None:
        pool = driver.pool(max_size=1, timeout=20.0)
        acquire(pool).owner = -1
        with invoked(lambda: 150), pytest.raises(lambda_pool.DeadlineExceeded, match="the invocation had no more time"):
            pool.connection().__enter__()

    def test_a_waiter_is_told_of_three_who_hold(self, driver: FakeDriver) -> None:
        pool = driver.pool(max_size=5, timeout=0.05)
        for number in range(5):
            entry = acquire(pool)
            entry.owner, entry.where = -1, f"place {number}"
        with pytest.raises(lambda_pool.PoolTimeout, match=r"borrowed at place 0, place 1, place 2\): hold them"):
            pool.connection().__enter__()

    def test_a_wait_that_cannot_end_is_not_begun(self, driver: FakeDriver) -> None:
        pool = driver.pool(max_size=1, timeout=60.0)
        start = time.monotonic()
        with (
            pool.connection(),
            pytest.raises(lambda_pool.PoolTimeout, match=r"already holds the only connection.*max_size"),
            pool.connection(),
        ):
            pass
        assert time.monotonic() - start < 10
        two = driver.pool(max_size=2, timeout=60.0)
        with (
            two.connection(),
            two.connection(),
            pytest.raises(lambda_pool.PoolTimeout, match="all 2 connections"),
            two.connection(),
        ):
            pass

    def test_a_thread_that_serves_many_waits_for_what_it_borrowed_for_another(self, driver: FakeDriver) -> None:
        """As FastAPI's threads do: one enters a dependency, and serves another request before that one is left."""
        pool = driver.pool(max_size=1, timeout=10.0)
        lease = pool.connection()
        with ThreadPoolExecutor(1) as threads:
            threads.submit(lease.__enter__).result(10)
            second = threads.submit(pool.connection().__enter__)
            until(lambda: pool.stats().waiting == 1 or second.done())
            lease.__exit__(None, None, None)
            second.result(10)

    def test_an_exception_while_waiting_leaves_the_queue(self, driver: FakeDriver) -> None:
        pool = driver.pool(max_size=1)
        stranger = acquire(pool)
        stranger.owner = -1

        def strike(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        previous = signal.signal(signal.SIGALRM, strike)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(KeyboardInterrupt):
                pool.connection().__enter__()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        assert pool.stats().waiting == 0
        release(pool, stranger)
        with pool.connection():
            assert pool.stats().in_use == 1

    def test_a_failed_connect_lets_the_next_in_the_queue_try(self, driver: FakeDriver) -> None:
        pool = driver.pool(max_size=1)
        connecting, go = threading.Event(), threading.Event()
        real = driver.connect

        def slow(request: Any) -> Any:
            connecting.set()
            go.wait(10)
            return real(request)

        driver.connect = slow  # type: ignore[method-assign]
        driver.fail("connect", FakeError(Failure.OTHER))
        failed: list[BaseException] = []

        def first() -> None:
            try:
                pool.connection().__enter__()
            except lambda_pool.ConnectError as error:
                failed.append(error)

        served: list[Any] = []

        def second() -> None:
            with pool.connection() as conn:
                served.append(conn)

        a = in_thread(first)
        connecting.wait(10)
        b = in_thread(second)
        until(lambda: pool.stats().waiting == 1)
        go.set()
        a.join(10)
        b.join(10)
        assert len(failed) == 1
        assert len(served) == 1
        assert pool.stats().size == 1

    def test_hammered_by_threads_nothing_is_lost(self, driver: FakeDriver, seen: Recorder) -> None:
        """Borrowers that time out, fail and succeed at once: never two on one connection, never a lost slot."""
        pool = driver.pool(max_size=3, timeout=0.002, observers=[seen])
        holders: dict[int, int] = {}
        doubled: list[int] = []

        def work(seed: int) -> None:
            for turn in range(300):
                try:
                    with pool.connection() as conn:
                        if holders.setdefault(conn.number, seed) != seed:
                            doubled.append(conn.number)
                        if turn % 7 == 0:
                            time.sleep(0.001)
                        if turn % 31 == 0:
                            driver.links[conn.number].kill()
                        del holders[conn.number]
                        if turn % 11 == 0:
                            raise KeyError(turn)
                except (KeyError, lambda_pool.PoolTimeout, lambda_pool.NotCommitted):
                    pass

        threads = [in_thread(lambda seed=seed: work(seed)) for seed in range(8)]  # type: ignore[misc]
        for thread in threads:
            thread.join(60)
        stats = pool.stats()
        assert doubled == []
        assert stats.size == stats.idle <= 3
        assert (stats.in_use, stats.waiting) == (0, 0)
        assert stats.opened == stats.closed + stats.size
        assert stats.opened + stats.reused == len(seen.of(Opened)) + len(seen.of(Reused))
        assert len(seen.of(Waited)) > 0


class TestConnect:
    def test_a_long_backoff_leaves_time_for_a_last_try(
        self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lambda_pool.connector.backoff", lambda attempt: 60.0)
        driver.fail("connect", FakeError(Failure.UNREACHABLE))
        with driver.pool(timeout=0.4).connection() as conn:
            assert conn.number == 0
        driver.fail("connect", *[FakeError(Failure.UNREACHABLE)] * 9)
        with pytest.raises(lambda_pool.ConnectError, match="2 attempts"), driver.pool(timeout=0.4).connection():
            pass

    def test_what_time_heals_is_retried_within_the_limit(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        driver.fail("connect", FakeError(Failure.UNREACHABLE), FakeError(Failure.TOO_MANY), FakeError(Failure.LOST))
        with pool.connection():
            pass
        assert pool.stats().connect_errors == 3

    @pytest.mark.parametrize(
        ("failure", "error"),
        [
            (Failure.OTHER, lambda_pool.ConnectError),
            (Failure.UNTRUSTED, lambda_pool.ConnectError),
            (Failure.REJECTED, lambda_pool.CredentialsError),
        ],
    )
    def test_what_time_does_not_heal_raises_at_once(
        self, pool: lambda_pool.Pool, driver: FakeDriver, seen: Recorder, failure: Failure, error: type[Exception]
    ) -> None:
        cause = FakeError(failure, "because")
        driver.fail("connect", cause)
        with pytest.raises(error, match="because") as caught:
            pool.connection().__enter__()
        assert caught.value.__cause__ is cause
        assert pool.stats().size == 0
        assert [event.retrying for event in seen.of(ConnectFailed)] == [False]

    def test_it_gives_up_at_the_limit(self, driver: FakeDriver) -> None:
        pool = driver.pool(timeout=0.3)
        driver.fail("connect", *[FakeError(Failure.UNREACHABLE)] * 1000)
        start = time.monotonic()
        with pytest.raises(lambda_pool.ConnectError, match="attempts in"):
            pool.connection().__enter__()
        assert time.monotonic() - start < 5
        assert pool.stats().timeouts == 1

    def test_a_last_attempt_that_ran_out_of_time_hides_nothing(
        self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _fail_then_wait(driver, monkeypatch, FakeError(Failure.UNREACHABLE, "it is read-only"), Failure.UNREACHABLE)
        expected = r"no answer in time \(2 attempts in [\d.]+ s; the previous attempt: it is read-only\)"
        with pytest.raises(lambda_pool.ConnectError, match=expected), driver.pool(timeout=0.5).connection():
            pass

    @pytest.mark.parametrize("kind", [Failure.TOO_MANY, Failure.UNREACHABLE])
    def test_a_refusal_is_explained_though_the_last_attempt_ran_out_of_time(
        self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, kind: Failure
    ) -> None:
        refused = FakeError(kind, "a startup parameter takes the room")
        _fail_then_wait(driver, monkeypatch, refused, Failure.RESUMING)
        with pytest.raises(lambda_pool.ConnectError) as caught, driver.pool(timeout=0.5).connection():
            pass
        assert "There is a pooler that refuses start-up options" in str(caught.value)

    def test_the_invocation_cuts_the_limit(self, driver: FakeDriver) -> None:
        pool = driver.pool(timeout=600.0)
        driver.fail("connect", *[FakeError(Failure.UNREACHABLE)] * 1000)
        end = time.monotonic() + 0.5
        with invoked(lambda: int((end - time.monotonic()) * 1000)):
            with pytest.raises(lambda_pool.DeadlineExceeded, match="no more time"):
                pool.connection().__enter__()
            assert time.monotonic() < end + 5

    def test_tls_and_driver_arguments_reach_the_driver(self, driver: FakeDriver) -> None:
        pool = driver.pool("postgresql://u@h:1/d?keepalives=1", connect_args={"row_factory": str})
        with pool.connection():
            pass
        request = driver.requests[0]
        assert (request.host, request.port, request.database, request.tls.mode) == ("h", 1, "d", "verify-full")
        assert request.arguments == {"keepalives": "1", "row_factory": str}


class TestReturn:
    def test_commit_on_success_rollback_on_error(
        self, pool: lambda_pool.Pool, driver: FakeDriver, seen: Recorder
    ) -> None:
        with pool.connection() as conn:
            conn.execute("insert")
        with pytest.raises(ZeroDivisionError), pool.connection() as conn:
            conn.execute("insert")
            1 / 0  # noqa: B018
        assert driver.links[0].history == ["execute", "commit", "execute", "rollback", "reset"]
        assert pool.stats().rolled_back == 1
        assert seen.of(RolledBack)[0].cause == "error"
        assert len(driver.links) == 1

    def test_no_statement_no_transaction(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        with pool.connection():
            pass
        assert driver.links[0].history == []

    def test_a_failing_clean_up_never_hides_the_blocks_own_error(
        self, pool: lambda_pool.Pool, driver: FakeDriver
    ) -> None:
        driver.fail("rollback", FakeError(Failure.LOST))
        with pytest.raises(ZeroDivisionError), pool.connection() as conn:
            conn.execute("insert")
            1 / 0  # noqa: B018
        assert pool.stats().size == 0
        assert driver.links[0].history[-1] == "close"

    def test_a_refused_commit_raises(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        driver.fail("commit", FakeError(Failure.OTHER, "deferred constraint"))
        with pytest.raises(FakeError, match="deferred"), pool.connection() as conn:
            conn.execute("insert")

    def test_closed_by_the_borrower(self, pool: lambda_pool.Pool, driver: FakeDriver, seen: Recorder) -> None:
        with pool.connection() as conn:
            conn.close()
        assert seen.of(Closed)[0].reason is Reason.USER_CLOSED
        with pool.connection() as conn:
            assert conn.number == 1

    def test_closed_by_the_borrower_in_a_transaction(self, pool: lambda_pool.Pool, seen: Recorder) -> None:
        with pytest.raises(lambda_pool.NotCommitted, match="in the middle"), pool.connection() as conn:
            conn.execute("insert")
            conn.close()
        assert seen.of(Closed)[0].reason is Reason.USER_CLOSED

    def test_lost_in_use_is_no_success(self, pool: lambda_pool.Pool, driver: FakeDriver, seen: Recorder) -> None:
        with pytest.raises(lambda_pool.NotCommitted, match="none of the transaction is saved"), pool.connection():
            driver.links[0].kill()
        assert pool.stats().size == 0
        assert [event.cause for event in seen.of(RolledBack)] == ["failed transaction"]

    def test_a_warning_where_that_is_wanted(self, driver: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
        pool = driver.pool(unsaved="warn")
        with caplog.at_level(logging.WARNING, "lambda_pool"), pool.connection():
            driver.links[0].kill()
        assert pool.stats().size == 0
        assert "none of the transaction is saved" in caplog.text
        with pytest.raises(lambda_pool.NotCommitted):
            pool.run(lambda conn: driver.links[-1].kill())

    def test_closed_after_an_uncertain_commit_however_it_looks(
        self, pool: lambda_pool.Pool, driver: FakeDriver
    ) -> None:
        """Its answer may still come, and the next borrower would read it."""
        with pytest.raises(lambda_pool.CommitUncertain), pool.connection() as conn:
            conn.execute("insert")
            link = driver.links[0]

            def commit(timeout: float | None, *, last: bool = True) -> Outcome:
                link.in_transaction = False
                raise lambda_pool.CommitUncertain("lost")

            link.commit = commit  # type: ignore[method-assign]
        assert pool.stats().size == 0
        assert link.history[-1] == "close"

    def test_what_was_taken_back_meanwhile_is_closed_by_who_had_it(
        self, pool: lambda_pool.Pool, driver: FakeDriver
    ) -> None:
        """A cut connection may still look clean to its driver. Nobody owns it any more, and it is never lent again."""
        slot = acquire(pool)
        take_away(pool)
        release(pool, slot)
        assert (len(idle(pool)), pool.stats().size) == (0, 0)
        assert driver.links[0].history == ["close"]

    def test_closed_before_its_room_is_free(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        """Otherwise there would be more connections than `max_size` for a moment."""
        sizes: list[int] = []
        with pytest.raises(lambda_pool.NotCommitted), pool.connection():
            link = driver.links[0]
            link.close = lambda timeout: sizes.append(pool.stats().size)  # type: ignore[method-assign]
            link.kill()
        assert (sizes, pool.stats().size) == ([1], 0)

    @pytest.mark.parametrize("left", ["as it was", "changed", "failed"])
    @pytest.mark.parametrize(("milliseconds", "seconds"), [(2100, 2.0), (60_000, None), (100, 0.05), (-1000, 0.05)])
    def test_the_invocation_bounds_what_ends_the_transaction(
        self, driver: FakeDriver, left: str, milliseconds: int, seconds: float | None
    ) -> None:
        """A COMMIT may take what is left, a ROLLBACK no longer than a checkout. Both get at least some time."""
        pool = driver.pool(timeout=5.0)
        told: list[float | None] = []
        with pool.connection():
            pass

        def telling(end: Callable[..., Outcome]) -> Callable[..., Outcome]:
            def told_end(timeout: float | None, *, last: bool = True) -> Outcome:
                told.append(timeout)
                return end(timeout, last=last)

            return told_end

        link = driver.links[0]
        link.commit, link.rollback = telling(link.commit), telling(link.rollback)  # type: ignore[method-assign]
        with contextlib.suppress(ZeroDivisionError):
            slot = acquire(pool)
            slot.link.driver_connection.execute("insert")
            driver.links[0].readonly = left == "changed"
            with invoked(lambda: milliseconds):
                release(pool, slot, ZeroDivisionError() if left == "failed" else None)
        assert told == [pytest.approx(seconds or (5.0 if left == "failed" else 59.9))]

    def test_reset_session(self, driver: FakeDriver) -> None:
        pool = driver.pool(reset="session")
        with pool.connection() as conn:
            conn.execute("set x")
        assert driver.links[0].history == ["execute", "commit", "reset"]
        assert pool.stats().idle == 1

    def test_readonly_begins_a_read_only_transaction(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        with pool.connection(readonly=True):
            assert driver.links[0].readonly
        assert driver.links[0].history == ["begin", "commit", "reset"]

    def test_a_connection_lost_at_begin_is_replaced_unseen(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        driver.fail("begin", FakeError(Failure.LOST))
        with pool.connection(readonly=True) as conn:
            assert conn.number == 1

    def test_one_that_is_lent_meanwhile_is_closed_for_the_same_reason(
        self, pool: lambda_pool.Pool, driver: FakeDriver, seen: Recorder
    ) -> None:
        with pool.connection():
            pool.close()
        assert [event.reason for event in seen.of(Closed)] == [Reason.POOL_CLOSED]
        # Connections that end after that have reasons of their own.
        driver.fail("execute", FakeError(Failure.SHUTDOWN))
        with pytest.raises(FakeError), pool.connection() as conn:
            conn.execute("select 1")
        assert seen.of(Closed)[-1].reason is Reason.BROKEN

    def test_close_closes_and_a_later_checkout_opens_anew(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        with pool.connection():
            pool.close()
            pool.close()
        assert pool.stats().size == 0
        with pool.connection() as conn:
            assert conn.number == 1
        pool.close()
        assert pool.stats().size == 0
        assert [link.history for link in driver.links] == [["close"], ["close"]]


class TestRun:
    def test_the_result(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        assert pool.run(lambda conn: conn.number) == 0
        assert driver.links[0].history == ["begin", "commit"]

    @pytest.mark.parametrize("failure", [Failure.CONFLICT, Failure.READ_ONLY, Failure.STALE])
    def test_replayed_before_commit(self, pool: lambda_pool.Pool, driver: FakeDriver, failure: Failure) -> None:
        driver.fail("execute", FakeError(failure), FakeError(failure))
        calls: list[int] = []

        def work(conn: Any) -> int:
            calls.append(conn.number)
            conn.execute("update")
            return len(calls)

        assert pool.run(work) == 3

    def test_replayed_after_a_loss_only_if_it_was_our_connection(
        self, pool: lambda_pool.Pool, driver: FakeDriver
    ) -> None:
        calls: list[int] = []

        def loses_ours(conn: Any) -> int:
            calls.append(conn.number)
            if len(calls) == 1:
                driver.links[conn.number].kill()
            conn.execute("update")
            return len(calls)

        assert pool.run(loses_ours) == 2
        calls.clear()

        def loses_another(conn: Any) -> None:
            calls.append(1)
            raise FakeError(Failure.LOST, "some other database")

        with pytest.raises(FakeError):
            pool.run(loses_another)
        assert calls == [1]

    @pytest.mark.parametrize("readonly", [False, True])
    def test_a_transaction_waits_as_long_as_any_borrower(self, driver: FakeDriver, readonly: bool) -> None:
        """If the invocation ends first, the error names that end."""
        pool = driver.pool(timeout=60.0)
        driver.fail("connect", *[FakeError(Failure.UNREACHABLE)] * 1000)
        end = time.monotonic() + 0.5
        # Lambda's clock counts whole milliseconds, so it gives the same value twice.
        with invoked(lambda: 300 if time.monotonic() < end else 0), pytest.raises(lambda_pool.DeadlineExceeded):
            pool.run(lambda conn: None, readonly=readonly)

    def test_not_when_the_invocation_has_no_more_time(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        calls: list[int] = []

        def work(conn: Any) -> None:
            calls.append(1)
            raise FakeError(Failure.CONFLICT)

        with invoked(lambda: 50 if calls else 60_000), pytest.raises(FakeError):
            pool.run(work)
        assert calls == [1]

    def test_attempts_are_counted(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        driver.fail("execute", *[FakeError(Failure.CONFLICT)] * 9)
        with pytest.raises(FakeError):
            pool.run(lambda conn: conn.execute("update"), attempts=2)
        assert driver.links[0].driver_connection.statements == ["update", "update"]

    def test_never_after_an_uncertain_commit(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        driver.fail("commit", lambda_pool.CommitUncertain("lost"))
        calls: list[int] = []
        with pytest.raises(lambda_pool.CommitUncertain):
            pool.run(lambda conn: calls.append(1))
        assert calls == [1]
        assert pool.stats().size == 0

    def test_a_conflict_reported_by_commit_itself_is_replayed(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        driver.fail("commit", FakeError(Failure.CONFLICT))
        calls: list[int] = []
        pool.run(lambda conn: calls.append(1))
        assert calls == [1, 1]

    def test_the_works_own_error_passes(self, pool: lambda_pool.Pool) -> None:
        with pytest.raises(ZeroDivisionError):
            pool.run(lambda conn: 1 / 0)
        assert pool.stats().rolled_back == 1

    def test_a_swallowed_loss_is_no_success(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        with pytest.raises(lambda_pool.LambdaPoolError, match="none of the transaction is saved"):
            pool.run(lambda conn: driver.links[conn.number].kill())

    @pytest.mark.parametrize("attempts", [0, -1, True, 1.5])
    def test_wrong_attempts(self, pool: lambda_pool.Pool, attempts: Any) -> None:
        with pytest.raises(lambda_pool.ConfigError, match="attempts="):
            pool.run(lambda conn: None, attempts=attempts)

    def test_work_that_nobody_can_call(self, pool: lambda_pool.Pool) -> None:
        wrong: Any = "work"
        with pytest.raises(lambda_pool.ConfigError, match=r"work is not valid: .* not str"):
            pool.run(wrong)
        assert pool.stats().opened == 0


class TestWarm:
    def test_opens_min_size(self, driver: FakeDriver) -> None:
        pool = driver.pool(max_size=4, min_size=3)
        pool.warm()
        pool.warm()
        assert (pool.stats().idle, len(driver.links)) == (3, 3)

    def test_at_least_one(self, pool: lambda_pool.Pool) -> None:
        pool.warm()
        assert pool.stats().idle == 1

    def test_a_failure_is_left_to_the_first_checkout(
        self, pool: lambda_pool.Pool, driver: FakeDriver, caplog: pytest.LogCaptureFixture
    ) -> None:
        driver.fail("connect", FakeError(Failure.OTHER, "not there"))
        with caplog.at_level(logging.WARNING, "lambda_pool"):
            pool.warm()
        assert "could not be warmed" in caplog.text
        assert pool.stats().size == 0
        driver.fail("connect", FakeError(Failure.OTHER, "not there"))
        with pytest.raises(lambda_pool.ConnectError):
            pool.warm(strict=True)
        with pool.connection():
            pass


class TestObservers:
    def test_what_an_observer_raises_goes_no_further(
        self, driver: FakeDriver, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken:
            def on_event(self, event: Event) -> None:
                raise ValueError("broken")

        with driver.pool(observers=[Broken()]).connection():
            pass
        assert "an observer failed" in caplog.text

    def test_they_are_told_without_the_lock(self, driver: FakeDriver) -> None:
        """An observer may ask the pool, or wait for a thread that does."""
        stuck: list[Event] = []
        kinds: set[type[Event]] = set()

        class Asking:
            def on_event(self, event: Event) -> None:
                kinds.add(type(event))
                thread = in_thread(asked.stats)
                thread.join(5)
                if thread.is_alive():
                    stuck.append(event)

        asked = driver.pool(max_size=1, timeout=0.5, leak_after=0.001, observers=[Asking()])
        driver.fail("connect", FakeError(Failure.UNREACHABLE))
        with asked.connection() as conn:
            conn.execute("select 1")
            time.sleep(0.002)
            with pytest.raises(lambda_pool.PoolTimeout), asked.connection():
                pass
        with pytest.raises(ZeroDivisionError), asked.connection() as conn:
            conn.execute("select 1")
            1 / 0  # noqa: B018
        driver.links[0].kill()
        with pytest.raises(lambda_pool.NotCommitted), asked.connection():
            end_invocation(asked)
        with asked.connection():
            waiting = in_thread(lambda: asked.connection(timeout=10).__enter__())
            until(lambda: asked.stats().waiting == 1)
        waiting.join(10)
        end_invocation(asked)
        assert stuck == []
        told = {Opened, ConnectFailed, CheckedOut, Reused, Returned, Waited, TimedOut, Leaked, RolledBack, Pinged}
        assert kinds == told | {Replaced, Closed}

    def test_a_borrow_that_two_threads_end_is_told_of_once(self, driver: FakeDriver, seen: Recorder) -> None:
        """The borrower and the end of an invocation that takes the connection away both read when the borrow began."""
        pool = driver.pool(observers=[seen])
        both = threading.Barrier(2)

        class ReadByBoth(Entry):
            @property
            def borrowed_mono(self) -> float:
                found: float = vars(self)["borrowed_mono"]
                with contextlib.suppress(threading.BrokenBarrierError):
                    both.wait(0.2)  # in vain if only one of them may be here
                return found

            @borrowed_mono.setter
            def borrowed_mono(self, value: float) -> None:
                vars(self)["borrowed_mono"] = value

        entry = acquire(pool)
        entry.__class__ = ReadByBoth
        threads = [in_thread(lambda: core_of(pool).emit_returned(entry)) for _ in range(2)]
        for thread in threads:
            thread.join(10)
        release(pool, entry)
        assert len(seen.of(Returned)) == 1

    def test_leak_after(self, driver: FakeDriver, seen: Recorder, caplog: pytest.LogCaptureFixture) -> None:
        pool = driver.pool(leak_after=0.01, observers=[seen])
        with pool.connection():
            time.sleep(0.02)
        assert 0.02 <= seen.of(Leaked)[0].held < 10
        assert f"held for {seen.of(Leaked)[0].held:.1f} s" in caplog.text
        assert f"{os.path.basename(__file__)}:" in seen.of(Leaked)[0].where  # noqa: PTH119
        assert "test_leak_after" in caplog.text

    @pytest.mark.parametrize("kind", [Leaked, Returned, Waited])
    def test_one_that_is_interrupted_costs_no_connection(self, driver: FakeDriver, kind: type[Event]) -> None:
        class Interrupted:
            def on_event(self, event: Event) -> None:
                if isinstance(event, kind):
                    raise KeyboardInterrupt

        pool = driver.pool(leak_after=0.001 if kind is Leaked else 10, observers=[Interrupted()])

        def hold() -> None:
            with pool.connection():
                until(lambda: pool.stats().waiting == 1)

        if kind is Waited:
            in_thread(hold)
            until(lambda: pool.stats().in_use == 1)
        if kind is Returned:
            driver.fail("commit", FakeError(Failure.LOST))
        with pytest.raises(KeyboardInterrupt), pool.connection() as conn:
            conn.execute("insert")
            time.sleep(0.002)
        assert pool.stats().in_use == 0


def test_a_source_of_addresses_that_fails_costs_no_connection(driver: FakeDriver) -> None:
    class Unreachable(FixedEndpoint):
        def failed(self, endpoint: Endpoint) -> None:
            raise ValueError("its own API does not answer")

    pool = driver.pool(endpoint=Unreachable(Endpoint("fake.example")))
    for broken_by in ("execute", "commit"):
        driver.fail(broken_by, FakeError(Failure.SHUTDOWN))
        with pytest.raises(ValueError, match="its own API"), pool.connection() as conn:
            conn.execute("insert")
        assert pool.stats().in_use == 0


def test_nothing_starts_a_thread(pool: lambda_pool.Pool) -> None:
    before = threading.active_count()
    pool.warm()
    with pool.connection():
        assert threading.active_count() == before


def test_repr_shows_no_password(driver: FakeDriver) -> None:
    assert "s3cr3t" not in repr(driver.pool("postgresql://u:s3cr3t@h/d"))


def _fail_then_wait(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, first: FakeError, then: Failure) -> None:
    """The first attempt to connect fails at once; the next one waits for as long as it may, without an answer."""

    def connect(request: ConnectRequest) -> None:
        driver.requests.append(request)
        if len(driver.requests) == 1:
            raise first
        time.sleep(request.timeout)
        raise FakeError(then, "no answer in time")

    monkeypatch.setattr(driver, "connect", connect)
