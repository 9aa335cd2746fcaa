"""The compared ways to reach a database from `async def`, each as its users write it.

Lambda calls a function, not a coroutine. So users who keep a pool for asyncio keep an event loop in a global too.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from functools import cache
from itertools import count
from typing import Any

from .session_ways import work as statements
from .ways import Event, Way, mysql_arguments

OURS = "async def, lambda_pool"
PSYCOPG_POOL = "async def, psycopg_pool, check"
ASYNCPG = "async def, asyncpg's pool"
AIOMYSQL = "async def, aiomysql's pool"
SESSION = "AsyncSession, lambda_pool"
PRE_PING = "AsyncSession, AsyncAdaptedQueuePool, pre-ping"
QUEUE = "AsyncSession, AsyncAdaptedQueuePool"


async def work(execute: Callable[..., Awaitable[Any]], event: Event) -> Any:
    """The same work as on a driver's connection, if it sends something.

    `execute`: takes a statement and its parameters, and gives the first value of the first row if there is one.
    """
    if event["work"] == "one":
        return await execute("select 42")
    on_hand = await execute("select on_hand from stock where item = %s", 1)
    await execute("insert into orders (item, quantity) values (%s, %s)", 1, 1)
    await execute("update stock set on_hand = on_hand - %s where item = %s", 1, 1)
    return on_hand


def _on_cursor(cursor: Any) -> Callable[..., Awaitable[Any]]:
    async def execute(statement: str, *parameters: Any) -> Any:
        await cursor.execute(statement, parameters)
        row = await cursor.fetchone() if cursor.description else None
        return row and row[0]

    return execute


@cache
def _numbered(statement: str) -> str:
    """asyncpg uses $1 where the others use %s."""
    numbers = count(1)
    return re.sub("%s", lambda _: f"${next(numbers)}", statement)


Main = Callable[[Any, Event], Coroutine[Any, Any, Any]]


def _kept(opening: Coroutine[Any, Any, Any], main: Main, close: Callable[[Any], Any]) -> Way:
    """A pool and a loop in globals."""
    loop = asyncio.new_event_loop()
    pool = loop.run_until_complete(opening)

    def handler(event: Event, context: Any) -> Any:
        return loop.run_until_complete(main(pool, event))

    return Way(lambda: None, handler, lambda: loop.run_until_complete(close(pool)))


def psycopg_pool(engine: str, url: str, *, autocommit: bool) -> Way:
    """psycopg's own pool for asyncio, with its check."""
    from psycopg_pool import AsyncConnectionPool

    async def opening() -> Any:
        pool = AsyncConnectionPool(url, min_size=1, max_size=1, open=False, check=AsyncConnectionPool.check_connection)
        await pool.open(wait=True)
        return pool

    async def main(pool: Any, event: Event) -> Any:
        async with pool.connection() as conn, conn.cursor() as cursor:
            return await work(_on_cursor(cursor), event)

    return _kept(opening(), main, lambda pool: pool.close())


def asyncpg_pool(engine: str, url: str, *, autocommit: bool) -> Way:
    """asyncpg's own pool."""
    import asyncpg

    async def opening() -> Any:
        return await asyncpg.create_pool(url, min_size=1, max_size=1)

    async def main(pool: Any, event: Event) -> Any:
        async def execute(statement: str, *parameters: Any) -> Any:
            return await conn.fetchval(_numbered(statement), *parameters)

        async with pool.acquire() as conn, conn.transaction():
            return await work(execute, event)

    return _kept(opening(), main, lambda pool: pool.close())


def aiomysql_pool(engine: str, url: str, *, autocommit: bool) -> Way:
    """aiomysql's own pool."""
    import aiomysql

    arguments = mysql_arguments(url, autocommit=False)
    arguments["db"] = arguments.pop("database")

    async def opening() -> Any:
        return await aiomysql.create_pool(minsize=1, maxsize=1, **arguments)

    async def main(pool: Any, event: Event) -> Any:
        async with pool.acquire() as conn, conn.cursor() as cursor:
            done = await work(_on_cursor(cursor), event)
            await conn.commit()
            return done

    async def close(pool: Any) -> None:
        pool.close()
        await pool.wait_closed()

    return _kept(opening(), main, close)


def lambda_pool(engine: str, url: str, *, autocommit: bool) -> Way:
    """lambda_pool's decorator on an `async def`."""
    from lambda_pool import AsyncPool

    pool = AsyncPool(url, metrics="off")

    @pool.handler
    async def handler(event: Event, context: Any, conn: Any) -> Any:
        async with conn.cursor() as cursor:
            return await work(_on_cursor(cursor), event)

    return Way(lambda: None, handler, lambda: asyncio.run(pool.close()))


def _in_session(made: Any) -> Main:
    from sqlalchemy.ext.asyncio import AsyncSession

    async def main(_: Any, event: Event) -> Any:
        async with AsyncSession(made) as session, session.begin():
            return await session.run_sync(statements, event)

    return main


def queue_pool(engine: str, url: str, *, autocommit: bool, ping: bool = False) -> Way:
    """SQLAlchemy's own pool for asyncio."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.ext.asyncio import create_async_engine

    parts = make_url(url)
    if engine == "postgresql":
        made = create_async_engine(parts.set(drivername="postgresql+psycopg"), pool_pre_ping=ping, pool_size=1)
    else:
        arguments = {"ssl": mysql_arguments(url, autocommit=False)["ssl"]}
        made = create_async_engine(
            parts.set(drivername="mysql+aiomysql", query={}), connect_args=arguments, pool_pre_ping=ping, pool_size=1
        )

    async def opening() -> Any:
        return made

    return _kept(opening(), _in_session(made), lambda pool: pool.dispose())


def queue_pool_ping(engine: str, url: str, *, autocommit: bool) -> Way:
    """The same with pool_pre_ping=True."""
    return queue_pool(engine, url, autocommit=autocommit, ping=True)


def session(engine: str, url: str, *, autocommit: bool) -> Way:
    """lambda_pool's decorator and engine."""
    from lambda_pool import AsyncPool
    from lambda_pool.sqlalchemy import create_async_engine

    pool = AsyncPool(url, metrics="off")
    main = _in_session(create_async_engine(pool))

    @pool.handler
    async def handler(event: Event, context: Any) -> Any:
        return await main(None, event)

    return Way(lambda: None, handler, lambda: asyncio.run(pool.close()))


WAYS: dict[str, Callable[..., Way]] = {
    OURS: lambda_pool,
    PSYCOPG_POOL: psycopg_pool,
    ASYNCPG: asyncpg_pool,
    AIOMYSQL: aiomysql_pool,
    SESSION: session,
    PRE_PING: queue_pool_ping,
    QUEUE: queue_pool,
}
OF_ENGINE = {"postgresql": (OURS, PSYCOPG_POOL, ASYNCPG), "mysql": (OURS, AIOMYSQL)}
SESSIONS_OF_ENGINE = dict.fromkeys(OF_ENGINE, (SESSION, PRE_PING, QUEUE))
