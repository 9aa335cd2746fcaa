"""Where Django looks for an engine's DatabaseWrapper."""

from collections.abc import Callable
from inspect import unwrap
from types import SimpleNamespace
from typing import Any

from django.db.backends.postgresql import base
from django.db.backends.postgresql.client import DatabaseClient as _Client
from django.db.backends.postgresql.creation import DatabaseCreation as _Creation
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django.utils.asyncio import async_unsafe

from ...engines.psycopg.cursors import tracked
from ...errors import LambdaPoolError
from ..borrowed import Borrowed
from ..client import CompletedClient
from ..creation import ClosingCreation
from ..wrapper import PooledWrapper

_READ_ONLY = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"


class _Lending:
    """Takes the driver's place while Django opens a connection and sets it up: Django gets a borrowed one."""

    def __init__(self, connection: Any) -> None:
        self.connect: Callable[..., Any] = lambda **_: connection


def _streaming(kind: Any) -> Any:
    """A class of server-side cursors that Django closes itself, so they leave nothing on the session.

    Otherwise each iterator() outside of a transaction would cost a reset.
    """
    tracking: Any = tracked(kind)

    class Stream(tracking):  # type: ignore[misc]
        borrowed: Borrowed | None = None
        """None if it is not Django's: somebody named a cursor of the driver's connection."""
        note_error: Callable[[BaseException], None]

        def execute(self, *args: Any, **named: Any) -> Any:
            if self.borrowed is None:
                return super().execute(*args, **named)
            self.borrowed.streams.add(self.name)
            with self.borrowed.link.uncounted():
                return super().execute(*args, **named)

        def close(self) -> None:
            borrowed = self.borrowed
            if borrowed is None:
                super().close()
                return
            try:
                super().close()
            except (base.Database.Error, LambdaPoolError) as error:  # the latter at a deadline
                self.note_error(error)
                if not borrowed.lost():  # otherwise the cursor went with its session
                    raise
                base.Database.Cursor.close(self)
            borrowed.streams.discard(self.name)

    Stream.__name__ = Stream.__qualname__ = kind.__name__
    return Stream


_STREAMS = {False: _streaming(base.ServerSideCursor), True: _streaming(base.Database.ServerCursor)}
"""By whether the server binds the parameters."""


class DatabaseClient(CompletedClient, _Client):  # type: ignore[misc]
    """Django's own, with what the pool knows."""


class DatabaseCreation(ClosingCreation, _Creation):  # type: ignore[misc]
    """Django's own."""


class DatabaseWrapper(PooledWrapper, base.DatabaseWrapper):  # type: ignore[misc]
    """Django's own, on a pool."""

    engine_name = "postgresql"
    client_class: Any = DatabaseClient
    creation_class: Any = DatabaseCreation
    pool: Any = None
    """Django's own pool: there is none."""

    def driver_arguments(self) -> dict[str, Any]:
        """Raises ImproperlyConfigured for an isolation level that does not exist."""
        self._as_django_opens(SimpleNamespace())
        return super().driver_arguments()

    def _as_django_opens(self, connection: Any) -> Any:
        """What Django makes of a new connection."""
        self.Database: Any = _Lending(connection)
        try:
            # Nothing is sent, so this may happen on an event loop too: the first use in Lambda may be on one.
            return unwrap(base.DatabaseWrapper.get_new_connection)(self, {})
        finally:
            del self.Database

    @async_unsafe
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """The borrowed connection; a new one at the isolation level that the settings name."""
        borrowed = self.borrow()
        connection = borrowed.conn
        if borrowed.prepared:
            self.isolation_level: Any = connection.isolation_level or IsolationLevel.READ_COMMITTED
            return connection
        self._as_django_opens(connection)
        connection.server_cursor_factory = self._stream()
        if borrowed.home.readonly:
            connection.read_only = True
        return connection

    def init_connection_state(self) -> None:
        """Like Django's. A reader's session is read-only, even if no transaction is begun."""
        super().init_connection_state()
        borrowed = self._borrowed
        if borrowed is not None and borrowed.home.readonly and not borrowed.pooled:
            with self.connection.cursor() as cursor:
                cursor.execute(_READ_ONLY)

    def ensure_timezone(self) -> bool:
        """Like Django's. A connection that this has changed is set up again when it is borrowed next."""
        changed = bool(super().ensure_timezone())
        if changed and self._borrowed is not None:
            self._borrowed.home.prepared.discard(self._borrowed.link)
        return changed

    def _stream(self) -> Any:
        return _STREAMS[self.settings_dict["OPTIONS"].get("server_side_binding") is True]

    @async_unsafe
    def create_cursor(self, name: str | None = None) -> Any:
        """Like Django's, which only reads the adapters. A server-side cursor is one of the connection's own."""
        noted, named = self.connection.pooled, self.settings_dict
        touched = noted.touched
        if name:
            self.connection.server_cursor_factory = self._stream()
            self.settings_dict: dict[str, Any] = {**named, "OPTIONS": {**named["OPTIONS"], "server_side_binding": True}}
        try:
            cursor = super().create_cursor(name)
        finally:
            noted.touched, self.settings_dict = touched, named
        if name:
            cursor.borrowed, cursor.note_error = self._borrowed, self.note_error
        return cursor
