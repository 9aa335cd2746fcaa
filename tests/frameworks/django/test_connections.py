"""One physical connection, kept between requests: what the server receives, and what happens to the connection."""

import gc
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from django.db import DatabaseError, InterfaceError, OperationalError, ProgrammingError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from lambda_pool import AuroraCluster, ConnectError, lifecycle
from lambda_pool.django import CommitUncertain
from lambda_pool.django import handler as decorated
from lambda_pool.testing import FaultyProxy
from tests.contract.conftest import Database
from tests.frameworks.django.conftest import Statements, Use, backend_of, names, request_ends, stats
from tests.frameworks.django.shop.models import Order
from tests.support.context import LambdaContext
from tests.support.interrupts import every_place, handler, run_interrupted
from tests.support.places import OURS

GONE = (OperationalError, InterfaceError)
"""The drivers' messages for a closed connection."""

# MariaDB and MySQL name it differently.
ISOLATION = r"show session variables like 't%\_isolation'"


def test_nothing_but_the_queries_is_sent(connection: Any, database: Database) -> None:
    Order.objects.count()
    request_ends()
    with Statements(database) as sent:
        for number in range(5):
            with transaction.atomic():
                Order.objects.create(name=f"order {number}")
            Order.objects.count()
            request_ends()
    begin, end = ["begin"], ["commit"]
    if database.engine == "mysql":
        begin, end = ["set autocommit = 0"], ["commit", "set autocommit = 1"]
    words = [text if text.startswith("set") else text.partition(" ")[0] for text in sent.seen]
    assert words == [*begin, "insert", *end, "select"] * 5
    found = stats(connection)
    assert (found.opened, found.reused, found.pings, found.idle) == (1, 5, 0, 1)


def test_close_gives_back_and_the_next_use_borrows_the_same(connection: Any) -> None:
    first = backend_of(connection)
    assert stats(connection).in_use == 1
    connection.close()
    assert (connection.connection, stats(connection).in_use, stats(connection).idle) == (None, 0, 1)
    assert backend_of(connection) == first


@pytest.mark.sampled(1, "a second a case")
def test_close_that_an_alarm_broke_off_costs_no_connection(connection: Any) -> None:
    """Also in Django's own close(), which forgets the connection before it was given back."""
    paths = (BaseDatabaseWrapper.validate_thread_sharing.__code__.co_filename, OURS)
    with handler():
        for place in count(1):
            backend_of(connection)
            struck = run_interrupted(connection.close, place, paths)
            connection.close()
            backend_of(connection)
            assert stats(connection).in_use == 1, struck
            if struck is None:
                break
    assert place > 2


def test_an_alarm_at_the_end_of_atomic_saves_nothing_and_leaves_nothing_open(
    connection: Any, database: Database
) -> None:
    """Django switches autocommit on all the same, which commits on MySQL."""

    def in_a_block() -> Callable[[], object]:
        block = transaction.atomic()
        block.__enter__()
        Order.objects.create(name="undone")
        return lambda: block.__exit__(KeyError, KeyError(), None)

    for number, place in enumerate(every_place(in_a_block)):
        Order.objects.create(name=f"later {number}")
        assert names(database) == sorted(f"later {each}" for each in range(number + 1)), place


def test_an_alarm_at_the_beginning_of_atomic_leaves_nothing_open(connection: Any, database: Database) -> None:
    def before_a_block() -> Callable[[], object]:
        backend_of(connection)
        enter: Callable[[], object] = transaction.atomic().__enter__
        return enter

    for number, place in enumerate(every_place(before_a_block)):
        Order.objects.create(name=f"later {number}")
        assert names(database) == sorted(f"later {each}" for each in range(number + 1)), place
    transaction.atomic().__exit__(None, None, None)


