"""The world in which the scenes play: servers that check passwords and IAM tokens, AWS's services, and worse places."""

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.iam_servers import REGION, IamServer, iam_mariadb, iam_postgres
from tests.unit.secrets.canaries import Canaries, canary
from tests.unit.secrets.outlet import load

ROOT = Path(__file__).parents[3]
ACCESS_KEY = "ASIAEXAMPLEKEY000002"


@dataclass
class World:
    """What the scenes of one engine need, and what must not leave."""

    server: IamServer
    canaries: dict[str, str]
    facts: dict[str, Any]
    environment: dict[str, str]

    def play(self, folder: Path, *scenes: str) -> tuple[list[tuple[str, bytes]], Canaries]:
        """Play scenes (all, if none is named) in a process of their own. Out: all that left, and what to look for."""
        temporary, file = folder / "tmp", folder / "gathered"
        temporary.mkdir()
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "default", "-m", "tests.unit.secrets.scenes"],
            input=json.dumps({**self.facts, "scenes": scenes, "file": str(file)}).encode(),
            env={**self.environment, "TMPDIR": str(temporary)},
            cwd=ROOT,
            capture_output=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()[-6000:]
        with file.open() as lines:
            gathered = list(load(lines))
        canaries = Canaries(self.canaries)
        tokens = {data.decode() for label, data in gathered if label.endswith(": signed")}
        for number, token in enumerate(sorted(tokens)):
            canaries.add(f"token {number}", token)
        outlets = [(label, data) for label, data in gathered if not label.endswith(": signed")]
        outlets += [("stdout", done.stdout), ("stderr", done.stderr)]
        outlets += [(f"file {path}", path.read_bytes()) for path in temporary.rglob("*") if path.is_file()]
        return outlets, canaries


class QuotingApi(BaseHTTPRequestHandler):
    """AWS as it answers a wrong signature: with everything that it was sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        said = f"The Canonical String should have been 'POST {self.path} {dict(self.headers)} {body!r}'"
        if self.headers["Content-Type"].startswith("application/x-amz-json"):
            answer = json.dumps({"__type": "InvalidSignatureException", "message": said})
        else:
            text = said.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            answer = (
                "<ErrorResponse><Error><Type>Sender</Type><Code>SignatureDoesNotMatch</Code>"
                f"<Message>{text}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
            )
        raw = answer.encode()
        self.send_response(403)
        self.send_header("Content-Type", self.headers["Content-Type"])
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def quoting_api() -> Iterator[int]:
    """Its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), QuotingApi)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture(scope="session")
def hole() -> Iterator[int]:
    """The port of a place that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


@pytest.fixture(scope="session", params=["postgresql", "mysql"])
def world(request: pytest.FixtureRequest, quoting_api: int, moto_url: str, hole: int) -> Iterator[World]:
    """The world of each engine in turn."""
    with ExitStack() as stack:
        server = stack.enter_context(iam_postgres() if request.param == "postgresql" else iam_mariadb())
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        yield _world(server, request.param, closed.getsockname()[1], quoting_api, moto_url, hole)


def _world(server: IamServer, engine: str, closed: int, quoting_api: int, moto_url: str, hole: int) -> World:
    names = ("password", "wrong", "parameter", "key")
    canaries = {name: canary(name) for name in names} | {
        "secret key": secrets.token_hex(10) + "/+" + secrets.token_hex(10),
        "session token": "/".join(secrets.token_hex(10) for _ in range(20)) + "==",
    }
    server.checker.reset(ACCESS_KEY, canaries["secret key"], canaries["session token"])
    _create_user(server, engine, canaries["password"])
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": canaries["secret key"],
        "AWS_SESSION_TOKEN": canaries["session token"],
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": moto_url,
        "PYTHONFAULTHANDLER": "1",
    }
    _store_secrets(server, engine, canaries, moto_url)
    facts = {
        "scheme": server.scheme,
        "port": server.port,
        "ca": server.ca,
        "database": server.server.database,
        "canaries": canaries,
        "closed": str(closed),
        "hole": str(hole),
        "quoting_api": str(quoting_api),
        "moto": moto_url.rpartition(":")[2],
    }
    return World(server, canaries, facts, environment)


def _create_user(server: IamServer, engine: str, password: str) -> None:
    if engine == "postgresql":
        quoted = password.replace("'", "''")
        server.server.execute(f"create role canary login password '{quoted}'")
    else:
        quoted = password.replace("\\", "\\\\").replace("'", "\\'")
        server.server.execute(f"create user canary@'%' identified by '{quoted}'")
        server.server.execute(f"grant all on {server.server.database}.* to canary@'%'")


def _store_secrets(server: IamServer, engine: str, canaries: dict[str, str], moto_url: str) -> None:
    """Secrets in every state, under names that begin the same for both engines: one vault serves them in turn."""
    import boto3

    session = boto3.Session(aws_access_key_id="any", aws_secret_access_key="any", region_name=REGION)
    vault: Any = session.client("secretsmanager", endpoint_url=moto_url)
    for old in vault.list_secrets()["SecretList"]:
        vault.delete_secret(SecretId=old["ARN"], ForceDeleteWithoutRecovery=True)

    def text(password: str) -> str:
        where = {"engine": "postgres" if engine == "postgresql" else "mysql", "host": "localhost", "port": server.port}
        return json.dumps({"username": "canary", "password": password, **where})

    vault.create_secret(Name="good", SecretString=text(canaries["password"]))
    vault.create_secret(Name="wrong", SecretString=text(canaries["wrong"]))
    vault.create_secret(Name="half-rotated", SecretString=text(canaries["wrong"]))
    vault.put_secret_value(
        SecretId="half-rotated", SecretString=text(canaries["password"]), VersionStages=["AWSPENDING"]
    )
    vault.create_secret(Name="not-json", SecretString=canaries["password"])
    vault.create_secret(Name="binary", SecretBinary=canaries["password"].encode())
    vault.create_secret(Name="no-password", SecretString=json.dumps({"passwrd": canaries["password"]}))
    vault.close()


Play = Callable[..., tuple[list[tuple[str, bytes]], Canaries]]
