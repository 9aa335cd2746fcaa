"""`handler`: a session for each invocation."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError, PendingRollbackError
from sqlalchemy.orm import Session

from lambda_pool import ConfigError, ConnectError, NotCommitted, PoolTimeout
from lambda_pool.events import InvocationEnded, Leaked
from lambda_pool.finished import finished
from lambda_pool.sqlalchemy import create_engine, handler
from tests.contract.conftest import Database
from tests.frameworks.sqlalchemy.conftest import pool_of, table_of
from tests.support.context import LambdaContext
from tests.support.recorder import Recorder
from tests.support.statements import Statements, without_questions

Make = Callable[..., Engine]
CONTEXT = LambdaContext()


@pytest.fixture
def table(database: Database) -> sqlalchemy.Table:
    return table_of(database)


def test_commit_on_success(database: Database, engine: Engine, table: sqlalchemy.Table) -> None:
    @handler(engine)
    def function(event: Any, context: Any, session: Session) -> Any:
        session.execute(table.insert().values(id=event))
        return {"saved": event}

    for number in (1, 2):
        assert function(number, CONTEXT) == {"saved": number}
    assert database.rows() == [1, 2]
    assert pool_of(engine).stats().opened == 1
    assert pool_of(engine).stats().in_use == 0


def test_roll_back_on_error(database: Database, engine: Engine, table: sqlalchemy.Table) -> None:
    @handler(engine)
    def function(event: Any, context: Any, session: Session) -> None:
        session.execute(table.insert().values(id=1))
        raise event

    for error in (RuntimeError("half way"), KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)):
            function(error, CONTEXT)
    assert database.rows() == []
    assert pool_of(engine).stats().in_use == 0


def test_what_goes_wrong_at_commit_is_the_invocations_error(
    database: Database, engine: Engine, table: sqlalchemy.Table
) -> None:
    @handler(engine)
    def swallows(event: Any, context: Any, session: Session) -> str:
        session.execute(table.insert().values(id=1))
        try:
            with session.begin_nested():
                pass
            session.execute(text("no sql"))
        except DBAPIError:
            return "all is well"
        return ""

    if database.engine == "postgresql":
        with pytest.raises(NotCommitted):
            swallows({}, CONTEXT)
        assert database.rows() == []
    else:  # where one statement's error does not end its transaction
        assert swallows({}, CONTEXT) == "all is well"
        assert database.rows() == [1]


def test_a_flush_that_failed_and_was_swallowed(database: Database, engine: Engine) -> None:
    from tests.frameworks.sqlalchemy.test_transactions import Base, Item

    Base.metadata.create_all(engine)

    @handler(engine)
    def swallows(event: Any, context: Any, session: Session) -> None:
        session.add_all([Item(id=1), Item(id=2)])
        session.flush()
        session.expunge_all()
        session.add(Item(id=1))
        with pytest.raises(IntegrityError):
            session.flush()

    try:
        with pytest.raises(PendingRollbackError):
            swallows({}, CONTEXT)
        assert database.execute("select * from sa_items") == []
    finally:
        Base.metadata.drop_all(engine)


def test_an_invocation_that_asks_nothing_borrows_nothing(engine: Engine) -> None:
    @handler(engine)
    def function(event: Any, context: Any, session: Session) -> int:
        return 1

    assert function({}, CONTEXT) == 1
    assert pool_of(engine).stats().opened == 0


def test_a_warm_invocation_sends_nothing_more(database: Database, engine: Engine, table: sqlalchemy.Table) -> None:
    @handler(engine)
    def function(event: Any, context: Any, session: Session) -> None:
        session.execute(table.insert().values(id=event))

    function(1, CONTEXT)
    with Statements(database) as told:
        function(2, CONTEXT)
        function(3, CONTEXT)
    begin = ["begin"] if database.engine == "postgresql" else []
    assert [each.partition(" ")[0] for each in told.seen] == [*begin, "insert", "commit"] * 2


def test_the_handler_may_commit_and_roll_back_itself(
    database: Database, engine: Engine, table: sqlalchemy.Table
) -> None:
    @handler(engine, inject="db", expire_on_commit=False)
    def function(event: Any, context: Any, *, db: Session) -> None:
        assert not db.expire_on_commit
        for number in (1, 2):
            db.execute(table.insert().values(id=number))
            db.commit()
        db.execute(table.insert().values(id=3))
        db.rollback()
        with db.begin():
            db.execute(table.insert().values(id=4))
        db.execute(table.insert().values(id=5))

    function({}, CONTEXT)
    assert database.rows() == [1, 2, 4, 5]


@pytest.mark.parametrize("nested", [False, True])
def test_the_handler_may_invalidate_and_go_on(
    database: Database, engine: Engine, table: sqlalchemy.Table, nested: bool
) -> None:
    @handler(engine)
    def function(event: Any, context: Any, session: Session) -> None:
        session.execute(table.insert().values(id=1))
        if nested:
            session.begin_nested()
            session.execute(table.insert().values(id=2))
        lost = session.connection()
        session.invalidate()
        assert lost.closed
        session.execute(table.insert().values(id=3))

    function({}, CONTEXT)
    assert database.rows() == [3]
    assert pool_of(engine).stats().in_use == 0
    assert pool_of(engine).stats().opened == 2


def test_without_autobegin(database: Database, engine: Engine, table: sqlalchemy.Table) -> None:
    """The end of a block saves what is in the block. The handler's end saves what was begun in another way."""

    @handler(engine, autobegin=False)
    def function(event: Any, context: Any, session: Session) -> str:
        for number in event["blocks"]:
            with session.begin():
                session.execute(table.insert().values(id=number))
        if event["begun"]:
            session.begin()
            session.execute(table.insert().values(id=event["begun"]))
        return "saved"

    assert function({"blocks": [], "begun": None}, CONTEXT) == "saved"
    assert function({"blocks": [1, 2], "begun": None}, CONTEXT) == "saved"
    assert function({"blocks": [3], "begun": 4}, CONTEXT) == "saved"
    assert database.rows() == [1, 2, 3, 4]
    assert pool_of(engine).stats().in_use == 0


