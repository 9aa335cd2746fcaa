"""A private MySQL for tests, the genuine one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import lambda_pool
from lambda_pool.testing.mysql_family import MysqlFamily, find_daemon
from lambda_pool.testing.server import ServerError, enterable

_UNPACKED = Path(".tools/mysql/root")
"""Where the project's own set-up unpacks it."""
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib/x86_64-linux-gnu/private")


class MySqlServer(MysqlFamily):
    """A private MySQL: the machine's own, or one that was unpacked into a folder, with all its libraries."""

    port_taken_text: ClassVar[str] = "Bind on TCP/IP port|Do you already have another mysqld server running on port"

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
        """Prepare a server, with the same arguments as MariaDbServer.

        root: the folder that a distribution's packages of MySQL and of its libraries were unpacked into; by default
            it is searched for.
        """
        self._root = self.find_root() if root is None else Path(root)
        super().__init__(
            extra_config=extra_config,
            log_statements=log_statements,
            password=password,
            max_connections=max_connections,
            certificate_names=certificate_names,
        )
        if self._root is not None and not enterable(self._root.resolve()):
            self._account = None

    @staticmethod
    def find_root() -> Path | None:
        """The folder that MySQL was unpacked into; None for a machine that has MySQL itself. Raises ServerError."""
        for folder in (Path.cwd(), Path(lambda_pool.__file__).parent.parent):
            if (folder / _UNPACKED / "usr/sbin/mysqld").is_file():
                return folder / _UNPACKED
        found = find_daemon("mysqld")
        if found is not None:
            said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
            if "MariaDB" not in said:
                return None
        raise ServerError(
            "MySQL was not found: put its mysqld on PATH, or name the folder that it is unpacked in, with root=..."
        )

    def _program(self) -> list[str]:
        if self._root is None:
            return [find_daemon("mysqld") or "mysqld"]
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

    def _daemon(self) -> list[str]:
        assert self._certificates is not None
        return [
            *self._program(),
            *self._settings,
            "--mysqlx=OFF",
            f"--secure-file-priv={self._run_folder}",
            "--skip-log-bin",
            f"--ssl-ca={self._certificates.ca}",
            "--innodb-redo-log-capacity=8M",
        ]

    def _install(self) -> None:
        quick = ["--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=OFF", "--skip-log-bin"]
        self._run([*self._program(), *self._settings, *quick, "--initialize-insecure", "--innodb-redo-log-capacity=8M"])
        self._write_first()
