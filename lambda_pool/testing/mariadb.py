"""A private MariaDB for tests and the demo."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import ClassVar

from lambda_pool.testing.mysql_family import MysqlFamily
from lambda_pool.testing.server import ServerError


class MariaDbServer(MysqlFamily):
    """A private MariaDB, from the system's packages."""

    port_taken_text: ClassVar[str] = "Bind on TCP/IP port|Do you already have another server running on port"
    accounts: ClassVar[tuple[str, ...]] = ("mysql", "nobody")

    def __init__(
        self,
        *,
        extra_config: Sequence[str] = (),
        log_statements: bool = False,
        password: str | None = None,
        max_connections: int = 60,
        certificate_names: Sequence[str] = (),
    ) -> None:
        """Prepare a server; `start` or a `with` statement starts it.

        The superuser is root, the database `app`. Host names are not resolved: create users as `'name'@'%'`.
        extra_config: options such as `--wait-timeout=2`, after the defaults.
        log_statements: `log` is then the general log: every statement with its connection id.
        """
        super().__init__(
            user="root",
            database="app",
            password=password,
            extra_config=extra_config,
            log_statements=log_statements,
            certificate_names=certificate_names,
        )
        self._max_connections = max_connections
        self._daemon = ""

    @staticmethod
    def find_program(*names: str) -> str:
        """The first of these programs on PATH or among the system's daemons."""
        # An ordinary user's PATH has no sbin directory, which is where the daemon is.
        search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
        for name in names:
            found = shutil.which(name, path=search)
            if found:
                return found
        raise ServerError(f"{names[0]} was not found: install the system package mariadb-server")

    def _install(self) -> None:
        self._daemon = self.find_program("mariadbd", "mysqld")
        installer = self.find_program("mariadb-install-db", "mysql_install_db")
        # A server that starts clears its temporary directory. In a shared one, that would be other servers' files too.
        data = ["--no-defaults", f"--datadir={self._run_folder / 'data'}", f"--tmpdir={self._run_folder}"]
        self._run([installer, *data, "--skip-test-db", "--auth-root-authentication-method=normal", "--force"])
        # These run at the first start. Anonymous users would match before the users that tests create.
        password = self.password.replace("\\", "\\\\").replace("'", "\\'")
        statements = [
            "DELETE FROM mysql.global_priv WHERE User NOT IN ('root', 'mariadb.sys') OR Host NOT IN ('localhost');",
            "FLUSH PRIVILEGES;",
            f"ALTER USER root@localhost IDENTIFIED BY '{password}';",
            f"CREATE USER root@'%' IDENTIFIED BY '{password}';",
            "GRANT ALL PRIVILEGES ON *.* TO root@'%' WITH GRANT OPTION;",
            f"CREATE DATABASE {self.database} CHARACTER SET utf8mb4;",
        ]
        self._write_first(statements)

    def _command(self) -> list[str]:
        assert self._certificates is not None
        run = self._run_folder
        command = [
            self._daemon,
            "--no-defaults",
            f"--datadir={run / 'data'}",
            f"--tmpdir={run}",
            f"--socket={run / 'socket'}",
            f"--pid-file={run / 'pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            f"--max-connections={self._max_connections}",
            f"--ssl-cert={self._certificates.certificate}",
            f"--ssl-key={self._certificates.key}",
            "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=8M",
            # 2: what is committed is handed to the system, not to the disk, so it survives a killed server.
            "--innodb-flush-log-at-trx-commit=2",
            "--aria-pagecache-buffer-size=4M",
            "--key-buffer-size=1M",
            "--performance-schema=OFF",
        ]
        if self._log_statements:
            command += ["--general-log=1", f"--general-log-file={run / 'general.log'}"]
        if self._first_statements.exists():
            command.append(f"--init-file={self._first_statements}")
        return [*command, *self._extra_config]
