"""The pool against a model: any story of borrows, returns, failures, clocks and forks, counted to the last ping."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import lambda_pool
from lambda_pool.api import core_of
from lambda_pool.core.entry import State
from lambda_pool.endpoints.base import Role
from lambda_pool.engines.base import INVALIDATES_POOL, TRANSIENT, Failure
from lambda_pool.testing import FakeDriver, FakeError
from lambda_pool.testing.fakes import FakeEngineConnection
from tests.support.core import Both, end_invocation, entries, idle
from tests.support.speed import examples

LIFETIME, MAX_IDLE, PING_AFTER = 100.0, 50.0, 5.0
COUNTERS = ("opened", "reused", "replaced", "closed", "pings", "connect_errors", "timeouts", "rolled_back", "leaked")

LOSSES = [Failure.LOST, Failure.SHUTDOWN]
FAILURES = [*LOSSES, Failure.OTHER]


@dataclass
class Book:
    """What the model knows of one connection."""

    number: int
    role: Role
    generation: int
    born: tuple[float, float]
    rested: tuple[float, float]
    alive: bool = True
    readable: bool = False
    readonly: bool = False
    open_transaction: bool = False
    closed_by_user: bool = False


@dataclass
class Borrow:
    """A lease, and where it was entered."""

    lease: Any
    book: Book
    here: bool
    orphan: bool = False
    taken_away: bool = False


@dataclass
class Expected:
    """What a call should come to: an error's type, or None."""

    error: type[BaseException] | None = None
    book: Book | None = None


@dataclass
class Script:
    """What the driver is told to raise next."""

    ping: Failure | None = None
    connect: Failure | None = None
    begin: list[Failure | None] = field(default_factory=list)


def rarely(*choices: Any) -> st.SearchStrategy[Any]:
    """None nine times of ten: a story in which everything fails ends before it has begun."""
    return st.integers(0, 9).flatmap(lambda number: st.sampled_from(choices) if number == 9 else st.none())


scripts = st.builds(
    Script,
    ping=rarely(*FAILURES),
    connect=rarely(Failure.OTHER, Failure.REJECTED, Failure.UNREACHABLE, Failure.TOO_MANY),
    begin=st.lists(rarely(*FAILURES), max_size=2),
)


