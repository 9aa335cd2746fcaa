"""What a borrower may leave on a connection: how it is left, and how the next one would notice. One list per engine.

The names are the rows of the tables in docs/sessions.md. `look` answers the same on a new connection and on one where
nothing was left.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pymysql
from psycopg.rows import dict_row, tuple_row
from psycopg.types.string import TextLoader

from tests.support.mysql_dialect import as_mysql


@dataclass(frozen=True)
class Case:
    """One thing to leave behind. `leave` ends inside the borrower's transaction, if it began one."""

    name: str
    leave: Callable[[Any], object]
    look: Callable[[Any], object]


def spoken(conn: Any, sql: str) -> list[str]:
    """In the server's own dialect."""
    mysql = isinstance(conn, pymysql.connections.Connection) and "MariaDB" not in conn.get_server_info()
    return as_mysql(sql) if mysql else [sql]


def ask(conn: Any, sql: str) -> object:
    """The one value of a query, whatever rows and cursors the connection makes."""
    if isinstance(conn, psycopg.Connection):
        with psycopg.Cursor(conn, row_factory=tuple_row) as cursor:
            row = cursor.execute(sql.encode(), prepare=False).fetchone()
    else:
        with conn.cursor(pymysql.cursors.Cursor) as cursor:
            for each in spoken(conn, sql):
                cursor.execute(each)
            row = cursor.fetchone()
    return None if row is None else row[0]


def run(conn: Any, *statements: str) -> None:
    """Statements, as users send them."""
    with conn.cursor() as cursor:
        for statement in statements:
            for each in spoken(conn, statement):
                cursor.execute(each)


def case(name: str, leave: str | Callable[[Any], object], look: str | Callable[[Any], object]) -> Case:
    """A case of SQL, or of calls of the driver."""
    left, asked = leave, look
    return Case(
        name,
        (lambda conn: run(conn, left)) if isinstance(left, str) else left,
        (lambda conn: ask(conn, asked)) if isinstance(asked, str) else asked,
    )


def or_none(sql: str) -> Callable[[Any], object]:
    """The value of a query; None if the server refuses it."""

    def look(conn: Any) -> object:
        with suppress(psycopg.Error, pymysql.Error):
            return ask(conn, sql)
        return None

    return look


def attribute(name: str, value: object) -> tuple[Callable[[Any], object], Callable[[Any], object]]:
    """Setting and reading an attribute of the driver's connection."""
    return lambda conn: setattr(conn, name, value), lambda conn: getattr(conn, name)


def count(view: str) -> str:
    return f"select count(*) from {view}"


def held(kind: str) -> str:
    return f"select count(*) from pg_locks where pid = pg_backend_pid() and locktype = '{kind}' and objid = 42"


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


class OwnCursor(psycopg.Cursor[Any]):
    """A cursor of the borrower's own."""


class OwnServerCursor(psycopg.ServerCursor[Any]):
    """Another."""


class OwnLoader(TextLoader):
    """A way of the borrower's own to read a type."""


def notice(diagnostic: object) -> None:
    """A borrower's handler."""


def prepare_by_use(conn: Any) -> None:
    """psycopg names a statement that is run more than five times."""
    for _ in range(7):
        conn.execute("select 'prepared by use'")


def notify_oneself(conn: Any) -> None:
    """Received only with the statement after the COMMIT that sends it."""
    run(conn, "listen to_oneself", "notify to_oneself, 'secret of A'")
    conn.commit()
    run(conn, "select 1")


