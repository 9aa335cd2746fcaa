"""Powertools' idempotency: its record says COMPLETED after COMMIT, or the order of the decorators is refused."""

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.utilities.data_classes import SQSEvent, event_source
from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent, idempotent_function
from aws_lambda_powertools.utilities.parser import event_parser
from pydantic import BaseModel

import lambda_pool
from lambda_pool.testing import FakeDriver, PostgresServer
from tests.support.context import LambdaContext
from tests.support.memory_store import MemoryStore

from .conftest import Server, kept

CONFIG = IdempotencyConfig(event_key_jmespath="id")


class Order(BaseModel):
    """An event."""

    id: int


def insert(event: Any, context: Any, conn: Any) -> Any:
    conn.cursor().execute("insert into kept values (%s)", [event["id"]])
    return {"saved": event["id"]}


def once(store: MemoryStore) -> Callable[[Any], Callable[..., Any]]:
    return idempotent(persistence_store=store, config=CONFIG)


# --- the order that works ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [False, True])
def test_outermost_it_says_completed_after_commit(pool: lambda_pool.Pool, server: Server, between: bool) -> None:
    seen: list[list[int]] = []
    store = MemoryStore(lambda: seen.append(kept(server)))
    inner: Any = pool.handler(insert)
    handler = once(store)(Logger().inject_lambda_context(inner) if between else inner)
    assert handler({"id": 7}, LambdaContext()) == {"saved": 7}
    assert seen == [[7]]
    assert handler({"id": 7}, LambdaContext()) == {"saved": 7}  # by the store
    assert kept(server) == [7]


def test_outermost_a_retry_after_a_failed_commit_saves(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.execute("drop table if exists kept")
    postgres.execute("create table kept (id int unique deferrable initially deferred)")
    postgres.execute("insert into kept values (7)")
    pool = lambda_pool.Pool(postgres.url())
    handler = once(MemoryStore())(pool.handler(insert))
    with pytest.raises(Exception, match="duplicate key"):  # at COMMIT
        handler({"id": 7}, LambdaContext())
    postgres.execute("delete from kept")
    assert handler({"id": 7}, LambdaContext()) == {"saved": 7}
    assert kept(postgres) == [7]
    pool.close()


def test_below_it_is_right_where_the_handler_commits_by_itself(pool: lambda_pool.Pool, server: Server) -> None:
    seen: list[list[int]] = []

    @pool.handler
    @once(MemoryStore(lambda: seen.append(kept(server))))
    def handler(event: Any, context: Any) -> Any:
        with pool.connection() as conn:
            return insert(event, context, conn)

    assert handler({"id": 7}, LambdaContext()) == {"saved": 7}
    assert seen == [[7]]


# --- the order that is refused ----------------------------------------------------------------------------------------


def own_decorator(fn: Any) -> Any:
    """A decorator of a team's own, which puts the store around the handler."""
    inner = once(MemoryStore())(fn)

    @functools.wraps(fn)
    def wrapper(event: Any, context: Any) -> Any:
        return inner(event, context)

    return wrapper


def hides(fn: Any) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def hides_two(fn: Any) -> Any:
    def wrapper(event: Any, context: Any) -> Any:
        return fn(event, context)

    return wrapper


REFUSED: dict[str, Callable[[Any], Any]] = {
    "alone": once(MemoryStore()),
    "below the logger": lambda fn: Logger().inject_lambda_context(once(MemoryStore())(fn)),
    "above the logger": lambda fn: once(MemoryStore())(Logger().inject_lambda_context(fn)),
    "below the tracer": lambda fn: Tracer().capture_lambda_handler(once(MemoryStore())(fn)),
    "above metrics": lambda fn: once(MemoryStore())(Metrics(namespace="orders").log_metrics(fn)),
    "below an event source": lambda fn: event_source(data_class=SQSEvent)(once(MemoryStore())(fn)),
    "above a parser": lambda fn: once(MemoryStore())(event_parser(model=Order)(fn)),
    "a function": idempotent_function(data_keyword_argument="event", persistence_store=MemoryStore()),
    "a function below the logger": lambda fn: Logger().inject_lambda_context(
        idempotent_function(fn, data_keyword_argument="event", persistence_store=MemoryStore())
    ),
    "a decorator of one's own": own_decorator,
    "below one that hides it": lambda fn: hides(once(MemoryStore())(fn)),
    "below one that hides it, of two": lambda fn: hides_two(once(MemoryStore())(fn)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_below_the_pool_it_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "1")
    pool = FakeDriver().pool()

    def handler(event: Any, context: Any, conn: Any) -> Any: ...

    with pytest.raises(lambda_pool.ConfigError, match=r"on handler: its store would say.*above @pool\.handler"):
        pool.handler(REFUSED[name](handler))


def test_a_helper_that_is_idempotent_is_none_of_the_handlers() -> None:
    config = IdempotencyConfig()
    config.register_lambda_context(LambdaContext())  # type: ignore[arg-type]
    helper = idempotent_function(
        lambda event: 5, data_keyword_argument="event", persistence_store=MemoryStore(), config=config
    )

    @FakeDriver().pool().handler
    def handler(event: Any, context: Any, conn: Any) -> Any:
        return helper(event=event)

    assert handler({"id": 7}, LambdaContext()) == 5


def test_powertools_is_not_imported_for_it() -> None:
    program = """
import functools, json, sys
from lambda_pool.testing import FakeDriver

def wraps(fn):
    @functools.wraps(fn)
    def wrapper(event, context):
        return fn(event, context)
    return wrapper

@FakeDriver().pool().handler
@wraps
def handler(event, context, conn):
    return conn.number

assert handler({}, None) == 0
print(json.dumps([name for name in sys.modules if name.startswith(("aws_", "boto"))]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == []
