"""`create_engine`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional, TypeVar

import sqlalchemy
from sqlalchemy.engine import Engine

from .. import api
from ..errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from ..aio.pool import AsyncPool

E = TypeVar("E")

_THE_POOLS = "the pool opens the connections"
_REFUSED = {
    "connect_args": f"{_THE_POOLS}. Write Pool(..., connect_args={{...}})",
    "async_creator": f"{_THE_POOLS}. Write AsyncPool(url, auth=..., endpoint=...)",
    "creator": f"{_THE_POOLS}. Write Pool(url, auth=..., endpoint=...)",
    "module": f"{_THE_POOLS}, with psycopg or PyMySQL",
    "poolclass": "leave it out, because lambda_pool is the pool",
    "pool": "leave it out, because lambda_pool is the pool",
    "url": "pass the Pool, which has a URL",
    "lambda_pool": "pass the Pool as the first argument",
}


def create_engine(pool: api.Pool | None = None, *, readonly: bool = False, **engine_options: Any) -> Engine:
    """A SQLAlchemy engine whose connections are those of a pool. Opens nothing.

    In: a `Pool` (None: the one that the environment describes); `readonly`: every transaction is read-only, on a
    reader if the pool has one; and the options of `sqlalchemy.create_engine`, except for those of its pool. Raises
    ConfigError. Its connections raise what `Pool.connection()` raises, unwrapped; the driver's errors come as
    SQLAlchemy's own.
    """
    if pool is None:
        pool = api.default_pool()
    if not isinstance(pool, api.Pool):
        # Not shown: it may be a URL with a password.
        raise ConfigError(
            f"pool is not valid: it must be a lambda_pool.Pool, not {type(pool).__name__}: write "
            "create_engine(Pool(url)), or sqlalchemy.create_engine('postgresql+lambda_pool://...')"
        )
    return _create(sqlalchemy.create_engine, pool, readonly, engine_options)


def create_async_engine(
    pool: Optional["AsyncPool"] = None,
    *,
    readonly: bool = False,
    **engine_options: Any,
) -> "AsyncEngine":
    """`create_engine` for asyncio: a SQLAlchemy `AsyncEngine` whose connections are those of an `AsyncPool`.

    In: what `create_engine` takes, but the pool is an AsyncPool (None: the one that the environment describes). Raises
    ConfigError, also without the extra `asyncio`.
    """
    from sqlalchemy.ext import asyncio

    from .asynchronous import check_pool

    return _create(asyncio.create_async_engine, check_pool(pool), readonly, engine_options)


def _create(make: Callable[..., E], pool: Any, readonly: bool, options: dict[str, Any]) -> E:
    for name, instead in _REFUSED.items():
        if name in options:
            raise ConfigError(f"{name} is not valid in {make.__name__}(): {instead}")
    scheme = pool.config.url.engine
    try:
        return make(f"{scheme}+lambda_pool://", lambda_pool=pool, readonly=readonly, **options)
    except (TypeError, sqlalchemy.exc.ArgumentError) as error:
        raise ConfigError(f"{make.__name__}() was given an option that is not valid: {error}") from error
