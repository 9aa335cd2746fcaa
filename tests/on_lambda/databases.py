"""A real server, and the few questions that these tests ask it, the same for both engines."""

import ssl
import time
from collections.abc import Callable
from threading import Lock
from typing import Any

import psycopg
import pymysql

from lambda_pool.testing import MariaDbServer, MySqlServer, PostgresServer
from lambda_pool.testing.server import Server
from tests.support.namespace import HOST, Namespace

PASSWORD = "test"


class Database:
    """One engine's server, reachable on loopback and from inside the namespace, as a user of the test's own."""

    def __init__(self, server: Server) -> None:
        self.server: Any = server
        self.engine = "postgresql" if isinstance(server, PostgresServer) else "mysql"
        self._lock = Lock()
        self._admin: Any = None

    def user(self, name: str) -> None:
        """Make a user, so that its sessions can be told from those of others."""
        if self.engine == "postgresql":
            self.execute(f"drop role if exists {name}")
            self.execute(f"create role {name} login superuser password '{PASSWORD}'")
        else:
            self.execute(f"drop user if exists {name}@'%'")
            self.execute(f"create user {name}@'%' identified by '{PASSWORD}'")
            self.execute(f"grant all on *.* to {name}@'%'")

    def lock(self, name: str) -> None:
        """Refuse a user until `unlock`."""
        if self.engine == "postgresql":
            self.execute(f"alter role {name} nologin")
        else:
            self.execute(f"alter user {name}@'%' account lock")

    def unlock(self, name: str) -> None:
        """Accept a user again."""
        if self.engine == "postgresql":
            self.execute(f"alter role {name} login")
        else:
            self.execute(f"alter user {name}@'%' account unlock")

    def url(self, name: str, *, inside: bool = False, **query: str) -> str:
        """The URL for a user, as seen from this machine or from inside the namespace."""
        host = HOST if inside else "localhost"
        return str(self.server.url(user=name, password=PASSWORD, host=host, **query))

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser, on a connection that stays open: a question takes a millisecond."""
        with self._lock:
            if self._admin is None:
                self._admin = self._connect()
            try:
                with self._admin.cursor() as cursor:
                    cursor.execute(sql)
                    return list(cursor.fetchall()) if cursor.description else []
            except BaseException:  # a test's time limit, for one: the answer would be taken for the next question's
                self.close()
                raise

    def _connect(self) -> Any:
        if self.engine == "postgresql":
            return psycopg.connect(self.server.url(), autocommit=True)
        return pymysql.connect(
            host="localhost",
            port=self.server.port,
            user=self.server.user,
            password=self.server.password,
            database=self.server.database,
            ssl=ssl.create_default_context(cafile=self.server.ca_path),
            autocommit=True,
        )

    def close(self) -> None:
        """Close the superuser's connection."""
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()

    def sessions(self, name: str) -> set[int]:
        """The backends of a user."""
        if self.engine == "postgresql":
            found = self.execute(f"select pid from pg_stat_activity where usename = '{name}'")
        else:
            found = self.execute(f"select id from information_schema.processlist where user = '{name}'")
        return {int(row[0]) for row in found}

    def port(self, backend: int) -> int:
        """The port that a backend's client comes from."""
        if self.engine == "postgresql":
            return int(self.execute(f"select client_port from pg_stat_activity where pid = {backend}")[0][0])
        found = self.execute(f"select host from information_schema.processlist where id = {backend}")
        return int(found[0][0].rpartition(":")[2])

    def kill(self, backend: int) -> None:
        """End a session from the server's side, politely."""
        if self.engine == "postgresql":
            self.execute(f"select pg_terminate_backend({backend}, 5000)")
        else:
            self.execute(f"kill {backend}")

    def running(self, statement: str) -> int:
        """How many sessions run this very statement."""
        if self.engine == "postgresql":
            where = f"pg_stat_activity where state = 'active' and query = '{statement}'"
        else:
            where = f"information_schema.processlist where info = '{statement}'"
        return int(self.execute(f"select count(*) from {where}")[0][0])

    @property
    def sleeper(self) -> str:
        """A statement that takes a minute."""
        return "select pg_sleep(60)" if self.engine == "postgresql" else "select sleep(60)"

    def impolite(self, user: str = "") -> int:
        """How many clients (of `user`, where the server says whose) have gone without Terminate or COM_QUIT."""
        if self.engine == "postgresql":
            # If no transaction was open, PostgreSQL says so only at debug level 1.
            lines = self.server.error_log.splitlines()
            return sum("unexpected EOF on client connection" in line and f"{user}@" in line for line in lines)
        return int(self.execute("show global status like 'Aborted_clients'")[0][1])


def open_servers(namespace: Namespace) -> tuple[PostgresServer, MariaDbServer]:
    """Both servers, not started, listening on loopback and at the namespace's door, with room for a hundred clients."""
    addresses = f"127.0.0.1,{namespace.server_address}"
    postgres = PostgresServer(
        extra_config=[f"listen_addresses = '{addresses}'", "log_min_messages = debug1"],
        hba=[f"host all all {namespace.network} scram-sha-256"],
        max_connections=150,
        certificate_names=[HOST],
    )
    mariadb = MariaDbServer(extra_config=[f"--bind-address={addresses}"], max_connections=150, certificate_names=[HOST])
    return postgres, mariadb


def genuine_mysql(namespace: Namespace) -> MySqlServer:
    """The same for MySQL itself."""
    addresses = f"127.0.0.1,{namespace.server_address}"
    return MySqlServer(extra_config=[f"--bind-address={addresses}"], max_connections=150, certificate_names=[HOST])


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Seconds until the condition holds; fails if that takes longer than allowed."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds} s"
        time.sleep(0.002)
    return time.monotonic() - start
