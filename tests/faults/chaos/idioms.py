"""The ledger's ways into the pool that people use, and that go past what the pool was made for."""

import os
from collections.abc import Callable
from typing import Any

import pymysql

from tests.faults.chaos.call import POSTGRES, Call, OwnError, sql
from tests.faults.chaos.doors import one_by_one
from tests.faults.chaos.pools import AUTOCOMMIT, POOL, TENANTS, WIDE

NAME = os.environ["NAME"]
READS = 6
"""So often that psycopg has prepared the statement."""
_TABLE_EXISTS = 1050


# --- without the decorator --------------------------------------------------------------------------------------------


def undecorated_connection_door(call: Call, context: Any) -> None:
    with POOL.connection() as conn:
        call.write(conn)


def undecorated_run_door(call: Call, context: Any) -> None:
    POOL.run(call.write)


@WIDE.handler
def _inner(call: Call, context: Any, conn: Any) -> None:
    call.write(conn, f"{call.unit}.inner")


def _calls_a_decorated(call: Call, context: Any, enter: Callable[[Callable[[Any], None]], None]) -> None:
    """`enter` calls what it is given with a connection, in a transaction of its own."""
    called = False

    def outer(conn: Any) -> None:
        nonlocal called
        call.write(conn, f"{call.unit}.outer", struck=False)
        called = True
        with call.told_by_its_end(f"{call.unit}.inner"):
            _inner(call, context)

    try:
        with call.told_by_its_end(f"{call.unit}.outer"):
            enter(outer)
    finally:
        if not called:
            call.told("failed", f"{call.unit}.inner")


def decorated_in_a_block_door(call: Call, context: Any) -> None:
    """A decorated function, called inside a block that is not decorated."""

    def enter(outer: Callable[[Any], None]) -> None:
        with WIDE.connection() as conn:
            outer(conn)

    _calls_a_decorated(call, context, enter)


def decorated_in_a_decorated_door(call: Call, context: Any) -> None:
    def enter(outer: Callable[[Any], None]) -> None:
        WIDE.handler(lambda call, context, conn: outer(conn))(call, context)

    _calls_a_decorated(call, context, enter)


# --- routes -----------------------------------------------------------------------------------------------------------


@POOL.handler
def answers_400_door(call: Call, context: Any, conn: Any) -> dict[str, int]:
    """A route that turns its own error into an answer: what it wrote is saved."""
    try:
        call.write(conn)
        raise OwnError("no such order")
    except OwnError:
        return {"statusCode": 400}


def answers_400_after_a_rollback_door(call: Call, context: Any) -> None:
    @POOL.handler
    def door(call: Call, context: Any, conn: Any) -> dict[str, int]:
        try:
            call.write(conn)
            if call.rows % 2:
                raise OwnError("no such order")
            sql(conn, "insert into nowhere values (1)")
        except Exception as error:
            if isinstance(error, OwnError) or _is_about_nowhere(error):
                conn.rollback()
                return {"statusCode": 409}
            raise
        return {"statusCode": 200}

    try:
        door(call, context)
    finally:
        call.told("failed")


def _is_about_nowhere(error: Exception) -> bool:
    return "nowhere" in str(error)


@POOL.handler
def hides_a_failed_statement_door(call: Call, context: Any, conn: Any) -> dict[str, int]:
    """PostgreSQL saves nothing after it; MySQL saves the rest."""
    call.write(conn)
    try:
        sql(conn, "insert into nowhere values (1)")
    except Exception:
        call.hides = True
    call.undone = POSTGRES
    return {"statusCode": 200}


@POOL.handler
def fails_in_a_savepoint_door(call: Call, context: Any, conn: Any) -> None:
    """The part that may fail is in a savepoint, as the manuals advise: the rest is saved."""
    call.write(conn)
    if POSTGRES:
        try:
            with conn.transaction():
                sql(conn, "insert into nowhere values (1)")
        except Exception as error:
            if not _is_about_nowhere(error):
                raise
            call.hides = conn.closed  # psycopg raises this error also where the way back to the savepoint was lost
        return
    sql(conn, "savepoint here")
    try:
        sql(conn, "insert into nowhere values (1)")
    except Exception as error:
        if not _is_about_nowhere(error):
            raise
        sql(conn, "rollback to savepoint here")


