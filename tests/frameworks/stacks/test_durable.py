"""Durable functions, run by the SDK's own test runner: a step's work is there once the step is recorded as done."""

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from aws_durable_execution_sdk_python import DurableContext, durable_execution
from aws_durable_execution_sdk_python.config import Duration
from aws_lambda_powertools import Logger

import lambda_pool
from lambda_pool import invocation
from lambda_pool.testing import FakeDriver
from tests.support.durable import run_durable

from .conftest import Server, kept

LEFT = pytest.approx(899.9)
"""What the runner's Lambda context has, less the reserve."""


def branch(step: Callable[[int], int], number: int) -> Callable[[DurableContext], int]:
    """A parallel branch of one step."""
    return lambda context: context.step(lambda _: step(number), name=f"step {number}")


def insert(pool: lambda_pool.Pool, number: int) -> int:
    """Borrow for one step."""
    with pool.connection() as conn:
        conn.cursor().execute("insert into kept values (%s)", [number])
    return number


@pytest.mark.sampled(1, "a second a case")
def test_each_step_borrows_for_itself(pool: lambda_pool.Pool, server: Server) -> None:
    found: list[tuple[str, float | None]] = []
    invocations: list[list[int]] = []

    def note(where: str) -> None:
        found.append((where, invocation.remaining()))

    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        invocations.append(kept(server))
        note("handler")

        def step(number: int) -> int:
            note(f"step {number} {threading.current_thread().name != threading.main_thread().name}")
            return insert(pool, number)

        first = context.step(lambda _: step(1), name="first")
        context.wait(Duration.from_seconds(60))
        both = context.parallel([branch(step, number) for number in (2, 3)])
        return [first, *both.get_results()]

    result = run_durable(handler)
    assert (result.status.value, result.result) == ("SUCCEEDED", "[1, 2, 3]")
    assert invocations[:2] == [[], [1]]  # the wait ended the first, and the row was there
    assert kept(server) == [1, 2, 3]
    assert [left for _, left in found] == [LEFT] * len(found)
    assert sorted({where for where, _ in found}) == ["handler", "step 1 True", "step 2 True", "step 3 True"]
    assert (pool.stats().leaked, pool.stats().in_use) == (0, 0)


def test_a_step_that_fails_is_rolled_back_and_tried_again(pool: lambda_pool.Pool, server: Server) -> None:
    tries: list[int] = []

    @pool.handler
    @durable_execution
    def handler(event: Any, context: DurableContext) -> Any:
        def step(_: Any) -> int:
            tries.append(len(tries))
            with pool.connection() as conn:
                conn.cursor().execute("insert into kept values (%s)", [len(tries)])
                if len(tries) == 1:
                    raise ValueError("once")
            return len(tries)

        return context.step(step, name="flaky")

    result = run_durable(handler)
    assert (result.status.value, result.result) == ("SUCCEEDED", "2")
    assert kept(server) == [2]


def test_below_the_sdk_a_handler_without_a_connection_has_its_deadline(pool: lambda_pool.Pool, server: Server) -> None:
    found: list[float | None] = []

    @durable_execution
    @pool.handler
    def handler(event: Any, context: DurableContext) -> Any:
        def step(number: int) -> int:
            found.append(invocation.remaining())
            return insert(pool, number)

        context.parallel([branch(step, number) for number in (2, 3)])
        found.append(invocation.remaining())

    assert run_durable(handler).status.value == "SUCCEEDED"
    assert found == [LEFT] * 3
    assert kept(server) == [2, 3]


# --- one connection for all steps -------------------------------------------------------------------------------------


def with_conn(event: Any, context: Any, conn: Any) -> Any: ...


def hides(fn: Any) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def wraps(fn: Any) -> Any:
    @functools.wraps(fn)
    def wrapper(event: Any, context: Any) -> Any:
        return fn(event, context)

    return wrapper


class Wrapper:
    """A decorator that is an object."""

    def __init__(self, fn: Any) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn

    def __call__(self, event: Any, context: Any) -> Any:
        return self.fn(event, context)


durable: Any = durable_execution


def decorate(*decorators: Callable[[Any], Any]) -> Any:
    handler: Any = with_conn
    for decorator in reversed(decorators):
        handler = decorator(handler)
    return handler


ORDERS: dict[str, Callable[[lambda_pool.Pool], Any]] = {
    "above": lambda pool: decorate(durable, pool.handler),
    "above, with options": lambda pool: decorate(durable(plugins=[]), pool.handler),
    "above, another name": lambda pool: durable_execution(pool.handler(inject="event2")(lambda e, c, event2: None)),
    "above a logger": lambda pool: decorate(durable, Logger("orders").inject_lambda_context, pool.handler),
    "above two": lambda pool: decorate(durable, wraps, wraps, pool.handler),
    "above an object": lambda pool: decorate(durable, Wrapper, pool.handler),
    "above two pools": lambda pool: decorate(durable, pool.handler(inject="other"), pool.handler),
    "below": lambda pool: decorate(pool.handler, durable),
    "below a logger": lambda pool: decorate(pool.handler, Logger("orders").inject_lambda_context, durable),
    "below one that hides it": lambda pool: decorate(pool.handler, hides, durable),
}


@pytest.mark.parametrize("order", ORDERS)
def test_one_connection_for_all_steps_is_refused_when_it_is_decorated(order: str) -> None:
    advice = r"Put @pool\.handler outermost, above @durable_execution, take no connection, and borrow with pool\.conn"
    with pytest.raises(lambda_pool.ConfigError, match=advice):
        ORDERS[order](FakeDriver().pool())


def test_a_connection_for_all_steps_that_was_hidden_opens_nothing() -> None:
    """A decorator without functools.wraps hides it until the SDK passes its own context."""
    driver = FakeDriver()
    result = run_durable(durable_execution(hides(driver.pool().handler(with_conn))))
    assert result.status.value == "FAILED"
    assert "pool.connection() inside each step" in result.error.message
    assert driver.links == []


def test_a_decorated_handler_keeps_its_attributes() -> None:
    handler: Any = FakeDriver().pool().handler(with_conn)
    handler.route = "/orders"
    outer = wraps(handler)
    outer.more = 1
    cached: Any = functools.lru_cache(outer)
    assert (outer.route, outer.__wrapped__, outer.__name__) == ("/orders", handler, "with_conn")
    assert (cached.route, cached.more, cached.__wrapped__) == ("/orders", 1, outer)
    assert vars(handler) == {"__wrapped__": with_conn, "route": "/orders"}
