"""Cursors of psycopg that end each statement with a comment. Imported only with `trace_comment`."""

from typing import Any

import psycopg
from psycopg import sql

from ..traceparent import comment, with_comment
from .cursors import joined

_GENUINE = (psycopg.ServerCursor, psycopg.AsyncServerCursor, psycopg.Cursor, psycopg.AsyncCursor)


def _commenting(name: str) -> Any:
    """The driver's method of that name, for a statement with the comment."""

    def method(self: Any, query: Any, *args: Any, **named: Any) -> Any:
        return getattr(super(Commented, self), name)(_commented(query), *args, **named)

    method.__name__ = name
    return method


class Commented:
    """A mixin right before psycopg's cursor class. An instrumentor's class comes earlier, so its span is current."""

    __slots__ = ()

    execute: Any = _commenting("execute")
    executemany: Any = _commenting("executemany")
    stream: Any = _commenting("stream")
    copy: Any = _commenting("copy")


def commented(cursor_class: Any) -> Any:
    """The same cursor class, with Commented right before psycopg's own; unchanged if it is not a class."""
    if not isinstance(cursor_class, type) or issubclass(cursor_class, Commented):
        return cursor_class
    genuine: Any = next(each for each in _GENUINE if issubclass(cursor_class, each))
    return joined(cursor_class, (cursor_class, joined(genuine, (Commented, genuine))))


def _commented(query: Any) -> Any:
    if isinstance(query, str | bytes):
        return with_comment(query)
    said = comment()
    if not said:
        return query
    if isinstance(query, sql.Composable):
        return query + sql.SQL(said)
    return query + type(query)(said)  # a template string, of Python 3.14
