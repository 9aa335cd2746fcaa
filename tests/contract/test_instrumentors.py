"""OpenTelemetry's and X-Ray's instrumentors of the drivers see what a pool's connections say, over real servers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any
from unittest.mock import Mock

import psycopg
import pymysql
import pytest
import wrapt
from aws_xray_sdk.core import xray_recorder
from aws_xray_sdk.core.models.segment import Segment
from aws_xray_sdk.ext.psycopg import patch as psycopg_patch
from aws_xray_sdk.ext.pymysql import patch as pymysql_patch
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.pymysql import PyMySQLInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from sqlalchemy import text

from lambda_pool import AsyncPool, Pool
from lambda_pool.engines.psycopg.connection import PooledConnection
from lambda_pool.engines.psycopg.cursors import Tracked
from lambda_pool.engines.pymysql.connection import BoundedConnection
from lambda_pool.sqlalchemy import create_async_engine, create_engine
from tests.support.tracing import Tracing

INSTRUMENTORS: dict[str, Any] = {"postgresql": PsycopgInstrumentor, "mysql": PyMySQLInstrumentor}


CONFLICTS = {
    "postgresql": psycopg.errors.SerializationFailure("could not serialize access"),
    "mysql": pymysql.OperationalError(1213, "Deadlock found when trying to get lock"),
}


@pytest.fixture
def tracing() -> Tracing:
    return Tracing()


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def switched_on(server: Any, tracing: Tracing) -> Iterator[None]:
    """The driver's instrumentor, with options of its own."""
    instrumentor = INSTRUMENTORS[server.scheme]()
    instrumentor.instrument(tracer_provider=tracing.provider)
    yield
    instrumentor.uninstrument()


def by_the_driver(server: Any) -> Any:
    """A connection that the driver opens."""
    if server.scheme == "postgresql":
        return psycopg.connect(server.url())
    return pymysql.connect(
        host="localhost", port=server.port, user=server.user, password=server.password, database=server.database
    )


def say_everything(conn: Any) -> None:
    with conn.cursor() as cursor:
        cursor.execute("create temporary table paid (a int, b varchar(20))")
        cursor.execute("insert into paid values (%s, %s)", (1, "a-parameter"))
        cursor.executemany("insert into paid values (%s, %s)", [(2, "a-parameter"), (3, "a-parameter")])
        cursor.execute("select count(*) from paid")
        assert cursor.fetchone() == (3,)
        with pytest.raises((psycopg.Error, pymysql.Error)):
            cursor.execute("select no_such_column from paid")
    conn.rollback()


@pytest.mark.usefixtures("switched_on")
def test_spans_are_the_same_as_over_the_drivers_own_connection(server: Any, tracing: Tracing) -> None:
    conn = by_the_driver(server)
    say_everything(conn)
    conn.close()
    expected = tracing.said()
    assert len(expected) == 5
    pool: Pool[Any] = Pool(server.url())
    for _ in range(2):
        with pool.connection() as conn:
            assert type(conn) in {PooledConnection, BoundedConnection}  # and no proxy of one
            say_everything(conn)
        spans = tracing.taken()
        assert [(span.name, dict(span.attributes), span.status.status_code) for span in spans] == expected
        assert "a-parameter" not in "".join(span.to_json() for span in spans)
    pool.close()


@pytest.mark.usefixtures("switched_on")
def test_run_replays_and_each_try_has_its_spans(server: Any, tracing: Tracing) -> None:
    pool: Pool[Any] = Pool(server.url())
    tries: list[Any] = []

    def work(conn: Any) -> Any:
        with conn.cursor() as cursor:
            cursor.execute("select 42")
            tries.append(cursor.fetchone()[0])
        if len(tries) == 1:
            raise CONFLICTS[server.scheme]
        return tries[-1]

    assert pool.run(work) == 42
    pool.close()
    assert tries == [42, 42]
    assert [span.name for span in tracing.taken()] == ["select", "select"]


@pytest.mark.usefixtures("switched_on")
def test_statements_of_an_async_pool_are_children_of_what_runs(server: Any, tracing: Tracing) -> None:
    tracer = tracing.provider.get_tracer("test")

    async def work() -> None:
        pool = AsyncPool(server.url())
        with tracer.start_as_current_span("invocation"):
            async with pool.connection() as conn, conn.cursor() as cursor:
                await cursor.execute("select %s", ("a-parameter",))
                assert await cursor.fetchone() == ("a-parameter",)
        await pool.close()

    asyncio.run(work())
    statement, parent = tracing.taken()
    assert statement.parent.span_id == parent.context.span_id
    assert parent.start_time < statement.start_time < statement.end_time < parent.end_time
    assert "a-parameter" not in statement.to_json()


