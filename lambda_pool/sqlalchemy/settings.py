"""What SQLAlchemy sets on a connection for one borrow, and takes back at its end: an isolation level and the like."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from .borrowed import Borrowed

if TYPE_CHECKING:
    from sqlalchemy.engine.default import DefaultDialect as _Dialect
else:
    _Dialect = object


class SettingDialect(_Dialect):
    """The part of `PooledDialect` that changes settings."""

    _borrowed: dict[Any, Borrowed]

    def known(self, conn: Any) -> Borrowed | None:
        """What a driver's connection, or SQLAlchemy's proxy of one, stands for; None if the pool does not lend it."""
        return self._borrowed.get(getattr(conn, "dbapi_connection", conn))

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        """SQLAlchemy takes it back itself, so it is not a change that the pool would have to undo."""
        borrowed = self.known(dbapi_connection)
        if borrowed is None or not borrowed.set_up:  # as a part of the set-up it is there to stay
            super().set_isolation_level(dbapi_connection, level)
            return
        borrowed.level_set = True
        with borrowed.entry.link.uncounted():
            super().set_isolation_level(dbapi_connection, level)

    def reset_isolation_level(self, dbapi_conn: Any) -> None:
        """As `taking_back` says. What is open is rolled back before that: on MySQL, SQLAlchemy sends COMMIT with it."""
        borrowed = self.known(dbapi_conn)
        if borrowed is not None and borrowed.foreign:  # the parent takes it back
            return
        with self.taking_back(dbapi_conn):
            if borrowed is not None:
                borrowed.undo_left_open()
            super().reset_isolation_level(dbapi_conn)  # type: ignore[no-untyped-call]
            if borrowed is not None:
                borrowed.level_set = False

    @contextmanager
    def taking_back(self, conn: Any) -> Iterator[None]:
        """If this block fails or takes too long, the connection is closed, which has the same effect.

        SQLAlchemy would raise that error in place of the borrower's own, and not give the connection back.
        """
        borrowed = self.known(conn)
        try:
            with nullcontext() if borrowed is None else borrowed.limited():
                yield
        except BaseException as error:
            if borrowed is None:
                raise
            borrowed.break_off(error)
            if not isinstance(error, Exception):
                raise
