"""An AsyncPool on each of the two databases, and what tests say on both in the same words."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import lambda_pool
from lambda_pool.api import core_of
from tests.contract.conftest import Database, database, my, pg  # noqa: F401 - fixtures


async def query(conn: Any, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement on a borrowed connection, as each driver's users do."""
    async with conn.cursor() as cursor:
        await cursor.execute(sql)
        return list(await cursor.fetchall()) if cursor.description else []


class Ground:
    """A database, and pools on it that are closed at the end."""

    def __init__(self, database: Database) -> None:  # noqa: F811
        self.database = database
        self.engine = database.engine
        self.table = database.table
        self.pools: list[lambda_pool.AsyncPool] = []
        slow = "pg_sleep" if self.engine == "postgresql" else "sleep"
        self.slow = f"select {slow}(30)"

    def pool(self, **options: Any) -> lambda_pool.AsyncPool:
        pool = lambda_pool.AsyncPool(options.pop("url", self.database.url), observers=(), **options)
        self.pools.append(pool)
        return pool

    async def insert(self, conn: Any, number: int) -> None:
        await query(conn, f"insert into {self.table} values ({number})")

    def rows(self) -> list[int]:
        return self.database.rows()

    def sleepers(self) -> int:
        """Sessions of the server that are in the slow statement."""
        if self.engine == "postgresql":
            found = self.database.execute(
                "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep(30)%'"
            )
        else:
            found = self.database.execute(
                "select count(*) from information_schema.processlist where info like 'select sleep(30)%'"
            )
        return int(found[0][0])

    def backend(self, conn: Any) -> int:
        return int(conn.info.backend_pid if self.engine == "postgresql" else conn.thread_id())


def at_rest(pool: lambda_pool.AsyncPool) -> bool:
    """True if nothing is lent, waited for, or left in a transaction."""
    stats = pool.stats()
    core = core_of(pool)
    clean = all(entry.link.status().value == "idle" for entry in core.state.entries)
    return stats.in_use == stats.waiting == 0 and clean


@pytest.fixture
def ground(database: Database) -> Iterator[Ground]:  # noqa: F811
    """Once on each engine."""
    ground = Ground(database)
    yield ground

    async def close() -> None:
        for pool in ground.pools:
            await pool.close()

    asyncio.run(close())


@pytest.fixture
def pool(ground: Ground) -> lambda_pool.AsyncPool:
    """One connection, so that the next borrower has the same one as before."""
    return ground.pool(max_size=1)