# --- conflicts --------------------------------------------------------------------------------------------------------


def _conflict(call: Call, conn: Any, *, meets_another: bool) -> None:
    """Write rows, and change what somebody else has changed since: 40001, and on MariaDB 1020."""
    sql(
        conn,
        "set transaction isolation level repeatable read" if POSTGRES else "set session innodb_snapshot_isolation = on",
    )
    call.write(conn)
    tally = f"tally where who = '{NAME}'"
    sql(conn, f"select v from {tally}")
    change = f"update {tally.replace(' where', ' set v = v + 1 where')}"
    if meets_another:
        with AUTOCOMMIT.connection() as other:
            sql(other, change)
    sql(conn, change)


@POOL.handler
def hides_a_conflict_door(call: Call, context: Any, conn: Any) -> None:
    try:
        _conflict(call, conn, meets_another=True)
    except Exception as error:
        if not _is_a_conflict(error):
            raise
        call.undone = True


def _is_a_conflict(error: Exception) -> bool:
    return getattr(error, "sqlstate", "") == "40001" or error.args[:1] in {(1020,), (1213,)}


@POOL.handler
def conflicts_in_run_door(call: Call, context: Any) -> None:
    turns = iter([True])
    POOL.run(lambda conn: _conflict(call, conn, meets_another=next(turns, False)))


# --- migrations -------------------------------------------------------------------------------------------------------


def _read(conn: Any) -> None:
    with conn.cursor() as cursor:
        for _ in range(READS):
            cursor.execute(f"select * from catalog_{NAME} where id = %s", (1,))
            cursor.fetchall()


def _write_and_read(call: Call, conn: Any) -> None:
    """The read comes last, so that a migration may come at each point before; MySQL's snapshot is older."""
    sql(conn, f"select v from tally where who = '{NAME}'")
    call.write(conn)
    _read(conn)


@POOL.handler
def reads_door(call: Call, context: Any, conn: Any) -> None:
    _write_and_read(call, conn)


@POOL.handler
def reads_in_run_door(call: Call, context: Any) -> None:
    POOL.run(lambda conn: _write_and_read(call, conn))


@POOL.handler
def reads_on_autocommit_door(call: Call, context: Any) -> None:
    lent = False
    try:
        with AUTOCOMMIT.connection() as conn:
            lent = True
            one_by_one(call, conn)
            _read(conn)
    finally:
        if not lent:
            call.told("failed", *call.parts())


# --- what one borrower leaves to the next -----------------------------------------------------------------------------


@TENANTS.handler
def changes_the_session_door(call: Call, context: Any, conn: Any) -> None:
    """A variable, a temporary table and (PostgreSQL) a channel, none of which the next invocation may find."""
    if POSTGRES:
        found = sql(
            conn,
            "select coalesce(current_setting('app.tenant', true), '')"
            " || coalesce(to_regclass('pg_temp.scratch')::text, '')"
            " || (select coalesce(string_agg(channel, ' '), '') from pg_listening_channels() as channel)",
        )
        call.found = found[0] and f"the session still has {found[0]}"
        sql(conn, f"set app.tenant = '{call.unit}'", "listen orders", "create temporary table scratch (n int)")
    else:
        [tenant] = sql(conn, "select @tenant")
        call.found = f"the session still has @tenant {tenant}" if tenant else ""
        sql(conn, f"set @tenant = '{call.unit}'")
        try:
            sql(conn, "create temporary table scratch (n int)")
        except pymysql.Error as error:
            if error.args[:1] != (_TABLE_EXISTS,):
                raise
            call.found = "the session still has a temporary table"
    call.write(conn)
