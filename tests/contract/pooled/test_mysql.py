"""With pooled=true on MariaDB and MySQL: by the server's general log, nothing that a proxy would pin a connection for.

What pins: https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/rds-proxy-pinning.html
"""

import re
import time
from contextlib import suppress
from typing import Any
from urllib.parse import quote_plus

import pymysql
import pytest

from lambda_pool import ConfigError, NotCommitted, Pool
from lambda_pool.testing import MySqlServer
from lambda_pool.testing.server import Server

# The ids and commands of the general log: "<time>\t<id> <command>\t<argument>".
_LINE = re.compile(r"(?m)^[^\t\n]*\t+ *(\d+) (\w[\w ]*?)(?:\t(.*))?$")


class Log:
    """What one user's sessions sent, by its general log."""

    def __init__(self, server: Server, user: str) -> None:
        self._server, self._user = server, user
        self._offset = len(server.log)

    def commands(self) -> set[tuple[str, str]]:
        """Each command with its text, `Connect` without."""
        time.sleep(0.1)  # the server writes the log just after it answers
        found, sessions = set(), set()
        for number, command, text in _LINE.findall(self._server.log[self._offset :]):
            if command == "Connect" and text.startswith(f"{self._user}@"):
                sessions.add(number)
            if number in sessions:
                found.add((command, "" if command == "Connect" else text.strip()))
        return found


@pytest.fixture(params=["mariadb", "genuine_mysql"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def url(server: Server) -> str:
    server.execute("drop table if exists pooled")
    server.execute("create table pooled (id int primary key) engine=innodb")
    server.execute("drop user if exists pooled@'%'")
    server.execute("create user pooled@'%' identified by 'pooled'")
    server.execute("grant all on app.* to pooled@'%'")
    return server.url("pooled", "pooled", pooled="true")


@pytest.fixture
def log(server: Server, url: str) -> Log:
    return Log(server, "pooled")


def pool_of(url: str, **options: Any) -> Pool:
    return Pool(url, name="orders", observers=(), **options)


def execute(conn: Any, sql: str, *parameters: object) -> Any:
    with conn.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone() if cursor.description else None


class Context:
    """Lambda's, as far as the decorator looks at it."""

    aws_request_id = "1"

    def __init__(self, milliseconds: int = 10_000) -> None:
        self._end = time.monotonic() + milliseconds / 1000

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._end - time.monotonic()) * 1000))


OURS = {
    ("Connect", ""),
    ("Query", "SET NAMES utf8mb4"),
    ("Query", "SET AUTOCOMMIT = 0"),
    ("Query", "SET AUTOCOMMIT = 1"),
    ("Query", "START TRANSACTION"),
    ("Query", "START TRANSACTION READ ONLY"),
    ("Query", "COMMIT"),
    ("Query", "ROLLBACK"),
    ("Quit", ""),
}


def test_a_whole_life(url: str, log: Log) -> None:
    pool = pool_of(url, ping_after=0)
    for number in range(10):
        with pool.connection() as conn:
            execute(conn, "insert into pooled values (%s)", number)
    with pytest.raises(ZeroDivisionError), pool.connection() as conn:
        execute(conn, "select id from pooled")
        1 / 0  # noqa: B018
    with pool.connection() as conn, suppress(pymysql.MySQLError):
        execute(conn, "insert into pooled values (0)")
    for _ in range(2):
        with pool.connection(readonly=True) as conn:
            execute(conn, "select id from pooled")
    with pool.connection() as conn:
        conn.cursorclass = pymysql.cursors.SSDictCursor
        conn.autocommit(True)
        execute(conn, "select id from pooled")
    tries = []

    def work(conn: Any) -> None:
        tries.append(execute(conn, "select id from pooled"))
        if len(tries) == 1:
            raise pymysql.OperationalError(1213, "scripted")

    pool.run(work)
    assert len(tries) == 2
    assert (pool.stats().opened, pool.stats().pings > 10) == (1, True)

    @pool.handler
    def leaks(event: object, context: object) -> None:
        execute(pool.connection().__enter__(), "select id from pooled")

    with pytest.raises(NotCommitted):
        leaks({}, Context())
    assert pool.stats().leaked == 1
    pool.close()
    replacing = pool_of(url, max_lifetime=1e-6, autocommit=True)
    for _ in range(3):
        with replacing.connection() as conn:
            execute(conn, "select id from pooled")
        replacing.run(lambda conn: execute(conn, "select id from pooled"))
    assert replacing.stats().replaced == 5
    replacing.close()

    handlers = {("Query", f"insert into pooled values ({number})") for number in range(10)}
    seen = log.commands()
    assert seen - OURS == handlers | {("Query", "select id from pooled")}
    assert OURS - seen == set()


def test_what_pinned_it_is_not_put_back_but_closed(server: Server, url: str, log: Log) -> None:
    """The borrower's own SET pins; another one would not unpin. A new connection is not pinned."""
    pool = pool_of(url)
    with pool.connection() as conn:
        execute(conn, "set session transaction isolation level serializable")
    with pool.connection() as conn:
        name = "transaction_isolation" if isinstance(server, MySqlServer) else "tx_isolation"
        assert execute(conn, f"select @@session.{name}") == ("REPEATABLE-READ",)
    assert pool.stats().opened == 2
    pool.close()
    assert not [command for command, _ in log.commands() if command == "Init DB"]


def test_a_statement_is_ended_without_kill(url: str, log: Log) -> None:
    """The number that a pooler gives may be another session's on the server."""
    pool = pool_of(url, cancel_before_deadline=0.5)

    @pool.handler
    def slow(event: object, context: object, conn: Any) -> None:
        execute(conn, "select sleep(20)")

    started = time.monotonic()
    with pytest.raises(Exception, match="cancel_before_deadline"):
        slow({}, Context(1500))
    assert time.monotonic() - started < 10
    pool.close()
    assert not [text for _, text in log.commands() if "KILL" in text.upper()]


@pytest.mark.sampled(1 / 2, "3 s a case")
def test_without_pooled_both_are_sent(server: Server, url: str, log: Log) -> None:
    # So that the tests above cannot pass for a reason of their own.
    pool = pool_of(url.replace("pooled=true", "charset=utf8mb4"), cancel_before_deadline=0.5)
    with pool.connection() as conn:
        execute(conn, "set session transaction isolation level serializable")

    @pool.handler
    def slow(event: object, context: object, conn: Any) -> None:
        execute(conn, "select sleep(20)")

    with pytest.raises(Exception, match="cancel_before_deadline"):
        slow({}, Context(1500))
    pool.close()
    texts = [text.upper() for _, text in log.commands()]
    assert ("Init DB", "app") in log.commands()  # the end of a reset, which this server does not log
    assert any(text.startswith("KILL QUERY") for text in texts)


def test_a_session_reset_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="COM_RESET_CONNECTION"):
        pool_of(url, reset="session")


def test_what_the_user_wants_sent_is_sent(url: str, log: Log) -> None:
    pool = pool_of(f"{url}&init_command={quote_plus('set @a = 1')}&sql_mode=ANSI")
    with pool.connection() as conn:
        assert execute(conn, "select @a, @@sql_mode") is not None
    pool.close()
    assert {("Query", "set @a = 1"), ("Query", "SET sql_mode='ANSI'")} <= log.commands()
