"""`Pool.step`: exactly one row for each step, wherever it is interrupted. These run on the SDK's own test runner."""

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pymysql
import pytest
from aws_durable_execution_sdk_python import DurableContext, durable_execution
from aws_durable_execution_sdk_python.config import Duration, MapConfig, StepConfig
from aws_durable_execution_sdk_python.exceptions import RetryableSerDesError
from aws_durable_execution_sdk_python.retries import RetryDecision
from aws_durable_execution_sdk_python_testing.executor import Executor

import lambda_pool
from lambda_pool import events, invocation
from lambda_pool.testing import FaultyProxy, PostgresServer
from tests.support.durable import run_durable
from tests.support.speed import FULL, seeded

from .conftest import Server, kept

AT_ONCE = StepConfig(retry_strategy=lambda error, attempt: RetryDecision(attempt < 6, Duration.from_seconds(1)))
NEVER = StepConfig(retry_strategy=lambda error, attempt: RetryDecision.no_retry())


@pytest.fixture(autouse=True)
def no_table(server: Server) -> None:
    server.execute("drop table if exists lambda_pool_steps")


def insert(conn: Any, number: int) -> int:
    conn.cursor().execute("insert into kept values (%s)", [number])
    return number


def records(server: Server) -> list[tuple[str, str]]:
    """What the table of steps says: names and results."""
    return list(server.execute("select name, result from lambda_pool_steps order by name, result"))


# --- what a step is ---------------------------------------------------------------------------------------------------


def test_a_step_and_the_record_of_it_are_one_transaction(pool: lambda_pool.Pool, server: Server) -> None:
    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        first = pool.step(context, "first", lambda conn: {"number": insert(conn, 1), "list": (1, 2)})
        context.wait(Duration.from_seconds(60))  # this suspends, but rolls nothing back
        return [first, pool.step(context, "second", lambda conn: insert(conn, 2))]

    result = run_durable(handler)
    assert (result.status.value, result.result) == ("SUCCEEDED", '[{"number": 1, "list": [1, 2]}, 2]'), result.error
    assert kept(server) == [1, 2]
    assert records(server) == [("first", '{"number": 1, "list": [1, 2]}'), ("second", "2")]
    assert (pool.stats().in_use, pool.stats().leaked) == (0, 0)


def test_the_first_run_gives_what_a_replay_gives(pool: lambda_pool.Pool) -> None:
    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        found: Any = pool.step(context, "tuple", lambda conn: (1, {2: None}))
        return found == [1, {"2": None}]

    assert run_durable(handler).result == "true"


def test_branches_and_maps_with_the_same_names_are_steps_of_their_own(pool: lambda_pool.Pool, server: Server) -> None:
    def branch(number: int) -> Callable[[DurableContext], int]:
        return lambda context: pool.step(context, "same", lambda conn: insert(conn, number))

    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        both = context.parallel([branch(1), branch(2)])
        more: Any = context.map(
            [3, 4, 5], lambda inner, item, *_: branch(item)(inner), config=MapConfig(max_concurrency=2)
        )
        return [*both.get_results(), *more.get_results()]

    result = run_durable(handler)
    assert (result.status.value, result.result) == ("SUCCEEDED", "[1, 2, 3, 4, 5]")
    assert kept(server) == [1, 2, 3, 4, 5]


def test_two_executions_are_two(pool: lambda_pool.Pool, server: Server) -> None:
    numbers = iter([1, 2])

    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        return pool.step(context, "save", lambda conn: insert(conn, next(numbers)))

    assert [run_durable(handler).result for _ in range(2)] == ["1", "2"]
    assert kept(server) == [1, 2]


