"""What a handler, or the work of `Pool.run`, may return: nothing that would be computed without its connection."""

import io
import itertools
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pymysql
import pytest

import lambda_pool
from lambda_pool.finished import finished
from lambda_pool.testing import FakeDriver


class Rows:
    """An iterator of one's own."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._conn.execute("select 1")


class LateRows:
    """The same for `async for`."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return 1


LAZY = {
    "map": lambda conn: map(conn.execute, ["insert"]),
    "filter": lambda conn: filter(conn.execute, ["insert"]),
    "zip": lambda conn: zip([1], map(conn.execute, ["insert"]), strict=False),
    "enumerate": lambda conn: enumerate(conn.execute(each) for each in ["insert"]),
    "chain": lambda conn: itertools.chain(map(conn.execute, ["insert"])),
    "starmap": lambda conn: itertools.starmap(conn.execute, [("insert",)]),
    "callable_iterator": lambda conn: iter(lambda: conn.execute("insert"), None),
    "Rows": Rows,
    "LateRows": lambda conn: LateRows(),
}


@pytest.mark.parametrize("name", LAZY)
def test_what_would_go_on_without_its_connection_is_refused(name: str) -> None:
    driver = FakeDriver()
    pool = driver.pool()
    with pytest.raises(lambda_pool.ConfigError, match=f"returned a {name}, whose body would run after"):
        pool.run(LAZY[name])
    with pytest.raises(lambda_pool.ConfigError, match=f"returned a {name}, whose body would run after"):
        pool.handler(lambda event, context, conn: LAZY[name](conn))({}, None)
    assert [step for link in driver.links for step in link.history].count("commit") == 0


def test_what_has_its_values_is_returned() -> None:
    """Whatever it is: iterators over containers, files, streams, a driver's cursor."""
    with tempfile.TemporaryFile() as file:
        for value in (
            *([1], (1,), {1: 2}, "text", None, range(3)),
            *(iter([1]), iter((1,)), iter({1: 2}), iter({1: 2}.items()), iter({1}), iter("text"), iter(range(3))),
            *(iter(deque([1])), reversed([1]), enumerate([1]), zip([1], (2,), strict=False)),
            *(io.StringIO("a"), io.BytesIO(b"a"), file),
        ):
            assert finished("work", "work", value) is value


def test_a_cursor_of_the_work_is_returned() -> None:
    """As of `pool.run(lambda conn: conn.execute(…))`."""
    for cursor in (
        object.__new__(psycopg.Cursor),
        object.__new__(pymysql.cursors.Cursor),
    ):
        assert finished("work", "work", cursor) is cursor
