"""Behind WSGI, behind ASGI and Mangum, and without HTTP: who gives connections back, and what is reported."""

import io
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import OperationalError, connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from mangum import Mangum

import lambda_pool
from lambda_pool.django import handler
from tests.contract.conftest import Database
from tests.frameworks.django.conftest import Statements, Use, backend_of, names, stats
from tests.frameworks.django.shop.models import Order
from tests.support.context import LambdaContext
from tests.support.statements import without_questions

CONTEXT: Any = LambdaContext()


def wsgi(path: str, query: str = "") -> int:
    """One request to the application. Out: its status."""
    found: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.url_scheme": "http",
    }
    response: Any = get_wsgi_application()(environ, lambda status, headers, *_: found.append(status))
    for _ in response:
        pass
    response.close()
    return int(found[0][:3])


def event(path: str) -> dict[str, Any]:
    """What API Gateway sends."""
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "testserver"},
        "requestContext": {"http": {"method": "GET", "path": path, "sourceIp": "127.0.0.1"}},
        "isBase64Encoded": False,
    }


def test_wsgi(connection: Any, database: Database) -> None:
    for number in range(3):
        assert wsgi(f"/place/order{number}") == 200
        assert stats(connection).in_use == 0
    assert stats(connection).opened == 1
    assert len(names(database)) == 3


@pytest.mark.parametrize("atomic", [False, True])
def test_atomic_requests(use: Use, database: Database, atomic: bool, caplog: pytest.LogCaptureFixture) -> None:
    connection = use()
    connections["default"].settings_dict["ATOMIC_REQUESTS"] = atomic
    with caplog.at_level(logging.CRITICAL, "django.request"):
        assert wsgi("/place/first", "fail") == 500
    assert names(database) == ([] if atomic else ["first"])
    assert wsgi("/place/second") == 200
    assert "second" in names(database)
    assert stats(connection).in_use == 0


@pytest.mark.sampled(4, "many cases")
@pytest.mark.parametrize("decorated", [False, True])
@pytest.mark.parametrize("path", ["place", "async"])
def test_mangum(connection: Any, database: Database, path: str, decorated: bool) -> None:
    """Each request runs in a thread of its own, and the physical connection is the same."""
    adapter: Any = Mangum(get_asgi_application(), lifespan="off")
    function = handler(adapter) if decorated else adapter
    Order.objects.count()
    connection.close()
    with Statements(database) as sent:
        for number in range(5):
            answer = function(event(f"/{path}/order{number}"), CONTEXT)
            assert answer["statusCode"] == 200, answer
            assert stats(connection).in_use == 0
    assert stats(connection).opened == 1
    assert len(names(database)) == 5
    assert [text.partition(" ")[0] for text in without_questions(sent.seen)] == ["insert", "select"] * 5


def test_the_asynchronous_orm(connection: Any, database: Database) -> None:
    async def work() -> int:
        await Order.objects.acreate(name="one")
        assert [order.name async for order in Order.objects.all()] == ["one"]
        return int(await Order.objects.acount())

    assert async_to_sync(work)() == 1
    connection.close()
    assert stats(connection).opened == 1


def test_the_first_use_in_lambda_is_on_an_event_loop(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    """`aiterator()` looks at the settings of its alias, and a wrapper looks at its pool, before a thread is used."""
    use()
    Order.objects.create(name="one")
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "function")
    monkeypatch.setenv("LAMBDA_POOL_GRACEFUL_SHUTDOWN", "false")

    async def work() -> list[str]:
        return [order.name async for order in Order.objects.aiterator()]

    assert async_to_sync(work)() == ["one"]


# --- without HTTP -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep_below", "kept"), [(0, 0), (1, 1)])
def test_what_is_not_to_be_kept_is_closed_when_the_handler_ends(use: Use, keep_below: float, kept: int) -> None:
    connection = use(keep_below=keep_below)
    handler(lambda event, context: Order.objects.count())({}, CONTEXT)
    assert (stats(connection).opened, stats(connection).size) == (1, kept)


def test_a_function_without_http(connection: Any, database: Database) -> None:
    @handler
    def function(event: Any, context: Any) -> int:
        Order.objects.create(name=event["name"])
        return backend_of(connection)

    backends = {function({"name": f"order {number}"}, CONTEXT) for number in range(5)}
    assert len(backends) == 1
    assert len(names(database)) == 5
    found = stats(connection)
    assert (found.in_use, found.opened, found.leaked) == (0, 1, 0)


def test_a_function_that_awaits_the_orm_with_its_own_connection(use: Use, database: Database) -> None:
    connection = use(max_size=1, timeout=1)

    async def count() -> int:
        return int(await Order.objects.acount())

    @handler
    def function(event: Any, context: Any) -> int:
        Order.objects.create(name=event["name"])
        return async_to_sync(count)()

    assert [function({"name": f"order {number}"}, CONTEXT) for number in (1, 2, 3)] == [1, 2, 3]
    assert (stats(connection).opened, stats(connection).leaked) == (1, 0)


