"""The doctor on the rarer ways to a server: several hosts, local sockets, addresses of the user's own, poolers."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from lambda_pool import AuroraCluster, Pool, RdsProxy, SecretsManager
from lambda_pool.api import core_of
from lambda_pool.auth.base import Auth, UrlAuth
from lambda_pool.auth.iam import IamToken
from lambda_pool.cli.doctor import checks, diagnose, words
from lambda_pool.cli.doctor.report import Redactor
from lambda_pool.cli.doctor.room import room
from lambda_pool.endpoints.base import Endpoint, EndpointSource, FixedEndpoint, Role
from lambda_pool.testing import FakeDriver, MariaDbServer, PostgresServer
from lambda_pool.testing.ports import free_ports
from tests.support.certificates import make

Server = PostgresServer | MariaDbServer
NEEDED = "max_client_conn must be at least the number of environments"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own; where AWS is to be asked, nobody answers."""
    for name in list(os.environ):
        if name.startswith(("LAMBDA_POOL_", "AWS_", "PG", "DATABASE_URL")):
            monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "example")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the shared servers in turn."""
    found: Server = request.getfixturevalue(request.param)
    return found


class Found:
    """What the doctor says, step by step."""

    def __init__(self, pool: Pool | str) -> None:
        self.report = diagnose(pool)
        self._steps = {step["step"]: step for step in self.report["steps"]}

    def status(self, name: str) -> str:
        return self._steps[name]["status"]

    def said(self, name: str) -> str:
        return " ".join([self._steps[name]["detail"], *self._steps[name]["advice"]])

    def facts(self, name: str) -> dict[str, Any]:
        return self._steps[name]["facts"]


def patient_of(pool: Pool, role: Role = Role.WRITER) -> checks.Patient:
    return checks.Patient(core_of(pool), role, time.monotonic() + 20, Redactor())


# --- several hosts ----------------------------------------------------------------------------------------------------


def several(server: Server, *ports: int) -> str:
    hosts = ",".join(f"localhost:{port}" for port in ports)
    return server.url().replace(f"localhost:{server.port}", hosts)


def test_the_doctor_goes_on_past_a_host_that_is_down(server: Server) -> None:
    [closed] = free_ports(1)
    found = Found(several(server, closed, server.port))
    assert (found.report["ok"], found.status("endpoint")) == (True, "warning")
    assert found.said("endpoint").endswith(
        "The pool goes on to localhost: localhost does not answer (Connection refused)."
    )
    assert found.facts("endpoint")["port"] == server.port


def test_the_first_host_that_answers_needs_no_warning(server: Server) -> None:
    [closed] = free_ports(1)
    found = Found(several(server, server.port, closed))
    assert (found.report["ok"], found.status("endpoint")) == (True, "ok")


def test_where_no_host_answers_the_step_that_dials_says_so(server: Server) -> None:
    first, second = free_ports(2)
    found = Found(several(server, first, second))
    assert (found.status("endpoint"), found.status("tcp"), found.report["exit_code"]) == ("ok", "failed", 1)
    assert "nothing listens on its port" in found.said("tcp")
    assert "goes on to" not in found.said("endpoint")


def test_a_local_socket_among_several_hosts_is_left_to_the_login(postgres: PostgresServer) -> None:
    """It is no name, and no address: it is looked at where all sockets are."""
    [(where,)] = postgres.execute("show unix_socket_directories")
    hosts = f"{quote(where, safe='')}:{postgres.port},localhost:{postgres.port}"
    found = Found(f"postgresql://{postgres.user}:{postgres.password}@{hosts}/postgres")
    assert (found.report["ok"], found.status("endpoint")) == (True, "ok"), found.report
    assert f"{where}/.s.PGSQL.{postgres.port} is a Unix socket" in found.said("dns")
    assert found.said("tls").startswith("a Unix socket needs none")


# --- names, addresses and users ---------------------------------------------------------------------------------------


def test_an_address_of_the_users_own_is_not_looked_up(server: Server) -> None:
    """The host is then the name in the certificate alone."""
    if isinstance(server, MariaDbServer):
        with pytest.raises(ValueError, match="hostaddr"):
            Pool(server.url(hostaddr="127.0.0.1"))
        return
    found = Found(server.url(host="db.invalid", hostaddr="127.0.0.1", sslmode="verify-ca"))
    assert found.said("dns") == "db.invalid is not looked up: hostaddr says 127.0.0.1"
    assert found.said("tcp") == f"127.0.0.1:{server.port} answers"
    assert found.report["ok"], found.report


def test_an_abstract_socket_is_reached_and_shown_as_it_is_written() -> None:
    name = f"@lambda-pool-{uuid4().hex}"
    with PostgresServer(tls=False, extra_config=[f"unix_socket_directories = '{name}'"]) as made:
        found = Found(f"postgresql://{made.user}:{made.password}@:{made.port}/postgres?host={name}")
    assert found.report["ok"], found.report
    assert found.said("tcp") == f"{name}/.s.PGSQL.{made.port} answers"


def test_a_url_without_a_user_is_told_how_to_name_one(server: Server) -> None:
    patient = patient_of(Pool(f"{server.scheme}://localhost:{server.port}/orders", observers=()))
    patient.endpoint = Endpoint("localhost", server.port)
    finding = checks.identity(patient)
    assert (finding.status, finding.detail) == ("warning", "user (none) with no password")
    assert finding.advice == ["Name the database user in the URL, as in postgresql://app@host/database."]


# --- TLS --------------------------------------------------------------------------------------------------------------


@contextmanager
def once(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listens on a port, and serves one client after another until the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with suppress(OSError), client:
                        serve(client)

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize(("days", "status"), [(10, "warning"), (300, "ok")])
def test_a_certificate_that_expires_soon_is_to_be_rotated(tmp_path: Path, days: int, status: str) -> None:
    authority = make("an authority", ca=True, days=(-1, 400))
    server = make("localhost", authority, days=(-1, days))
    (tmp_path / "ca.crt").write_text(authority.pem)
    (tmp_path / "server.pem").write_text(server.pem + server.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")

    def serve(client: socket.socket) -> None:
        if client.recv(8):
            client.sendall(b"S")
            context.wrap_socket(client, server_side=True).close()

    with once(serve) as port:
        found = Found(f"postgresql://app@localhost:{port}/d?sslmode=verify-full&sslrootcert={tmp_path / 'ca.crt'}")
    assert found.status("tls") == status, found.said("tls")
    assert "certificate by an authority, until " in found.said("tls")
    assert ("expires soon: have it rotated" in found.said("tls")) == (status == "warning")


@pytest.mark.parametrize(
    ("engine", "greeting"),
    [("postgresql", b""), ("mysql", b"\x04\0\0\0")],
)
def test_a_stranger_that_resets_the_connection(engine: str, greeting: bytes) -> None:
    def serve(client: socket.socket) -> None:
        client.sendall(greeting)
        if engine == "postgresql":
            client.recv(8)
        # What is left unread, or this, has the system say RST instead of FIN.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with once(serve) as port:
        found = Found(f"{engine}://app@localhost:{port}/d?sslmode=require")
    assert found.status("tls") == "failed"
    assert f"the server there does not answer like {engine} (Connection reset by peer)" in found.said("tls")
    assert "A load balancer without a healthy target does this too" in found.said("tls")


def test_a_connection_that_is_reset_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stranger of the test before, where its RST comes sooner than the system can say that it is connected."""

    def connect(*_: object) -> None:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    with once(lambda client: client.close()) as port:
        monkeypatch.setattr(socket.socket, "connect", connect)
        found = Found(f"mysql://app@127.0.0.1:{port}/d?sslmode=require")
    assert (found.status("tcp"), found.said("tcp")) == ("ok", f"127.0.0.1:{port} answers")
    assert found.status("tls") == "failed"
    assert "the server there does not answer like mysql (Connection reset by peer)" in found.said("tls")


