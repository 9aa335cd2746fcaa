"""The compared ways to get a connection, each in its own idiom.

Every way is made from a URL and comes with three functions: `once` borrows a connection and gives it back, `handler`
is a Lambda handler around `work`, and `close` ends it. None of them adds a layer that its users would not write.
"""

import ssl
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

Event = dict[str, Any]
Handler = Callable[[Event, Any], Any]


class Way(NamedTuple):
    """One way, opened."""

    once: Callable[[], object]
    handler: Handler
    close: Callable[[], object]


SCHEMA = {
    "postgresql": (
        "create table if not exists stock (item int primary key, on_hand int not null)",
        "create table if not exists orders (id serial primary key, item int not null, quantity int not null)",
        "insert into stock values (1, 1000000) on conflict do nothing",
    ),
    "mysql": (
        "create table if not exists stock (item int primary key, on_hand int not null)",
        "create table if not exists orders "
        "(id int auto_increment primary key, item int not null, quantity int not null)",
        "insert ignore into stock values (1, 1000000)",
    ),
}


def work(conn: Any, event: Event) -> Any:
    """What every handler does: nothing, one SELECT, a write, or a transaction of three statements."""
    kind = event["work"]
    if kind == "empty":
        return None
    cursor = conn.cursor()
    if kind == "one":
        cursor.execute("select 42")
        return cursor.fetchone()[0]
    if kind == "write":
        cursor.execute("update stock set on_hand = on_hand - 1 where item = %s", (1,))
        return cursor.rowcount
    cursor.execute("select on_hand from stock where item = %s", (1,))
    on_hand = cursor.fetchone()[0]
    cursor.execute("insert into orders (item, quantity) values (%s, %s)", (1, 1))
    cursor.execute("update stock set on_hand = on_hand - %s where item = %s", (1, 1))
    return on_hand


# --- connecting -------------------------------------------------------------------------------------------------------


def mysql_arguments(url: str, *, autocommit: bool) -> dict[str, Any]:
    """The URL as arguments for PyMySQL; TLS is verified in full if the URL names an authority."""
    parts = urlsplit(url)
    authority = parse_qs(parts.query).get("sslrootcert")
    return {
        "host": parts.hostname,
        "port": parts.port,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": parts.path[1:],
        "autocommit": autocommit,
        **({"ssl": ssl.create_default_context(cafile=authority[0])} if authority else {}),
    }


def connector(engine: str, url: str, *, autocommit: bool) -> Callable[[], Any]:
    """A function that opens one connection of the driver's own."""
    if engine == "postgresql":
        import psycopg

        return lambda: psycopg.connect(url, autocommit=autocommit)
    import pymysql

    arguments = mysql_arguments(url, autocommit=autocommit)
    return lambda: pymysql.connect(**arguments)


def _committing(borrow: Callable[[], Any], *, autocommit: bool) -> Handler:
    """What a careful user writes around a pool whose connections only have close()."""

    def handler(event: Event, context: Any) -> Any:
        conn = borrow()
        try:
            result = work(conn, event)
            if not autocommit:
                conn.commit()
        finally:
            conn.close()
        return result

    return handler


def _keeping(get: Callable[[], Any], *, autocommit: bool) -> Handler:
    """What users write around one connection in a global."""

    def handler(event: Event, context: Any) -> Any:
        conn = get()
        result = work(conn, event)
        if not autocommit and event["work"] != "empty":
            conn.commit()
        return result

    return handler


# --- the ways ---------------------------------------------------------------------------------------------------------


def no_database(engine: str, url: str, *, autocommit: bool) -> Way:
    """A handler that has nothing to do with a database."""
    return Way(lambda: None, lambda event, context: None, lambda: None)


def bare(engine: str, url: str, *, autocommit: bool) -> Way:
    """A connection in a global, never checked, opened again when the driver says that it is closed."""
    connect = connector(engine, url, autocommit=autocommit)
    kept: list[Any] = [connect()]

    if engine == "postgresql":

        def get() -> Any:
            if kept[0].closed:
                kept[0] = connect()
            return kept[0]
    else:

        def get() -> Any:
            if not kept[0].open:
                kept[0] = connect()
            return kept[0]

    def close() -> None:
        kept[0].close()

    return Way(get, _keeping(get, autocommit=autocommit), close)


