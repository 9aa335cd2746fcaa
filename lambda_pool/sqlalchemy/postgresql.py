"""The dialect of `postgresql+lambda_pool://`."""

from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from .dialect import PooledDialect


class PostgresDialect(PooledDialect, PGDialect_psycopg):
    """SQLAlchemy's dialect for psycopg, on a pool."""

    driver = "lambda_pool"
    engine_name = "postgresql"
    unwanted = ("row_factory", "cursor_factory", "context")
    supports_statement_cache = True
