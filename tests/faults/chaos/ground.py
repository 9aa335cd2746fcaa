"""Where a ledger is written: a real server, with a small disk of its own for the table."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import pymysql

from lambda_pool.testing import MariaDbServer, PostgresServer
from tests.on_lambda.databases import PASSWORD, Database, until
from tests.support.namespace import HOST, Namespace

from .books import Row
from .succession import Successor, writer

SLOTS = 40
"""Connections that the server takes."""
DISK = 256
"""MiB of the disk that holds the table."""

DRIVER_ERRORS = (psycopg.Error, pymysql.MySQLError)


class Ground(Database):
    """One engine's server, with the table `ledger` on a disk of its own that can be filled."""

    def __init__(self, engine: str, namespace: Namespace, *, followed: bool = False) -> None:
        """`followed`: a second server can take over; the table then has no disk of its own, and there is no way in from
        the namespace.
        """
        addresses = f"127.0.0.1,{namespace.server_address}"
        server: PostgresServer | MariaDbServer
        if followed:
            server = writer(engine, SLOTS)
        elif engine == "postgresql":
            server = PostgresServer(
                extra_config=[f"listen_addresses = '{addresses}'"],
                hba=[f"host all all {namespace.network} scram-sha-256"],
                max_connections=SLOTS,
                certificate_names=[HOST],
            )
        else:
            server = MariaDbServer(
                extra_config=[f"--bind-address={addresses}"], max_connections=SLOTS, certificate_names=[HOST]
            )
        super().__init__(server)
        self.namespace = namespace
        self._followed = followed
        self._stack = ExitStack()
        self._disk = Path()
        self._crowd: list[Any] = []
        self._columns = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if not self._followed:
                self._disk = stack.enter_context(_disk(self.server._account))
            stack.enter_context(self.server)
            stack.callback(self.close)
            if self._followed:
                self._successor = Successor(self.server, SLOTS)
                stack.callback(self._successor.server.close)
            stack.callback(self.leave)
            self._create()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _create(self) -> None:
        # Without any key: a row that was written twice must be able to be there twice.
        columns = "unit varchar(60) not null, part int not null, payload {} not null"
        if self.engine == "postgresql":
            if not self._followed:
                self.execute(f"create tablespace small location '{self._disk}'")
            where = "" if self._followed else "tablespace small"
            self.execute(f"create table ledger ({columns.format('text')}) {where}")
            # Not compressed, and beside the table only if it must be.
            self.execute("alter table ledger alter payload set storage external")
        else:
            where = "" if self._followed else f"data directory='{self._disk}'"
            self.execute(f"create table ledger ({columns.format('mediumtext')}) engine=innodb {where}")
        self.execute("create table tally (who varchar(60) not null primary key, v int not null)")
        self.user("crowd")

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser; a connection that was lost with its server is opened again."""
        last = time.monotonic() + 10
        while True:
            try:
                return super().execute(sql)
            except DRIVER_ERRORS:
                lost = self._admin is None or (
                    self._admin.closed if self.engine == "postgresql" else not self._admin.open
                )
                if not lost or time.monotonic() > last:
                    raise
                self._admin = None
                time.sleep(0.02)

    def user(self, name: str) -> None:
        """Make a user who may write to the tables, and nothing that only administrators may.

        With a row in `tally`, and with a table to read, `catalog_…`, whose schema changes.
        """
        engine = "" if self.engine == "postgresql" else "engine=innodb"
        self.execute(f"create table catalog_{name} (id int not null primary key) {engine}")
        self.execute(f"insert into catalog_{name} values (1)")
        self.execute(f"insert into tally values ('{name}', 0)")
        if self.engine == "postgresql":
            self.execute(f"create role {name} login password '{PASSWORD}'")
            self.execute(f"grant insert on ledger to {name}")
            self.execute(f"grant select, update on tally to {name}")
            self.execute(f"grant select on catalog_{name} to {name}")
        else:
            self.execute(f"create user {name}@'%' identified by '{PASSWORD}'")
            rights = "insert, select, update, create temporary tables"
            self.execute(f"grant {rights} on {self.server.database}.* to {name}@'%'")

    def add_column(self, name: str) -> None:
        """Change the schema of a user's table, as a migration does. MySQL copies the table two times of three."""
        self._columns += 1
        how = ", algorithm=copy" if self.engine == "mysql" and self._columns % 3 != 2 else ""
        self.execute(f"alter table catalog_{name} add column column{self._columns} int{how}")

    def end_open_transactions(self, name: str) -> None:
        """End a user's sessions that are in a transaction: their client is gone, but the server does not know it."""
        if self.engine == "postgresql":
            self.execute(
                f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '{name}' "
                "and xact_start is not null"
            )
            return
        there = self._open_transactions(name)
        if there:
            time.sleep(0.15)  # the list is up to 0.1 s old, and a session that is idle by now is somebody's
            for session in there & self._open_transactions(name):
                with suppress(*DRIVER_ERRORS):  # it may have ended by itself
                    self.execute(f"kill {session}")

    def _open_transactions(self, name: str) -> set[int]:
        found = self.execute(
            "select trx_mysql_thread_id from information_schema.innodb_trx "
            f"join information_schema.processlist on id = trx_mysql_thread_id where user = '{name}'"
        )
        return {int(session) for (session,) in found}

    def set_password(self, name: str, password: str) -> None:
        """Change a user's password."""
        if self.engine == "postgresql":
            # Also during a failover, when new transactions are read-only.
            self.execute("set default_transaction_read_only = off")
            self.execute(f"alter role {name} password '{password}'")
        else:
            self.execute(f"alter user {name}@'%' identified by '{password}'")

    def rows(self) -> Iterator[Row]:
        """All that the table holds."""
        for unit, part in self.execute("select unit, part from ledger"):
            yield str(unit), int(part)

    # --- what can happen to sessions and to the server ----------------------------------------------------------------

    def end_sessions(self, name: str) -> None:
        """The server ends a user's sessions; returns once they are gone."""
        if self.engine == "postgresql":
            self.execute(f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '{name}'")
        else:
            there = self.sessions(name)
            self.execute(f"kill user {name}")
            until(lambda: not there & self.sessions(name), 5)

    def ports(self, name: str) -> list[int]:
        """Where a user's sessions come from."""
        if self.engine == "postgresql":
            found = self.execute(f"select client_port from pg_stat_activity where usename = '{name}'")
            return [int(port) for (port,) in found]
        found = self.execute(f"select host from information_schema.processlist where user = '{name}'")
        return [int(host.rpartition(":")[2]) for (host,) in found]

    def cancel_statements(self, name: str) -> None:
        """The server ends the statements that a user's sessions are running, but not the sessions."""
        if self.engine == "postgresql":
            self.execute(f"select pg_cancel_backend(pid) from pg_stat_activity where usename = '{name}'")
        else:
            self.execute(f"kill query user {name}")

    def fill_slots(self, names: list[str]) -> None:
        """End these users' sessions, and take every connection that the server has for ordinary users."""
        self._enter_all()
        for name in names:
            self.end_sessions(name)
            self._enter_all()

    def _enter_all(self) -> None:
        for _ in range(2 * SLOTS):
            try:
                self._crowd.append(self._enter_one())
            except DRIVER_ERRORS:
                return
        raise AssertionError("the server takes more connections than it was told to")

    def _enter_one(self) -> Any:
        if self.engine == "postgresql":
            return psycopg.connect(
                host="127.0.0.1",
                port=self.server.port,
                user="crowd",
                password=PASSWORD,
                dbname=self.server.database,
                sslmode="disable",
                connect_timeout=5,
            )
        return pymysql.connect(
            host="127.0.0.1",
            port=self.server.port,
            user="crowd",
            password=PASSWORD,
            database=self.server.database,
            ssl_disabled=True,
            connect_timeout=5,
        )

    def leave(self) -> None:
        """Give all of the slots back."""
        while self._crowd:
            self._crowd.pop().close()

    def read_only(self, on: bool) -> None:
        """Make it a reader, as a writer becomes in a failover; or a writer again."""
        if self.engine == "postgresql":
            self.execute(f"alter system set default_transaction_read_only = {'on' if on else 'off'}")
            self.execute("select pg_reload_conf()")
        else:
            self.execute(f"set global read_only = {int(on)}")

    def follow(self) -> None:
        """From now on, a commit is acknowledged only after the second server has received it."""
        self._successor.follow()

    def take_over(self) -> None:
        """Let the second server take the place of the first, which must be gone."""
        self._successor.take_over()
        self.close()
        self._admin = None
        self.server = self._successor.server

    def fill_disk(self) -> None:
        """Leave no free byte on the table's disk."""
        size = 0
        with self._filler.open("wb") as file:
            for _ in range(100):  # the server writes at the same time, so less is free than it said
                found = os.statvfs(self._disk)
                free = found.f_bavail * found.f_frsize
                if not free:
                    return
                with suppress(OSError):
                    os.posix_fallocate(file.fileno(), size, free)
                    size += free
        raise AssertionError("the disk does not fill")

    def empty_disk(self) -> None:
        """Free again what `fill_disk` took."""
        self._filler.unlink(missing_ok=True)

    @property
    def _filler(self) -> Path:
        return self._disk / "filler"


@contextmanager
def _disk(account: Any) -> Iterator[Path]:
    """A file system in memory, of a known size, that belongs to the server's account. For root on Linux."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-disk-"))
    owner = f"uid={account.pw_uid},gid={account.pw_gid},mode=0700" if account is not None else "mode=0700"
    try:
        folder.chmod(0o755)
        disk = folder / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m,{owner}", "ledger", str(disk)], check=True)
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
            disk.rmdir()
    finally:
        folder.rmdir()
