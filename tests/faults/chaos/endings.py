"""The ledger's doors that end a transaction by the driver's own means: `with conn:`, blocks, COMMIT, `close()`."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from tests.faults.chaos.call import POSTGRES, Call, OwnError, said_of_a_statement, sql
from tests.faults.chaos.pools import AUTOCOMMIT, POOL


def commit(call: Call, conn: Any) -> None:
    """The borrower's own COMMIT, by one of its two ways."""
    if call.rows % 2:
        conn.commit()
    else:
        sql(conn, "commit")


def told_by_commit(call: Call, conn: Any, write: Callable[[], None], end: Callable[[], None], unit: str) -> None:
    """Write, and commit with what `end` does. Nothing that comes later changes that."""
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
    """`with lease`, if only the block itself reports on its transactions."""
    lent = False
    try:
        with lease as conn:
            lent = True
            yield conn
    finally:
        if not lent:
            call.told("failed")


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
    """psycopg's own block. PyMySQL has none, so `begin()` takes its place."""
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
    """What psycopg's manual advises: autocommit, and a transaction block where you want one."""
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
    """A COMMIT half way. The pool commits the rest."""
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
