"""The ledger's ways into the pool that people use, and that go past what the pool was made for."""

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import pymysql

from tests.chaos.call import ENDED, POSTGRES, Call, OwnError, said_by, said_of_a_statement
from tests.chaos.doors import one_by_one
from tests.chaos.pools import AUTOCOMMIT, POOL, TENANTS, WIDE

NAME = os.environ["NAME"]
SLEEP = "select pg_sleep(2)" if POSTGRES else "select sleep(2)"
LAST_MOMENT = 150
"""Milliseconds before the deadline at which a handler here waits no longer."""
READS = 6
"""So often that psycopg has prepared the statement."""
_TABLE_EXISTS = 1050


def sql(conn: Any, *statements: str) -> Any:
    """Run these; the first row of the last, where it has one."""
    with conn.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None


def commit(call: Call, conn: Any) -> None:
    """The borrower's own COMMIT, by one of its two ways."""
    if call.rows % 2:
        conn.commit()
    else:
        sql(conn, "commit")


def told_by_commit(call: Call, conn: Any, write: Callable[[], None], end: Callable[[], None], unit: str) -> None:
    """Write, and commit by what `end` does; then nothing that comes later changes it."""
    try:
        write()
    except BaseException:
        call.told("failed", unit)
        raise
    try:
        end()
    except BaseException as error:
        call.told(said_of_a_statement(error, conn), unit)
        raise
    call.told("acknowledged", unit)


@contextmanager
def told_if_never_lent(call: Call, lease: AbstractContextManager[Any]) -> Any:
    """`with lease`, where only the block itself tells of its transactions."""
    lent = False
    try:
        with lease as conn:
            lent = True
            yield conn
    finally:
        if not lent:
            call.told("failed")


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
    """A function that is decorated, called inside of a block that is not."""

    def enter(outer: Callable[[Any], None]) -> None:
        with WIDE.connection() as conn:
            outer(conn)

    _calls_a_decorated(call, context, enter)


def decorated_in_a_decorated_door(call: Call, context: Any) -> None:
    def enter(outer: Callable[[Any], None]) -> None:
        WIDE.handler(lambda call, context, conn: outer(conn))(call, context)

    _calls_a_decorated(call, context, enter)


# --- the driver's own ways to end a transaction -----------------------------------------------------------------------


def _with_conn(call: Call, conn: Any) -> None:
    """`with conn:` commits; psycopg closes it too."""
    committing = False
    try:
        with conn:
            call.write(conn)
            committing = True
    except BaseException as error:
        call.told(said_of_a_statement(error, conn) if committing else "failed")
        raise
    call.told("acknowledged")


def with_conn_door(call: Call, context: Any) -> None:
    lent = False

    @POOL.handler
    def door(call: Call, context: Any, conn: Any) -> None:
        nonlocal lent
        lent = True
        _with_conn(call, conn)

    try:
        door(call, context)
    finally:
        if not lent:
            call.told("failed")


@POOL.handler
def with_conn_in_a_block_door(call: Call, context: Any) -> None:
    with told_if_never_lent(call, POOL.connection()) as conn:
        _with_conn(call, conn)


def _transaction(conn: Any) -> AbstractContextManager[Any]:
    """psycopg's own block. PyMySQL has none, and `begin()` in its place."""
    if POSTGRES:
        block: AbstractContextManager[Any] = conn.transaction()
        return block
    conn.begin()
    return nullcontext()


@POOL.handler
def transaction_first_door(call: Call, context: Any, conn: Any) -> None:
    with _transaction(conn):
        call.write(conn)


@POOL.handler
def transaction_first_raises_door(call: Call, context: Any, conn: Any) -> None:
    with _transaction(conn):
        call.write(conn)
    raise OwnError("the rest went wrong")


@POOL.handler
def transaction_on_autocommit_door(call: Call, context: Any) -> None:
    """What psycopg's manual advises: autocommit, and a transaction block where one is wanted."""
    with told_if_never_lent(call, AUTOCOMMIT.connection()) as conn:
        committing = False
        try:
            with _transaction(conn):
                call.write(conn)
                committing = True
            if not POSTGRES:
                conn.commit()
        except BaseException as error:
            call.told(said_of_a_statement(error, conn) if committing else "failed")
            raise
        call.told("acknowledged")


def _first_part(call: Call, conn: Any, end: Callable[[], None]) -> None:
    unit = f"{call.unit}.first"
    told_by_commit(call, conn, lambda: call.write(conn, unit, struck=False), end, unit)


