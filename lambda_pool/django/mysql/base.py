"""Where Django looks for an engine's DatabaseWrapper."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import pymysql
from django.db import IntegrityError
from django.db.backends.utils import typecast_time
from django.utils.asyncio import async_unsafe
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions

from ...errors import CommitUncertain, LambdaPoolError, NotCommitted
from ..client import CompletedClient
from ..creation import ClosingCreation
from ..mysqldb import import_backend
from ..wrapper import PooledWrapper

base: Any = import_backend()
if TYPE_CHECKING:
    from django.db.backends.mysql.base import CursorWrapper as _Cursor
    from django.db.backends.mysql.base import DatabaseWrapper as _Wrapper
    from django.db.backends.mysql.client import DatabaseClient as _Client
    from django.db.backends.mysql.creation import DatabaseCreation as _Creation
else:
    _Cursor, _Wrapper = base.CursorWrapper, base.DatabaseWrapper
    _Client, _Creation = base.DatabaseClient, base.DatabaseCreation

_UNDONE = (
    "an atomic() block ended normally, but the server had undone all of its transaction when a statement in it failed "
    "({}). An atomic() inside of it does not prevent that. None of it is saved. Let that error leave the outermost "
    "atomic(), and do all of its work again"
)
_DEADLOCK = 1213  # which always undoes the whole transaction
_CONVERSIONS = {**conversions, FIELD_TYPE.TIME: typecast_time}


class CursorWrapper(_Cursor):  # type: ignore[misc]
    """Django's own, which expects mysqlclient's errors if that is installed; these are PyMySQL's."""

    def execute(self, query: Any, args: Any = None) -> Any:
        return self._run(self.cursor.execute, query, args)

    def executemany(self, query: Any, args: Any) -> Any:
        return self._run(self.cursor.executemany, query, args)

    def _run(self, run: Any, query: Any, args: Any) -> Any:
        try:
            return run(query, args)
        except pymysql.OperationalError as error:
            if error.args and error.args[0] in self.codes_for_integrityerror:
                raise IntegrityError(*error.args) from error
            raise


class DatabaseClient(CompletedClient, _Client):  # type: ignore[misc]
    """Django's own, with what the pool knows."""


class DatabaseCreation(ClosingCreation, _Creation):  # type: ignore[misc]
    """Django's own."""


class _PyMySqlWrapper(_Wrapper):  # type: ignore[misc]
    """Django's own, which expects mysqlclient's errors if that is installed."""

    def is_usable(self) -> bool:
        try:
            self.connection.ping()
        except pymysql.Error:
            return False
        return True


class DatabaseWrapper(PooledWrapper, _PyMySqlWrapper):
    """Django's own, on a pool."""

    engine_name = "mysql"
    isolation_level: str | None
    Database = pymysql
    client_class: Any = DatabaseClient
    creation_class: Any = DatabaseCreation

    def get_connection_params(self) -> dict[str, Any]:
        """Like Django's, with PyMySQL's conversions."""
        found: dict[str, Any] = super().get_connection_params()
        if "conv" not in self.settings_dict["OPTIONS"]:
            found["conv"] = _CONVERSIONS
        return found

    def driver_arguments(self) -> dict[str, Any]:
        """The isolation level is set when the pool sets up a session, and again after each reset, without a round trip.

        A user's own init_command takes its place.
        """
        found = super().driver_arguments()
        if self._session() and "init_command" not in found:
            found["init_command"] = self._session()
        return found

    def _session(self) -> str:
        """The statement that makes each transaction of a session what the settings ask for; empty if nothing does."""
        said = [f"ISOLATION LEVEL {self.isolation_level.upper()}"] if self.isolation_level else []
        if self.settings_dict["OPTIONS"].get("lambda_pool", {}).get("readonly"):
            said.append("READ ONLY")
        return f"SET SESSION TRANSACTION {', '.join(said)}" if said else ""

    @async_unsafe
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """The borrowed connection."""
        if not conn_params:
            self.get_connection_params()  # it notes the isolation level
        return super().get_new_connection(conn_params)

    def init_connection_state(self) -> None:
        """Like Django's, except for what was set when the session began."""
        level = self.isolation_level
        session = self._session()
        if "init_command" not in self.settings_dict["OPTIONS"]:
            session = ""
        self.isolation_level = None
        try:
            super().init_connection_state()
        finally:
            self.isolation_level = level
        if session:
            with self.connection.cursor() as cursor:
                cursor.execute(session)

    def _undone(self) -> LambdaPoolError | None:
        """See PooledWrapper: an atomic() inside another one cannot keep what came before it."""
        if self._borrowed is None:
            return None
        noted = self._borrowed.conn.noted
        if noted.unclear:
            return CommitUncertain(noted.over())
        error = noted.undone
        if error is None and noted.doubt is not None and noted.doubt[0].args[0] == _DEADLOCK:
            error = noted.doubt[0]
        return None if error is None else NotCommitted(_UNDONE.format(f"{type(error).__name__}: {error}"))

    @async_unsafe
    def create_cursor(self, name: str | None = None) -> Any:
        return CursorWrapper(self.connection.cursor())

    @cached_property
    def mysql_server_data(self) -> dict[str, Any]:
        """Like Django's, which each thread would ask for again."""
        known = self.home().server_data
        if not known:
            known.update(base.DatabaseWrapper.mysql_server_data.func(self))
        return known
