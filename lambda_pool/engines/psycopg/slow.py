"""Cursors of psycopg that tell of slow statements. Imported, and in the way of a statement, only with `slow_query`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from psycopg import sql

from ..slow import OnSlow, timed

if TYPE_CHECKING:
    import psycopg


def watch(conn: "psycopg.Connection[Any]", limit: float, on_slow: OnSlow) -> None:
    """Let every cursor of the connection tell of statements that take longer than `limit` seconds."""
    conn.cursor_factory = _watching(conn.cursor_factory, limit, on_slow)
    conn.server_cursor_factory = _watching(conn.server_cursor_factory, limit, on_slow)


def _watching(base: Any, limit: float, on_slow: OnSlow) -> Any:
    class Watching(base):  # type: ignore[misc]
        def execute(self, query: Any, *args: Any, **named: Any) -> Any:
            with timed(limit, on_slow, lambda: statement(query)):
                return super().execute(query, *args, **named)

        def executemany(self, query: Any, params_seq: Iterable[Any], **named: Any) -> None:
            with timed(limit, on_slow, lambda: statement(query)):
                super().executemany(query, params_seq, **named)

    Watching.__name__ = Watching.__qualname__ = base.__name__
    return Watching


def statement(query: Any) -> str:
    """A query as text with `?` in the place of each value that Python put in."""
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode("utf-8", "replace")
    if isinstance(query, sql.Literal):
        return "?"
    if isinstance(query, sql.Composed):
        return "".join(statement(part) for part in query)
    if isinstance(query, sql.Composable):
        return query.as_string(None)
    strings = getattr(query, "strings", None)  # a template string, of Python 3.14
    return "?".join(strings) if isinstance(strings, tuple) else type(query).__name__
