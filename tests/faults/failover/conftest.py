"""Two real servers of which the second takes over from the first."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pymysql
import pytest

from lambda_pool.testing import MariaDbServer, MySqlServer, PostgresServer
from lambda_pool.testing.server import Server
from tests.support.standby import StandbyServer, primary

FATES = ["stopped", "killed", "demoted"]
"""What happens to the old writer: it ends its sessions; it is gone; or it goes on as a reader, without notice."""

DRIVER_ERRORS = (psycopg.Error, pymysql.MySQLError)


class Pair:
    """`old` writes, until `fail_over`; then `new` does."""

    def __init__(self, engine: str, old: Server, new: Server) -> None:
        self.engine = engine
        self.old = old
        self.new = new

    def url(self, host: str = "localhost", port: int | None = None) -> str:
        """The URL for the user `app`; by default at the old server."""
        # Each has its own authority, so the connection is only encrypted.
        return f"{self.old.scheme}://app:app@{host}:{port or self.old.port}/{self.old.database}?sslmode=require"

    def fail_over(self, fate: str) -> None:
        """First `fate` happens to the old one, then the new one takes over."""
        if isinstance(self.new, StandbyServer):
            self.new.follow()
        if fate == "stopped":
            self.old.stop("fast")
        elif fate == "killed":
            self.old.kill()
        elif isinstance(self.old, PostgresServer):
            self.old.execute("alter system set default_transaction_read_only = on")
            self.old.execute("select pg_reload_conf()")
            time.sleep(0.2)  # every session is sent the signal, and notices it at its next statement
        else:
            self.old.execute("set global read_only = 1")
        if isinstance(self.new, StandbyServer):
            self.new.promote()

    def rows(self) -> list[int]:
        """The rows of the new writer."""
        return sorted(row[0] for row in self.new.execute("select id from orders"))

    def insert(self, conn: Any, number: int) -> int:
        """Write one row; returns the port of the server that took it."""
        with conn.cursor() as cursor:
            cursor.execute(f"insert into orders values ({number})")
            cursor.execute("select inet_server_port()" if self.engine == "postgresql" else "select @@port")
            return int(cursor.fetchone()[0])


def _postgres(stack: ExitStack) -> Pair:
    old = stack.enter_context(primary())
    old.execute("create role app login password 'app'")
    old.execute("create table orders (id int)")
    old.execute("grant all on orders to app")
    return Pair("postgresql", old, stack.enter_context(StandbyServer(old)))


def _mysql(kind: type[MariaDbServer | MySqlServer]) -> Iterator[Pair]:
    with kind() as old, kind() as new:
        for server in (old, new):
            server.execute("create user app@'%' identified by 'app'")
            server.execute("create table orders (id int) engine=innodb")
            # No right that would let it write to a read-only server.
            server.execute("grant select, insert on app.* to app@'%'")
        yield Pair("mysql", old, new)


@pytest.fixture(scope="session")
def mariadb_pair() -> Iterator[Pair]:
    yield from _mysql(MariaDbServer)


@pytest.fixture(scope="session")
def genuine_pair() -> Iterator[Pair]:
    yield from _mysql(MySqlServer)


def _anew(pair: Pair) -> Pair:
    """Both servers in their first state."""
    for server in (pair.old, pair.new):
        if server.pid is None:
            server.start()
        server.execute("set global read_only = 0")
        server.execute("delete from orders")
    return pair


@pytest.fixture(params=["mysql", "genuine_mysql"])
def my_pair(request: pytest.FixtureRequest) -> Pair:
    return _anew(request.getfixturevalue("mariadb_pair" if request.param == "mysql" else "genuine_pair"))


@pytest.fixture
def pg_pair() -> Iterator[Pair]:
    """New for each test: no server can be promoted twice."""
    with ExitStack() as stack:
        yield _postgres(stack)


@pytest.fixture(params=["postgresql", "mysql", "genuine_mysql"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Of each kind of server in turn."""
    if request.param == "postgresql":
        found: Pair = request.getfixturevalue("pg_pair")
        return found
    return _anew(request.getfixturevalue("mariadb_pair" if request.param == "mysql" else "genuine_pair"))
