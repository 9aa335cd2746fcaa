"""A real PgBouncer in transaction mode in front of a PostgresServer (Debian's package pgbouncer)."""

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

from lambda_pool.testing import PostgresServer
from lambda_pool.testing.certificates import make_certificates
from lambda_pool.testing.ports import free_ports

_ACCOUNTS = ("postgres", "nobody")
_START_SECONDS = 20.0
_START_ATTEMPTS = 5


class PgBouncer:
    """Listens on 127.0.0.1:`port` while the context lasts, for the server's superuser and for those in `passwords`.

    `tls`: clients must encrypt. `newest`: the one that the project's set-up unpacked.
    `settings`: further lines for pgbouncer.ini, such as default_pool_size.
    """

    def __init__(
        self,
        server: PostgresServer,
        passwords: Mapping[str, str] | None = None,
        *,
        tls: bool = False,
        newest: bool = False,
        **settings: object,
    ) -> None:
        self._server = server
        self._passwords = {server.user: server.password, **(passwords or {})}
        self._tls = tls
        self._newest = newest
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        self.port = 0
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-", dir="/tmp"))
        self.ca_path = self._folder / "ca.crt"

    def __enter__(self) -> Self:
        try:
            self._prepare()
            for _ in range(_START_ATTEMPTS):
                if self._start():
                    return self
            raise RuntimeError(f"pgbouncer did not start:\n{self.log}")
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        make_certificates(self._folder)
        (self._folder / "ca.key").unlink()
        # The passwords are in plain text, because it also logs in to the server with them.
        lines = [f'"{name}" "{password}"\n' for name, password in self._passwords.items()]
        (self._folder / "users.txt").write_text("".join(lines))
        self._program = _unpacked(self._folder) if self._newest else _installed()
        if os.geteuid() == 0:  # it refuses to run as root
            account = next(pwd.getpwnam(name) for name in _ACCOUNTS if _exists(name))
            for path in [self._folder, *self._folder.rglob("*")]:
                os.chown(path, account.pw_uid, account.pw_gid)
            self._as = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def _start(self) -> bool:
        [self.port] = free_ports(1)
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": self._folder / "users.txt",
            "admin_users": self._server.user,
            "pool_mode": "transaction",
            "server_tls_sslmode": "require",
            "client_tls_sslmode": "require" if self._tls else "disable",
            "client_tls_key_file": self._folder / "server.key",
            "client_tls_cert_file": self._folder / "server.crt",
            **self._settings,
        }
        lines = ["[databases]", f"* = host=127.0.0.1 port={self._server.port}", "[pgbouncer]"]
        ini = self._folder / "pgbouncer.ini"
        ini.write_text("\n".join([*lines, *(f"{name} = {value}" for name, value in settings.items()), ""]))
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._program, str(ini)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                **self._as,
            )
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return True
            time.sleep(0.01)
        return False

    @property
    def log(self) -> str:
        """Its log so far."""
        return (self._folder / "log").read_text(errors="replace")

    def url(self, user: str | None = None, *, pooled: bool = True, port: int | None = None, **query: str) -> str:
        """The URL for a user, by default the server's superuser. `port`: another port that leads here."""
        user = user or self._server.user
        tls = {"sslmode": "verify-full", "sslrootcert": str(self.ca_path)} if self._tls else {"sslmode": "disable"}
        query = {**({"pooled": "true"} if pooled else {}), **tls, **query}
        login = f"{user}:{quote(self._passwords[user], safe='')}"
        where = f"localhost:{port or self.port}/{self._server.database}"
        return f"postgresql://{login}@{where}?{urlencode(query)}"

    def admin(self, command: str) -> list[dict[str, Any]]:
        """Run a command of its console, such as `SHOW SERVERS`."""
        import psycopg
        from psycopg.rows import dict_row

        where = {"host": "localhost", "port": self.port, "dbname": "pgbouncer", "sslmode": "prefer"}
        login = {"user": self._server.user, "password": self._server.password}
        with psycopg.connect(**where, **login, autocommit=True, row_factory=dict_row) as conn:  # type: ignore[arg-type]
            # The console speaks only the simple protocol.
            cursor = psycopg.ClientCursor(conn, row_factory=dict_row)
            cursor.execute(command.encode())
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """End it and remove its directory."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _installed() -> list[str]:
    daemon = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if daemon is None:
        raise RuntimeError("pgbouncer was not found: install the system package pgbouncer")
    return [daemon]


def _unpacked(folder: Path) -> list[str]:
    """Copies of the program, its loader and its libraries, in a place where the account that runs it may read them."""
    root = Path(".tools/pgbouncer/root")
    if not (root / "usr/sbin/pgbouncer").is_file():
        raise RuntimeError("the newest PgBouncer was not found: run scripts/setup.sh pgbouncer")
    [loader] = [*root.glob("usr/lib/*/ld-linux-*.so.*")][:1]
    command = [str(loader), "--library-path", str(loader.parent), "--list", str(root / "usr/sbin/pgbouncer")]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (folder / "lib").mkdir()
    for path in [loader, root / "usr/sbin/pgbouncer", *re.findall(r"=> (\S+)", listed)]:
        shutil.copy(path, folder / "lib")
    return [str(folder / "lib" / loader.name), "--library-path", str(folder / "lib"), str(folder / "lib" / "pgbouncer")]


def _exists(account: str) -> bool:
    try:
        pwd.getpwnam(account)
    except KeyError:
        return False
    return True
