"""The doctor: every step is made to fail for real, and its output never has a secret."""

import io
import json
import logging
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pymysql
import pytest

from lambda_pool import AsyncPool, IamToken, Pool, RdsProxy
from lambda_pool.api import core_of
from lambda_pool.auth.base import Credentials
from lambda_pool.cli import main
from lambda_pool.cli.doctor import aws, checks, diagnose, words
from lambda_pool.cli.doctor.report import Redactor, Report, failed, render, report, step
from lambda_pool.cli.terminal import Terminal
from lambda_pool.endpoints.base import Endpoint, FixedEndpoint, Role
from lambda_pool.secret import Secret
from lambda_pool.testing import FaultyProxy, LambdaRuntime, MariaDbServer, PostgresServer
from lambda_pool.waiting import within
from tests.support.iam_servers import RDS_HOST, REGION, IamServer, iam_mariadb, iam_postgres
from tests.support.names import Names
from tests.support.pgbouncer import PgBouncer
from tests.support.shared import changed
from tests.support.standby import StandbyServer, primary

PASSWORD = "canary/of:a@password%"
ACCESS_KEY = "ASIACANARYOFKEY00001"
SECRET_KEY = "canary/of+a+secret/key"
SESSION_TOKEN = "canary/of+a/session+token" * 20
CANARIES = ("canary", "X-Amz-Signature=", "X-Amz-Security-Token=")
"""Texts that must never be in the output. All secrets contain the first; a token's own marks are never shown whole."""

Server = PostgresServer | MariaDbServer


def check_no_secret(*texts: str) -> None:
    for text in texts:
        for canary in CANARIES:
            assert text.count(canary) == text.count(canary + "***"), f"{canary} in {text}"


class Found:
    """A report, with its steps by name."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.text = render(report, Terminal(io.StringIO()))
        self.steps = {step["step"]: step for step in report["steps"]}
        check_no_secret(self.text, json.dumps(report))
        assert [step["step"] for step in report["steps"]] == ["config", *(name for name, _, _ in checks.CHECKS)]

    def failed_at(self, name: str) -> str:
        """Everything that the report says about the one failed step."""
        failed = [step["step"] for step in self.report["steps"] if step["status"] == "failed"]
        assert failed == [name], self.text
        assert not self.report["ok"]
        assert self.report["exit_code"] == (2 if name == "config" else 1)
        return self.said(name)

    def said(self, name: str) -> str:
        step = self.steps[name]
        return " ".join([step["detail"], *step["advice"]])

    def status(self, name: str) -> str:
        return self.steps[name]["status"]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No settings of the machine itself, only canaries; and no secret in the log either."""
    for name in list(os.environ):
        if name.startswith(("LAMBDA_POOL_", "AWS_", "PG")) and name not in {
            "AWS_LAMBDA_RIE",
            "LAMBDA_POOL_TEST_PYTHONS",
        }:
            monkeypatch.delenv(name)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION_TOKEN)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    # Nobody answers there. A test in which AWS answers sets another address.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    caplog.set_level(logging.DEBUG)
    yield
    check_no_secret(caplog.text)


