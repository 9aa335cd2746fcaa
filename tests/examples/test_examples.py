"""The examples, each on the genuine runtime against real servers."""

import json
import runpy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import lambda_pool
from lambda_pool.testing import MariaDbServer, PostgresServer
from tests.endpoints.conftest import ScriptedApi
from tests.support.durable import run_durable
from tests.support.snapstart_api import SnapStartEnvironment

from .conftest import EXAMPLES, Start, end_sessions

pytestmark = pytest.mark.runtime


def test_each_example_has_a_test_here() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert {name for name in names if f"test_{name}" not in globals()} == set()


@pytest.mark.parametrize("engine", ["postgres", "mariadb"])
def test_three_lines(start: Start, request: pytest.FixtureRequest, engine: str) -> None:
    runtime = start("three_lines", request.getfixturevalue(engine).url())
    answers = [runtime.invoke().payload for _ in range(3)]
    assert [datetime.fromisoformat(answer).year >= 2025 for answer in answers] == [True] * 3


# --- API Gateway ------------------------------------------------------------------------------------------------------


def request(method: str, path: str, body: object = None, **headers: str) -> dict[str, Any]:
    """An event of API Gateway's REST APIs, as far as it is read; a body that is text is sent as it stands."""
    return {
        "httpMethod": method,
        "path": path,
        "resource": path,
        "headers": {"Content-Type": "application/json", **headers},
        "multiValueHeaders": {},
        "queryStringParameters": None,
        "requestContext": {"stage": "prod", "path": path, "httpMethod": method, "requestId": "1"},
        "body": body if body is None or isinstance(body, str) else json.dumps(body),
        "isBase64Encoded": False,
    }


def test_api_gateway(start: Start, shop: PostgresServer) -> None:
    shop.execute("insert into stock values ('tea', 3)")
    runtime = start("api_gateway", shop.url())
    made = runtime.invoke(request("POST", "/orders", {"article": "tea", "amount": 2})).payload
    assert made["statusCode"] == 201
    number = json.loads(made["body"])["number"]
    read = runtime.invoke(request("GET", f"/orders/{number}")).payload
    assert json.loads(read["body"]) == {"number": number, "article": "tea", "amount": 2}
    refused = runtime.invoke(request("POST", "/orders", {"article": "tea", "amount": 2})).payload
    assert refused["statusCode"] == 400
    assert shop.execute("select left_over from stock") == [(1,)]
    assert shop.execute("select count(*) from orders") == [(1,)]
    assert runtime.invoke(request("GET", "/orders/0")).payload["statusCode"] == 404


def test_api_gateway_refuses_what_is_no_order(start: Start, shop: PostgresServer) -> None:
    shop.execute("insert into stock values ('tea', 3)")
    runtime = start("api_gateway", shop.url())

    def status(*arguments: Any) -> int:
        answer = runtime.invoke(request(*arguments))
        assert answer.error is None, answer.error
        return int(answer.payload["statusCode"])

    for number in ("abc", "-1", "1.5", "2147483648", "99999999999999999999", "9" * 5000):
        assert (number[:20], status("GET", f"/orders/{number}")) == (number[:20], 404)
    for amount in (-100, 0, 1.5, "2", True, None, 2**31):
        assert (amount, status("POST", "/orders", {"article": "tea", "amount": amount})) == (amount, 400)
    bodies: list[object] = [None, "", "{", "[1]", "null", "7", {}, {"article": "tea"}, {"amount": 1}]
    bodies += [{"article": article, "amount": 1} for article in (None, 7, ["tea"], "te\0a", "te\ud800a")]
    for body in bodies:
        assert (body, status("POST", "/orders", body)) == (body, 400)
    assert status("POST", "/orders", {"article": "air", "amount": 1}) == 404
    # Nothing of all this is in the database.
    assert shop.execute("select article, left_over from stock") == [("tea", 3)]
    assert shop.execute("select * from orders") == []


