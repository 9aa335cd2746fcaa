"""PyMySQL's methods as coroutines: they do what the driver's own do, and in a pool's hands as well."""

import asyncio
import socket
import time
import warnings
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT
from pymysql.cursors import DictCursor, SSCursor, SSDictCursor

import lambda_pool
from lambda_pool import ConnectError
from tests.contract.conftest import Database
from tests.frameworks.aio.borrowed import borrow, one
from tests.frameworks.aio.conftest import Ground, at_rest, query
from tests.support.upload import endless

MEGABYTE = 1_000_000
TWO_ROWS = "select 1 union select 2"
TWO_RESULTS = "select 1 union select 2; select 'three'"


@pytest.fixture
def database(my: Database) -> Database:
    """Only MySQL."""
    return my


def several(ground: Ground) -> lambda_pool.AsyncPool:
    """A pool whose connections take several statements at once."""
    return ground.pool(max_size=1, connect_args={"client_flag": CLIENT.MULTI_STATEMENTS})


# --- cursors ----------------------------------------------------------------------------------------------------------


def test_a_cursor_reads_its_rows_in_every_way(pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        cursor = conn.cursor()
        assert cursor.connection is conn
        assert await cursor.execute("select seq as n from seq_1_to_50 where seq <= %s order by seq", [9]) == 9
        assert (cursor.rowcount, cursor.rownumber, cursor.arraysize) == (9, 0, 1)
        assert [column[0] for column in cursor.description] == ["n"]
        assert await cursor.fetchone() == (1,)
        assert await cursor.fetchmany() == ((2,),)
        cursor.arraysize = 3
        assert await cursor.fetchmany() == ((3,), (4,), (5,))
        assert await cursor.fetchmany(1) == ((6,),)
        await cursor.scroll(-1)
        assert cursor.rownumber == 5
        assert [row async for row in cursor] == [(6,), (7,), (8,), (9,)]
        await cursor.scroll(7, "absolute")
        assert await cursor.fetchall() == ((8,), (9,))
        assert await cursor.fetchone() is None
        with pytest.raises(IndexError):
            await cursor.scroll(1)
        await cursor.close()
        with pytest.raises(pymysql.ProgrammingError, match="closed"):
            await cursor.execute("select 1")

    borrow(pool, work)
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_a_cursor_of_another_class(pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any, kind: type[Any]) -> Any:
        async with conn.cursor(kind) as cursor:
            await cursor.execute("select 1 as a, 'x' as b")
            return await cursor.fetchone()

    assert borrow(pool, lambda conn: work(conn, DictCursor)) == {"a": 1, "b": "x"}
    assert borrow(pool, lambda conn: work(conn, SSDictCursor)) == {"a": 1, "b": "x"}
    assert borrow(pool, one) == [(1,)]
    assert pool.stats().opened == 1


def test_many_statements_at_once(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        async with conn.cursor() as cursor:
            assert await cursor.executemany(f"insert into {ground.table} values (%s)", [[1], [2], [3]]) == 3
            assert await cursor.executemany(f"update {ground.table} set id = %s where id = %s", [(4, 1), (5, 2)]) == 2
            assert await cursor.executemany(f"delete from {ground.table} where id = %s", []) is None

    borrow(pool, work)
    assert ground.rows() == [3, 4, 5]
    assert pool.stats().opened == 1


def test_one_of_many_that_fails_undoes_all(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        await conn.cursor().executemany(f"insert into {ground.table} values (%s)", [[1], [2], [1]])

    with pytest.raises(pymysql.IntegrityError):
        borrow(pool, work)
    assert ground.rows() == []
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_values_are_made_sql_as_the_driver_makes_them(pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        cursor = conn.cursor()
        assert cursor.mogrify("select %s, %s", ["it's", None]) == r"select 'it\'s', NULL"
        assert (conn.escape("it's"), conn.escape(None)) == (r"'it\'s'", "NULL")
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # PyMySQL's, of version 1.2
            assert conn.literal("it's") == r"'it\'s'"
        await cursor.execute("select %(text)s", {"text": "it's; commit"})
        assert await cursor.fetchall() == (("it's; commit",),)

    borrow(pool, work)


def test_a_procedure_with_two_results(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    name = f"{ground.table}_twice"
    ground.database.execute(f"create procedure {name}(n int) begin select n; select n + 1; end")

    async def work(conn: Any) -> list[Any]:
        cursor = conn.cursor()
        assert await cursor.callproc(name, [41]) == [41]
        found = [list(await cursor.fetchall())]
        while await cursor.nextset():
            found.append(list(await cursor.fetchall()))
        await ground.insert(conn, 1)
        return found

    assert borrow(pool, work) == [[(41,)], [(42,)], []]
    assert ground.rows() == [1]
    assert pool.stats().opened == 1
    ground.database.execute(f"drop procedure {name}")


def test_two_results_of_one_statement(ground: Ground) -> None:
    pool = several(ground)

    async def by_cursor(conn: Any) -> list[Any]:
        async with conn.cursor() as cursor:
            assert await cursor.execute(TWO_RESULTS) == 2
            found = [await cursor.fetchall()]
            while await cursor.nextset():
                found.append(await cursor.fetchall())
        return found

    async def by_connection(conn: Any) -> tuple[int, int]:
        return await conn.query(TWO_RESULTS), await conn.next_result()

    assert borrow(pool, by_cursor) == [((1,), (2,)), (("three",),)]
    assert borrow(pool, by_connection) == (2, 1)
    assert borrow(pool, one) == [(1,)]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_a_second_result_that_nobody_reads(ground: Ground) -> None:
    """The next borrower does not get it."""
    pool = several(ground)

    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        await conn.query(TWO_RESULTS)

    borrow(pool, work)
    assert ground.rows() == [1]
    assert borrow(pool, one) == [(1,)]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


# --- streams and long answers -----------------------------------------------------------------------------------------


def test_a_stream_that_is_read_whole(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> list[int]:
        async with conn.cursor(SSCursor) as cursor:
            await cursor.execute("select seq from seq_1_to_4000 order by seq")
            found = [(await cursor.fetchone())[0], *[row[0] for row in await cursor.fetchmany(2)]]
            await cursor.scroll(1)
            found += [row[0] async for row in cursor]
        await ground.insert(conn, 1)
        return found

    assert borrow(pool, work) == [1, 2, 3, *range(5, 4001)]
    assert ground.rows() == [1]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_a_stream_that_is_closed_halfway(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    """The rest is read, and the connection goes on."""

    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        async with conn.cursor(SSCursor) as cursor:
            await cursor.execute("select seq from seq_1_to_4000 order by seq")
            assert await cursor.fetchone() == (1,)
        assert await one(conn) == [(1,)]
        await ground.insert(conn, 2)

    borrow(pool, work)
    assert ground.rows() == [1, 2]
    assert borrow(pool, one) == [(1,)]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_a_stream_that_is_left_open_is_not_the_next_ones(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        cursor = conn.cursor(SSCursor)
        await cursor.execute("select seq, repeat('x', 1000) from seq_1_to_4000 order by seq")
        assert (await cursor.fetchone())[0] == 1

    borrow(pool, work)
    assert ground.rows() == [1]
    assert borrow(pool, one) == [(1,)]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_a_stream_that_fails_among_its_rows(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        await ground.insert(conn, 1)
        async with conn.cursor(SSCursor) as cursor:
            await cursor.execute(
                "select if(seq < 3000, repeat('x', 100), (select 1 union select 2)) from seq_1_to_4000"
            )
            with pytest.raises(pymysql.MySQLError, match="1242"):
                await cursor.fetchall()

    borrow(pool, work)  # that undid its statement alone
    assert ground.rows() == [1]
    assert pool.stats().opened == 1


@pytest.mark.parametrize("tls", [True, False])
def test_several_megabytes_each_way(ground: Ground, tls: bool) -> None:
    url = ground.database.url if tls else f"{ground.database.server.url(tls=False)}?sslmode=disable"
    pool = ground.pool(url=url, max_size=1)

    async def work(conn: Any) -> None:
        async with conn.cursor() as cursor:
            text = "x" * (8 * MEGABYTE)
            await cursor.execute("select length(%s), %s", [text, text])
            assert await cursor.fetchone() == (len(text), text)
        async with conn.cursor(SSCursor) as cursor:
            await cursor.execute(f"select repeat('y', {MEGABYTE}) from seq_1_to_50 where seq <= 8")
            assert [len(row[0]) async for row in cursor] == [MEGABYTE] * 8

    borrow(pool, work)
    assert borrow(pool, one) == [(1,)]
    assert (pool.stats().opened, at_rest(pool)) == (1, True)


def test_tasks_that_share_a_connection_take_turns(pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> list[Any]:
        async def ask(number: int) -> Any:
            return (await query(conn, f"select {number}, repeat('x', 100000)"))[0][0]

        return await asyncio.gather(*(ask(number) for number in range(10)))

    assert borrow(pool, work) == list(range(10))
    assert pool.stats().opened == 1


# --- the connection's other methods -----------------------------------------------------------------------------------


def test_what_the_connection_tells_of_itself(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    name = f"{ground.table}_numbered"
    ground.database.execute(f"create table {name} (id int auto_increment primary key, v int) engine=innodb")

    async def work(conn: Any) -> None:
        assert isinstance(conn.driver_connection, pymysql.connections.Connection)
        assert repr(conn).startswith("<AsyncConnection of <")
        assert conn.get_server_info().endswith((await query(conn, "select version()"))[0][0])
        assert [(conn.thread_id(),)] == await query(conn, "select connection_id()")
        assert await conn.query(f"insert into {name} (v) values (7)") == 1
        assert (conn.affected_rows(), conn.insert_id()) == (1, 1)
        async with conn.cursor() as cursor:
            await cursor.execute(f"insert into {name} (v) values (8)")
            assert cursor.lastrowid == 2
            await cursor.execute("select 1 / 0")
            assert cursor.warning_count == 1
        assert [warning[1] for warning in await conn.show_warnings()] == [1365]
        await conn.ping()
        assert conn.open

    borrow(pool, work)
    assert ground.database.execute(f"select v from {name} order by id") == [(7,), (8,)]
    assert pool.stats().opened == 1
    ground.database.execute(f"drop table {name}")


# What is refused inside a block, is deprecated, or works below the statements.
NOT_OFFERED = {"connect", "set_charset", "write_packet", "max_stmt_length", "read_next"}


def test_no_public_method_of_the_drivers_is_missing(ground: Ground, pool: lambda_pool.AsyncPool) -> None:
    async def work(conn: Any) -> None:
        async with conn.cursor(SSCursor) as cursor:
            await cursor.execute(TWO_ROWS)
            assert [row async for row in cursor.fetchall_unbuffered()] == [(1,), (2,)]
            cursor.setinputsizes()
            cursor.setoutputsizes()
            for driver, own in ((pymysql.connections.Connection, conn), (SSCursor, cursor)):
                public = {each for each in dir(driver) if each[0].islower()} - NOT_OFFERED
                assert public <= set(dir(own))
        assert (conn.character_set_name(), conn.get_proto_info()) == ("utf8mb4", 10)
        assert conn.get_host_info() == f"socket {conn.driver_connection.host}:{ground.database.server.port}"
        with pytest.raises(pymysql.OperationalError):
            async with ground.pool().connection() as other:
                await conn.kill(other.thread_id())
                await other.ping()

    borrow(pool, work)
    assert at_rest(pool)


def test_where_the_session_was_moved_to_is_not_where_the_next_one_is(pool: lambda_pool.AsyncPool) -> None:
    look = "select database(), @@character_set_client, @x"

    async def move(conn: Any) -> None:
        await conn.select_db("mysql")
        await conn.set_character_set("latin1")
        await conn.query("set @x = 7")
        assert await query(conn, look) == [("mysql", "latin1", 7)]

    fresh = borrow(pool, lambda conn: query(conn, look))
    borrow(pool, move)
    assert borrow(pool, lambda conn: query(conn, look)) == fresh == [("app", "utf8mb4", None)]
    assert pool.stats().opened == 1


def test_a_load_of_local_data_that_is_cancelled(ground: Ground, tmp_path: Path) -> None:
    database, plain = ground.database, f"{ground.database.server.url(tls=False)}?sslmode=disable"
    database.execute("set global local_infile = 1")
    database.execute(f"insert into {ground.table} values (1)")
    pool = ground.pool(url=plain, connect_args={"local_infile": True})

    async def work(conn: Any) -> None:
        with database.pool().connection() as holder, endless(tmp_path) as path:
            database.query(holder, f"select id from {ground.table} for update")
            async with asyncio.timeout(0.4):
                await query(conn, f"load data local infile '{path}' into table {ground.table}")

    start = time.monotonic()
    with pytest.raises(TimeoutError):
        borrow(pool, work)
    assert time.monotonic() - start < 4
    assert (ground.rows(), at_rest(pool)) == ([1], True)


# --- connecting -------------------------------------------------------------------------------------------------------


def test_a_server_that_is_reached_by_a_file(ground: Ground) -> None:
    database = ground.database
    database.execute("create or replace user by_file@'%' identified by 'near'")
    database.execute("grant all on app.* to by_file@'%'")
    path = database.execute("select @@socket")[0][0]
    pool = ground.pool(url=f"mysql://by_file:near@/app?unix_socket={path}")
    assert borrow(pool, one) == [(1,)]
    assert pool.stats().opened == 1
    database.execute("drop user by_file@'%'")


def test_nobody_listens(ground: Ground) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    pool = ground.pool(url=f"mysql://app:app@127.0.0.1:{port}/app?sslmode=disable", timeout=0.2)
    with pytest.raises(ConnectError, match="refused"):
        borrow(pool, one)
    assert (pool.stats().size, at_rest(pool)) == (0, True)