POSTGRES = [
    case("`SET …`", "set statement_timeout = '77s'", "show statement_timeout"),
    case("`SET LOCAL …`", "set local statement_timeout = '77s'", "show statement_timeout"),
    case("`SET search_path`", "set search_path = pg_catalog", "show search_path"),
    case("`SET TIME ZONE`", "set time zone 'Asia/Tokyo'", "show time zone"),
    case("`SET client_encoding`", "set client_encoding = latin1", "show client_encoding"),
    case("`SET ROLE`", "set role sessions_role", "select current_user"),
    case("`SET SESSION AUTHORIZATION`", "set session authorization sessions_role", "select session_user"),
    case(
        "`SET SESSION CHARACTERISTICS …` (isolation)",
        "set session characteristics as transaction isolation level serializable",
        "show default_transaction_isolation",
    ),
    case(
        "`SET default_transaction_read_only`",
        "set default_transaction_read_only = on",
        "show default_transaction_read_only",
    ),
    case("`SET TRANSACTION …`", "set transaction isolation level serializable", "show transaction_isolation"),
    case("temporary table", "create temporary table left_behind (id int)", "select to_regclass('pg_temp.left_behind')"),
    case(
        "temporary table `ON COMMIT DROP`",
        "create temporary table left_behind (id int) on commit drop",
        "select to_regclass('pg_temp.left_behind')",
    ),
    case("`pg_advisory_lock()`", "select pg_advisory_lock(42)", held("advisory")),
    case("`pg_advisory_xact_lock()`", "select pg_advisory_xact_lock(42)", held("advisory")),
    case(
        "`LOCK TABLE`",
        "lock table sessions_table in exclusive mode",
        "select count(*) from pg_locks "
        "where pid = pg_backend_pid() and mode = 'ExclusiveLock' and locktype = 'relation'",
    ),
    case("`LISTEN`", "listen news", count("pg_listening_channels()")),
    case("`PREPARE`", "prepare left_behind as select 1", count("pg_prepared_statements where from_sql")),
    case("statements that psycopg prepared", prepare_by_use, count("pg_prepared_statements where not from_sql")),
    case(
        "cursor `WITH HOLD`", "declare left_open cursor with hold for select 1", count("pg_cursors where is_holdable")
    ),
    case("server-side cursor", "declare left_open cursor for select 1", count("pg_cursors where name = 'left_open'")),
    case("`currval()`", "select nextval('sessions_sequence')", or_none("select currval('sessions_sequence')")),
    case("`conn.autocommit`", *attribute("autocommit", True)),
    case("`conn.isolation_level`", *attribute("isolation_level", psycopg.IsolationLevel.SERIALIZABLE)),
    case("`conn.read_only`", *attribute("read_only", True)),
    case("`conn.deferrable`", *attribute("deferrable", True)),
    case("`conn.row_factory`", *attribute("row_factory", dict_row)),
    case("`conn.cursor_factory`", *attribute("cursor_factory", OwnCursor)),
    case("`conn.server_cursor_factory`", *attribute("server_cursor_factory", OwnServerCursor)),
    case("`conn.prepare_threshold`", *attribute("prepare_threshold", 1)),
    case("`conn.prepared_max`", *attribute("prepared_max", 1)),
    case(
        "`conn.adapters`",
        lambda conn: conn.adapters.register_loader("text", OwnLoader),
        lambda conn: conn.adapters.get_loader(25, psycopg.pq.Format.TEXT).__name__,
    ),
    case(
        "`conn.add_notice_handler()`",
        lambda conn: conn.add_notice_handler(notice),
        lambda conn: notice in conn._notice_handlers,
    ),
    case(
        "`conn.add_notify_handler()`",
        lambda conn: conn.add_notify_handler(notice),
        lambda conn: notice in conn._notify_handlers,
    ),
    case(
        "an attribute of your own, `conn.tenant = …`",
        lambda conn: setattr(conn, "tenant", "A"),
        lambda conn: getattr(conn, "tenant", None),
    ),
    case(
        "notifications that nobody read",
        notify_oneself,
        lambda conn: [notify.payload for notify in conn.notifies(timeout=0)],
    ),
    case("`set_config(…, false)`", "select set_config('statement_timeout', '77s', false)", "show statement_timeout"),
    case("`set_config(…, true)`", "select set_config('statement_timeout', '77s', true)", "show statement_timeout"),
    case("SET in a function of your own", "select sessions_function()", "show statement_timeout"),
    case("SET in DO", "do $$ begin set statement_timeout = '77s'; end $$", "show statement_timeout"),
]


