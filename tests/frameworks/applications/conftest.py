"""A pool on each of the two databases, a table, and the events that applications cause."""

from collections.abc import Iterator
from typing import Any

import pytest

import lambda_pool
from lambda_pool.events import InvocationEnded
from lambda_pool.testing import MariaDbServer, PostgresServer

Server = PostgresServer | MariaDbServer


class Ended:
    """Keeps what a pool reports about requests that ended."""

    def __init__(self) -> None:
        self.events: list[InvocationEnded] = []

    def on_event(self, event: Any) -> None:
        if isinstance(event, InvocationEnded):
            self.events.append(event)

    @property
    def failed(self) -> list[bool]:
        """For each one, whether it failed."""
        return [event.failed for event in self.events]


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server:
    """A server with an empty table."""
    found: Server = request.getfixturevalue(request.param)
    found.execute("drop table if exists served")
    found.execute("create table served (id int primary key)" + (" engine=innodb" if request.param == "mariadb" else ""))
    return found


@pytest.fixture
def ended() -> Ended:
    return Ended()


@pytest.fixture
def pool(server: Server, ended: Ended) -> Iterator[lambda_pool.Pool]:
    """A pool of two."""
    made = lambda_pool.Pool(server.url(), max_size=2, timeout=10, observers=[ended])
    yield made
    made.close()


def saved(server: Server) -> list[int]:
    """What another session sees."""
    return [row[0] for row in server.execute("select id from served order by id")]


def insert(conn: Any, number: int) -> None:
    """One row."""
    conn.cursor().execute("insert into served values (%s)", [number])
