"""Private database servers for tests and the demo: real PostgreSQL, MariaDB and MySQL with TLS, on loopback.

Each server has its own data in a fresh temporary directory and is gone, with the directory, after `close`.
"""

from .base import ServerError, StopMode
from .mariadb import MariaDbServer
from .mysql import MySqlServer
from .postgresql import PostgresServer

__all__ = ["MariaDbServer", "MySqlServer", "PostgresServer", "ServerError", "StopMode"]
