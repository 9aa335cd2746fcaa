"""How transactions end: saved, undone, or reported as neither."""

import gc
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, PendingRollbackError, ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from lambda_pool import CommitUncertain, NotCommitted
from lambda_pool.events import RolledBack
from lambda_pool.sqlalchemy import create_engine
from lambda_pool.testing import FaultyProxy, PostgresServer
from tests.contract.conftest import Database
from tests.frameworks.sqlalchemy.conftest import pool_of, table_of
from tests.support.invoked import invoked
from tests.support.recorder import Recorder
from tests.support.statements import Statements
from tests.support.written import written

Make = Callable[..., Engine]


READ_ONLY = r"(?i)read.only"


def idle(engine: Engine) -> bool:
    stats = pool_of(engine).stats()
    return stats.in_use == 0


# --- savepoints, two-phase --------------------------------------------------------------------------------------------


def test_savepoints(database: Database, engine: Engine) -> None:
    table = table_of(database)
    with Session(engine) as session, session.begin():
        session.execute(table.insert().values(id=1))
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(table.insert().values(id=2))
            session.execute(table.insert().values(id=2))
        with session.begin_nested() as inner:
            session.execute(table.insert().values(id=3))
            inner.rollback()
        with session.begin_nested():
            session.execute(table.insert().values(id=4))
    assert database.rows() == [1, 4]
    assert pool_of(engine).stats().opened == 1


@pytest.fixture
def two_phase(request: pytest.FixtureRequest, database: Database) -> tuple[Database, Any]:
    """A server that allows it, and its table."""
    if database.engine == "postgresql":
        server = PostgresServer(extra_config=["max_prepared_transactions = 5"])
        server.start()
        request.addfinalizer(server.close)
        server.execute(f"create table {database.table} (id int primary key)")
        database = Database("postgresql", server, server.url(), database.table, [])
    return database, table_of(database)


@pytest.mark.sampled(1, "a second a case")
def test_two_phase(two_phase: tuple[Database, sqlalchemy.Table]) -> None:
    database, table = two_phase
    engine = create_engine(database.pool())
    with engine.connect() as conn:
        transaction = conn.begin_twophase()
        conn.execute(table.insert().values(id=1))
        transaction.prepare()
        transaction.commit()
    with engine.connect() as conn:
        transaction = conn.begin_twophase()
        conn.execute(table.insert().values(id=2))
        transaction.commit()
    with engine.connect() as conn:
        transaction = conn.begin_twophase()
        conn.execute(table.insert().values(id=3))
        transaction.rollback()
    with engine.connect() as conn:
        transaction = conn.begin_twophase()
        conn.execute(table.insert().values(id=4))
        transaction.prepare()
        transaction.rollback()
    with Session(engine, twophase=True) as session:
        session.execute(table.insert().values(id=5))
        session.commit()
    assert database.rows() == [1, 2, 5]
    if database.engine == "postgresql":  # MariaDB refuses it to SQLAlchemy's own dialect too
        with engine.connect() as conn:
            transaction = conn.begin_twophase()
            conn.execute(table.insert().values(id=6))
            transaction.prepare()
            xid = transaction.xid
            conn.invalidate()
        with engine.connect() as conn:
            assert xid in conn.recover_twophase()
            conn.commit_prepared(xid, recover=True)
        assert database.rows() == [1, 2, 5, 6]
    with engine.begin() as conn:
        conn.execute(table.insert().values(id=7))
    assert [row for row in database.rows() if row != 6] == [1, 2, 5, 7]
    assert idle(engine)


