"""What MariaDB and MySQL have in common: their log, and how a superuser asks them."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import Any

from lambda_pool.testing.server import Server


class MysqlFamily(Server):
    """A server that speaks MySQL's protocol."""

    scheme = "mysql"
    ready_text = "ready for connections"

    @property
    def _run_folder(self) -> Path:
        assert self._folder is not None
        return self._folder / "run"

    @property
    def _first_statements(self) -> Path:
        """Run by the first start."""
        return self._run_folder / "first.sql"

    def _write_first(self, statements: list[str]) -> None:
        self._first_statements.touch(mode=0o600)
        self._first_statements.write_text("\n".join(statements) + "\n")
        self._give(self._first_statements)

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

        connection = pymysql.connect(
            host="localhost",
            port=self.port,
            user=self.user,
            password=self.password,
            database=self.database,
            ssl=ssl.create_default_context(cafile=self.ca_path),
            autocommit=True,
            connect_timeout=10,
        )
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
