"""PinCheck between real drivers and real servers: what pins is told with its line, and what the pool sends does not."""

import asyncio
import inspect
import threading
from typing import Any

import psycopg
import pymysql
import pytest
from psycopg.conninfo import conninfo_to_dict

from lambda_pool import AsyncPool, Pool
from lambda_pool.testing import MariaDbServer, PinCheck, PinnedError, PostgresServer

Server = PostgresServer | MariaDbServer


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue("postgres" if request.param == "postgresql" else "mariadb")
    return found


def run(conn: Any, sql: str, *parameters: object) -> Any:
    with conn.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return list(cursor.fetchall()) if cursor.description else None


def test_the_pools_own_traffic_does_not_pin(server: Server) -> None:
    with PinCheck(server.url()) as check:
        pool = Pool(check.url, ping_after=0, max_size=2)
        for _ in range(8):  # psycopg prepares what it has seen five times, if it may
            with pool.connection() as conn:
                assert run(conn, "select %s", 1) == [(1,)]
        with pool.connection(readonly=True) as conn:
            run(conn, "select 1")
        with pytest.raises(ZeroDivisionError), pool.connection() as conn:
            run(conn, "select 1")
            raise ZeroDivisionError
        pool.run(lambda conn: run(conn, "select 1"))
        assert pool.handler(lambda event, context, conn: run(conn, "select 42"))({}, None) == [(42,)]
        pool.close()
    assert check.pins == []


def test_nor_that_of_an_event_loop(server: Server) -> None:
    async def main(url: str) -> None:
        pool = AsyncPool(url, ping_after=0)
        for _ in range(8):
            async with pool.connection() as conn, conn.cursor() as cursor:
                await cursor.execute("select %s", (1,))
        await pool.close()

    with PinCheck(server.url()) as check:
        asyncio.run(main(check.url))
    assert check.pins == []


def test_what_pins_is_told_with_the_line_that_sent_it(server: Server) -> None:
    sql = "SET statement_timeout = '4s'" if isinstance(server, PostgresServer) else "SET @secret = '4s'"
    frame = inspect.currentframe()
    assert frame is not None
    with pytest.raises(PinnedError) as caught, PinCheck(server.url()) as check:
        pool = Pool(check.url)
        with pool.connection() as conn:
            line = frame.f_lineno + 1
            conn.cursor().execute(sql)
        pool.close()
    text = str(caught.value)
    assert f"{__file__}:{line}: {sql.replace('4s', '…')}: it " in text
    assert "4s" not in text


def test_a_block_that_raised_raises_that(server: Server) -> None:
    sql = "SET statement_timeout = 4000" if isinstance(server, PostgresServer) else "SET @four = 4"
    with pytest.raises(ZeroDivisionError), PinCheck(server.url()) as check:
        pool = Pool(check.url)
        with pool.connection() as conn:
            run(conn, sql)
            raise ZeroDivisionError
    assert len(check.pins) == 1
    pool.close()


def test_psycopgs_prepared_statements(postgres: PostgresServer) -> None:
    """Of a connection that is not the pool's: it need not be."""
    with pytest.raises(PinnedError, match=r"test_pin_check.py:\d+: select .*: it is prepared under a name"):
        with PinCheck(postgres.url()) as check:
            parameters = conninfo_to_dict(check.url.replace("&pooled=true", ""))
            with psycopg.connect(**parameters) as conn:  # type: ignore[arg-type]
                for _ in range(7):
                    conn.execute("select %s::int", (1,))


def test_pymysqls_bare_connection(mariadb: MariaDbServer) -> None:
    with pytest.raises(PinnedError, match=r"test_pin_check.py:\d+: select get_lock\('…', 0\): it takes a named lock"):
        with PinCheck(mariadb.url()) as check:
            port = int(check.url.rpartition(":")[2].partition("/")[0])
            conn = pymysql.connect(
                host="127.0.0.1", port=port, user="root", password=mariadb.password, ssl_disabled=True
            )
            run(conn, "select get_lock('a', 0)")
            conn.close()