def test_a_step_that_fails_is_rolled_back_record_and_all(pool: lambda_pool.Pool, server: Server) -> None:
    tries: list[int] = []

    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        def work(conn: Any) -> int:
            tries.append(insert(conn, 1))
            if len(tries) < 3:
                raise ValueError("not yet")
            return len(tries)

        return pool.step(context, "flaky", work, config=AT_ONCE)

    assert run_durable(handler).result == "3"
    assert kept(server) == [1]
    assert records(server) == [("flaky", "3")]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each transaction that ends well. The answer to the first COMMIT is lost."""
    from lambda_pool import replay

    genuine, runs = replay.run, list[int]()

    def lost(*args: Any, **options: Any) -> Any:
        found = genuine(*args, **options)
        runs.append(1)
        if len(runs) == 1:
            raise lambda_pool.CommitUncertain("its answer was lost")
        return found

    monkeypatch.setattr(replay, "run", lost)
    return runs


def test_a_commit_whose_answer_is_lost_is_looked_up(pool: lambda_pool.Pool, server: Server, runs: list[int]) -> None:
    """Even if the same step had to make the table."""
    server.execute("drop table if exists lambda_pool_steps")
    works: list[int] = []

    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        return pool.step(context, "save", lambda conn: works.append(insert(conn, 1)), config=NEVER)

    assert run_durable(handler).status.value == "SUCCEEDED"
    assert (works, kept(server), len(runs)) == ([1], [1], 2)


def test_what_cannot_be_looked_up_stays_uncertain(server: Server, runs: list[int]) -> None:
    """The server cannot be reached any more, so no error may sound as if nothing had been saved."""
    works: list[int] = []

    class Unreachable:
        """Follows the transaction that ends well."""

        def on_event(self, event: object) -> None:
            if works and isinstance(event, events.Returned):
                proxy.refuse()
                proxy.reset()

    with FaultyProxy("127.0.0.1", server.port) as proxy:
        url = server.url().replace(f":{server.port}/", f":{proxy.port}/")
        pool = lambda_pool.Pool(url, timeout=0.5, observers=[Unreachable()])
        assert failure(pool, lambda conn: works.append(insert(conn, 1))) == "its answer was lost"
        pool.close()
    assert (works, kept(server)) == ([1], [1])


def test_work_is_not_done_again_after_an_uncertain_commit_of_another_pool(
    pool: lambda_pool.Pool, server: Server
) -> None:
    """The step's own row says nothing about that one."""
    calls: list[int] = []

    def work(conn: Any) -> None:
        calls.append(insert(conn, 1))
        raise lambda_pool.CommitUncertain("another pool's answer was lost")

    assert failure(pool, work) == "another pool's answer was lost"
    assert (calls, kept(server)) == ([1], [])


def test_what_was_recorded_is_found_where_the_encoding_is_not_known(postgres: PostgresServer, runs: list[int]) -> None:
    """In a database with SQL_ASCII, psycopg returns bytes."""
    postgres.execute("create database steps_ascii encoding 'SQL_ASCII' locale 'C' template template0")
    pool = lambda_pool.Pool(postgres.url(database="steps_ascii"), observers=())

    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        return pool.step(context, "save", lambda conn: {"saved": len(runs)})

    try:
        assert run_durable(handler).result == '{"saved": 0}'
    finally:
        pool.close()
        postgres.execute("drop database steps_ascii with (force)")
    assert len(runs) == 2


def test_the_deadline_is_the_invocations_without_a_decorator_too(pool: lambda_pool.Pool) -> None:
    found: list[Any] = []

    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        pool.step(context, "left", lambda conn: found.append(invocation.remaining()))
        found.append(invocation.remaining())

    assert run_durable(handler).status.value == "SUCCEEDED"
    assert found == [pytest.approx(899.9, abs=5), None]


def test_rows_that_are_dictionaries_do_not_matter(server: Server) -> None:
    if isinstance(server, PostgresServer):
        from psycopg.rows import dict_row

        arguments: dict[str, Any] = {"row_factory": dict_row}
    else:
        from pymysql.cursors import DictCursor

        arguments = {"cursorclass": DictCursor}
    pool = lambda_pool.Pool(server.url(), connect_args=arguments)

    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        return pool.step(context, "save", lambda conn: insert(conn, 1))

    assert run_durable(handler).result == "1"
    assert Interrupted(pool).after_commit() == "2"
    pool.close()


def test_the_table_is_made_with_its_index_where_each_statement_is_prepared(postgres: PostgresServer) -> None:
    postgres.execute("drop table if exists lambda_pool_steps")
    pool = lambda_pool.Pool(postgres.url(), connect_args={"prepare_threshold": 0})

    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        return pool.step(context, "save", lambda conn: 1, config=NEVER)

    result = run_durable(handler)
    assert result.result == "1", result.error
    indexes = postgres.execute("select indexdef from pg_indexes where tablename = 'lambda_pool_steps'")
    assert any("(done" in definition for (definition,) in indexes)
    pool.close()


