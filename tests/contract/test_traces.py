"""What a pool adds to a trace, read with OpenTelemetry's own SDK, over real servers of both engines."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from lambda_pool import AsyncPool, Pool
from lambda_pool.errors import ConfigError, ConnectError, LambdaPoolError
from lambda_pool.metrics import OtelTraces
from lambda_pool.testing import FakeDriver
from tests.support.tracing import Tracing


@pytest.fixture
def tracing() -> Tracing:
    return Tracing()


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def where(server: Any, **other: Any) -> dict[str, Any]:
    """The attributes that say which database it is."""
    return {
        "db.system.name": server.scheme,
        "db.namespace": other.get("database", server.database),
        "server.address": "localhost",
        "server.port": server.port,
    }


def test_a_connect_is_a_child_of_the_span_that_borrows(server: Any, tracing: Tracing) -> None:
    pool: Pool[Any] = Pool(server.url(), observers=[OtelTraces(tracing.provider)], name="orders")
    with tracing.tracer.start_as_current_span("invocation"):
        for _ in range(3):
            with pool.connection() as conn, conn.cursor() as cursor:
                cursor.execute("select %s", ("a-parameter",))
    pool.close()
    (parent,) = tracing.spans("invocation")
    (span,) = tracing.spans("connect")
    assert span.parent.span_id == parent.context.span_id
    assert parent.start_time <= span.start_time < span.end_time <= parent.end_time
    assert span.kind is SpanKind.CLIENT
    assert span.attributes == {"db.client.connection.pool.name": "orders", **where(server)}
    assert not tracing.spans("pool wait")  # a warm checkout adds nothing
    assert "a-parameter" not in "".join(each.to_json() for each in tracing.memory.get_finished_spans())


def test_a_connect_of_an_async_pool_is_a_child_too(server: Any, tracing: Tracing) -> None:
    async def work() -> None:
        pool = AsyncPool(server.url(), observers=[OtelTraces(tracing.provider)])
        with tracing.tracer.start_as_current_span("invocation"):
            async with pool.connection():
                pass
        await pool.close()

    asyncio.run(work())
    (parent,) = tracing.spans("invocation")
    (span,) = tracing.spans("connect")
    assert span.parent.span_id == parent.context.span_id


def test_a_failed_connect_tells_its_kind_and_no_text(postgres: Any, tracing: Tracing) -> None:
    url = postgres.url(database="no_such_base")
    pool: Pool[Any] = Pool(url, observers=[OtelTraces(tracing.provider)], name="orders", timeout=2)
    with pytest.raises(ConnectError), pool.connection():
        pass
    span = tracing.spans("connect")[0]
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert span.attributes["error.type"]
    assert not span.events
    assert {key: span.attributes[key] for key in where(postgres)} == where(postgres, database="no_such_base")
    assert "does not exist" not in span.to_json()
    assert postgres.user not in span.attributes.values()


def test_a_borrower_that_waited_or_gave_up(tracing: Tracing) -> None:
    pool = FakeDriver().pool(max_size=1, observers=[OtelTraces(tracing.provider)])
    got = threading.Event()
    done: list[str] = []

    def borrow() -> None:
        got.set()
        with pool.connection():
            done.append("waited")

    def give_up() -> None:
        try:
            with pool.connection(timeout=0.05):
                pass
        except LambdaPoolError:
            done.append("gave up")

    with pool.connection():
        for target in (give_up, borrow):
            thread = threading.Thread(target=target)
            thread.start()
            if target is give_up:
                thread.join(10)
        assert got.wait(10)
        threading.Event().wait(0.05)
    thread.join(10)
    assert done == ["gave up", "waited"]
    late, waited = tracing.spans("pool wait")
    assert late.attributes["error.type"] == "timeout"
    assert late.status.status_code is StatusCode.ERROR
    assert waited.status.status_code is StatusCode.UNSET
    assert waited.kind is SpanKind.INTERNAL
    for span in (late, waited):
        assert span.attributes["db.system.name"] == "postgresql"
        assert span.attributes["db.namespace"] == "fake"
        assert span.attributes["server.address"] == "fake.example"
    assert waited.end_time > waited.start_time


def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"lambda-pool\[otel\]"):
        OtelTraces()
