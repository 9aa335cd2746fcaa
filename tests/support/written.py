"""The writes of a MySQL connection, for tests that count round trips."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def written(conn: Any) -> Iterator[list[bytes]]:
    """The writes of a borrowed connection in this block; if one write has several commands, the first."""
    kind = type(conn.sock)
    genuine = kind.sendall
    found: list[bytes] = []

    def sendall(self: Any, data: Any, *rest: Any) -> None:
        if self is conn.sock and not self.line.ahead:
            found.append(data[5:])
        genuine(self, data, *rest)

    kind.sendall = sendall
    try:
        yield found
    finally:
        kind.sendall = genuine