# --- MySQL and MariaDB ------------------------------------------------------------------------------------------------


KEPT: list[Any] = []
"""Cursors that somebody still holds: one that nobody holds reads its result to the end by itself."""


def stream(conn: Any) -> None:
    cursor = conn.cursor(pymysql.cursors.SSCursor)
    cursor.execute("select seq from seq_1_to_1000")
    cursor.fetchone()
    KEPT.append(cursor)


def decode_ints_as_text(conn: Any) -> None:
    conn.decoders[pymysql.constants.FIELD_TYPE.LONG] = str


def encode_ints_as_text(conn: Any) -> None:
    conn.encoders[int] = lambda value, mapping=None: f"'{value}'"


def next_isolation(conn: Any) -> object:
    """The isolation level of the transaction that begins with the first statement."""
    ask(conn, "select count(*) from sessions_table")
    time.sleep(0.15)  # the view is a copy that is up to a tenth of a second old
    return ask(
        conn,
        "select trx_isolation_level from information_schema.innodb_trx where trx_mysql_thread_id = connection_id()",
    )


MYSQL = [
    case("`SET SESSION …`, `SET …`", "set session sort_buffer_size = 65536", "select @@sort_buffer_size"),
    case("`SET foreign_key_checks`", "set foreign_key_checks = 0", "select @@foreign_key_checks"),
    case("`SET time_zone`", "set time_zone = '+09:00'", "select @@time_zone"),
    case("`SET sql_mode`", "set sql_mode = 'ANSI_QUOTES'", "select @@sql_mode"),
    case("`SET NAMES`", "set names latin1", "select @@character_set_client"),
    case("`SET ROLE`", "set role sessions_role", "select current_role()"),
    case("`SET @variable`", "set @left_behind = 5", "select @left_behind"),
    case("`CALL …(@variable)`", "call sessions_procedure(@left_behind)", "select @left_behind"),
    case("`SET @variable` in a function of your own", "select sessions_function()", "select @left_behind"),
    case("`SET autocommit`", "set autocommit = 1", "select @@autocommit"),
    case(
        "`SET SESSION TRANSACTION ISOLATION LEVEL`",
        "set session transaction isolation level serializable",
        "select @@tx_isolation",
    ),
    case("`SET SESSION TRANSACTION READ ONLY`", "set session transaction read only", "select @@tx_read_only"),
    case("`SET TRANSACTION …` (the next one)", "set transaction isolation level serializable", next_isolation),
    case(
        "temporary table",
        "create temporary table left_behind (id int)",
        or_none("select 1 + count(*) from left_behind"),
    ),
    case("`GET_LOCK()`", "select get_lock('left_behind', 1)", "select is_used_lock('left_behind') = connection_id()"),
    case("`LOCK TABLES`", "lock tables sessions_table read", or_none("select 1 + count(*) from sessions_other")),
    case("`PREPARE`", "prepare left_behind from 'select 5'", or_none("execute left_behind")),
    case(
        "`LAST_INSERT_ID()`",
        "insert into sessions_table (note) values ('x')",
        "select last_insert_id()",
    ),
    case("`USE`", "use information_schema", "select database()"),
    case("streamed result, unread", stream, lambda conn: conn.unfinished),
    case("`conn.select_db()`", lambda conn: conn.select_db("information_schema"), "select database()"),
    case("`conn.set_character_set()`", lambda conn: conn.set_character_set("latin1"), lambda conn: conn.charset),
    case("`conn.autocommit()`", lambda conn: conn.autocommit(True), lambda conn: conn.get_autocommit()),
    case("`conn.cursorclass`", *attribute("cursorclass", pymysql.cursors.DictCursor)),
    case(
        "`conn.decoders`", decode_ints_as_text, lambda conn: conn.decoders[pymysql.constants.FIELD_TYPE.LONG].__name__
    ),
    case("`conn.encoders`", encode_ints_as_text, lambda conn: conn.escape(5)),
]

CASES = {"PostgreSQL": POSTGRES, "MySQL and MariaDB": MYSQL}