@pytest.mark.parametrize("reset", ["changed", "transaction", "session"])
def test_a_connection_that_is_handed_over_each_time(server: Any, tracing: Tracing, reset: str) -> None:
    pool: Pool[Any] = Pool(server.url(), reset=reset)
    for _ in range(3):
        with pool.connection() as conn:
            traced = INSTRUMENTORS[server.scheme].instrument_connection(conn, tracer_provider=tracing.provider)
            with traced.cursor() as cursor:
                cursor.execute("select 42")
        assert [span.name for span in tracing.taken()] == ["select"]
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("select 42")
    assert not tracing.taken()
    pool.close()


def test_an_async_connection_that_is_handed_over_each_time(postgres: Any, tracing: Tracing) -> None:
    async def work() -> None:
        pool = AsyncPool(postgres.url(), reset="transaction")
        for _ in range(2):
            async with pool.connection() as conn:
                traced = PsycopgInstrumentor.instrument_connection(conn, tracer_provider=tracing.provider)
                await traced.execute("select 42")
            assert [span.name for span in tracing.taken()] == ["select"]
        await pool.close()

    asyncio.run(work())


@pytest.mark.usefixtures("switched_on")
def test_spans_of_sqlalchemy_and_of_the_driver_below_it(server: Any, tracing: Tracing) -> None:
    pool: Pool[Any] = Pool(server.url())
    engine = create_engine(pool)
    instrumentor = SQLAlchemyInstrumentor()
    # It has no fault with SQLAlchemy 2.1, and its list of versions ends before.
    instrumentor.instrument(engine=engine, tracer_provider=tracing.provider, skip_dep_check=True)
    try:
        with engine.begin() as conn:
            tracing.taken()
            assert conn.execute(text("select :it"), {"it": "a-parameter"}).scalar() == "a-parameter"
    finally:
        instrumentor.uninstrument()
    pool.close()
    below, above = tracing.taken()
    assert above.instrumentation_scope.name == "opentelemetry.instrumentation.sqlalchemy"
    assert below.instrumentation_scope.name.startswith("opentelemetry.instrumentation.p")
    assert below.parent is None or below.parent.span_id == above.context.span_id
    assert "a-parameter" not in above.to_json() + below.to_json()


@pytest.mark.usefixtures("switched_on")
def test_spans_below_sqlalchemys_async_engine(server: Any, tracing: Tracing) -> None:
    async def work() -> None:
        pool = AsyncPool(server.url())
        engine = create_async_engine(pool)
        async with engine.begin() as conn:
            tracing.taken()
            assert (await conn.execute(text("select :it"), {"it": "a-parameter"})).scalar() == "a-parameter"
            streamed = await conn.stream(text("select 1 union select 2"))
            assert [row[0] async for row in streamed] == [1, 2]
        await pool.close()

    asyncio.run(work())
    assert [span.name for span in tracing.taken()][:1] == ["select"]


@pytest.mark.usefixtures("switched_on")
@pytest.mark.parametrize("kind", [pymysql.cursors.DictCursor, pymysql.cursors.SSCursor, pymysql.cursors.SSDictCursor])
@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
def test_each_class_of_pymysqls_cursors(server: Any, tracing: Tracing, kind: Any) -> None:
    pool: Pool[Any] = Pool(server.url())
    with pool.connection() as conn, conn.cursor(kind) as cursor:
        cursor.execute("select 1 as a union select 2")
        rows = [row["a"] if isinstance(row, dict) else row[0] for row in cursor]
        assert cursor.connection is conn
    assert rows == [1, 2]
    assert [span.name for span in tracing.taken()] == ["select"]
    pool.close()


# --- wrappers of other kinds ------------------------------------------------------------------------------------------


@pytest.fixture
def wrap(server: Any) -> Iterator[Callable[[Any], Any]]:
    """Puts a wrapper around the driver's `connect`, as instrumentors do."""
    owner: Any = psycopg.Connection if server.scheme == "postgresql" else pymysql
    before = vars(owner)["connect"]
    yield lambda wrapper: wrapt.wrap_function_wrapper(owner, "connect", wrapper)
    owner.connect = before