def test_api_gateway_makes_an_order_once(start: Start, shop: PostgresServer) -> None:
    shop.execute("insert into stock values ('tea', 3)")
    runtime = start("api_gateway", shop.url())
    order = {"article": "tea", "amount": 2}
    # The header's name has no case.
    answers = [
        runtime.invoke(request("POST", "/orders", order, **{name: "0f8fad5b"})).payload
        for name in ("Idempotency-Key", "idempotency-key")
    ]
    assert [answer["statusCode"] for answer in answers] == [201, 200]
    assert json.loads(answers[0]["body"]) == json.loads(answers[1]["body"])
    assert shop.execute("select left_over from stock") == [(1,)]
    # What was refused was not saved, and may be tried again with the same key; without one, each is an order.
    for expected in (400, 201):
        assert runtime.invoke(request("POST", "/orders", order, **{"Idempotency-Key": "7"})).payload["statusCode"] == (
            expected
        )
        shop.execute("update stock set left_over = 4")
    made = [runtime.invoke(request("POST", "/orders", order)).payload["statusCode"] for _ in range(2)]
    assert made == [201, 201]
    assert shop.execute("select count(*) from orders") == [(4,)]


# --- SQS --------------------------------------------------------------------------------------------------------------


def batch(*orders: dict[str, Any]) -> dict[str, Any]:
    return {"Records": [{"messageId": order["article"], "body": json.dumps(order)} for order in orders]}


def articles(server: PostgresServer) -> list[str]:
    return [article for (article,) in server.execute("select article from orders order by number")]


def test_sqs_batch(start: Start, shop: PostgresServer) -> None:
    runtime = start("sqs_batch", shop.url())
    event = batch({"article": "tea", "amount": 1}, {"article": "air", "amount": 0}, {"article": "milk", "amount": 2})
    assert runtime.invoke(event).payload == {"batchItemFailures": [{"itemIdentifier": "air"}]}
    assert articles(shop) == ["tea", "milk"]
    # Delivered again, a record does nothing.
    assert runtime.invoke(batch({"article": "tea", "amount": 1})).payload == {"batchItemFailures": []}
    assert articles(shop) == ["tea", "milk"]


def test_sqs_batch_without_a_database(start: Start, shop: PostgresServer) -> None:
    url = shop.url().replace(f":{shop.port}/", ":1/")
    runtime = start("sqs_batch", url, env={"LAMBDA_POOL_TIMEOUT": "0.5"})
    answer = runtime.invoke(batch({"article": "tea", "amount": 1}, {"article": "milk", "amount": 2}))
    assert answer.payload == {"batchItemFailures": [{"itemIdentifier": "tea"}, {"itemIdentifier": "milk"}]}
    assert "2 of 2 records go back" in answer.log


# --- two databases ----------------------------------------------------------------------------------------------------


def test_two_databases(start: Start, shop: PostgresServer, reports: MariaDbServer) -> None:
    runtime = start("two_databases", "", env={"ORDERS_URL": shop.url(), "REPORTS_URL": reports.url()})
    numbers = [runtime.invoke({"article": "tea"}).payload for _ in range(2)]
    assert reports.execute("select article, number from sales") == [("tea", number) for number in numbers]
    assert runtime.invoke({"article": "air", "fail": True}).error is not None
    assert articles(shop) == ["tea", "tea"]
    assert len(reports.execute("select * from sales")) == 2


# --- reader and writer ------------------------------------------------------------------------------------------------

CLUSTER = """<DescribeDBClustersResponse xmlns="http://rds.amazonaws.com/doc/2014-10-31/"><DescribeDBClustersResult>
<DBClusters><DBCluster><DBClusterIdentifier>orders</DBClusterIdentifier><Status>available</Status>
<Engine>aurora-postgresql</Engine><Endpoint>localhost</Endpoint><ReaderEndpoint>127.0.0.1</ReaderEndpoint>
<Port>{port}</Port></DBCluster></DBClusters></DescribeDBClustersResult></DescribeDBClustersResponse>"""