# --- login ------------------------------------------------------------------------------------------------------------


def test_a_full_server_behind_a_pooler_that_is_no_proxy_of_rds(postgres: PostgresServer) -> None:
    """No API knows its targets: what is advised is the pooler's own settings."""
    user = f"u{uuid4().hex[:12]}"
    postgres.execute(f"create role {user} login password 'example' connection limit 0")
    found = Found(postgres.url(user, "example", pooled="true"))
    postgres.execute(f"drop role {user}")
    assert found.status("login") == "failed"
    assert "too many" in found.said("login")
    assert "the pooler" in found.said("login")
    assert "target" not in found.said("login")


# --- room -------------------------------------------------------------------------------------------------------------


def test_a_proxy_is_not_asked_how_full_it_is(server: Server) -> None:
    source = FixedEndpoint(Endpoint("localhost", server.port, proxy=True))
    found = Found(Pool(server.url(), endpoint=source, observers=()))
    assert (found.status("room"), found.said("room")) == ("ok", "not asked: an RDS Proxy shares its connections")


def test_a_pooler_of_mysql_is_not_asked(mariadb: MariaDbServer) -> None:
    found = Found(mariadb.url(pooled="true"))
    assert (found.status("room"), found.said("room")) == ("ok", "not asked: the pooler shares its connections")


