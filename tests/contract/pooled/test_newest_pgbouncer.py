"""PgBouncer since 1.21, which keeps prepared statements for its clients: the pool prepares only where it is asked."""

from collections.abc import Iterator
from typing import Any

import pytest

from lambda_pool import Pool
from lambda_pool.testing import PinCheck, PostgresServer
from tests.support.pgbouncer import PgBouncer

pytestmark = pytest.mark.slow("needs a PgBouncer that is newer than the system's, which is fetched for the full run")


@pytest.fixture(scope="module")
def bouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    with PgBouncer(postgres, newest=True, max_prepared_statements=100, default_pool_size=2) as found:
        yield found


def ask(conn: Any, number: int) -> int:
    return int(conn.execute("select %s::int", [number]).fetchone()[0])


def test_it_is_one_that_keeps_prepared_statements(bouncer: PgBouncer) -> None:
    [version] = [row["version"] for row in bouncer.admin("show version")]
    major, minor = (int(part) for part in version.removeprefix("PgBouncer ").split(".")[:2])
    assert (major, minor) >= (1, 21)


def test_nothing_is_prepared_by_itself(bouncer: PgBouncer) -> None:
    with PinCheck(bouncer.url()) as check:
        pool = Pool(check.url, observers=())
        for number in range(12):
            with pool.connection() as conn:
                assert ask(conn, number) == number
        pool.close()
    assert check.pins == []


def test_what_a_block_asks_for_is_prepared_and_works_on_every_server_connection(
    bouncer: PgBouncer, postgres: PostgresServer
) -> None:
    before = postgres.log.count("PGBOUNCER_")
    pools = [Pool(bouncer.url(), observers=(), name=f"environment-{number}") for number in range(4)]
    for number in range(12):
        for pool in pools:
            with pool.connection() as conn:
                conn.prepare_threshold = 0
                assert ask(conn, number) == number
    for pool in pools:
        pool.close()
    assert postgres.log.count("PGBOUNCER_") > before  # its own names for what it prepares on the server
