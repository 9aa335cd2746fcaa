"""A warm block on an event loop: borrow, one SELECT, give back, compared with the other ways for asyncio."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from lambda_pool.testing import PostgresServer

from .rounds import Figure, figure, ratio, shuffled

NAME = "asynchronous"
OURS = ("lambda_pool AsyncPool", "lambda_pool create_async_engine")
BESIDE = {
    "lambda_pool AsyncPool": ("psycopg_pool, check", "asyncpg pool"),
    "lambda_pool create_async_engine": ("SQLAlchemy async, pre-ping",),
}
ROUNDS = 60
BLOCK = 20
"""Blocks of each in each round."""
WARM_UP = 200

Work = Callable[[], Awaitable[None]]


async def _ways(url: str) -> tuple[dict[str, Work], list[Callable[[], Awaitable[Any]]]]:
    """For each way, a function that runs one block and one that closes the way."""
    import asyncpg
    from psycopg_pool import AsyncConnectionPool
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine as plain_engine

    from lambda_pool import AsyncPool
    from lambda_pool.sqlalchemy import create_async_engine

    ours = AsyncPool(url, observers=())
    theirs = AsyncConnectionPool(url, min_size=1, max_size=1, open=False, check=AsyncConnectionPool.check_connection)
    await theirs.open(wait=True)
    other = await asyncpg.create_pool(url, min_size=1, max_size=1)
    own_engine = create_async_engine(AsyncPool(url, observers=()))
    scheme, _, rest = url.partition("://")
    engine = plain_engine(f"{scheme}+psycopg://{rest}", pool_size=1, max_overflow=0, pool_pre_ping=True)
    question = text("select 1")

    async def with_ours() -> None:
        async with ours.connection() as conn:
            await (await conn.execute("select 1")).fetchone()

    async def with_theirs() -> None:
        async with theirs.connection() as conn:
            await (await conn.execute("select 1")).fetchone()

    async def with_asyncpg() -> None:
        async with other.acquire() as conn, conn.transaction():
            await conn.fetchrow("select 1")

    async def with_own_engine() -> None:
        async with own_engine.begin() as conn:
            (await conn.execute(question)).fetchone()

    async def with_engine() -> None:
        async with engine.begin() as conn:
            (await conn.execute(question)).fetchone()

    found: dict[str, Work] = {
        "lambda_pool AsyncPool": with_ours,
        "psycopg_pool, check": with_theirs,
        "asyncpg pool": with_asyncpg,
        "lambda_pool create_async_engine": with_own_engine,
        "SQLAlchemy async, pre-ping": with_engine,
    }
    return found, [ours.close, theirs.close, other.close, own_engine.dispose, engine.dispose]


async def _measure(url: str) -> dict[str, list[float]]:
    """Microseconds for one block, one figure for each round."""
    ways, closers = await _ways(url)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():
        for _ in range(WARM_UP):
            await work()
    for _ in range(ROUNDS):
        for name in shuffled(list(ways)):
            start = time.process_time()
            for _ in range(BLOCK):
                await ways[name]()
            times[name].append((time.process_time() - start) / BLOCK * 1e6)
    for close in closers:
        await close()
    return times


def measure() -> dict[str, Any]:
    """Microseconds, and ours divided by theirs."""
    with PostgresServer() as server:
        times = asyncio.run(_measure(server.url()))
    ratios: dict[str, Figure] = {
        f"{name} / {other}": ratio(times[name], times[other]) for name, others in BESIDE.items() for other in others
    }
    return {"times": {name: figure(values) for name, values in times.items()}, "ratios": ratios}
