"""What goes wrong with connections: the pool's errors come unwrapped, and the next checkout works."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

import lambda_pool
from lambda_pool import ConnectError, CredentialsError, DeadlineExceeded, EndpointError, PoolTimeout
from lambda_pool.endpoints.base import Endpoint
from lambda_pool.events import Reason, Replaced
from lambda_pool.lifecycle import arm
from lambda_pool.sqlalchemy import create_engine
from lambda_pool.testing import FaultyProxy
from tests.contract.conftest import Database
from tests.frameworks.sqlalchemy.conftest import pool_of, table_of
from tests.frameworks.sqlalchemy.test_connections import backend
from tests.support.invoked import invoked
from tests.support.recorder import Recorder

Make = Callable[..., Engine]


def use(engine: Engine) -> None:
    with engine.connect() as conn:
        assert conn.execute(text("select 1")).scalar() == 1


# --- errors that come unwrapped ---------------------------------------------------------------------------------------


@pytest.mark.sampled(1, "2 s a case")
def test_pool_timeout(make: Make) -> None:
    engine = make(options={"timeout": 2.0})
    held = threading.Event()
    done = threading.Event()

    def hold() -> None:
        with engine.connect():
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:
        with pytest.raises(PoolTimeout, match=r"test_failures\.py:\d+ in hold"):
            engine.connect()
    finally:
        done.set()
        thread.join(30)
    use(engine)


def test_a_thread_that_wants_two_of_one(engine: Engine) -> None:
    with engine.connect(), pytest.raises(PoolTimeout, match="already holds the only connection"):
        engine.connect()
    use(engine)


class Nowhere:
    has_reader = False

    def resolve(self, role: Any, timeout: float) -> Endpoint:
        raise EndpointError("no such proxy")

    def failed(self, endpoint: Any) -> None: ...

    def forget(self) -> None: ...


class NoCredentials:
    needs_tls = False

    def credentials(self, *_: Any) -> Any:
        raise CredentialsError("none to be had")

    def rejected(self, *_: Any) -> None: ...

    def forget(self) -> None: ...


@pytest.mark.sampled(7, "many cases")
@pytest.mark.parametrize("style", ["connect", "session", "raw"])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"endpoint": Nowhere()}, EndpointError),
        ({"auth": NoCredentials()}, CredentialsError),
        ({"url": {"port": 1}}, ConnectError),
        ({"url": {"user": "nobody", "password": "wrong"}}, CredentialsError),
        ({"url": {"port": 1}, "left": 0}, DeadlineExceeded),
    ],
)
def test_no_connection_can_be_had(
    database: Database, style: str, wrong: dict[str, Any], error: type[Exception]
) -> None:
    options = {name: value for name, value in wrong.items() if name not in {"url", "left"}}
    url = database.server.url(**wrong.get("url", {}))
    pool = database.pool(url, timeout=0.3, **options)
    engine = create_engine(pool)

    def ask() -> None:
        if style == "connect":
            engine.connect()
        elif style == "raw":
            engine.raw_connection()
        else:
            with Session(engine) as session:
                session.execute(text("select 1"))

    if "left" in wrong:
        with invoked(lambda: 150), pytest.raises(error):
            ask()
    else:
        with pytest.raises(error):
            ask()
    assert pool.stats().size == 0


# --- connections that die ---------------------------------------------------------------------------------------------


def test_killed_while_idle(database: Database, make: Make) -> None:
    recorder = Recorder()
    engine = make(options={"observers": [recorder]})
    for number in range(5):
        with engine.begin() as conn:
            conn.execute(table_of(database).insert().values(id=number))
            victim = backend(conn)
        database.kill(victim)
    assert database.rows() == [0, 1, 2, 3, 4]
    assert [each.reason for each in recorder.of(Replaced)] == [Reason.DEAD] * 4


def test_killed_amid_a_transaction_and_the_next_works(database: Database, engine: Engine) -> None:
    with pytest.raises(DBAPIError) as caught, engine.begin() as conn:
        conn.execute(table_of(database).insert().values(id=1))
        database.kill(backend(conn))
        conn.execute(text("select 1"))
    assert caught.value.connection_invalidated
    use(engine)
    assert database.rows() == []
    assert pool_of(engine).stats().size == 1


@pytest.mark.sampled(1, "a second a case")
def test_a_shutdown_condemns_what_is_as_old(own_server: Callable[[str], Any], database: Database) -> None:
    server = own_server(database.engine)
    recorder = Recorder()
    pool = lambda_pool.Pool(server.url(), max_size=3, observers=[recorder])
    engine = create_engine(pool)
    held = [engine.connect() for _ in range(3)]
    for conn in held[1:]:
        conn.close()
    server.restart()
    with pytest.raises(OperationalError):
        held[0].execute(text("select 1"))
    held[0].close()
    for _ in range(3):
        use(engine)
    assert pool.stats().opened == 4
    # MariaDB sends nothing at the end that tells a shutdown from a loss.
    reason = Reason.GENERATION if database.engine == "postgresql" else Reason.DEAD
    assert [each.reason for each in recorder.of(Replaced)] == [reason]
    engine.dispose()


def test_a_writer_that_became_a_reader_is_left(pg: Database) -> None:
    """A refused write is the first sign of it, and SQLAlchemy takes it for an ordinary error."""
    engine = create_engine(pg.pool())
    with engine.connect() as conn:
        first = backend(conn)
    with pytest.raises(DBAPIError, match="read-only"), engine.connect() as conn:
        conn.execute(text("set transaction read only"))
        conn.execute(table_of(pg).insert().values(id=1))
    with engine.connect() as conn:
        assert backend(conn) != first
    assert pg.is_gone(first)


@pytest.mark.parametrize("by", ["readonly=True", "a listener"])
def test_what_a_read_only_engine_is_refused_is_no_failover(database: Database, make: Make, by: str) -> None:
    engine = make(readonly=by == "readonly=True")
    if by == "a listener":

        @event.listens_for(engine, "connect")
        def only_read(conn: Any, record: object) -> None:
            if database.engine == "postgresql":
                conn.read_only = True
                return
            with conn.cursor() as cursor:
                cursor.execute("set session transaction read only")

    for number in range(3):
        with pytest.raises(DBAPIError), engine.begin() as conn:
            conn.execute(table_of(database).insert().values(id=number))
    assert pool_of(engine).stats().opened == 1


def test_rolling_back_on_a_dead_connection_does_not_hide_the_handlers_error(database: Database, engine: Engine) -> None:
    for style in (lambda: Session(engine), engine.connect):
        with pytest.raises(RuntimeError, match="half way"), style() as open_one:
            open_one.execute(table_of(database).insert().values(id=1))
            conn: Any = open_one.connection() if isinstance(open_one, Session) else open_one
            database.kill(backend(conn))
            raise RuntimeError("half way")
        use(engine)
    assert database.rows() == []


OPTIONS: tuple[dict[str, Any], ...] = (
    {"isolation_level": "AUTOCOMMIT"},
    {"isolation_level": "SERIALIZABLE"},
    {"postgresql_readonly": True},
    {"postgresql_deferrable": True},
)


@pytest.mark.parametrize("options", OPTIONS, ids="".join)
def test_what_cannot_be_taken_back_on_a_dead_connection_hides_nothing(
    database: Database, engine: Engine, options: dict[str, Any]
) -> None:
    with pytest.raises(RuntimeError, match="half way"), engine.connect().execution_options(**options) as conn:
        conn.execute(text("select 1"))
        database.kill(backend(conn))
        raise RuntimeError("half way")
    assert pool_of(engine).stats().in_use == 0
    use(engine)


def test_an_interrupt_while_a_setting_is_taken_back(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    conn = engine.connect().execution_options(isolation_level="SERIALIZABLE")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(engine.dialect, "set_isolation_level", interrupted)
        conn.close()
    assert pool_of(engine).stats().size == 0
    use(engine)


@pytest.mark.sampled(1, "a second a case")
def test_a_server_that_does_not_answer_holds_nobody_beyond_the_end(database: Database, make: Make) -> None:
    server = database.server
    engine = make(options={"timeout": 1, "ping_timeout": 0.3})
    started = time.monotonic()
    with invoked(lambda: (2.0 - (time.monotonic() - started)) * 1000), engine.connect() as conn:
        conn.execute(table_of(database).insert().values(id=1))
        server.pause()
        try:
            conn.rollback()
        finally:
            server.resume()
    assert time.monotonic() - started < 2.5
    use(engine)
    assert database.rows() == []


# --- the deadline -----------------------------------------------------------------------------------------------------


@pytest.mark.sampled(1, "a second a case")
def test_a_statement_is_ended_before_the_invocation(database: Database, make: Make) -> None:
    engine = make(options={"cancel_before_deadline": 0.3})
    table = table_of(database)
    sleep = text("select pg_sleep(20)" if database.engine == "postgresql" else "select sleep(20) from dual")
    end = time.monotonic() + 1.0
    with invoked(lambda: (end - time.monotonic()) * 1000, reserve=0.3):
        disarm = arm()
        try:
            with pytest.raises(DeadlineExceeded), Session(engine) as session:
                session.execute(table.insert().values(id=1))
                session.execute(sleep)
        finally:
            if disarm is not None:
                disarm()
    assert time.monotonic() < end + 0.5
    use(engine)
    assert database.rows() == []


# --- fork -------------------------------------------------------------------------------------------------------------


def test_a_forked_child_opens_its_own(database: Database, engine: Engine) -> None:
    with engine.connect() as conn:
        mine = backend(conn)
    held = engine.connect()
    held.execute(table_of(database).insert().values(id=1))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            held.close()
            with engine.connect() as conn:
                os.write(write, str(backend(conn)).encode())
            with engine.begin() as conn:
                conn.execute(table_of(database).insert().values(id=2))
            engine.dispose()
            os._exit(0)
        except BaseException as error:
            os.write(write, repr(error).encode())
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, os.read(read, 1000)
    assert int(os.read(read, 100)) != mine
    os.close(read)
    os.close(write)
    assert backend(held) == mine
    held.commit()
    held.close()
    assert database.rows() == [1, 2]


def test_a_forked_child_does_not_commit_what_the_parent_began(database: Database, engine: Engine) -> None:
    held = engine.connect()
    held.execute(table_of(database).insert().values(id=1))
    child = os.fork()
    if child == 0:
        try:
            held.commit()
        except lambda_pool.NotCommitted:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert database.rows() == []
    held.commit()
    held.close()
    assert database.rows() == [1]


def test_a_forked_child_takes_no_isolation_level_back(database: Database, engine: Engine) -> None:
    held = engine.connect().execution_options(isolation_level="SERIALIZABLE")
    held.execute(table_of(database).insert().values(id=1))
    child = os.fork()
    if child == 0:
        try:
            held.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert database.rows() == []
    held.rollback()
    held.close()
    use(engine)
    assert pool_of(engine).stats().opened == 1
    assert database.rows() == []


def test_a_begin_that_is_not_answered_is_sent_on_another_connection(my: Database) -> None:
    """On PostgreSQL it goes out with the first statement."""
    with FaultyProxy("localhost", my.server.port) as proxy:
        url = my.url.replace(f":{my.server.port}/", f":{proxy.port}/")
        engine = create_engine(my.pool(url, ping_timeout=0.3, timeout=20.0), readonly=True)
        use(engine)
        proxy.black_hole(new=False)
        began = time.monotonic()
        use(engine)
        assert time.monotonic() - began < 10
        assert pool_of(engine).stats().opened == 2


@pytest.mark.sampled(1 / 2, "2 s a case")
def test_one_that_is_lost_while_it_is_set_up_is_replaced(database: Database) -> None:
    """The dialect asks the first connection several questions; one of them past SQLAlchemy, for psycopg's types."""
    with FaultyProxy("localhost", database.server.port) as proxy:
        url = database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
        for after in range(0, 1500, 50):
            engine = create_engine(database.pool(url, timeout=20.0))
            seen: list[Any] = []

            @event.listens_for(engine, "connect", insert=True)
            def lose(conn: Any, record: Any, after: int = after, seen: list[Any] = seen) -> None:
                if not seen:
                    proxy.cut(after=after, direction="to_client")
                seen.append(record)

            event.listen(engine, "checkout", lambda *_: proxy.heal())
            use(engine)
            assert pool_of(engine).stats().in_use == 0
            pool_of(engine).close()


