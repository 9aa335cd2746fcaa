"""What Lambda does to a process, with pools on a scripted driver: the end, the alarm, snapshots, clocks."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

import lambda_pool
from lambda_pool import invocation, lifecycle
from lambda_pool.api import core_of
from lambda_pool.core.entry import State
from lambda_pool.endpoints.base import Role
from lambda_pool.engines.base import Failure, Status
from lambda_pool.events import Closing, Reason, Replaced
from lambda_pool.lifecycle import shutdown, snapstart
from lambda_pool.lifecycle.alarm import Alarm
from lambda_pool.testing import FakeDriver
from tests.support.core import cancel_running, idle
from tests.support.invoked import invoked
from tests.support.recorder import Recorder


@pytest.fixture(autouse=True)
def no_other_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the pools that other tests left: a shutdown would close them too, and an invocation would look at them."""
    monkeypatch.setattr(lifecycle, "_pools", [])


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def in_invocation() -> Iterator[None]:
    with invoked(None):
        yield


def arm(left: Callable[[], int] | None, before: float) -> Callable[[], None] | None:
    """The alarm of an invocation with that many milliseconds left."""
    with invoked(left):
        return Alarm(before).arm()


class TestShutdown:
    """Everything except the signal itself."""

    def test_every_idle_connection_says_good_bye(self, driver: FakeDriver) -> None:
        seen = Recorder()
        pool = driver.pool(max_size=3, min_size=3, observers=[seen])
        pool.warm()
        shutdown._close_all()
        assert [link.history for link in driver.links] == [["close"]] * 3
        assert [type(event) for event in seen.events].count(Closing) == 1

    def test_one_that_is_being_opened_hinders_nobody(self, driver: FakeDriver) -> None:
        pool = driver.pool(max_size=3)
        opening = core_of(pool).state.make_room(Role.WRITER, 1)
        assert opening is not None
        with pool.connection():
            pass
        shutdown._close_all()
        assert driver.links[0].history == ["close"]

    def test_one_that_fails_hinders_nobody(self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        pool = driver.pool(max_size=3, min_size=3)
        pool.warm()

        def fail(timeout: float) -> None:
            raise OSError("no")

        monkeypatch.setattr(driver.links[0], "close", fail)
        shutdown._close_all()
        assert [link.history for link in driver.links] == [[], ["close"], ["close"]]

    def test_what_is_lent_is_cut_whoever_borrowed_it(self, driver: FakeDriver) -> None:
        pool = driver.pool(max_size=2, min_size=2)
        pool.warm()
        with pytest.raises(lambda_pool.NotCommitted), pool.connection():
            shutdown._close_all()
            assert sorted(link.history for link in driver.links) == [["abort"], ["close"]]

    def test_a_statement_that_runs_is_cancelled_too(self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        pool = driver.pool()
        with pytest.raises(lambda_pool.NotCommitted), pool.connection():
            monkeypatch.setattr(driver.links[0], "status", lambda: Status.BUSY)
            shutdown._close_all()
            assert driver.links[0].history == ["cancel", "abort"]

    @pytest.mark.parametrize("end", [shutdown._close_all, shutdown._close_in_server], ids=["function", "server"])
    def test_a_pool_that_does_not_want_it_is_left_alone(
        self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, end: Callable[[], None]
    ) -> None:
        monkeypatch.setattr(shutdown, "_REQUESTS_END", 0.05)
        monkeypatch.setattr(shutdown, "_CANCELLING", 0.05)
        pool = driver.pool(graceful_shutdown=False, max_size=2, min_size=2)
        pool.warm()
        with pool.connection():
            end()
        assert [link.history for link in driver.links] == [[], []]

    def test_pools_that_nobody_holds_are_forgotten(self, driver: FakeDriver) -> None:
        # By name: pools that earlier tests left may go at any time.
        pool = driver.pool(name="nobody's")
        assert [each.name for each in lifecycle.pools() if each.name == "nobody's"] == ["nobody's"]
        del pool
        assert "nobody's" not in {each.name for each in lifecycle.pools()}


class TestRegistering:
    """If the extension's registration does not work, that is logged once, and nothing else changes."""

    @pytest.fixture(autouse=True)
    def in_lambda(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "function")
        monkeypatch.delenv("AWS_LAMBDA_RUNTIME_API", raising=False)
        monkeypatch.setattr(shutdown._Installed, "done", False)
        caplog.set_level("DEBUG", "lambda_pool")
        handler = signal.getsignal(signal.SIGTERM)
        yield
        assert signal.getsignal(signal.SIGTERM) is handler

    def check(self, driver: FakeDriver, caplog: pytest.LogCaptureFixture, why: str) -> None:
        for _ in range(2):
            shutdown.install()
            with driver.pool(observers=()).connection() as conn:
                conn.execute("select 1")
        said = [record.message for record in caplog.records if "nor cut when" in record.message]
        assert len(said) == 1
        assert why in said[0]

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", "the runtime API answered 'HTTP/1.1 403 Forbidden'"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "the runtime API answered 'HTTP/1.1 200 OK'"),
            (b"", "the runtime API answered ''"),
        ],
    )
    def test_it_refuses(
        self,
        driver: FakeDriver,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        answer: bytes,
        why: str,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", f"127.0.0.1:{listener.getsockname()[1]}")

            def serve() -> None:
                client, _ = listener.accept()
                with client:
                    while b"}" not in client.recv(4096):
                        pass
                    client.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            self.check(driver, caplog, why)
            thread.join()

    def test_it_does_not_answer(
        self, driver: FakeDriver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutdown, "_PATIENCE", 0.1)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", f"127.0.0.1:{listener.getsockname()[1]}")
            self.check(driver, caplog, "timed out")

    def test_another_thread_makes_the_first_pool(self, driver: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
        why = "lambda_pool was not imported on the main thread"
        with socket.create_server(("127.0.0.1", 0)) as listener, pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_LAMBDA_RUNTIME_API", f"127.0.0.1:{listener.getsockname()[1]}")
            thread = threading.Thread(target=self.check, args=(driver, caplog, why))
            thread.start()
            thread.join()
        assert caplog.text.count(why) == 1

    def test_switched_off(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setenv("LAMBDA_POOL_GRACEFUL_SHUTDOWN", "false")
        shutdown.install()
        assert caplog.text == ""
        assert not shutdown._Installed.done


class TestMadeInAnInvocation:
    """A Pool that is made in each invocation keeps no connection for the next."""

    def make(self, driver: FakeDriver, name: str) -> None:
        with driver.pool(name=name).connection() as conn:
            conn.execute("select 1")

    def test_it_is_said_once_and_what_is_dropped_is_closed(
        self, driver: FakeDriver, in_invocation: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(5):
            self.make(driver, "again and again")
        assert caplog.text.count("make it once, at module scope") == 1
        assert [link.history[-1] for link in driver.links] == ["close"] * 5

    def test_two_that_live_side_by_side_are_somebodys_choice(
        self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
        pools = [driver.pool(name="side by side") for _ in range(2)]
        assert "make it once" not in caplog.text
        del pools[:]
        self.make(driver, "side by side")
        assert caplog.text.count("make it once, at module scope") == 1

    def test_not_of_different_ones_nor_outside_of_an_invocation(
        self, driver: FakeDriver, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(2):
            self.make(driver, "in a script")
        with invoked(None):
            for name in ("this", "that"):
                self.make(driver, name)
        assert caplog.text == ""


class TestUnknownDeadline:
    """`cancel_before_deadline` when nobody says when the invocation ends."""

    @pytest.fixture(autouse=True)
    def in_lambda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "function")

    def test_it_is_said_once(self, driver: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
        pool = driver.pool(observers=(), cancel_before_deadline=0.5)
        for _ in range(3):
            with pool.connection():
                pass
        assert caplog.text.count("cancel_before_deadline has no effect here") == 1

    def test_not_where_it_is_known_or_not_wanted(self, driver: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
        wanted, unwanted = driver.pool(observers=(), cancel_before_deadline=0.5), driver.pool(observers=())
        with invoked(lambda: 10_000), wanted.connection():
            pass
        with unwanted.connection():
            pass
        assert caplog.text == ""


class TestAlarm:
    """The timer of cancel_before_deadline."""

    @pytest.fixture
    def rung(self) -> Iterator[list[int]]:
        """The user's own signal handler and timer, which are already running."""
        rung: list[int] = []
        previous = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
        yield rung
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)

    def test_the_users_handler_and_timer_are_put_back(self, rung: list[int]) -> None:
        mine = signal.getsignal(signal.SIGALRM)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        disarm = arm(lambda: 10_000, 0.3)
        assert disarm is not None
        assert signal.getsignal(signal.SIGALRM) is not mine
        time.sleep(0.3)
        assert rung == []
        disarm()
        assert signal.getsignal(signal.SIGALRM) is mine
        time.sleep(0.1)
        assert rung == [signal.SIGALRM]

    def test_disarmed_it_never_rings(self, driver: FakeDriver, rung: list[int]) -> None:
        pool = driver.pool(cancel_before_deadline=0.1)
        disarm = arm(lambda: 200, 0.1)
        assert disarm is not None
        disarm()
        with pool.connection():
            driver.links[0].status = lambda: Status.BUSY  # type: ignore[method-assign]
            time.sleep(0.3)
        assert "cancel" not in driver.links[0].history
        assert rung == []

    def test_each_pool_waits_for_its_own_time(self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        late, early = driver.pool(cancel_before_deadline=0.1), driver.pool(cancel_before_deadline=5.0)
        monkeypatch.setattr(lifecycle, "_pools", [weakref.ref(core_of(late)), weakref.ref(core_of(early))])
        rung: list[object] = []
        monkeypatch.setattr("lambda_pool.lifecycle.alarm.cancel_running", lambda core, within: rung.append(core))
        with invoked(lambda: 3_000):
            Alarm(5.0)._ring(signal.SIGALRM, None)
        assert rung == [core_of(early)]
        with invoked(lambda: 100):
            Alarm(5.0)._ring(signal.SIGALRM, None)
        assert rung == [core_of(early), core_of(late), core_of(early)]

    def test_one_that_was_left_behind_is_taken_away_by_the_next(self, rung: list[int]) -> None:
        """An exception from another signal handler may have struck before the alarm was disarmed."""
        mine = signal.getsignal(signal.SIGALRM)
        signal.setitimer(signal.ITIMER_REAL, 100.0)
        assert arm(lambda: 10_000, 0.3) is not None
        disarm = arm(lambda: 10_000, 0.3)
        assert disarm is not None
        disarm()
        assert signal.getsignal(signal.SIGALRM) is mine
        assert 90 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100

    def test_one_that_is_interrupted_while_it_is_armed_leaves_nothing(
        self, rung: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine = signal.getsignal(signal.SIGALRM)
        signal.setitimer(signal.ITIMER_REAL, 100.0)
        setitimer = signal.setitimer

        def struck_at_its_end(*arguments: Any) -> None:
            setitimer(*arguments)
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(signal, "setitimer", struck_at_its_end)
        with pytest.raises(KeyboardInterrupt):
            arm(lambda: 10_000, 0.3)
        assert signal.getsignal(signal.SIGALRM) is mine
        assert 90 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100

    @pytest.mark.parametrize("fails", [False, True])
    def test_it_ends_with_its_invocation(self, driver: FakeDriver, rung: list[int], fails: bool) -> None:
        pool = driver.pool(cancel_before_deadline=0.1)
        mine = signal.getsignal(signal.SIGALRM)
        signal.setitimer(signal.ITIMER_REAL, 100.0)

        @pool.handler
        def handler(event: Any, context: Any) -> None:
            assert signal.getsignal(signal.SIGALRM) is not mine
            if fails:
                raise KeyError

        class Context:
            def get_remaining_time_in_millis(self) -> int:
                return 10_000

        with contextlib.suppress(KeyError):
            handler({}, Context())
        assert signal.getsignal(signal.SIGALRM) is mine
        assert 90 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100

    def test_another_thread_has_no_alarm(self) -> None:
        armed: list[object] = []
        thread = threading.Thread(target=lambda: armed.append(arm(lambda: 10_000, 0.3)))
        thread.start()
        thread.join()
        assert armed == [None]

    def test_no_deadline_no_alarm(self) -> None:
        assert arm(None, 0.3) is None

    def test_asked_once_then_cut(self, driver: FakeDriver) -> None:
        pool = driver.pool(cancel_before_deadline=0.3)
        with pytest.raises(lambda_pool.NotCommitted), pool.connection():
            link = driver.links[0]
            link.status = lambda: Status.BUSY  # type: ignore[method-assign]
            cancel_running(pool, 0.05)
            cancel_running(pool, 0.05)
            assert link.history == ["cancel"]
            time.sleep(0.06)
            cancel_running(pool, 0.05)
            assert link.history == ["cancel", "abort"]

    def test_a_connection_that_is_being_opened_or_was_replaced_meanwhile(self, driver: FakeDriver) -> None:
        pool = driver.pool(cancel_before_deadline=0.3)
        opening = core_of(pool).state.make_room(Role.WRITER, 1)
        assert opening is not None
        cancel_running(pool, 0.05)
        opening.state = State.LENT  # as it is while its connection is being replaced
        cancel_running(pool, 0.05)
        assert pool.stats().size == 1

    def test_what_fails_in_it_never_comes_out_of_the_handler(
        self, driver: FakeDriver, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG", "lambda_pool")
        pool = driver.pool(cancel_before_deadline=0.3)
        with pool.connection():
            driver.links[0].status = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
            Alarm(0.3)._ring(signal.SIGALRM, None)
        assert "cancelling before the deadline failed: division by zero" in caplog.text

    def test_behind_an_rds_proxy_it_is_cut_at_once(self, driver: FakeDriver) -> None:
        url = "postgresql://a@orders.proxy-c0ffee123456.eu-central-1.rds.amazonaws.com/x"
        pool = driver.pool(url, cancel_before_deadline=0.3)
        with pytest.raises(lambda_pool.NotCommitted), pool.connection():
            driver.links[0].status = lambda: Status.BUSY  # type: ignore[method-assign]
            cancel_running(pool, 0.05)
            assert driver.links[0].history == ["abort"]


class TestSnapshot:
    def test_everything_is_closed_and_forgotten_before_and_warm_is_repeated_after(self, driver: FakeDriver) -> None:
        seen = Recorder()
        forgotten: list[str] = []

        class Source:
            needs_tls = False

            def credentials(self, endpoint: Any, user: str, timeout: float) -> Any:
                return lambda_pool.auth.base.Credentials(user=user, password=None)

            def rejected(self, credentials: Any) -> None: ...

            def forget(self) -> None:
                forgotten.append("auth")

        pool = driver.pool(max_size=2, min_size=2, observers=[seen], auth=Source())
        idle = driver.pool()
        pool.warm()
        snapstart.before_snapshot()
        assert [link.history for link in driver.links] == [["close"]] * 2
        assert pool.stats().size == 0
        assert forgotten == ["auth"]
        assert Closing in {type(event) for event in seen.events}
        snapstart.after_restore()
        assert pool.stats().size == 2
        assert idle.stats().size == 0

    def test_what_init_still_holds_is_closed_too(self, driver: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
        """As Django does after a query at module scope. Otherwise each clone would use it."""
        pool = driver.pool()
        held = pool.connection()
        held.__enter__()
        snapstart.before_snapshot()
        assert driver.links[0].history == ["close"]
        assert pool.stats().size == 0
        assert "in test_what_init_still_holds_is_closed_too" in caplog.text

    def test_a_transaction_that_init_left_open_is_an_error_once_all_is_closed(self, driver: FakeDriver) -> None:
        pool, other = driver.pool(), driver.pool()
        held = pool.connection()
        held.__enter__()
        driver.links[0].in_transaction = True
        other.warm()
        with pytest.raises(lambda_pool.NotCommitted, match=r"the Init phase ended .* in test_a_transaction_that"):
            snapstart.before_snapshot()
        assert [link.history for link in driver.links] == [["close"]] * 2

    def test_without_the_runtimes_package_it_is_said_once_and_nothing_else(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(snapstart, "install", cache(snapstart.install.__wrapped__))
        monkeypatch.setitem(sys.modules, "snapshot_restore_py", None)
        snapstart.install()
        snapstart.install()
        assert caplog.text.count("snapshot_restore_py") == 2  # named, and in the import's own words
        assert len(caplog.records) == 1

    def test_a_restore_without_a_database_is_not_fatal(
        self, driver: FakeDriver, caplog: pytest.LogCaptureFixture
    ) -> None:
        from lambda_pool.testing import FakeError

        pool = driver.pool(timeout=0.05)
        pool.warm()
        snapstart.before_snapshot()
        driver.fail("connect", *[FakeError(Failure.UNREACHABLE)] * 20)
        snapstart.after_restore()
        assert "could not be warmed" in caplog.text
        driver.fail("connect")
        driver._orders.clear()
        with pool.connection():
            pass

    def test_a_restore_is_bounded_whatever_pools_there_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from lambda_pool.testing import FakeError

        monkeypatch.setattr(snapstart, "_WARMING", 1.0)
        drivers = [FakeDriver() for _ in range(4)]
        found = [driver.pool(name=f"pool{number}") for number, driver in enumerate(drivers)]
        for pool in found:
            pool.warm()
        snapstart.before_snapshot()
        for driver in drivers[:3]:
            driver.fail("connect", *[FakeError(Failure.UNREACHABLE)] * 1_000)
        begin = time.monotonic()
        snapstart.after_restore()
        assert time.monotonic() - begin < 2
        assert [pool.stats().size for pool in found] == [0, 0, 0, 1]
        # Each had a share of what was left: a quarter, a third, a half and the rest.
        assert all(0.1 < driver.requests[1].timeout < 0.7 for driver in drivers)

    def test_a_restore_waits_for_at_most_five_seconds(self, driver: FakeDriver) -> None:
        pool = driver.pool(timeout=60.0, connect_timeout=60.0)
        pool.warm()
        snapstart.before_snapshot()
        snapstart.after_restore()
        assert driver.requests[1].timeout == pytest.approx(5.0, abs=0.5)


class TestFork:
    def test_a_child_takes_over_no_lock_of_its_credentials_and_endpoint(
        self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A thread that no longer exists may have held the lock. An error in one pool does not affect the others."""
        first, second = driver.pool(), driver.pool()
        forgotten: list[str] = []

        def fail() -> None:
            raise ValueError("an Auth of the user's own")

        monkeypatch.setattr(core_of(first).connector.auth, "forget", fail)
        monkeypatch.setattr(
            core_of(first).connector.endpoint, "forget", lambda: forgotten.append("the first's endpoint")
        )
        monkeypatch.setattr(core_of(second).connector.auth, "forget", lambda: forgotten.append("auth"))
        monkeypatch.setattr(core_of(second).connector.endpoint, "forget", lambda: forgotten.append("endpoint"))
        monkeypatch.setattr(lifecycle, "_pools", [weakref.ref(core_of(first)), weakref.ref(core_of(second))])
        lifecycle._after_fork()
        assert forgotten == ["the first's endpoint", "auth", "endpoint"]

    def test_the_invocations_of_other_threads_stay_with_the_parent(
        self, in_invocation: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lifecycle, "_pools", [])
        mine = threading.get_ident()
        invocation.running[mine + 1] = None
        try:
            lifecycle._after_fork()
            assert list(invocation.running) == [mine]
        finally:
            invocation.running.pop(mine + 1, None)

    def test_a_child_that_leaves_its_parents_block_does_the_parent_no_harm(self, driver: FakeDriver) -> None:
        """It does not harm itself either: its later connections are its own."""
        pool = driver.pool(max_size=2, min_size=2)
        pool.warm()
        ours, theirs = os.pipe()
        child = 0
        try:
            with pool.connection() as conn:
                conn.execute("insert")
                child = os.fork()
        finally:
            if child == 0:
                with pool.connection():
                    pass
                told = [link.history for link in driver.links], str(pool.stats())
                os.write(theirs, json.dumps(told).encode())
                os._exit(0)
        os.close(theirs)
        with os.fdopen(ours) as pipe:
            histories, stats = json.loads(pipe.read() or "[[], '']")
        os.waitpid(child, 0)
        # The idle connection, the lent one, and the child's own.
        assert histories == [["discard"], ["execute", "discard"], []]
        assert "size=1" in stats
        assert "opened=1" in stats  # its parent counts its own
        assert [link.history for link in driver.links] == [[], ["execute", "commit"]]

    def test_another_hook_finds_an_empty_pool(self) -> None:
        """Also one that was registered before the pool was made, but after the package was imported."""
        script = """
import os
from lambda_pool import Pool
from lambda_pool.testing import FakeDriver
os.register_at_fork(after_in_child=lambda: os.write(1, str(pool.stats().size).encode()))
pool = FakeDriver().pool()
pool.warm()
if not os.fork():
    os._exit(0)
os.wait()
"""
        assert subprocess.check_output([sys.executable, "-c", script]) == b"0"

    def test_what_was_borrowed_before_is_not_cached_by_the_child(self, driver: FakeDriver) -> None:
        """Not even if it looks clean: both processes would use it."""
        pool = driver.pool()
        ours, theirs = os.pipe()
        child = 0
        try:
            with pool.connection():
                child = os.fork()
        finally:
            if child == 0:
                os.write(theirs, json.dumps([driver.links[0].history, len(idle(pool)), pool.stats().size]).encode())
                os._exit(0)
        os.close(theirs)
        with os.fdopen(ours) as pipe:
            told = json.loads(pipe.read() or "[]")
        os.waitpid(child, 0)
        assert told == [["discard"], 0, 0]
        assert (driver.links[0].history, pool.stats().idle) == ([], 1)


class Clocks:
    """Both clocks. A test moves them as a freeze may: each of them may jump or stand still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = 0.0
        self.mono = 0.0
        for module in ("pool", "invocation"):
            monkeypatch.setattr(f"lambda_pool.{module}.monotonic", lambda: time.monotonic() + self.mono)
        monkeypatch.setattr("lambda_pool.pool.time", lambda: time.time() + self.wall)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


BOTH = ["wall", "mono", "both"]


class TestClocks:
    """A freeze as the two clocks show it: the wall clock jumps, the monotonic one may stand still, or both move."""

    @pytest.mark.parametrize("which", BOTH)
    @pytest.mark.parametrize("seconds", [0, 1, 10, 60])
    def test_a_thaw_after_more_than_ping_after_pings(
        self, driver: FakeDriver, clocks: Clocks, which: str, seconds: int
    ) -> None:
        pool = driver.pool(ping_after=5)
        with pool.connection():
            pass
        _turn(clocks, which, seconds)
        with pool.connection():
            pass
        assert pool.stats().pings == (1 if seconds > 5 else 0)
        assert pool.stats().opened == 1

    @pytest.mark.parametrize("which", BOTH)
    @pytest.mark.parametrize("seconds", [10, 60])
    def test_a_peer_that_vanished_meanwhile_is_replaced(
        self, driver: FakeDriver, clocks: Clocks, which: str, seconds: int
    ) -> None:
        pool = driver.pool(ping_after=5)
        with pool.connection():
            pass
        driver.links[0].alive = False  # without notice: the socket stays silent
        _turn(clocks, which, seconds)
        with pool.connection() as conn:
            conn.execute("select 1")
        assert (pool.stats().opened, pool.stats().pings) == (2, 1)

    @pytest.mark.parametrize("which", BOTH)
    def test_lifetime_counts_frozen_time(self, driver: FakeDriver, clocks: Clocks, which: str) -> None:
        seen = Recorder()
        pool = driver.pool(max_lifetime=100, observers=[seen])
        with pool.connection():
            pass
        _turn(clocks, which, 111)
        with pool.connection():
            pass
        assert [event.reason for event in seen.events if isinstance(event, Replaced)] == [Reason.LIFETIME]

    @pytest.mark.parametrize("which", BOTH)
    def test_a_clock_that_went_backwards_counts_as_expired(
        self, driver: FakeDriver, clocks: Clocks, which: str
    ) -> None:
        seen = Recorder()
        pool = driver.pool(observers=[seen])
        with pool.connection():
            pass
        _turn(clocks, which, -60)
        with pool.connection():
            pass
        assert [event.reason for event in seen.events if isinstance(event, Replaced)] == [Reason.CLOCK]


def _turn(clocks: Clocks, which: str, seconds: float) -> None:
    if which != "mono":
        clocks.wall += seconds
    if which != "wall":
        clocks.mono += seconds
