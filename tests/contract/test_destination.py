"""Where a connection really leads, with which user and encryption, whatever sets them: on real servers."""

import contextlib
import os
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from lambda_pool import ConfigError, ConnectError, CredentialsError, IamToken, Pool, SecretsManager
from lambda_pool.api import core_of
from lambda_pool.auth.base import Credentials
from lambda_pool.cli.doctor import diagnose
from lambda_pool.endpoints.base import Endpoint, FixedEndpoint
from lambda_pool.invocation import Deadline
from lambda_pool.secret import Secret
from lambda_pool.testing import MariaDbServer, PostgresServer
from tests.support.certificates import Identity, make

ELSEWHERE = "orders.example"
"""A name that nobody can look up and that is not local."""
PASSWORD = "p:/?#[]@ %41&=+é'\"\\"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("PG"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def plain() -> Iterator[PostgresServer]:
    """A PostgreSQL without TLS, which logs every login."""
    with PostgresServer(tls=False, log_statements=True) as server:
        yield server


def login_of(server: PostgresServer | MariaDbServer) -> str:
    return f"{server.user}:{quote(server.password, safe='')}"


def encrypted(pool: Pool) -> bool:
    """Connect. Out: whether TLS is in use."""
    with pool.connection() as conn:
        if isinstance(conn, psycopg.Connection):
            return bool(conn.pgconn.ssl_in_use)
        with conn.cursor() as cursor:
            cursor.execute("show status like 'Ssl_version'")
            return bool(cursor.fetchone()[1])


def pool_of(url: str | None = None, **options: Any) -> Pool:
    return Pool(url, observers=(), **{"timeout": 3.0, **options})


# --- a name that is not local, and leads to this machine --------------------------------------------------------------


def by_query(server: PostgresServer, environ: pytest.MonkeyPatch, folder: Path) -> str:
    return f"postgresql://{login_of(server)}@{ELSEWHERE}:{server.port}/postgres?hostaddr=127.0.0.1"


def by_variables(server: PostgresServer, environ: pytest.MonkeyPatch, folder: Path) -> str:
    environ.setenv("PGHOST", ELSEWHERE)
    environ.setenv("PGHOSTADDR", "127.0.0.1")
    return f"postgresql://{login_of(server)}@:{server.port}/postgres?"


def by_variables_alone(server: PostgresServer, environ: pytest.MonkeyPatch, folder: Path) -> str:
    environ.setenv("PGPORT", str(server.port))
    environ.setenv("PGUSER", server.user)
    environ.setenv("PGPASSWORD", server.password)
    environ.setenv("PGDATABASE", "postgres")
    by_variables(server, environ, folder)
    return "postgresql://?"


def by_service(server: PostgresServer, environ: pytest.MonkeyPatch, folder: Path) -> str:
    file = folder / "services.conf"
    lines = [f"host={ELSEWHERE}", "hostaddr=127.0.0.1", f"port={server.port}", "sslmode=disable"]
    file.write_text("\n".join(["[orders]", *lines, f"user={server.user}", f"password={server.password}", ""]))
    environ.setenv("PGSERVICEFILE", str(file))
    environ.setenv("PGSERVICE", "orders")
    return "postgresql:///postgres?"


WAYS = [by_query, by_variables, by_variables_alone, by_service]


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("way", WAYS)
def test_a_name_that_leads_here_is_no_reason_to_do_without_tls(
    plain: PostgresServer, way: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = way(plain, monkeypatch, tmp_path)
    offset = len(plain.log)
    for mode in ("", "disable", "prefer"):  # the environment's setting counts if it is stricter
        monkeypatch.setenv("PGSSLMODE", mode)
        with pytest.raises(ConnectError, match=rf"{ELSEWHERE}:{plain.port}.*The server does not support TLS"):
            encrypted(pool_of(url))
        report = diagnose(pool_of(url))
        assert [step["step"] for step in report["steps"] if step["status"] == "failed"] == ["tls"]
    assert "connection authorized" not in plain.log[offset:]
    # If somebody asks for it, it is done.
    assert encrypted(pool_of(f"{url}&sslmode=disable".replace("?&", "?"))) is False


@pytest.mark.parametrize("way", WAYS)
def test_the_name_is_what_the_certificate_is_verified_for(
    postgres: PostgresServer, way: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = way(postgres, monkeypatch, tmp_path)
    monkeypatch.setenv("PGSSLROOTCERT", str(postgres.ca_path))
    with pytest.raises(ConnectError, match="The certificate is for another name"):
        encrypted(pool_of(url))
    if way is by_query:
        url = url.replace(ELSEWHERE, "localhost")
    elif way is by_service:
        file = tmp_path / "services.conf"
        file.write_text(file.read_text().replace(ELSEWHERE, "localhost"))
    else:
        monkeypatch.setenv("PGHOST", "localhost")
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    if way is by_service:  # its own sslmode is not the stricter one
        url += "&sslmode=verify-full"
    pool = pool_of(url.replace("?&", "?"))
    with pool.connection() as conn:
        assert conn.pgconn.ssl_in_use
        sslmode = {each.keyword: each.val for each in conn.pgconn.info}[b"sslmode"]
        assert sslmode == b"verify-full"
    assert diagnose(pool)["ok"]


def test_a_local_name_that_leads_elsewhere_is_not_local(plain: PostgresServer) -> None:
    """Nobody is at that address: only the way in which it is tried counts."""
    url = f"postgresql://{login_of(plain)}@localhost:{plain.port}/postgres?hostaddr=192.0.2.1"
    pool = pool_of(url, timeout=0.3)
    assert diagnose(pool, timeout=1.0)["steps"][3]["detail"].endswith("hostaddr says 192.0.2.1")
    request = core_of(pool).connector.request(Endpoint("localhost", plain.port), Credentials("u", None), Deadline(1.0))
    assert (request.hostaddr, request.tls.mode) == ("192.0.2.1", "verify-full")


def test_a_url_with_a_host_leads_there_and_nowhere_else(plain: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    [(sockets,)] = plain.execute("show unix_socket_directories")
    for name, value in {"PGHOST": ELSEWHERE, "PGHOSTADDR": "192.0.2.1", "PGPORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert encrypted(pool_of(f"postgresql://{login_of(plain)}@localhost:{plain.port}/postgres")) is False
    assert encrypted(pool_of(**parts_of(plain))) is False
    assert encrypted(pool_of(f"postgresql://{login_of(plain)}@:{plain.port}/postgres?host={sockets}")) is False


def test_a_secret_that_knows_the_host_is_asked_before_libpq(
    plain: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Vault:
        needs_tls = False

        def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Credentials:
            return Credentials(plain.user, Secret(plain.password), host="127.0.0.1", port=plain.port)

        def rejected(self, credentials: Credentials) -> None:
            pass

        def forget(self) -> None:
            pass

    monkeypatch.setenv("PGHOST", ELSEWHERE)
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    assert encrypted(pool_of("postgresql:///postgres", auth=Vault())) is False


def test_libpqs_own_variables_still_lead_to_a_local_server(
    plain: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    [(sockets,)] = plain.execute("show unix_socket_directories")
    monkeypatch.setenv("PGPORT", str(plain.port))
    for host in ("127.0.0.1", "localhost", sockets):
        monkeypatch.setenv("PGHOST", host)
        assert encrypted(pool_of(f"postgresql://{login_of(plain)}@/postgres")) is False
    # A stricter setting of the environment counts.
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGSSLMODE", "require")
    with pytest.raises(ConnectError, match="The server does not support TLS"):
        encrypted(pool_of(f"postgresql://{login_of(plain)}@/postgres"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PGPORT", "many", "PGPORT"),
        ("PGHOST", "a,b", "names several hosts"),
        ("PGHOSTADDR", "::1,::1", "several hosts"),
    ],
)
def test_variables_that_lead_nowhere(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said):
        Pool("postgresql:///postgres")


def test_hostaddr_beside_an_endpoint_is_refused() -> None:
    with pytest.raises(ConfigError, match="hostaddr in the URL is not valid with endpoint"):
        Pool("postgresql://app@/d?hostaddr=127.0.0.1", endpoint=FixedEndpoint(Endpoint("h", 5432)))


def test_a_token_is_not_sent_in_plain_text_by_any_of_them(
    plain: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAEXAMPLEKEY000001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    url = f"postgresql://app@{ELSEWHERE}:{plain.port}/postgres?hostaddr=127.0.0.1"
    offset = len(plain.log)
    with pytest.raises(ConnectError, match="The server does not support TLS"):
        encrypted(pool_of(url, auth=IamToken("eu-central-1")))
    with pytest.raises(ConfigError, match="must never travel unencrypted"):
        encrypted(pool_of(f"{url}&sslmode=disable", auth=IamToken("eu-central-1")))
    assert "authentication" not in plain.log[offset:]


# --- MySQL's arguments ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A directory that the servers' accounts may also enter."""
    with tempfile.TemporaryDirectory(prefix="destination-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="module")
def stranger(folder: Path) -> str:
    """The file of an authority that signed no certificate here."""
    file = folder / "stranger.pem"
    file.write_text(make("somebody else", ca=True).pem)
    return str(file)


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> PostgresServer | MariaDbServer:
    found: PostgresServer | MariaDbServer = request.getfixturevalue(
        "postgres" if request.param == "postgresql" else "mariadb"
    )
    return found


@pytest.mark.parametrize("word", ["sslrootcert", "ssl_ca", "ssl-ca"])
def test_whatever_an_authority_is_called_it_is_the_one_that_counts(
    server: PostgresServer | MariaDbServer, stranger: str, word: str
) -> None:
    url = f"{server.scheme}://{login_of(server)}@localhost:{server.port}/{server.database}"
    for query in ("", "&sslmode=verify-full", "&ssl=true", "&ssl_verify_cert=true"):
        with pytest.raises(ConnectError, match="None of the authorities in"):
            encrypted(pool_of(f"{url}?{word}={quote(stranger)}{query}"))
        assert encrypted(pool_of(f"{url}?{word}={quote(str(server.ca_path))}{query}"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"ssl_ca": "/nowhere"},
        {"ssl_disabled": True},
        {"ssl_verify_cert": False},
        {"ssl_verify_identity": False},
        {"ssl": {"ca": "/nowhere"}},
        {"ssl": ssl._create_unverified_context()},
        {"read_default_file": "/etc/my.cnf"},
    ],
)
def test_verification_is_not_switched_off_from_code(mariadb: MariaDbServer, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        Pool(mariadb.url(), connect_args=arguments)


def test_words_for_encryption_on_a_local_server(server: PostgresServer | MariaDbServer, plain: PostgresServer) -> None:
    url = f"{server.scheme}://{login_of(server)}@localhost:{server.port}/{server.database}"
    for query in ("ssl=true", "tls=true", "useSSL=true", "sslmode=REQUIRED", "ssl-mode=REQUIRED", "ssl=require"):
        assert encrypted(pool_of(f"{url}?{query}"))
    assert encrypted(pool_of(f"{url}?sslmode=DISABLED")) is False
    with pytest.raises(ConnectError, match="The server does not support TLS"):
        encrypted(pool_of(f"postgresql://{login_of(plain)}@localhost:{plain.port}/postgres?ssl=true"))


def test_options_in_the_url_are_the_pools(server: PostgresServer | MariaDbServer) -> None:
    url = f"{server.url()}&autocommit=true&connect_timeout=10&connection_limit=2"
    pool = pool_of(url)
    assert (pool.config.autocommit, pool.config.connect_timeout, pool.config.max_size) == (True, 10.0, 2)
    table = f"auto{os.getpid()}"
    server.execute(f"create table {table} (n int)")
    with contextlib.suppress(ZeroDivisionError), pool.connection() as conn:
        conn.cursor().execute(f"insert into {table} values (1)")
        1 / 0  # noqa: B018
    assert server.execute(f"select n from {table}") == [(1,)]
    pool.close()
    server.execute(f"drop table {table}")


# --- parts instead of a URL -------------------------------------------------------------------------------------------


def parts_of(server: PostgresServer | MariaDbServer, **changes: Any) -> dict[str, Any]:
    parts = {"host": "localhost", "port": server.port, "user": server.user, "password": server.password}
    return {**parts, "database": server.database, "engine": server.scheme, **changes}


@pytest.fixture
def odd_user(server: PostgresServer | MariaDbServer) -> Iterator[str]:
    """A user whose password has characters that a URL would have to escape."""
    name = "odd"
    if server.scheme == "postgresql":
        server.execute(f"create role {name} login password {psycopg.sql.quote(PASSWORD)}")
    else:
        server.execute(f"create user {name}@'%%' identified by %s", PASSWORD)
        server.execute(f"grant all on {server.database}.* to {name}@'%'")
    yield name
    server.execute(f"drop role {name}" if server.scheme == "postgresql" else f"drop user {name}@'%'")


def test_parts_in_code_and_in_the_environment(
    server: PostgresServer | MariaDbServer, odd_user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(server, user=odd_user, password=PASSWORD, sslrootcert=str(server.ca_path))
    assert encrypted(pool_of(**parts))
    for name, value in parts.items():
        monkeypatch.setenv(f"LAMBDA_POOL_{name.upper()}", str(value))
        monkeypatch.setenv(f"ORDERS_{name.upper()}", str(value))
    for pool in (pool_of(), Pool.from_env(), Pool.from_env("ORDERS_")):
        assert encrypted(pool)
        assert PASSWORD not in repr(pool.config)
        report = diagnose(pool)
        assert report["ok"], report
        assert PASSWORD not in str(report)
        pool.close()


def test_a_socket_as_the_host(server: PostgresServer | MariaDbServer) -> None:
    if server.scheme == "postgresql":
        [(where,)] = server.execute("show unix_socket_directories")
    else:
        [(where,)] = server.execute("select @@socket")
        server.execute("create user if not exists 'near'@'localhost' identified by 'x'")
    parts = parts_of(server, host=where)
    assert encrypted(pool_of(**parts)) is False


# --- the client's own certificate -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(folder: Path) -> Identity:
    made = make("the clients' authority", ca=True)
    file = folder / "clients.pem"
    file.write_text(made.pem)
    file.chmod(0o644)
    return made


@pytest.fixture(scope="module")
def client(folder: Path, authority: Identity) -> tuple[str, str]:
    """The files of a certificate for the user `carl`, and of its key."""
    return write(folder, "carl", make("carl", authority, names=["carl"]))


def write(folder: Path, name: str, identity: Identity) -> tuple[str, str]:
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    certificate.write_text(identity.pem)
    key.touch(mode=0o600)
    key.write_text(identity.key_pem)
    return str(certificate), str(key)


@pytest.fixture(scope="module")
def asking(folder: Path, authority: Identity) -> Iterator[dict[str, PostgresServer | MariaDbServer]]:
    """A server of each engine that demands a certificate from its clients, and a user who has one."""
    trusted = folder / "clients.pem"
    postgres = PostgresServer(
        extra_config=[f"ssl_ca_file = '{trusted}'"],
        hba=["hostssl all carl 127.0.0.1/32 scram-sha-256 clientcert=verify-full"],
    )
    mariadb = MariaDbServer(extra_config=[f"--ssl-ca={trusted}"])
    with postgres, mariadb:
        postgres.execute("create role carl login password 'x'")
        mariadb.execute("create user carl@'%' identified by 'x' require x509")
        mariadb.execute("grant all on app.* to carl@'%'")
        yield {"postgresql": postgres, "mysql": mariadb}


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
class TestClientCertificate:
    def url(self, asking: dict[str, Any], engine: str, files: tuple[str, str], **query: str) -> str:
        certificate, key = files
        return str(asking[engine].url("carl", "x", sslcert=certificate, sslkey=key, **query))

    def test_is_shown(self, asking: dict[str, Any], engine: str, client: tuple[str, str]) -> None:
        server = asking[engine]
        assert encrypted(pool_of(self.url(asking, engine, client)))
        words = f"&ssl_cert={quote(client[0])}&ssl_key={quote(client[1])}"
        assert encrypted(pool_of(server.url("carl", "x") + words))
        parts = parts_of(server, user="carl", password="x", sslcert=client[0], sslkey=client[1])
        assert encrypted(pool_of(**parts))  # on loopback too, where encryption is otherwise only preferred
        report = diagnose(self.url(asking, engine, client))
        assert report["ok"], report

    def test_is_missed(self, asking: dict[str, Any], engine: str) -> None:
        pool = pool_of(asking[engine].url("carl", "x"))
        with pytest.raises((ConnectError, CredentialsError)) as caught:
            encrypted(pool)
        if engine == "postgresql":
            assert "write sslcert=/path/to/certificate.pem and sslkey=" in str(caught.value)

    def test_with_an_encrypted_key(
        self, asking: dict[str, Any], engine: str, authority: Identity, folder: Path
    ) -> None:
        from cryptography.hazmat.primitives import serialization

        identity = make("carl", authority, names=["carl"])
        certificate, key = write(folder, "locked", identity)
        secret = serialization.BestAvailableEncryption(PASSWORD.encode())
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        Path(key).write_bytes(identity.key.private_bytes(*form, secret))
        assert encrypted(pool_of(self.url(asking, engine, (certificate, key), sslpassword=PASSWORD)))
        # Without a password, nobody is asked for one on a terminal.
        for query in ({}, {"sslpassword": "wrong"}):
            with pytest.raises((ConfigError, ConnectError)) as caught:
                encrypted(pool_of(self.url(asking, engine, (certificate, key), **query)))
            assert PASSWORD not in str(caught.value)

    def test_that_is_no_file(self, asking: dict[str, Any], engine: str, client: tuple[str, str]) -> None:
        for files in (("/nowhere/c.pem", client[1]), (client[0], "/nowhere/k.pem")):
            with pytest.raises(ConfigError, match=r"='/nowhere.*there is no such file"):
                encrypted(pool_of(self.url(asking, engine, files)))

    def test_with_somebody_elses_key(
        self, asking: dict[str, Any], engine: str, client: tuple[str, str], folder: Path
    ) -> None:
        _, key = write(folder, "other", make("other"))
        with pytest.raises((ConfigError, ConnectError), match=r"[kK]ey|KEY"):
            encrypted(pool_of(self.url(asking, engine, (client[0], key))))

    def test_whose_key_everybody_may_read(
        self, asking: dict[str, Any], engine: str, client: tuple[str, str], folder: Path
    ) -> None:
        """Only libpq refuses it; the error says what to do."""
        key = folder / "open.key"
        shutil.copy(client[1], key)
        key.chmod(0o644)
        pool = pool_of(self.url(asking, engine, (client[0], str(key))))
        if engine == "mysql":
            assert encrypted(pool)
            return
        with pytest.raises(ConnectError, match="copy it to /tmp with mode 0600"):
            encrypted(pool)


def test_a_secret_without_a_host_is_no_reason_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source that knows the host is asked first, but the URL may still say where to go."""
    pool = Pool("postgresql:///d?hostaddr=127.0.0.1", auth=SecretsManager("orders"), observers=())
    assert pool.config.url.hostaddr == "127.0.0.1"