# --- a server that lets us in, and says no more -----------------------------------------------------------------------


@pytest.mark.sampled(2, "3 s a case")
@pytest.mark.parametrize("whose", ["listener", "dialect", "null pool"])
@pytest.mark.parametrize("by", ["invocation", "timeout"])
def test_what_a_new_connection_is_asked_is_answered_in_time(database: Database, by: str, whose: str) -> None:
    """This is what happens behind a proxy without a free backend: the proxy itself answers the login."""
    with FaultyProxy("localhost", database.server.port) as proxy:
        url = database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
        pool = database.pool(url, timeout=3.0 if by == "timeout" else 20.0)
        engine = create_engine(pool)
        if whose == "null pool":
            engine = sqlalchemy.create_engine(engine.url, lambda_pool=pool, poolclass=NullPool)
        silent = [True]

        @event.listens_for(engine, "connect", insert=whose != "listener")
        def ask(conn: Any, record: Any) -> None:
            if silent:
                proxy.swallow("to_client", new=False)
            if whose == "listener":
                cursor = conn.cursor()
                cursor.execute("select 1")
                cursor.close()

        kind, left = (ConnectError, 60_000) if by == "timeout" else (DeadlineExceeded, 1_500)
        began = time.monotonic()
        with invoked(lambda: left), pytest.raises(kind, match="the login, but did not answer what is asked"):
            engine.connect()
        assert time.monotonic() - began < 10
        stats = pool_of(engine).stats()
        assert (stats.in_use, stats.size) == (0, 0)
        silent.clear()
        use(engine)
