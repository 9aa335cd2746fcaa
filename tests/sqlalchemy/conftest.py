"""An engine on a pool, on each of the two databases, and what the server was told."""

import gc
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.engine import Engine

import lambda_pool
from lambda_pool.sqlalchemy import create_engine
from tests.contract.conftest import Database, database, my, own_server, pg  # noqa: F401 - fixtures


def pool_of(engine: Engine) -> lambda_pool.Pool:
    """The pool that an engine was made on."""
    return engine.dialect._given  # type: ignore[attr-defined, no-any-return]


def table_of(database: Database) -> sqlalchemy.Table:  # noqa: F811
    """The test's own table, with one column `id`."""
    return sqlalchemy.Table(database.table, sqlalchemy.MetaData(), sqlalchemy.Column("id", sqlalchemy.Integer))


class Statements:
    """What the server has been told in a `with` block, in order, on whatever connection."""

    def __init__(self, database: Database) -> None:  # noqa: F811
        self._database = database
        self.seen: list[str] = []

    def __enter__(self) -> "Statements":
        self._begin = len(self._settled())
        return self

    def __exit__(self, *_: object) -> None:
        log = self._settled()[self._begin :]
        if self._database.engine == "postgresql":
            found = re.findall(r"\[(\d+)\].*?(?:statement|execute [^:]*): (.*)", log)
        else:
            found = re.findall(r"\s(\d+) Query\t(.*)", log)
        ours = {backend for backend, text in found if _MARK in text}
        self.seen = [text.strip().lower() for backend, text in found if backend not in ours]

    def _settled(self) -> str:
        """The log, once it holds what was said last."""
        mark = f"{_MARK}{time.monotonic_ns()}"
        self._database.execute(f"select '{mark}'")
        until = time.monotonic() + 5
        while mark not in (log := str(self._database.server.log)):
            assert time.monotonic() < until, "the server's log lags behind"
            time.sleep(0.01)
        return log


_MARK = "mark-"


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left() -> Iterator[None]:
    """Engines are circles: they would keep their pools alive, which other tests count."""
    yield
    gc.collect()


@pytest.fixture
def make(database: Database) -> Iterator[Callable[..., Engine]]:  # noqa: F811
    """make(pool=None, readonly=False, options={…of the pool}, **engine_options): an engine on the test's database."""
    made: list[Engine] = []

    def engine(pool: Any = None, *, readonly: bool = False, options: Any = None, **engine_options: Any) -> Engine:
        pool = pool or database.pool(**(options or {}))
        made.append(create_engine(pool, readonly=readonly, **engine_options))
        return made[-1]

    yield engine
    for each in made:
        each.dispose()


@pytest.fixture
def engine(make: Callable[..., Engine]) -> Engine:
    """An engine with nothing but its pool."""
    return make()
