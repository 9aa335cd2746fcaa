"""A block that only reads ends its transaction too: the next one sees what was written meanwhile."""

from typing import Any

import pytest
from pymysql.cursors import SSCursor

import lambda_pool
from lambda_pool.testing import PostgresServer
from lambda_pool.testing.server import Server


@pytest.mark.sampled(3, "many cases")
@pytest.mark.parametrize("end", ["commit", "rollback", "run", "readonly", "streamed"])
def test_the_next_block_reads_what_was_written_meanwhile(server: Server, end: str) -> None:
    postgresql = isinstance(server, PostgresServer)
    server.execute("drop table if exists snapshots")
    server.execute("create table snapshots (id int primary key)")
    pool = lambda_pool.Pool(server.url(), observers=())

    def count(conn: Any) -> int:
        with conn.cursor(SSCursor) if end == "streamed" and not postgresql else conn.cursor() as cursor:
            if postgresql:  # MySQL's is it by default
                cursor.execute("set transaction isolation level repeatable read")
            cursor.execute("select count(*) from snapshots")
            return int(cursor.fetchone()[0])

    def read() -> int:
        if end == "run":
            return pool.run(count)
        try:
            with pool.connection(readonly=end == "readonly") as conn:
                found = count(conn)
                if end == "rollback":
                    raise LookupError
        except LookupError:
            pass
        return found

    assert read() == 0
    server.execute("insert into snapshots values (1)")
    assert read() == 1
    server.execute("insert into snapshots values (2)")
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("select count(*) from snapshots")
        assert cursor.fetchone() == (2,)
    assert pool.stats().opened == 1
    pool.close()
    server.execute("drop table snapshots")
