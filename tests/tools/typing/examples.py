"""What type checkers make of pools and handlers. Nothing here runs: `test_typing.py` has mypy and pyright read it.

`assert_type` says what must come out. A line with `type: ignore` must be an error; both complain if it is none.
"""

from collections.abc import MutableMapping
from typing import Any, TypedDict, assert_type

import psycopg
import pymysql.connections
from psycopg.rows import DictRow
from sqlalchemy.orm import Session

import lambda_pool
from lambda_pool import AsyncPool, IamToken, Pool, RdsProxy, asgi, wsgi
from lambda_pool.engines.pymysql.coroutines import AsyncConnection
from lambda_pool.sqlalchemy import create_engine
from lambda_pool.sqlalchemy import handler as session_handler


class Order(TypedDict):
    """An event."""

    item: str


class Context:
    """What Lambda passes."""


def url() -> str:
    """A text that no checker knows."""
    return "postgresql://app@orders.example/orders"


# --- what `Pool(…)` is ------------------------------------------------------------------------------------------------

assert_type(Pool(url()), Pool[Any])
assert_type(Pool.from_env(), Pool[Any])
assert_type(Pool(url(), engine="postgresql"), Pool[psycopg.Connection])
assert_type(Pool(engine="postgresql", auth=IamToken(), endpoint=RdsProxy("p")), Pool[psycopg.Connection])
assert_type(Pool(host="orders.example", port=5432, user="app"), Pool[psycopg.Connection])
assert_type(Pool(url(), engine="mysql", max_size=2), "Pool[pymysql.connections.Connection]")
assert_type(Pool(host="orders.example", port=3306, user="app"), "Pool[pymysql.connections.Connection]")

by_annotation: Pool[psycopg.Connection] = Pool(url())
of_dictionaries: Pool[psycopg.Connection[DictRow]] = Pool(url(), connect_args={"row_factory": "dict_row"})
of_dictionaries_by_parts: Pool[psycopg.Connection[DictRow]] = Pool(
    engine="postgresql", host="orders.example", connect_args={"row_factory": "dict_row"}
)
assert_type(Pool(url(), engine="postgresql", connect_args={}), Pool[psycopg.Connection[Any]])
assert_type(Pool(url(), engine="mysql", connect_args={}), "Pool[pymysql.connections.Connection[Any]]")
of_any: Pool = Pool(url())
wider: Pool[psycopg.Connection[Any]] = of_dictionaries
other: "Pool[pymysql.connections.Connection]" = Pool(url(), engine="postgresql")  # type: ignore[assignment]
Pool(url(), max_sise=2)  # type: ignore[call-overload]
Pool(url(), timeout="soon")  # type: ignore[call-overload]

postgres = Pool(url(), engine="postgresql")
mysql = Pool(url(), engine="mysql")

# --- borrowing --------------------------------------------------------------------------------------------------------

with postgres.connection(readonly=True) as conn:
    assert_type(conn, psycopg.Connection)
    conn.execute("select 1").fetchone()
    conn.exeute("select 1")  # type: ignore[attr-defined]
with mysql.connection() as connection:
    assert_type(connection, "pymysql.connections.Connection")
with of_dictionaries.connection() as rows:
    assert_type(rows.execute("select 1").fetchone(), DictRow | None)


def count(conn: psycopg.Connection) -> int:
    """Work for `run`."""
    return 1 if conn.execute("select 1").fetchone() else 0


assert_type(postgres.run(count, attempts=5), int)
mysql.run(count)  # type: ignore[arg-type]

# --- the same for asyncio ---------------------------------------------------------------------------------------------

assert_type(AsyncPool(url()), AsyncPool[Any])
assert_type(AsyncPool.from_env(), AsyncPool[Any])
assert_type(AsyncPool(url(), engine="postgresql"), AsyncPool[psycopg.AsyncConnection])
assert_type(AsyncPool(host="orders.example", port=5432, user="app"), AsyncPool[psycopg.AsyncConnection])
assert_type(AsyncPool(url(), engine="postgresql", connect_args={}), AsyncPool[psycopg.AsyncConnection[Any]])
assert_type(AsyncPool(url(), engine="mysql", connect_args={}), AsyncPool[AsyncConnection])
assert_type(AsyncPool(host="orders.example", port=3306, user="app"), AsyncPool[AsyncConnection])
AsyncPool(url(), max_sise=2)  # type: ignore[call-overload]

awaited: AsyncPool[psycopg.AsyncConnection[DictRow]] = AsyncPool(url(), connect_args={"row_factory": "dict_row"})
awaited_of_any: AsyncPool = awaited
awaited_mysql = AsyncPool(url(), engine="mysql")