def test_the_set_up_runs_once_for_each_physical_connection(use: Use, database: Database) -> None:
    connection = use()
    level = "serializable"
    connection.settings_dict["OPTIONS"]["isolation_level"] = 4 if database.engine == "postgresql" else level
    connection.settings_dict["TIME_ZONE"] = "Europe/Zurich"
    asked = "show transaction isolation level" if database.engine == "postgresql" else ISOLATION
    for reset in range(2):
        for _ in range(3):
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(asked)
                assert cursor.fetchone()[-1].lower() == level
                if database.engine == "postgresql":
                    cursor.execute("show timezone")
                    assert cursor.fetchone()[0] == "Europe/Zurich"
            request_ends()
        assert stats(connection).opened == 1 + reset
        connection.home().pool.close()


@pytest.mark.parametrize("reset", ["transaction", "changed", "session"])
def test_what_a_borrower_sets_is_reset_and_what_django_sets_is_not(use: Use, database: Database, reset: str) -> None:
    entry = use(reset=reset).settings_dict
    wanted: list[object]
    if database.engine == "postgresql":
        entry["TIME_ZONE"] = "Europe/Zurich"
        entry["OPTIONS"]["assume_role"] = "pg_monitor"
        change, asked, wanted = "set lock_timeout = 77", "show lock_timeout", ["0", "Europe/Zurich", "pg_monitor"]
        more = ["show timezone", "select current_user"]
    else:
        entry["OPTIONS"]["isolation_level"] = "serializable"
        change, asked, wanted = (
            "set @@session.net_write_timeout = 77",
            "select @@net_write_timeout",
            [60, "SERIALIZABLE"],
        )
        more = [ISOLATION]
    for _ in range(3):
        found = []
        with connections["default"].cursor() as cursor:
            for question in (asked, *more):
                cursor.execute(question)
                found.append(cursor.fetchone()[-1])
            cursor.execute(change)
        if reset == "transaction":
            found[0] = wanted[0]
        assert found == wanted
        request_ends()
    assert stats(connections["default"]).opened == 1


def test_a_reset_with_a_rollback_lets_django_set_up_again(use: Use, database: Database) -> None:
    """With AUTOCOMMIT off, each request leaves a transaction open, and the reset goes out with its ROLLBACK."""
    entry = {**use().settings_dict, "AUTOCOMMIT": False}
    if database.engine == "postgresql":
        entry["TIME_ZONE"] = "Europe/Zurich"
        entry["OPTIONS"]["assume_role"] = "pg_monitor"
        change, asked = "set lock_timeout = 77", "select current_setting('timezone'), current_user"
        wanted: tuple[str, ...] = ("Europe/Zurich", "pg_monitor")
    else:
        entry["OPTIONS"]["isolation_level"] = "serializable"
        change, asked, wanted = "set net_write_timeout = 77", ISOLATION, ("SERIALIZABLE",)
    connection = use(entry=entry)
    for _ in range(3):
        with connection.cursor() as cursor:
            cursor.execute(asked)
            assert cursor.fetchone()[-len(wanted) :] == wanted
            cursor.execute(change)
        request_ends()
    assert stats(connection).opened == 1


def test_a_resumed_wrapper_is_as_a_connected_one(connection: Any) -> None:
    connection.ensure_connection()
    first = {name: value for name, value in vars(connection).items() if name != "_borrowed"}
    connection.errors_occurred = connection.needs_rollback = connection.closed_in_transaction = True
    connection.savepoint_ids, connection.atomic_blocks, connection.run_on_commit = [1], [2], [3]
    connection.autocommit = False
    connection.closed_in_transaction = False
    connection.close()
    connection.ensure_connection()
    again = {name: value for name, value in vars(connection).items() if name != "_borrowed"}
    assert again == first


def test_the_signal_is_sent_for_each_connection_of_djangos(connection: Any, database: Database) -> None:
    """As with Django's own pool. What its receivers set is what the connection is lent as."""
    seen = []

    def created(sender: object, connection: Any, **_: object) -> None:
        seen.append(connection.alias)

    connection_created.connect(created)
    try:
        for _ in range(3):
            Order.objects.count()
            connection.close()
    finally:
        connection_created.disconnect(created)
    assert seen == ["default"] * 3
    assert stats(connection).opened == 1


