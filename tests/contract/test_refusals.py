"""What the pool's own error says to do when a server, a pooler or the driver refuses: on real servers."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from lambda_pool import ConnectError, CredentialsError, IamToken, LambdaPoolError, Pool
from lambda_pool.engines.base import Failure
from lambda_pool.events import ConnectFailed
from lambda_pool.testing import MariaDbServer, PostgresServer
from tests.support.iam_servers import IamServer, iam_mariadb, iam_postgres
from tests.support.pgbouncer import PgBouncer
from tests.support.recorder import Recorder
from tests.support.shared import changed


class Refused:
    """A pool that cannot connect: its error, and what was tried."""

    def __init__(self, url: str, **options: Any) -> None:
        seen = Recorder()
        pool = Pool(url, observers=[seen], timeout=2.0, **options)
        with pytest.raises(LambdaPoolError) as caught, pool.connection():
            pass
        self.error = caught.value
        self.text = str(caught.value)
        self.attempts = [event.kind for event in seen.of(ConnectFailed)]
        pool.close()

    def once(self, kind: type[LambdaPoolError], said: str) -> None:
        """It was tried once, and the error says so."""
        assert type(self.error) is kind, self.text
        assert said in self.text
        assert len(self.attempts) == 1, self.attempts
        assert self.error.__cause__ is not None


# --- settings that the server does not take ---------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["-c nonsense=1", "-c statement_timeout=soon", "-c shared_buffers=1GB"])
def test_settings_that_postgresql_refuses(pg_url: str, options: str) -> None:
    said = "The server refuses a setting in 'options'"
    Refused(f"{pg_url}&options={quote(options)}").once(ConnectError, said)
    Refused(pg_url, connect_args={"options": options}).once(ConnectError, said)


@pytest.mark.parametrize(
    "query",
    ["sql_mode=NONSENSE", "init_command=set%20nonsense%20=%201", "init_command=nonsense", "collation=nonsense"],
)
def test_settings_that_mysql_refuses(mysql_url: str, query: str) -> None:
    Refused(f"{mysql_url}&{query}").once(ConnectError, "refuses the init_command, sql_mode, charset or collation")


def test_a_pooler_that_refuses_start_up_options() -> None:
    with PostgresServer(tls=False) as server, PgBouncer(server) as bouncer:
        url = bouncer.url(pooled=False, options="-c statement_timeout=1000")
        Refused(url).once(ConnectError, "add pooled=true to the URL, and take 'options' out")


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
def test_a_postgresql_url_that_leads_to_mysql(mariadb: MariaDbServer, sslmode: str) -> None:
    url = f"postgresql://app:x@127.0.0.1:{mariadb.port}/orders?sslmode={sslmode}"
    Refused(url).once(
        ConnectError, "The server that answers there is not PostgreSQL: correct the host and port, or write mysql://"
    )


# --- databases and accounts -------------------------------------------------------------------------------------------


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> PostgresServer | MariaDbServer:
    found: PostgresServer | MariaDbServer = request.getfixturevalue(
        "postgres" if request.param == "postgresql" else "mariadb"
    )
    return found


@pytest.fixture
def user(server: PostgresServer | MariaDbServer) -> Iterator[str]:
    if server.scheme == "postgresql":
        server.execute("create role barred login password 'x'")
    else:
        server.execute("create user barred@'%' identified by 'x'")
    yield "barred"
    server.execute("drop role barred" if server.scheme == "postgresql" else "drop user barred@'%'")


def test_a_database_that_is_not_there(server: PostgresServer | MariaDbServer) -> None:
    Refused(server.url(database="nowhere")).once(ConnectError, "the name of a database that exists")


def test_a_database_that_the_user_may_not_enter(server: PostgresServer | MariaDbServer, user: str) -> None:
    server.execute("create database closed")
    if server.scheme == "postgresql":
        server.execute("revoke connect on database closed from public")
    refused = Refused(server.url(user, "x", database="closed"))
    server.execute("drop database closed")
    assert "GRANT " in refused.text
    assert len(refused.attempts) == 1


def test_no_password(server: PostgresServer | MariaDbServer, user: str) -> None:
    Refused(server.url(user)).once(CredentialsError, "No password was given: write it into the URL")


def test_an_empty_password(server: PostgresServer | MariaDbServer, user: str) -> None:
    """As of a URL that is put together with a variable that is not set."""
    Refused(server.url(user, "")).once(CredentialsError, "The password that was given is empty: look where")


def test_a_password_with_a_line_break(server: PostgresServer | MariaDbServer, user: str) -> None:
    refused = Refused(server.url(user, "x\n"))
    refused.once(CredentialsError, "begins or ends with white space, such as the line break")
    assert "white space" not in Refused(server.url(user, "y")).text


def test_a_role_that_may_not_log_in(postgres: PostgresServer) -> None:
    postgres.execute("create role grouped password 'x'")
    refused = Refused(postgres.url("grouped", "x"))
    postgres.execute("drop role grouped")
    assert "ALTER ROLE grouped LOGIN" in refused.text
    assert len(refused.attempts) == 1


@pytest.mark.sampled(1 / 2, "4 s a case")
@pytest.mark.parametrize("make", [PostgresServer, MariaDbServer])
def test_a_full_server(make: type[PostgresServer] | type[MariaDbServer]) -> None:
    with make(max_connections=10) as server:  # the fewest that MariaDB allows
        pool = Pool(server.url(), max_size=14, timeout=3.0, observers=())
        with contextlib.ExitStack() as held:
            with pytest.raises(
                ConnectError, match=r"The server is full: `lambda-pool doctor` .* and `lambda-pool plan`"
            ):
                for _ in range(14):
                    held.enter_context(pool.connection())
        pool.close()


@pytest.mark.parametrize("server", ["mysql"], indirect=True)
class TestAccounts:
    def test_locked(self, server: MariaDbServer, user: str) -> None:
        server.execute("alter user barred@'%' account lock")
        refused = Refused(server.url(user, "x"))
        assert "ALTER USER barred@'%' ACCOUNT UNLOCK" in refused.text
        assert len(refused.attempts) == 1

    def test_whose_password_has_expired(self, server: MariaDbServer, user: str) -> None:
        server.execute("alter user barred@'%' password expire")
        option = "set global disconnect_on_expired_password"
        with changed(server, f"{option} = on", f"{option} = off"):
            refused = Refused(server.url(user, "x"))
        assert "The password of barred has expired: ALTER USER" in refused.text
        assert len(refused.attempts) == 1

    def test_that_have_logged_in_too_often(self, server: MariaDbServer, user: str) -> None:
        server.execute("alter user barred@'%' with max_connections_per_hour 1")
        server.execute("flush user_resources")
        Pool(server.url(user, "x", database="information_schema"), observers=()).warm(strict=True)
        refused = Refused(server.url(user, "x", database="information_schema"))
        assert "The account's hourly limit is used up" in refused.text
        assert len(refused.attempts) == 1

    def test_that_have_too_many_connections(self, server: MariaDbServer, user: str) -> None:
        server.execute("alter user barred@'%' with max_user_connections 1")
        pool = Pool(server.url(user, "x", database="information_schema"), observers=())
        with pool.connection():
            refused = Refused(server.url(user, "x", database="information_schema"))
        pool.close()
        assert "WITH MAX_USER_CONNECTIONS 0" in refused.text
        assert refused.attempts[0] == Failure.TOO_MANY.value


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["postgresql", "mysql"])
def iam(request: pytest.FixtureRequest) -> Iterator[IamServer]:
    with iam_postgres() if request.param == "postgresql" else iam_mariadb() as made:
        yield made


@pytest.mark.sampled(1, "a second a case")
def test_a_password_where_a_token_is_wanted(iam: IamServer) -> None:
    refused = Refused(iam.url().replace("app@", "app:x@"))
    if iam.scheme == "postgresql":
        refused.once(CredentialsError, "LAMBDA_POOL_AUTH=iam")
        assert "lives 15 minutes" in refused.text
        assert "REVOKE rds_iam FROM app" in refused.text
    else:
        refused.once(CredentialsError, "Access denied")


def test_a_token_that_was_written_into_the_url(iam: IamServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAEXAMPLEKEY000001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of another key")
    token = IamToken("eu-central-1").token("localhost", 1, "app")
    refused = Refused(iam.url().replace("app@", f"app:{quote(token, safe='')}@"))
    refused.once(CredentialsError, "The password is an IAM token, which lives 15 minutes")
    assert token not in refused.text
    assert "X-Amz-Signature" not in refused.text


# --- cryptography -----------------------------------------------------------------------------------------------------

_WITHOUT_IT = """
import sys
sys.modules["cryptography"] = None
sys.modules["cryptography.hazmat.primitives"] = None
sys.path.insert(0, "")
from lambda_pool import ConnectError, Pool
from lambda_pool.testing import MariaDbServer
from tests.faults.fuzz.hostile import Front, Script
from tests.faults.fuzz.nasties import my, my_greeting

# As MySQL does after a restart: it knows no hash of the password, and asks for all of it.
greeting = my(0, my_greeting(plugin=b"caching_sha2_password\\0", capabilities=0x000FF7DF))
with Front(1) as front:
    answers = greeting, my(2, b"\\1\\4"), my(4, b"\\1-----BEGIN PUBLIC KEY-----")
    front.play(*[Script(answers, speaks_first=True, then="wait")] * 3)
    pool = Pool(f"mysql://app:x@localhost:{front.port}/d?sslmode=disable", timeout=2.0, connect_timeout=1.0)
    try:
        pool.warm(strict=True)
    except ConnectError as error:
        print(error)
"""


def test_a_password_that_would_need_cryptography() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT_IT], capture_output=True, text=True, timeout=60, check=False)
    assert "write sslmode=require, or leave sslmode out, or install cryptography" in done.stdout, done.stderr
    assert "attempts" not in done.stdout