def test_a_unit_test_may_pass_its_own_session(engine: Engine) -> None:
    @handler(engine)
    def function(event: Any, context: Any, session: Any) -> Any:
        return session

    assert function({}, CONTEXT, "mine") == "mine"  # type: ignore[call-arg]
    assert function({}, CONTEXT, session="mine") == "mine"  # type: ignore[call-arg]


class Mine(Session):
    """Like SQLModel's."""


def test_another_class_and_binds(database: Database, make: Make) -> None:
    from tests.frameworks.sqlalchemy.test_transactions import Base, Item

    pool = database.pool(max_size=2)
    writer, reader = make(pool), make(pool, readonly=True)

    @handler(writer, class_=Mine, binds={Item: reader})
    def function(event: Any, context: Any, session: Mine) -> Any:
        assert isinstance(session, Mine)
        assert session.get_bind(Item) is reader
        return len(session.scalars(sqlalchemy.select(Item)).all())

    Base.metadata.create_all(writer)
    try:
        assert function({}, CONTEXT) == 0
    finally:
        Base.metadata.drop_all(writer)


# --- leaks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept() -> Iterator[list[Any]]:
    """What a handler keeps beyond its end."""
    found: list[Any] = []
    yield found
    for each in found:
        each.close()


def test_a_session_that_leaks_is_rolled_back_and_told(
    database: Database, make: Make, table: sqlalchemy.Table, kept: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    engine = make(options={"observers": [recorder], "max_size": 2})

    @handler(engine)
    def function(event: Any, context: Any, session: Session) -> None:
        session.execute(table.insert().values(id=1))
        other = Session(engine)
        other.execute(table.insert().values(id=2))
        kept.append(other)

    with caplog.at_level(logging.WARNING, "lambda_pool"), pytest.raises(NotCommitted, match=r"test_sessions\.py"):
        function({}, CONTEXT)
    assert database.rows() == [1]
    assert [each.where.partition(" in ")[2] for each in recorder.of(Leaked)] == ["function"]
    assert pool_of(engine).stats().in_use == 0
    assert [each.failed for each in recorder.of(InvocationEnded)] == [True]
    with engine.begin() as conn:
        conn.execute(table.insert().values(id=3))
    kept.pop().close()
    assert database.rows() == [1, 3]
    assert pool_of(engine).stats().in_use == 0


def test_a_leaked_session_cannot_reach_the_next_invocations_connection(
    database: Database, engine: Engine, table: sqlalchemy.Table, kept: list[Any]
) -> None:
    @handler(engine)
    def leaks(event: Any, context: Any) -> None:
        kept.append(Session(engine))
        kept[0].execute(table.select())

    with pytest.raises(NotCommitted):
        leaks({}, CONTEXT)
    with engine.begin() as conn:
        conn.execute(table.insert().values(id=1))
        with pytest.raises(DBAPIError):
            kept[0].execute(table.insert().values(id=2))
        kept[0].rollback()
    kept[0].close()
    assert database.rows() == [1]


# --- when no connection can be had ------------------------------------------------------------------------------------


def test_on_unavailable_answers_before_the_handler_runs(database: Database) -> None:
    engine = create_engine(database.pool(database.server.url(port=1), timeout=0.2))
    ran = []

    @handler(engine, on_unavailable=lambda event, context, error: [event, type(error)])
    def function(event: Any, context: Any, session: Session) -> None:
        ran.append(event)

    assert function(7, CONTEXT) == [7, ConnectError]
    assert ran == []

    @handler(engine)
    def raises(event: Any, context: Any, session: Session) -> None:
        ran.append(event)
        session.execute(text("select 1"))

    with pytest.raises(ConnectError):
        raises(8, CONTEXT)
    assert ran == [8]


def test_on_unavailable_is_not_for_errors_of_the_handler(engine: Engine) -> None:
    @handler(engine, on_unavailable=lambda *_: "unavailable")
    def function(event: Any, context: Any, session: Session) -> None:
        raise PoolTimeout("the handler's own")

    with pytest.raises(PoolTimeout, match="own"):
        function({}, CONTEXT)
    assert pool_of(engine).stats().in_use == 0


@pytest.mark.parametrize("autobegin", [True, False])
def test_with_on_unavailable_the_handler_may_begin_itself(
    database: Database, engine: Engine, table: sqlalchemy.Table, autobegin: bool
) -> None:
    @handler(engine, on_unavailable=lambda *_: "unavailable", autobegin=autobegin)
    def function(event: Any, context: Any, session: Session) -> str:
        for number in event["numbers"]:
            with session.begin():
                session.execute(table.insert().values(id=number))
                if number == event["bad"]:
                    raise KeyError(number)
                with pytest.raises(InvalidRequestError, match="already begun"):
                    session.begin()
        return "saved"

    assert function({"numbers": [1, 2], "bad": None}, CONTEXT) == "saved"
    with pytest.raises(KeyError):
        function({"numbers": [3, 4], "bad": 4}, CONTEXT)
    with pytest.raises(KeyError):
        function({"numbers": [5], "bad": 5}, CONTEXT)
    assert database.rows() == [1, 2, 3]
    assert pool_of(engine).stats().opened == 1
    assert pool_of(engine).stats().in_use == 0


def test_with_on_unavailable_a_savepoint_is_one(database: Database, engine: Engine, table: sqlalchemy.Table) -> None:
    @handler(engine, on_unavailable=lambda *_: "unavailable")
    def function(event: Any, context: Any, session: Session) -> None:
        session.execute(table.insert().values(id=1))
        with session.begin_nested() as inner:
            session.execute(table.insert().values(id=2))
            inner.rollback()
        with pytest.raises(InvalidRequestError, match="already begun"):
            session.begin()

    function({}, CONTEXT)
    assert database.rows() == [1]


def test_with_on_unavailable_the_connection_is_there_already(
    database: Database, engine: Engine, table: sqlalchemy.Table
) -> None:
    @handler(engine, on_unavailable=lambda *_: "unavailable")
    def function(event: Any, context: Any, session: Session) -> int:
        in_use = pool_of(engine).stats().in_use
        session.execute(table.insert().values(id=1))
        return in_use

    assert function({}, CONTEXT) == 1
    assert database.rows() == [1]


def test_provisioned_concurrency_opens_ahead(
    database: Database, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency")
    engine = make()

    @handler(engine)
    def function(event: Any, context: Any, session: Session) -> Any:
        return session.execute(text("select 1")).scalar()

    assert pool_of(engine).stats().opened == 1
    with Statements(database) as told:
        assert function({}, CONTEXT) == 1
    assert "select 1" in told.seen
    assert len(without_questions(told.seen)) <= 3
    handler(
        create_engine(database.pool(database.server.url(port=1), timeout=0.1)), lambda event, context, session: None
    )
    assert "the first invocation tries again" in caplog.text


def test_a_handler_is_decorated_once_for_each_session(engine: Engine) -> None:
    def save(event: Any, context: Any, session: Any) -> None: ...

    with pytest.raises(ConfigError, match="is decorated twice by the same pool"):
        handler(engine)(handler(engine, save))


def test_a_result_of_the_work_is_returned() -> None:
    """Like a result of `pool.run(…)` that comes from SQLAlchemy: it is an iterator, but not a lazy one."""
    result: Any = object.__new__(sqlalchemy.CursorResult)
    assert finished("work", "work", result) is result
