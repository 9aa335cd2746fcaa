"""Two threads in one pool, stopped and let go at every place where CPython may switch between them."""

import dis
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import lambda_pool
from lambda_pool import invocation, lifecycle
from lambda_pool.api import core_of
from lambda_pool.core.entry import State
from lambda_pool.engines.base import Failure
from lambda_pool.events import CheckedOut, Closed, Event, Opened, Reason, Returned, Reused
from lambda_pool.testing import FakeDriver, FakeError
from lambda_pool.testing.fakes import FakeEngineConnection
from tests.support.core import Both, end_invocation, entries, idle, queue
from tests.support.places import stepping
from tests.support.speed import FULL, seeded

# Bytecodes after which (or in which) the interpreter may switch: see tests/support/interrupts.py.
SWITCHES = {number for name, number in dis.opmap.items() if name.startswith(("CALL", "RESUME", "JUMP_BACKWARD"))}
BLOCKED = 0.001  # seconds after which a thread that goes on alone is taken to wait for the one that was stopped
FOREVER = 20.0
HAMMERED = 1.5 if FULL else 0.5  # seconds for each way to hammer
ENOUGH = 10  # times that each thread hammers at least
RESUME = dis.opmap["RESUME"]
# A quick run stops the first thread at one of the first places, and from there on at every tenth.
FIRST, EACH = 5, 10

Operation = Callable[[lambda_pool.Pool, FakeDriver], object]


class Stepper(threading.Thread):
    """A thread that stops before the N-th place of switching in the package, until it is let go."""

    def __init__(self, work: Callable[[], object], stop_at: int) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.left = stop_at
        self.stopped = threading.Event()
        self.go = threading.Event()
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.where = ""
        self._after_switch: dict[int, bool] = {}

    def run(self) -> None:
        try:
            with stepping(self.step):
                self.work()
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()
            self.stopped.set()

    def step(self, frame: FrameType, offset: int) -> None:
        """See `places.Step`."""
        code = frame.f_code
        bytecode = code.co_code[offset]
        # A frame that is gone may have had the same identity; each begins with this bytecode.
        if bytecode == RESUME or self._after_switch.get(id(frame), True):
            self.left -= 1
            if self.left == 0:
                self.where = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}"
                self.stopped.set()
                self.go.wait(FOREVER)
        self._after_switch[id(frame)] = bytecode in SWITCHES


