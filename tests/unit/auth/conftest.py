"""AWS environments for the tests of credentials: none of the machine's own may leak in."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lambda_pool.testing import PostgresServer
from lambda_pool.testing.server import Server
from tests.support.iam_servers import IamServer, iam_mariadb, iam_mysql, iam_postgres
from tests.support.speed import FULL

ACCESS_KEY = "ASIAEXAMPLEKEY000001"
SECRET_KEY = "secret/key+example=1"
SESSION_TOKEN = "IQoJb3JpZ2luX2VjEA+/" * 38 + "=="
"""As long, and as full of characters to be escaped, as those that Lambda gives."""


def end_sessions(server: Server, *users: str) -> None:
    """The server ends every session of these users, as an idle timeout would. Returns when they are gone."""
    names = ", ".join(f"'{user}'" for user in users)
    if isinstance(server, PostgresServer):
        server.execute(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename IN ({names})")
        return
    sessions = f"SELECT id FROM information_schema.processlist WHERE user IN ({names})"
    for (number,) in server.execute(sessions):
        server.execute(f"KILL {number}")
    until = time.monotonic() + 10
    while server.execute(sessions):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No AWS variable, profile or instance role to be found."""
    for name in list(os.environ):
        if name.startswith("AWS_") and name != "AWS_LAMBDA_RIE":  # where the emulator is: ours, not AWS's
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


@pytest.fixture
def in_lambda(no_aws: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The AWS variables that Lambda gives every function."""
    no_aws.setenv("AWS_REGION", "eu-central-1")
    no_aws.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    no_aws.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    no_aws.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    no_aws.setenv("AWS_SESSION_TOKEN", SESSION_TOKEN)
    no_aws.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
    return no_aws


@pytest.fixture(scope="session")
def iam_postgres_server() -> Iterator[IamServer]:
    """A PostgreSQL that checks IAM tokens, shared by the whole run."""
    with iam_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def iam_mariadb_server() -> Iterator[IamServer]:
    """A MariaDB that checks IAM tokens, shared by the whole run."""
    with iam_mariadb() as server:
        yield server


@pytest.fixture(scope="session")
def iam_genuine_server() -> Iterator[IamServer]:
    """A MySQL that checks IAM tokens, shared by the whole run."""
    with iam_mysql() as server:
        yield server


_NAMES = {
    "postgresql": "iam_postgres_server",
    "mysql": "iam_mariadb_server",
    "genuine_mysql": "iam_genuine_server",
}


# Only a full run starts MySQL with a plugin that is compiled for it.
@pytest.fixture(params=["postgresql", "mysql", *(["genuine_mysql"] if FULL else [])])
def iam_server(request: pytest.FixtureRequest) -> IamServer:
    """Each of the servers in turn, knowing the key of `in_lambda`, its clock right and its log empty."""
    server: IamServer = request.getfixturevalue(_NAMES[request.param])
    server.checker.reset(ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)
    return server


@pytest.fixture
def vault(in_lambda: pytest.MonkeyPatch, moto_url: str) -> Iterator[Any]:
    """A client of an empty Secrets Manager, to which AWS_ENDPOINT_URL also leads the code under test."""
    import boto3

    in_lambda.setenv("AWS_ENDPOINT_URL", moto_url)
    client = boto3.client("secretsmanager")
    yield client
    for secret in client.list_secrets()["SecretList"]:
        client.delete_secret(SecretId=secret["ARN"], ForceDeleteWithoutRecovery=True)
    client.close()