def test_a_function_that_fails(connection: Any, database: Database) -> None:
    @handler
    def function(event: Any, context: Any) -> int:
        with transaction.atomic():
            Order.objects.create(name="lost")
            raise LookupError("half way")

    for _ in range(2):
        with pytest.raises(LookupError):
            function({}, CONTEXT)
    assert names(database) == []
    assert (stats(connection).in_use, stats(connection).opened) == (0, 1)


@pytest.mark.parametrize("unsaved", ["raise", "warn"])
def test_a_function_that_leaves_a_transaction_open(use: Use, database: Database, unsaved: str) -> None:
    connection = use(unsaved=unsaved)

    @handler
    def function(event: Any, context: Any) -> str:
        transaction.set_autocommit(False)
        Order.objects.create(name="open")
        return "done"

    for _ in range(2):
        if unsaved == "raise":
            with pytest.raises(lambda_pool.NotCommitted, match="Django's 'default'"):
                function({}, CONTEXT)
        else:
            assert function({}, CONTEXT) == "done"
        assert (stats(connection).size, stats(connection).idle) == (1, 1)
    assert names(database) == []
    assert Order.objects.count() == 0


def test_a_handler_that_another_one_calls_leaves_its_transaction_alone(connection: Any, database: Database) -> None:
    @handler
    def helper(event: Any, context: Any) -> str:
        return "nothing to do"

    @handler
    def work(event: Any, context: Any) -> str:
        with transaction.atomic():
            Order.objects.create(name="one")
            answer = helper(event, context)
            Order.objects.create(name="two")
            helper(event, context)
        return answer

    for _ in range(2):
        assert work({}, CONTEXT) == "nothing to do"
        assert names(database) == ["one", "two"]
        assert stats(connection).in_use == 0
        Order.objects.all().delete()
        with pytest.raises(LookupError):
            handler(lambda event, context: helper(event, context)[event["missing"]])({}, CONTEXT)
    assert stats(connection).opened == 1


def test_nor_does_it_end_one_that_was_begun_without_a_block(connection: Any, database: Database) -> None:
    helper = handler(lambda event, context: "nothing to do")

    @handler
    def work(event: Any, context: Any) -> str:
        transaction.set_autocommit(False)
        Order.objects.create(name="one")
        answer = str(helper(event, context))
        transaction.commit()
        transaction.set_autocommit(True)
        return answer

    assert work({}, CONTEXT) == "nothing to do"
    assert names(database) == ["one"]
    assert stats(connection).opened == 1


def test_a_child_of_a_fork_that_calls_a_handler_begins_anew(connection: Any, database: Database) -> None:
    @handler
    def child(event: Any, context: Any) -> None:
        Order.objects.create(name="child")

    @handler
    def parent(event: Any, context: Any) -> int:
        with transaction.atomic():
            Order.objects.create(name="parent")
            process = os.fork()
            if process == 0:  # pragma: no cover - measured in the parent
                status = 1
                try:
                    child({}, CONTEXT)
                    status = 0
                finally:
                    os._exit(status)
            return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    assert parent({}, CONTEXT) == 0
    assert names(database) == ["child", "parent"]
    assert stats(connection).in_use == 0


def test_a_block_that_never_ends_is_over_with_its_invocation(connection: Any, database: Database) -> None:
    left: list[Any] = []

    @handler
    def function(event: Any, context: Any) -> None:
        Order.objects.create(name=event["kept"])
        if event["leave"]:
            left.append(transaction.atomic())
            left[0].__enter__()
            Order.objects.create(name="lost")

    with pytest.raises(lambda_pool.NotCommitted):
        function({"kept": "one", "leave": True}, CONTEXT)
    for name in ("two", "three"):
        function({"kept": name, "leave": False}, CONTEXT)
    left[0].__exit__(None, None, None)
    function({"kept": "four", "leave": False}, CONTEXT)
    assert names(database) == ["four", "one", "three", "two"]
    assert (stats(connection).opened, stats(connection).in_use) == (1, 0)


@pytest.mark.parametrize("unsaved", ["raise", "warn"])
def test_a_handler_that_closes_inside_of_atomic_has_saved_nothing(
    use: Use, database: Database, caplog: pytest.LogCaptureFixture, unsaved: str
) -> None:
    connection = use(unsaved=unsaved)

    @handler
    def function(event: Any, context: Any) -> str:
        with transaction.atomic():
            Order.objects.create(name=event["name"])
            if event["close"]:
                connection.close()
        return "saved"

    if unsaved == "raise":
        with pytest.raises(lambda_pool.NotCommitted, match="closed inside of atomic"):
            function({"name": "lost", "close": True}, CONTEXT)
    else:
        assert function({"name": "lost", "close": True}, CONTEXT) == "saved"
    assert [record.message for record in caplog.records if "rolled back" in record.message] == [
        "Django's 'default' was closed inside of atomic(), whose transaction is rolled back: none of it is saved. Call "
        "close() after the block"
    ]
    assert function({"name": "kept", "close": False}, CONTEXT) == "saved"
    with transaction.atomic():  # a request's, say
        connection.close()
    assert function({"name": "kept too", "close": False}, CONTEXT) == "saved"
    assert names(database) == ["kept", "kept too"]
    assert stats(connection).in_use == 0


