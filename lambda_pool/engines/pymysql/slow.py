"""A connection of PyMySQL whose cursors tell of slow statements. Imported only with `slow_query`.

Timed at the cursor, where a statement and its parameters are still two things: `Connection.query` sees one text.
"""

from functools import cache
from typing import Any

from ..slow import OnSlow, timed
from .connection import BoundedConnection


class WatchedConnection(BoundedConnection):
    """A BoundedConnection that is told at once after it was made what `slow_query` and `on_slow` are."""

    slow_query: float
    on_slow: OnSlow

    def cursor_type(self, asked: Any) -> Any:
        """The class of a new cursor, which tells of slow statements."""
        return _watching(super().cursor_type(asked))


@cache
def _watching(base: Any) -> Any:
    class Watching(base):  # type: ignore[misc]
        _watched = False
        """`executemany` runs through `execute`, with the parameters already in the text."""

        def _timed(self, text: str | bytes, method: Any, *args: Any) -> Any:
            conn = self.connection
            if self._watched or conn is None:  # a closed cursor has an error of its own
                return method(*args)
            self._watched = True
            try:
                with timed(conn.slow_query, conn.on_slow, lambda: _text(text)):
                    return method(*args)
            finally:
                self._watched = False

        def execute(self, query: Any, args: Any = None) -> Any:
            return self._timed(query, super().execute, query, args)

        def executemany(self, query: Any, args: Any) -> Any:
            return self._timed(query, super().executemany, query, args)

        def callproc(self, procname: Any, args: Any = ()) -> Any:
            return self._timed(f"CALL {procname}", super().callproc, procname, args)

    Watching.__name__ = Watching.__qualname__ = base.__name__
    return Watching


def _text(statement: str | bytes) -> str:
    return statement if isinstance(statement, str) else bytes(statement).decode("utf-8", "replace")