def bare_ping(engine: str, url: str, *, autocommit: bool) -> Way:
    """A PyMySQL connection in a global, with PyMySQL's own ping(reconnect=True) before each use."""
    conn = connector(engine, url, autocommit=autocommit)()

    def get() -> Any:
        conn.ping(reconnect=True)
        return conn

    return Way(get, _keeping(get, autocommit=autocommit), conn.close)


def bare_powertools(engine: str, url: str, *, autocommit: bool) -> Way:
    """The bare global, with three metrics of Powertools written in each invocation."""
    from aws_lambda_powertools import Metrics
    from aws_lambda_powertools.metrics import MetricUnit

    metrics = Metrics(namespace="Benchmark", service="orders")
    way = bare(engine, url, autocommit=autocommit)

    @metrics.log_metrics
    def handler(event: Event, context: Any) -> Any:
        result = way.handler(event, context)
        metrics.add_metric(name="ConnectionsReused", unit=MetricUnit.Count, value=1)
        metrics.add_metric(name="CheckoutTime", unit=MetricUnit.Milliseconds, value=0.1)
        metrics.add_metric(name="HoldTime", unit=MetricUnit.Milliseconds, value=1.5)
        return result

    return way._replace(handler=handler)


def connect_each_time(engine: str, url: str, *, autocommit: bool) -> Way:
    """A connection opened and closed in each invocation."""
    connect = connector(engine, url, autocommit=autocommit)
    return Way(lambda: connect().close(), _committing(connect, autocommit=autocommit), lambda: None)


def psycopg_pool(engine: str, url: str, *, autocommit: bool, check: bool = False, size: int = 1) -> Way:
    """psycopg_pool's ConnectionPool, by default without a check."""
    from psycopg_pool import ConnectionPool

    pool = ConnectionPool(
        url,
        min_size=size,
        max_size=size,
        kwargs={"autocommit": autocommit},
        check=ConnectionPool.check_connection if check else None,
        open=True,
        timeout=30,
    )
    pool.wait()

    def once() -> None:
        with pool.connection():
            pass

    def handler(event: Event, context: Any) -> Any:
        with pool.connection() as conn:
            return work(conn, event)

    return Way(once, handler, pool.close)


def psycopg_pool_checked(engine: str, url: str, *, autocommit: bool) -> Way:
    """psycopg_pool with check=ConnectionPool.check_connection."""
    return psycopg_pool(engine, url, autocommit=autocommit, check=True)


def sqlalchemy(
    engine: str, url: str, *, autocommit: bool, ping: bool = False, null: bool = False, size: int = 1
) -> Way:
    """SQLAlchemy's pool alone (raw_connection), which is its cheapest way: QueuePool, or NullPool."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool, QueuePool

    options: dict[str, Any] = {"poolclass": NullPool} if null else {"poolclass": QueuePool, "pool_size": size}
    if not null:
        options |= {"max_overflow": 0, "pool_timeout": 30}
    made = create_engine(
        "postgresql+psycopg://" if engine == "postgresql" else "mysql+pymysql://",
        creator=connector(engine, url, autocommit=autocommit),
        pool_pre_ping=ping,
        **options,
    )
    made.raw_connection().close()
    handler = _committing(made.raw_connection, autocommit=autocommit)
    return Way(lambda: made.raw_connection().close(), handler, made.dispose)


def sqlalchemy_ping(engine: str, url: str, *, autocommit: bool) -> Way:
    """QueuePool with pool_pre_ping=True."""
    return sqlalchemy(engine, url, autocommit=autocommit, ping=True)


def sqlalchemy_null(engine: str, url: str, *, autocommit: bool) -> Way:
    """NullPool."""
    return sqlalchemy(engine, url, autocommit=autocommit, null=True)


def dbutils(engine: str, url: str, *, autocommit: bool, size: int = 1) -> Way:
    """DBUtils' PooledDB with its defaults: it checks with the driver's ping(), which psycopg does not have."""
    from dbutils.pooled_db import PooledDB  # type: ignore[import-not-found]

    arguments: dict[str, Any] = {"mincached": size, "maxcached": size, "maxconnections": size, "blocking": True}
    if engine == "postgresql":
        import psycopg

        pool = PooledDB(psycopg, conninfo=url, autocommit=autocommit, **arguments)
    else:
        import pymysql

        pool = PooledDB(pymysql, **mysql_arguments(url, autocommit=autocommit), **arguments)
    handler = _committing(pool.connection, autocommit=autocommit)
    return Way(lambda: pool.connection().close(), handler, pool.close)


def aws_wrapper(engine: str, url: str, *, autocommit: bool) -> Way:
    """A connection of the AWS Advanced Python Wrapper in a global, with the wrapper's default plugins."""
    import psycopg
    from aws_advanced_python_wrapper import (  # type: ignore[import-not-found]
        AwsWrapperConnection,
        release_resources,
    )

    parts = urlsplit(url)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    conninfo = (
        f"host={parts.hostname} port={parts.port} dbname={parts.path[1:]} user={unquote(parts.username or '')} "
        f"password={unquote(parts.password or '')} " + " ".join(f"{key}={value}" for key, value in query.items())
    )

    def connect() -> Any:
        return AwsWrapperConnection.connect(psycopg.Connection.connect, conninfo, autocommit=autocommit)

    kept = [connect()]

    def get() -> Any:
        if kept[0].closed:
            kept[0] = connect()
        return kept[0]

    def close() -> None:
        kept[0].close()
        release_resources()

    return Way(get, _keeping(get, autocommit=autocommit), close)