class Second(threading.Thread):
    """The other thread: the last one to have used the connection, before the first begins."""

    def __init__(self, before: Callable[[], object], work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.before = before
        self.work = work
        self.ready = threading.Event()
        self.go = threading.Event()
        self.done = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.before()
            self.ready.set()
            self.go.wait(FOREVER)
            self.work()
        except BaseException as error:
            self.error = error
        finally:
            self.ready.set()
            self.done.set()


class CountedLink(FakeEngineConnection):
    """Tells its driver when it opens and when it ends."""

    _alive = False

    def __init__(self, driver: "Watched", number: int, *, autocommit: bool) -> None:
        self._driver = driver
        super().__init__(driver, number, autocommit=autocommit)

    @property
    def alive(self) -> bool:
        return self._alive

    @alive.setter
    def alive(self, value: bool) -> None:
        watched = self._driver
        assert isinstance(watched, Watched)
        with watched.counting:
            watched.open += value - self._alive
            watched.most = max(watched.most, watched.open)
            self._alive = value


class Watched(FakeDriver):
    """Counts the connections that are open at one time."""

    open = most = 0

    def __init__(self) -> None:
        super().__init__()
        self.counting = threading.Lock()

    def connect(self, request: Any) -> FakeEngineConnection:
        self.requests.append(request)
        self.trip("connect")
        with self._lock:
            link = CountedLink(self, len(self.links), autocommit=request.autocommit)
            self.links.append(link)
        return link


class Counts:
    """An observer that counts under a lock: a Counter looks a key that it lacks up in Python, where threads switch."""

    def __init__(self) -> None:
        self.of: Counter[type[Event]] = Counter()
        self.taken_away = 0
        self.counting = threading.Lock()

    def on_event(self, event: Event) -> None:
        with self.counting:
            self.of[type(event)] += 1
            self.taken_away += isinstance(event, Closed) and event.reason is Reason.LEAKED


def borrow(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
    with pool.connection() as conn:
        alone(conn)


def alone(conn: Any) -> None:
    """One borrower at a time."""
    me = threading.get_ident()
    assert getattr(conn, "borrower", None) is None, "two borrowers of one connection"
    conn.borrower = me
    try:
        conn.execute("insert")
        assert conn.borrower == me, "two borrowers of one connection"
    finally:
        conn.borrower = None


def look(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
    with pool.connection():
        pass


def read(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
    with pool.connection(readonly=True) as conn:
        alone(conn)


def fail(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
    try:
        with pool.connection() as conn:
            conn.close()
            raise ValueError
    except ValueError:
        pass


def fail_over(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
    for link in driver.links:
        link.kill()
    borrow(pool, driver)


def close(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
    pool.close()


def leak(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
    pool.connection().__enter__()
    end_invocation(pool)


def warm(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
    pool.warm()


def twice(pool: lambda_pool.Pool, driver: FakeDriver) -> None:
    borrow(pool, driver)
    look(pool, driver)


OPERATIONS: list[Operation] = [borrow, look, read, fail, fail_over, close, leak, warm, twice]


def taken_away(error: BaseException) -> bool:
    """What a borrower meets whose connection another thread took away at the end of an invocation."""
    if isinstance(error, FakeError):
        return error.failure is Failure.LOST
    return isinstance(error, lambda_pool.NotCommitted)


def check(pool: lambda_pool.Pool, driver: Watched, counts: Counts, errors: list[BaseException | None]) -> None:
    for error in errors:
        # The end of an invocation may take a connection away from another thread. Nothing else may go wrong.
        if error is not None and not taken_away(error):
            raise error
    assert driver.most <= pool.config.max_size
    assert not queue(pool)
    assert [slot.state for slot in entries(pool)] == [State.IDLE] * len(entries(pool))
    assert sorted(map(id, idle(pool))) == sorted(map(id, entries(pool)))
    assert {slot.link for slot in entries(pool)} >= {link for link in driver.links if link.alive}
    stats = pool.stats()
    assert stats.size == stats.idle == stats.opened - stats.closed
    assert stats.opened == counts.of[Opened] == len(driver.links)
    assert stats.closed == counts.of[Closed]
    # One that is taken away in the middle of its checkout is lent all the same, and no part of the pool any more.
    lent = counts.of[CheckedOut] + counts.of[Reused]
    assert lent - counts.taken_away <= counts.of[Returned] <= lent
    assert counts.of[Reused] - counts.taken_away <= stats.reused <= counts.of[Reused]
    assert stats.timeouts == 0


def interleaved(first: Operation, second: Operation, options: dict[str, Any]) -> None:
    """Run both, with the first one stopped at each of its places in turn."""
    first_place, step = (1, 1) if FULL else (seeded().randint(1, FIRST), EACH)
    for place in count(first_place, step):
        driver, counts = Watched(), Counts()
        pool = driver.pool(timeout=FOREVER, endpoint=Both(), observers=[counts], **options)
        one = Stepper(lambda: first(pool, driver), place)  # noqa: B023
        other = Second(lambda: borrow(pool, driver), lambda: second(pool, driver))  # noqa: B023
        other.start()
        assert other.ready.wait(FOREVER)
        one.start()
        assert one.stopped.wait(FOREVER)
        ended = one.done.is_set()
        other.go.set()
        other.done.wait(BLOCKED)
        one.go.set()
        assert one.done.wait(FOREVER), one.where
        assert other.done.wait(FOREVER), one.where
        try:
            check(pool, driver, counts, [one.error, other.error])
            borrow(pool, driver)
        except BaseException as error:
            error.add_note(f"the first thread stopped at place {place}: {one.where}")
            raise
        if ended:
            assert place > FIRST, "there is less to stop at than there was"
            return


@pytest.mark.sampled(16, "many cases")
@pytest.mark.parametrize("second", OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("first", OPERATIONS, ids=lambda operation: operation.__name__)
def test_one_connection(first: Operation, second: Operation) -> None:
    interleaved(first, second, {})


@pytest.mark.sampled(7, "many cases")
@pytest.mark.parametrize("second", OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("first", [borrow, read, close, leak], ids=lambda operation: operation.__name__)
def test_two_connections(first: Operation, second: Operation) -> None:
    interleaved(first, second, {"max_size": 2, "min_size": 2})


def test_pools_that_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one is known to the end of an invocation, and the most careful one sets the time of the alarm."""
    made = [FakeDriver().pool(cancel_before_deadline=before) for before in (0.2, 0.5)]
    careless, careful = map(core_of, made)
    for place in count(1):
        monkeypatch.setattr(lifecycle, "_pools", [])
        one = Stepper(lambda: lifecycle.register(careless), place)
        one.start()
        assert one.stopped.wait(FOREVER)
        ended = one.done.is_set()
        lifecycle.register(careful)
        one.go.set()
        assert one.done.wait(FOREVER), one.where
        assert set(lifecycle.pools()) == {careless, careful}, one.where
        assert (lifecycle.process.cancel_before, invocation.reserve.seconds) == (0.5, 0.5), one.where
        if ended:
            return


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads switch as often as CPython can be made to."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("ending", [False, True], ids=["alone", "among ending invocations"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_hammered(size: int, ending: bool, restless: None) -> None:
    driver, counts = Watched(), Counts()
    pool = driver.pool(timeout=FOREVER, endpoint=Both(), observers=[counts], max_size=size, min_size=size)
    until = time.monotonic() + HAMMERED
    errors: list[BaseException] = []
    borrowed: list[int] = []

    def hammer(seed: int) -> None:
        choose = random.Random(seed)
        done = 0
        while (time.monotonic() < until or done <= ENOUGH) and not errors:
            operation = choose.choices([borrow, look, read, fail, close, warm], [40, 40, 20, 5, 1, 1])[0]
            if choose.random() < 0.02:
                driver.links[-choose.randint(1, size)].readable = True
            try:
                operation(pool, driver)
            except (FakeError, lambda_pool.NotCommitted) as error:
                # Its connection was taken away at the end of an invocation: nothing else may be refused.
                if not ending or not taken_away(error):
                    errors.append(error)
            except BaseException as error:
                errors.append(error)
            done += 1
        borrowed.append(done)

    pool.warm()
    threads = [threading.Thread(target=hammer, args=(seed,), daemon=True) for seed in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        stats = pool.stats()
        assert 0 <= stats.idle <= stats.size <= size
        if ending:
            end_invocation(pool)
            time.sleep(0.001)
    if errors:
        raise errors[0]
    assert min(borrowed) > ENOUGH
    check(pool, driver, counts, [])