@pytest.mark.parametrize("known", [False, True])
def test_a_signals_receiver_that_fails_takes_nothing_with_it(connection: Any, known: bool) -> None:
    if known:
        Order.objects.count()
        connection.close()

    def created(sender: object, connection: Any, **_: object) -> None:
        raise ZeroDivisionError

    connection_created.connect(created)
    try:
        with pytest.raises(ZeroDivisionError):
            Order.objects.count()
    finally:
        connection_created.disconnect(created)
    assert (stats(connection).in_use, connection.connection) == (0, None)
    assert Order.objects.count() == 0


@pytest.mark.parametrize("known", [False, True])
def test_lost_before_anybody_used_it_another_takes_its_place(connection: Any, database: Database, known: bool) -> None:
    if known:
        Order.objects.count()
        connection.close()
    killed: list[int] = []

    def created(sender: object, connection: Any, **_: object) -> None:
        if not killed:
            killed.append(backend_of(connection))
            database.kill(killed[0])
            with connection.cursor() as cursor:
                cursor.execute("select 1")

    connection_created.connect(created)
    try:
        assert Order.objects.count() == 0
    finally:
        connection_created.disconnect(created)
    assert killed != [backend_of(connection)]
    assert stats(connection).opened == 2


def test_closed_twice_and_a_connection_asked_for_by_hand(connection: Any) -> None:
    """Libraries that call Django's own methods do it like this."""
    conn = connection.get_new_connection(connection.get_connection_params())
    assert stats(connection).in_use == 1
    assert connection.borrow().conn is conn
    connection.connection = conn
    connection.close()
    connection.close()
    assert (stats(connection).in_use, stats(connection).idle) == (0, 1)


# --- lost connections -------------------------------------------------------------------------------------------------


def test_killed_between_requests(connection: Any, database: Database) -> None:
    backends = set()
    for _ in range(3):
        backend = backend_of(connection)
        backends.add(backend)
        Order.objects.count()
        request_ends()
        database.kill(backend)
    assert len(backends) == 3
    assert stats(connection).replaced == 2


def test_killed_in_a_request_one_query_fails_and_the_next_has_another(connection: Any, database: Database) -> None:
    first = backend_of(connection)
    database.kill(first)
    with pytest.raises(OperationalError):
        Order.objects.count()
    assert Order.objects.count() == 0
    assert backend_of(connection) != first


def test_killed_in_a_transaction_its_error_comes_out_and_nothing_goes_on(connection: Any, database: Database) -> None:
    with pytest.raises(OperationalError) as caught, transaction.atomic():
        Order.objects.create(name="lost")
        database.kill(backend_of(connection))
        Order.objects.create(name="lost too")
    assert isinstance(caught.value.__cause__, connection.Database.Error)
    assert connection.connection is None, "nothing was opened to set autocommit on"
    assert stats(connection).opened == 1
    Order.objects.create(name="kept")
    assert names(database) == ["kept"]


