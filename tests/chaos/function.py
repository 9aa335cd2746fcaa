"""The Lambda function that writes the ledger: it runs on the genuine runtime, and notes in a diary what it was told.

The diary is a file, and not the answer, because an answer can be lost: what was acknowledged to the handler counts,
whether or not the caller ever hears of it.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import lambda_pool
from lambda_pool import CommitUncertain, LambdaPoolError

URL = os.environ["URL"]
POSTGRES = URL.startswith("postgresql")
OPTIONS = json.loads(os.environ["OPTIONS"])
DIARY = os.open(os.environ["DIARY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
INSERT = "insert into ledger (unit, part, payload) values (%s, %s, %s)"

if "SECRET" in os.environ:
    OPTIONS["auth"] = lambda_pool.SecretsManager(os.environ["SECRET"])
POOL = lambda_pool.Pool(URL, name="ledger", **OPTIONS)
AUTOCOMMIT = lambda_pool.Pool(URL, name="autocommit", autocommit=True, **OPTIONS)
WIDE = lambda_pool.Pool(URL, name="wide", max_size=2, **OPTIONS)

if "SABOTAGE" in os.environ:
    from tests.chaos import sabotage

    sabotage.apply(os.environ["SABOTAGE"])

if "SECRET" in os.environ:
    # Importing the AWS SDK is a computation that takes as long as some deadlines here, and that nothing can interrupt.
    POOL.warm()


class OwnError(Exception):
    """What a handler raises for reasons of its own."""


class Call:
    """One invocation: what it is to do, and what it was told."""

    def __init__(self, event: dict[str, Any]) -> None:
        self.unit: str = event["unit"]
        self.rows: int = event["rows"]
        self.door: str = event["door"]
        self.payload = "x" * event["size"]
        self.held_until = 0.0
        self._struck_at: int | None = event.get("point")

    def point(self, number: int) -> None:
        """Let the fault strike, if this is its place: before a row, or before COMMIT."""
        if self._struck_at != number:
            return
        self._struck_at = None  # not again in a replay
        with suppress(OSError), socket.socket(socket.AF_UNIX) as trigger:
            trigger.settimeout(5)
            trigger.connect(os.environ["TRIGGER"])
            trigger.recv(1)
        self.held_until = time.time()

    def write(self, conn: Any, unit: str | None = None, *, struck: bool = True) -> None:
        """All rows of one transaction."""
        with conn.cursor() as cursor:
            for part in range(self.rows):
                if struck:
                    self.point(part)
                cursor.execute(INSERT, (unit or self.unit, part, self.payload))
        if struck:
            self.point(self.rows)

    def told(self, what: str, *units: str) -> None:
        """Enter into the diary what was said of these transactions."""
        for unit in units or (self.unit,):
            enter({"unit": unit, "told": what})


def enter(line: dict[str, Any]) -> None:
    # One write in append mode: whole, whoever else writes, and even if the process is killed right after.
    os.write(DIARY, json.dumps(line).encode() + b"\n")


def said_by(error: BaseException) -> str:
    """What an error says of the transaction whose block it came out of."""
    return "uncertain" if isinstance(error, CommitUncertain) else "failed"


def said_of_a_statement(error: BaseException, conn: Any) -> str:
    """What an error says of a statement in autocommit mode, which is its own COMMIT."""
    if isinstance(error, LambdaPoolError):
        return "uncertain"
    if POSTGRES:
        state = getattr(error, "sqlstate", None) or ""
        return "uncertain" if conn.closed or not state or state[:2] in {"08", "57"} else "failed"
    number = error.args[0] if error.args else 0
    answered = isinstance(number, int) and 1000 <= number < 2000 and number not in {1053, 1317, 1927}
    return "failed" if answered and conn.open else "uncertain"


def lost(error: BaseException, conn: Any) -> bool:
    """Whether an error that a handler swallows has undone the whole transaction, by the database's own rules."""
    return POSTGRES or isinstance(error, LambdaPoolError) or not conn.open


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
    """Each row for itself: what was acknowledged before an error stays acknowledged."""
    waiting = [f"{call.unit}.{part}" for part in range(call.rows)]
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
        call.told("failed", *(f"{call.unit}.{part}" for part in range(call.rows)))
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
    """On a pool without autocommit, by a borrower who changes it, and leaves it so."""
    units = [f"{call.unit}.{part}" for part in range(call.rows)]
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
    """Write, and hide the driver's error. Out: the rows that are to be saved, and those that are not."""
    units = [f"{call.unit}.{part}" for part in range(call.rows)]
    done: list[str] = []
    try:
        with conn.cursor() as cursor:
            for part, unit in enumerate(units):
                call.point(part)
                cursor.execute(INSERT, (unit, 0, call.payload))
                done.append(unit)
    except Exception as error:
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

    units = [f"{call.unit}.{part}" for part in range(call.rows)]
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
    """`run` says so when nothing can be committed; what MySQL can commit after an error, the work itself gives up."""

    def work(conn: Any) -> None:
        try:
            call.write(conn)
        except Exception as error:
            if not lost(error, conn):
                raise

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

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# Their transactions are told of one by one, inside.
SPEAK_FOR_THEMSELVES = {"autocommit", "switched_to_autocommit", "swallows", "threads"}


def answer(call: Call, context: Any) -> None:
    """Go through the door, and note what comes out of it."""
    door = globals()[f"{call.door}_door"]
    if call.door in SPEAK_FOR_THEMSELVES:
        door(call, context)
        return
    try:
        door(call, context)
    except BaseException as error:
        call.told(said_by(error))
        raise
    finally:
        if call.door == "savepoint":
            call.told("failed", f"{call.unit}.undone")
    call.told("acknowledged")


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    # The genuine context, with a deadline that differs from one invocation to the next. Lambda's own comes later, so
    # that being late can be measured, where Lambda would only end the environment.
    deadline = min(context._epoch_deadline_time_in_ms, int((time.time() + event["budget"]) * 1000))
    context._epoch_deadline_time_in_ms = deadline
    call = Call(event)
    began = time.monotonic()
    failure: BaseException | None = None
    try:
        answer(call, context)
    except Exception as error:
        failure = error
        raise
    finally:
        took = time.monotonic() - began
        text = "" if failure is None else f"{type(failure).__name__}: {failure}"[:400]
        own = failure is None or isinstance(failure, OwnError)
        # A handler that waits for a fault to strike gives the pool nothing to end: the wait is reported apart.
        held = max(call.held_until - deadline / 1000, 0.0)
        late = time.time() - deadline / 1000 - held
        enter({"end": call.unit, "took": took, "late": late, "held": held, "error": text, "own": own})
    return {"unit": call.unit, "sizes": [pool.stats().size for pool in (POOL, AUTOCOMMIT, WIDE)]}
