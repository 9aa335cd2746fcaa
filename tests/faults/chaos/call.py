"""One invocation of the ledger's function: what it should do, and the diary of what it was told.

The diary is a file, and not the answer, because an answer can be lost: what was acknowledged to the handler counts,
whether or not the caller ever hears of it.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lambda_pool import CommitUncertain, LambdaPoolError

POSTGRES = os.environ["URL"].startswith("postgresql")
DIARY = os.open(os.environ["DIARY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
INSERT = "insert into ledger (unit, part, payload) values (%s, %s, %s)"
ENDED = 1.0
"""Seconds after the handler's end by which a thread must have heard that its connection is gone."""


class OwnError(Exception):
    """What a handler raises for its own reasons."""


class Call:
    """One invocation: what it should do, and what it was told."""

    def __init__(self, event: dict[str, Any]) -> None:
        self.unit: str = event["unit"]
        self.rows: int = event["rows"]
        self.door: str = event["door"]
        self.payload = "x" * event["size"]
        self.held_until = 0.0
        self.hides = False
        """It hid an error of the driver: NotCommitted may be the truth."""
        self.undone = False
        """It came to its end, where it should be told that it saved nothing."""
        self.found = ""
        """What was left behind and must not be there: a setting of the last borrower, or a thread of the pool."""
        self.threads: list[threading.Thread] = []
        """Those that may outlive the handler."""
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

    def note_a_thread_that_stays(self) -> None:
        """A thread whose connection was taken away must hear of it."""
        for thread in self.threads:
            thread.join(ENDED)
            if thread.is_alive():
                self.found = f"a thread still uses its connection {ENDED:.0f} s after the handler's end"

    def parts(self) -> list[str]:
        """The names of its rows where each is a transaction of its own."""
        return [f"{self.unit}.{part}" for part in range(self.rows)]

    @contextmanager
    def told_by_its_end(self, *units: str) -> Iterator[None]:
        """A `with` block whose end says of these transactions whether they are saved."""
        try:
            yield
        except BaseException as error:
            self.told(said_by(error), *units)
            raise
        self.told("acknowledged", *units)


def sql(conn: Any, *statements: str) -> Any:
    """Run these. Out: the first row of the last one, if it has one."""
    with conn.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None


def enter(line: dict[str, Any]) -> None:
    # One write in append mode: whole, whoever else writes, and even if the process is killed right after.
    os.write(DIARY, json.dumps(line).encode() + b"\n")


def said_by(error: BaseException) -> str:
    """What an error says about the transaction whose block it left."""
    return "uncertain" if isinstance(error, CommitUncertain) else "failed"


def said_of_a_statement(error: BaseException, conn: Any) -> str:
    """What an error says about a borrower's own COMMIT, or a statement in autocommit mode, which is its own COMMIT."""
    if isinstance(error, LambdaPoolError):
        return "uncertain"
    if POSTGRES:
        state = getattr(error, "sqlstate", None) or ""
        return "uncertain" if conn.closed or not state or state[:2] in {"08", "57"} else "failed"
    number = error.args[0] if error.args else 0
    answered = isinstance(number, int) and 1000 <= number < 2000 and number not in {1053, 1317, 1927}
    return "failed" if answered and conn.open else "uncertain"


def lost(error: BaseException, conn: Any) -> bool:
    """True if an error that a handler swallows has undone the whole transaction, by the database's own rules."""
    return POSTGRES or isinstance(error, LambdaPoolError) or not conn.open
