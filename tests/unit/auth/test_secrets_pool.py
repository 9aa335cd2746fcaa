"""Pools with SecretsManager against real servers, through every kind of rotation, without a failed invocation."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lambda_pool import CredentialsError, Pool, SecretsManager
from lambda_pool.testing import LambdaRuntime, MariaDbServer, PostgresServer

from .conftest import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, end_sessions

HANDLER = """
    import os
    from lambda_pool import Pool, SecretsManager

    pool = Pool(os.environ["URL"], auth=SecretsManager("orders"))

    @pool.handler
    def handler(event, context, conn):
        cursor = conn.cursor()
        cursor.execute("SELECT current_user" if "postgresql" in os.environ["URL"] else "SELECT user()")
        return cursor.fetchone()[0].partition("@")[0]
"""


class Database:
    """A server whose logins rotate, and the secret that follows them, step by step as RDS's rotation does it."""

    def __init__(self, server: PostgresServer | MariaDbServer, vault: Any) -> None:
        self._server = server
        self._vault = vault
        self._postgres = isinstance(server, PostgresServer)
        self.users: list[str] = []
        # No user, host or port in the URL: the secret knows them.
        query = server.url().partition("?")[2]
        self.url = f"{server.scheme}:///{server.database}?{query}"

    def create(self, user: str, password: str) -> None:
        self.users.append(user)
        if self._postgres:
            self._server.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{password}'")
        else:
            self._server.execute(f"CREATE USER {user}@'%' IDENTIFIED BY '{password}'")
            self._server.execute(f"GRANT ALL ON {self._server.database}.* TO {user}@'%'")

    def set_password(self, user: str, password: str) -> None:
        if self._postgres:
            self._server.execute(f"ALTER ROLE {user} PASSWORD '{password}'")
        else:
            self._server.execute(f"ALTER USER {user}@'%' IDENTIFIED BY '{password}'")

    def end_sessions(self) -> None:
        end_sessions(self._server, *self.users)

    def drop(self) -> None:
        self.end_sessions()
        for user in self.users:
            self._server.execute(f"DROP ROLE {user}" if self._postgres else f"DROP USER {user}@'%'")

    def _text(self, user: str, password: str) -> str:
        engine = "postgres" if self._postgres else "mariadb"
        where = {"engine": engine, "host": "localhost", "port": self._server.port}
        return json.dumps({"username": user, "password": password, **where})

    def store(self, user: str, password: str) -> None:
        """Make this the secret's first version."""
        self._vault.create_secret(Name="orders", SecretString=self._text(user, password))

    def stage(self, user: str, password: str) -> str:
        """First step of a rotation: a pending version."""
        text = self._text(user, password)
        answer = self._vault.put_secret_value(SecretId="orders", SecretString=text, VersionStages=["AWSPENDING"])
        return str(answer["VersionId"])

    def finish(self, version: str) -> None:
        """Last step of a rotation: the pending version becomes the current one."""
        versions = self._vault.describe_secret(SecretId="orders")["VersionIdsToStages"]
        [current] = [key for key, stages in versions.items() if "AWSCURRENT" in stages]
        self._vault.update_secret_version_stage(
            SecretId="orders", VersionStage="AWSCURRENT", MoveToVersionId=version, RemoveFromVersionId=current
        )


@pytest.fixture(params=["postgres", "mariadb"])
def database(request: pytest.FixtureRequest, vault: Any) -> Iterator[Database]:
    """Each of both servers in turn, with the user `app` and its secret."""
    found = Database(request.getfixturevalue(request.param), vault)
    found.create("app", "hush-first")
    found.store("app", "hush-first")
    yield found
    found.drop()


def who(pool: Pool) -> str:
    """Connect anew, and say as whom."""
    pool.close()
    with pool.connection() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT current_user" if pool.config.url.engine == "postgresql" else "SELECT user()")
        return str(cursor.fetchone()[0]).partition("@")[0]


def pool_of(database: Database) -> Pool:
    return Pool(database.url, auth=SecretsManager("orders"), name="orders", observers=())


def test_the_secret_says_where_and_as_whom(database: Database) -> None:
    pool = pool_of(database)
    assert who(pool) == "app"
    assert pool.stats().connect_errors == 0
    pool.close()


@pytest.mark.sampled(1, "a second a case")
def test_alternating_users_are_followed(database: Database) -> None:
    database.create("app_clone", "hush-second")
    pool = pool_of(database)
    assert who(pool) == "app"
    database.finish(database.stage("app_clone", "hush-second"))
    assert who(pool) == "app"  # still good, and the secret is still young
    database.set_password("app", "hush-third")  # the next rotation takes the first user's turn
    assert who(pool) == "app_clone"
    assert pool.stats().credentials_refreshed == 1
    database.finish(database.stage("app", "hush-third"))
    database.set_password("app_clone", "hush-fourth")
    assert who(pool) == "app"
    assert pool.stats().credentials_refreshed == 2
    pool.close()


@pytest.mark.sampled(1, "a second a case")
def test_a_single_users_rotation_is_followed_at_every_step(database: Database) -> None:
    pool = pool_of(database)
    assert who(pool) == "app"
    version = database.stage("app", "hush-second")
    assert who(pool) == "app"
    database.set_password("app", "hush-second")  # the database has changed, the current version has not
    cold = pool_of(database)  # an environment that starts just now has fetched the current version, and is refused
    assert who(cold) == "app"
    cold.close()
    assert who(pool) == "app"
    assert who(pool) == "app"
    database.finish(version)
    assert who(pool) == "app"
    assert pool.stats().credentials_refreshed == 1
    pool.close()


def test_a_password_that_no_version_holds_is_an_error(database: Database) -> None:
    pool = pool_of(database)
    who(pool)
    database.set_password("app", "nobody knows")
    with pytest.raises(CredentialsError, match=r"'app', SecretsManager\('orders'\).*rotation succeeded"):
        who(pool)
    assert pool.stats().connect_errors == 2  # the cached one, and one fetched anew
    pool.close()


@pytest.mark.sampled(1, "3 s a case")
@pytest.mark.runtime
def test_a_rotation_in_mid_life_costs_no_invocation(database: Database, moto_url: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(textwrap.dedent(HANDLER))
    database.create("app_clone", "hush-second")
    env = {
        "URL": database.url,
        "AWS_ENDPOINT_URL": moto_url,
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_SESSION_TOKEN": SESSION_TOKEN,
    }
    users = []
    with LambdaRuntime("app.handler", code_dir=tmp_path, env=env) as runtime:

        def invoke() -> None:
            answer = runtime.invoke()
            assert answer.error is None, answer.error
            users.append(answer.payload)

        invoke()
        version = database.stage("app", "hush-third")
        invoke()
        database.set_password("app", "hush-third")
        invoke()  # the open connection is as good as ever
        runtime.freeze()
        database.end_sessions()
        runtime.thaw()
        invoke()  # halfway through the rotation
        database.finish(version)
        database.end_sessions()
        invoke()
        database.finish(database.stage("app_clone", "hush-second"))
        database.set_password("app", "hush-fourth")
        database.end_sessions()
        invoke()
        log = runtime.log
    assert users == ["app"] * 5 + ["app_clone"]
    for secret in ("hush-", SECRET_KEY, SESSION_TOKEN[:40]):
        assert secret not in log
