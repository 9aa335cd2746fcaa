"""atomic() and its relatives: what is saved, and what is reported about it."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import pytest
from django.db import IntegrityError, InternalError, OperationalError, router, transaction
from django.db.backends.signals import connection_created
from django.test import override_settings

import lambda_pool
from lambda_pool.django import CommitUncertain, handler
from lambda_pool.testing import FaultyProxy
from tests.contract.conftest import Database
from tests.frameworks.django.conftest import Statements, Use, backend_of, described, names, request_ends, stats
from tests.frameworks.django.shop.models import Order
from tests.support.context import LambdaContext
from tests.support.deadlock import Deadlock
from tests.support.invoked import Context, invoked

POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
MYSQL = pytest.mark.parametrize("database", ["mysql"], indirect=True)


@pytest.fixture
def proxy(database: Database) -> Iterator[FaultyProxy]:
    with FaultyProxy("127.0.0.1", database.server.port) as made:
        yield made


# --- the answer to COMMIT is lost -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["atomic", "manual"])
def test_the_answer_to_commit_is_lost(use: Use, proxy: FaultyProxy, database: Database, how: str) -> None:
    connection = use(port=proxy.port)
    ran: list[str] = []
    with pytest.raises(CommitUncertain) as caught:
        if how == "atomic":
            with transaction.atomic():
                Order.objects.create(name="perhaps")
                transaction.on_commit(lambda: ran.append("hook"))
                proxy.cut(after=0, direction="to_client")
        else:
            transaction.set_autocommit(False)
            Order.objects.create(name="perhaps")
            proxy.cut(after=0, direction="to_client")
            transaction.commit()
    error = caught.value
    assert isinstance(error, OperationalError)
    assert isinstance(error, lambda_pool.CommitUncertain)
    assert type(error.__cause__) is lambda_pool.CommitUncertain
    assert isinstance(error.__cause__.__cause__, connection.Database.Error)
    assert ran == [], "a hook runs where the transaction is surely saved"
    assert connection.connection is None
    assert stats(connection).opened == 1, "nothing was opened to set autocommit on, whose failure would hide it"
    assert names(database) in ([], ["perhaps"])
    Order.objects.create(name="next")
    assert "next" in names(database)


def test_it_is_not_hidden_where_nothing_can_be_opened(use: Use, proxy: FaultyProxy) -> None:
    use(port=proxy.port, timeout=0.3)
    with pytest.raises(CommitUncertain), transaction.atomic():
        Order.objects.create(name="perhaps")
        proxy.refuse()
        proxy.cut(after=0, direction="to_client")


@pytest.mark.sampled(1, "a second a case")
def test_commit_ends_with_the_invocation(use: Use, proxy: FaultyProxy) -> None:
    """It does not wait for an answer that never comes."""
    use(port=proxy.port)
    end = time.monotonic() + 1.0
    with invoked(lambda: (end - time.monotonic()) * 1000), pytest.raises(CommitUncertain):
        with transaction.atomic():
            Order.objects.create(name="perhaps")
            proxy.swallow("to_client", new=False)
    assert time.monotonic() < end + 2


@MYSQL
def test_lost_after_commit_was_answered(connection: Any, database: Database) -> None:
    """On MySQL Django then sends another SET autocommit. If that fails, saved work is not a failure, and hooks run."""
    ran: list[str] = []
    with transaction.atomic():
        Order.objects.create(name="saved")
        transaction.on_commit(lambda: ran.append("hook"))
        backend = backend_of(connection)
        commit = connection._commit

        def committed() -> None:
            commit()
            database.kill(backend)

        connection._commit = committed
    assert ran == ["hook"]
    assert names(database) == ["saved"]
    assert connection.get_autocommit()


# --- COMMIT is refused, or saves nothing ------------------------------------------------------------------------------


@POSTGRESQL
def test_commit_that_the_server_refuses(connection: Any, database: Database) -> None:
    database.execute("alter table shop_order add constraint later unique (placed) deferrable initially deferred")
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        for name in ("one", "two"):
            cursor.execute("insert into shop_order (name, placed) values (%s, '2026-01-01')", [name])
    first = backend_of(connection)
    Order.objects.create(name="three")
    assert names(database) == ["three"]
    assert backend_of(connection) == first


@pytest.mark.parametrize("unsaved", ["raise", "warn"])
def test_an_error_that_was_swallowed(use: Use, database: Database, unsaved: str) -> None:
    """PostgreSQL turns COMMIT into a rollback, and Django would not report it."""
    connection = use(unsaved=unsaved)

    def work() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("insert into shop_order (name, placed) values ('lost', now())")
            with pytest.raises(Exception, match="nonsense"):
                cursor.execute("select nonsense")

    if database.engine == "mysql":  # it continues its transaction
        work()
        assert names(database) == ["lost"]
    elif unsaved == "raise":
        with pytest.raises(OperationalError) as caught:
            work()
        assert isinstance(caught.value.__cause__, lambda_pool.NotCommitted)
        assert names(database) == []
    else:
        work()
        assert names(database) == []
    Order.objects.create(name="next")


@pytest.mark.parametrize("unsaved", ["raise", "warn"])
def test_an_error_that_django_rolls_back_for_without_a_word(
    use: Use, database: Database, unsaved: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A model's save() marks the transaction, which then ends in a rollback, on both databases."""
    use(unsaved=unsaved)
    Order.objects.create(name="there")

    def caught_inside() -> None:
        with transaction.atomic():
            Order.objects.create(name="lost")
            try:
                Order.objects.create(name="there")
            except IntegrityError:
                return

    def without_a_savepoint() -> None:
        with transaction.atomic():
            Order.objects.create(name="lost")
            with suppress(ZeroDivisionError), transaction.atomic(savepoint=False):
                raise ZeroDivisionError

    def amid_another_error() -> None:
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            caught_inside()

    @contextmanager
    def catching() -> Iterator[None]:
        with transaction.atomic(), suppress(IntegrityError):
            yield

    def caught_by_a_generator() -> None:
        with catching():
            Order.objects.create(name="lost")
            Order.objects.create(name="there")

    def caught_by_a_stack() -> None:
        with ExitStack() as stack:
            stack.enter_context(transaction.atomic())
            stack.enter_context(suppress(IntegrityError))
            Order.objects.create(name="lost")
            Order.objects.create(name="there")

    for work in (caught_inside, without_a_savepoint, amid_another_error, caught_by_a_generator, caught_by_a_stack):
        caplog.clear()
        if unsaved == "raise":
            with pytest.raises(OperationalError, match="an error inside of it was caught") as caught:
                work()
            assert isinstance(caught.value.__cause__, lambda_pool.NotCommitted)
        else:
            work()
            assert "none of it is saved" in caplog.text
        assert names(database) == ["there"]
        assert transaction.get_autocommit()
    Order.objects.create(name="next")


