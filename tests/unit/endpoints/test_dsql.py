"""Aurora DSQL: known by its host's name, logged in to by its own token, and sent nothing that it refuses."""

import datetime
from collections.abc import Iterator
from typing import Any
from unittest import mock

import botocore.session
import psycopg
import pytest

from lambda_pool import ConfigError, IamToken, Pool
from lambda_pool.aws.hosts import dsql_region
from lambda_pool.testing import PostgresServer
from tests.support.dsql import DsqlLike

HOST = "abcd1234efgh5678ijkl9012mn.dsql.eu-central-1.on.aws"
URL = f"postgresql://admin@{HOST}/postgres"


@pytest.mark.parametrize(
    ("host", "region"),
    [
        (HOST, "eu-central-1"),
        (HOST.upper() + ".", "eu-central-1"),
        ("abcd1234.dsql-fnh4.us-east-1.on.aws", "us-east-1"),
        ("abcd1234.dsql.us-east-1.on.aws.evil.example", None),
        ("abcd1234.dsql.us-east.on.aws", None),
        ("abcd1234.dsqlx.us-east-1.on.aws", None),
        ("dsql.us-east-1.on.aws", None),
        ("a.b.dsql.us-east-1.on.aws", None),
        ("orders.abcd.eu-central-1.rds.amazonaws.com", None),
        ("", None),
    ],
)
def test_a_host_is_known_by_its_name(host: str, region: str | None) -> None:
    assert dsql_region(host) == region


@pytest.mark.parametrize(("user", "action"), [("admin", "connect_admin"), ("app", "connect"), ("Admin", "connect")])
@pytest.mark.parametrize("session", [None, "a/b+c=="])
def test_the_token_is_botocores_byte_for_byte(
    monkeypatch: pytest.MonkeyPatch, user: str, action: str, session: str | None
) -> None:
    now = datetime.datetime(2026, 11, 28, 12, 0, 0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")  # the function's, and not the cluster's
    if session is None:
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    else:
        monkeypatch.setenv("AWS_SESSION_TOKEN", session)
    client: Any = botocore.session.get_session().create_client("dsql", region_name="eu-central-1")
    with mock.patch("botocore.auth.get_current_datetime", lambda: now):
        theirs = getattr(client, f"generate_db_{action}_auth_token")(HOST, "eu-central-1")
    ours = IamToken(clock=lambda: now.replace(tzinfo=datetime.UTC).timestamp()).token(HOST, 5432, user)
    assert ours == theirs


def test_a_refused_token_is_explained_in_dsqls_words() -> None:
    assert "dsql:DbConnectAdmin on the cluster" in IamToken().hint(HOST, "admin")
    assert "dsql:DbConnect on the cluster" in IamToken().hint(HOST, "app")
    assert "rds_iam" not in IamToken().hint(HOST, "app")


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        (URL, {"reset": "session"}, "reset='session' is not valid"),
        (URL, {"max_lifetime": 3600}, r"max_lifetime=3600 is not valid with Aurora DSQL.*at most 3240"),
        (URL.replace("postgresql", "mysql"), {}, "speaks PostgreSQL"),
        (URL + "?options=-c%20x%3D1", {}, "start-up options are not valid"),
        (URL, {"connect_args": {"prepare_threshold": 5}}, "prepare_threshold is not valid"),
    ],
)
def test_what_it_has_not_got_is_said_when_the_pool_is_made(url: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Pool(url, auth=IamToken(), **options)


def test_a_lifetime_is_below_its_sixty_minutes_by_itself() -> None:
    assert Pool(URL, auth=IamToken()).config.max_lifetime * 1.1 < 3600
    assert Pool(URL, auth=IamToken(), max_lifetime=3240).config.max_lifetime * 1.1 < 3600


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(tls=False) as made:
        made.execute("create table saved (id int)")
        made.execute(
            "create function refuse() returns trigger language plpgsql as $$ begin"
            " if new.id < 0 and nextval('tries') < 3 then"
            " raise exception 'change conflicts with another transaction' using errcode = tg_argv[0]; end if;"
            " return null; end $$"
        )
        yield made


@pytest.fixture
def dsql(server: PostgresServer) -> Iterator[DsqlLike]:
    with DsqlLike(server.port) as made:
        yield made
        assert made.refused == []
        assert made.statements


def pool_at(server: PostgresServer, dsql: DsqlLike, **options: Any) -> Pool:
    login = f"{server.user}:{server.password}"
    url = f"postgresql://{login}@{HOST}:{dsql.port}/postgres?hostaddr=127.0.0.1&sslmode=disable"
    return Pool(url, observers=(), **options)


@pytest.mark.sampled(1 / 3, "3 s")
def test_nothing_that_it_refuses_is_sent(server: PostgresServer, dsql: DsqlLike) -> None:
    pool = pool_at(server, dsql, max_size=2, ping_after=0.000001)
    pool.warm(strict=True)
    for number in range(8):  # more often than a driver takes to prepare a statement
        with pool.connection() as conn:
            conn.execute("insert into saved values (%s)", (number,))
    with pool.connection() as conn:
        conn.execute("set application_name = 'mine'")
    with pytest.raises(psycopg.errors.UndefinedTable), pool.connection() as conn:
        conn.execute("select * from nothing")
    with pool.connection(readonly=True) as conn:
        assert conn.execute("select count(*) from saved where id >= 0").fetchone() == (8,)
    with pytest.raises(LookupError), pool.connection() as conn:
        conn.execute("insert into saved values (9)")
        raise LookupError
    pool.run(lambda conn: conn.execute("insert into saved values (10)"))
    with pytest.raises(ZeroDivisionError):
        pool.run(lambda conn: conn.execute("select 1") and 1 / 0)
    with pool_at(server, dsql, autocommit=True).connection() as conn:
        conn.execute("select 1")
    assert pool.stats().pings > 0
    pool.close()


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("when", ["immediate", "deferred"])
@pytest.mark.parametrize("state", ["OC000", "OC001", "40001"])
def test_its_conflicts_are_replayed_also_from_commit(
    server: PostgresServer, dsql: DsqlLike, state: str, when: str
) -> None:
    server.execute("drop sequence if exists tries")
    server.execute("create sequence tries")
    server.execute("delete from saved")
    server.execute(
        f"create constraint trigger refuses after insert on saved deferrable initially {when}"
        f" for each row execute function refuse('{state}')"
    )
    calls = []
    try:
        pool = pool_at(server, dsql)

        def work(conn: Any) -> str:
            calls.append(conn)
            conn.execute("insert into saved values (-1)")
            return "done"

        assert pool.run(work) == "done"
        assert len(calls) == 3
        assert server.execute("select id from saved") == [(-1,)]
        server.execute("select setval('tries', 1, false)")
        with pytest.raises(psycopg.Error) as caught, pool.connection() as conn:
            conn.execute("insert into saved values (-1)")
        assert caught.value.sqlstate == state
        assert server.execute("select id from saved") == [(-1,)]
        pool.close()
    finally:
        server.execute("drop trigger refuses on saved")