@pytest.mark.sampled(1, "a second a case")
def test_two_phase_over_a_writer_and_a_reader(two_phase: tuple[Database, sqlalchemy.Table]) -> None:
    database, table = two_phase
    pool = database.pool(max_size=2)
    writer, reader = create_engine(pool), create_engine(pool, readonly=True)
    count = sqlalchemy.select(sqlalchemy.func.count()).select_from(table)
    with Session(writer, twophase=True) as session:
        for number in (1, 2):
            session.execute(table.insert().values(id=number))
            assert session.execute(count, bind_arguments={"bind": reader}).scalar() == number - 1
            session.commit()
    with reader.connect() as conn, pytest.raises(DBAPIError, match=READ_ONLY), conn.begin_twophase():
        conn.execute(table.insert().values(id=3))
    assert (database.rows(), pool.stats().opened) == ([1, 2], 2)


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.sampled(6, "many cases")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # psycopg says so of a cursor that is left open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("option", [{"stream_results": True}, {"yield_per": 10}])
@pytest.mark.parametrize("ending", ["read", "left", "rolled back", "committed", "closed"])
def test_streams(database: Database, engine: Engine, option: dict[str, Any], ending: str) -> None:
    table = table_of(database)
    with engine.begin() as conn:
        conn.execute(table.insert(), [{"id": number} for number in range(1000)])
    for _ in range(3):
        with engine.connect() as conn:
            result = conn.execute(table.select().order_by(table.c.id), execution_options=option)
            assert result.fetchone() == (0,)
            if ending == "read":
                assert len(result.all()) == 999
            elif ending == "closed":
                result.close()
            elif ending == "rolled back":
                conn.rollback()
                assert conn.execute(text("select 1")).scalar() == 1
            elif ending == "committed":
                result.close()
                conn.execute(table.delete().where(table.c.id == 999))
                conn.commit()
                assert conn.execute(text("select 1")).scalar() == 1
    assert idle(engine)
    with engine.connect() as conn:
        assert conn.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(table)).scalar() in {1000, 999}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # psycopg says so of a cursor that is left open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_rollback_closed_is_told_by_the_next_statement(database: Database, engine: Engine) -> None:
    table = table_of(database)
    with engine.begin() as conn:
        conn.execute(table.insert(), [{"id": number} for number in range(5000)])
    with engine.connect() as conn:
        if database.engine == "mysql":  # more than can be read in the time for that
            other = table.alias()
            stream = sqlalchemy.select(table.c.id).join(other, sqlalchemy.true())
            result = conn.execute(stream, execution_options={"stream_results": True})
            assert result.fetchone()
        else:
            conn.execute(table.delete())
            driver: Any = conn.connection.driver_connection
            database.kill(database.backend(driver))
        conn.rollback()
        with pytest.raises(OperationalError, match="the connection is closed") as caught:
            conn.execute(text("select 1"))
        assert caught.value.connection_invalidated
        conn.rollback()
        assert conn.execute(text("select 1")).scalar() == 1
    assert idle(engine)


# --- what comes back in a transaction ---------------------------------------------------------------------------------


