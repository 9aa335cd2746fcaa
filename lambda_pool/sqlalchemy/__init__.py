"""SQLAlchemy on a pool: an `Engine` whose connections are the pool's, and a `Session` for each invocation.

`create_engine`, `create_async_engine` and `handler` are public. Importing this package imports SQLAlchemy.
"""

from ..errors import ConfigError

try:
    from sqlalchemy.dialects import registry
except ImportError as _error:
    raise ConfigError(
        f"lambda_pool.sqlalchemy needs SQLAlchemy 2: pip install 'lambda-pool[sqlalchemy]' ({_error})"
    ) from _error

from .engine import create_async_engine, create_engine
from .sessions import handler

__all__ = ["create_async_engine", "create_engine", "handler"]

# Entry points say the same; a deployment package may have lost its metadata.
registry.register("postgresql.lambda_pool", f"{__name__}.postgresql", "PostgresDialect")
registry.register("mysql.lambda_pool", f"{__name__}.mysql", "MysqlDialect")
registry.register("mariadb.lambda_pool", f"{__name__}.mysql", "MariadbDialect")
