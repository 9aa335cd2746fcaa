"""Django on the genuine runtime: a whole application behind Mangum, and a function without HTTP."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from lambda_pool.testing import LambdaRuntime, MariaDbServer, PostgresServer
from tests.on_lambda.conftest import Start, start  # noqa: F401 - a fixture
from tests.on_lambda.test_warm import statements_of
from tests.support.speed import FULL
from tests.support.statements import QUESTIONS

pytestmark = pytest.mark.runtime

INVOCATIONS = 200 if FULL else 50
DEADLINE = 6

FUNCTION = """
import os, sys
from urllib.parse import urlsplit, unquote, parse_qs

from django.conf import settings

url = urlsplit(os.environ["URL"])
query = parse_qs(url.query)
settings.configure(
    DATABASES={"default": {
        "ENGINE": "lambda_pool.django." + url.scheme,
        "HOST": url.hostname, "PORT": url.port, "USER": url.username, "PASSWORD": unquote(url.password),
        "NAME": url.path[1:],
        "OPTIONS": {
            "sslmode": query["sslmode"][0], "sslrootcert": query["sslrootcert"][0],
            "lambda_pool": {"cancel_before_deadline": 1.5, "metrics": "off", "ping_after": 60},
        },
    }},
    INSTALLED_APPS=["tests.frameworks.django.shop.apps.ShopConfig"], SECRET_KEY="x", USE_TZ=True,
)
import django
django.setup()

from django.db import connection, transaction
from tests.frameworks.django.shop.models import Order
from lambda_pool.django import handler

@handler
def handler(event, context):
    event = event or {}
    connection.ensure_connection()
    conn = connection.connection
    backend = conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id()
    with transaction.atomic():
        Order.objects.create(name=event.get("name", "nameless"))
        if event.get("fail"):
            raise RuntimeError("half way")
    if event.get("sleep"):
        with connection.cursor() as cursor:
            cursor.execute("select pg_sleep(20)" if connection.vendor == "postgresql" else "select sleep(20)")
    stats = connection.home().pool.stats()
    return {"backend": backend, "opened": stats.opened, "pings": stats.pings, "leaked": stats.leaked}
"""


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The tests' own server, which is restarted, with an empty table."""
    made: Any = (PostgresServer if request.param == "postgresql" else MariaDbServer)(log_statements=True)
    serial = "bigserial" if request.param == "postgresql" else "bigint auto_increment"
    moment = "timestamptz" if request.param == "postgresql" else "datetime(6)"
    with made:
        made.execute(
            f"create table shop_order (id {serial} primary key, name varchar(50) not null, placed {moment} not null)"
        )
        yield made


def kill(server: Any, backend: int) -> None:
    how = "select pg_terminate_backend({}, 5000)" if server.scheme == "postgresql" else "kill {}"
    server.execute(how.format(backend))


def count(server: Any, name: str) -> int:
    return int(server.execute(f"select count(*) from shop_order where name = '{name}'")[0][0])


def sessions(server: Any, backend: int) -> int:
    where = "pg_stat_activity where pid" if server.scheme == "postgresql" else "information_schema.processlist where id"
    return int(server.execute(f"select count(*) from {where} = {backend}")[0][0])


def words(server: Any, backend: int) -> Counter[str]:
    """What a session sent, by its first word, or words; without what the pool asks once in 30 s."""
    time.sleep(0.3)
    found: Counter[str] = Counter()
    for text, times in statements_of(server.scheme, server, backend, server.log).items():
        if not text.startswith(QUESTIONS):
            found[text if text.startswith("set") else text.partition(" ")[0]] += times
    return found


@pytest.mark.sampled(1 / 2, "200 invocations, faults and restarts")
def test_a_long_day(start: Start, server: Any, any_python: str) -> None:  # noqa: F811
    """Cold, warm, failing, freeze + kill + thaw, restart, deadline, shutdown."""
    runtime = start("", env={"URL": server.url()}, code=FUNCTION, python=any_python, timeout=DEADLINE)
    first = invoke(runtime, "cold")
    cold = words(server, first["backend"])
    for number in range(INVOCATIONS):
        answer = invoke(runtime, f"warm{number}")
        assert (answer["backend"], answer["opened"], answer["pings"]) == (first["backend"], 1, 0)
    warm = words(server, first["backend"]) - cold
    own = ["begin", "insert", "commit"]
    if server.scheme == "mysql":
        own = ["set autocommit = 0", "insert", "commit", "set autocommit = 1"]
    assert warm == Counter(dict.fromkeys(own, INVOCATIONS))

    for _ in range(3):
        failed = runtime.invoke({"name": "failed", "fail": True})
        assert "half way" in str(failed.error)
    assert count(server, "failed") == 0
    assert invoke(runtime, "after")["backend"] == first["backend"]

    backends = {first["backend"]}
    for number in range(3):
        runtime.freeze()
        kill(server, max(backends, key=lambda each: sessions(server, each)))
        runtime.thaw()
        answer = invoke(runtime, f"thawed{number}")
        assert count(server, f"thawed{number}") == 1
        backends.add(answer["backend"])
    assert len(backends) == 4

    runtime.freeze()
    server.restart()
    runtime.thaw()
    answer = invoke(runtime, "restarted")
    assert answer["leaked"] == 0

    late = runtime.invoke({"name": "late", "sleep": True})
    assert late.error is not None
    assert "OperationalError" in str(late.error)
    assert "cancel_before_deadline" in str(late.error)
    assert count(server, "late") == 1, "it was committed before"
    log = runtime.log
    answer = invoke(runtime, "next")

    ended = runtime.shutdown()
    assert not ended.timed_out
    until = time.monotonic() + 3
    while sessions(server, answer["backend"]):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert "Traceback" not in runtime.log.removeprefix(log)


def invoke(runtime: LambdaRuntime, name: str) -> dict[str, Any]:
    answer = runtime.invoke({"name": name})
    assert answer.error is None, answer.error
    found: dict[str, Any] = answer.payload
    return found