def lambda_pool(engine: str, url: str, *, autocommit: bool, metrics: str = "off", size: int = 1) -> Way:
    """lambda_pool with its defaults: every checkout is validated."""
    from lambda_pool import Pool

    pool = Pool(url, metrics=metrics, autocommit=autocommit, max_size=size, timeout=30.0 if size > 1 else 5.0)
    pool.warm()

    def once() -> None:
        with pool.connection():
            pass

    @pool.handler
    def handler(event: Event, context: Any, conn: Any) -> Any:
        return work(conn, event)

    return Way(once, handler, pool.close)


def lambda_pool_run(engine: str, url: str, *, autocommit: bool) -> Way:
    """lambda_pool, with the work given to `run`, which may replay it if that is safe."""
    from lambda_pool import Pool

    pool = Pool(url, metrics="off", autocommit=autocommit)
    pool.warm()

    @pool.handler
    def handler(event: Event, context: Any) -> Any:
        return pool.run(lambda conn: work(conn, event))

    return Way(lambda: None, handler, pool.close)


def lambda_pool_metrics(engine: str, url: str, *, autocommit: bool) -> Way:
    """lambda_pool with its metrics on, as inside Lambda."""
    return lambda_pool(engine, url, autocommit=autocommit, metrics="emf")


WAYS: dict[str, Callable[..., Way]] = {
    "no database": no_database,
    "bare global": bare,
    "bare global, ping": bare_ping,
    "bare global, Powertools metrics": bare_powertools,
    "connect each time": connect_each_time,
    "psycopg_pool": psycopg_pool,
    "psycopg_pool, check": psycopg_pool_checked,
    "SQLAlchemy QueuePool": sqlalchemy,
    "SQLAlchemy QueuePool, pre-ping": sqlalchemy_ping,
    "SQLAlchemy NullPool": sqlalchemy_null,
    "DBUtils": dbutils,
    "AWS wrapper": aws_wrapper,
    "lambda_pool": lambda_pool,
    "lambda_pool, metrics": lambda_pool_metrics,
    "lambda_pool, run()": lambda_pool_run,
}
# The AWS wrapper works with psycopg and MySQL Connector, psycopg_pool with psycopg, and only PyMySQL has a ping().
OF_ENGINE: dict[str, tuple[str, ...]] = {
    "postgresql": tuple(name for name in WAYS if name not in {"bare global, ping", "lambda_pool, run()"}),
    "mysql": tuple(
        name for name in WAYS if not name.startswith(("psycopg_pool", "AWS wrapper")) and name != "lambda_pool, run()"
    ),
}
VALIDATES = {
    "bare global, ping": "a round trip",
    "psycopg_pool, check": "a round trip",
    "SQLAlchemy QueuePool, pre-ping": "a round trip",
    "DBUtils": "PyMySQL: a round trip",
    "lambda_pool": "the socket",
    "lambda_pool, metrics": "the socket",
}
