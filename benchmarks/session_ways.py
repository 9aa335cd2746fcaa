"""The compared ways to get a SQLAlchemy session, each as its users write it."""

from collections.abc import Callable
from typing import Any

from .ways import Event, Way, connector, mysql_arguments

OURS = "Session, lambda_pool"
QUEUE = "Session, QueuePool"
PRE_PING = "Session, QueuePool, pre-ping"
PSYCOPG_POOL = "Session, NullPool on psycopg_pool"


def work(session: Any, event: Event) -> Any:
    """The same work as on a driver's connection, if it sends something."""
    from sqlalchemy import text

    if event["work"] == "one":
        return session.execute(text("select 42")).scalar()
    on_hand = session.execute(text("select on_hand from stock where item = :item"), {"item": 1}).scalar()
    session.execute(text("insert into orders (item, quantity) values (:item, :quantity)"), {"item": 1, "quantity": 1})
    session.execute(text("update stock set on_hand = on_hand - 1 where item = :item"), {"item": 1})
    return on_hand


def _with(made: Any, close: Callable[[], object]) -> Way:
    """A way around an engine: a session for each invocation."""
    from sqlalchemy.orm import Session

    def handler(event: Event, context: Any) -> Any:
        with Session(made) as session, session.begin():
            return work(session, event)

    return Way(lambda: made.connect().close(), handler, close)


def _url(engine: str) -> str:
    return "postgresql+psycopg://" if engine == "postgresql" else "mysql+pymysql://"


def queue_pool(engine: str, url: str, *, autocommit: bool, ping: bool = False) -> Way:
    """SQLAlchemy's own pool."""
    from sqlalchemy import create_engine

    if engine == "postgresql":
        made = create_engine(
            _url(engine), creator=connector(engine, url, autocommit=False), pool_pre_ping=ping, pool_size=1
        )
    else:
        import pymysql
        from pymysql.constants import CLIENT

        arguments = mysql_arguments(url, autocommit=False) | {"client_flag": CLIENT.FOUND_ROWS}
        made = create_engine(
            _url(engine), creator=lambda: pymysql.connect(**arguments), pool_pre_ping=ping, pool_size=1
        )
    return _with(made, made.dispose)


def queue_pool_ping(engine: str, url: str, *, autocommit: bool) -> Way:
    """The same with pool_pre_ping=True."""
    return queue_pool(engine, url, autocommit=autocommit, ping=True)


def psycopg_pool(engine: str, url: str, *, autocommit: bool) -> Way:
    """psycopg's own pool, with its check, behind NullPool, as its documentation advises."""
    from psycopg_pool import ConnectionPool
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    pool = ConnectionPool(
        url, min_size=1, max_size=1, check=ConnectionPool.check_connection, open=True, close_returns=True
    )
    pool.wait()
    return _with(create_engine(_url(engine), creator=pool.getconn, poolclass=NullPool), pool.close)


def lambda_pool(engine: str, url: str, *, autocommit: bool) -> Way:
    """lambda_pool.sqlalchemy's handler."""
    from lambda_pool import Pool
    from lambda_pool.sqlalchemy import create_engine, handler

    pool = Pool(url, metrics="off")
    made = create_engine(pool)

    @handler(made)
    def invoke(event: Event, context: Any, session: Any) -> Any:
        return work(session, event)

    return Way(lambda: made.connect().close(), invoke, pool.close)


WAYS: dict[str, Callable[..., Way]] = {
    OURS: lambda_pool,
    QUEUE: queue_pool,
    PRE_PING: queue_pool_ping,
    PSYCOPG_POOL: psycopg_pool,
}
OF_ENGINE = {"postgresql": tuple(WAYS), "mysql": (OURS, QUEUE, PRE_PING)}