def test_a_wrapper_that_fails_is_logged_and_the_connection_serves(
    server: Any, wrap: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("a fault of the wrapper's")

    wrap(fail)
    with caplog.at_level(logging.WARNING):
        _one_statement(server)
    assert "a wrapper around" in caplog.text


@pytest.mark.usefixtures("switched_on")
def test_two_wrappers_each_see_what_the_other_sees(server: Any, wrap: Callable[[Any], Any], tracing: Tracing) -> None:
    seen: list[str] = []

    def note(wrapped: Any, _: Any, arguments: Any, named: Any) -> Any:
        seen.append("connect")
        return wrapped(*arguments, **named)

    wrap(note)
    _one_statement(server)
    assert seen == ["connect"]
    assert [span.name for span in tracing.taken()] == ["select"]


def test_a_wrapper_gets_no_secret_and_its_proxy_gets_no_further(server: Any, wrap: Callable[[Any], Any]) -> None:
    seen: list[Any] = []

    def note(wrapped: Any, _: Any, arguments: Any, named: Any) -> Any:
        conn = wrapped(*arguments, **named)
        seen.append((arguments, named, getattr(conn, "password", b"")))
        return wrapt.ObjectProxy(conn)

    wrap(note)
    pool: Pool[Any] = Pool(server.url())
    with pool.connection() as conn:
        assert type(conn) in {PooledConnection, BoundedConnection}
    pool.close()
    ((arguments, named, password),) = seen
    assert not arguments
    assert "password" not in named
    assert password == b""
    assert server.password not in repr(seen)


def test_what_a_wrapper_returns_beside_a_connection_is_not_used(server: Any, wrap: Callable[[Any], Any]) -> None:
    wrap(lambda *_: Mock())
    _one_statement(server)


def test_a_mock_in_the_place_of_connect_is_not_used(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg.Connection if server.scheme == "postgresql" else pymysql, "connect", Mock())
    _one_statement(server)


def test_without_a_wrapper_nothing_is_between_the_driver_and_the_borrower(server: Any) -> None:
    pool: Pool[Any] = Pool(server.url())
    with pool.connection() as conn, conn.cursor() as cursor:
        if server.scheme == "postgresql":
            assert type(type(conn).connect) is MethodType
            assert type(cursor).__mro__[1:] == (*Tracked.__mro__[:-1], *psycopg.Cursor.__mro__)
        else:
            assert conn.stand_in is None
            assert type(cursor) is pymysql.cursors.Cursor
    pool.close()


# --- X-Ray's own SDK --------------------------------------------------------------------------------------------------


@pytest.fixture
def segment() -> Iterator[Segment]:
    genuine = xray_recorder.emitter
    xray_recorder.configure(sampling=False, emitter=_Silent())
    yield xray_recorder.begin_segment("invocation")
    xray_recorder.clear_trace_entities()
    xray_recorder.emitter = genuine


class _Silent:
    """Sends nothing anywhere."""

    def send_entity(self, entity: object) -> None:
        pass

    def set_daemon_address(self, address: object) -> None:
        pass


def _one_statement(server: Any) -> None:
    pool: Pool[Any] = Pool(server.url())
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("select %s", ("a-parameter",))
        assert cursor.fetchone() == ("a-parameter",)
    pool.close()


def test_the_x_ray_sdk_sees_statements_of_mysql(mariadb: Any, segment: Segment) -> None:
    pymysql_patch()
    try:
        _one_statement(mariadb)
    finally:
        pymysql.connect = pymysql.connect.__wrapped__  # type: ignore[attr-defined]
        pymysql.Connect = pymysql.connect
    (seen,) = segment.subsegments
    assert seen.sql["database_type"] == "MySQL"
    assert seen.namespace == "remote"


def test_the_x_ray_sdk_does_not_see_statements_of_postgresql(postgres: Any, segment: Segment) -> None:
    """As docs/traces.md says; nor does it see those that the driver's own `conn.execute()` sends."""
    psycopg_patch()
    try:
        _one_statement(postgres)
    finally:
        psycopg.connect = psycopg.connect.__wrapped__  # type: ignore[attr-defined]
    assert not segment.subsegments
