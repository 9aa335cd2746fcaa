"""One record for each physical connection: set up once, nothing lost at the return, no needless statement."""

import contextlib
import gc
import json
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

import lambda_pool
from lambda_pool.sqlalchemy import create_engine
from lambda_pool.sqlalchemy.borrowed import Borrowed
from lambda_pool.sqlalchemy.pool import LambdaPool
from tests.contract.conftest import Database
from tests.frameworks.sqlalchemy.conftest import pool_of, table_of
from tests.support.core import end_invocation
from tests.support.interrupts import handler, run_interrupted
from tests.support.statements import Statements

Make = Callable[..., Engine]


def backend(conn: sqlalchemy.Connection) -> int:
    driver: Any = conn.connection.driver_connection
    return int(driver.info.backend_pid if hasattr(driver, "info") else driver.thread_id())


# --- statements -------------------------------------------------------------------------------------------------------


def write(engine: Engine, table: sqlalchemy.Table, number: int) -> None:
    with Session(engine) as session:
        session.execute(table.insert().values(id=number))
        session.commit()


def test_warm_sends_what_the_handler_says_and_the_transaction_around_it(database: Database, engine: Engine) -> None:
    table = table_of(database)
    write(engine, table, 1)
    with Statements(database) as told:
        for number in range(2, 5):
            write(engine, table, number)
    begin = ["begin"] if database.engine == "postgresql" else []
    assert [each.partition(" ")[0] for each in told.seen] == [*begin, "insert", "commit"] * 3
    assert database.rows() == [1, 2, 3, 4]
    assert pool_of(engine).stats().opened == 1


def test_a_warm_invocation_that_only_reads_and_fails(database: Database, engine: Engine) -> None:
    table = table_of(database)
    write(engine, table, 1)
    with Statements(database) as told:
        with engine.connect() as conn:
            conn.execute(table.select()).all()
        with pytest.raises(RuntimeError), Session(engine) as session:
            session.execute(table.select()).all()
            raise RuntimeError("half way")
    reads = [each for each in told.seen if each.startswith("select")]
    assert len(reads) == 2
    begin = ["begin"] if database.engine == "postgresql" else []
    assert told.seen == [*begin, reads[0], "rollback"] * 2


def test_cold_sends_no_more_than_sqlalchemy_itself(database: Database) -> None:
    driver = "psycopg" if database.engine == "postgresql" else "pymysql"
    server = database.server
    with Statements(database) as theirs:
        url = sqlalchemy.URL.create(
            f"{database.server.scheme}+{driver}",
            server.user,
            server.password,
            "localhost",
            server.port,
            server.database,
        )
        own = sqlalchemy.create_engine(url)
        with own.connect() as conn:
            conn.execute(text("select 1"))
            conn.commit()
        own.dispose()
    with Statements(database) as ours:
        with create_engine(database.pool()).connect() as conn:
            conn.execute(text("select 1"))
            conn.commit()
    assert len(ours.seen) <= len(theirs.seen)
    of_the_login = {each for each in ours.seen if each.startswith("set names")}
    assert set(ours.seen) - set(theirs.seen) - of_the_login == set()


# --- events and records -----------------------------------------------------------------------------------------------


def test_connect_once_for_each_connection_checkout_and_checkin_for_each_use(engine: Engine) -> None:
    told: list[str] = []
    for name in ("connect", "first_connect", "checkout", "checkin", "reset", "invalidate", "close"):
        event.listen(engine, name, lambda *_, name=name: told.append(name))
    backends = []
    for _ in range(3):
        with engine.connect() as conn:
            conn.execute(text("select 1"))
            conn.connection.info.setdefault("number", len(told))
            backends.append((backend(conn), conn.connection.info["number"]))
    assert told[:2] == ["first_connect", "connect"]
    assert told[2:] == ["checkout", "reset", "checkin"] * 3
    assert len(set(backends)) == 1
    engine.dispose()
    with engine.connect() as conn:
        assert "number" not in conn.connection.info
    assert told.count("connect") == 2
    assert told.count("first_connect") == 1


def test_one_notice_handler_however_often_it_is_borrowed(pg: Database) -> None:
    engine = create_engine(pg.pool())
    notices: list[str] = []

    @event.listens_for(engine, "connect")
    def listen(conn: Any, record: Any) -> None:
        conn.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))

    for _ in range(20):
        with engine.connect() as conn:
            conn.execute(text("select 1"))
    with engine.connect() as conn:
        conn.execute(text("do $$ begin raise notice 'once'; end $$"))
    assert notices == ["once"]