def test_the_borrower_is_who_called_step(server: Server) -> None:
    """A full pool names a line of the application's, as for every other borrow."""
    pool = lambda_pool.Pool(server.url(), max_size=1)

    def work(conn: Any) -> None:
        with ThreadPoolExecutor() as executor:
            executor.submit(pool.connection(timeout=0.1).__enter__).result()

    text = failure(pool, work)
    assert f"borrowed at {__file__}:" in text
    assert "in handler)" in text
    pool.close()


# --- interruptions ----------------------------------------------------------------------------------------------------


class Interrupted:
    """Executions of one step that is run again after it was interrupted at some place."""

    def __init__(self, pool: lambda_pool.Pool) -> None:
        self.pool = pool
        self.works: list[int] = []

    def run(self, number: int, interrupt: Callable[[str, int], None]) -> Any:
        """One execution. `interrupt(place, attempt)` may raise at each place."""
        attempts = iter(range(10))
        pool = self.pool

        @pool.handler
        @durable_execution
        def handler(event: Any, context: DurableContext) -> Any:
            def step(step_context: Any) -> Any:
                # Like Pool.step: the SDK sees only the function that it calls.
                attempt = next(attempts)
                found = taken["func"](step_context)
                interrupt("return", attempt)  # COMMIT is done, but the SDK has no record of it yet
                return found

            def work(conn: Any) -> int:
                attempt = threading.local()
                attempt.number = len(self.works)
                interrupt("before", attempt.number)
                self.works.append(number)
                insert(conn, number)
                interrupt("after", attempt.number)
                return number

            taken: dict[str, Any] = {}

            class Around:
                """The SDK's context, in which the step's function is wrapped."""

                execution_context = context.execution_context
                lambda_context = context.lambda_context

                def step(self, func: Any, name: str, config: Any) -> Any:
                    taken["func"] = func
                    return context.step(step, name=name, config=config)

            return pool.step(Around(), "save", work, config=AT_ONCE)

        return run_durable(handler)

    def after_commit(self) -> Any:
        """A step that is interrupted between COMMIT and the SDK's record."""
        first = iter([True])

        def interrupt(place: str, attempt: int) -> None:
            if place == "return" and next(first, False):
                raise ConnectionError("the environment was lost")

        return self.run(2, interrupt).result


def test_between_commit_and_the_record_a_replay_gives_the_stored_result(pool: lambda_pool.Pool, server: Server) -> None:
    interrupted = Interrupted(pool)
    assert interrupted.after_commit() == "2"
    assert (interrupted.works, kept(server)) == ([2], [2])