def test_what_a_proxy_refuses_at_the_login(postgres: PostgresServer) -> None:
    with pytest.raises(PinnedError, match="the login: it has the parameter 'options'"):
        with PinCheck(postgres.url()) as check:
            psycopg.connect(check.url.replace("&pooled=true", "") + "&options=-cwork_mem%3D1MB").close()


def test_several_hosts_are_refused() -> None:
    with pytest.raises(ValueError, match="give a URL with one host"):
        PinCheck("postgresql://app:a,b@one,two/orders")
    PinCheck("postgresql://app:a,b@one/orders")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://app:secret@/orders?host=one:5432&host=two:5432", "host="),
        ("postgresql://app@one/orders?hostaddr=192.0.2.1", "hostaddr="),
        ("mysql://app@one/orders?unix_socket=/run/mysqld/mysqld.sock", "unix_socket="),
    ],
)
def test_a_host_among_the_parameters_is_refused(url: str, named: str) -> None:
    """The driver would go there, past the check."""
    with pytest.raises(ValueError, match=f"does not follow {named} in a URL") as caught:
        PinCheck(url)
    assert "secret" not in str(caught.value)


def test_a_long_statement(server: Server) -> None:
    with pytest.raises(PinnedError, match=r"select '…': it is longer than 16 KiB"):
        with PinCheck(server.url()) as check:
            pool = Pool(check.url)
            with pool.connection() as conn:
                run(conn, f"select '{'x' * 100_000}'")
            pool.close()


def test_commands_of_mysql_that_are_no_statements(mariadb: MariaDbServer) -> None:
    """What other drivers send: a statement that is prepared, another user, the session as it was at first."""
    with PinCheck(mariadb.url()) as check:
        port = int(check.url.rpartition(":")[2].partition("/")[0])
        conn = pymysql.connect(host="127.0.0.1", port=port, user="root", password=mariadb.password, ssl_disabled=True)
        conn._execute_command(0x16, "select 'secret'")  # type: ignore[attr-defined]
        conn._read_packet()
        conn._read_packet()
        conn._read_packet()
        conn._execute_command(0x1F, b"")  # type: ignore[attr-defined]
        conn._read_packet()
        conn.ping()
        conn.close()
        found, check.pins[:] = [(pin.statement, pin.reason) for pin in check.pins], []
    assert found == [
        ("select '…'", "it is prepared on the server"),
        ("a command", "it resets the session"),
    ]


def test_a_statement_that_takes_several_packets(mariadb: MariaDbServer) -> None:
    """MySQL's protocol cuts at 16 MB: it is one statement all the same, and what follows it is the next."""
    [(before,)] = mariadb.execute("select @@global.max_allowed_packet")
    mariadb.execute("set global max_allowed_packet = 67108864")
    try:
        with PinCheck(mariadb.url()) as check:
            pool = Pool(check.url)
            with pool.connection() as conn:
                assert run(conn, f"select length('{'x' * 17_000_000}')") == [(17_000_000,)]
                assert run(conn, "select 1") == [(1,)]
            pool.close()
            found, check.pins[:] = list(check.pins), []
    finally:
        mariadb.execute(f"set global max_allowed_packet = {before}")
    assert [pin.reason for pin in found] == ["it is longer than 16 KiB"]
    assert len(str(found[0])) < 500


def test_what_no_code_of_the_users_sent(mariadb: MariaDbServer) -> None:
    """A thread that runs nothing but the driver: no line is to be shown."""
    with PinCheck(mariadb.url()) as check:
        port = int(check.url.rpartition(":")[2].partition("/")[0])
        conn = pymysql.connect(host="127.0.0.1", port=port, user="root", password=mariadb.password, ssl_disabled=True)
        thread = threading.Thread(target=conn.query, args=("set @a = 1",))
        thread.start()
        thread.join(20)
        conn.close()
        found, check.pins[:] = list(check.pins), []
    assert [str(pin).partition(": ")[0] for pin in found] == ["(not sent by your code)"]