def test_before_cursor_execute_sees_and_changes_statements(engine: Engine) -> None:
    seen = []

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def comment(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> Any:
        seen.append(statement)
        return statement.replace("1", "2"), parameters

    with engine.connect() as conn:
        assert conn.execute(text("select 1")).scalar() == 2
    assert seen[-1] == "select 1"


def test_a_listener_of_checkout_may_want_another_connection(engine: Engine) -> None:
    refused: list[Any] = []

    @event.listens_for(engine, "checkout")
    def check(conn: Any, record: Any, proxy: Any) -> None:
        if len(refused) == 1:
            refused.append(conn)
            raise DisconnectionError("not this one")

    with engine.connect() as conn:
        first = backend(conn)
    refused.append(None)
    with engine.connect() as conn:
        assert backend(conn) != first
        assert conn.execute(text("select 1")).scalar() == 1
    stats = pool_of(engine).stats()
    assert (stats.size, stats.idle, stats.opened, stats.closed) == (1, 1, 2, 1)


def test_a_listener_of_connect_that_fails_leaves_nothing_behind(engine: Engine) -> None:
    fails = [True]

    @event.listens_for(engine, "connect")
    def listen(conn: Any, record: Any) -> None:
        if fails:
            fails.pop()
            raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        engine.connect()
    assert pool_of(engine).stats().size == 0
    with engine.connect() as conn:
        assert conn.execute(text("select 1")).scalar() == 1


def test_a_listener_of_checkin_that_fails_leaves_nothing_behind(database: Database, engine: Engine) -> None:
    def fail(conn: Any, record: Any) -> None:
        raise RuntimeError("boom")

    event.listen(engine, "checkin", fail)
    with pytest.raises(RuntimeError, match="boom"), engine.begin() as conn:
        conn.execute(table_of(database).insert().values(id=1))
    event.remove(engine, "checkin", fail)
    assert (pool_of(engine).stats().in_use, database.rows()) == (0, [1])
    with engine.connect() as conn:
        assert conn.execute(text("select 1")).scalar() == 1


def test_what_a_listener_of_connect_set_lasts(database: Database, make: Make) -> None:
    """Most listeners end in the middle of a transaction, and a rollback comes next."""
    engine = make()
    pg = database.engine == "postgresql"

    @event.listens_for(engine, "connect")
    def listen(conn: Any, record: Any) -> None:
        with conn.cursor() as cursor:
            cursor.execute("set application_name = 'mine'" if pg else "set @mine = 'mine'")

    for _ in range(3):
        with engine.connect() as conn:
            assert conn.execute(text("show application_name" if pg else "select @mine")).scalar() == "mine"
            conn.rollback()


def test_a_listener_of_do_connect_may_not_take_over(engine: Engine) -> None:
    @event.listens_for(engine, "do_connect")
    def listen(dialect: Any, record: Any, args: Any, arguments: Any) -> None:
        arguments["password"] = "canary"

    with pytest.raises(lambda_pool.ConfigError, match="connect_args with password") as caught:
        engine.connect()
    assert "canary" not in str(caught.value)
    assert pool_of(engine).stats().in_use == 0


@pytest.mark.sampled(1, "a second a case")
def test_a_listener_of_do_connect_may_not_open_its_own(engine: Engine) -> None:
    @event.listens_for(engine, "do_connect")
    def listen(dialect: Any, record: Any, args: Any, arguments: Any) -> Any:
        return object()

    with pytest.raises(lambda_pool.ConfigError, match="not the pool's"):
        engine.connect()
    assert pool_of(engine).stats().in_use == 0


def test_a_creator_beside_a_url_is_named(database: Database) -> None:
    pool = database.pool()
    url = f"{database.engine}+lambda_pool://"
    with pytest.raises(lambda_pool.ConfigError, match="leave creator out"):
        sqlalchemy.create_engine(url, lambda_pool=pool, creator=object).connect()
    assert pool.stats().in_use == 0


# --- the pool's figures, dispose, detach, NullPool --------------------------------------------------------------------


def test_status_is_the_pools(engine: Engine) -> None:
    with engine.connect():
        assert engine.pool.status() == str(pool_of(engine).stats())
        assert "in_use=1" in engine.pool.status()


def test_dispose_closes_what_is_idle_and_the_next_checkout_works(database: Database, engine: Engine) -> None:
    with engine.connect() as conn:
        first = backend(conn)
    engine.dispose()
    assert pool_of(engine).stats().size == 0
    assert database.is_gone(first)
    with engine.connect() as conn:
        second = backend(conn)
        engine.dispose()  # while it is in use: it is closed when it comes back
        assert conn.execute(text("select 1")).scalar() == 1
    assert database.is_gone(second)
    engine.dispose(close=False)
    with engine.connect() as conn:
        assert conn.execute(text("select 1")).scalar() == 1


def test_invalidate_and_soft_invalidate(engine: Engine) -> None:
    backends = []
    for soft in (False, True, False):
        with engine.connect() as conn:
            backends.append(backend(conn))
            conn.connection.invalidate(soft=soft)
    with engine.connect() as conn:
        backends.append(backend(conn))
        assert conn.execute(text("select 1")).scalar() == 1
    assert len(set(backends)) == 4
    stats = pool_of(engine).stats()
    assert (stats.size, stats.idle) == (1, 1)


def test_a_connection_that_is_invalidated_is_replaced_in_place(engine: Engine) -> None:
    with engine.connect() as conn:
        first = backend(conn)
        conn.invalidate()
        assert conn.execute(text("select 1")).scalar() == 1
        assert backend(conn) != first
    assert pool_of(engine).stats().in_use == 0


def test_a_detached_connection_still_counts_and_comes_back(engine: Engine) -> None:
    conn = engine.connect()
    conn.detach()
    conn.execute(text("select 1"))
    assert pool_of(engine).stats().in_use == 1
    conn.close()
    assert pool_of(engine).stats().in_use == 0
    with engine.connect() as conn:
        assert conn.execute(text("select 1")).scalar() == 1


def test_a_detached_connection_that_is_lost_gives_its_room_back(database: Database, engine: Engine) -> None:
    with pytest.raises(DBAPIError), engine.connect() as conn:
        its_own = backend(conn)
        conn.detach()
        database.kill(its_own)
        conn.execute(text("select 1"))
    assert pool_of(engine).stats().size == 0
    with engine.connect() as conn:
        assert conn.execute(text("select 1")).scalar() == 1


def test_a_detached_connection_that_is_dropped_gives_its_room_back(engine: Engine) -> None:
    with engine.connect() as conn:
        conn.detach()
        conn.invalidate()
    raw = engine.raw_connection()  # this takes the room of the one before
    raw.detach()
    del raw
    gc.collect()
    with engine.connect() as conn:
        assert conn.execute(text("select 1")).scalar() == 1
    assert pool_of(engine).stats().size == 1
    assert pool_of(engine).stats().opened == 3


def test_raw_connections_work_and_are_rolled_back(database: Database, engine: Engine) -> None:
    for commit in (True, False):
        raw = engine.raw_connection()
        with raw.cursor() as cursor:  # type: ignore[attr-defined]
            cursor.execute(f"insert into {database.table} values ({1 if commit else 2})")
        if commit:
            raw.commit()
        raw.close()
    assert database.rows() == [1]
    assert pool_of(engine).stats().opened == 1


def test_null_pool_as_alembic_has_it(database: Database) -> None:
    url = sqlalchemy.make_url(database.url)
    pooled = url.set(drivername=f"{url.drivername}+lambda_pool")
    seen: list[Any] = []
    engine = sqlalchemy.create_engine(
        pooled, poolclass=NullPool, pool_events=[(lambda conn, record: seen.append(conn), "connect")]
    )
    table = table_of(database)
    for number in (1, 2):
        with engine.begin() as conn:
            conn.execute(table.insert().values(id=number))
    with pytest.raises(RuntimeError), engine.begin() as conn:
        conn.execute(table.insert().values(id=3))
        raise RuntimeError("half way")
    conn = engine.connect()
    conn.execute(table.insert().values(id=4))
    conn.close()
    assert database.rows() == [1, 2]
    stats = engine.dialect.pool.stats()  # type: ignore[attr-defined]
    assert (stats.opened, stats.idle, len(seen)) == (1, 1, 1)
    engine.dispose()


def test_many_threads(make: Make) -> None:
    engine = make(options={"max_size": 3})
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                with engine.begin() as conn:
                    assert conn.execute(text("select 1")).scalar() == 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    stats = pool_of(engine).stats()
    assert stats.idle == stats.size <= 3
    assert len(engine.pool._records) <= 3  # type: ignore[attr-defined]


def test_an_alarm_on_the_way_back_costs_no_slot(database: Database) -> None:
    """A signal handler's exception anywhere in the pool's part of it, and no invocation whose end takes it back."""
    pool = database.pool(timeout=1)
    engine = create_engine(pool)
    way_back = (LambdaPool.__init__.__code__.co_filename, Borrowed.__init__.__code__.co_filename)
    for place in count(1):
        held = engine.connect()
        held.execute(text("select 1"))
        with handler():
            struck = run_interrupted(held.close, place, way_back)
        if struck is None:
            assert place > 20
            return
        try:
            engine.connect().close()
        except BaseException as error:
            error.add_note(f"struck at {struck}")
            raise


@pytest.mark.sampled(1 / 2, "5 s a case")
def test_an_alarm_during_the_first_connection_does_not_keep_others_waiting(database: Database) -> None:
    """A signal handler's exception anywhere: whoever comes next sets the first connection up."""
    paths = (LambdaPool._do_get.__code__.co_filename, contextlib.__file__)
    for place in count(1):
        pool = database.pool(timeout=1)
        engine = create_engine(pool)
        with handler():
            struck = run_interrupted(lambda engine=engine: engine.connect().close(), place, paths)  # type: ignore[misc]
        if struck is None:
            assert place > 30
            return
        end_invocation(pool)
        try:
            engine.connect().close()
        except BaseException as error:
            error.add_note(f"struck at {struck}")
            raise
        engine.dispose()


def test_records_of_connections_that_are_gone_are_forgotten(engine: Engine) -> None:
    for _ in range(10):
        with engine.connect():
            pass
        pool_of(engine).close()
    assert len(engine.pool._records) == 1  # type: ignore[attr-defined]


def test_each_connection_that_was_opened_is_told_to_be_closed_once(engine: Engine) -> None:
    """OpenTelemetry's instrumentor counts connections by these events."""
    opened: list[Any] = []
    closed: list[Any] = []
    event.listen(engine, "connect", lambda conn, _: opened.append(conn))
    event.listen(engine, "close", lambda conn, _: closed.append(conn))
    for number in range(3):
        with engine.connect():
            assert closed == opened[:-1]
            assert len(opened) == number + 1
            pool_of(engine).close()
            engine.dispose()
            assert closed == opened[:-1]
    with engine.connect() as conn:
        conn.connection.invalidate()
    engine.dispose()
    assert closed == opened
    assert len(opened) == 4


def test_connections_from_before_the_engine_are_replaced(database: Database) -> None:
    """They were opened without the settings that the dialect needs."""
    pool = database.pool()
    pool.warm()
    engine = create_engine(pool)
    with engine.begin() as conn:
        conn.execute(table_of(database).insert().values(id=1))
        assert conn.execute(table_of(database).update().values(id=1)).rowcount == 1
    assert pool.stats().opened == 2


# --- what the dialect sets --------------------------------------------------------------------------------------------


def level(conn: sqlalchemy.Connection) -> str:
    if conn.dialect.name == "postgresql":
        return str(conn.execute(text("show transaction_isolation")).scalar()).upper()
    # MariaDB and MySQL name it differently.
    return str(conn.execute(text("show session variables like 't%\\_isolation'")).one()[1]).replace("-", " ")


def test_the_engines_isolation_level_survives_each_return(database: Database, make: Make) -> None:
    engine = make(isolation_level="SERIALIZABLE")
    for number in range(3):
        with engine.connect() as conn:
            assert level(conn) == "SERIALIZABLE"
        if number == 1:
            with pytest.raises(DBAPIError), engine.connect() as conn:
                conn.execute(text("no sql"))
    assert pool_of(engine).stats().opened == 1


def test_a_connections_isolation_level_ends_with_it(database: Database, make: Make) -> None:
    for engine in (make(), make(isolation_level="READ COMMITTED")):
        with engine.connect() as conn:
            before = level(conn)
        for other in ("SERIALIZABLE", "REPEATABLE READ"):
            with engine.connect().execution_options(isolation_level=other) as conn:
                assert level(conn) == other
            with engine.connect() as conn:
                assert level(conn) == before
        with Session(engine.execution_options(isolation_level="SERIALIZABLE")) as session:
            assert level(session.connection()) == "SERIALIZABLE"
        with engine.connect() as conn:
            assert level(conn) == before
        assert pool_of(engine).stats().opened == 1


@pytest.mark.parametrize("how", ["detach", "by hand"])
@pytest.mark.parametrize("reset", ["changed", "transaction"])
def test_a_level_that_sqlalchemy_does_not_take_back_ends_too(
    database: Database, make: Make, how: str, reset: str
) -> None:
    engine = make(options={"reset": reset})
    with engine.connect() as conn:
        before = level(conn)
    for other in ("SERIALIZABLE", "AUTOCOMMIT"):
        if how == "detach":
            with engine.connect().execution_options(isolation_level=other) as conn:
                conn.detach()
                assert conn.execute(text("select 1")).scalar() == 1
        else:
            raw = engine.raw_connection()
            engine.dialect.set_isolation_level(raw.dbapi_connection, other)  # type: ignore[arg-type]
            raw.close()
        with engine.connect() as conn:
            assert level(conn) == before
    assert pool_of(engine).stats().opened == 1


def test_what_sqlalchemy_takes_back_itself_costs_no_statement_of_ours(my: Database) -> None:
    engine = create_engine(my.pool())
    with engine.connect() as conn:
        conn.execute(text("select 1"))
    with Statements(my) as told:
        with engine.connect().execution_options(isolation_level="SERIALIZABLE") as conn:
            conn.execute(text("select 1"))
        with engine.connect() as conn:
            conn.execute(text("select 2"))
    sets = [each for each in told.seen if each.startswith("set")]
    assert sets == [
        "set session transaction isolation level serializable",
        "set session transaction isolation level repeatable read",
    ]


def test_a_users_own_change_of_session_ends_with_the_borrow(database: Database, make: Make) -> None:
    """After a SET SESSION by hand the engine's own level is there again, on this connection or on a new one."""
    engine = make(isolation_level="READ COMMITTED")
    with engine.connect() as conn:
        if database.engine == "postgresql":
            conn.connection.driver_connection.isolation_level = None  # type: ignore[union-attr]
        else:
            conn.execute(text("set session transaction isolation level serializable"))
            conn.commit()
    with engine.connect() as conn:
        assert level(conn) == "READ COMMITTED"


def test_autocommit(database: Database, make: Make) -> None:
    table = table_of(database)
    engine = make()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(table.insert().values(id=1))
        assert database.rows() == [1]
    with pytest.raises(RuntimeError), engine.begin() as conn:
        conn.execute(table.insert().values(id=2))
        raise RuntimeError("half way")
    assert database.rows() == [1]
    always = make(isolation_level="AUTOCOMMIT")
    for number in (3, 4):
        with always.connect() as conn:
            conn.execute(table.insert().values(id=number))
    assert database.rows() == [1, 3, 4]
    assert (pool_of(engine).stats().opened, pool_of(always).stats().opened) == (1, 1)


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "sa_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[Any] = mapped_column(sqlalchemy.JSON)


def test_json_serializers_survive_each_return(database: Database, make: Make) -> None:
    engine = make(
        json_serializer=lambda value: json.dumps({"wrapped": value}),
        json_deserializer=lambda value: ["loaded", json.loads(value)],
    )
    Base.metadata.create_all(engine)
    try:
        for number in range(1, 4):
            with Session(engine) as session:
                session.add(Note(id=number, body=number))
                session.commit()
            with Session(engine) as session:
                found = session.get(Note, number)
                assert found is not None
                assert found.body == ["loaded", {"wrapped": number}]
    finally:
        Base.metadata.drop_all(engine)
    assert pool_of(engine).stats().opened == 1


def test_other_adapters_of_the_dialect(pg: Database) -> None:
    engine = create_engine(pg.pool(), native_inet_types=False)
    for _ in range(2):
        with engine.connect() as conn:
            assert conn.execute(text("select inet '10.0.0.1'")).scalar() == "10.0.0.1"


def test_hstore(pg: Database) -> None:
    from sqlalchemy.dialects.postgresql import HSTORE

    pg.execute("create extension if not exists hstore")
    engine = create_engine(pg.pool())
    for _ in range(3):
        with engine.connect() as conn:
            assert conn.execute(sqlalchemy.select(sqlalchemy.cast("a=>1", HSTORE))).scalar() == {"a": "1"}
        engine.dispose()
    pg.execute("drop extension hstore")


def test_an_update_that_changes_nothing_counts_the_rows_it_found(database: Database, make: Make) -> None:
    engine = make()
    table = table_of(database)
    with engine.begin() as conn:
        conn.execute(table.insert().values(id=1))
    with engine.begin() as conn:
        assert conn.execute(table.update().values(id=1)).rowcount == 1


def test_the_pools_own_connect_args_are_kept(my: Database) -> None:
    from pymysql.constants import CLIENT

    engine = create_engine(my.pool(connect_args={"client_flag": CLIENT.MULTI_STATEMENTS, "init_command": "set @a = 7"}))
    with engine.connect() as conn:
        driver: Any = conn.connection.driver_connection
        assert driver.client_flag & CLIENT.MULTI_STATEMENTS
        assert driver.client_flag & CLIENT.FOUND_ROWS
        assert conn.execute(text("select @a")).scalar() == 7


@pytest.mark.parametrize("reset", ["transaction", "changed", "session"])
def test_nothing_is_reset_amid_a_borrow(database: Database, make: Make, reset: str) -> None:
    """COMMIT and ROLLBACK end a transaction, but not yet the borrower's session."""
    pg = database.engine == "postgresql"
    engine = make(options={"reset": reset})
    with engine.connect() as conn:
        conn.execute(text("set application_name = 'mine'" if pg else "set @mine = 'mine'"))
        conn.execute(text("create temporary table kept (id int)"))
        if not pg:
            conn.execute(text("use information_schema"))
        for end in (conn.commit, conn.rollback, conn.commit):
            end()
            assert conn.execute(text("show application_name" if pg else "select @mine")).scalar() == "mine"
            conn.execute(text("select * from kept" if pg else "select * from app.kept")).all()
            if not pg:
                assert conn.execute(text("select database()")).scalar() == "information_schema"
    with engine.connect() as conn:
        if not pg:
            assert conn.execute(text("select database()")).scalar() == "app"
        if reset != "transaction":
            with pytest.raises(DBAPIError):
                conn.execute(text("select * from kept" if pg else "select * from app.kept"))


def test_with_a_reset_at_each_return_each_borrow_is_set_up_anew(database: Database, make: Make) -> None:
    engine = make(
        options={"reset": "session"}, isolation_level="SERIALIZABLE", json_deserializer=lambda value: "loaded"
    )
    set_up = []

    @event.listens_for(engine, "connect")
    def listen(conn: Any, record: Any) -> None:
        with conn.cursor() as cursor:
            cursor.execute("set application_name = 'mine'" if database.engine == "postgresql" else "set @mine = 'mine'")
        set_up.append(conn)

    for _ in range(3):
        with engine.connect() as conn:
            assert level(conn) == "SERIALIZABLE"
            query = "show application_name" if database.engine == "postgresql" else "select @mine"
            assert conn.execute(text(query)).scalar() == "mine"
            if database.engine == "postgresql":
                assert conn.execute(text("select json '1'")).scalar() == "loaded"
    assert len(set_up) == 3
    assert len(set(set_up)) == 1


@pytest.mark.parametrize("listens", [False, True])
def test_a_session_that_was_changed_is_brought_back_or_replaced(database: Database, make: Make, listens: bool) -> None:
    """The settings of a `connect` listener are there again, but never those of a borrower."""
    pg = database.engine == "postgresql"
    engine = make(options={"reset": "changed"})
    set_up = []
    if listens:

        @event.listens_for(engine, "connect")
        def listen(conn: Any, record: Any) -> None:
            with conn.cursor() as cursor:
                cursor.execute("set application_name = 'mine'" if pg else "set @mine = 'mine'")
            set_up.append(conn)

    shows = (
        [text("show application_name"), text("show search_path")] if pg else [text("select @mine"), text("select @b")]
    )
    with engine.connect() as conn:
        first = [conn.execute(show).scalar() for show in shows]
    for ends in ("commit", "rollback"):
        with engine.connect() as conn:
            conn.execute(text("set application_name = 'other'" if pg else "set @mine = 'other'"))
            conn.execute(text("set search_path = other" if pg else "set @b = 'other'"))
            getattr(conn, ends)()
        with engine.connect() as conn:
            assert [conn.execute(show).scalar() for show in shows] == first
    assert first[0] == ("mine" if listens else "postgres" if pg else None)
    assert pool_of(engine).stats().opened == (3 if listens else 1)
