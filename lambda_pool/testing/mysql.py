"""A private MySQL for tests, the genuine one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import lambda_pool
from lambda_pool.testing.mysql_family import MysqlFamily
from lambda_pool.testing.server import ServerError, enterable

_UNPACKED = Path(".tools/mysql/root")
"""Where the project's own set-up unpacks it."""
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib/x86_64-linux-gnu/private")


class MySqlServer(MysqlFamily):
    """A private MySQL: the machine's own, or one that was unpacked into a folder, with all its libraries."""

    port_taken_text: ClassVar[str] = "Bind on TCP/IP port|Do you already have another mysqld server running on port"
    accounts: ClassVar[tuple[str, ...]] = ("mysql", "nobody")

    def __init__(
        self,
        *,
        extra_config: Sequence[str] = (),
        log_statements: bool = False,
        password: str | None = None,
        max_connections: int = 60,
        certificate_names: Sequence[str] = (),
        root: str | Path | None = None,
    ) -> None:
        """Prepare a server; `start` or a `with` statement starts it.

        The superuser is root, the database `app`. Host names are not resolved: create users as `'name'@'%'`.
        extra_config: options such as `--super-read-only=ON`, after the defaults.
        log_statements: `log` is then the general log: every statement with its connection id.
        root: the folder that a distribution's packages of MySQL and of its libraries were unpacked into; by default
            it is searched for.
        """
        self._root = self.find_root() if root is None else Path(root)
        super().__init__(
            user="root",
            database="app",
            password=password,
            extra_config=extra_config,
            log_statements=log_statements,
            certificate_names=certificate_names,
        )
        if self._root is not None and not enterable(self._root.resolve()):
            self._account = None
        self._max_connections = max_connections

    @staticmethod
    def find_root() -> Path | None:
        """The folder that MySQL was unpacked into; None for a machine that has MySQL itself. Raises ServerError."""
        for folder in (Path.cwd(), Path(lambda_pool.__file__).parent.parent):
            if (folder / _UNPACKED / "usr/sbin/mysqld").is_file():
                return folder / _UNPACKED
        for found in _installed():
            if (
                "MariaDB"
                not in subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
            ):
                return None
        raise ServerError(
            "MySQL was not found: put its mysqld on PATH, or name the folder that it is unpacked in, with root=…"
        )

    def _program(self) -> list[str]:
        if self._root is None:
            return [_installed()[0]]
        # It runs with the libraries that came with it, and their own loader: this system's may be older.
        root = self._root.resolve()
        [loader, *_] = [*root.glob("usr/lib/*/ld-linux-*.so.*"), *root.glob("usr/lib*/ld-linux-*.so.*")]
        libraries = [str(root / folder) for folder in _LIBRARIES if (root / folder).is_dir()]
        return [str(loader), "--library-path", ":".join(libraries), str(root / "usr/sbin/mysqld")]

    @property
    def _settings(self) -> list[str]:
        run = self._run_folder
        settings = ["--no-defaults", f"--datadir={run / 'data'}", f"--tmpdir={run}"]
        if self._root is not None:
            usr = self._root.resolve() / "usr"
            settings += [
                f"--basedir={usr}",
                f"--lc-messages-dir={usr / 'share/mysql'}",
                f"--character-sets-dir={usr / 'share/mysql/charsets'}",
                f"--plugin-dir={usr / 'lib/mysql/plugin'}",
            ]
        if os.geteuid() == 0 and self._account is None:
            settings.append("--user=root")
        return settings

    def _install(self) -> None:
        quick = ["--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=OFF", "--skip-log-bin"]
        self._run([*self._program(), *self._settings, *quick, "--initialize-insecure", "--innodb-redo-log-capacity=8M"])
        password = self.password.replace("\\", "\\\\").replace("'", "\\'")
        self._write_first(
            [
                f"ALTER USER root@localhost IDENTIFIED BY '{password}';",
                f"CREATE USER root@'%' IDENTIFIED BY '{password}';",
                "GRANT ALL PRIVILEGES ON *.* TO root@'%' WITH GRANT OPTION;",
                f"CREATE DATABASE {self.database} CHARACTER SET utf8mb4;",
            ]
        )

    def _command(self) -> list[str]:
        assert self._certificates is not None
        run = self._run_folder
        command = [
            *self._program(),
            *self._settings,
            f"--socket={run / 'socket'}",
            f"--pid-file={run / 'pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--mysqlx=OFF",
            f"--secure-file-priv={run}",
            "--skip-log-bin",
            "--skip-name-resolve",
            f"--max-connections={self._max_connections}",
            f"--ssl-ca={self._certificates.ca}",
            f"--ssl-cert={self._certificates.certificate}",
            f"--ssl-key={self._certificates.key}",
            "--innodb-buffer-pool-size=16M",
            "--innodb-redo-log-capacity=8M",
            # 2: what is committed is handed to the system, not to the disk, so it survives a killed server.
            "--innodb-flush-log-at-trx-commit=2",
            "--performance-schema=OFF",
        ]
        if self._log_statements:
            command += ["--general-log=1", f"--general-log-file={run / 'general.log'}"]
        if self._first_statements.exists():
            command.append(f"--init-file={self._first_statements}")
        return [*command, *self._extra_config]


def _installed() -> list[str]:
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    found = shutil.which("mysqld", path=search)
    return [] if found is None else [found]
