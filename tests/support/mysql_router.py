"""A real MySQL Router in front of a MySqlServer: clients share its connections to the server between transactions."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from lambda_pool.testing import MySqlServer
from lambda_pool.testing.certificates import make_certificates
from lambda_pool.testing.ports import free_ports

ROOT = Path(".tools/mysql-router/root")
_START_SECONDS = 20.0
_START_ATTEMPTS = 5


class MySqlRouter:
    """Listens on 127.0.0.1:`port` while the context lasts, with TLS of its own.

    The program is the one that the project's set-up unpacked. `idle`: how many unused server connections it keeps.
    """

    def __init__(self, server: MySqlServer, *, idle: int = 10) -> None:
        self._server = server
        self._idle = idle
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="mysql-router-", dir="/tmp"))
        self._certificates = make_certificates(self._folder)
        self.port = 0

    def __enter__(self) -> Self:
        try:
            for _ in range(_START_ATTEMPTS):
                if self._start():
                    return self
            raise RuntimeError(f"MySQL Router did not start:\n{self.log}")
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> bool:
        [self.port] = free_ports(1)
        root = ROOT.resolve()
        if not (root / "usr/bin/mysqlrouter").is_file():
            raise RuntimeError("MySQL Router was not found: run scripts/setup.sh mysql-router")
        [loader, *_] = root.glob("usr/lib/*/ld-linux-*.so.*")
        folder, certificates = self._folder, self._certificates
        (folder / "router.conf").write_text(
            f"""
[DEFAULT]
logging_folder =
plugin_folder = {root / "usr/lib/mysqlrouter/plugin"}
runtime_folder = {folder}
data_folder = {folder}

[connection_pool]
max_idle_server_connections = {self._idle}

[routing:shared]
bind_address = 127.0.0.1
bind_port = {self.port}
destinations = 127.0.0.1:{self._server.port}
routing_strategy = first-available
protocol = classic
connection_sharing = 1
connection_sharing_delay = 0
client_ssl_mode = REQUIRED
client_ssl_cert = {certificates.certificate}
client_ssl_key = {certificates.key}
server_ssl_mode = REQUIRED
"""
        )
        libraries = f"{loader.parent}:{root / 'usr/lib/mysql-router'}"
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [loader, "--library-path", libraries, root / "usr/bin/mysqlrouter", "-c", folder / "router.conf"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={"PATH": os.defpath},
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

    def url(self, user: str | None = None, password: str | None = None) -> str:
        """The URL for a user, by default the server's superuser, with pooled=true."""
        login = f"{user or self._server.user}:{quote(password or self._server.password, safe='')}"
        tls = f"sslmode=verify-full&sslrootcert={quote(str(self._certificates.ca))}"
        return f"mysql://{login}@localhost:{self.port}/{self._server.database}?pooled=true&{tls}"

    def close(self) -> None:
        """End it and remove its directory."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
