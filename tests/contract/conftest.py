"""One pool on each engine, and what the contract needs to know of a server: how to count, kill and read its log."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import lambda_pool
from lambda_pool.testing import MariaDbServer, MySqlServer, PostgresServer
from tests.conftest import FETCHED
from tests.support.mysql_dialect import as_mysql
from tests.support.speed import FULL


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On genuine MySQL the quick run tries the contract alone, and no run what MySQL has not got."""
    for item in list(items):
        if "genuine_mysql" not in getattr(getattr(item, "callspec", None), "params", {}).values():
            continue
        contract = item.path.name == "test_contract.py" or item.path.parent != Path(__file__).parent
        if item.get_closest_marker("mariadb") or not (FULL or contract):
            items.remove(item)


@dataclass
class Database:
    """A real server behind the same few questions on both engines."""

    engine: str
    server: Any
    url: str
    table: str
    pools: list[lambda_pool.Pool]
    genuine: bool = False
    """MySQL itself, and not MariaDB."""

    def spoken(self, sql: str) -> list[str]:
        """In the server's own dialect."""
        return as_mysql(sql) if self.genuine else [sql]

    def pool(self, url: str | None = None, **options: Any) -> lambda_pool.Pool:
        made = lambda_pool.Pool(url or self.url, observers=options.pop("observers", ()), **options)
        self.pools.append(made)
        return made

    def execute(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        *first, last = self.spoken(sql)
        for each in first:
            self.server.execute(each)
        rows: list[tuple[Any, ...]] = self.server.execute(last, *parameters)
        return rows

    def rows(self) -> list[int]:
        return sorted(row[0] for row in self.execute(f"select id from {self.table}"))

    def backend(self, conn: Any) -> int:
        return int(conn.info.backend_pid if self.engine == "postgresql" else conn.thread_id())

    def kill(self, backend: int) -> None:
        if self.engine == "postgresql":
            self.execute(f"select pg_terminate_backend({backend}, 5000)")
        else:
            self.execute(f"kill {backend}")

    def is_gone(self, backend: int) -> bool:
        """Whether a session has ended, or ends within 5 s: a server takes a moment to notice."""
        sessions = (
            "pg_stat_activity where pid" if self.engine == "postgresql" else "information_schema.processlist where id"
        )
        end = time.monotonic() + 5
        while self.execute(f"select 1 from {sessions} = {backend}"):
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def query(self, conn: Any, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement on a borrowed connection, as each driver's users do."""
        with conn.cursor() as cursor:
            for each in self.spoken(sql):
                cursor.execute(each)
            return list(cursor.fetchall()) if cursor.description else []

    def insert(self, conn: Any, number: int) -> None:
        self.query(conn, f"insert into {self.table} values ({number})")


@cache
def _bound_locks(server: Any) -> None:
    """A test that failed may have left a lock on its table: MySQL would wait for a year to drop that."""
    server.execute("set global lock_wait_timeout = 20")


def _database(engine: str, server: Any, url: str) -> Iterator[Database]:
    table = "t" + uuid4().hex[:12]
    found = Database(engine, server, url, table, [], isinstance(server, MySqlServer))
    innodb = "" if engine == "postgresql" else " engine=innodb"
    if engine == "mysql":
        _bound_locks(server)
    found.execute(f"create table {table} (id int primary key){innodb}")
    yield found
    for pool in found.pools:
        pool.close()
    found.execute(f"drop table if exists {table}")


@pytest.fixture(params=["postgresql", "mysql", "genuine_mysql", *(f"postgresql{each}" for each in (*FETCHED, "18"))])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """The contract's database, once on each server."""
    if request.param == "postgresql":
        server: Any = request.getfixturevalue("postgres")
        yield from _database("postgresql", server, request.getfixturevalue("pg_url"))
    elif request.param == "postgresql18":
        server = request.getfixturevalue("newest_postgres")
        yield from _database("postgresql", server, server.url())
    elif request.param.startswith("postgresql"):
        server = request.getfixturevalue("postgres_of")(request.param.removeprefix("postgresql"))
        yield from _database("postgresql", server, server.url())
    else:
        server = request.getfixturevalue("mariadb" if request.param == "mysql" else "genuine_mysql")
        yield from _database("mysql", server, server.url())


@pytest.fixture
def pg(postgres: PostgresServer, pg_url: str) -> Iterator[Database]:
    yield from _database("postgresql", postgres, pg_url)


@pytest.fixture(params=["mariadb", "genuine_mysql"])
def my(request: pytest.FixtureRequest) -> Iterator[Database]:
    server: Any = request.getfixturevalue(request.param)
    yield from _database("mysql", server, server.url())


@pytest.fixture
def own_server(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """A server of the test's own, which it may stop and restart."""

    def start(engine: str) -> Any:
        server: Any = PostgresServer() if engine == "postgresql" else MariaDbServer()
        server.start()
        request.addfinalizer(server.close)
        return server

    return start