class PoolMachine(RuleBasedStateMachine):
    """One pool, its model, and everything that may happen to both."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.wall, self.mono = 1000.0, 1000.0
        self.pid = 1
        for module in ("pool", "release"):
            self.patch.setattr(f"lambda_pool.{module}.time", lambda: self.wall)
            self.patch.setattr(f"lambda_pool.{module}.monotonic", lambda: self.mono)
        self.patch.setattr("lambda_pool.pool.uniform", lambda: 0.5)
        self.patch.setattr("lambda_pool.reclaim.monotonic", lambda: self.mono)
        self.patch.setattr("lambda_pool.replay.backoff", lambda attempt: 0.0)
        self.patch.setattr("lambda_pool.connector.backoff", lambda attempt: 0.0)
        self.patch.setattr("lambda_pool.connector.crowded_backoff", lambda left: 0.0)
        self.patch.setattr("lambda_pool.pool.os", SimpleNamespace(getpid=lambda: self.pid))
        self.elsewhere = ThreadPoolExecutor(1)
        self.driver = FakeDriver()
        self.idle: list[Book] = []
        self.lent: list[Borrow] = []
        self.generation = 0
        self.counts = dict.fromkeys(COUNTERS, 0)

    @initialize(
        max_size=st.sampled_from([1, 2, 3, 3]),
        min_size=st.integers(0, 3),
        reset=st.sampled_from(["transaction", "session"]),
        max_idle=st.sampled_from([None, MAX_IDLE]),
    )
    def make(self, max_size: int, min_size: int, reset: str, max_idle: float | None) -> None:
        self.max_size, self.min_size = max_size, min(min_size, max_size)
        self.reset, self.max_idle = reset, max_idle
        self.pool = self.driver.pool(
            endpoint=Both(),
            max_size=max_size,
            min_size=self.min_size,
            reset=reset,
            ping_after=PING_AFTER,
            max_lifetime=LIFETIME,
            max_idle=max_idle,
            session_idle=0,  # its timer has tests of its own
        )

    def teardown(self) -> None:
        self.elsewhere.shutdown()
        self.patch.undo()

    # --- the model ----------------------------------------------------------------------------------------------------

    @property
    def now(self) -> tuple[float, float]:
        return self.wall, self.mono

    @property
    def held(self) -> list[Borrow]:
        """What is lent and still part of the pool."""
        return [borrow for borrow in self.lent if not (borrow.orphan or borrow.taken_away)]

    def decide(self, book: Book, role: Role) -> str:
        since = [now - then for now, then in zip(self.now, book.rested, strict=True)]
        if book.generation != self.generation or min(since) < 0:
            return "replace"
        if any(now - born > LIFETIME for now, born in zip(self.now, book.born, strict=True)):
            return "replace"
        if (self.max_idle is not None and max(since) > self.max_idle) or book.role is not role:
            return "replace"
        return "reuse" if max(since) <= PING_AFTER and not book.readable and not book.closed_by_user else "ping"

    def choose(self, role: Role) -> Book | None:
        """The idle one to lend: the last used of this role, else, if there is no room for a new one, the oldest."""
        of_role = [book for book in self.idle if book.role is role]
        if of_role:
            return of_role[-1]
        if len(self.idle) + len(self.held) < self.max_size or not self.idle:
            return None
        return self.idle[0]

    def fail_over(self, book: Book, failure: Failure | None) -> None:
        if failure in INVALIDATES_POOL and book.generation == self.generation:
            self.generation += 1

    def expect_checkout(self, role: Role, script: Script) -> Expected:
        book = self.choose(role)
        if book is None and len(self.held) >= self.max_size:
            self.counts["timeouts"] += 1
            return Expected(lambda_pool.PoolTimeout)
        if book is not None:
            self.idle.remove(book)
            decision = self.decide(book, role)
            if decision == "ping":
                self.counts["pings"] += 1
                failure, script.ping = script.ping, None
                if failure is None and not book.alive:
                    failure = Failure.LOST
                self.fail_over(book, failure)
                decision = "reuse" if failure is None else "replace"
                book.readable = False
            if decision == "reuse":
                self.counts["reused"] += 1
                return Expected(book=book)
            self.counts["replaced"] += 1
            self.counts["closed"] += 1
            book.alive = False
        return self.expect_connect(role, script)

    def expect_connect(self, role: Role, script: Script) -> Expected:
        failure, script.connect = script.connect, None
        if failure is not None:
            self.counts["connect_errors"] += 1
            if failure is Failure.REJECTED:
                return Expected(lambda_pool.CredentialsError)
            if failure not in TRANSIENT:
                return Expected(lambda_pool.ConnectError)
        self.counts["opened"] += 1
        number = self.counts_of_links
        self.counts_of_links += 1
        return Expected(book=Book(number, role, self.generation, self.now, self.now))

    counts_of_links = 0

    def expect_begin(self, book: Book, failure: Failure | None, *, readonly: bool) -> None:
        """What becomes of a connection on which BEGIN was tried."""
        if failure is None:
            book.open_transaction, book.readonly = True, readonly
            return
        book.alive = failure not in LOSSES
        self.expect_return(book, error=failure)

    def expect_return(
        self,
        book: Book,
        *,
        error: Failure | None,
        finish: BaseException | None = None,
        reset: Failure | None = None,
    ) -> type[BaseException] | None:
        """What becomes of a connection at return, and what return raises."""
        as_lent = book.alive and not book.closed_by_user and not book.readonly and self.reset != "session"
        if error is None and as_lent and (finish is None or not book.open_transaction):
            # COMMIT was all there was to do, if anything, and there is nothing to restore.
            book.open_transaction = False
            self.expect_rest(book)
            return None
        if error is Failure.READ_ONLY and book.readonly:
            error = Failure.OTHER
        self.fail_over(book, error)
        problem: BaseException | None = None
        keep = False
        if book.closed_by_user:
            if error is None and book.open_transaction:
                problem = lambda_pool.NotCommitted()
        else:
            problem = self.expect_finish(book, error, finish)
            self.fail_over(book, problem.failure if isinstance(problem, FakeError) else None)
            keep = error not in INVALIDATES_POOL and not isinstance(problem, lambda_pool.CommitUncertain)
            keep = keep and self.expect_reset(book, reset)
        if keep:
            self.expect_rest(book)
        else:
            self.counts["closed"] += 1
            book.alive = False
        return type(problem) if problem is not None and error is None else None

    def expect_finish(self, book: Book, error: Failure | None, finish: BaseException | None) -> BaseException | None:
        if not book.alive:
            self.counts["rolled_back"] += error is None
            return lambda_pool.NotCommitted() if error is None else None
        if not book.open_transaction:
            return None
        if finish is not None:
            book.alive = not (isinstance(finish, FakeError) and finish.failure in LOSSES)
            return finish
        self.counts["rolled_back"] += error is not None
        book.open_transaction = False
        return None

    def expect_reset(self, book: Book, reset: Failure | None) -> bool:
        if reset is not None:
            book.alive = book.alive and reset not in LOSSES
            return False
        book.readonly = False
        return book.alive and not book.open_transaction

    def expect_rest(self, book: Book) -> None:
        book.rested = self.now
        self.idle.append(book)
        if book.generation != self.generation:
            self.expect_close_old()

    def expect_close_old(self) -> None:
        for book in [book for book in self.idle if book.generation != self.generation]:
            self.idle.remove(book)
            book.alive = False
            self.counts["closed"] += 1

    # --- the pool -----------------------------------------------------------------------------------------------------

    def link(self, book: Book) -> FakeEngineConnection:
        return self.driver.links[book.number]

    def order(self, name: str, *failures: Failure | None) -> None:
        self.driver.fail(name, *(failure and FakeError(failure) for failure in failures))

    def call(self, here: bool, work: Callable[[], Any], expected: type[BaseException] | None) -> Any:
        """Do it in this thread or in the other; what it raises must be what is expected."""
        try:
            result = work() if here else self.elsewhere.submit(work).result(10)
        except Exception as error:
            assert type(error) is expected, f"expected {expected}, got {error!r}"
            return None
        finally:
            self.driver.obey()
        assert expected is None, f"expected {expected}"
        return result

    @rule(script=scripts, here=st.booleans())
    def borrow(self, script: Script, here: bool) -> None:
        self.order("ping", script.ping)
        self.order("connect", script.connect)
        expected = self.expect_checkout(Role.WRITER, script)
        lease = self.pool.connection(timeout=TIMEOUTS[expected.error is lambda_pool.PoolTimeout])
        conn = self.call(here, lease.__enter__, expected.error)
        if expected.book is not None:
            assert conn is self.link(expected.book).driver_connection
            self.lent.append(Borrow(lease, expected.book, here))

    @rule(script=scripts, here=st.booleans())
    def borrow_to_read(self, script: Script, here: bool) -> None:
        self.order("ping", script.ping)
        self.order("connect", script.connect)
        self.order("begin", *script.begin)
        begins = iter(script.begin)
        for last in (False, True):
            expected = self.expect_checkout(Role.READER, script)
            if expected.book is None:
                break
            failure = next(begins, None)
            self.expect_begin(expected.book, failure, readonly=True)
            if failure is None:
                break
            if last or failure not in TRANSIENT:
                expected = Expected(FakeError)
                break
        lease = self.pool.connection(readonly=True, timeout=TIMEOUTS[expected.error is lambda_pool.PoolTimeout])
        conn = self.call(here, lease.__enter__, expected.error)
        if expected.book is not None:
            assert conn is self.link(expected.book).driver_connection
            self.lent.append(Borrow(lease, expected.book, here))

    @precondition(lambda self: self.lent)
    @rule(
        data=st.data(),
        statement=st.booleans(),
        error=rarely(*FAILURES, Failure.READ_ONLY, Failure.CONFLICT),
        finish=rarely(*FAILURES, Failure.CONFLICT, "uncertain"),
        reset=rarely(*FAILURES),
        closes=rarely(True),
    )
    def give_back(
        self,
        data: st.DataObject,
        statement: bool,
        error: Failure | None,
        finish: Any,
        reset: Failure | None,
        closes: bool | None,
    ) -> None:
        borrow = data.draw(st.sampled_from(self.lent))
        self.lent.remove(borrow)
        book, link = borrow.book, self.link(borrow.book)
        if statement and book.alive and link.alive:
            link.driver_connection.execute("insert")
            book.open_transaction = True
        if closes:
            link.driver_connection.close()
            book.closed_by_user = True
        raised = FakeError(error) if error else None
        failure = lambda_pool.CommitUncertain("lost") if finish == "uncertain" else finish and FakeError(finish)
        if raised is not None and isinstance(failure, lambda_pool.CommitUncertain):
            failure = None  # a rollback is never uncertain
        self.driver.fail("commit", failure)
        self.driver.fail("rollback", failure)
        self.order("reset", reset)
        if borrow.orphan:
            expected = None
            book.alive = False
        elif borrow.taken_away:
            expected = self.expect_late_return(book, error)
        else:
            expected = self.expect_return(book, error=error, finish=failure, reset=reset)
        self.call(borrow.here, lambda: borrow.lease.__exit__(raised and type(raised), raised, None), expected)

    def expect_late_return(self, book: Book, error: Failure | None) -> type[BaseException] | None:
        """Its connection was closed at the end of the invocation; only what a failover means is still heard."""
        if error is Failure.READ_ONLY and book.readonly:
            error = Failure.OTHER
        self.fail_over(book, error)
        if book.closed_by_user:
            return lambda_pool.NotCommitted if error is None and book.open_transaction else None
        self.counts["rolled_back"] += error is None
        return lambda_pool.NotCommitted if error is None else None

    @rule(conflicts=st.integers(0, 3), attempts=st.integers(1, 3), script=scripts)
    def run(self, conflicts: int, attempts: int, script: Script) -> None:
        self.order("ping", script.ping)
        self.order("connect", script.connect)
        self.order("commit", *[Failure.CONFLICT] * conflicts)
        error: type[BaseException] | None = None
        for attempt in range(1, attempts + 1):
            expected = self.expect_checkout(Role.WRITER, script)
            if expected.book is None:
                error = expected.error
                break
            self.expect_begin(expected.book, None, readonly=False)
            conflict = FakeError(Failure.CONFLICT) if attempt <= conflicts else None
            self.expect_return(expected.book, error=None, finish=conflict)
            if conflict is None:
                error = None
                break
            error = FakeError
        before, self.pool.config.__dict__["timeout"] = (
            self.pool.config.timeout,
            TIMEOUTS[error is lambda_pool.PoolTimeout],
        )
        self.call(True, lambda: self.pool.run(lambda conn: None, attempts=attempts), error)
        self.pool.config.__dict__["timeout"] = before

    @rule()
    def warm(self) -> None:
        wanted = min(max(1, self.min_size), self.max_size)
        opened: list[Book] = []
        while len(self.idle) + len(self.held) + len(opened) < wanted:
            book = self.expect_connect(Role.WRITER, Script()).book
            assert book is not None
            opened.append(book)
        for book in opened:
            self.expect_rest(book)
        self.pool.warm(strict=True)

    @rule(forget=st.booleans())
    def close(self, forget: bool) -> None:
        self.generation += 1
        self.expect_close_old()
        (core_of(self.pool).forget if forget else self.pool.close)()

    @rule()
    def end_invocation(self) -> None:
        for borrow in self.held:
            borrow.taken_away = True
            borrow.book.alive = False
            self.counts["leaked"] += 1
            self.counts["closed"] += 1
        end_invocation(self.pool)

    @rule()
    def fork(self) -> None:
        self.pid += 1
        for borrow in self.lent:
            borrow.orphan = True
        self.idle.clear()
        self.counts = dict.fromkeys(COUNTERS, 0)
        core_of(self.pool).after_fork()

    @precondition(lambda self: self.idle or self.held)
    @rule(data=st.data(), kill=st.booleans())
    def strike(self, data: st.DataObject, kill: bool) -> None:
        """The server ends a connection, or says something unasked."""
        book = data.draw(st.sampled_from([*self.idle, *(borrow.book for borrow in self.held)]))
        book.readable = True
        if kill:
            book.alive = False
            self.link(book).kill()
        else:
            self.link(book).readable = True

    @rule(
        wall=st.sampled_from([0.0, 1.0, 6.0, 60.0, 200.0, -1.0]),
        mono=st.sampled_from([0.0, 1.0, 6.0, 60.0, 200.0, -1.0]),
    )
    def time_passes(self, wall: float, mono: float) -> None:
        """Or does not: either clock may stop, jump, or go backwards."""
        self.wall += wall
        self.mono += mono

    # --- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        stats = self.pool.stats()
        assert (stats.size, stats.idle, stats.in_use, stats.waiting) == (
            len(self.idle) + len(self.held),
            len(self.idle),
            len(self.held),
            0,
        )
        assert {name: getattr(stats, name) for name in COUNTERS} == self.counts
        assert [slot.link.backend_id for slot in idle(self.pool)] == [book.number for book in self.idle]
        assert {slot.state for slot in entries(self.pool)} <= {State.IDLE, State.LENT}
        assert len(entries(self.pool)) <= self.max_size

    @invariant()
    def nobody_shares(self) -> None:
        numbers = [borrow.book.number for borrow in self.lent]
        assert len(numbers) == len(set(numbers))
        assert not set(numbers) & {book.number for book in self.idle}

    @invariant()
    def nothing_got_away(self) -> None:
        """A connection that is still open is known; one that the pool gave up is closed."""
        alive = {link.backend_id for link in self.driver.links if link.alive}
        books = [*self.idle, *(borrow.book for borrow in self.lent)]
        assert alive <= {book.number for book in books}
        assert alive >= {book.number for book in books if book.alive}


TIMEOUTS = (5.0, 0.001)
"""Seconds that a borrower waits who should get a connection, and one who should not."""

PoolMachine.TestCase.settings = settings(
    max_examples=examples(400),
    stateful_step_count=50,
    deadline=None,
    phases=[phase for phase in Phase if phase is not Phase.explain],
)
TestModel = PoolMachine.TestCase