def test_a_database_that_is_called_like_a_poolers_console_is_none() -> None:
    """Then nobody says how many clients there may be, and what to set is told all the same."""
    with PostgresServer() as made:
        made.execute("create database pgbouncer")
        found = Found(made.url(pooled="true"))
    assert found.report["ok"], found.report
    assert NEEDED in found.said("room")


def test_aurora_dsql_has_room_for_all() -> None:
    host = "abcdefghijklmnopqrstuvwxyz.dsql.eu-central-1.on.aws"
    patient = patient_of(FakeDriver().pool(f"postgresql://app:example@{host}/postgres", observers=()))
    assert [check(patient).status for check in (checks.endpoint, checks.identity, checks.login)] == ["ok"] * 3
    finding = room(patient)
    assert (finding.status, finding.detail) == ("ok", "not asked: Aurora DSQL has room for every environment")


# --- words ------------------------------------------------------------------------------------------------------------


class Elsewhere:
    """Somebody's own source of endpoints."""

    has_reader = False

    def resolve(self, role: Role, timeout: float) -> Endpoint:
        return Endpoint("127.0.0.1", 1)

    def failed(self, endpoint: Endpoint) -> None:
        pass

    def forget(self) -> None:
        pass


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (FixedEndpoint(Endpoint("one")), "the configured host"),
        (FixedEndpoint(Endpoint("one"), Endpoint("two")), "the first of the configured hosts that answers"),
        (RdsProxy("orders"), "the RDS Proxy orders"),
        (AuroraCluster("orders"), "the Aurora cluster orders"),
        (Elsewhere(), "your own Elsewhere"),
    ],
)
def test_where_the_host_comes_from_is_said_in_words(source: EndpointSource, text: str) -> None:
    assert words.of_endpoint(source) == text
    if not isinstance(source, FixedEndpoint):
        pool = Pool("postgresql://app@h/d", endpoint=source, observers=(), timeout=1.0, connect_timeout=0.5)
        assert f"host: {text}" in Found(pool).said("config")


@pytest.mark.parametrize(
    ("auth", "text"),
    [
        (UrlAuth(None), "the configured user and password"),
        (IamToken(), "IAM token"),
        (SecretsManager("orders/database"), "the secret orders/database"),
    ],
)
def test_where_the_login_comes_from_is_said_in_words(auth: Auth, text: str) -> None:
    assert words.of_auth(auth) == text


def test_a_secret_that_cannot_be_had_is_named() -> None:
    auth = SecretsManager("orders/database")
    found = Found(Pool("postgresql://127.0.0.1:1/d", auth=auth, observers=(), timeout=1.0, connect_timeout=0.5))
    assert "login: the secret orders/database" in found.said("config")
    assert found.status("identity") == "failed"
    assert "orders/database" in found.said("identity")
