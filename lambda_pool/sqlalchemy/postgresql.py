"""The dialect of `postgresql+lambda_pool://`."""

from typing import ClassVar

from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from .dialect import PooledDialect


class PostgresDialect(PooledDialect, PGDialect_psycopg):
    """SQLAlchemy's dialect for psycopg, on a pool."""

    engine_name = "postgresql"
    unwanted: ClassVar[tuple[str, ...]] = ("row_factory", "cursor_factory", "context")
    supports_statement_cache = True

    @classmethod
    def load_provisioning(cls) -> None:
        """What SQLAlchemy's compliance suite prepares a database with."""
        PGDialect_psycopg.load_provisioning()  # type: ignore[no-untyped-call]
