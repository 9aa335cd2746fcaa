"""The dialects of `create_async_engine`: an AsyncPool's connections as SQLAlchemy's synchronous half uses them.

SQLAlchemy runs that half in a greenlet, and so do we: its dialects, and the pool, are the same ones.
"""

from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect
from sqlalchemy.dialects.postgresql.psycopg import AsyncAdapt_psycopg_connection, PGDialectAsync_psycopg
from sqlalchemy.engine import URL, AdaptedConnection
from sqlalchemy.exc import MissingGreenlet

from ..aio.pool import AsyncPool
from ..aio.waits import in_greenlet
from ..api import core_of
from ..engines.base import FrameworkConnection
from ..errors import ConfigError
from ..pool import ConnectionPool
from .dialect import PooledDialect, names_a_host, password_shown, without_a_host
from .mysql import MysqlDialect
from .postgresql import PostgresDialect

_NO_GREENLET = (
    "a statement had to be sent outside of await, for example to load an attribute when it was read: load it before, "
    "or await AsyncAttrs.awaitable_attrs"
)

if TYPE_CHECKING:
    _Dialect = PooledDialect
else:
    _Dialect = object


@cache
def default_async_pool() -> AsyncPool:
    """The AsyncPool that the environment describes, for each engine without one of its own. Raises ConfigError."""
    return AsyncPool.from_env()


class AsyncDialect(_Dialect):
    """A mixin in front of a PooledDialect: its pool is an AsyncPool."""

    is_async = True
    has_terminate = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._adapted: WeakKeyDictionary[FrameworkConnection, Any] = WeakKeyDictionary()

    def find_pool(self, given: Any, url: URL) -> ConnectionPool:
        if given is None and not names_a_host(url):
            without_a_host(url)
            given = default_async_pool()
        elif given is None:
            given = AsyncPool(password_shown(url))
        return core_of(given)

    def adapt(self, link: FrameworkConnection) -> Any:
        """The connection as SQLAlchemy wants it: always the same object for the same one."""
        found = self._adapted.get(link)
        if found is None:
            found = self._adapted[link] = self.wrap(link.driver_connection)
        return found

    def wrap(self, conn: Any) -> Any:
        """A driver's connection in SQLAlchemy's adapter."""
        raise NotImplementedError

    def get_driver_connection(self, connection: Any) -> Any:
        """The driver's own."""
        return connection._connection


class AsyncPostgresDialect(AsyncDialect, PostgresDialect, PGDialectAsync_psycopg):
    """SQLAlchemy's dialect for psycopg's asyncio half, on a pool."""

    supports_statement_cache = True

    def wrap(self, conn: Any) -> Any:
        """SQLAlchemy's own adapter, which took one argument less in its version 2.0."""
        adapter: Any = AsyncAdapt_psycopg_connection
        try:
            return adapter(self.dbapi, conn)
        except TypeError:
            return adapter(conn)


class AsyncMysqlDialect(AsyncDialect, MysqlDialect):
    """SQLAlchemy's dialect for PyMySQL, whose sockets wait on the event loop."""

    supports_statement_cache = True

    def wrap(self, conn: Any) -> Any:
        """The connection itself, whose cursors can be closed as those of an asyncio driver are."""
        return _Adapted(conn)


class AsyncMariadbDialect(MariaDBDialect, AsyncMysqlDialect):
    """The same for URLs that say MariaDB."""

    supports_statement_cache = True


class _Adapted(AdaptedConnection):
    """PyMySQL's connection. Its methods wait through the greenlet by themselves."""

    __slots__ = ("__weakref__", "_connection")

    def __init__(self, conn: Any) -> None:
        self._connection = conn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def cursor(self, kind: Any = None) -> Any:
        """A new cursor."""
        conn = self._connection
        return conn.cursor(_closable(kind or conn.cursorclass))


@cache
def _closable(base: Any) -> Any:
    class Closable(base):  # type: ignore[misc]
        async def _async_soft_close(self) -> None:
            """Its rows were read already."""

        def execute(self, query: Any, args: Any = None) -> Any:
            """Like the driver's. Raises MissingGreenlet where it would keep the event loop waiting."""
            if not in_greenlet():
                raise MissingGreenlet(_NO_GREENLET, code="xd2s")
            return super().execute(query, args)

    Closable.__name__ = Closable.__qualname__ = base.__name__
    return Closable


def check_pool(pool: Any) -> AsyncPool:
    """Raises ConfigError for anything but an AsyncPool. None: the environment's."""
    if pool is None:
        return default_async_pool()
    if not isinstance(pool, AsyncPool):
        # Not shown: it may be a URL with a password.
        raise ConfigError(
            f"pool is not valid: it must be a lambda_pool.AsyncPool, not {type(pool).__name__}: write "
            "create_async_engine(AsyncPool(url)), or create_engine() for a Pool"
        )
    return pool
