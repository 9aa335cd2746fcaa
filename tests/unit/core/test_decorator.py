"""The handler decorator on a scripted driver."""

import functools
import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, cast

import pytest
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.utilities.data_classes import SQSEvent, event_source

import lambda_pool
from lambda_pool import api, invocation, lifecycle, reclaim
from lambda_pool.engines.base import Failure, Status
from lambda_pool.events import InvocationEnded
from lambda_pool.testing import FakeDriver, FakeError
from lambda_pool.testing.fakes import FakeEngineConnection
from tests.support.context import LambdaContext as Context
from tests.support.core import entries
from tests.support.recorder import Recorder


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver(answers={"select 1": [(1,)]})


@pytest.fixture
def pool(driver: FakeDriver) -> lambda_pool.Pool:
    return driver.pool(timeout=0.2)


class TestInjection:
    def test_by_keyword_and_metadata_is_kept(self, pool: lambda_pool.Pool) -> None:
        @pool.handler
        def handler(event: int, context: Context, conn: Any) -> tuple[int, Any]:
            """Does it."""
            return event, conn.execute("select 1").fetchone()

        assert handler(5, Context()) == (5, (1,))
        assert (handler.__name__, handler.__doc__) == ("handler", "Does it.")
        assert handler.__wrapped__(6, None, entries(pool)[0].link.driver_connection) == (6, (1,))  # type: ignore[attr-defined]

    def test_under_another_name(self, pool: lambda_pool.Pool) -> None:
        @pool.handler(inject="db")
        def handler(event: Any, context: Any, *, db: Any) -> Any:
            return db.number

        assert handler({}, Context()) == 0

    def test_a_function_that_does_not_take_it_opens_nothing(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        @pool.handler
        def handler(event: Any, context: Any) -> float | None:
            return invocation.remaining()

        assert handler({}, Context(1100)) == pytest.approx(1.0)
        assert driver.links == []

    def test_a_connection_that_the_caller_passes_is_used(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        @pool.handler
        def handler(event: Any, context: Any, conn: Any) -> Any:
            return conn

        assert handler({}, None, conn="mine") == "mine"  # type: ignore[call-arg]
        assert driver.links == []

    def test_methods_and_callables(self, pool: lambda_pool.Pool) -> None:
        class Service:
            @pool.handler
            def handle(self, event: Any, context: Any, conn: Any) -> Any:
                return conn.number, invocation.remaining()

        class Callable:
            def __call__(self, event: Any, context: Any, conn: Any) -> Any:
                return conn.number

        assert Service().handle({}, Context(1100)) == (0, pytest.approx(1.0))
        assert pool.handler(Callable())({}, Context()) == 0

    def test_a_partial_function(self, pool: lambda_pool.Pool) -> None:
        def handle(extra: int, event: Any, context: Any, conn: Any) -> Any:
            return extra, event, conn.number

        assert pool.handler(functools.partial(handle, 7))(1, Context()) == (7, 1, 0)

    def test_a_wrapped_function_may_be_called_outside_of_its_handler(self, pool: lambda_pool.Pool) -> None:
        """A decorator in between may keep the function and call it later: then there is no connection."""
        kept: list[Any] = []

        def keeping(fn: Any) -> Callable[..., Any]:
            later: Any

            @functools.wraps(fn)
            def wrapper(event: Any, context: Any) -> Any:
                kept.append(lambda: fn(event, context))
                return fn(event, context) if event else later

            if not pool:  # a variable of the closure that never gets its value
                later = None
            return wrapper

        @pool.handler
        @keeping
        def handler(event: Any, context: Any, conn: Any = None) -> Any:
            return conn and conn.number

        assert handler(1, Context()) == 0
        assert kept[0]() is None

    def test_keyword_arguments(self, pool: lambda_pool.Pool) -> None:
        @pool.handler(on_unavailable=lambda event, context, error: (event, context))
        def handler(event: Any, context: Any, conn: Any) -> Any:
            return event, context

        context = Context()
        assert handler(event=1, context=context) == (1, context)  # type: ignore[call-arg]

    def test_two_pools_on_one_handler(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        other = driver.pool("postgresql://fake@fake.example/other")

        @pool.handler(inject="a")
        @other.handler(inject="b")
        def handler(event: Any, context: Any, a: Any, b: Any) -> tuple[int, int]:
            return a.number, b.number

        assert handler({}, Context()) == (0, 1)
        assert (pool.stats().idle, other.stats().idle) == (1, 1)

    @pytest.mark.parametrize("value", ["", "two words", 5])
    def test_a_wrong_inject(self, pool: lambda_pool.Pool, value: Any) -> None:
        with pytest.raises(lambda_pool.ConfigError, match="inject="):
            pool.handler(inject=value)(lambda event, context: None)

    def test_async_and_uncallable_are_refused(self, pool: lambda_pool.Pool) -> None:
        async def handler(event: Any, context: Any) -> None: ...

        with pytest.raises(lambda_pool.ConfigError, match="async def"):
            pool.handler(handler)
        with pytest.raises(lambda_pool.ConfigError, match="holds a yield"):

            @pool.handler
            def rows(event: Any, context: Any, conn: Any) -> Any:
                yield conn

        with pytest.raises(lambda_pool.ConfigError, match="'conn' too early"):
            pool.handler(lambda event, conn: None)
        with pytest.raises(lambda_pool.ConfigError, match="must be a function or another callable, not int"):
            pool.handler(5)  # type: ignore[call-overload]
        with pytest.raises(lambda_pool.ConfigError, match="on_unavailable=5"):
            pool.handler(on_unavailable=5)(lambda event, context: None)  # type: ignore[call-overload]

    def test_an_answer_that_nobody_would_ask_for(self, pool: lambda_pool.Pool) -> None:
        """A handler that borrows for itself gets the errors itself, although its author hoped for a 503."""

        @pool.handler
        def borrows(event: Any, context: Any, conn: Any) -> None: ...

        for handler in (lambda event, context: None, lambda event, context: borrows(event or {}, context)):
            with pytest.raises(lambda_pool.ConfigError, match=r"on_unavailable=\.\.\. would never be called.*'conn'"):
                pool.handler(on_unavailable=lambda *_: "busy")(handler)


class TestPowertools:
    @pytest.mark.parametrize("outside", [True, False])
    def test_logger_and_metrics(
        self, pool: lambda_pool.Pool, outside: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        logger = Logger(service="orders")
        metrics = Metrics(namespace="orders", service="orders")

        def work(event: Any, context: Any, conn: Any) -> Any:
            metrics.add_metric(name="Orders", unit="Count", value=1)
            return conn.number

        handler: Any = work
        if outside:
            handler = logger.inject_lambda_context(metrics.log_metrics(pool.handler(work)))
        else:
            handler = pool.handler(logger.inject_lambda_context(metrics.log_metrics(work)))
        assert handler({}, Context()) == 0
        assert '"Orders":[1.0]' in capsys.readouterr().out

    @pytest.mark.parametrize("outside", [True, False])
    def test_event_source(self, pool: lambda_pool.Pool, outside: bool) -> None:
        def work(event: Any, context: Any, conn: Any) -> Any:
            return [record.body for record in event.records], conn.number

        handler: Any
        if outside:
            handler = event_source(data_class=SQSEvent)(pool.handler(work))
        else:
            handler = pool.handler(event_source(data_class=SQSEvent)(cast(Any, work)))
        assert handler({"Records": [{"body": "x"}]}, Context()) == (["x"], 0)


class TestOutcome:
    def test_commit_or_roll_back(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        @pool.handler
        def handler(event: bool, context: Any, conn: Any) -> None:
            conn.execute("insert")
            if event:
                raise ZeroDivisionError

        handler(False, Context())
        with pytest.raises(ZeroDivisionError):
            handler(True, Context())
        assert [step for step in driver.links[0].history if step in {"commit", "rollback"}] == ["commit", "rollback"]

    def test_its_own_error_is_not_hidden(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        @pool.handler
        def handler(event: Any, context: Any, conn: Any) -> None:
            conn.execute("insert")
            raise ZeroDivisionError

        driver.fail("rollback", FakeError(Failure.LOST))
        with pytest.raises(ZeroDivisionError):
            handler({}, Context())
        assert handler.__name__ == "handler"
        assert pool.stats().size == 0

    def test_on_unavailable_answers(self, pool: lambda_pool.Pool, driver: FakeDriver) -> None:
        def busy(event: Any, context: Any, error: Exception) -> Any:
            return {"statusCode": 503, "event": event, "error": type(error).__name__}

        @pool.handler(on_unavailable=busy)
        def handler(event: Any, context: Any, conn: Any) -> Any:
            return 1

        driver.fail("connect", FakeError(Failure.OTHER))
        assert handler(7, Context()) == {"statusCode": 503, "event": 7, "error": "ConnectError"}
        assert handler(7, Context()) == 1

    def test_on_unavailable_does_not_answer_for_the_handler(self, pool: lambda_pool.Pool) -> None:
        @pool.handler(on_unavailable=lambda event, context, error: "hidden")
        def handler(event: Any, context: Any, conn: Any) -> Any:
            raise lambda_pool.ConnectError("some other database")

        with pytest.raises(lambda_pool.ConnectError):
            handler({}, Context())


class TestEndOfInvocation:
    def test_a_leak_is_closed_and_its_borrower_named(
        self, pool: lambda_pool.Pool, driver: FakeDriver, caplog: pytest.LogCaptureFixture
    ) -> None:
        kept: list[Any] = []

        @pool.handler
        def handler(event: Any, context: Any) -> None:
            lease = pool.connection()
            kept.append(lease)
            lease.__enter__().execute("insert")

        with (
            caplog.at_level(logging.WARNING, "lambda_pool"),
            pytest.raises(lambda_pool.NotCommitted, match=r"still open.*test_decorator.py:\d+ in handler"),
        ):
            handler({}, Context())
        assert "test_decorator.py:" in caplog.text
        assert "in handler" in caplog.text
        assert driver.links[0].history[-1] == "close"
        assert (pool.stats().leaked, pool.stats().size) == (1, 0)
        with pytest.raises(lambda_pool.NotCommitted):
            kept[0].__exit__(None, None, None)
        assert pool.stats().size == 0

    def test_an_alarm_in_it_leaves_nothing_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It rings while the first of four connections is closed: no transaction outlives the invocation."""
        drivers = [FakeDriver(), FakeDriver()]
        pools = [driver.pool(max_size=2, name=name) for driver, name in zip(drivers, "ab", strict=True)]
        kept: list[Any] = []

        @pools[0].handler
        def handler(event: Any, context: Any) -> None:
            for pool in (*pools, *pools):
                kept.append(pool.connection())
                kept[-1].__enter__().execute("insert")

        genuine = FakeEngineConnection.close

        def close(link: FakeEngineConnection, timeout: float) -> None:
            if not any(link in driver.links for driver in drivers):  # of another test's pool, which nobody refers to
                genuine(link, timeout)
                return
            monkeypatch.setattr(FakeEngineConnection, "close", genuine)
            raise TimeoutError("the user's own alarm")

        monkeypatch.setattr(FakeEngineConnection, "close", close)
        with pytest.raises(TimeoutError, match="own alarm"):
            handler({}, Context())
        assert [link.alive for driver in drivers for link in driver.links] == [False] * 4
        assert [pool.stats().size for pool in pools] == [0, 0]

    def test_inside_a_block_it_takes_nothing_from_that_block(self, driver: FakeDriver) -> None:
        """An undecorated function borrows, and calls a decorated one: the block's work belongs to the caller."""
        pool = driver.pool(max_size=2)

        @pool.handler
        def audit(event: Any, context: Any, conn: Any) -> None:
            conn.execute("insert audit")

        with pool.connection() as conn:
            conn.execute("insert")
            audit({}, Context())
            conn.execute("insert more")
        histories = [link.history for link in driver.links]
        assert histories == [["execute", "execute", "commit"], ["execute", "commit"]]
        assert (pool.stats().leaked, pool.stats().idle) == (0, 2)

    def test_a_thread_that_still_holds_one_is_severed_and_never_lent_again(
        self, pool: lambda_pool.Pool, driver: FakeDriver
    ) -> None:
        inside, go = threading.Event(), threading.Event()
        failed: list[BaseException] = []

        def straggler() -> None:
            try:
                with pool.connection() as conn:
                    inside.set()
                    go.wait(10)
                    conn.execute("insert")
            except FakeError as error:
                failed.append(error)

        thread = threading.Thread(target=straggler)

        @pool.handler
        def handler(event: Any, context: Any) -> None:
            thread.start()
            inside.wait(10)

        handler({}, Context())
        assert driver.links[0].history == ["abort"]
        assert pool.stats().leaked == 1
        go.set()
        thread.join(10)
        assert len(failed) == 1
        assert pool.stats().size == 0
        with pool.connection() as conn:
            assert conn.number == 1

    @pytest.mark.parametrize(
        ("where", "autocommit", "told"),
        [
            ("execute", False, lambda_pool.NotCommitted),
            ("execute", True, lambda_pool.CommitUncertain),
            ("commit", False, lambda_pool.CommitUncertain),
            ("reset", False, None),
        ],
    )
    def test_a_thread_at_work_is_told_of_by_how_far_it_was(
        self,
        driver: FakeDriver,
        monkeypatch: pytest.MonkeyPatch,
        where: str,
        autocommit: bool,
        told: type[BaseException] | None,
    ) -> None:
        """A COMMIT that is on its way is not called undone, and an answered one is not called unsaved."""
        pool = driver.pool(autocommit=autocommit)
        inside, go = threading.Event(), threading.Event()
        do = FakeEngineConnection.do

        def slowly(link: FakeEngineConnection, name: str) -> None:
            if name == where:
                link.in_transaction = name != "reset"
                if name == "execute":
                    at_work = Status.COMMITTING if autocommit else Status.BUSY
                    monkeypatch.setattr(link, "status", lambda: at_work)
                inside.set()
                go.wait(10)
            do(link, name)

        monkeypatch.setattr(FakeEngineConnection, "do", slowly)

        def straggler() -> None:
            with suppress(FakeError, lambda_pool.NotCommitted), pool.connection() as conn:
                conn.execute("insert")
                driver.links[0].readonly = where == "reset"  # a setting that is put back after COMMIT

        thread = self._end_while(straggler, pool, inside, told)
        go.set()
        thread.join(10)
        assert pool.stats().size == 0

    def test_of_several_pools_the_uncertain_one_is_told_of(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After it, nobody may simply try again."""
        unsaved, uncertain = FakeDriver(), FakeDriver()
        pools = [unsaved.pool(name="unsaved"), uncertain.pool(name="uncertain")]
        left = [pool.connection() for pool in pools]

        @pools[0].handler
        def handler(event: Any, context: Any) -> None:
            for lease in left:
                lease.__enter__().execute("insert")
            monkeypatch.setattr(uncertain.links[0], "status", lambda: Status.COMMITTING)

        with pytest.raises(lambda_pool.CommitUncertain, match="pool uncertain"):
            handler({}, Context())

    @pytest.mark.parametrize("problem", [None, FakeError(Failure.LOST)], ids=["saved", "lost"])
    def test_a_thread_that_ends_while_it_is_taken_away(
        self,
        pool: lambda_pool.Pool,
        driver: FakeDriver,
        monkeypatch: pytest.MonkeyPatch,
        problem: FakeError | None,
    ) -> None:
        driver.fail("commit", problem)

        def seen() -> None:
            assert driver.links[0].history[:2] == ["execute", "commit"]
            driver.links[0].in_transaction = True  # for a driver, a closed connection is not at rest

        self._end_by_itself(pool, monkeypatch, None, seen, lambda_pool.NotCommitted if problem else None)

    def test_a_thread_that_rolls_back_what_is_cancelled(
        self, pool: lambda_pool.Pool, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Then its connection is at rest, but its work is still not saved."""

        def seen() -> None:
            assert not driver.links[0].in_transaction

        self._end_by_itself(pool, monkeypatch, FakeError(Failure.OTHER), seen, lambda_pool.NotCommitted)

    def _end_by_itself(
        self,
        pool: lambda_pool.Pool,
        monkeypatch: pytest.MonkeyPatch,
        problem: FakeError | None,
        seen: Callable[[], None],
        told: type[BaseException] | None,
    ) -> None:
        """A thread outlives its handler, and its block ends with `problem` just when its connection is taken away."""
        inside, go, done = threading.Event(), threading.Event(), threading.Event()

        def straggler() -> None:
            with suppress(FakeError), pool.connection() as conn:
                conn.execute("insert")
                inside.set()
                go.wait(10)
                if problem is not None:
                    raise problem
            done.set()

        def cut(*arguments: object) -> None:
            go.set()
            assert done.wait(10)
            seen()

        monkeypatch.setattr(reclaim, "cancel_and_abort", cut)
        self._end_while(straggler, pool, inside, told)

    def _end_while(
        self,
        straggler: Callable[[], None],
        pool: lambda_pool.Pool,
        inside: threading.Event,
        told: type[BaseException] | None,
    ) -> threading.Thread:
        thread = threading.Thread(target=straggler, daemon=True)

        @pool.handler
        def handler(event: Any, context: Any) -> None:
            thread.start()
            inside.wait(10)

        with pytest.raises(told, match=r"which may or may not|still open") if told else nullcontext():
            handler({}, Context())
        return thread

    def test_another_invocation_keeps_its_connection(self, driver: FakeDriver) -> None:
        """A server for local tests runs them in threads: only the last one to end knows that nobody holds anything."""
        pool = driver.pool(max_size=3)
        inside, go = threading.Event(), threading.Event()
        left: list[Any] = []

        @pool.handler
        def slow(event: Any, context: Any, conn: Any) -> None:
            conn.execute("insert")
            inside.set()
            go.wait(10)
            conn.execute("insert")

        @pool.handler
        def leaky(event: Any, context: Any) -> None:
            lease = pool.connection()
            left.append(lease)
            lease.__enter__()
            thread.start()  # an invocation that begins after this one and outlasts it
            assert inside.wait(10)

        thread = threading.Thread(target=slow, args=({}, Context()))
        leaky({}, Context())
        assert pool.stats().leaked == 1  # its own
        go.set()
        thread.join(10)
        assert driver.links[1].history == ["execute", "execute", "commit"]
        assert (pool.stats().size, pool.stats().idle) == (1, 1)

    def test_threads_have_the_invocations_deadline(self, pool: lambda_pool.Pool) -> None:
        found: list[float | None] = []

        @pool.handler
        def handler(event: Any, context: Any) -> None:
            thread = threading.Thread(target=lambda: found.append(invocation.remaining()))
            thread.start()
            thread.join(10)

        handler({}, Context(1100))
        assert found == [pytest.approx(1.0)]
        assert invocation.remaining() is None

    def test_a_mistake_is_not_answered_as_if_no_connection_were_there(self, driver: FakeDriver) -> None:
        driver.fail("connect", lambda_pool.ConfigError("a mistake"))
        answered: list[Exception] = []

        @driver.pool().handler(on_unavailable=lambda event, context, error: answered.append(error))
        def handler(event: Any, context: Any, conn: Any) -> None: ...

        with pytest.raises(lambda_pool.ConfigError, match="a mistake"):
            handler({}, Context())
        assert not answered

    def test_observers_hear_of_each_invocation(self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lifecycle.process, "cold", True)
        seen = Recorder()
        pool = driver.pool(observers=[seen])

        @pool.handler
        def handler(event: str, context: Any) -> None:
            if event == "raise":
                raise ZeroDivisionError
            if event == "leak":
                pool.connection().__enter__().execute("insert")

        handler("", Context())
        with pytest.raises(ZeroDivisionError):
            handler("raise", Context())
        with pytest.raises(lambda_pool.NotCommitted):
            handler("leak", Context())
        assert [(event.failed, event.cold, event.request_id) for event in seen.of(InvocationEnded)] == [
            (False, True, "request-1"),
            (True, False, "request-1"),
            (True, False, "request-1"),
        ]


class TestDefaultPool:
    def test_built_from_the_environment_on_first_use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        @lambda_pool.handler
        def handler(event: Any, context: Any, conn: Any) -> None: ...

        with pytest.raises(lambda_pool.ConfigError, match="LAMBDA_POOL_URL"):
            handler({}, Context())
        monkeypatch.setenv("LAMBDA_POOL_URL", "postgresql://127.0.0.1:1/d")
        monkeypatch.setenv("LAMBDA_POOL_TIMEOUT", "0.1")
        with pytest.raises(lambda_pool.ConnectError, match=r"127\.0\.0\.1:1"):
            handler({}, Context())
        assert api.default_pool().config.timeout == 0.1
        assert api.default_pool() is api.default_pool()
