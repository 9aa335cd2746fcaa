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
        """UPDATE counts the rows that it found, which the ORM relies on, besides what the pool's user asks for."""
        flags = self._arguments.get("client_flag", 0) | self.pool.connector.arguments.get("client_flag", 0)
        return {**super().needs(), "client_flag": flags}

    def on_connect(self) -> Any:
        """No SET NAMES: the pool has set the character set when it connected."""
        return None


class MariadbDialect(MariaDBDialect, MysqlDialect):
    """The same for those who say that it is MariaDB, as SQLAlchemy lets them; the first knows it by itself too."""

    supports_statement_cache = True
