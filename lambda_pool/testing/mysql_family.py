"""What MariaDB and MySQL have in common: their options, their log, and how a superuser asks them."""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import socket
import ssl
from pathlib import Path
from typing import Any, ClassVar

from lambda_pool.testing.server import Server


class MysqlFamily(Server):
    """A server that speaks MySQL's protocol. Host names are not resolved: create users as `'name'@'%'`."""

    scheme = "mysql"
    user = "root"
    database = "app"
    ready_text = "ready for connections"
    accounts: ClassVar[tuple[str, ...]] = ("mysql", "nobody")

    @abc.abstractmethod
    def _daemon(self) -> list[str]:
        """The daemon with where its files are, and with the options that the other server does not have."""

    @property
    def _run_folder(self) -> Path:
        assert self._folder is not None
        return self._folder / "run"

    @property
    def _first_statements(self) -> Path:
        """Run by the first start."""
        return self._run_folder / "first.sql"

    def _write_first(self, *before: str) -> None:
        password = self.password.replace("\\", "\\\\").replace("'", "\\'")
        statements = [
            *before,
            f"ALTER USER root@localhost IDENTIFIED BY '{password}';",
            f"CREATE USER root@'%' IDENTIFIED BY '{password}';",
            "GRANT ALL PRIVILEGES ON *.* TO root@'%' WITH GRANT OPTION;",
            f"CREATE DATABASE {self.database} CHARACTER SET utf8mb4;",
        ]
        self._first_statements.touch(mode=0o600)
        self._first_statements.write_text("\n".join(statements) + "\n")
        self._give(self._first_statements)

    def _command(self) -> list[str]:
        assert self._certificates is not None
        run = self._run_folder
        command = [
            *self._daemon(),
            f"--socket={run / 'socket'}",
            f"--pid-file={run / 'pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            f"--max-connections={self._max_connections}",
            f"--ssl-cert={self._certificates.certificate}",
            f"--ssl-key={self._certificates.key}",
            "--innodb-buffer-pool-size=16M",
            # 2: what is committed is handed to the system, not to the disk, so it survives a killed server.
            "--innodb-flush-log-at-trx-commit=2",
            "--performance-schema=OFF",
        ]
        if self._log_statements:
            command += ["--general-log=1", f"--general-log-file={run / 'general.log'}"]
        if self._first_statements.exists():
            command.append(f"--init-file={self._first_statements}")
        return [*command, *self._extra_config]

    def _start_once(self) -> bool:
        started = super()._start_once()
        if started:
            self._first_statements.unlink(missing_ok=True)
        return started

    @property
    def log(self) -> str:
        """The general log if `log_statements` was asked for, else the error log."""
        path = self._run_folder / "general.log" if self._folder is not None else self._error_log_path
        return path.read_text(errors="replace") if self._log_statements and path.exists() else self.error_log

    def execute(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser, committed at once; returns the rows, if any."""
        import pymysql

        try:
            line = _greeted(self._known_port)
        except OSError as error:
            raise pymysql.err.OperationalError(2003, f"Can't connect to the server on 'localhost' ({error})") from error
        connection = pymysql.connect(
            host="localhost",
            port=self.port,
            user=self.user,
            password=self.password,
            database=self.database,
            ssl=ssl.create_default_context(cafile=self.ca_path),
            autocommit=True,
            defer_connect=True,
        )
        connection.connect(line)
        self._own.append(connection.thread_id())  # type: ignore[no-untyped-call]
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall())

    def _end_others(self) -> list[int]:
        import pymysql

        rows = self.execute(
            "select id from information_schema.processlist"
            " where id <> connection_id() and command not in ('Daemon', 'Binlog Dump')"
        )
        found = [int(number) for (number,) in rows if number not in self._own]
        for number in found:
            with contextlib.suppress(pymysql.err.OperationalError):  # it ended by itself meanwhile
                self.execute(f"kill {number}")
        return found


def _greeted(port: int) -> socket.socket:
    """A connection whose server has begun to speak; PyMySQL would wait for that for ever. Raises OSError."""
    line = socket.create_connection(("localhost", port), timeout=10)
    try:
        line.recv(1, socket.MSG_PEEK)
    except OSError:
        line.close()
        raise
    line.settimeout(None)
    return line


def find_daemon(*names: str) -> str | None:
    """The first of these programs on PATH, or where an ordinary user's PATH does not lead: among the daemons."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    return next((found for name in names if (found := shutil.which(name, path=search))), None)