def test_a_callers_block_decides_what_is_saved(connection: Any, database: Database) -> None:
    @handler
    def function(event: Any, context: Any) -> int:
        Order.objects.create(name=event["name"])
        return int(event["count"])

    with transaction.atomic():
        assert function({"name": "one", "count": 1}, CONTEXT) == 1
        with pytest.raises(KeyError):
            function({"name": "two"}, CONTEXT)
        assert names(database) == []
    assert names(database) == ["one", "two"]
    with pytest.raises(KeyError), transaction.atomic():
        function({"name": "three"}, CONTEXT)
    assert names(database) == ["one", "two"]
    assert stats(connection).opened == 1


def test_a_callers_block_on_a_backend_of_djangos_own(use: Use, database: Database, tmp_path: Path) -> None:
    """Such as a TestCase enters for each alias: Django's own close_if_unusable_or_obsolete() would end it."""
    use()
    other = use("reader", entry={"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "other")})
    with other.cursor() as cursor:
        cursor.execute("create table shop_order (id integer primary key, name text, placed text)")

    @handler
    def function(event: Any, context: Any) -> None:
        Order.objects.using("reader").create(name=event["name"])

    with transaction.atomic("reader"):
        function({"name": "one"}, CONTEXT)
        with pytest.raises(KeyError):
            function({}, CONTEXT)
        Order.objects.using("reader").create(name="two")
    assert Order.objects.using("reader").count() == 2


@override_settings(DEBUG=True)
def test_whoever_counts_queries_counts_a_handlers_too(connection: Any) -> None:
    function = handler(lambda event, context: Order.objects.count())
    Order.objects.count()
    for _ in range(2):
        with CaptureQueriesContext(connection) as asked:
            Order.objects.count()
            function({}, CONTEXT)
        assert len(asked) == 2
    function({}, CONTEXT)
    assert len(connection.queries_log) == 1, "what nobody counts is forgotten with each invocation"


def test_in_lambda_a_callers_block_is_refused(
    connection: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could be one that was entered in Init and never ends; nothing of any invocation would be saved."""
    function = handler(lambda event, context: Order.objects.create(name="one"))
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    with transaction.atomic():
        Order.objects.create(name="zero")
        with pytest.raises(lambda_pool.ConfigError, match=r"inside of atomic\(\) on Django's 'default'"):
            function({}, CONTEXT)
    function({}, CONTEXT)
    assert names(database) == ["one", "zero"]


def test_a_test_may_set_what_lambda_sets(connection: Any, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
    function = handler(lambda event, context: Order.objects.create(name="one"))
    with transaction.atomic():
        function({}, CONTEXT)
        transaction.set_rollback(True)  # as a TestCase's end
    assert names(database) == []


def test_what_was_open_before_is_given_back(connection: Any, database: Database) -> None:
    """Whatever was asked while the module was imported."""
    transaction.set_autocommit(False)
    Order.objects.create(name="at import")

    @handler
    def function(event: Any, context: Any) -> bool:
        return bool(connection.get_autocommit()) and not Order.objects.exists()

    assert function({}, CONTEXT)
    assert names(database) == []


def test_the_handlers_name_and_its_keywords(connection: Any) -> None:
    @handler
    def function(event: Any, context: Any, **more: Any) -> dict[str, Any]:
        return more

    assert function.__name__ == "function"
    assert function({}, CONTEXT) == {}


def test_another_pools_connection_beside_djangos(connection: Any, database: Database) -> None:
    other = database.pool()

    @handler
    @other.handler
    def function(event: Any, context: Any, conn: Any) -> None:
        Order.objects.create(name=str(event))
        database.insert(conn, event)
        if event == 2:
            raise LookupError("mine")

    function(1, CONTEXT)
    with pytest.raises(LookupError, match="mine"):
        function(2, CONTEXT)
    assert names(database) == ["1", "2"]  # in autocommit mode, as Django is
    assert database.rows() == [1]
    assert stats(connection).in_use == other.stats().in_use == 0
    other.close()


def test_too_little_time_is_an_operational_error(connection: Any) -> None:
    @handler
    def function(event: Any, context: Any) -> int:
        return int(Order.objects.count())

    with pytest.raises(OperationalError) as caught:
        function({}, LambdaContext(milliseconds=50))
    assert isinstance(caught.value.__cause__, lambda_pool.DeadlineExceeded)


def test_provisioned_concurrency_opens_ahead(
    use: Use, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connection = use()
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency")

    @handler
    def function(event: Any, context: Any) -> int:
        return backend_of(connection)

    assert stats(connection).idle == 1
    function({}, CONTEXT)
    assert stats(connection).opened == 1
    database.execute("select 1")
    broken = {**connection.settings_dict, "NAME": "nothing_of_that_name"}
    use(entry=broken)
    with caplog.at_level(logging.WARNING, "lambda_pool"):
        handler(lambda event, context: time.monotonic())
    assert "could not be warmed" in caplog.text
