"""A private MariaDB for tests and the demo."""

from __future__ import annotations

from typing import ClassVar

from lambda_pool.testing.mysql_family import MysqlFamily, find_daemon
from lambda_pool.testing.server import ServerError

_LOG_SIZE = "--innodb-log-file-size=8M"
"""Of the installation, too: it would write a hundred megabytes, and the first start would replace them."""


class MariaDbServer(MysqlFamily):
    """A private MariaDB, from the system's packages."""

    port_taken_text: ClassVar[str] = "Bind on TCP/IP port|Do you already have another server running on port"

    @staticmethod
    def find_program(*names: str) -> str:
        """The first of these programs on PATH or among the system's daemons."""
        found = find_daemon(*names)
        if found is None:
            raise ServerError(f"{names[0]} was not found: install the system package mariadb-server")
        return found

    @property
    def _folders(self) -> list[str]:
        # A server that starts clears its temporary directory. In a shared one, that would be other servers' files too.
        return ["--no-defaults", f"--datadir={self._run_folder / 'data'}", f"--tmpdir={self._run_folder}", _LOG_SIZE]

    def _daemon(self) -> list[str]:
        caches = ["--aria-pagecache-buffer-size=4M", "--key-buffer-size=1M"]
        return [self.find_program("mariadbd", "mysqld"), *self._folders, *caches]

    def _install(self) -> None:
        self.find_program("mariadbd", "mysqld")
        installer = self.find_program("mariadb-install-db", "mysql_install_db")
        self._run([installer, *self._folders, "--skip-test-db", "--auth-root-authentication-method=normal", "--force"])
        # These run at the first start. Anonymous users would match before the users that tests create.
        self._write_first(
            "DELETE FROM mysql.global_priv WHERE User NOT IN ('root', 'mariadb.sys') OR Host NOT IN ('localhost');",
            "FLUSH PRIVILEGES;",
        )
