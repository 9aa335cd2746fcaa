"""An engine on a pool, on each of the two databases, and what the server was told."""

import gc
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


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left() -> Iterator[None]:
    """Engines refer to themselves: they would keep their pools alive, which other tests count."""
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
