"""Encryption: what is chosen for each host, and what real servers and drivers then accept and refuse."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pymysql
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_pool import certs, tls
from lambda_pool.auth.base import Credentials
from lambda_pool.engines.base import ConnectRequest, Engine, Failure
from lambda_pool.engines.psycopg.engine import PostgresEngine
from lambda_pool.engines.pymysql.engine import MysqlEngine
from lambda_pool.errors import ConfigError
from lambda_pool.secret import Secret
from lambda_pool.testing.mariadb import MariaDbServer
from lambda_pool.testing.postgres import PostgresServer
from lambda_pool.tls import MODES, Tls, advice, choose, context, is_local
from tests.support.certificates import Identity, make
from tests.support.speed import examples

HASH = "c0ffee123abc"
INSTANCE = f"orders.{HASH}.eu-west-1.rds.amazonaws.com"
PROXY = f"orders.proxy-{HASH}.eu-west-1.rds.amazonaws.com"


def shipped(name: str) -> str:
    path = certs.path(name)
    assert path is not None
    return path


@pytest.fixture
def system_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The operating system's only trust store."""
    store = tmp_path / "system.pem"
    store.touch()
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr(tls, "_SYSTEM_FILES", ("/nowhere/cert.pem", str(store)))
    return str(store)


# --- what is chosen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "store"),
    [
        (INSTANCE, "eu-west-1"),
        (INSTANCE.upper() + ".", "eu-west-1"),
        (f"orders.cluster-{HASH}.us-east-2.rds.amazonaws.com", "us-east-2"),
        (f"orders.cluster-ro-{HASH}.il-central-1.rds.amazonaws.com", "il-central-1"),
        (f"orders.shardgrp-{HASH}.us-east-1.rds.amazonaws.com", "us-east-1"),
        (PROXY, "proxy"),
        (f"ro.endpoint.proxy-{HASH}.sa-east-1.rds.amazonaws.com", "proxy"),
        (f"orders.proxy-{HASH}.rds.cn-north-1.amazonaws.com.cn", "proxy"),
        # The writer may be in any region, and regions open after a release.
        (f"orders.global-{HASH}.global.rds.amazonaws.com", "all"),
        (f"orders.{HASH}.mars-north-1.rds.amazonaws.com", "all"),
    ],
)
def test_rds_hosts_are_verified_in_full_with_what_is_shipped(host: str, store: str) -> None:
    for proxy in (False, True):
        for required in (False, True):
            if store == "us-east-1" and proxy:
                continue
            assert choose(host, None, None, proxy=proxy, required=required) == Tls("verify-full", shipped(store))
    chosen = choose(host, "require", None, proxy=False, required=True)
    assert chosen == Tls("require", None)


def test_an_unknown_form_of_endpoint_that_the_api_calls_a_proxy() -> None:
    host = f"orders.db-proxy-{HASH}.eu-west-1.rds.amazonaws.com"
    assert choose(host, None, None, proxy=True, required=False).ca_file == shipped("proxy")
    assert choose(host, None, None, proxy=False, required=False).ca_file == shipped("eu-west-1")


@pytest.mark.parametrize(
    "host", ["db.example.com", "10.0.0.7", "2001:db8::1", "127.0.0.1.example.com", "localhost.example"]
)
def test_other_hosts_are_verified_with_the_systems_store(host: str, system_store: str) -> None:
    assert not is_local(host)
    for proxy in (False, True):
        assert choose(host, None, None, proxy=proxy, required=False) == Tls("verify-full", system_store)


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost.", "127.0.0.1", "127.1.2.3", "::1", "", "/run/db", "@abstract"]
)
def test_the_own_machine_needs_no_encryption(host: str) -> None:
    assert is_local(host)
    assert choose(host, None, None, proxy=False, required=False) == Tls("prefer")
    assert choose(host, None, None, proxy=False, required=True) == Tls("require")


@pytest.mark.parametrize(
    "host", ["127.example.com", "127.0.0.1,db.example.com", "/run/db,db.example.com", "localhost2"]
)
def test_what_only_looks_like_the_own_machine(host: str, system_store: str) -> None:
    assert not is_local(host)
    assert choose(host, None, None, proxy=False, required=False).mode == "verify-full"