def _commits(call: Call, context: Any, finish: Callable[[], None]) -> None:
    first, second = f"{call.unit}.first", f"{call.unit}.second"
    lent = False

    @POOL.handler
    def door(call: Call, context: Any, conn: Any) -> None:
        nonlocal lent
        lent = True
        _first_part(call, conn, lambda: commit(call, conn))
        call.write(conn, second)
        finish()

    try:
        with call.told_by_its_end(second):
            door(call, context)
    finally:
        if not lent:
            call.told("failed", first)


def commits_door(call: Call, context: Any) -> None:
    """A COMMIT half way, and the rest is the pool's to commit."""
    _commits(call, context, lambda: None)


def commits_then_raises_door(call: Call, context: Any) -> None:
    def fail() -> None:
        raise OwnError("after the first half was committed")

    _commits(call, context, fail)


def closes_door(call: Call, context: Any) -> None:
    """`commit()` and `close()`, as in a script."""
    lent = False

    @POOL.handler
    def door(call: Call, context: Any, conn: Any) -> None:
        nonlocal lent
        lent = True
        told_by_commit(call, conn, lambda: call.write(conn), lambda: commit(call, conn), call.unit)
        conn.close()

    try:
        door(call, context)
    finally:
        if not lent:
            call.told("failed")


@POOL.handler
def closes_early_door(call: Call, context: Any, conn: Any) -> None:
    call.write(conn)
    conn.close()
    call.undone = True


def chains_in_run_door(call: Call, context: Any) -> None:
    """A COMMIT inside of `run`, and work after it: what is saved must not be written again."""
    first, second = f"{call.unit}.first", f"{call.unit}.second"
    said = "failed"

    def work(conn: Any) -> None:
        nonlocal said
        call.write(conn, first, struck=False)
        try:
            sql(conn, "commit and chain")
        except BaseException as error:
            said = said_of_a_statement(error, conn)
            raise
        said = "acknowledged"
        call.write(conn, second)

    @POOL.handler
    def door(call: Call, context: Any) -> None:
        POOL.run(work)

    try:
        with call.told_by_its_end(second):
            door(call, context)
    finally:
        call.told(said, first)


# --- threads ----------------------------------------------------------------------------------------------------------


@POOL.handler
def thread_writes_door(call: Call, context: Any, conn: Any) -> None:
    """The handler's connection, used by a thread that is waited for."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(call.write, conn).result()


def thread_at_work_door(call: Call, context: Any) -> None:
    """The handler's connection, at work in a thread when the handler ends."""

    def late(conn: Any) -> None:
        with suppress(Exception):
            sql(conn, SLEEP)

    @POOL.handler
    def door(call: Call, context: Any, conn: Any) -> None:
        call.write(conn)
        thread = threading.Thread(target=late, args=(conn,), daemon=True)
        call.threads.append(thread)
        thread.start()
        if not _is_at_work(thread, context):
            raise OwnError("no time left to wait for the thread")
        call.undone = True

    with call.told_by_its_end():
        door(call, context)


def _is_at_work(thread: threading.Thread, context: Any) -> bool:
    """Wait until it waits in the driver, where it runs the same instruction each time one looks, or has ended.

    False if there is no time for that.
    """
    seen: list[tuple[object, int]] = []
    while context.get_remaining_time_in_millis() > LAST_MOMENT:
        time.sleep(0.005)
        frame = sys._current_frames().get(thread.ident or 0)
        if frame is None:
            return True
        seen.append((frame.f_code, frame.f_lasti))
        inside = frame.f_code.co_filename not in {__file__, threading.__file__}
        if inside and len(seen) > 3 and len(set(seen[-4:])) == 1:
            return True
    return False


def thread_outlives_door(call: Call, context: Any) -> None:
    """A thread with a connection of its own, which may or may not have committed when the handler ends."""
    written = threading.Event()
    said = "failed"
    problem: BaseException | None = None

    def work() -> None:
        nonlocal said, problem
        try:
            with WIDE.connection() as conn:
                call.write(conn)
                written.set()
            said = "acknowledged"
        except BaseException as error:
            said, problem = said_by(error), error
        finally:
            written.set()

    @POOL.handler
    def door(call: Call, context: Any) -> None:
        thread = threading.Thread(target=work, daemon=True)
        call.threads.append(thread)
        thread.start()
        written.wait(5.0)
        if problem is not None:
            raise problem
        call.undone = True

    try:
        door(call, context)
    except BaseException as error:
        # The handler's own word is what its caller hears; before its end, the thread's is.
        call.told(said_by(error) if call.undone else said)
        raise
    else:
        call.threads[0].join(ENDED)  # told of its COMMIT it may be only now
        call.told(said)
        if said != "acknowledged" and not call.held_until:
            call.found = f"the handler ended well, and its thread's work is lost: {problem}"
    finally:
        problem = None


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
    """What may fail is put into a savepoint, as the manuals advise: the rest is saved."""
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