@pytest.fixture
def rds_api(shop: PostgresServer) -> Iterator[ScriptedApi]:
    """The RDS API, which knows one cluster: its writer is `localhost`, its reader the same server as `127.0.0.1`."""
    api = ScriptedApi()
    api.script = lambda request: (200, CLUSTER.format(port=shop.port))
    yield api
    api.close()


def test_reader_writer(start: Start, shop: PostgresServer, rds_api: ScriptedApi) -> None:
    env = {
        "LAMBDA_POOL_AURORA_CLUSTER": "orders",
        "AWS_ENDPOINT_URL": rds_api.url,
        "AWS_ACCESS_KEY_ID": "ASIAEXAMPLEKEY000001",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    url = shop.url().replace(f"@localhost:{shop.port}/", "@/")
    runtime = start("reader_writer", url, env=env)
    assert runtime.invoke({"article": "tea"}).payload == {"host": "localhost"}
    assert runtime.invoke({}).payload == {"host": "127.0.0.1", "articles": ["tea"]}
    assert runtime.invoke({"article": "milk"}).payload == {"host": "localhost"}
    assert runtime.invoke({}).payload["articles"] == ["tea", "milk"]
    assert [asked["Action"] for asked in rds_api.requests] == ["DescribeDBClusters"]


# --- a scheduled job --------------------------------------------------------------------------------------------------


def test_scheduled_job(start: Start, shop: PostgresServer) -> None:
    shop.execute("alter table orders alter amount type numeric")
    shop.execute("alter table settlements alter amount type numeric")
    shop.execute("insert into orders (article, amount) values ('tea', 2), ('milk', 0.5)")
    runtime = start("scheduled_job", shop.url())
    assert runtime.invoke().payload == {"amount": "2.5", "orders": 2}
    end_sessions(shop)
    # Delivered again, the event settles nothing, and says so.
    assert runtime.invoke().payload == {"amount": "0", "orders": 0}
    assert shop.execute("select amount::text, orders from settlements") == [("2.5", 2)]


# --- SnapStart --------------------------------------------------------------------------------------------------------


def test_snapstart(shop: PostgresServer, tmp_path: Path) -> None:
    env = {"LAMBDA_POOL_URL": shop.url(), "LAMBDA_POOL_NAME": "snapped"}
    count = "select pid from pg_stat_activity where application_name = 'snapped'"
    log = tmp_path / "log"
    with SnapStartEnvironment("app.handler", code_dir=EXAMPLES / "snapstart", env=env, log=log) as environment:
        assert shop.execute(count) == []  # nothing is in the snapshot
        environment.restore()
        first, second = environment.invoke(), environment.invoke()
        [(backend,)] = shop.execute(count)
    # One connection during Init, one during restore, and none for an invocation.
    assert first == second == {"backend": backend, "opened": 2}


# --- the database is down ---------------------------------------------------------------------------------------------


def test_degraded(start: Start, lambda_rie: Path) -> None:
    with PostgresServer() as server:
        server.execute("create table prices (article text primary key, price int)")
        server.execute("insert into prices values ('tea', 4), ('milk', 2)")
        runtime = start("degraded", server.url())
        tea, milk = ({"pathParameters": {"article": article}} for article in ("tea", "milk"))
        assert json.loads(runtime.invoke(tea).payload["body"]) == {"price": 4}
        server.stop("fast")
        stale, missing = runtime.invoke(tea), runtime.invoke(milk)
        assert (stale.payload["statusCode"], stale.payload["body"]) == (200, '{"price": 4}')
        assert "Warning" in stale.payload["headers"]
        assert (missing.payload["statusCode"], missing.payload["headers"]["Retry-After"]) == (503, "5")
        server.start()
        assert json.loads(runtime.invoke(milk).payload["body"]) == {"price": 2}


# --- before and after -------------------------------------------------------------------------------------------------


def test_migrating(start: Start, shop: PostgresServer) -> None:
    before = start("migrating", shop.url(), handler="before.handler")
    after = start("migrating", shop.url(), handler="after.handler")
    for runtime in (before, after):
        assert runtime.invoke({"article": "tea"}).error is None
        runtime.freeze()
    end_sessions(shop)
    for runtime in (before, after):
        runtime.thaw()
    assert before.invoke({"article": "milk"}).error is not None
    assert after.invoke({"article": "milk"}).error is None
    assert articles(shop) == ["tea", "tea", "milk"]
    # What failed half way is saved by the next good invocation of the first, and never by the second.
    assert before.invoke({"article": "tea"}).error is None
    for runtime in (before, after):
        assert runtime.invoke({"article": "air", "fail": True}).error is not None
        assert runtime.invoke({"article": "tea"}).error is None
    assert articles(shop).count("air") == 1


# --- Powertools' batch processor --------------------------------------------------------------------------------------


def test_sqs_batch_powertools(start: Start, shop: PostgresServer) -> None:
    shop.execute("insert into stock values ('tea', 3), ('milk', 2)")
    runtime = start("sqs_batch_powertools", shop.url())
    # What the last two lack is refused by the table's check, and by the stock's range after the insert.
    bodies = [("tea", 1), ("milk", 2), ("tea", 0), ("air", 2**31 - 1)]
    shop.execute("insert into stock values ('air', -2)")
    records = [
        {
            "messageId": f"m{number}",
            "eventSource": "aws:sqs",
            "body": json.dumps({"article": article, "amount": amount}),
        }
        for number, (article, amount) in enumerate(bodies)
    ]
    answer = runtime.invoke({"Records": records})
    assert [each["itemIdentifier"] for each in answer.payload["batchItemFailures"]] == ["m2", "m3"]
    assert shop.execute("select message, amount from orders order by message") == [("m0", 1), ("m1", 2)]
    assert shop.execute("select article, left_over from stock order by article") == [
        ("air", -2),
        ("milk", 0),
        ("tea", 2),
    ]
    again = runtime.invoke({"Records": records[:2]}).payload
    assert again == {"batchItemFailures": []}
    assert len(shop.execute("select * from orders")) == 2


# --- an ASGI application ----------------------------------------------------------------------------------------------


def test_asgi(start: Start, shop: PostgresServer) -> None:
    shop.execute("insert into stock values ('tea', 1)")
    runtime = start("asgi", shop.url())
    made = runtime.invoke(request("POST", "/orders/of/tea")).payload
    assert made["statusCode"] == 201
    number = json.loads(made["body"])["number"]
    read = runtime.invoke(request("GET", f"/orders/{number}")).payload
    assert json.loads(read["body"]) == {"number": number, "article": "tea", "amount": 1}
    assert runtime.invoke(request("POST", "/orders/of/tea")).payload["statusCode"] == 409
    assert runtime.invoke(request("GET", "/orders/0")).payload["statusCode"] == 404
    assert shop.execute("select left_over from stock") == [(0,)]
    assert articles(shop) == ["tea"]
    runtime.freeze()
    end_sessions(shop)
    runtime.thaw()
    assert runtime.invoke(request("GET", f"/orders/{number}")).payload["statusCode"] == 200


# --- SQLAlchemy's world -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_migrations(start: Start, shop: PostgresServer) -> None:
    for table in ("invoices", "alembic_version"):
        shop.execute(f"drop table if exists {table}")
    runtime = start("migrations", shop.url(), handler="app.handler")
    try:
        assert runtime.invoke({"to": "0001"}).payload == {"revision": "0001"}
        shop.execute("insert into invoices (amount) values (7)")
        assert [runtime.invoke({}).payload for _ in range(2)] == [{"revision": "0002"}] * 2
        assert shop.execute("select amount, paid from invoices") == [(7, False)]
        runtime.freeze()
        end_sessions(shop)
        runtime.thaw()
        assert runtime.invoke({"to": "-1"}).payload == {"revision": "0001"}
        assert runtime.invoke({"to": "base"}).payload == {"revision": None}
        assert runtime.invoke({"to": "nowhere"}).error is not None
        assert shop.execute("select to_regclass('invoices')") == [(None,)]
    finally:
        for table in ("invoices", "alembic_version"):
            shop.execute(f"drop table if exists {table}")


def test_sqlmodel_fastapi(start: Start, shop: PostgresServer) -> None:
    runtime = start("sqlmodel_fastapi", shop.url())
    made = runtime.invoke(request("POST", "/orders", {"article": "tea", "amount": 2})).payload
    assert made["statusCode"] == 201
    number = json.loads(made["body"])["number"]
    assert shop.execute("select article, amount from orders") == [("tea", 2)]
    runtime.freeze()
    end_sessions(shop)
    runtime.thaw()
    read = runtime.invoke(request("GET", f"/orders/{number}")).payload
    assert json.loads(read["body"]) == {"number": number, "article": "tea", "amount": 2}
    assert runtime.invoke(request("GET", "/orders/0")).payload["statusCode"] == 404
    assert runtime.invoke(request("POST", "/orders", {"article": "tea", "amount": 500})).payload["statusCode"] == 409
    refused = runtime.invoke(request("POST", "/orders", {"article": "tea", "amount": -1})).payload
    assert refused["statusCode"] == 500  # the database's own check
    assert articles(shop) == ["tea"]


# --- a durable function -----------------------------------------------------------------------------------------------


def test_durable(shop: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the SDK's own test runner, which lets the day pass."""
    monkeypatch.setenv("LAMBDA_POOL_URL", shop.url())
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    example = runpy.run_path(str(EXAMPLES / "durable" / "app.py"))
    result = run_durable(example["handler"], '{"id": "order-1", "article": "tea"}')
    assert (result.status.value, result.result) == ("SUCCEEDED", '"order-1"')
    assert shop.execute("select message, article, settled from orders") == [("order-1", "tea", True)]
    example["orders"].close()


# --- Django -----------------------------------------------------------------------------------------------------------


def http(method: str, path: str, body: object = None, **headers: str) -> dict[str, Any]:
    """An event of API Gateway's HTTP APIs, as far as it is read."""
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "localhost", "content-type": "application/json", **headers},
        "requestContext": {"http": {"method": method, "path": path, "sourceIp": "127.0.0.1"}},
        "body": None if body is None else json.dumps(body),
        "isBase64Encoded": False,
    }


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_django(start: Start, request: pytest.FixtureRequest, engine: str) -> None:
    server: Any = request.getfixturevalue("postgres" if engine == "postgresql" else "mariadb")
    server.execute("create database django_shop")
    url = server.url(database="django_shop")
    env = {"SHOP_ENGINE": f"lambda_pool.django.{engine}"}
    migrating = start("django", url, handler="app.migrate", env=env)
    assert migrating.invoke({}).payload == "migrated"
    migrating.shutdown()
    with closing_all(url) as execute:
        execute("insert into shop_article (name, left_over) values ('tea', 3)")
        runtime = start("django", url, env=env)
        order = {"article": "tea", "amount": 2}
        made = runtime.invoke(http("POST", "/orders", order, **{"idempotency-key": "one"})).payload
        assert made["statusCode"] == 201, made
        again = runtime.invoke(http("POST", "/orders", order, **{"idempotency-key": "one"})).payload
        assert json.loads(again["body"]) == json.loads(made["body"])
        number = json.loads(made["body"])["number"]
        read = runtime.invoke(http("GET", f"/orders/{number}")).payload
        assert json.loads(read["body"]) == {"number": number, **order}
        assert runtime.invoke(http("POST", "/orders", order)).payload["statusCode"] == 400
        assert runtime.invoke(http("POST", "/orders", {"article": "tea", "amount": -1})).payload["statusCode"] == 400
        assert runtime.invoke(http("GET", "/orders/0")).payload["statusCode"] == 404
        assert execute("select left_over from shop_article") == [(1,)]
        assert execute("select count(*) from shop_order") == [(1,)]
        runtime.shutdown()
    server.execute("drop database django_shop")


@contextmanager
def closing_all(url: str) -> Iterator[Callable[[str], list[Any]]]:
    """execute(sql) on a database of the test's own."""
    pool = lambda_pool.Pool(url, observers=())

    def execute(sql: str) -> list[Any]:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    try:
        yield execute
    finally:
        pool.close()