def test_killed_in_a_transaction_whose_error_is_swallowed(connection: Any, database: Database) -> None:
    def insert(name: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("insert into shop_order (name, placed) values (%s, now())", [name])

    with pytest.raises(GONE), transaction.atomic():
        insert("lost")
        database.kill(backend_of(connection))
        for name in ("lost too", "half"):  # not on a new connection, where it alone would be saved
            with pytest.raises(GONE):
                insert(name)
    assert names(database) == []


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("swallowed", [False, True])
def test_a_writer_that_became_a_reader_is_left(connection: Any, database: Database, swallowed: bool) -> None:
    """Even if its refusal was caught, and the block failed only because none of it is saved."""
    first = backend_of(connection)
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("set transaction read only")
        with suppress(*[DatabaseError] if swallowed else []):
            cursor.execute("insert into shop_order (name, placed) values ('refused', now())")
    request_ends()
    assert backend_of(connection) != first
    assert database.is_gone(first)


def test_a_manual_transaction_does_not_go_on_elsewhere(connection: Any, database: Database) -> None:
    transaction.set_autocommit(False)
    Order.objects.create(name="lost")
    database.kill(backend_of(connection))
    for name in ("lost too", "half"):
        with pytest.raises(GONE):
            Order.objects.create(name=name)
    with pytest.raises(GONE):
        transaction.rollback()
    connection.close()
    assert connection.get_autocommit()
    assert names(database) == []


def test_a_subclass_is_told_of_each_connection_that_goes(
    use: Use, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By close(), in which backends such as django-tenants forget what they have set on the session."""
    known: list[Any] = []  # the connection that the subclass has set up

    def use_it() -> None:
        conn = connection.cursor().db.connection
        assert known in ([], [conn])
        known[:] = [conn]

    def created(sender: object, connection: Any, **_: object) -> None:
        use_it()
        raise ZeroDivisionError

    with FaultyProxy("127.0.0.1", database.server.port) as proxy:
        connection = use(port=proxy.port)
        backend = type(connection)

        def close(self: Any) -> None:
            known.clear()
            backend.close(self)

        monkeypatch.setattr(connection, "__class__", type("Subclass", (backend,), {"close": close}))
        decorated(lambda event, context: use_it())({}, LambdaContext())
        assert known == [], "it went back to the pool"
        with pytest.raises(CommitUncertain), transaction.atomic():
            use_it()
            Order.objects.create(name="perhaps")
            proxy.cut(after=0, direction="to_client")
        assert known == [], "it was lost"
        connection_created.connect(created)
        try:
            with pytest.raises(ZeroDivisionError):
                connection.cursor()
        finally:
            connection_created.disconnect(created)
        assert known == [], "it could not be set up"


def test_the_driver_connection_that_is_closed_by_hand(connection: Any, database: Database) -> None:
    connection.ensure_connection()
    connection.connection.close()
    with pytest.raises(GONE):
        Order.objects.count()
    request_ends()
    assert Order.objects.count() == 0


# --- who has it -------------------------------------------------------------------------------------------------------


def test_what_is_open_is_rolled_back(connection: Any, database: Database) -> None:
    first = backend_of(connection)
    transaction.set_autocommit(False)
    Order.objects.create(name="open")
    request_ends()
    assert names(database) == []
    assert backend_of(connection) == first
    assert connection.get_autocommit()


def test_closed_inside_of_atomic(connection: Any, database: Database) -> None:
    with transaction.atomic():
        Order.objects.create(name="open")
        connection.close()
        assert connection.connection is None
        with pytest.raises((ProgrammingError, transaction.TransactionManagementError)):
            Order.objects.create(name="not on somebody else's connection")
    assert names(database) == []
    assert Order.objects.count() == 0


def test_taken_away_at_the_end_of_an_invocation(connection: Any, database: Database) -> None:
    """A connection of another decorator than Django's, which does not know about it."""
    began = time.monotonic()
    first = backend_of(connection)
    lifecycle.end_invocation(None, began, failed=False)
    assert stats(connection).size == 0
    assert Order.objects.count() == 0
    assert backend_of(connection) != first


def test_taken_away_in_a_transaction_it_does_not_go_on(connection: Any, database: Database) -> None:
    began = time.monotonic()
    with pytest.raises(ProgrammingError), transaction.atomic():
        Order.objects.create(name="half")
        lifecycle.end_invocation(None, began, failed=True)
        Order.objects.create(name="other half")
    assert names(database) == []


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    gc.disable()  # which a borrower that waits for the connection would not wait for either
    try:
        thread.start()
        thread.join()
    finally:
        gc.enable()


def test_a_thread_that_ends_gives_back(connection: Any) -> None:
    backends = []
    for _ in range(3):
        in_a_thread(lambda: backends.append(backend_of(connections["default"])))
    assert len(set(backends)) == 1
    assert stats(connection).in_use == 0


def test_a_thread_that_ends_saves_nothing_more(connection: Any, database: Database) -> None:
    def work() -> None:
        transaction.set_autocommit(False)
        Order.objects.create(name="left open")

    in_a_thread(work)
    assert names(database) == []
    assert stats(connection).in_use == 0


def test_a_thread_that_borrowed_for_a_shared_connection_ends(use: Use) -> None:
    """A thread that shares it borrows again, and does not give back what is now lent to somebody else."""
    connection = use(max_size=2)
    connection.inc_thread_sharing()
    try:
        in_a_thread(lambda: backend_of(connection))
        assert stats(connection).in_use == 0
        with ThreadPoolExecutor(1) as executor:
            theirs = executor.submit(lambda: backend_of(connections["default"])).result()
            connection.cursor().close()
            assert backend_of(connection) != theirs
            assert stats(connection).in_use == 2
            connection.close()
            assert stats(connection).in_use == 1
    finally:
        connection.dec_thread_sharing()


def test_threads_have_connections_of_their_own(use: Use, database: Database) -> None:
    connection = use(max_size=3)
    together = threading.Barrier(3)
    backends = set()

    def work() -> None:
        backends.add(backend_of(connections["default"]))
        together.wait(10)
        connections["default"].close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(backends) == 3
    assert stats(connection).idle == 3


def test_a_full_pool_is_an_operational_error(use: Use) -> None:
    connection = use(max_size=1)
    connection.ensure_connection()
    other = connection.copy()
    with pytest.raises(OperationalError, match="already holds the only connection") as caught:
        other.ensure_connection()
    assert type(caught.value.__cause__).__name__ == "PoolTimeout"


def test_a_copy_uses_the_same_pool(use: Use) -> None:
    connection = use(endpoint=AuroraCluster("orders"))
    assert connection.copy().home() is connection.home()


def test_a_child_process_leaves_its_parents_connection_alone(connection: Any, database: Database) -> None:
    first = backend_of(connection)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - measured in the parent
        try:
            os.write(writer, str(backend_of(connection) if connection.cursor() else 0).encode())
            connection.close()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        theirs = int(pipe.read() or 0)
    os.waitpid(child, 0)
    assert theirs not in {0, first}
    assert Order.objects.count() == 0
    assert backend_of(connection) == first


@pytest.mark.parametrize("fails", [False, True])
def test_a_child_process_that_leaves_its_parents_block_ends_nothing(
    connection: Any, database: Database, fails: bool
) -> None:
    """It is told so, and the parent goes on."""
    parent, child = os.getpid(), 0
    try:
        with transaction.atomic():
            Order.objects.create(name="first")
            child = os.fork()
            if child and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
                raise AssertionError("the child was not told")
            if child:
                Order.objects.create(name="second")
            elif fails:
                raise ZeroDivisionError
    except (OperationalError, ZeroDivisionError):
        if os.getpid() != parent:
            os._exit(0)
        raise
    finally:
        if os.getpid() != parent:  # pragma: no cover - measured in the parent
            os._exit(1)
    assert names(database) == ["first", "second"]


def test_nobody_can_be_reached(use: Use, database: Database) -> None:
    with FaultyProxy("127.0.0.1", database.server.port) as proxy:
        use(port=proxy.port, timeout=0.5)
        proxy.refuse()
        with pytest.raises(OperationalError) as caught:
            Order.objects.count()
        assert type(caught.value.__cause__).__name__ == "ConnectError"
        proxy.listen()
        assert Order.objects.count() == 0


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.sampled(1 / 2, "waits for a time-out")
def test_what_a_new_connection_is_asked_is_answered_in_time(use: Use, database: Database, prepared: bool) -> None:
    """This is what happens behind a proxy without a free backend: the proxy itself answers the login."""
    with FaultyProxy("localhost", database.server.port) as proxy:
        connection = use(port=proxy.port, timeout=3.0)
        if prepared:
            connection.ensure_connection()
            connection.close()

        def ask(connection: Any, **_: Any) -> None:
            proxy.swallow("to_client", new=False)
            connection.cursor().execute("select 1")

        connection_created.connect(ask)
        began = time.monotonic()
        try:
            with pytest.raises(OperationalError, match="the login, but did not answer what is asked") as raised:
                connection.ensure_connection()
        finally:
            connection_created.disconnect(ask)
        assert time.monotonic() - began < 10
        assert isinstance(raised.value.__cause__, ConnectError)
        assert (stats(connection).in_use, stats(connection).size) == (0, 0)
        connection.ensure_connection()
