"""The application of the benchmark `server`: FastAPI with one session for each request, on one way to connect.

It runs in a process of uvicorn. WAY, URL and SIZE are in its environment.
"""

import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

OURS = "AsyncSession, lambda_pool"
QUEUE = "AsyncSession, AsyncAdaptedQueuePool"
PRE_PING = "AsyncSession, AsyncAdaptedQueuePool, pre-ping"
WAYS = (OURS, QUEUE, PRE_PING)

SELECT = text("select on_hand from stock where item = :item")


def on_lambda_pool(app: FastAPI, url: str, size: int) -> Any:
    """The middleware, and the dependency."""
    from lambda_pool import AsyncPool
    from lambda_pool.asgi import Middleware
    from lambda_pool.fastapi import session
    from lambda_pool.sqlalchemy import create_async_engine

    pool = AsyncPool(url, max_size=size, metrics="off")
    app.add_middleware(Middleware, pool=pool, request_timeout=30)
    return session(create_async_engine(pool))


def on_queue_pool(url: str, size: int, *, ping: bool) -> Any:
    """A dependency as FastAPI's users write it, and with a commit before the answer."""
    from sqlalchemy.ext.asyncio import create_async_engine

    address = make_url(url).set(drivername="postgresql+psycopg")
    make = async_sessionmaker(create_async_engine(address, pool_size=size, max_overflow=0, pool_pre_ping=ping))

    async def of_request() -> AsyncIterator[AsyncSession]:
        async with make.begin() as session:
            yield session

    return of_request


def application(way: str, url: str, size: int) -> FastAPI:
    """One route: one SELECT in a transaction that is committed before the answer."""
    app = FastAPI()
    dependency = on_lambda_pool(app, url, size) if way == OURS else on_queue_pool(url, size, ping=way == PRE_PING)

    @app.get("/stock/{item}")
    async def read(item: int, session: Annotated[AsyncSession, Depends(dependency, scope="function")]) -> int | None:
        return (await session.execute(SELECT, {"item": item})).scalar()

    return app


if "WAY" in os.environ:
    app = application(os.environ["WAY"], os.environ["URL"], int(os.environ["SIZE"]))
