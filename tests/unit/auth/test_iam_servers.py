"""The servers that stand in for RDS let genuine tokens in and no others: shown with the bare drivers.

What the other tests of this package prove rests on this.
"""

import ssl
import time

import psycopg
import pymysql
import pytest

from lambda_pool.auth.iam import IamToken
from lambda_pool.auth.signature import VALID_FOR
from tests.support.iam_servers import RDS_HOST, REGION, IamServer


def login(server: IamServer, token: str, user: str = "app") -> str:
    """Log in with the bare driver; returns the user that the server sees."""
    if server.scheme == "postgresql":
        with psycopg.connect(
            host="localhost",
            port=server.port,
            user=user,
            password=token,
            dbname="postgres",
            sslmode="verify-full",
            sslrootcert=server.ca,
        ) as connection:
            row = connection.execute("SELECT current_user").fetchone()
    else:
        context = ssl.create_default_context(cafile=server.ca)
        with pymysql.connect(
            host="localhost", port=server.port, user=user, password=token, database="app", ssl=context
        ) as session:
            cursor = session.cursor()
            cursor.execute("SELECT substring_index(current_user(), '@', 1)")
            row = cursor.fetchone()
    assert row is not None
    return str(row[0])


def refused(server: IamServer, token: str, user: str = "app") -> str:
    """Log in, see it refused in the words that RDS uses, and return why."""
    text = f'PAM authentication failed for user "{user}"' if server.scheme == "postgresql" else "Access denied for user"
    with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError), match=text):
        login(server, token, user)
    return server.checker.verdicts[-1].partition(": ")[2]


@pytest.mark.sampled(1 / 2, "a second a case")
def test_a_genuine_token_lets_in(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    token = IamToken().token("localhost", iam_server.port, "app")
    assert 1_100 <= len(token) < 1_300
    assert login(iam_server, token) == "app"
    assert iam_server.checker.verdicts == [f"app ({len(token)} bytes): let in"]


def test_another_users_token_does_not(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    token = IamToken().token("localhost", iam_server.port, "bob")
    assert refused(iam_server, token, "app") == "it is for user bob"


def test_another_hosts_token_does_not(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    token = IamToken().token("other.example", iam_server.port, "app")
    assert refused(iam_server, token) == f"it is for other.example:{iam_server.port}"


def test_another_ports_token_does_not(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    token = IamToken().token("localhost", 1, "app")
    assert refused(iam_server, token) == "it is for localhost:1"


def test_another_regions_token_does_not(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    token = IamToken("us-east-1").token("localhost", iam_server.port, "app")
    assert refused(iam_server, token).startswith("wrong scope us-east-1")


def test_a_token_for_the_name_that_rds_gave_lets_in(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    in_lambda.setenv("AWS_REGION", "us-east-1")
    token = IamToken().token(RDS_HOST, iam_server.port, "app")
    assert f"{REGION}%2Frds-db" in token
    assert login(iam_server, token) == "app"


@pytest.mark.sampled(6, "many cases")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("X-Amz-Expires=900", "X-Amz-Expires=901"),
        ("X-Amz-Signature=", "X-Amz-Signature=0"),
        ("DBUser=app", "DBUser=app&x=1"),
        ("%2Feu-central-1%2F", "%2Feu-central-1%2F%2F"),
        ("IQoJb3", "IQoJb4"),
    ],
)
def test_a_tampered_token_does_not(
    iam_server: IamServer, in_lambda: pytest.MonkeyPatch, before: str, after: str
) -> None:
    token = IamToken().token("localhost", iam_server.port, "app")
    assert before in token
    assert refused(iam_server, token.replace(before, after, 1))


def test_an_expired_token_does_not(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    young = IamToken(clock=lambda: time.time() - VALID_FOR + 60).token("localhost", iam_server.port, "app")
    old = IamToken(clock=lambda: time.time() - VALID_FOR).token("localhost", iam_server.port, "app")
    assert login(iam_server, young) == "app"
    assert refused(iam_server, old) == "it has expired"


def test_a_token_that_is_not_valid_yet_does_not(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    token = IamToken(clock=lambda: time.time() + 60).token("localhost", iam_server.port, "app")
    assert refused(iam_server, token) == "it is not valid yet"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("AWS_ACCESS_KEY_ID", "unknown access key"),
        ("AWS_SECRET_ACCESS_KEY", "the signature does not match"),
        ("AWS_SESSION_TOKEN", "wrong session token"),
    ],
)
def test_anothers_key_does_not(iam_server: IamServer, in_lambda: pytest.MonkeyPatch, name: str, reason: str) -> None:
    in_lambda.setenv(name, "another")
    assert refused(iam_server, IamToken().token("localhost", iam_server.port, "app")) == reason


def test_no_token_does_not(iam_server: IamServer) -> None:
    assert refused(iam_server, "hunter2") == "it is for hunter2"


def test_the_servers_take_tokens_over_tls_only(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    token = IamToken().token("localhost", iam_server.port, "app")
    with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
        if iam_server.scheme == "postgresql":
            psycopg.connect(
                host="localhost", port=iam_server.port, user="app", password=token, dbname="postgres", sslmode="disable"
            )
        else:
            pymysql.connect(host="localhost", port=iam_server.port, user="app", password=token, ssl_disabled=True)
    # MariaDB asks for the token first and refuses then, so keeping it off the wire is the client's business.
