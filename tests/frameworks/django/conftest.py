"""Django on a pool, on each of the two databases: one alias, a reader of it, and what the server was told."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.db.utils import load_backend

import lambda_pool
from lambda_pool.django import pools
from tests.contract.conftest import Database, database, my, own_server, pg  # noqa: F401 - fixtures
from tests.support.statements import Statements

if not settings.configured:
    settings.configure(
        DATABASES={"default": {}, "reader": {"ENGINE": "django.db.backends.dummy"}},
        INSTALLED_APPS=["tests.frameworks.django.shop.apps.ShopConfig"],
        USE_TZ=True,
        SECRET_KEY="of the tests",
        ROOT_URLCONF="tests.frameworks.django.shop.urls",
        ALLOWED_HOSTS=["*"],
    )
    __import__("django").setup()

__all__ = ["Statements", "Use", "backend_of", "described", "install", "names", "request_ends", "stats"]
Use = Callable[..., Any]


def described(database: Database, *, port: int | None = None, **options: Any) -> dict[str, Any]:  # noqa: F811
    """An entry of DATABASES. `options`: those of the pool."""
    server = database.server
    return {
        "ENGINE": f"lambda_pool.django.{database.engine}",
        "HOST": "localhost",
        "PORT": port or server.port,
        "USER": server.user,
        "PASSWORD": server.password,
        "NAME": server.database,
        "OPTIONS": {
            "sslmode": "verify-full",
            "sslrootcert": str(server.ca_path),
            "lambda_pool": {"metrics": "off", **options},
        },
    }


def install(alias: str, entry: dict[str, Any]) -> Any:
    """Make `entry` what DATABASES says of an alias. Out: this thread's connection."""
    known = connections.settings
    filled = connections.configure_settings({**known, "default": copy.copy(known["default"]), alias: entry})[alias]
    known[alias] = filled
    connections[alias] = load_backend(filled["ENGINE"]).DatabaseWrapper(filled, alias)
    return connections[alias]


@pytest.fixture
def use(database: Database, shop: None) -> Iterator[Use]:  # noqa: F811
    """use(alias="default", entry=None, port=None, **options of the pool): a connection of Django's, with a new pool."""
    used: set[str] = set()
    known = len(pools._made)

    def begin(alias: str = "default", entry: dict[str, Any] | None = None, **options: Any) -> Any:
        if alias in used:
            connections[alias].close()
        used.add(alias)
        return install(alias, entry or described(database, **options))

    yield begin
    for alias in used:
        connections[alias].close()
        connections[alias] = load_backend("django.db.backends.dummy").DatabaseWrapper({}, alias)
    for _, made in pools._made[known:]:
        made.pool.close()
    del pools._made[known:]


@pytest.fixture
def connection(use: Use) -> Any:
    """Django's default connection."""
    return use()


@pytest.fixture
def shop(database: Database) -> Iterator[None]:  # noqa: F811
    """An empty table for orders."""
    serial = "bigserial" if database.engine == "postgresql" else "bigint auto_increment"
    moment = "timestamptz" if database.engine == "postgresql" else "datetime(6)"
    database.execute("drop table if exists shop_order")
    database.execute(
        f"create table shop_order (id {serial} primary key, name varchar(50) not null unique, placed {moment} not null)"
    )
    yield
    database.execute("drop table shop_order")


def names(database: Database) -> list[str]:  # noqa: F811
    """What is saved."""
    return sorted(str(row[0]) for row in database.execute("select name from shop_order"))


def stats(connection: Any) -> lambda_pool.PoolStats:
    """The figures of a connection's pool."""
    found: lambda_pool.PoolStats = connection.home().pool.stats()
    return found


def backend_of(connection: Any) -> int:
    """The server's number for the session that a connection has, or borrows."""
    connection.ensure_connection()
    conn = connection.connection
    return int(conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id())


def request_ends() -> None:
    """What Django does at the end of a request."""
    from django.db import close_old_connections

    close_old_connections()