def test_what_comes_back_in_a_transaction_is_rolled_back_and_told(
    database: Database, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    engine = make(options={"observers": [recorder]})
    raw = engine.raw_connection()
    raw.cursor().execute(f"insert into {database.table} values (1)")
    with caplog.at_level(logging.WARNING, "lambda_pool"):
        raw.close()
    assert "in the middle of a transaction" in caplog.text
    assert "test_transactions.py" in caplog.text
    assert [each.cause for each in recorder.of(RolledBack)] == ["error"]
    assert database.rows() == []
    assert pool_of(engine).stats().opened == 1


def test_what_comes_back_with_a_level_of_its_own_is_rolled_back_first(
    database: Database, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """On MySQL, SQLAlchemy sends COMMIT when it takes an isolation level back."""
    recorder = Recorder()
    engine = make(options={"observers": [recorder]})

    def forgotten() -> None:
        conn = engine.connect().execution_options(isolation_level="SERIALIZABLE")
        conn.execute(table_of(database).insert().values(id=1))

    with caplog.at_level(logging.WARNING, "lambda_pool"):
        forgotten()
        gc.collect()
        with engine.connect().execution_options(isolation_level="SERIALIZABLE") as conn:
            conn.connection.cursor().execute(f"insert into {database.table} values (2)")
    assert database.rows() == []
    assert caplog.text.count("in the middle of a transaction") == 2
    assert [each.cause for each in recorder.of(RolledBack)] == ["error", "error"]
    assert pool_of(engine).stats().opened == 1


def test_closing_without_commit_is_no_news(
    database: Database, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lambda_pool"), engine.connect() as conn:
        conn.execute(table_of(database).insert().values(id=1))
    assert caplog.text == ""
    assert database.rows() == []


# --- COMMIT that fails ------------------------------------------------------------------------------------------------


@pytest.fixture
def cut_off(database: Database) -> Any:
    """An engine behind a network that can swallow answers, and that network."""
    with FaultyProxy("127.0.0.1", database.server.port) as proxy:
        url = database.server.url(port=proxy.port)
        yield create_engine(database.pool(url, timeout=1, ping_timeout=0.5)), proxy


def test_the_line_that_is_told_is_not_one_of_pandas(
    database: Database, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    names: dict[str, Any] = {"__name__": "pandas.io.sql"}
    exec(compile("def borrow(engine): return engine.raw_connection()", "pandas/io/sql.py", "exec"), names)
    raw = names["borrow"](engine)
    raw.cursor().execute(f"insert into {database.table} values (1)")
    raw.close()
    assert f"borrowed at {__file__}" in caplog.text


@pytest.mark.sampled(3, "a second a case")
@pytest.mark.parametrize("how", ["no answer", "reset"])
@pytest.mark.parametrize("style", ["session", "begin block", "session.begin", "connection"])
def test_the_answer_to_commit_is_lost(cut_off: Any, database: Database, how: str, style: str) -> None:
    engine, proxy = cut_off
    insert = table_of(database).insert().values(id=1)

    def lose() -> None:
        if how == "reset":
            proxy.cut(after=1, direction="to_client")
        else:
            proxy.swallow("to_client", new=False)

    end = time.monotonic() + 1.5
    with invoked(lambda: (end - time.monotonic()) * 1000), pytest.raises(CommitUncertain) as caught:
        if style == "session":
            with Session(engine) as session:
                session.execute(insert)
                lose()
                session.commit()
        elif style == "session.begin":
            with Session(engine) as session, session.begin():
                session.execute(insert)
                lose()
        elif style == "begin block":
            with engine.begin() as conn:
                conn.execute(insert)
                lose()
        else:
            with engine.connect() as conn:
                conn.execute(insert)
                lose()
                conn.commit()
    assert caught.value.__cause__ is not None
    assert time.monotonic() < end + 1
    assert pool_of(engine).stats().size == 0
    proxy.heal()
    assert database.rows() == [1]
    with engine.begin() as conn:
        conn.execute(table_of(database).insert().values(id=2))
    assert database.rows() == [1, 2]


def test_an_error_of_commit_itself_is_the_drivers(pg: Database) -> None:
    pg.execute(f"alter table {pg.table} add constraint u unique (id) deferrable initially deferred")
    engine = create_engine(pg.pool())
    with pytest.raises(IntegrityError), Session(engine) as session:
        session.execute(text(f"alter table {pg.table} drop constraint {pg.table}_pkey"))
        session.execute(table_of(pg).insert().values(id=1))
        session.execute(table_of(pg).insert().values(id=1))
        session.commit()
    assert pg.rows() == []
    assert idle(engine)
    assert pool_of(engine).stats().opened == 1


def test_a_swallowed_error_is_not_committed(pg: Database) -> None:
    """PostgreSQL answers COMMIT with ROLLBACK, but the driver does not report it."""
    engine = create_engine(pg.pool())
    with pytest.raises(NotCommitted), engine.connect() as conn:
        conn.execute(table_of(pg).insert().values(id=1))
        with pytest.raises(DBAPIError):
            conn.execute(text("no sql"))
        conn.commit()
    assert pg.rows() == []
    assert idle(engine)
    lenient = create_engine(pg.pool(unsaved="warn"))
    with lenient.connect() as conn:
        conn.execute(table_of(pg).insert().values(id=1))
        with pytest.raises(DBAPIError):
            conn.execute(text("no sql"))
        conn.commit()
    assert pg.rows() == []


def test_an_error_on_its_way_out_is_not_hidden_by_a_commit(pg: Database) -> None:
    """Where `to_sql` fails, pandas closes an ExitStack, which commits."""
    engine = create_engine(pg.pool(max_size=2))

    def write(sql: str) -> None:
        with engine.connect() as conn, closing(ExitStack()) as stack:
            stack.enter_context(conn.begin())
            conn.execute(table_of(pg).insert().values(id=1))
            try:
                conn.execute(text(sql))
            except DBAPIError as error:
                raise RuntimeError("as pandas wraps it") from error

    with pytest.raises(RuntimeError, match="pandas") as caught:
        write("select * from nowhere")
    assert isinstance(caught.value.__cause__, ProgrammingError)
    with pytest.raises(NotCommitted), engine.connect() as conn:  # the other connection's error says nothing of this one
        with suppress(DBAPIError):
            conn.execute(text("no sql"))
        try:
            write("select * from nowhere")
        except RuntimeError:
            conn.commit()
    assert pg.rows() == []
    assert idle(engine)


def test_a_connection_lost_before_commit(database: Database, engine: Engine) -> None:
    with pytest.raises(DBAPIError), Session(engine) as session:
        session.execute(table_of(database).insert().values(id=1))
        driver: Any = session.connection().connection.driver_connection
        database.kill(database.backend(driver))
        session.commit()
    assert database.rows() == []
    assert idle(engine)
    with engine.begin() as conn:
        conn.execute(table_of(database).insert().values(id=2))
    assert database.rows() == [2]


def test_a_loss_that_was_swallowed_is_not_saved(database: Database, engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(table_of(database).insert().values(id=1))
        driver: Any = session.connection().connection.driver_connection
        database.kill(database.backend(driver))
        with pytest.raises(DBAPIError) as caught:
            session.execute(text("select 1"))
        assert caught.value.connection_invalidated
        with pytest.raises(PendingRollbackError):
            session.commit()
    assert database.rows() == []
    assert idle(engine)


# --- readers ----------------------------------------------------------------------------------------------------------


def test_a_read_only_engine_refuses_to_write_in_its_first_session_too(database: Database, make: Make) -> None:
    pool = database.pool()
    reader, writer = make(pool, readonly=True), make(pool)
    table = table_of(database)
    for _ in range(2):
        with pytest.raises(DBAPIError, match=READ_ONLY), Session(reader) as session:
            session.execute(table.insert().values(id=1))
        with Session(reader) as session:
            session.execute(table.select()).all()
            session.commit()
            with pytest.raises(DBAPIError, match=READ_ONLY):  # in the second transaction of a session too
                session.execute(table.insert().values(id=1))
        with writer.begin() as conn:
            conn.execute(table.insert().values(id=2))
            conn.execute(table.delete())
    with reader.connect() as conn:  # in the second transaction on one connection too
        conn.execute(table.select()).all()
        conn.commit()
        with pytest.raises(DBAPIError, match=READ_ONLY):
            conn.execute(table.insert().values(id=1))
    raw = reader.raw_connection()
    try:
        with pytest.raises(Exception, match=READ_ONLY):
            raw.cursor().execute(f"insert into {database.table} values (3)")
    finally:
        raw.close()
    with (
        pytest.raises(DBAPIError, match=READ_ONLY),
        reader.connect().execution_options(isolation_level="AUTOCOMMIT") as conn,
    ):
        conn.execute(table.insert().values(id=4))
    assert database.rows() == []
    assert pool.stats().opened == 1


def test_what_an_earlier_read_only_transaction_of_a_borrow_set_is_undone(database: Database, make: Make) -> None:
    settings, look = ["set statement_timeout = 5000"], "show statement_timeout"
    if database.engine == "mysql":
        settings = ["set @left = 1", "select get_lock('left', 0)", "use information_schema"]
        look = "select @left, is_used_lock('left'), database()"
    pool = database.pool()
    reader = make(pool, readonly=True)
    with pool.connection() as conn:
        before = database.query(conn, look)
    for _ in range(2):
        with reader.connect() as conn:
            for setting in (*settings, "select 1"):
                conn.execute(text(setting))
                conn.commit()
        with pool.connection() as conn:
            assert database.query(conn, look) == before
    assert pool.stats().opened == 1


def test_a_read_only_session_costs_one_round_trip_at_most(database: Database, make: Make) -> None:
    pool = database.pool()
    reader = make(pool, readonly=True)
    table = table_of(database)
    with Session(reader) as session:
        session.execute(table.select()).all()
        driver: Any = session.connection().connection.driver_connection
    with Statements(database) as told, ExitStack() as looked_at:
        writes = [] if database.engine == "postgresql" else looked_at.enter_context(written(driver))
        with Session(reader) as session:
            session.execute(table.select()).all()
            session.commit()
    if database.engine == "postgresql":
        assert [each.partition(" id")[0] for each in told.seen[:1]] == ["begin read only"]
        assert [told.seen[-1], len(told.seen)] == ["commit", 3]
    else:
        assert [each.partition(b" ")[0].lower() for each in writes] == [b"set", b"select", b"commit"]
    assert pool.stats().opened == 1


class Base(DeclarativeBase): ...


class Item(Base):
    __tablename__ = "sa_items"
    id: Mapped[int] = mapped_column(primary_key=True)


class Routed(Session):
    """Writes go to the writer, everything else to the reader."""

    writer: Engine
    reader: Engine

    def get_bind(self, mapper: Any = None, *, clause: Any = None, **named: Any) -> Engine:
        writes = self._flushing or isinstance(clause, sqlalchemy.Insert | sqlalchemy.Update | sqlalchemy.Delete)
        return self.writer if writes else self.reader


def test_routing_between_a_writer_and_a_reader(database: Database, make: Make) -> None:
    pool = database.pool(max_size=2)
    writer, reader = make(pool), make(pool, readonly=True)
    Base.metadata.create_all(writer)
    try:
        routed = type("Mine", (Routed,), {"writer": writer, "reader": reader})
        for number in range(3):
            with routed() as session:
                assert len(session.scalars(sqlalchemy.select(Item)).all()) == number
                session.add(Item(id=number + 1))
                session.commit()
        with Session(binds={Item: writer, Base: reader}) as session:
            session.add(Item(id=10))
            session.commit()
            assert session.get(Item, 10) is not None
        with Session(binds={Item: reader}) as session:
            session.add(Item(id=11))
            with pytest.raises(DBAPIError, match=READ_ONLY):
                session.commit()
        assert len(database.execute("select * from sa_items")) == 4
    finally:
        Base.metadata.drop_all(writer)
    assert pool.stats().in_use == 0


def test_events_of_the_engine_see_each_end(engine: Engine) -> None:
    told: list[str] = []
    for name in ("begin", "commit", "rollback"):
        event.listen(engine, name, lambda conn, name=name: told.append(name))
    with engine.begin() as conn:
        conn.execute(text("select 1"))
    with engine.connect() as conn:
        conn.execute(text("select 1"))
    assert told == ["begin", "commit", "begin", "rollback"]


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
def test_a_statement_that_committed_and_failed_undoes_nothing(database: Database, engine: Engine) -> None:
    """DDL commits what came before it, even if it is refused."""
    table = table_of(database)
    with Session(engine) as session:
        session.execute(table.insert().values(id=1))
        with pytest.raises(OperationalError):
            session.execute(text(f"create table {database.table} (id int)"))
        session.execute(table.insert().values(id=2))
        session.commit()
    assert database.rows() == [1, 2]