@pytest.fixture(scope="module", params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server of each engine, with a user `app`."""
    made: Server = PostgresServer() if request.param == "postgresql" else MariaDbServer()
    with made:
        if isinstance(made, PostgresServer):
            made.execute(f"create role app login password '{PASSWORD}'")
        else:
            made.execute(f"create user app@'%' identified by '{PASSWORD}'")
            made.execute("grant select on app.* to app@'%'")
        yield made


def examine(pool: Pool | AsyncPool | str | None = None, **options: Any) -> Found:
    return Found(diagnose(pool, **options))


def url_of(server: Server, **parts: Any) -> str:
    return server.url("app", PASSWORD, **parts)


# --- a healthy one ----------------------------------------------------------------------------------------------------


@pytest.mark.sampled(1, "a second a case")
def test_a_healthy_one(server: Server) -> None:
    found = examine(url_of(server))
    assert {step["status"] for step in found.report["steps"]} == {"ok"}, found.text
    assert (found.report["ok"], found.report["exit_code"]) == (True, 0)
    assert found.text.endswith("everything works")
    assert f"{server.scheme}://app@localhost:{server.port}/" in found.said("config")
    assert found.steps["dns"]["facts"]["addresses"] == ["127.0.0.1"]
    assert found.steps["tls"]["facts"]["version"] == "TLSv1.3"
    assert found.steps["tls"]["facts"]["issuer"] == "lambda_pool test authority"
    assert found.steps["query"]["facts"]["version"] in str(server.execute("select version()")[0][0])
    assert found.steps["state"]["facts"] == {"read_only": False, "replica": False}
    assert 0 < found.steps["round trip"]["facts"]["median_milliseconds"] < 1000
    assert json.loads(json.dumps(found.report)) == found.report


def test_a_healthy_one_of_asyncio(server: Server) -> None:
    found = examine(AsyncPool(url_of(server)))
    assert {step["status"] for step in found.report["steps"]} == {"ok"}, found.text


@pytest.mark.parametrize("pool", [1, b"postgresql://h/d", object()])
def test_what_is_no_pool(pool: Any) -> None:
    said = examine(pool).failed_at("config")
    assert said == f"pool is not valid: it must be a Pool, an AsyncPool or a URL, not {type(pool).__name__}"


@pytest.mark.parametrize("seconds", [0, -1, None, float("nan")])
def test_no_time_at_all(seconds: Any) -> None:
    assert f"timeout={seconds!r} is not valid" in examine("postgresql://h/d", timeout=seconds).failed_at("config")


def test_it_leaves_no_connection_behind(server: Server) -> None:
    for _ in range(3):
        examine(url_of(server))
    until = time.monotonic() + 10
    count = (
        "select count(*) from pg_stat_activity where usename = 'app'"
        if server.scheme == "postgresql"
        else "select count(*) from information_schema.processlist where user = 'app'"
    )
    while server.execute(count) != [(0,)]:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_pool_of_the_users_own(server: Server) -> None:
    """It works with all kinds of rows, cursors and transactions."""
    if server.scheme == "postgresql":
        arguments: dict[str, Any] = {"row_factory": psycopg.rows.dict_row, "cursor_factory": psycopg.ClientCursor}
    else:
        arguments = {"cursorclass": pymysql.cursors.SSDictCursor}
    pool = Pool(url_of(server), connect_args=arguments, autocommit=True, observers=())
    found = examine(pool)
    assert found.report["ok"], found.text
    assert found.steps["config"]["facts"]["connect_args"] == sorted(arguments)
    assert pool.stats().opened == 0


def test_what_the_environment_says(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_POOL_URL", url_of(server))
    monkeypatch.setenv("LAMBDA_POOL_NAME", "orders")
    found = examine()
    assert found.report["ok"], found.text
    assert found.report["pool"] == "orders"


# --- the command line -------------------------------------------------------------------------------------------------


def command(*arguments: str, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run the command in a process of its own. Out: its exit code and its output."""
    script = "import sys; from lambda_pool.cli import main; sys.exit(main())"
    done = subprocess.run(
        [*prefix, sys.executable, "-W", "error", "-c", script, "doctor", *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    check_no_secret(done.stdout, done.stderr)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.sampled(1, "4 s a case")
def test_exit_code_0_and_json(server: Server) -> None:
    code, out = command("--json", env={"LAMBDA_POOL_URL": url_of(server)})
    assert code == 0
    assert Found(json.loads(out)).report["ok"]
    for arguments in (("--url", url_of(server)), (url_of(server),), ("--readonly", url_of(server), "--auth", "url")):
        code, out = command(*arguments)
        assert (code, out.splitlines()[-1]) == (0, "everything works")


def test_exit_code_1(server: Server) -> None:
    code, out = command("--url", url_of(server, database="nowhere"))
    assert code == 1
    assert "\nfailed   login: " in out
    assert "\nskipped  query, state, clock, round trip, room: not without login" in out
    assert out.splitlines()[-1] == "login: failed"


@pytest.mark.sampled(3, "half a second a case")
@pytest.mark.parametrize(
    ("arguments", "env", "text"),
    [
        ((), {}, "no database URL"),
        (("--url", "postgres:/nonsense"), {}, "must start with postgresql://"),
        (("postgres:/nonsense",), {}, "must start with postgresql://"),
        (("postgre://h/d",), {}, "config: the URL must start with"),  # it was in no variable
        (
            ("postgresql://h/d", "--secret-id", "x", "--auth", "iam"),
            {},
            "config: --secret-id is set but --auth is 'iam'",
        ),
        (("postgresql://h/d", "--rds-proxy", "x", "--aurora-cluster", "y"), {}, "config: --rds-proxy and --aurora-c"),
        (
            ("--prefix", "SHOP_"),
            {"SHOP_HOST": "h", "SHOP_PASS": "x"},
            "SHOP_PASS is not .* did you mean SHOP_PASSWORD?",
        ),
        (("--url", "postgresql://a:canary@h:port/d"), {}, "port is not valid"),
        ((), {"LAMBDA_POOL_URL": "postgresql://h/d", "LAMBDA_POOL_MAXSIZE": "2"}, "did you mean LAMBDA_POOL_MAX_SIZE"),
        (("--url", "postgresql://h/d", "--auth", "secret"), {}, "--auth is 'secret': set --secret-id"),
        (("--prefix", "OTHER_"), {"LAMBDA_POOL_URL": "postgresql://h/d"}, "no database URL"),
        (
            ("--auth", "iam", "--rds-proxy", "orders"),
            {},
            "--auth, --rds-proxy needs --url; without it, set LAMBDA_POOL_AUTH, LAMBDA_POOL_RDS_PROXY",
        ),
        (("--prefix", "OTHER_", "--auth", "iam"), {}, "without it, set OTHER_AUTH"),
    ],
)
def test_exit_code_2(arguments: tuple[str, ...], env: dict[str, str], text: str) -> None:
    code, out = command(*arguments, env=env)
    assert code == 2
    assert re.search(text.replace("?", r"\?"), " ".join(out.split()))


@pytest.mark.parametrize(("variables", "database"), [({}, "orders"), ({"SHOP_DATABASE": "other"}, "other")])
def test_a_functions_own_name_is_the_databases(variables: dict[str, str], database: str) -> None:
    own = {"SHOP_ENGINE": "postgresql", "SHOP_HOST": "db.invalid", "SHOP_USER": "app", "SHOP_NAME": "orders"}
    own |= {"SHOP_POOL_CLASS": "QueuePool"}  # another library's
    code, out = command("--prefix", "SHOP_", env={**own, **variables})
    assert code == 1
    assert f"postgresql://app@db.invalid/{database};" in " ".join(out.split())


def test_url_takes_the_options_of_the_environment_and_nothing_else(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAMBDA_POOL_URL", "mysql://elsewhere.invalid/x")
    monkeypatch.setenv("LAMBDA_POOL_AUTH", "iam")
    monkeypatch.setenv("LAMBDA_POOL_RDS_PROXY", "orders")
    monkeypatch.setenv("LAMBDA_POOL_RESET", "session")
    assert main(["doctor", "--json", "--url", url_of(server)]) == 0
    assert (
        Found(json.loads(capsys.readouterr().out)).steps["config"]["facts"]["auth"]
        == "the configured user and password"
    )
    assert main(["doctor", "--json", "--url", url_of(server, pooled="true")]) == 2
    assert "reset='session'" in Found(json.loads(capsys.readouterr().out)).failed_at("config")


# --- endpoint and identity --------------------------------------------------------------------------------------------


def test_an_endpoint_that_is_not_found() -> None:
    found = examine(Pool("postgresql://app@h/d", endpoint=RdsProxy("orders"), observers=(), timeout=5.0))
    assert "com.amazonaws.eu-central-1.rds" in found.failed_at("endpoint")
    assert found.status("identity") == "skipped"


def test_an_endpoint_of_another_engine() -> None:
    source = FixedEndpoint(Endpoint("h", 3306, engine="mysql"))
    found = examine(Pool("postgresql://app@h/d", endpoint=source, observers=()))
    assert "change one of them" in found.failed_at("endpoint")


def test_a_clusters_reader_is_pointed_out() -> None:
    reader = "orders.cluster-ro-c0ffee123456.eu-central-1.rds.amazonaws.com"
    pool = Pool(f"postgresql://app@{reader}/d", observers=())
    for role, status in ((Role.WRITER, "warning"), (Role.READER, "ok")):
        finding = checks.endpoint(checks.Patient(core_of(pool), role, time.monotonic() + 10, Redactor()))
        assert finding.status == status
        assert ["orders.cluster-c0ffee123456" in text for text in finding.advice] == [True] * (status == "warning")


def test_no_credentials(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way to the server is checked anyway."""
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = examine(Pool(server.url("app"), auth=IamToken(), observers=()))
    assert "AWS_SECRET_ACCESS_KEY is not" in found.said("identity")
    assert [found.status(name) for name in ("identity", "dns", "tcp", "tls", "login", "query")] == [
        "failed",
        "ok",
        "ok",
        "ok",
        "skipped",
        "skipped",
    ]


def test_plain_text_is_refused_for_tokens(server: Server) -> None:
    url = f"{server.scheme}://app@localhost:{server.port}/d?sslmode=disable"
    code, out = command(env={"LAMBDA_POOL_URL": url, "LAMBDA_POOL_AUTH": "iam"})
    assert (code, "must never travel unencrypted" in out) == (2, True)


# --- name and address -------------------------------------------------------------------------------------------------


@pytest.mark.sampled(1, "a second a case")
def test_a_name_without_an_address(server: Server) -> None:
    with Names() as names:
        code, out = command("--json", "--url", url_of(server, host="db.internal.test"), prefix=names.prefix)
        assert code == 1
        assert "private hosted zone" in Found(json.loads(out)).failed_at("dns")
        rds = "orders.c0ffee123456.eu-central-1.rds.amazonaws.com"
        code, out = command("--json", "--url", url_of(server, host=rds), prefix=names.prefix)
        assert "still exists" in Found(json.loads(out)).failed_at("dns")


def test_a_name_that_is_too_long(server: Server) -> None:
    examine(url_of(server, host="x" * 64)).failed_at("dns")


def test_a_name_server_that_does_not_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: release.wait(20))
    found = examine(Pool(url_of(server), connect_timeout=0.2, observers=()))
    release.set()
    assert "enableDnsSupport" in found.failed_at("dns")


def test_a_closed_port(server: Server) -> None:
    assert "nothing listens on its port 1:" in examine(url_of(server, port=1)).failed_at("tcp")


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that does not answer a SYN: its backlog is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("in_lambda", [False, True])
def test_a_black_hole(server: Server, black_hole: int, in_lambda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if in_lambda:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    started = time.monotonic()
    found = examine(Pool(url_of(server, port=black_hole), connect_timeout=0.5, graceful_shutdown=False, observers=()))
    assert time.monotonic() - started < 10
    text = found.failed_at("tcp")
    assert f"Allow inbound TCP {black_hole} in the security group" in text
    assert ("attach the function to the database's VPC" if in_lambda else "run this inside the function") in text


def test_no_unix_socket(server: Server, tmp_path: Path) -> None:
    name = "host" if server.scheme == "postgresql" else "unix_socket"
    found = examine(f"{server.scheme}://app:{'x' * 9}@/d?{name}={tmp_path / 'missing'}")
    assert "There is no Unix socket" in found.failed_at("tcp")


def test_over_a_unix_socket(server: Server) -> None:
    [(where,)] = server.execute("show unix_socket_directories" if server.scheme == "postgresql" else "select @@socket")
    name = "unix_socket" if server.scheme == "mysql" else "host"
    login = f"app:{quote(PASSWORD, safe='')}"
    found = examine(f"{server.scheme}://{login}@:{server.port}/{server.database}?{name}={where}")
    assert found.report["ok"], found.text
    assert "is a Unix socket" in found.said("dns")


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_a_wrong_authority(server: Server) -> None:
    url = url_of(server, tls=False, sslmode="verify-full", sslrootcert="rds")
    text = examine(url).failed_at("tls")
    assert "None of the authorities in" in text
    assert "sslrootcert" in text


def test_a_certificate_for_another_name(server: Server) -> None:
    with Names() as names:
        names.point({"alias.test": "127.0.0.1"})
        code, out = command("--json", "--url", url_of(server, host="alias.test"), prefix=names.prefix)
    assert code == 1
    assert "The certificate is for another name" in Found(json.loads(out)).failed_at("tls")


def test_an_authority_that_is_no_file(server: Server, tmp_path: Path) -> None:
    url = url_of(server, tls=False, sslmode="verify-full", sslrootcert=str(tmp_path / "missing.pem"))
    assert "must be a readable file of certificates" in examine(url).failed_at("tls")


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_a_server_without_tls(engine: str) -> None:
    made: Server = (
        PostgresServer(extra_config=["ssl = off"])
        if engine == "postgresql"
        else MariaDbServer(extra_config=["--skip-ssl"])
    )
    # Its own execute() asks for TLS, so no user can be created; the superuser is used instead.
    with made:
        login = f"{made.user}:{made.password}"
        where = f"{made.scheme}://{login}@localhost:{made.port}/{made.database}"
        assert "The server does not support TLS. Switch it on" in examine(f"{where}?sslmode=require").failed_at("tls")
        found = examine(f"{where}?sslmode=prefer")
        assert found.report["ok"]
        assert "not encrypted" in found.said("tls")


@pytest.mark.sampled(1, "a second a case")
def test_not_verified_is_said_elsewhere_than_on_loopback(server: Server) -> None:
    found = examine(url_of(server, tls=False, sslmode="require"))
    assert (found.status("tls"), "not verified" in found.said("tls")) == ("ok", True)
    with Names() as names:
        names.point({"db.test": "127.0.0.1"})
        url = url_of(server, host="db.test", tls=False, sslmode="require")
        code, out = command("--json", "--url", url, prefix=names.prefix)
        assert (code, Found(json.loads(out)).status("tls")) == (0, "warning")
        url = url_of(server, host="db.test", tls=False, sslmode="disable")
        code, out = command("--url", url, prefix=names.prefix)
        assert (code, out.splitlines()[-1]) == (0, "tls: warning")


class Stranger:
    """Listens, and answers every client with the same bytes, or None: not at all."""

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._clients: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._answer is None:
                self._clients.append(client)
                continue
            with client:
                client.sendall(self._answer)
                client.settimeout(0.1)
                with suppress(OSError):
                    client.recv(1000)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for client in self._clients:
            client.close()


_BLOCKED = b"\xff\x69\x04Host '10.0.0.1' is blocked because of many connection errors"


@pytest.mark.parametrize(
    ("engine", "answer", "text"),
    [
        ("postgresql", None, "hangs"),
        ("mysql", None, "hangs"),
        ("postgresql", b"", "closed the connection without an answer"),
        ("mysql", b"", "closed the connection without an answer"),
        ("postgresql", b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer like postgresql"),
        ("mysql", b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer like mysql"),
        ("mysql", b"\x01\x00\x00\x00\x09", "greeting is of version 9"),
        ("mysql", b"\x03\x00\x00\x00\x0a88", "greeting is cut short"),
        ("mysql", b"\x03\x00\x00\x00\x0a8\x00", "greeting is cut short"),
        ("mysql", len(_BLOCKED).to_bytes(3, "little") + b"\0" + _BLOCKED, "FLUSH HOSTS"),
        ("mysql", b"\x17\0\0\0\xff\x10\x04Too many connections", "lower the function's reserved concurrency"),
        ("postgresql", b"E\0\0\0\x21SFATAL\0Msorry, too many clients\0\0", "lower the function's reserved concurrency"),
    ],
)
def test_strangers(engine: str, answer: bytes | None, text: str) -> None:
    stranger = Stranger(answer)
    url = f"{engine}://app:{'x' * 9}@localhost:{stranger.port}/d?sslmode=require"
    found = examine(Pool(url, connect_timeout=0.5, observers=()))
    stranger.close()
    assert text in found.failed_at("tls")


def test_the_other_engine(server: Server) -> None:
    other = "mysql" if server.scheme == "postgresql" else "postgresql"
    pool = Pool(f"{other}://app@localhost:{server.port}/d?sslmode=require", connect_timeout=0.5, observers=())
    assert "the engine that the URL begins with" in examine(pool).failed_at("tls")


# --- login ------------------------------------------------------------------------------------------------------------


def test_a_wrong_password(server: Server) -> None:
    text = examine(server.url("app", "canary of another")).failed_at("login")
    assert "The server does not accept user app with this password" in text
    assert "rejected: " in text


def test_no_password(server: Server) -> None:
    text = examine(server.url("app")).failed_at("login")
    assert "No password was given" in text


def test_a_wrong_database(server: Server) -> None:
    assert "now it is nowhere" in examine(server.url(database="nowhere")).failed_at("login")


def test_a_forbidden_database(server: Server) -> None:
    if isinstance(server, PostgresServer):
        server.execute("create database closed")
        server.execute("revoke connect on database closed from public")
        wanted = "GRANT CONNECT ON DATABASE closed TO app"
    else:
        server.execute("create database closed")
        wanted = "GRANT ALL ON closed.* TO app@'%'"
    found = examine(url_of(server, database="closed"))
    server.execute("drop database closed")
    assert wanted in found.failed_at("login")


def test_a_role_that_may_not_log_in(server: Server) -> None:
    if isinstance(server, PostgresServer):
        server.execute(f"create role group_ password '{PASSWORD}'")
        assert "ALTER ROLE group_ LOGIN" in examine(server.url("group_", PASSWORD)).failed_at("login")
        server.execute("drop role group_")
    else:
        server.execute(f"create user far@'10.0.0.1' identified by '{PASSWORD}'")
        assert "does not accept user far with this password" in examine(server.url("far", PASSWORD)).failed_at("login")
        server.execute("drop user far@'10.0.0.1'")


def test_too_many_connections(server: Server) -> None:
    if isinstance(server, PostgresServer):
        with changed(server, "alter role app connection limit 0", "alter role app connection limit -1"):
            found = examine(url_of(server))
    else:
        limit = "alter user app@'%' with max_user_connections"
        with changed(server, f"{limit} 1", f"{limit} 0"):
            pool = Pool(url_of(server), observers=())
            with pool.connection():
                found = examine(url_of(server))
            pool.close()
    assert "lower the function's reserved concurrency" in found.failed_at("login")


def test_a_server_that_never_answers_a_login(server: Server) -> None:
    with FaultyProxy("127.0.0.1", server.port) as proxy:
        pool = Pool(url_of(server, port=proxy.port), connect_timeout=0.5, observers=())
        patient = checks.Patient(core_of(pool), Role.WRITER, time.monotonic() + 20, Redactor())
        patient.endpoint = Endpoint("localhost", proxy.port)
        checks.identity(patient)
        proxy.black_hole()
        finding = checks.login(patient)
    assert finding.status == "failed"
    assert "a proxy waits for a connection" in " ".join(finding.advice)
    assert "It may be asleep" in " ".join(finding.advice)


@pytest.mark.parametrize("server", ["mysql"], indirect=True)
def test_encryption_that_the_server_demands(server: Server) -> None:
    for there, back in [
        ("alter user app@'%' require ssl", "alter user app@'%' require none"),
        ("set global require_secure_transport = on", "set global require_secure_transport = off"),
    ]:
        with changed(server, there, back):
            found = examine(url_of(server, tls=False, sslmode="disable"))
        assert "write sslmode=verify-full" in found.failed_at("login")


def test_rules_of_pg_hba() -> None:
    with PostgresServer() as made:
        Path(f"/proc/{made.pid}/cwd", "pg_hba.conf").write_text("hostssl postgres all 127.0.0.1/32 scram-sha-256\n")
        made.execute("select pg_reload_conf()")
        plain = f"postgresql://{made.user}:{made.password}@localhost:{made.port}/postgres?sslmode=disable"
        until = time.monotonic() + 10
        while (found := examine(plain)).report["ok"]:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert "encrypt, with sslmode=verify-full" in found.failed_at("login")
        assert "add one to pg_hba.conf" in examine(made.url(database="template1")).failed_at("login")


# --- IAM --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["postgresql", "mysql"])
def iam(request: pytest.FixtureRequest) -> Iterator[IamServer]:
    with iam_postgres() if request.param == "postgresql" else iam_mariadb() as made:
        yield made


@pytest.fixture
def iam_server(iam: IamServer) -> IamServer:
    iam.checker.reset(ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)
    return iam


def iam_pool(server: IamServer, auth: IamToken | None = None, **options: Any) -> Pool:
    return Pool(server.url(), auth=auth or IamToken(), observers=(), **options)


@pytest.mark.sampled(1, "a second a case")
def test_a_token_that_is_accepted(iam_server: IamServer) -> None:
    found = examine(iam_pool(iam_server))
    assert found.report["ok"], found.text
    assert "an IAM token" in found.said("identity")
    assert "signed for eu-central-1 at " in found.said("identity")


@pytest.mark.sampled(1, "a second a case")
def test_a_token_that_pam_refuses(iam_server: IamServer, moto_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary of another key")
    text = examine(iam_pool(iam_server)).failed_at("login")
    assert "arn:aws:rds-db:eu-central-1:123456789012:dbuser:RESOURCE-ID/app to arn:aws:sts::123456789012:" in text
    assert "localhost is not a host name of RDS" in text
    assert "clock" not in text
    if iam_server.scheme == "mysql":
        assert "IDENTIFIED WITH AWSAuthenticationPlugin AS 'RDS'" in text
    else:
        assert "GRANT" not in text  # PAM was asked, so the role was granted


@pytest.mark.sampled(1 / 2, "a server that asks for tokens")
def test_the_very_arn_of_the_instance(iam_server: IamServer, moto_url: str) -> None:
    import botocore.session

    rds: Any = botocore.session.get_session().create_client("rds", region_name=REGION, endpoint_url=moto_url)
    for instance in rds.describe_db_instances()["DBInstances"]:
        rds.delete_db_instance(DBInstanceIdentifier=instance["DBInstanceIdentifier"], SkipFinalSnapshot=True)
    made = rds.create_db_instance(DBInstanceIdentifier="orders", DBInstanceClass="db.t4g.micro", Engine="mysql")
    resource = made["DBInstance"]["DbiResourceId"]
    url = iam_server.url(host=RDS_HOST)
    with Names() as names:
        names.point({RDS_HOST: "127.0.0.1"})
        wrong = {"AWS_ENDPOINT_URL": moto_url, "AWS_SECRET_ACCESS_KEY": "canary of another key"}
        code, out = command("--json", "--url", url, "--auth", "iam", prefix=names.prefix, env=wrong)
        assert code == 1
        text = Found(json.loads(out)).failed_at("login")
        assert f"arn:aws:rds-db:eu-central-1:123456789012:dbuser:{resource}/app " in text
        assert "RESOURCE-ID" not in text
        _, refused = command("--url", url, "--auth", "iam", prefix=names.prefix, env=wrong)
        code, out = command("--url", url, "--auth", "iam", prefix=names.prefix, env={"AWS_ENDPOINT_URL": moto_url})
        assert code == 0, out
    if iam_server.scheme == "postgresql":
        page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text()
        assert lasting(refused) in lasting(page), refused


def lasting(text: str) -> str:
    """The text without the parts that differ between runs: ports, dates, identifiers, and line breaks."""
    text = re.sub(r"db-\w{26}", "db-ID", " ".join(text.split()))
    text = re.sub(r"\d{4}-\d\d-\d\d [\d:]{8}|[A-Z][a-z]{2} \d+ [\d:]{8} \d{4}", "DATE", text)
    return re.sub(r"(?<=[ :])\d{4,5}(?=\D)", "PORT", text)


@pytest.mark.sampled(1 / 3, "4 s")
def test_the_resource_of_clusters_and_proxies(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import botocore.session

    from lambda_pool import AuroraCluster

    session = botocore.session.get_session()
    rds: Any = session.create_client("rds", region_name=REGION, endpoint_url=moto_url)
    ec2: Any = session.create_client("ec2", region_name=REGION, endpoint_url=moto_url)
    cluster = rds.create_db_cluster(
        DBClusterIdentifier="doc", Engine="aurora-mysql", MasterUsername="root", MasterUserPassword="topsecret1"
    )["DBCluster"]
    proxy = rds.create_db_proxy(
        DBProxyName="doc",
        EngineFamily="MYSQL",
        Auth=[],
        RoleArn="arn:aws:iam::123456789012:role/proxy",
        VpcSubnetIds=[ec2.describe_subnets()["Subnets"][0]["SubnetId"]],
    )["DBProxy"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    for source, wanted in (
        (AuroraCluster("doc"), cluster["DbClusterResourceId"]),
        (RdsProxy("doc"), proxy["DBProxyArn"].rpartition(":")[2]),
    ):
        answer = aws.ask("whatever.example", source, REGION, 20.0)
        assert (answer.resource, answer.account, answer.problem) == (wanted, "123456789012", None)
        assert abs(answer.ahead or 0) < 5
    answer = aws.ask("whatever.example", RdsProxy("missing"), REGION, 20.0)
    assert answer.account == "123456789012"
    assert "which resource this is: it answered DBProxyNotFoundFault" in (answer.problem or "")


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize(
    ("travel", "text"), [(-3600, "so it has expired: set this machine's clock"), (3600, "in the future")]
)
def test_a_clock_that_is_wrong(
    iam_server: IamServer, moto_url: str, monkeypatch: pytest.MonkeyPatch, travel: int, text: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    found = examine(iam_pool(iam_server, IamToken(clock=lambda: time.time() + travel)))
    said = found.failed_at("login")
    assert text in said
    assert said.index(text) < said.index("rds-db:connect")
    reason = "it has expired" if travel < 0 else "it is not valid yet"
    assert iam_server.checker.verdicts[-1].endswith(reason)


@pytest.mark.sampled(1, "a second a case")
def test_a_wrong_clock_without_aws_to_ask(iam_server: IamServer) -> None:
    said = examine(iam_pool(iam_server, IamToken(clock=lambda: time.time() - 3600))).failed_at("login")
    assert "compare that with one you trust" in said
    assert "AWS could not be asked who this is" in said
    assert "arn:aws:rds-db:eu-central-1:ACCOUNT:dbuser:RESOURCE-ID/app to the function's role" in said


@pytest.mark.sampled(1, "a second a case")
def test_credentials_that_have_expired(iam_server: IamServer, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = (
        b"<ErrorResponse><Error><Type>Sender</Type><Code>ExpiredToken</Code><Message>canary</Message></Error>"
        b"<RequestId>1</RequestId></ErrorResponse>"
    )

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(403)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as api:
        thread = threading.Thread(target=api.serve_forever)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{api.server_port}")
        iam_server.checker.reset(ACCESS_KEY, "another", SESSION_TOKEN)
        said = examine(iam_pool(iam_server)).failed_at("login")
        api.shutdown()
        thread.join(10)
    assert "AWS says that the credentials have expired" in said


@pytest.mark.sampled(1, "a second a case")
def test_aws_that_never_answers(iam_server: IamServer, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = Stranger(None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{stranger.port}")
    iam_server.checker.reset(ACCESS_KEY, "another", SESSION_TOKEN)
    started = time.monotonic()
    said = examine(iam_pool(iam_server, timeout=1.0)).failed_at("login")
    assert time.monotonic() - started < 15
    stranger.close()
    assert "AWS could not be asked who this is" in said


def test_a_password_for_an_iam_user(iam_server: IamServer) -> None:
    url = iam_server.url().replace("app@", "app:canary@")
    said = examine(url).failed_at("login")
    if iam_server.scheme == "postgresql":
        assert "LAMBDA_POOL_AUTH=iam" in said
        assert "REVOKE rds_iam FROM app" in said
    else:
        assert "does not accept user app with this password" in said


def test_a_token_for_a_user_with_a_password(server: Server) -> None:
    said = examine(Pool(server.url("app"), auth=IamToken(), observers=(), timeout=1.0)).failed_at("login")
    if server.scheme == "postgresql":
        assert "GRANT rds_iam TO app" in said
    else:
        assert "AWSAuthenticationPlugin" in said
    assert "rds-db:connect" in said


def test_what_the_rds_api_says_of_iam(server: Server) -> None:
    only_iam = FixedEndpoint(Endpoint("localhost", server.port, iam=True))
    said = examine(Pool(server.url("app", "canary"), endpoint=only_iam, observers=())).failed_at("login")
    assert "The RDS API says that only IAM logins are accepted there" in said


def test_a_token_for_another_region(moto_url: str) -> None:
    from lambda_pool.cli.doctor.advice import of_token
    from lambda_pool.cli.doctor.aws import Answer, Signed

    pool = Pool(f"postgresql://app@{RDS_HOST}:5432/d", observers=())
    patient = checks.Patient(core_of(pool), Role.WRITER, time.monotonic() + 10, Redactor())
    patient.endpoint = Endpoint(RDS_HOST, 5432)
    patient.credentials = Credentials("app", Secret("canary"), iam=True)
    error = RuntimeError("PAM authentication failed")
    advice = of_token(
        error, "postgresql", patient.request(), "us-east-1", Signed(time.time(), "us-east-1"), Answer(ahead=0.0)
    )
    assert "The token is for us-east-1, and the endpoint is in eu-central-1" in " ".join(advice)


# --- after the login --------------------------------------------------------------------------------------------------


def test_a_read_only_server(server: Server) -> None:
    there, back = (
        ("alter role app set default_transaction_read_only = on", "alter role app reset default_transaction_read_only")
        if isinstance(server, PostgresServer)
        else ("set global read_only = 1", "set global read_only = 0")
    )
    with changed(server, there, back):
        found, reader = examine(url_of(server)), examine(url_of(server), readonly=True)
    assert "default_transaction_read_only" in found.failed_at("state")
    assert found.status("round trip") == "ok"
    assert reader.report["ok"]


@pytest.mark.sampled(1 / 3, "6 s")
def test_a_standby() -> None:
    with primary() as writer, StandbyServer(writer) as standby:
        assert "the server is a replica" in examine(standby.url()).failed_at("state")
        assert examine(standby.url(), readonly=True).report["ok"]
        code, _ = command("--url", standby.url(), "--readonly")
        assert code == 0


def test_a_server_whose_clock_is_wrong(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(server, PostgresServer):
        # Its clock cannot be set without setting the machine's. So the clock of this process is shifted instead.
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() - 3600)
        found = examine(url_of(server))
    else:
        ahead = "set global init_connect = 'set timestamp = unix_timestamp() + 3600'"
        with changed(server, ahead, "set global init_connect = ''"):
            found = examine(url_of(server))
    assert found.status("clock") == "warning"
    assert found.report["exit_code"] == 0
    assert found.steps["clock"]["facts"]["seconds_ahead"] == pytest.approx(3600, abs=2)
    assert "ahead" in found.said("clock")


def test_a_query_that_never_ends(server: Server) -> None:
    with FaultyProxy("127.0.0.1", server.port) as proxy:
        pool = Pool(url_of(server, port=proxy.port), timeout=0.5, observers=())
        patient = checks.Patient(core_of(pool), Role.WRITER, time.monotonic() + 20, Redactor())
        patient.endpoint = Endpoint("localhost", proxy.port)
        checks.identity(patient)
        assert checks.login(patient).status == "ok"
        proxy.swallow("to_client")
        finding = checks.query(patient)
        assert (finding.status, finding.detail) == ("failed", "no answer in time")
        assert patient.link is not None
        patient.link.close(0.5)


def test_a_pooler_that_was_not_mentioned() -> None:
    with PostgresServer() as made, PgBouncer(made) as bouncer:
        found = examine(bouncer.url(pooled=False))
        assert (found.status("query"), found.report["exit_code"]) == ("warning", 0)
        assert "add pooled=true to the URL" in found.said("query")
        assert examine(bouncer.url()).status("query") == "ok"
        said = examine(bouncer.url(pooled=False, options="-c statement_timeout=1")).failed_at("login")
        assert "There is a pooler that refuses start-up options: add pooled=true" in said
        said = examine(bouncer.url(options="-c statement_timeout=1")).failed_at("config")
        assert "ALTER ROLE" in said


@pytest.mark.sampled(1 / 3, "3 s")
def test_a_slow_way() -> None:
    with PostgresServer() as made, FaultyProxy("127.0.0.1", made.port) as proxy:
        proxy.delay(0.03)
        found = examine(made.url(port=proxy.port))
    assert (found.status("round trip"), found.report["exit_code"]) == ("warning", 0)


def test_the_time_for_everything_is_bounded(server: Server) -> None:
    with FaultyProxy("127.0.0.1", server.port) as proxy:
        proxy.delay(0.2)
        started = time.monotonic()
        found = examine(url_of(server, port=proxy.port), timeout=0.5)
        assert time.monotonic() - started < 10
        assert found.report["exit_code"] == 1


# --- inside a function ------------------------------------------------------------------------------------------------

FUNCTION = """
from lambda_pool.cli import doctor
import lambda_pool

@lambda_pool.handler
def handler(event, context, conn):
    return conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id()

def examine(event, context):
    return doctor.diagnose(timeout=10.0)
"""


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.runtime
@pytest.mark.parametrize("handler", ["handler", "examine"])
def test_returned_from_a_handler(server: Server, tmp_path: Path, handler: str) -> None:
    (tmp_path / "function.py").write_text(FUNCTION)
    env = {"LAMBDA_POOL_URL": url_of(server), "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_ACCESS_KEY_ID": ACCESS_KEY}
    with LambdaRuntime(f"function.{handler}", code_dir=tmp_path, env=env) as runtime:
        answers = [runtime.invoke() for _ in range(2)]
        log = runtime.log
    assert [answer.error for answer in answers] == [None, None]
    check_no_secret(log)
    if handler == "examine":
        for answer in answers:
            found = Found(answer.payload)
            assert found.report["ok"], found.text


# --- never a secret ---------------------------------------------------------------------------------------------------


def test_the_last_line_of_defence() -> None:
    redactor = Redactor()
    redactor.add(Secret(PASSWORD), Secret(SECRET_KEY), None, Secret("abc"), Secret(""))
    token = "h:1/?X-Amz-Security-Token=canary%2F&X-Amz-Signature=abc1"
    text = f"user:{PASSWORD} {SECRET_KEY} {quote(PASSWORD, safe='')} {token} abc"
    cleaned = redactor.clean({"a": [text], "b": 1, "c": None})
    assert cleaned == {
        "a": ["user:*** *** *** h:1/?X-Amz-Security-Token=***&X-Amz-Signature=*** abc"],
        "b": 1,
        "c": None,
    }


@pytest.mark.parametrize("password", ["postgres", "postgresql", "localhost", "sales", "salesdb", "5432"])
def test_a_password_that_is_a_word_of_the_url(password: str) -> None:
    """Stars in place of the word would show what the password is."""
    url = f"postgresql://postgres:{password}@localhost:5432/salesdb"
    text = examine(Pool(url, connect_timeout=0.3, observers=())).text
    assert "postgresql://postgres@localhost:5432/salesdb" in text
    assert "***" not in text


@pytest.mark.parametrize(
    ("leak", "cleaned"),
    [
        ("postgresql://sales:sales@h/sales", "postgresql://sales:***@h/sales"),
        ("user=sales password=sales host=h", "user=sales password=*** host=h"),
        ("{'user': 'sales', 'passwd': 'sales'}", "{'user': 'sales', 'passwd': '***'}"),
        ("canary of salesdb", "*** of salesdb"),
        ("a canarybird", "a ***bird"),
    ],
)
def test_where_a_password_stands_its_words_are_masked_too(leak: str, cleaned: str) -> None:
    redactor = Redactor()
    redactor.add(Secret("sales"), Secret("canary"))
    redactor.spare("postgresql", "sales", "", None, 5432, "salesdb")
    assert redactor.clean(leak) == cleaned


class Talkative:
    """Somebody's own credentials, which tell everything they know when they fail."""

    needs_tls = False

    def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Credentials:
        raise RuntimeError(f"the key is {SECRET_KEY} and the token {SESSION_TOKEN}")

    def rejected(self, credentials: Credentials) -> None:
        pass

    def forget(self) -> None:
        pass

    def __repr__(self) -> str:
        return f"Talkative({SECRET_KEY!r})"


class Careless(Talkative):
    """Somebody's own credentials, with the password as a plain text."""

    def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Credentials:
        return Credentials(user, PASSWORD)  # type: ignore[arg-type]


def test_a_password_that_nothing_hides(server: Server) -> None:
    found = examine(Pool(server.url("app"), auth=Careless(), observers=()))
    assert "Careless gave a password that is not wrapped in a Secret" in found.failed_at("identity")
    assert "not expected" not in found.text


def test_what_others_tell_is_cleaned(server: Server) -> None:
    found = examine(Pool(server.url("app"), auth=Talkative(), observers=()))
    assert "the key is *** and the token ***" in found.said("identity")
    assert "your own Talkative" in found.said("config")


@pytest.mark.parametrize(
    ("arn", "who"),
    [
        ("arn:aws:sts::123456789012:assumed-role/orders-role/orders-function", "role orders-role"),
        ("arn:aws:iam::123456789012:user/anna", "arn:aws:iam::123456789012:user/anna"),
        (None, "the function's role"),
    ],
)
def test_whom_to_allow(arn: str | None, who: str) -> None:
    assert aws.Answer(arn=arn).who == who


@pytest.mark.parametrize(
    ("host", "region", "arn"),
    [
        (RDS_HOST, REGION, "arn:aws:rds-db:eu-central-1:ACCOUNT:dbuser:RESOURCE-ID/app"),
        ("db.internal", "cn-north-1", "arn:aws-cn:rds-db:cn-north-1:ACCOUNT:dbuser:RESOURCE-ID/app"),
        ("db.internal", "us-gov-west-1", "arn:aws-us-gov:rds-db:us-gov-west-1:ACCOUNT:dbuser:RESOURCE-ID/app"),
    ],
)
def test_the_arn_without_an_answer(host: str, region: str, arn: str) -> None:
    assert aws.policy_arn(host, region, "app", aws.Answer()) == arn


def test_what_is_to_be_copied_is_not_broken() -> None:
    arn = "arn:aws:rds-db:eu-central-1:123456789012:dbuser:db-M5ENSHXFPU6XHZ4G4ZEI5QIO2U/a-user-with-a-long-name"
    finding = failed("a " * 60, f"{'b ' * 40}{arn} to somebody")
    text = render(report("orders", [step("login", finding, 0.0, Redactor())]), Terminal(io.StringIO()))
    assert arn in text
    assert all(len(line) <= 80 or arn in line for line in text.splitlines())


def test_what_is_no_token() -> None:
    for text in ("", "password", "h:1/?X-Amz-Date=nonsense&X-Amz-Credential=a/b/c", "h:1/?X-Amz-Date=20260101T000000Z"):
        assert aws.read_token(Secret(text)) is None
    assert aws.read_token(None) is None
    signed = aws.read_token(Secret(IamToken(REGION).token("h", 1, "app")))
    assert signed is not None
    assert abs(signed.at - time.time()) < 5
    assert signed.region == REGION


def test_within_raises_what_the_work_raises() -> None:
    with pytest.raises(KeyError):
        within(5, lambda: {"found": 1}["missing"])
    assert within(5, lambda: 7) == 7


# --- room -------------------------------------------------------------------------------------------------------------


def test_how_full_the_server_is(server: Server) -> None:
    found = examine(server.url())
    facts = found.steps["room"]["facts"]
    assert found.status("room") == "ok"
    assert 0 < facts["connections"] < facts["limit"] <= 60
    # Outside an invocation nobody knows how long one may last. MySQL counts whole seconds.
    assert facts["session_idle"] == (905.5 if server.scheme == "postgresql" else 906)
    assert f"{facts['connections']} of {facts['limit']} connections" in found.said("room")


def test_a_server_so_full_that_nothing_is_kept(server: Server) -> None:
    found = examine(Pool(server.url(), keep_below=0.01))
    assert (found.status("room"), found.report["exit_code"]) == ("warning", 0)
    assert "lambda-pool plan --running" in found.said("room")


def test_a_server_that_may_not_be_asked() -> None:
    with PostgresServer(tls=False, hba=["host all app 127.0.0.1/32 trust"]) as made:
        made.execute("create role app login")
        made.execute("revoke select on pg_catalog.pg_stat_database from public")
        found = examine(f"postgresql://app@127.0.0.1:{made.port}/postgres")
    assert (found.status("room"), found.report["exit_code"]) == ("warning", 0)
    assert "permission denied" in found.said("room")
    assert "keep_below has no effect" in found.said("room")


@pytest.mark.sampled(1 / 3, "3 s")
def test_a_pooler_that_takes_too_few_clients() -> None:
    with PostgresServer() as made:
        with PgBouncer(made, max_client_conn=100) as bouncer:
            found = examine(bouncer.url())
            assert (found.status("room"), found.steps["room"]["facts"]) == ("warning", {"max_client_conn": 100})
            assert "at least the number of environments" in found.said("room")
        with PgBouncer(made, max_client_conn=2000) as bouncer:
            assert examine(bouncer.url()).status("room") == "ok"
        with PgBouncer(made, {"app": "app"}, admin_users="nobody_else") as bouncer:  # this user may not use its console
            found = examine(bouncer.url())
            assert found.status("room") == "ok"
            assert "at least the number of environments" in found.said("room")


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (FileNotFoundError(2, "No such file or directory", "/nowhere"), "No such file or directory: /nowhere"),
        (TimeoutError("timed out"), "no answer in time"),
        (pymysql.OperationalError(1045, "Access denied for user 'app'"), "Access denied for user 'app' (error 1045)"),
        (
            UnicodeError("label empty or too long"),
            "it is not a host name: its parts between dots must have 1 to 63 characters",
        ),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"), "wrong version number"),
        (psycopg.OperationalError("first\n\tsecond"), "first; second"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_is_told_without_pythons_marks(error: Exception, text: str) -> None:
    assert words.of_error(error) == text


@pytest.mark.parametrize(("data", "text"), [(b"d", "d"), (b"HTTP", "HTTP"), (b"\x00\xff", "the bytes 00 ff")])
def test_what_a_stranger_sends_is_readable(data: bytes, text: str) -> None:
    assert words.of_bytes(data) == text


REPR = re.compile(r"\[Errno|\(\d+, ['\"]|b'|\w+\(.*=.*\)|<[\w.]+ object|Traceback|\w+Error:|\{'")


@pytest.mark.parametrize("parts", [{}, {"database": "nowhere"}, {"port": 1}, {"host": "x" * 64}], ids=str)
@pytest.mark.parametrize("password", [PASSWORD, "canary of another"])
def test_no_step_shows_what_only_programmers_read(server: Server, password: str, parts: dict[str, Any]) -> None:
    found = examine(server.url("app", password, **parts))
    assert REPR.search(found.text) is None, found.text
    assert REPR.search(json.dumps([step["facts"] for step in found.report["steps"]])) is None
