"""The dialects of `mysql+lambda_pool://` and `mariadb+lambda_pool://`."""

from typing import Any, ClassVar

from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql

from .dialect import PooledDialect


class MysqlDialect(PooledDialect, MySQLDialect_pymysql):
    """SQLAlchemy's dialect for PyMySQL, on a pool."""

    engine_name = "mysql"
    unwanted: ClassVar[tuple[str, ...]] = ("cursorclass",)
    supports_statement_cache = True

    @classmethod
    def load_provisioning(cls) -> None:
        """What SQLAlchemy's compliance suite prepares a database with."""
        MySQLDialect_pymysql.load_provisioning()  # type: ignore[no-untyped-call]

    def needs(self) -> dict[str, Any]:
        """UPDATE must count the rows that it found, as the ORM expects; and what the pool's user asks for."""
        flags = self._arguments.get("client_flag", 0) | self.pool.connector.arguments.get("client_flag", 0)
        return {**super().needs(), "client_flag": flags}

    def do_begin_twophase(self, connection: Any, xid: Any) -> None:
        """XA begins where no transaction is open, so the read-only one of the checkout ends first."""
        if self.readonly:
            self.do_rollback(connection.connection)
        super().do_begin_twophase(connection, xid)

    def on_connect(self) -> Any:
        """No SET NAMES: the pool has set the character set when it connected."""
        return None


class MariadbDialect(MariaDBDialect, MysqlDialect):
    """The same for URLs that say MariaDB, as SQLAlchemy allows; the first also finds that out by itself."""

    supports_statement_cache = True
