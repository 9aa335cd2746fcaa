"""`create_engine`."""

from typing import Any

import sqlalchemy
from sqlalchemy.engine import Engine

from .. import api
from ..errors import ConfigError

_THE_POOLS = "the pool opens the connections"
_REFUSED = {
    "connect_args": f"{_THE_POOLS}, write Pool(…, connect_args={{…}})",
    "creator": f"{_THE_POOLS}, write Pool(url, auth=…, endpoint=…)",
    "module": f"{_THE_POOLS}, with psycopg or PyMySQL",
    "poolclass": "lambda_pool is the pool, leave it out",
    "pool": "lambda_pool is the pool, leave it out",
    "url": "pass the Pool; its URL stands there",
    "lambda_pool": "pass the Pool as the first argument",
}


def create_engine(pool: api.Pool | None = None, *, readonly: bool = False, **engine_options: Any) -> Engine:
    """A SQLAlchemy engine whose connections are those of a pool. Opens nothing.

    In: a `Pool` (None: the one that the environment describes); `readonly`: every transaction is a read-only one, on a
    reader where the pool has one; and the options of `sqlalchemy.create_engine`, but for those of its pool. Raises
    ConfigError. Its connections raise what `Pool.connection()` raises, unwrapped; the driver's errors come as
    SQLAlchemy's own.
    """
    if pool is None:
        pool = api.default_pool()
    if not isinstance(pool, api.Pool):
        # Not shown: it may be a URL with a password.
        raise ConfigError(
            f"pool is not valid: it must be a lambda_pool.Pool, not {type(pool).__name__}: write "
            "create_engine(Pool(url)), or sqlalchemy.create_engine('postgresql+lambda_pool://…')"
        )
    for name, instead in _REFUSED.items():
        if name in engine_options:
            raise ConfigError(f"{name} is not valid in create_engine(): {instead}")
    scheme = pool.config.url.engine
    try:
        return sqlalchemy.create_engine(
            f"{scheme}+lambda_pool://", lambda_pool=pool, readonly=readonly, **engine_options
        )
    except (TypeError, sqlalchemy.exc.ArgumentError) as error:
        raise ConfigError(f"create_engine() was given an option that is not valid: {error}") from error