@pytest.mark.parametrize("mode", MODES)
def test_the_users_word_wins(mode: str, tmp_path: Path, system_store: str) -> None:
    own = str(tmp_path / "own.pem")
    for host in (INSTANCE, PROXY, "db.example.com", "localhost"):
        chosen = choose(host, mode, own, proxy=False, required=True)
        # libpq: with a CA, require means verify-ca.
        assert chosen == Tls("verify-ca" if mode == "require" else mode, own)
        if mode != "verify-ca":
            assert choose(host, mode, None, proxy=False, required=True).mode == mode
    assert chosen.required == (mode in {"require", "verify-ca", "verify-full"})


def test_a_ca_of_the_users_means_that_it_is_used() -> None:
    for host in (INSTANCE, "db.example.com", "localhost"):
        assert choose(host, None, "own.pem", proxy=False, required=False) == Tls("verify-full", "own.pem")


def test_names_for_what_is_shipped(system_store: str) -> None:
    def named(root_cert: str, mode: str | None = None) -> Tls:
        return choose("db.example.com", mode, root_cert, proxy=False, required=False)

    assert named("rds") == Tls("verify-full", shipped("all"))
    assert named("rds-eu-west-1") == Tls("verify-full", shipped("eu-west-1"))
    assert named("rds-proxy") == Tls("verify-full", shipped("proxy"))
    assert named("system") == Tls("verify-full", system_store)
    # The user's own name in front of an instance: no certificate covers it.
    assert named("rds-eu-west-1", "verify-ca") == Tls("verify-ca", shipped("eu-west-1"))
    for path in ("rds-combined-ca-bundle.pem", "./rds", "/etc/rds", "certs/rds-eu-west-1"):
        assert named(path).ca_file == path
    with pytest.raises(ConfigError, match=r"sslrootcert=rds-mars-north-1: .*mars-north-1/mars-north-1-bundle.pem"):
        named("rds-mars-north-1")


@pytest.mark.parametrize("mode", MODES[:-1])
@pytest.mark.parametrize("root_cert", ["system", "rds-proxy"])
def test_public_authorities_are_worth_nothing_without_the_name(mode: str, root_cert: str) -> None:
    with pytest.raises(ConfigError, match="sslmode=verify-full"):
        choose("db.example.com", mode, root_cert, proxy=False, required=False)


@pytest.mark.parametrize("host", ["db.example.com", PROXY])
def test_verify_ca_alone_would_trust_every_public_certificate(host: str, system_store: str) -> None:
    with pytest.raises(ConfigError, match="sslmode=verify-full"):
        choose(host, "verify-ca", None, proxy=False, required=False)
    assert choose(INSTANCE, "verify-ca", None, proxy=False, required=False).ca_file == shipped("eu-west-1")


