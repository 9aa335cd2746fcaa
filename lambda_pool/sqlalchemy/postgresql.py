"""The dialect of `postgresql+lambda_pool://`."""

from contextlib import nullcontext
from typing import Any, ClassVar

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

    def set_readonly(self, connection: Any, value: Any) -> None:
        """Like its base. SQLAlchemy also sets it to False to take it back."""
        with nullcontext() if value else self.taking_back(connection):
            super().set_readonly(connection, value)  # type: ignore[no-untyped-call]

    def set_deferrable(self, connection: Any, value: Any) -> None:
        """The same."""
        with nullcontext() if value else self.taking_back(connection):
            super().set_deferrable(connection, value)  # type: ignore[no-untyped-call]
