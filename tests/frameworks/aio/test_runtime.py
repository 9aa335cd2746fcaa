"""Functions for asyncio on the genuine runtime: one backend, nothing extra, and no error but the handler's own."""

from typing import Any

import pytest

from tests.on_lambda.conftest import Start, start  # noqa: F401 - a fixture
from tests.support.long_day import live_through, server  # noqa: F401 - a fixture

pytestmark = pytest.mark.runtime

HEAD = """
import asyncio, os
import lambda_pool

POOL = lambda_pool.AsyncPool(os.environ["URL"], **eval(os.environ.get("OPTIONS", "{}")))

async def query(conn, sql):
    async with conn.cursor() as cursor:
        await cursor.execute(sql)
        return [list(row) for row in await cursor.fetchall()] if cursor.description else []

async def work(event, conn):
    if event.get("insert"):
        await query(conn, f"insert into long_day values ({int(event['insert'])})")
    rows = await query(conn, event.get("sql", "select id from long_day where id = 0"))
    if event.get("fail"):
        raise RuntimeError("half way")
    backend = conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id()
    return {"rows": rows, "backend": backend, "stats": {n: getattr(POOL.stats(), n) for n in POOL.stats().__slots__}}
"""
WAYS = {
    "async def": """
@POOL.handler
async def handler(event, context, conn):
    return await work(event or {}, conn)
""",
    "asyncio.run": """
async def main(event):
    async with POOL.connection() as conn:
        return await work(event, conn)

@POOL.handler
def handler(event, context):
    return asyncio.run(main(event or {}))
""",
    "AsyncEngine": """
from lambda_pool.sqlalchemy import create_async_engine, handler as with_session
from sqlalchemy import text
ENGINE = create_async_engine(POOL)

@with_session(ENGINE)
async def handler(event, context, session):
    event = event or {}
    driver = (await (await session.connection()).get_raw_connection()).driver_connection
    backend = driver.info.backend_pid if hasattr(driver, "info") else driver.thread_id()
    if event.get("insert"):
        await session.execute(text(f"insert into long_day values ({int(event['insert'])})"))
    rows = [list(row) for row in await session.execute(
        text(event.get("sql", "select id from long_day where id = 0")))]
    if event.get("fail"):
        raise RuntimeError("half way")
    return {"rows": rows, "backend": backend, "stats": {n: getattr(POOL.stats(), n) for n in POOL.stats().__slots__}}
""",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.sampled(1 / 2, "200 invocations, faults and restarts")
def test_a_long_day(start: Start, server: Any, any_python: str, way: str) -> None:  # noqa: F811
    live_through(start, server, HEAD + WAYS[way], any_python)