async def count_awaited(conn: psycopg.AsyncConnection[DictRow]) -> int:
    """Work for `run`."""
    return 1 if await (await conn.execute("select 1")).fetchone() else 0


async def work() -> None:
    """Borrowing."""
    async with awaited.connection(readonly=True) as conn:
        assert_type(conn, psycopg.AsyncConnection[DictRow])
        await conn.exeute("select 1")  # type: ignore[attr-defined]
    async with awaited_mysql.connection() as connection:
        assert_type(connection, AsyncConnection)
    assert_type(await awaited.run(count_awaited), int)
    await awaited_mysql.run(count_awaited)  # type: ignore[arg-type]


# --- handlers: their own signature, less what they are given ----------------------------------------------------------


@postgres.handler
def handler(event: Order, context: Context, conn: psycopg.Connection) -> dict[str, int]:
    """The plain form."""
    return {"found": count(conn)}


assert_type(handler({"item": "tea"}, Context()), dict[str, int])
handler({"itme": "tea"}, Context())  # type: ignore[typeddict-item]
handler({"item": "tea"})  # type: ignore[call-arg]
handler({"item": "tea"}, Context(), conn)  # type: ignore[call-arg]


@postgres.handler
def loose(event: dict[str, Any], context: Any, conn: psycopg.Connection) -> int:
    """`Any` in the signature, as in most functions."""
    return count(conn)


@postgres.handler()
def loose_too(event: dict[str, Any], context: Any, conn: psycopg.Connection) -> int:
    """The same, with brackets."""
    return count(conn)


assert_type(loose({}, None), int)
assert_type(loose_too({}, None), int)
loose([], None)  # type: ignore[arg-type]


@postgres.handler(inject="db", on_unavailable=lambda event, context, error: {})
def named(event: Order, context: Context, db: psycopg.Connection) -> dict[str, int]:
    """A parameter of another name."""
    return {"found": count(db)}


assert_type(named({"item": "tea"}, Context()), dict[str, int])
named("tea", Context())  # type: ignore[arg-type]


def unavailable(event: dict[str, Any], context: Context, error: lambda_pool.LambdaPoolError) -> dict[str, Any]:
    """It only ever gets an error of the package."""
    return {"statusCode": 503, "body": type(error).__name__}


@postgres.handler(on_unavailable=unavailable)
def answered(event: Order, context: Context, conn: psycopg.Connection) -> dict[str, Any]:
    """Somebody else answers if there is no connection."""
    return {"body": count(conn)}


assert_type(answered({"item": "tea"}, Context()), dict[str, Any])


def asgi_unavailable(scope: MutableMapping[str, Any], error: lambda_pool.LambdaPoolError) -> Any:
    """The same for a request."""


def wsgi_unavailable(environ: dict[str, Any], error: lambda_pool.LambdaPoolError) -> Any:
    """The same for a request."""


def application(*received: Any) -> Any:
    """Stands for both kinds of applications."""


asgi.Middleware(application, postgres, on_unavailable=asgi_unavailable)
wsgi.Middleware(application, postgres, on_unavailable=wsgi_unavailable)


@mysql.handler
def by_keyword(event: Order, context: Context, *, conn: "pymysql.connections.Connection") -> None:
    """The connection as a keyword."""
    conn.ping()


by_keyword({"item": "tea"}, Context())
by_keyword({"item": "tea"}, Context(), conn=connection)  # type: ignore[call-arg]


@postgres.handler
def with_more(event: Order, context: Context, conn: psycopg.Connection, retries: int) -> int:
    """What is behind the connection stays."""
    return retries


assert_type(with_more({"item": "tea"}, Context(), 3), int)
with_more({"item": "tea"}, Context(), "three")  # type: ignore[arg-type]


@postgres.handler
def without(event: Order, context: Context) -> str:
    """No connection: the signature is as it was, with its names."""
    return event["item"]


assert_type(without(event={"item": "tea"}, context=Context()), str)


class Service:
    """Handlers that are methods."""

    @postgres.handler
    def handle(self, event: Order, context: Context, conn: psycopg.Connection) -> int:
        """As a function's."""
        return count(conn)


assert_type(Service().handle({"item": "tea"}, Context()), int)


@lambda_pool.handler
def of_the_default_pool(event: Order, context: Context, conn: psycopg.Connection) -> int:
    """The pool is not known before it runs: what the handler says of `conn` is believed."""
    return count(conn)


assert_type(of_the_default_pool({"item": "tea"}, Context()), int)


@session_handler(create_engine(postgres))
def with_session(event: Order, context: Context, session: Session) -> int:
    """SQLAlchemy's session in the connection's place."""
    return len(session.new)


assert_type(with_session({"item": "tea"}, Context()), int)
with_session({"item": "tea"}, Context(), Session())  # type: ignore[call-arg]
