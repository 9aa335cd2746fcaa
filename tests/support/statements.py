"""The statements that a server received, according to its own log."""

import re
import time
from typing import Any

_MARK = "mark-"


QUESTIONS = (
    "select s.n, c.l - c.r, ",
    "show global status like 'threads_connected'",
    "select @@max_connections, @@max_user_connections",
)
"""The pool's question how crowded the server is, at the end of an invocation that opened a connection."""


def without_questions(seen: list[str]) -> list[str]:
    """The statements without these."""
    return [text for text in seen if not text.startswith(QUESTIONS)]


class Statements:
    """The statements that the server received in a `with` block, in order and in lower case, on all connections.

    `database`: has `engine`, `server`, and `execute`. Statements sent through `execute` are left out.
    """

    def __init__(self, database: Any) -> None:
        self._database = database
        self.seen: list[str] = []

    def __enter__(self) -> "Statements":
        self._begin = len(self._settled())
        return self

    def __exit__(self, *_: object) -> None:
        log = self._settled()[self._begin :]
        if self._database.engine == "postgresql":
            found = re.findall(r"\[(\d+)\].*?(?:statement|execute [^:]*): (.*)", log)
        else:
            found = re.findall(r"\s(\d+) Query\t(.*)", log)
        ours = {backend for backend, text in found if _MARK in text}
        self.seen = [text.strip().lower() for backend, text in found if backend not in ours]

    def _settled(self) -> str:
        """The log, once it contains the last statement."""
        mark = f"{_MARK}{time.monotonic_ns()}"
        self._database.execute(f"select '{mark}'")
        until = time.monotonic() + 10
        while mark not in (log := str(self._database.server.log)):
            assert time.monotonic() < until, "the server's log lags behind"
            time.sleep(0.01)
        return log
