"""One pool on each engine, and what the contract needs to know of a server: how to count, kill and read its log."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

import lambda_pool
from lambda_pool.testing import MariaDbServer, PostgresServer


@dataclass
class Database:
    """A real server behind the same few questions on both engines."""

    engine: str
    server: Any
    url: str
    table: str
    pools: list[lambda_pool.Pool]

    def pool(self, url: str | None = None, **options: Any) -> lambda_pool.Pool:
        made = lambda_pool.Pool(url or self.url, observers=options.pop("observers", ()), **options)
        self.pools.append(made)
        return made

    def execute(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self.server.execute(sql, *parameters)
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

    def alive(self, backend: int) -> bool:
        if self.engine == "postgresql":
            return bool(self.execute(f"select 1 from pg_stat_activity where pid = {backend}"))
        return bool(self.execute(f"select 1 from information_schema.processlist where id = {backend}"))

    def query(self, conn: Any, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement on a borrowed connection, as each driver's users do."""
        with conn.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def insert(self, conn: Any, number: int) -> None:
        self.query(conn, f"insert into {self.table} values ({number})")


def _database(engine: str, server: Any, url: str) -> Iterator[Database]:
    table = "t" + uuid4().hex[:12]
    found = Database(engine, server, url, table, [])
    innodb = "" if engine == "postgresql" else " engine=innodb"
    found.execute(f"create table {table} (id int primary key){innodb}")
    yield found
    for pool in found.pools:
        pool.close()
    found.execute(f"drop table if exists {table}")


@pytest.fixture(params=["postgresql", "mysql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """The contract's database, once on each engine."""
    if request.param == "postgresql":
        server: Any = request.getfixturevalue("postgres")
        yield from _database("postgresql", server, request.getfixturevalue("pg_url"))
    else:
        server = request.getfixturevalue("mariadb")
        yield from _database("mysql", server, request.getfixturevalue("mysql_url"))


@pytest.fixture
def pg(postgres: PostgresServer, pg_url: str) -> Iterator[Database]:
    yield from _database("postgresql", postgres, pg_url)


@pytest.fixture
def my(mariadb: MariaDbServer, mysql_url: str) -> Iterator[Database]:
    yield from _database("mysql", mariadb, mysql_url)


@pytest.fixture
def own_server(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """A server of the test's own, which it may stop and restart."""

    def start(engine: str) -> Any:
        server: Any = PostgresServer() if engine == "postgresql" else MariaDbServer()
        server.start()
        request.addfinalizer(server.close)
        return server

    return start