def test_the_systems_store_is_where_openssl_was_told(system_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/told.pem")
    assert choose("db.example.com", None, None, proxy=False, required=False).ca_file == "/told.pem"


def test_a_system_without_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr(tls, "_SYSTEM_FILES", ("/nowhere/cert.pem",))
    with pytest.raises(ConfigError, match=r"verify db.example.com with \(looked for /nowhere/cert.pem\).*sslrootcert="):
        choose("db.example.com", None, None, proxy=False, required=False)
    # RDS's hosts need none.
    assert choose(INSTANCE, None, None, proxy=False, required=False).ca_file == shipped("eu-west-1")


def test_this_machine_has_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    chosen = choose("db.example.com", None, None, proxy=False, required=False)
    assert context(chosen, "db.example.com").cert_store_stats()["x509_ca"] > 50


@settings(max_examples=examples(1_000), deadline=None)
@given(st.text(max_size=60), st.sampled_from([None, *MODES]), st.one_of(st.none(), st.text(max_size=20)), st.booleans())
def test_any_host_and_any_root(host: str, mode: str | None, root_cert: str | None, proxy: bool) -> None:
    try:
        chosen = choose(host, mode, root_cert, proxy=proxy, required=False)
    except ConfigError:
        return
    assert chosen.mode == (mode or chosen.mode) or (mode == "require" and root_cert is not None)
    if not is_local(host) and mode is None:
        assert chosen.mode == "verify-full"
    assert not chosen.verifies or chosen.ca_file is not None


def test_choosing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lambda_pool.tls import choose;"
        f"choose({INSTANCE!r}, None, None, proxy=False, required=True);"
        "choose('db.example.com', None, None, proxy=False, required=True);"
        "assert not {'ssl', 'pathlib', 'importlib.resources', 'socket'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-S", "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[2])


# --- the context ------------------------------------------------------------------------------------------------------


def test_a_context_for_each_mode() -> None:
    for mode in ("allow", "prefer", "require"):
        made = context(Tls(mode), INSTANCE)
        assert (made.verify_mode, made.check_hostname) == (ssl.CERT_NONE, False)
    verify_ca = context(Tls("verify-ca", shipped("eu-west-1")), INSTANCE)
    assert (verify_ca.verify_mode, verify_ca.check_hostname) == (ssl.CERT_REQUIRED, False)
    full = context(Tls("verify-full", shipped("eu-west-1")), INSTANCE)
    assert (full.verify_mode, full.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert full.cert_store_stats() == {"x509": 3, "crl": 0, "x509_ca": 3}
    assert full.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_without_a_ca_file_openssl_knows_its_own() -> None:
    made = context(Tls("verify-full"), "db.example.com")
    assert (made.verify_mode, made.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_an_installation_without_its_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambda_pool.certs.path", lambda name: None)
    with pytest.raises(ConfigError, match=r"certs/all.pem is missing: install lambda-pool again"):
        choose(INSTANCE, None, None, proxy=False, required=False)


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing here")
    for path in (empty, tmp_path / "missing.pem", tmp_path):
        with pytest.raises(ConfigError, match=r"sslrootcert='.*' cannot be used to verify db.example.com"):
            context(Tls("verify-full", str(path)), "db.example.com")


class TlsServer:
    """Shakes hands with every client, and shows one certificate."""

    def __init__(self, identity: Identity, folder: Path) -> None:
        chain, key = folder / "chain.pem", folder / "chain.key"
        chain.write_text(identity.pem)
        key.write_text(identity.key_pem)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(chain, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(10)
            try:
                with self._context.wrap_socket(connection, server_side=True) as stream:
                    stream.recv(1)
            except (OSError, ssl.SSLError):
                connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


_SHAKE = """
import socket, ssl, sys
from lambda_pool.tls import Tls, context
made = context(Tls("verify-full", sys.argv[2]), "localhost")
if sys.argv[3] == "strict":
    made.verify_flags |= ssl.VERIFY_X509_STRICT
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as plain:
    with made.wrap_socket(plain, server_hostname="localhost"):
        print("shaken")
"""


def test_a_chain_like_those_of_rds_passes_on_every_python(any_python: str, tmp_path: Path) -> None:
    root = make("root", ca=True, by_the_book=False)
    server = make("localhost", make("intermediate", root, ca=True, by_the_book=False), by_the_book=False)
    (tmp_path / "root.pem").write_text(root.pem)
    listener = TlsServer(server, tmp_path)

    def shake(how: str) -> subprocess.CompletedProcess[str]:
        command = [any_python, "-c", _SHAKE, str(listener.port), str(tmp_path / "root.pem"), how]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, cwd=Path(__file__).parents[2]
        )

    try:
        done = shake("as it is")
        assert done.stdout == "shaken\n", done.stderr
        # What Python 3.13's create_default_context() would set.
        assert "CERTIFICATE_VERIFY_FAILED" in shake("strict").stderr
    finally:
        listener.close()


# --- real servers, real drivers ---------------------------------------------------------------------------------------


@dataclass
class Shown:
    """A server whose certificate can be changed, and the way to it."""

    engine: Engine
    user: str
    password: str
    port: int
    show: Callable[[Identity], None]

    def connect(self, encryption: Tls) -> None:
        """Connect and close. Raises the engine's error."""
        request = ConnectRequest(
            host="localhost",
            port=self.port,
            database="",
            credentials=Credentials(self.user, Secret(self.password)),
            tls=encryption,
            timeout=10.0,
            autocommit=True,
            pooled=False,
            application_name="test",
        )
        self.engine.load()
        self.engine.connect(request).close(1.0)


@dataclass(frozen=True)
class Cast:
    """Who is who. `ca` is the file of the one trusted authority."""

    ca: str
    good: Identity
    other_name: Identity
    other_authority: Identity
    itself: Identity
    expired: Identity
    not_yet: Identity
    chain: Identity


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A directory that the servers' accounts may also enter."""
    with tempfile.TemporaryDirectory(prefix="tls-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="module")
def cast(folder: Path) -> Cast:
    root = make("the authority", ca=True)
    (folder / "ca.pem").write_text(root.pem)
    (folder / "ca.pem").chmod(0o644)
    return Cast(
        ca=str(folder / "ca.pem"),
        good=make("localhost", root),
        other_name=make("db.example", root, names=["db.example"]),
        other_authority=make("localhost", make("another authority", ca=True)),
        itself=make("localhost"),
        expired=make("localhost", root, days=(-30, -1)),
        not_yet=make("localhost", root, days=(1, 30)),
        chain=make("localhost", make("intermediate", root, ca=True)),
    )


def put(path: Path, identity: Identity, server: PostgresServer | MariaDbServer) -> None:
    """Write certificate and key where the server reads them."""
    for file, text in ((path / "server.crt", identity.pem), (path / "server.key", identity.key_pem)):
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        file.write_text(text)
        server._give(file)


def certificate_of_postgres(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        plain.sendall(struct.pack("!ii", 8, 80877103))  # SSLRequest
        if plain.recv(1) != b"S":
            return b""
        unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unverified.check_hostname = False
        unverified.verify_mode = ssl.CERT_NONE
        with unverified.wrap_socket(plain) as stream:
            return stream.getpeercert(binary_form=True) or b""


@pytest.fixture(scope="module")
def shown_postgres(folder: Path, cast: Cast) -> Iterator[Shown]:
    path = folder / "postgres"
    path.mkdir(mode=0o755)
    server = PostgresServer(
        extra_config=[f"ssl_cert_file = '{path / 'server.crt'}'", f"ssl_key_file = '{path / 'server.key'}'"]
    )
    put(path, cast.good, server)

    def show(identity: Identity) -> None:
        put(path, identity, server)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGHUP)
        wanted = ssl.PEM_cert_to_DER_cert(identity.pem.split("-----END")[0] + "-----END CERTIFICATE-----\n")
        until = time.monotonic() + 20
        while certificate_of_postgres(server.port) != wanted:
            assert time.monotonic() < until
            time.sleep(0.02)

    with server:
        yield Shown(PostgresEngine(), server.user, server.password, server.port, show)


@pytest.fixture(scope="module")
def shown_mariadb(folder: Path, cast: Cast) -> Iterator[Shown]:
    path = folder / "mariadb"
    path.mkdir(mode=0o755)
    server = MariaDbServer(extra_config=[f"--ssl-cert={path / 'server.crt'}", f"--ssl-key={path / 'server.key'}"])
    put(path, cast.good, server)

    def show(identity: Identity) -> None:
        put(path, identity, server)
        connection = pymysql.connect(
            host="127.0.0.1",
            port=server.port,
            user=server.user,
            password=server.password,
            ssl=context(Tls("require"), "127.0.0.1"),
        )
        with connection, connection.cursor() as cursor:
            cursor.execute("flush ssl")

    with server:
        yield Shown(MysqlEngine(), server.user, server.password, server.port, show)


@pytest.fixture(params=["postgresql", "mysql"])
def shown(request: pytest.FixtureRequest) -> Shown:
    """Each of both servers in turn."""
    name = "shown_postgres" if request.param == "postgresql" else "shown_mariadb"
    server: Shown = request.getfixturevalue(name)
    return server


@pytest.fixture(scope="module")
def plain_postgres() -> Iterator[Shown]:
    with PostgresServer(extra_config=["ssl = off"]) as server:
        yield Shown(PostgresEngine(), server.user, server.password, server.port, lambda identity: None)


@pytest.fixture(scope="module")
def plain_mariadb() -> Iterator[Shown]:
    with MariaDbServer(extra_config=["--skip-ssl"]) as server:
        yield Shown(MysqlEngine(), server.user, server.password, server.port, lambda identity: None)


ACCEPTED = {
    "require": {"good", "chain", "other_name", "other_authority", "itself", "expired", "not_yet"},
    "verify-ca": {"good", "chain", "other_name"},
    "verify-full": {"good", "chain"},
}
HINTS = {
    "other_name": "for another name",
    "other_authority": "sslrootcert=rds-REGION",
    "itself": "sslrootcert=rds-REGION",
    "expired": "out of date|sslrootcert",
    "not_yet": "out of date|sslrootcert",
}


@pytest.mark.sampled(3, "half a second a case")
@pytest.mark.parametrize("who", sorted(ACCEPTED["require"]))
def test_what_each_mode_accepts(shown: Shown, cast: Cast, who: str) -> None:
    shown.show(getattr(cast, who))
    for mode, accepted in ACCEPTED.items():
        encryption = Tls(mode, None if mode == "require" else cast.ca)
        if who in accepted:
            shown.connect(encryption)
            continue
        with pytest.raises(Exception) as caught:
            shown.connect(encryption)
        assert shown.engine.classify(caught.value) is Failure.UNTRUSTED, caught.value
        hint = advice(str(caught.value), "db.example.com", encryption)
        assert any(part in hint for part in HINTS[who].split("|")), (str(caught.value), hint)


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("name", ["plain_postgres", "plain_mariadb"])
def test_plain_text_is_refused_from_require_on(request: pytest.FixtureRequest, cast: Cast, name: str) -> None:
    server: Shown = request.getfixturevalue(name)
    server.connect(Tls("disable"))
    server.connect(Tls("prefer"))
    for mode in ("require", "verify-ca", "verify-full"):
        encryption = Tls(mode, None if mode == "require" else cast.ca)
        with pytest.raises(Exception) as caught:
            server.connect(encryption)
        assert server.engine.classify(caught.value) is Failure.UNTRUSTED, caught.value
        assert "does not support TLS" in advice(str(caught.value), "localhost", encryption), caught.value


def test_prefer_encrypts_where_the_server_can(shown: Shown, cast: Cast) -> None:
    shown.show(cast.itself)
    shown.connect(Tls("prefer"))


# --- advice -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "host", "store", "hint"),
    [
        ("unable to get local issuer", f"o.{HASH}.mars-north-1.rds.amazonaws.com", "all", "mars-north-1-bundle.pem"),
        ("verify failed", f"o.{HASH}.rds.cn-north-1.amazonaws.com.cn", "all", "s3.cn-north-1.amazonaws.com.cn"),
        ("verify failed", f"o.{HASH}.us-gov-west-1.rds.amazonaws.com", "all", "pki.us-gov-west-1.rds"),
        ("verify failed", INSTANCE, "eu-west-1", "eu-west-1-bundle.pem"),
        ("certificate verify failed", INSTANCE, "eu-west-1", "out of date"),
        ("verify failed", INSTANCE, "proxy", "Leave sslrootcert out"),
        ("verify failed", PROXY, "eu-west-1", "Leave sslrootcert out"),
        ("verify failed", PROXY, "proxy", "install a newer lambda-pool"),
        ("verify failed", "db.example.com", "proxy", "name of your own in front of RDS"),
        ("certificate has expired", INSTANCE, "eu-west-1", "Rotate the certificate"),
        ("does not match host name", "db.example.com", "eu-west-1", "sslrootcert=rds-REGION"),
        ('root certificate file "x" does not exist', INSTANCE, "eu-west-1", "leave sslrootcert out"),
        ("server does not support SSL, but SSL was required", INSTANCE, "eu-west-1", "rds.force_ssl"),
    ],
)
def test_advice_fits_the_host(error: str, host: str, store: str, hint: str) -> None:
    assert hint in advice(error, host, Tls("verify-full", shipped(store)))
