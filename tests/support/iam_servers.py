"""Database servers that let users in only with genuine IAM tokens, over TLS, checked in the same way as by RDS.

The check is PAM's, in Python (Debian's package libpam-python), so this needs root to write a file to /etc/pam.d.
"""

import contextlib
import json
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from lambda_pool.testing.mariadb import MariaDbServer
from lambda_pool.testing.mysql import MySqlServer
from lambda_pool.testing.mysql_family import MysqlFamily
from lambda_pool.testing.postgres import PostgresServer

REGION = "eu-central-1"
USERS = ("app", "bob")
RDS_HOST = f"orders.c0ffee123456.{REGION}.rds.amazonaws.com"
"""A name like those of RDS, which the servers' certificates carry besides `localhost`."""


class TokenChecker:
    """A PAM service that accepts any token signed with a key in `keys` for an endpoint in `authorities`."""

    def __init__(self) -> None:
        # Unique, because the whole machine shares the directory of PAM services.
        self.service = f"lambda-pool-test-{secrets.token_hex(8)}"
        self.authorities: list[str] = []
        self.keys: dict[str, dict[str, str | None]] = {}
        self.travel = 0.0
        """By how many seconds the server's clock is ahead of the machine's."""
        self._folder = Path(tempfile.mkdtemp(prefix="iam-checker-"))
        self._file = Path("/etc/pam.d") / self.service

    def __enter__(self) -> Self:
        # The servers run as other users, and load the checker and its rules from here.
        self._folder.chmod(0o755)
        checker = self._folder / "iam_checker.py"
        shutil.copy(Path(__file__).with_name("iam_checker.py"), checker)
        checker.chmod(0o644)
        self._log.touch()
        self._log.chmod(0o666)
        self.write()
        module = f"required pam_python.so {checker} {self._rules}"
        self._file.write_text(f"auth {module}\naccount {module}\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _rules(self) -> Path:
        return self._folder / "rules.json"

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    @property
    def command(self) -> str:
        """The program that decides by the same rules."""
        return f"/usr/bin/python3 {self._folder / 'iam_checker.py'} {self._rules}"

    def write(self) -> None:
        """Give the rules to the servers, for the next login and later ones."""
        rules = {
            "authorities": self.authorities,
            "keys": self.keys,
            "region": REGION,
            "travel": self.travel,
            "log": str(self._log),
        }
        temporary = self._rules.with_suffix(".new")
        temporary.write_text(json.dumps(rules))
        temporary.chmod(0o644)
        temporary.replace(self._rules)

    def reset(self, access_key: str, secret_key: str, session_token: str | None) -> None:
        """Back to one key, no shift of the clock, and an empty log."""
        self.keys = {access_key: {"secret_key": secret_key, "session_token": session_token}}
        self.travel = 0.0
        self._log.write_text("")
        self.write()

    @property
    def verdicts(self) -> list[str]:
        """One line for each login so far: the user, the token's length, and `let in` or why not."""
        return self._log.read_text().splitlines()


class IamServer:
    """A server with its checker, and the facts that a client needs."""

    def __init__(self, server: PostgresServer | MysqlFamily, checker: TokenChecker) -> None:
        self.server = server
        self.checker = checker
        self.scheme = server.scheme

    @property
    def port(self) -> int:
        """Where the server listens, on 127.0.0.1."""
        return self.server.port

    @property
    def ca(self) -> str:
        """The PEM file with which a client verifies the server."""
        return str(self.server.ca_path)

    def url(self, user: str = "app", *, host: str = "localhost", sslmode: str = "verify-full") -> str:
        """The URL for a user without a password."""
        return self.server.url(user, host=host, sslmode=sslmode)


def _open(server: PostgresServer | MysqlFamily, checker: TokenChecker) -> IamServer:
    checker.authorities = [f"localhost:{server.port}", f"{RDS_HOST}:{server.port}"]
    checker.write()
    return IamServer(server, checker)


@contextlib.contextmanager
def iam_postgres() -> Iterator[IamServer]:
    """A PostgreSQL whose users `app` and `bob` log in with IAM tokens, and only over TLS."""
    with TokenChecker() as checker:
        rules = [f"hostssl all {','.join(USERS)} 127.0.0.1/32 pam pamservice={checker.service}"]
        with PostgresServer(hba=rules, certificate_names=[RDS_HOST], log_statements=True) as server:
            for user in USERS:
                server.execute(f"CREATE ROLE {user} LOGIN")
            yield _open(server, checker)


@contextlib.contextmanager
def iam_mariadb() -> Iterator[IamServer]:
    """A MariaDB whose users `app` and `bob` log in with IAM tokens, and only over TLS."""
    # The plugin's second version runs a helper program that needs privileges. The first checks in the server itself.
    options = ["--plugin-load-add=auth_pam_v1", "--pam-use-cleartext-plugin=ON"]
    with TokenChecker() as checker, MariaDbServer(extra_config=options, certificate_names=[RDS_HOST]) as server:
        for user in USERS:
            server.execute(f"CREATE USER {user}@'%' IDENTIFIED VIA pam USING '{checker.service}' REQUIRE SSL")
            server.execute(f"GRANT ALL ON {server.database}.* TO {user}@'%'")
        yield _open(server, checker)


@contextlib.contextmanager
def iam_mysql() -> Iterator[IamServer]:
    """A genuine MySQL with the same users: its clear-text plugin is compiled here, and asks the same checker."""
    with contextlib.ExitStack() as stack:
        checker = stack.enter_context(TokenChecker())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="token-plugin-")))
        folder.chmod(0o755)
        source, plugin = Path(__file__).with_name("token_plugin.c"), folder / "token_plugin.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", plugin, source], check=True)
        options = [f"--plugin-dir={folder}", f"--plugin-load-add={plugin.name}"]
        server = stack.enter_context(MySqlServer(extra_config=options, certificate_names=[RDS_HOST]))
        for user in USERS:
            command = checker.command
            server.execute(f"CREATE USER {user}@'%' IDENTIFIED WITH judged_token AS '{command}' REQUIRE SSL")
            server.execute(f"GRANT ALL ON {server.database}.* TO {user}@'%'")
        yield _open(server, checker)
