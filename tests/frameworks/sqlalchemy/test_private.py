"""The private names of SQLAlchemy's that the pool class stands on: each is there, and called as it is overridden."""

import inspect
import re
from pathlib import Path

import sqlalchemy.pool
from sqlalchemy.pool.base import _ConnectionRecord

import lambda_pool

ROOM = Path(lambda_pool.__file__).parent / "sqlalchemy"
OVERRIDDEN = {"_do_get", "_do_return_conn", "_invalidate"}


def test_what_is_overridden_is_what_sqlalchemy_calls() -> None:
    from lambda_pool.sqlalchemy.pool import LambdaPool as ours

    for name in OVERRIDDEN:
        theirs = getattr(sqlalchemy.pool.Pool, name)
        assert list(inspect.signature(getattr(ours, name)).parameters) == list(inspect.signature(theirs).parameters)
    for other in (sqlalchemy.pool.QueuePool, sqlalchemy.pool.NullPool):
        assert {"_do_get", "_do_return_conn"} <= vars(other).keys()


def test_a_record_can_be_made_before_its_connection() -> None:
    parameters = inspect.signature(_ConnectionRecord).parameters
    assert list(parameters) == ["pool", "connect"]
    assert parameters["connect"].default is True
    assert "dbapi_connection" in _ConnectionRecord.__slots__
    assert callable(_ConnectionRecord.get_connection)


def test_a_pool_may_take_another_ones_place() -> None:
    other = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.pool.NullPool).pool
    assert callable(other._creator)
    assert "_dispatch" in inspect.signature(sqlalchemy.pool.Pool).parameters
    assert "_dispatch=self.dispatch" in inspect.getsource(sqlalchemy.pool.NullPool.recreate)


def test_there_are_no_others() -> None:
    """What has one underscore in front is our own, or on the list above."""
    known = {*OVERRIDDEN, "_ConnectionRecord", "_creator"}
    theirs = {
        name
        for owner in (sqlalchemy.pool.Pool, _ConnectionRecord, sqlalchemy.engine.Engine, sqlalchemy.engine.Connection)
        for name in dir(owner)
        if re.match("_[a-z]", name)
    }
    used = {
        name
        for path in ROOM.glob("*.py")
        for name in re.findall(r"(?:\.|def |import )(_[a-zA-Z]\w*)", path.read_text())
    }
    assert used & (theirs | {"_ConnectionRecord", "_creator"}) == known
