"""The ledger's ways into the pool: decorated, by block, by `run`, with autocommit, with errors, with threads."""

import threading
from typing import Any

from tests.faults.chaos.call import INSERT, POSTGRES, Call, OwnError, lost, said_by, said_of_a_statement
from tests.faults.chaos.pools import AUTOCOMMIT, POOL, WIDE
from tests.faults.chaos.schedule import THREADS


@POOL.handler
def handler_door(call: Call, context: Any, conn: Any) -> None:
    call.write(conn)


@POOL.handler
def connection_door(call: Call, context: Any) -> None:
    with POOL.connection() as conn:
        call.write(conn)


@POOL.handler
def run_door(call: Call, context: Any) -> None:
    POOL.run(call.write)


@POOL.handler
def run_on_autocommit_door(call: Call, context: Any) -> None:
    AUTOCOMMIT.run(call.write)


@POOL.handler
def raises_door(call: Call, context: Any, conn: Any) -> None:
    call.write(conn)
    raise OwnError("half way")


@POOL.handler
def savepoint_door(call: Call, context: Any, conn: Any) -> None:
    with conn.cursor() as cursor:
        cursor.execute("savepoint here")
        cursor.execute(INSERT, (f"{call.unit}.undone", 0, call.payload))
        cursor.execute("rollback to savepoint here")
    call.write(conn)


def one_by_one(call: Call, conn: Any) -> None:
    """Each row by itself: what was acknowledged before an error stays acknowledged."""
    waiting = call.parts()
    try:
        with conn.cursor() as cursor:
            for part, unit in enumerate(waiting.copy()):
                call.point(part)
                try:
                    cursor.execute(INSERT, (unit, 0, call.payload))
                except Exception as error:
                    call.told(said_of_a_statement(error, conn), waiting.pop(0))
                    raise
                call.told("acknowledged", waiting.pop(0))
        call.point(call.rows)
    finally:
        if waiting:
            call.told("failed", *waiting)


@POOL.handler
def autocommit_door(call: Call, context: Any) -> None:
    try:
        lease = AUTOCOMMIT.connection()
        conn = lease.__enter__()
    except BaseException:
        call.told("failed", *call.parts())
        raise
    with _Entered(lease):
        one_by_one(call, conn)


class _Entered:
    """The rest of a `with` statement whose entry was told apart from its block."""

    def __init__(self, lease: Any) -> None:
        self._lease = lease

    def __enter__(self) -> None:
        pass

    def __exit__(self, *details: Any) -> Any:
        return self._lease.__exit__(*details)


@POOL.handler
def switched_to_autocommit_door(call: Call, context: Any) -> None:
    """On a pool without autocommit, by a borrower who switches it on and leaves it on."""
    units = call.parts()
    try:
        lease = POOL.connection()
        conn = lease.__enter__()
    except BaseException:
        call.told("failed", *units)
        raise
    with _Entered(lease):
        try:
            if POSTGRES:
                conn.autocommit = True
            else:
                conn.autocommit(True)
        except BaseException:
            call.told("failed", *units)
            raise
        one_by_one(call, conn)


def swallowing(call: Call, conn: Any) -> tuple[list[str], list[str]]:
    """Write, and hide the driver's error. Out: the rows that should be saved, and those that should not."""
    units = call.parts()
    done: list[str] = []
    try:
        with conn.cursor() as cursor:
            for part, unit in enumerate(units):
                call.point(part)
                cursor.execute(INSERT, (unit, 0, call.payload))
                done.append(unit)
    except Exception as error:
        call.hides = True
        if lost(error, conn):
            return [], units
        return done, units[len(done) :]
    call.point(call.rows)
    return done, []


def swallows_door(call: Call, context: Any) -> None:
    saved: list[str] = []
    gone: list[str] = []

    @POOL.handler
    def door(call: Call, context: Any, conn: Any) -> None:
        nonlocal saved, gone
        saved, gone = swallowing(call, conn)

    units = call.parts()
    try:
        door(call, context)
    except BaseException as error:
        call.told(said_by(error), *(saved or units))
        if saved and gone:
            call.told("failed", *gone)
        raise
    if saved:
        call.told("acknowledged", *saved)
    if gone:
        call.told("failed", *gone)


@POOL.handler
def swallows_in_run_door(call: Call, context: Any) -> None:
    """`run` reports it if nothing can be committed. MySQL could commit after an error, so there the work gives up."""

    def work(conn: Any) -> None:
        try:
            call.write(conn)
        except Exception as error:
            if not lost(error, conn):
                raise
            call.hides = True

    POOL.run(work)


@POOL.handler
def threads_door(call: Call, context: Any) -> None:
    """More threads than connections: they queue, each with a transaction of its own."""
    errors: list[BaseException] = []

    def work(number: int) -> None:
        unit = f"{call.unit}.{number}"
        try:
            with WIDE.connection() as conn:
                call.write(conn, unit, struck=number == 0)
        except BaseException as error:
            call.told(said_by(error), unit)
            errors.append(error)
        else:
            call.told("acknowledged", unit)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
