"""`trace_comment`: what a statement says of its trace, read where the server has it."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pymysql
import pytest
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.pymysql import PyMySQLInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from psycopg import sql

from lambda_pool import AsyncPool, Pool
from lambda_pool.endpoints.base import Endpoint
from lambda_pool.engines.traceparent import with_comment
from lambda_pool.errors import ConfigError
from lambda_pool.events import Crowded
from lambda_pool.testing import FakeDriver
from tests.support.recorder import Recorder
from tests.unit.core.test_connector import Scripted

# What a statement is that is at work, by its server's own word.
ITSELF = {
    "postgresql": "select current_query()",
    "mysql": "select info from information_schema.processlist where id = connection_id()",
}
INSTRUMENTORS: dict[str, Any] = {"postgresql": PsycopgInstrumentor, "mysql": PyMySQLInstrumentor}


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(spans: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider


@pytest.fixture
def current(provider: TracerProvider) -> Iterator[str]:
    """A span is current. Out: the comment for it."""
    with provider.get_tracer("test").start_as_current_span("invocation") as span:
        yield _comment(span)


def _comment(span: Any) -> str:
    ids = span.get_span_context()
    return f"/*traceparent='00-{format_trace_id(ids.trace_id)}-{format_span_id(ids.span_id)}-{ids.trace_flags:02x}'*/"


@pytest.fixture
def pool(server: Any) -> Iterator[Pool[Any]]:
    pool: Pool[Any] = Pool(server.url(), trace_comment=True)
    yield pool
    pool.close()


def test_a_statement_names_the_span_that_is_current(server: Any, pool: Pool[Any], current: str) -> None:
    itself = ITSELF[server.scheme]
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute(itself)
        assert cursor.fetchone() == (f"{itself} {current}",)
        cursor.execute(itself + " where %s = 1;" if server.scheme == "postgresql" else itself + " and %s = 1;", (1,))
        assert re.search(rf" = 1 {re.escape(current)};?$", cursor.fetchone()[0])


def test_without_a_trace_and_without_the_option_nothing_is_said(
    server: Any, pool: Pool[Any], provider: TracerProvider
) -> None:
    itself = ITSELF[server.scheme]
    without: Pool[Any] = Pool(server.url())
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute(itself)
        assert cursor.fetchone() == (itself,)
    with provider.get_tracer("test").start_as_current_span("invocation"):
        with without.connection() as conn, conn.cursor() as cursor:
            cursor.execute(itself)
            assert cursor.fetchone() == (itself,)
    without.close()


def test_the_span_of_the_statement_itself_where_an_instrumentor_makes_one(
    server: Any, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    itself = ITSELF[server.scheme]
    instrumentor = INSTRUMENTORS[server.scheme]()
    instrumentor.instrument(tracer_provider=provider)
    try:
        pool: Pool[Any] = Pool(server.url(), trace_comment=True)
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute(itself)
            (said,) = cursor.fetchone()
        pool.close()
    finally:
        instrumentor.uninstrument()
    (span,) = spans.get_finished_spans()
    assert said == f"{itself} {_comment(span)}"
    assert span.attributes is not None
    assert span.attributes["db.statement"] == itself


def test_statements_of_an_async_pool(server: Any, current: str) -> None:
    async def work() -> None:
        pool = AsyncPool(server.url(), trace_comment=True)
        async with pool.connection() as conn, conn.cursor() as cursor:
            await cursor.execute(ITSELF[server.scheme])
            assert await cursor.fetchone() == (f"{ITSELF[server.scheme]} {current}",)
        await pool.close()

    asyncio.run(work())


def _streamed(conn: Any, itself: str) -> Any:
    return next(iter(list(conn.cursor().stream(itself))))[0]


def _copied(conn: Any, itself: str) -> Any:
    with conn.cursor().copy(f"copy ({itself}) to stdout") as copy:
        return b"".join(copy).decode()


def _server_side(conn: Any, itself: str) -> Any:
    with conn.cursor("named") as cursor:
        cursor.execute(itself)
        return conn.execute("select statement from pg_cursors").fetchone()[0]


PSYCOPG: dict[str, Callable[[Any, str], Any]] = {
    "bytes": lambda conn, itself: conn.execute(itself.encode()).fetchone()[0],
    "composed": lambda conn, itself: conn.execute(sql.SQL("{}").format(sql.SQL(itself))).fetchone()[0],
    "client": lambda conn, itself: _of(conn, psycopg.ClientCursor).execute(itself).fetchone()[0],
    "raw": lambda conn, itself: _of(conn, psycopg.RawCursor).execute(itself + " where $1 = 1", (1,)).fetchone()[0],
    "stream": _streamed,
    "copy": _copied,
    "server-side": _server_side,
}


def _of(conn: Any, factory: Any) -> Any:
    conn.cursor_factory = factory
    return conn.cursor()


@pytest.mark.parametrize("way", PSYCOPG)
def test_each_way_of_psycopg_to_say_something(postgres: Any, current: str, way: str) -> None:
    pool: Pool[Any] = Pool(postgres.url(), trace_comment=True)
    with pool.connection() as conn:
        assert current in PSYCOPG[way](conn, ITSELF["postgresql"])
    pool.close()


def test_psycopg_prepares_nothing_unless_it_is_asked_to(postgres: Any, current: str) -> None:
    pool: Pool[Any] = Pool(postgres.url(), trace_comment=True)
    with pool.connection() as conn:
        for _ in range(8):
            conn.execute("select 42")
        assert conn.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)
    pool.close()


def test_rows_that_pymysql_puts_together_stay_one_statement(mariadb: Any, current: str) -> None:
    pool: Pool[Any] = Pool(mariadb.url(), trace_comment=True)
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("create temporary table several (a int)")
        assert cursor.executemany("insert into several values (%s)", [(1,), (2,), (3,)]) == 3
        cursor.execute("show session status like 'Com_insert'")
        assert cursor.fetchone() == ("Com_insert", "1")
    pool.close()


# Each says its statement in its own way, and all of PyMySQL's go through one method of the connection.
PYMYSQL: dict[str, Callable[[Any, str], Any]] = {
    "bytes": lambda conn, itself: _row(conn.cursor(), itself.encode()),
    "bytearray": lambda conn, itself: _row(conn.cursor(), bytearray(itself.encode())),
    "unbuffered": lambda conn, itself: _row(conn.cursor(pymysql.cursors.SSCursor), itself),
    "dictionary": lambda conn, itself: _row(conn.cursor(pymysql.cursors.SSDictCursor), itself)["info"],
}


def _row(cursor: Any, statement: Any) -> Any:
    with cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
        return row[0] if isinstance(row, tuple) else row


@pytest.mark.parametrize("slow_query", [0, 10], ids=["untimed", "timed"])
@pytest.mark.parametrize("way", PYMYSQL)
def test_each_way_of_pymysql_to_say_something(mariadb: Any, current: str, way: str, slow_query: float) -> None:
    pool: Pool[Any] = Pool(mariadb.url(), trace_comment=True, slow_query=slow_query)
    with pool.connection() as conn:
        assert PYMYSQL[way](conn, ITSELF["mysql"]) == f"{ITSELF['mysql']} {current}"
    pool.close()


def test_what_the_pool_says_itself_goes_out_as_it_is(server: Any, pool: Pool[Any], current: str) -> None:
    """Several of its statements may go out in one write, and each must then be the very one that was announced."""
    itself = ITSELF[server.scheme]

    def work(conn: Any) -> Any:
        with conn.cursor() as cursor:
            cursor.execute(itself)
            return cursor.fetchone()

    offset = len(server.log)
    assert pool.run(work) == (f"{itself} {current}",)
    assert pool.run(work, readonly=True) == (f"{itself} {current}",)
    assert pool.stats().opened == 1
    said = server.log[offset:]
    assert said.count(current) >= 2
    assert not re.search(r"(?i)(begin|start transaction.*|savepoint \w+) ?/\*", said)


def test_the_pool_may_ask_how_full_the_server_is(server: Any, current: str) -> None:
    seen = Recorder()
    pool: Pool[Any] = Pool(server.url(), trace_comment=True, keep_below=0.99, observers=[seen])

    @pool.handler
    def handler(event: object, context: object, conn: Any) -> None:
        conn.cursor().execute(ITSELF[server.scheme])

    for _ in range(2):
        handler({}, None)
    assert len(seen.of(Crowded)) == 1
    assert pool.stats().opened == 1
    pool.close()


def test_what_is_said_and_where(current: str) -> None:
    assert with_comment("select 1") == f"select 1 {current}"
    assert with_comment("select 1 ;\n") == f"select 1 {current} ;\n"
    assert with_comment("select 1 /*traceparent='…'*/") == "select 1 /*traceparent='…'*/"
    assert with_comment("select 'ß' ;".encode()) == f"select 'ß' {current} ;".encode()


def test_only_digits_of_what_a_caller_sent_get_into_sql() -> None:
    sent = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=*/drop table b"}
    within = attach(TraceContextTextMapPropagator().extract(sent))
    try:
        assert with_comment("select 1") == f"select 1 /*traceparent='{sent['traceparent']}'*/"
    finally:
        detach(within)


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED = r"trace_comment is not valid behind an RDS Proxy or a pooler.*Leave trace_comment out"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app@db.example/orders?pooled=true",
        "mysql://app@db.example/orders?pooled=true",
        "postgresql://app@orders.proxy-c0ffee123456.eu-central-1.rds.amazonaws.com/orders",
    ],
)
def test_it_is_refused_behind_a_pooler(url: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED):
        Pool(url, trace_comment=True)


def test_it_is_refused_where_only_the_endpoint_knows_of_the_proxy() -> None:
    driver = FakeDriver()
    pool = driver.pool(endpoint=Scripted(Endpoint(host="proxy.example", proxy=True)), trace_comment=True)
    with pytest.raises(ConfigError, match=REFUSED), pool.connection():
        pass
    assert driver.requests == []


def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lambda_pool.engines.traceparent")
    monkeypatch.delattr("lambda_pool.engines.traceparent")
    monkeypatch.setitem(sys.modules, "opentelemetry.trace.propagation.tracecontext", None)
    with pytest.raises(ConfigError, match=r"opentelemetry-api is not installed: pip install 'lambda-pool\[otel\]'"):
        Pool("postgresql://app@db.example/orders", trace_comment=True)