def test_a_hidden_error_is_told_also_where_the_rollback_finds_no_connection(use: Use, database: Database) -> None:
    """Django closes then, and says nothing of that either."""
    connection = use()
    Order.objects.create(name="there")
    with pytest.raises(OperationalError, match="an error inside of it was caught"), transaction.atomic():
        Order.objects.create(name="lost")
        with suppress(IntegrityError):
            Order.objects.create(name="there")
        database.kill(backend_of(connection))
    assert names(database) == ["there"]
    Order.objects.create(name="next")


@pytest.mark.sampled(4, "many cases")
@pytest.mark.parametrize("unsaved", ["raise", "warn"])
@pytest.mark.parametrize("autocommit", [True, False])
def test_an_inner_block_that_django_rolls_back_without_an_error(
    use: Use, database: Database, unsaved: str, autocommit: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The outer one, or commit() by hand with AUTOCOMMIT off, would save the rest."""
    use(entry={**described(database, unsaved=unsaved), "AUTOCOMMIT": autocommit})

    def caught_inside() -> None:
        with transaction.atomic():
            Order.objects.create(name="lost")
            with suppress(IntegrityError):
                Order.objects.create(name="there")

    with transaction.atomic() if autocommit else nullcontext():
        Order.objects.create(name="there")
        if unsaved == "raise":
            with pytest.raises(lambda_pool.NotCommitted, match="an error inside of it was caught"):
                caught_inside()
        else:
            caught_inside()
            assert "none of it is saved" in caplog.text
        with transaction.atomic():
            Order.objects.create(name="tried")
            transaction.set_rollback(True)
        with suppress(IntegrityError), transaction.atomic():
            Order.objects.create(name="there")
        Order.objects.create(name="saved")
    if not autocommit:
        transaction.commit()
    assert names(database) == ["saved", "there"]


def test_an_error_that_was_there_before_leaves_an_atomic_block_as_it_is(use: Use, database: Database) -> None:
    """It was being handled when the block began. Nobody has hidden it."""
    use()

    def again() -> None:
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            with transaction.atomic():
                Order.objects.create(name="taken back")
                raise

    with pytest.raises(ZeroDivisionError):
        again()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        again()
    assert names(database) == []


def test_what_ends_a_request_ends_no_atomic_block(use: Use, database: Database) -> None:
    """close_old_connections() inside a block, by a nested request or a library. Django leaves the block alone."""
    use()
    with transaction.atomic():
        Order.objects.create(name="first")
        request_ends()
        Order.objects.create(name="second")
        request_ends()
    assert names(database) == ["first", "second"]
    with suppress(ZeroDivisionError), transaction.atomic():
        Order.objects.create(name="taken back")
        request_ends()
        raise ZeroDivisionError
    request_ends()
    assert names(database) == ["first", "second"]


def test_a_close_amid_a_block_is_told(use: Use, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Django rolls back without reporting it."""
    connection = use()
    with transaction.atomic():
        Order.objects.create(name="lost")
        connection.close()
    assert "closed inside of atomic(), whose transaction is rolled back" in caplog.text
    assert names(database) == []
    caplog.clear()
    with transaction.atomic():
        connection.close()  # nothing is lost
    Order.objects.create(name="next")
    connection.close()
    assert caplog.text == ""


def test_an_atomic_block_that_never_ends_is_given_back(use: Use, database: Database) -> None:
    connection = use(unsaved="warn")

    def begin() -> Any:
        with transaction.atomic():
            Order.objects.create(name="lost")
            yield

    kept = begin()

    @handler
    def half(event: object, context: object) -> None:
        next(kept)

    half({}, None)
    assert stats(connection).in_use == 0
    assert names(database) == []
    with suppress(Exception):
        kept.close()


def test_a_rollback_that_was_asked_for_is_no_error(use: Use, database: Database) -> None:
    """By set_rollback(), by an error that leaves the block, or by hand."""
    use()
    with transaction.atomic():
        Order.objects.create(name="taken back")
        transaction.set_rollback(True)
    with suppress(ZeroDivisionError), transaction.atomic():
        Order.objects.create(name="taken back")
        raise ZeroDivisionError
    transaction.set_autocommit(False)
    Order.objects.create(name="taken back")
    transaction.rollback()
    transaction.set_autocommit(True)
    with transaction.atomic():
        Order.objects.create(name="saved")
        with suppress(IntegrityError), transaction.atomic():
            Order.objects.create(name="saved")
    assert names(database) == ["saved"]


def test_a_rollback_that_an_inner_block_asked_for_is_over_with_it(use: Use, database: Database) -> None:
    """It does not explain an error that the outer block hides later."""
    use()
    with transaction.atomic():
        Order.objects.create(name="saved")
        with transaction.atomic():
            Order.objects.create(name="tried")
            transaction.set_rollback(True)
    with pytest.raises(OperationalError, match="caught"), transaction.atomic():
        Order.objects.create(name="lost")
        with transaction.atomic():
            Order.objects.create(name="tried")
            transaction.set_rollback(True)
        with suppress(IntegrityError):
            Order.objects.create(name="saved")
    with transaction.atomic():
        Order.objects.create(name="taken back")
        with transaction.atomic(savepoint=False):
            transaction.set_rollback(True)
    assert names(database) == ["saved"]


def test_a_rollback_that_is_asked_of_an_inner_block_excuses_no_outer_one(use: Use, database: Database) -> None:
    """Django gives the inner block no savepoint, because it waits for the rollback of the outer one already."""
    use()
    Order.objects.create(name="there")
    with pytest.raises(OperationalError, match="caught"), transaction.atomic():
        Order.objects.create(name="lost")
        with suppress(IntegrityError):
            Order.objects.create(name="there")
        with transaction.atomic():
            transaction.set_rollback(True)
    with transaction.atomic():
        with suppress(IntegrityError):
            Order.objects.create(name="there")
        transaction.set_rollback(True)
        with transaction.atomic(), transaction.atomic(savepoint=False):
            transaction.set_rollback(True)
    assert names(database) == ["there"]


@pytest.mark.sampled(1, "a second a case")
def test_a_deadline_ends_the_statement(use: Use, database: Database) -> None:
    """It raises Django's error, whose cause gives the reason."""
    connection = use(cancel_before_deadline=0.3)
    connection.ensure_connection()  # in Lambda the pool is made during Init

    @handler
    def function(event: object, context: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("select pg_sleep(20)" if database.engine == "postgresql" else "select sleep(20)")

    end = time.monotonic() + 1.0

    class Context:
        aws_request_id = "one"

        def get_remaining_time_in_millis(self) -> int:
            return int((end - time.monotonic()) * 1000)

    with pytest.raises(OperationalError) as caught:
        function({}, Context())
    assert isinstance(caught.value.__cause__, lambda_pool.DeadlineExceeded)
    assert time.monotonic() < end + 1
    assert Order.objects.count() == 0


# --- what Django promises ---------------------------------------------------------------------------------------------


def test_nested_blocks_and_hooks(connection: Any, database: Database) -> None:
    ran: list[str] = []
    with transaction.atomic():
        Order.objects.create(name="outer")
        transaction.on_commit(lambda: ran.append("outer"))
        with pytest.raises(IntegrityError), transaction.atomic():
            Order.objects.create(name="inner")
            transaction.on_commit(lambda: ran.append("inner"))
            Order.objects.create(name="outer")
        with transaction.atomic():
            Order.objects.create(name="second")
        assert ran == []
    assert ran == ["outer"]
    assert names(database) == ["outer", "second"]
    with pytest.raises(LookupError), transaction.atomic():
        Order.objects.create(name="undone")
        raise LookupError
    assert names(database) == ["outer", "second"]


def test_get_or_create_and_bulk_create(connection: Any, database: Database) -> None:
    Order.objects.bulk_create([Order(name=f"order {number}") for number in range(5)])
    assert Order.objects.get_or_create(name="order 1")[1] is False
    assert Order.objects.get_or_create(name="order 9")[1] is True
    with transaction.atomic():
        found = Order.objects.select_for_update().get(name="order 9")
        found.name = "order 10"
        found.save()
    assert len(names(database)) == 6


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("inside", [False, True])
def test_streams(use: Use, database: Database, inside: bool) -> None:
    connection = use(reset="changed")
    Order.objects.bulk_create([Order(name=f"order {number:03}") for number in range(250)])
    first = backend_of(connection)
    for _ in range(3):
        if inside:
            with transaction.atomic():
                found = list(Order.objects.order_by("id").iterator(chunk_size=50))
        else:
            found = list(Order.objects.order_by("id").iterator(chunk_size=50))
        assert len(found) == 250
        request_ends()
        with Statements(database) as sent:
            assert len(list(Order.objects.iterator(chunk_size=100))) == 250
            request_ends()
        if database.engine == "postgresql":
            assert {text.partition(" ")[0] for text in sent.seen} == {"declare", "fetch", "close"}
        else:
            assert len(sent.seen) == 1
        # It is left in the middle.
        stream = Order.objects.iterator(chunk_size=10)
        next(stream)
        stream.close()
        request_ends()
    assert backend_of(connection) == first


@POSTGRESQL
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # psycopg warns about it, rightly
def test_a_stream_that_stays_open_is_closed_with_a_reset(connection: Any, database: Database) -> None:
    """If somebody forgot it, it would keep its rows on the server for as long as the session lives."""
    Order.objects.bulk_create([Order(name=f"order {number:03}") for number in range(50)])
    cursor = connection.chunked_cursor()
    cursor.execute("select name from shop_order")
    request_ends()
    with connection.cursor() as other:
        other.execute("select count(*) from pg_cursors where is_holdable")
        assert other.fetchone()[0] == 0
    assert stats(connection).opened == 1


@POSTGRESQL
def test_a_cursor_that_the_code_names_itself(connection: Any) -> None:
    with transaction.atomic(), connection.cursor():
        with connection.connection.cursor(name="own") as cursor:
            cursor.execute("select generate_series(1, 3)")
            assert cursor.fetchall() == [(1,), (2,), (3,)]


@POSTGRESQL
def test_a_stream_that_is_closed_late_leaves_the_next_borrower_alone(connection: Any, database: Database) -> None:
    """An error's traceback, for example, keeps an iterator until the garbage collector runs in some later request."""
    Order.objects.bulk_create([Order(name=f"order {number:03}") for number in range(50)])
    stream = Order.objects.iterator(chunk_size=10)
    next(stream)
    request_ends()
    with transaction.atomic():
        Order.objects.create(name="next")
        stream.close()
    assert "next" in names(database)


@POSTGRESQL
@pytest.mark.parametrize("inside", [False, True])
def test_a_stream_that_is_lost_when_it_was_read(connection: Any, database: Database, inside: bool) -> None:
    """Its rows are all there. What comes next is told, or has another connection."""
    Order.objects.create(name="first")
    stream = Order.objects.iterator(chunk_size=10)
    with ExitStack() as stack:
        if inside:
            stack.enter_context(pytest.raises(OperationalError))
            stack.enter_context(transaction.atomic())
        assert next(stream).name == "first"
        database.kill(backend_of(connection))
        stream.close()
        assert [order.name for order in Order.objects.all()] == ["first"]
    assert Order.objects.count() == 1


@POSTGRESQL
def test_a_stream_that_is_left_on_a_silent_server(use: Use, proxy: FaultyProxy) -> None:
    """Its CLOSE is cut off by the deadline. Python would log the error of a generator that is given up."""
    connection = use(port=proxy.port, cancel_before_deadline=0.3)
    Order.objects.bulk_create([Order(name=f"order {number}") for number in range(5)])
    end = time.monotonic() + 2.0

    @handler
    def first(event: object, context: object) -> str:
        for order in Order.objects.order_by("id").iterator(chunk_size=2):
            proxy.swallow("to_client", new=False)
            return str(order.name)
        return "none"

    assert first({}, Context(lambda: (end - time.monotonic()) * 1000, "one")) == "order 0"
    assert stats(connection).size == 0
    assert Order.objects.count() == 5


def test_a_reader_beside_a_writer(use: Use, database: Database) -> None:
    """With a router. Writes through the reader are refused, inside and outside atomic()."""
    use()
    reader = use("reader", readonly=True)

    class Router:
        def db_for_read(self, model: object, **hints: object) -> str:
            return "reader"

        def db_for_write(self, model: object, **hints: object) -> str:
            return "default"

    Order.objects.using("default").create(name="first")
    with override_settings(DATABASE_ROUTERS=[Router()]):
        router.__dict__.pop("routers", None)
        router._routers = None
        try:
            Order.objects.create(name="second")
            assert sorted(Order.objects.values_list("name", flat=True)) == ["first", "second"]
            assert Order.objects.get(name="first")._state.db == "reader"
        finally:
            router.__dict__.pop("routers", None)
            router._routers = None
    for _ in range(2):
        with pytest.raises((InternalError, OperationalError)):
            Order.objects.using("reader").create(name="third")
        with pytest.raises((InternalError, OperationalError)), transaction.atomic("reader"):
            Order.objects.using("reader").create(name="third")
        request_ends()
    assert names(database) == ["first", "second"]
    assert stats(reader).opened == 1, "a refused write is no failover"
    Order.objects.using("reader").count()
    request_ends()
    with Statements(database) as sent:
        Order.objects.using("reader").count()
        request_ends()
    assert len(sent.seen) == 1


def test_autocommit_off_in_the_settings(use: Use, database: Database) -> None:
    entry = {**use().settings_dict, "AUTOCOMMIT": False}
    connection = use(entry=entry)
    for name in ("one", "two"):
        assert not connection.get_autocommit()
        Order.objects.create(name=name)
        transaction.commit()
        Order.objects.create(name="open")
        request_ends()
    assert names(database) == ["one", "two"]
    assert stats(connection).opened == 1


def test_autocommit_off_and_a_receiver_that_asks(use: Use, database: Database) -> None:
    """A transaction that a receiver of the signal begins is not part of the first transaction."""
    entry = {**use().settings_dict, "AUTOCOMMIT": False}
    connection = use(entry=entry)

    def created(sender: object, connection: Any, **_: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("select 1")

    connection_created.connect(created)
    try:
        Order.objects.create(name="rolled back")
        transaction.rollback()
        Order.objects.create(name="kept")
        transaction.commit()
        request_ends()
    finally:
        connection_created.disconnect(created)
    assert names(database) == ["kept"]
    assert stats(connection).opened == 1


@MYSQL
def test_a_set_autocommit_that_commits(use: Use, proxy: FaultyProxy) -> None:
    """MySQL commits when autocommit is switched on; that is a COMMIT like any other."""
    use(port=proxy.port)
    transaction.set_autocommit(False)
    Order.objects.create(name="perhaps")
    proxy.cut(after=0, direction="to_client")
    with pytest.raises(CommitUncertain):
        transaction.set_autocommit(True)


# --- what autocommit mode has saved -----------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True])
def test_lost_after_it_was_saved_is_no_error_of_the_handlers(use: Use, database: Database, again: bool) -> None:
    connection = use()

    def work(event: Any, context: Any) -> str:
        Order.objects.create(name="saved")
        database.kill(backend_of(connection))
        with suppress(OperationalError):
            Order.objects.count()
        if again:
            Order.objects.count()
        return "ok"

    assert handler(work)({}, LambdaContext()) == "ok"
    assert names(database) == ["saved"]


@pytest.mark.parametrize("again", [False, True])
def test_the_lost_answer_to_a_statement_is_uncertain(
    use: Use, proxy: FaultyProxy, database: Database, again: bool
) -> None:
    connection = use(port=proxy.port)

    def work(event: Any, context: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("select 1")
            proxy.cut(after=0, direction="to_client")
            with suppress(OperationalError):
                cursor.execute("insert into shop_order (name, placed) values ('perhaps', now())")
        if again:
            Order.objects.count()

    with pytest.raises(lambda_pool.CommitUncertain, match="the answer to a statement on Django's 'default' was lost"):
        handler(work)({}, LambdaContext())
    assert handler(lambda event, context: "ok")({}, LambdaContext()) == "ok"


# --- what MySQL does by itself ----------------------------------------------------------------------------------------


@MYSQL
def test_a_statement_that_committed_and_failed_undoes_nothing(connection: Any, database: Database) -> None:
    def work(event: Any, context: Any) -> None:
        with transaction.atomic():
            Order.objects.create(name="one")
            with suppress(OperationalError), connection.cursor() as cursor:
                cursor.execute("create table shop_order (id int)")
            Order.objects.create(name="two")

    handler(work)({}, LambdaContext())
    assert names(database) == ["one", "two"]


@pytest.mark.sampled(1, "a second a case")
@MYSQL
@pytest.mark.parametrize("inner", [True, False])
def test_a_deadlock_in_an_inner_block_undoes_the_outer_one_too(use: Use, database: Database, inner: bool) -> None:
    """Code that follows Django's advice, and catches outside the inner block, must not get the same advice again."""
    connection = use()
    deadlock = Deadlock(database)
    with pytest.raises(OperationalError, match=r"the server had undone all of its transaction .*1213") as caught:
        with transaction.atomic():
            Order.objects.create(name="lost")
            with suppress(OperationalError), transaction.atomic(savepoint=inner):
                deadlock.strike(connection)
    assert isinstance(caught.value.__cause__, lambda_pool.NotCommitted)
    assert names(database) == []
    database.execute(f"drop table {database.table}_l")
    Order.objects.create(name="next")
