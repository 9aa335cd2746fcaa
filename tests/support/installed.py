"""What a server's installer makes: made once in a run, and copied for each further server, which costs less."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from lambda_pool.testing import PostgresServer
from lambda_pool.testing.server import Server

FOLDER = "TEST_INSTALLED"
"""The variable by which all processes of a run find the folder with what was made."""

_INSTALLERS = {"initdb", "mariadb-install-db", "mysql_install_db", "--initialize-insecure"}

install = Server._run
"""Runs the installer itself."""


@contextmanager
def installing(way: Callable[[Server, list[str]], None]) -> Iterator[None]:
    """In this block servers are installed by `install`, or by `install_or_copy`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "_run", way)
        yield


def install_or_copy(server: Server, command: list[str]) -> None:
    """Do what `install` does, but only for the first server of a run that has the same installer and options."""
    folder = str(server._folder)
    # Programs that were copied for this server are to show that they run. And a copy of another server is its own.
    if command[0].startswith(folder) or not _INSTALLERS & {Path(command[0]).name, *command}:
        install(server, command)
        return
    options = "\n".join(command).replace(folder, "")
    made = Path(os.environ[FOLDER], hashlib.sha256(options.encode()).hexdigest())
    data = Path(folder, "run", "data")
    with made.with_suffix(".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not made.exists():
            install(server, command)
            _copy(data, made)
            return
    _copy(made, data)
    if isinstance(server, PostgresServer):
        _set_password(server, command)


def _copy(source: Path, target: Path) -> None:
    part = target.with_suffix(".part")
    subprocess.run(["cp", "-a", source, part], check=True)
    (part / "auto.cnf").unlink(missing_ok=True)  # a MySQL's identity
    part.rename(target)


def _set_password(server: PostgresServer, command: list[str]) -> None:
    """What is copied has the password of the server that it was made for. The others get theirs while they start."""
    quoted = server.password.replace("'", "''")
    subprocess.run(
        [Path(command[0]).with_name("postgres"), "--single", "-D", server._data, "postgres"],
        check=True,
        stdout=subprocess.DEVNULL,
        **server._as_account | {"stdin": None, "input": f"ALTER ROLE {server.user} PASSWORD '{quoted}'\n".encode()},
    )
