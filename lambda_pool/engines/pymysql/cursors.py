"""Classes in front of PyMySQL's cursors: they report errors among streamed rows, and slow statements."""

from contextlib import suppress
from functools import cache
from time import monotonic
from typing import Any

from ..slow import tell_if_slow
from . import private


def read_on(conn: Any) -> None:
    """Read what is left of all results of the last statement."""
    result = private.result_of(conn)
    if result is not None and result.unbuffered_active:
        conn.read_next_by(lambda: private.read_to_the_end(result))
    while conn.unfinished:
        conn.next_result()


@cache
def streaming(base: Any) -> Any:
    """A cursor class that reads its rows one by one, and tells its connection of the errors among them."""

    class Streaming(base):  # type: ignore[misc]
        connection: Any

        def read_next(self) -> Any:
            conn = self.connection
            return conn.read_next_by(super().read_next) if conn is not None else super().read_next()

        def close(self) -> None:
            conn = self.connection
            if conn is not None and conn.open:
                if conn.line.is_taken():  # two would read one answer: whoever sends the next command reads the rest
                    self.connection = None
                else:
                    conn.read_next_by(super().close)  # which reads the rest
                return
            # On a lost connection, the error from reading on would hide why it was lost.
            if conn is not None:
                conn.drop_result()
            super().close()

        def __del__(self) -> None:
            with suppress(Exception):  # it is noted, and told at the end of the block
                conn = self.connection
                # The garbage collector may call this amid a command, even in the thread that reads its answer.
                if conn is not None and conn.line.thread is None and conn.unfinished:
                    self.close()

    Streaming.__name__ = Streaming.__qualname__ = base.__name__
    return Streaming


@cache
def watching(base: Any) -> Any:
    """A cursor class that reports slow statements. Here a statement and its parameters are still separate."""

    class Watching(base):  # type: ignore[misc]
        _watched = False
        """`executemany` runs through `execute`, with the parameters already in the text."""

        def _timed(self, text: str | bytes, method: Any, *args: Any) -> Any:
            conn = self.connection
            if self._watched or conn is None:  # a closed cursor raises an error of its own
                return method(*args)
            self._watched, start = True, monotonic()
            try:
                return method(*args)
            finally:
                self._watched = False
                tell_if_slow(start, conn.slow_query, conn.on_slow, lambda: _text(text))

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
