"""Other packages' decorators, adapters and runners around handlers, on real servers."""

from collections.abc import Iterator

import pytest

import lambda_pool
from lambda_pool.testing import MariaDbServer, PostgresServer

Server = PostgresServer | MariaDbServer


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server:
    """A server with an empty table."""
    found: Server = request.getfixturevalue(request.param)
    found.execute("drop table if exists kept")
    found.execute("create table kept (id int primary key)" + (" engine=innodb" if request.param == "mariadb" else ""))
    return found


@pytest.fixture
def pool(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[lambda_pool.Pool]:
    """A pool of four, for threads."""
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "1")
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "orders")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    made = lambda_pool.Pool(server.url(), max_size=4)
    yield made
    made.close()


def kept(server: Server) -> list[int]:
    """What another session sees."""
    return [row[0] for row in server.execute("select id from kept order by id")]