@pytest.mark.sampled(1 / 2, "many executions on each server")
@pytest.mark.timeout(3600 if FULL else 300)
def test_interrupted_anywhere_there_is_one_row_each(
    pool: lambda_pool.Pool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions are killed and errors raised before the statement, after it, and after COMMIT."""
    monkeypatch.setattr(Executor, "RETRY_BACKOFF_SECONDS", 0)
    dice = seeded()
    kill = (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where backend_type = 'client backend' and pid <> pg_backend_pid()"
        if isinstance(server, PostgresServer)
        else None
    )
    # How often each execution is interrupted there. One that is never interrupted takes no time and proves nothing.
    ways = [ways for ways in itertools.product(range(2), range(2), range(3)) if any(ways)]
    executions = 1000 if FULL else 8
    for number in range(1, executions + 1):
        left = dict(zip(("before", "after", "return"), dice.choice(ways), strict=True))

        def interrupt(place: str, attempt: int, left: dict[str, int] = left) -> None:
            if left[place] == 0:
                return
            left[place] -= 1
            if dice.random() < 0.3:
                kill_all(server, kill)
            # The first is an error that the SDK records; the second ends the invocation, and is not recorded.
            raise (
                ConnectionError("once more") if dice.random() < 0.5 else RetryableSerDesError("the environment is lost")
            )

        result = Interrupted(pool).run(number, interrupt)
        assert (result.status.value, result.result) == ("SUCCEEDED", str(number)), result
    assert kept(server) == [*range(1, executions + 1)]
    assert len(records(server)) == executions
    assert pool.stats().in_use == 0


def kill_all(server: Server, kill: str | None) -> None:
    if kill is not None:
        server.execute(kill)
        return
    for (backend,) in server.execute(
        "select id from information_schema.processlist where id <> connection_id() and command <> 'Daemon'"
        " and user <> 'system user'"
    ):
        server.execute(f"kill {backend}")


def test_a_step_that_runs_twice_at_once_is_done_once(pool: lambda_pool.Pool, server: Server) -> None:
    """This happens if a time-out stops nothing, and the next invocation runs the same step."""
    from lambda_pool import durable
    from lambda_pool.api import core_of

    class Context:
        class execution_context:
            durable_execution_arn = "arn:one"

        lambda_context = None

        def step(self, func: Any, name: str) -> Any:
            class Step:
                class logger:
                    _default_extra = {"operationId": "1"}  # noqa: RUF012

            return func(Step)

    inside, leave = threading.Event(), threading.Event()

    def work(conn: Any) -> int:
        inside.set()
        assert leave.wait(20)
        return insert(conn, 1)

    found: list[Any] = []

    def run() -> None:
        found.append(durable.step(core_of(pool), Context(), "save", work, None))

    threads = [threading.Thread(target=run) for _ in range(3)]
    threads[0].start()
    assert inside.wait(20)
    for thread in threads[1:]:
        thread.start()
    leave.set()
    for thread in threads:
        thread.join(60)
    assert (found, kept(server)) == ([1, 1, 1], [1])


# --- what cannot be ---------------------------------------------------------------------------------------------------


def failure(pool: lambda_pool.Pool, work: Callable[[Any], Any]) -> str:
    """The error of a step that is not tried again."""

    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        return pool.step(context, "save", work, config=NEVER)

    result = run_durable(handler)
    assert result.status.value == "FAILED"
    return str(result.error.message)


def nested(depth: int) -> Any:
    return {"inner": nested(depth - 1)} if depth else 1


# The last three are JSON, but the SDK would fail to record them once they are committed.
@pytest.mark.sampled(1 / 2, "a second a case")
@pytest.mark.parametrize(
    "bad",
    [object(), float("nan"), {1, 2}, b"", {(1, 2): 3}, nested(400), "x" * (6 << 20), dict.fromkeys(range(1 << 18))],
    ids=lambda bad: type(bad).__name__,
)
def test_a_result_that_cannot_be_recorded_saves_nothing(pool: lambda_pool.Pool, server: Server, bad: Any) -> None:
    def work(conn: Any) -> Any:
        insert(conn, 1)
        return bad

    assert "the result of the step 'save' of pool" in failure(pool, work)
    assert (kept(server), records(server)) == ([], [])


def test_async_work_is_refused(pool: lambda_pool.Pool, server: Server) -> None:
    async def work(conn: Any) -> None: ...

    assert "is 'async def': a step's work must be a plain function" in failure(pool, work)


def test_work_that_ends_its_transaction_is_not_reported_as_done(pool: lambda_pool.Pool, server: Server) -> None:
    def work(conn: Any) -> None:
        insert(conn, 1)
        conn.rollback()

    assert failure(pool, work)
    assert kept(server) == []


def test_work_whose_connection_is_lost_is_done_again(pool: lambda_pool.Pool, server: Server) -> None:
    """As in `Pool.run`, and within one run of the step."""
    calls = []

    def work(conn: Any) -> int:
        calls.append(insert(conn, 1))
        if len(calls) == 1:
            end_session(server, conn)
            conn.cursor().execute("select 1")
        return len(calls)

    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        return pool.step(context, "save", work, config=NEVER)

    assert run_durable(handler).result == "2"
    assert kept(server) == [1]


def end_session(server: Server, conn: Any) -> None:
    if isinstance(server, PostgresServer):
        server.execute("select pg_terminate_backend(%s, 5000)", conn.info.backend_pid)
    else:
        server.execute(f"kill {conn.thread_id()}")


def test_work_with_a_cursor_that_the_connection_did_not_make(pool: lambda_pool.Pool, server: Server) -> None:
    """Nobody knows what that cursor sent, so it is not taken for a COMMIT."""
    cursor = psycopg.Cursor if isinstance(server, PostgresServer) else pymysql.cursors.Cursor

    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        def work(conn: Any) -> int:
            cursor(conn).execute("insert into kept values (1)")
            return 1

        return pool.step(context, "save", work, config=NEVER)

    assert run_durable(handler).result == "1"
    assert kept(server) == [1]


def test_a_step_that_committed_by_itself_fails_and_says_so(pool: lambda_pool.Pool, server: Server) -> None:
    """If it were interrupted after that, it could neither be done again nor be reported as done."""
    calls: list[int] = []
    ending = ["commit"]
    if not isinstance(server, PostgresServer):  # on PostgreSQL this is part of the transaction
        ending.append("create table if not exists made_by_a_step (id int)")
    for statement in ending:

        def work(conn: Any, statement: str = statement) -> None:
            calls.append(insert(conn, len(calls)))
            conn.cursor().execute(statement)

        assert "ended its transaction itself: what it saved stays" in failure(pool, work)
    assert kept(server) == calls == list(range(len(ending)))


def test_a_role_that_may_not_write_into_the_table_is_told_so(server: Server) -> None:
    if isinstance(server, PostgresServer):
        server.execute("create table lambda_pool_steps (step char(64) primary key, execution text, name text)")
        server.execute("drop role if exists shop")
        server.execute("create role shop login password 'shop'")
    else:
        server.execute("create or replace user shop identified by 'shop'")
        server.execute("grant select, insert on app.kept to shop")
    pool = lambda_pool.Pool(server.url(user="shop", password="shop"))
    text = failure(pool, lambda conn: 1)
    assert "this role may not write into the table lambda_pool_steps" in text
    assert "create table if not exists lambda_pool_steps (step char(64)" in text
    pool.close()


def test_a_role_that_may_not_make_the_table_is_told_the_statement(server: Server) -> None:
    if isinstance(server, PostgresServer):
        server.execute("drop role if exists shop")
        server.execute("create role shop login password 'shop'")
        server.execute("revoke create on schema public from public")
        url = server.url(user="shop", password="shop")
    else:
        server.execute("create or replace user shop identified by 'shop'")
        server.execute("grant select, insert on app.* to shop")
        url = server.url(user="shop", password="shop")
    pool = lambda_pool.Pool(url)
    text = failure(pool, lambda conn: 1)
    assert "this role may not create it" in text
    assert "create table if not exists lambda_pool_steps (step char(64)" in text
    pool.close()


def test_a_table_that_cannot_be_made_for_another_reason_is_told_with_the_reason(server: Server) -> None:
    """There is no schema or database to make it in, as every statement of the application names its own."""
    server.execute("drop table if exists lambda_pool_steps")
    if isinstance(server, PostgresServer):
        pool, why = lambda_pool.Pool(server.url(), connect_args={"options": "-c search_path="}), "no schema"
    else:
        pool, why = lambda_pool.Pool(server.url().replace("/app?", "/?")), "(1046, 'No database selected'"
    text = failure(pool, lambda conn: 1)
    assert f"lambda_pool_steps, which records the steps, is missing, and could not be created ({why}" in text
    assert "create table if not exists lambda_pool_steps (step char(64)" in text
    pool.close()


def test_the_work_may_choose_another_schema_or_database(pool: lambda_pool.Pool, server: Server) -> None:
    """As docs/sessions.md says for tenants. The record of the step is not where the work looks."""
    name = "100%_o`n'e"
    if isinstance(server, PostgresServer):
        quoted, choose = f'"{name}"', "set local search_path = "
    else:
        quoted, choose = f"`{name.replace('`', '``')}`", "use "
    server.execute(f"create schema {quoted}")
    server.execute(f"create table {quoted}.kept (id int)")

    def work(conn: Any) -> int:
        conn.cursor().execute(f"{choose}{quoted}")
        return insert(conn, 1)

    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        return [pool.step(context, each, work, config=NEVER) for each in ("first", "second")]

    try:
        assert run_durable(handler).result == "[1, 1]"
        assert server.execute(f"select count(*) from {quoted}.kept")[0][0] == 2
        assert records(server) == [("first", "1"), ("second", "1")]
    finally:
        server.execute(f"drop schema {quoted}" + (" cascade" if isinstance(server, PostgresServer) else ""))


def test_work_under_a_role_that_may_not_write_the_record_is_told_so(postgres: PostgresServer) -> None:
    postgres.execute("create role step_tenant")
    pool = lambda_pool.Pool(postgres.url())
    try:
        text = failure(pool, lambda conn: bool(conn.execute("set local role step_tenant")))
        assert "took on a role that may not write into the table lambda_pool_steps" in text
        assert "let the work end with SET LOCAL ROLE NONE" in text

        @pool.handler
        @durable_execution
        def handler(event: Any, context: DurableContext) -> Any:
            def work(conn: Any) -> str:
                conn.execute("set local role step_tenant")
                found = conn.execute("select current_user").fetchone()[0]
                conn.execute("set local role none")
                return str(found)

            return pool.step(context, "save", work, config=NEVER)

        assert run_durable(handler).result == '"step_tenant"'
    finally:
        pool.close()
        postgres.execute("drop role step_tenant")


@pytest.mark.sampled(1, "a second a case")
def test_old_rows_are_deleted(pool: lambda_pool.Pool, server: Server) -> None:
    """A thousand for each new environment, and none that an execution of a year can still ask for."""
    assert failure(pool, lambda conn: 1 / 0)  # the table is there
    into = "insert into lambda_pool_steps (step, execution, name, done)"
    for age in (0, 365):
        server.execute(f"{into} values ('{age} days', 'e', 'n', now() - interval '{age}' day)")
    numbers = "generate_series(1, 1001) as seq" if isinstance(server, PostgresServer) else "seq_1_to_1001"
    server.execute(f"{into} select concat('old ', seq), 'e', 'n', now() - interval '367' day from {numbers}")

    def left_by(fresh: lambda_pool.Pool) -> list[str]:
        @fresh.handler
        @durable_execution
        def handler(event: Any, context: DurableContext) -> Any:
            return fresh.step(context, "save", lambda conn: 1)

        assert run_durable(handler).result == "1"
        rows = server.execute("select step from lambda_pool_steps where execution = 'e'")
        return sorted(row[0].strip().rstrip("1234567890") for row in rows)

    first, second = lambda_pool.Pool(server.url()), lambda_pool.Pool(server.url())
    for environment, old in ((first, ["old "]), (first, ["old "]), (second, [])):
        assert left_by(environment) == ["0 days", "365 days", *old]
    first.close()
    second.close()


@pytest.mark.sampled(1, "a second a case")
def test_a_database_that_does_not_answer_is_waited_for_once(server: Server) -> None:
    gave_up: list[events.Event] = []

    class GaveUp:
        def on_event(self, event: events.Event) -> None:
            if isinstance(event, events.TimedOut):
                gave_up.append(event)

    with FaultyProxy("127.0.0.1", server.port) as proxy:
        proxy.black_hole()
        url = server.url().replace(f":{server.port}/", f":{proxy.port}/")
        pool = lambda_pool.Pool(url, timeout=0.5, observers=[GaveUp()])
        assert "could not connect" in failure(pool, lambda conn: insert(conn, 1))
        pool.close()
    assert len(gave_up) == 1


def test_deleting_old_rows_waits_for_no_step_at_work(pool: lambda_pool.Pool, server: Server) -> None:
    """The next row may be that of a running step in another environment, which holds a lock on it."""
    assert failure(pool, lambda conn: 1 / 0)  # the table is there
    fresh = lambda_pool.Pool(server.url())
    # Older than the step's own row, so that it is what a locking read meets after the last old row.
    claim = (
        "insert into lambda_pool_steps (step, execution, name, done) "
        "values ('at work', 'e', 'n', current_timestamp - interval '1' hour)"
    )

    @fresh.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        return fresh.step(context, "save", lambda conn: 1)

    since = time.monotonic()
    with pool.connection() as conn:
        conn.cursor().execute(claim)
        end = threading.Timer(20, end_session, (server, conn))
        end.start()
        try:
            assert run_durable(handler).result == "1"
        finally:
            end.cancel()
    assert time.monotonic() - since < 15
    fresh.close()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((None, "save", print), r"context is not valid: step\(\) takes the DurableContext .* not NoneType"),
        ((..., "", print), "name='' is not valid"),
        ((..., "a\0b", print), r"name='a\\x00b' is not valid"),
        ((..., "a\ud800", print), r"name='a\\ud800' is not valid"),
        ((..., "zahlung prüfen", print), "Lambda takes 1 to 256 printable ASCII characters"),
        ((..., "a" * 257, print), "Lambda takes 1 to 256 printable ASCII characters"),
        ((..., "save", 7), "work is not valid"),
    ],
)
def test_bad_arguments(pool: lambda_pool.Pool, arguments: tuple[Any, ...], text: str) -> None:
    class Context:
        step = execution_context = None

    context, *rest = arguments
    with pytest.raises(lambda_pool.ConfigError, match=text):
        pool.step(Context() if context is ... else context, *rest)
