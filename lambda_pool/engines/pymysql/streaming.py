"""Cursors that read their rows one by one: what they add to PyMySQL's."""

from functools import cache
from typing import Any


@cache
def streaming(base: Any) -> Any:
    """A cursor's class whose connection learns of the errors among its rows."""

    class Streaming(base):  # type: ignore[misc]
        def read_next(self) -> Any:
            conn = self.connection
            return conn.read_next_by(super().read_next) if conn is not None else super().read_next()

        def close(self) -> None:
            # On a lost connection the error of reading on would hide why it was lost.
            if self.connection is not None and not self.connection.open:
                self.connection.drop_result()
            super().close()

    Streaming.__name__ = Streaming.__qualname__ = base.__name__
    return Streaming
