"""Short ways to borrow, for tests of what one driver's connection does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import lambda_pool
from tests.frameworks.aio.conftest import query

T = TypeVar("T")


def borrow(pool: lambda_pool.AsyncPool, work: Callable[[Any], Awaitable[T]]) -> T:
    """What `work` returns of a borrowed connection, on an event loop of its own."""

    async def main() -> T:
        async with pool.connection() as conn:
            return await work(conn)

    return asyncio.run(main())


async def one(conn: Any) -> list[tuple[Any, ...]]:
    """What every working connection answers."""
    return await query(conn, "select 1")
