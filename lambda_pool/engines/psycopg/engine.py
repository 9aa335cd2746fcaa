"""PostgreSQL on psycopg 3."""

from collections.abc import Callable, Mapping
from time import monotonic
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import ConfigError
from ...secret import private
from ..base import ConnectRequest, Defaults, Failure
from .arguments import OWN_ARGUMENTS, conninfo, libpq_arguments, libpq_defaults
from .errors import classify

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .engine_connection import PostgresConnection


class PostgresEngine:
    """psycopg 3, driven through libpq's non-blocking calls so that our own clock bounds each attempt."""

    name = "postgresql"
    defaults: ClassVar[Callable[[], Defaults]] = staticmethod(libpq_defaults)

    def __init__(self, *, awaited: bool = False) -> None:
        """`awaited`: its connections are for asyncio."""
        self.awaited: bool = awaited

    def arguments(self, parameters: Mapping[str, str], given: Mapping[str, Any], *, pooled: bool) -> Mapping[str, Any]:
        """What to pass to libpq and psycopg. Raises ConfigError."""
        return libpq_arguments(parameters, given, pooled=pooled, awaited=self.awaited)

    def load(self) -> None:
        """Import psycopg. Also raises ConfigError for a version that does not fit."""
        try:
            import psycopg  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"the URL is for PostgreSQL and psycopg is not installed: pip install 'lambda-pool[postgres]' ({error})"
            ) from error
        from .fitness import check_driver

        check_driver(awaited=self.awaited)
        if self.awaited:  # not later in a greenlet, where an import is one more thing that may go wrong
            from . import async_connection, engine_connection  # noqa: F401

    @private
    def connect(self, request: ConnectRequest) -> "PostgresConnection":
        """Open one connection within `request.timeout` seconds."""
        from psycopg import OperationalError

        from .engine_connection import PostgresConnection
        from .libpq import connect
        from .timer import refuses_timers, with_timers

        deadline = monotonic() + request.timeout
        arguments = dict(request.arguments)
        own = {key: arguments.pop(key) for key in OWN_ARGUMENTS if key in arguments}
        own.setdefault("autocommit", request.autocommit)
        if request.pooled:
            own.setdefault("prepare_threshold", None)
        timed = with_timers(arguments, request.session_idle)
        try:
            pgconn = connect(conninfo(request, timed or arguments), deadline, pooled=request.pooled)
        except OperationalError as error:
            if timed is None or not refuses_timers(error):
                raise
            timed = None
            pgconn = connect(conninfo(request, arguments), deadline, pooled=request.pooled)
        conn = self._wrap(pgconn)
        if request.trace_comment:
            conn.comment_statements()
            # Statements differ each time, so preparing them would gain nothing.
            own.setdefault("prepare_threshold", None)
        conn.configure(own)
        # An instrumentor's proxy is an instance of MethodType too, so the exact type is compared.
        if type(found := type(conn).connect) is not MethodType:
            from .patched import show

            show(conn, found, own, awaited=self.awaited)
        conn.pooled.slow_query, conn.pooled.on_slow = request.slow_query, request.on_slow
        conn.pooled.watched, conn.pooled.patience = request.watched, request.patience
        return PostgresConnection(
            conn,
            "transaction" if request.pooled else request.reset,
            request.session_idle if timed else 0.0,
        )

    def cursor(self, conn: Any) -> "AbstractContextManager[Any]":
        """The driver's own, with tuples.

        It is tracked: otherwise no work could be replayed, and the session would be reset.
        """
        from psycopg import Cursor
        from psycopg.rows import tuple_row

        made: AbstractContextManager[Any] = conn.tracked(Cursor)(conn, row_factory=tuple_row)
        return made

    def _wrap(self, pgconn: Any) -> Any:
        if self.awaited:
            from .async_connection import AsyncPooledConnection

            return AsyncPooledConnection(pgconn)
        from .connection import PooledConnection

        return PooledConnection(pgconn)

    def in_coroutines(self, conn: Any) -> Any:
        """The connection itself: its methods are coroutines."""
        return conn

    def classify(self, error: BaseException) -> Failure:
        """By SQLSTATE where there is one, else by type and text."""
        return classify(error)
