"""What genuine MySQL has and MariaDB has not: how it lets users in, and what an administrator does to it."""

from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from lambda_pool import CredentialsError, NotCommitted, Pool
from lambda_pool.testing import MySqlServer


@pytest.fixture
def mysql(genuine_mysql: MySqlServer) -> Iterator[MySqlServer]:
    yield genuine_mysql
    genuine_mysql.execute("set global super_read_only = off")  # until then nobody can be dropped
    genuine_mysql.execute("set global read_only = off")
    for name in ("login", "expired", "writer"):
        genuine_mysql.execute(f"drop user if exists {name}@'%'")
    genuine_mysql.execute("drop table if exists saved")


def ask(conn: Any, sql: str) -> Any:
    with conn.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def test_it_is_what_it_is_named(mysql: MySqlServer) -> None:
    [(version,)] = mysql.execute("select version()")
    assert "MariaDB" not in version
    assert int(version.split(".")[0]) >= 8


@pytest.mark.parametrize("plugin", ["caching_sha2_password", "sha256_password"])
@pytest.mark.parametrize("tls", [True, False])
def test_each_way_to_let_a_user_in(mysql: MySqlServer, plugin: str, tls: bool) -> None:
    """In full at the first login, and by what the server remembers at the next one."""
    mysql.execute(f"create user login@'%' identified with {plugin} by 'right'")
    mysql.execute("grant all on app.* to login@'%'")
    more = "" if tls else "?sslmode=disable"
    for _ in range(2):
        pool = Pool(mysql.url("login", "right", tls=tls) + more, observers=())
        with pool.connection() as conn:
            assert ask(conn, "select current_user()") == (("login@%",),)
        pool.close()
    with pytest.raises(CredentialsError, match=r"1045.*Access denied"):
        Pool(mysql.url("login", "wrong", tls=tls) + more, observers=()).warm(strict=True)


def test_a_unix_socket_lets_a_user_in_too(mysql: MySqlServer) -> None:
    """At the first login the server knows no hash yet, and wants the password itself: nobody listens there."""
    mysql.execute("create user login@'%' identified with caching_sha2_password by 'right'")
    mysql.execute("grant all on app.* to login@'%'")
    [(path,)] = mysql.execute("select @@socket")
    for _ in range(2):
        with Pool(f"mysql://login:right@/app?unix_socket={path}", observers=()).connection() as conn:
            assert ask(conn, "select current_user()") == (("login@%",),)
    with pytest.raises(CredentialsError, match=r"1045.*Access denied"):
        Pool(f"mysql://login:wrong@/app?unix_socket={path}", observers=()).warm(strict=True)


def test_an_expired_password_is_said_at_once(mysql: MySqlServer) -> None:
    mysql.execute("create user expired@'%' identified by 'right' password expire")
    pool = Pool(mysql.url("expired", "right"), observers=())
    with pytest.raises(CredentialsError, match=r"1862.*expired.*ALTER USER expired") as caught:
        pool.warm(strict=True)
    assert "right" not in str(caught.value)
    assert pool.stats().connect_errors == 1


@pytest.mark.slow("starts a server of its own, as this option is read at the start")
def test_an_expired_password_is_said_by_a_server_that_lets_it_in() -> None:
    """It then takes nothing but a new password: the first statement is refused, before anybody borrows."""
    with MySqlServer(extra_config=["--disconnect-on-expired-password=OFF"]) as server:
        server.execute("create user expired@'%' identified by 'right'")
        server.execute("grant all on app.* to expired@'%'")
        server.execute("alter user expired@'%' password expire")
        pool = Pool(server.url("expired", "right"), observers=())
        with pytest.raises(CredentialsError, match=r"1820.*ALTER USER expired") as caught:
            pool.warm(strict=True)
        assert "right" not in str(caught.value)
        server.execute("alter user expired@'%' identified by 'right'")
        with pool.connection() as conn:
            assert ask(conn, "select 1") == ((1,),)
        pool.close()


def test_a_password_that_expires_meanwhile_ends_no_session(mysql: MySqlServer) -> None:
    mysql.execute("create user expired@'%' identified by 'right'")
    mysql.execute("grant all on app.* to expired@'%'")
    pool = Pool(mysql.url("expired", "right"), observers=(), reset="session")
    pool.warm(strict=True)
    mysql.execute("alter user expired@'%' password expire")
    for _ in range(2):
        with pool.connection() as conn:
            assert ask(conn, "select 1") == ((1,),)
    mysql.end_sessions()
    with pytest.raises(CredentialsError, match="1862"), pool.connection():
        pass
    pool.close()


def test_a_server_that_became_read_only_is_left(mysql: MySqlServer) -> None:
    """As after a failover: every connection to it is old."""
    mysql.execute("create table saved (id int primary key)")
    mysql.execute("create user writer@'%' identified by 'right'")
    mysql.execute("grant all on app.* to writer@'%'")
    pool = Pool(mysql.url("writer", "right"), observers=())
    with pool.connection() as conn:
        ask(conn, "insert into saved values (1)")
    mysql.execute("set global super_read_only = on")
    with pytest.raises(Exception, match="1290") as caught, pool.connection() as conn:
        ask(conn, "insert into saved values (2)")
    assert not isinstance(caught.value, NotCommitted)
    assert (pool.stats().idle, pool.stats().closed) == (0, 1)
    mysql.execute("set global super_read_only = off")
    mysql.execute("set global read_only = off")
    pool.run(lambda conn: ask(conn, "insert into saved values (3)"))
    assert mysql.execute("select id from saved order by id") == [(1,), (3,)]
    pool.close()


@pytest.mark.parametrize("reset", ["transaction", "changed", "session"])
def test_the_servers_own_report_of_a_change(mysql: MySqlServer, reset: str) -> None:
    """SESSION_TRACK: what a procedure sets is seen by no statement."""
    mysql.execute("drop procedure if exists sets_it")
    mysql.execute("create procedure sets_it() set @left = 1")
    pool = Pool(mysql.url(), observers=(), reset=reset)
    with pool.connection() as conn:
        ask(conn, "call sets_it()")
    with pool.connection() as conn:
        assert ask(conn, "select @left") == (((1 if reset == "transaction" else None),),)
    assert pool.stats().opened == 1
    pool.close()
    mysql.execute("drop procedure sets_it")


def test_a_backup_lock_is_not_left_to_others(mysql: MySqlServer) -> None:
    mysql.execute("create table saved (id int primary key)")
    pool, other = (Pool(mysql.url(), observers=(), name=name, reset="changed") for name in ("holds", "alters"))
    with pool.connection() as conn:
        ask(conn, "lock instance for backup")
    with other.connection() as conn:
        ask(conn, "set lock_wait_timeout = 2")
        ask(conn, "alter table saved add column more int")
    pool.close()
    other.close()


def test_a_temporary_table_of_a_select_is_not_left(mysql: MySqlServer) -> None:
    pool = Pool(mysql.url(), observers=())
    with pool.connection() as conn:
        ask(conn, "create temporary table scratch as select 1 as id")
    with pool.connection() as conn, pytest.raises(pymysql.ProgrammingError, match="scratch"):
        ask(conn, "select * from scratch")
    assert pool.stats().opened == 1
    pool.close()
