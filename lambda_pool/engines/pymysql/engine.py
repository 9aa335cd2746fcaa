"""MySQL and MariaDB on PyMySQL."""

from collections.abc import Callable, Mapping
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import ConfigError
from ...secret import private
from ..base import ConnectRequest, Defaults, Failure, FleetConnection
from .arguments import pymysql_arguments, pymysql_options
from .errors import classify

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class MysqlEngine:
    """PyMySQL, on a socket that we open and bound ourselves."""

    name = "mysql"
    arguments: ClassVar[Callable[..., Mapping[str, Any]]] = staticmethod(pymysql_options)
    defaults: ClassVar[Callable[[], Defaults]] = Defaults  # it reads no variables, and files only where it is told to

    def __init__(self, *, awaited: bool = False) -> None:
        """`awaited`: its connections are for asyncio."""
        self.awaited: bool = awaited

    def load(self) -> None:
        """Import PyMySQL."""
        try:
            import pymysql  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"the URL is for MySQL and PyMySQL is not installed: pip install 'lambda-pool[mysql]' ({error})"
            ) from error
        from . import private

        private.check()
        if self.awaited:  # not later in a greenlet, where an import is one more thing that may go wrong
            from . import coroutines, engine_connection  # noqa: F401

    @private
    def connect(self, request: ConnectRequest) -> FleetConnection:
        """Open one connection within `request.timeout` seconds."""
        from pymysql import OperationalError, connect
        from pymysql.connections import Connection
        from pymysql.constants import CR

        from .connecting import SESSION_TRACK
        from .connection import BoundedConnection
        from .engine_connection import MysqlConnection
        from .killing import stopper

        try:
            arguments = pymysql_arguments(request)
            if not request.pooled:
                arguments["client_flag"] = arguments.get("client_flag", 0) | SESSION_TRACK
            conn = BoundedConnection(**arguments, defer_connect=True)
        except UnicodeError:  # this error quotes the whole text
            raise ConfigError("connect_args holds a string with characters that cannot be encoded") from None
        except (TypeError, ValueError, NotImplementedError) as error:
            # The argument's name is in the text, its value is not.
            raise ConfigError(f"connect_args or the URL's query is not valid for PyMySQL: {error}") from None
        conn.slow_query, conn.on_slow = request.slow_query, request.on_slow
        if request.trace_comment:
            from ..traceparent import with_comment

            conn.comment = with_comment
        conn.session_idle = 0 if request.pooled else ceil(request.session_idle)
        conn.address = request.hostaddr
        conn.line.awaited = self.awaited
        conn.line.encrypt = request.tls.required and not request.host.startswith("/")
        try:
            conn.connect_within(request.timeout)
        except RuntimeError as error:
            if "cryptography" not in str(error):
                raise
            raise OperationalError(
                CR.CR_AUTH_PLUGIN_ERR,
                "the server asks for the whole password, as it does once after each restart. Without TLS that needs "
                "the package cryptography: write sslmode=require, or leave sslmode out, or install cryptography",
            ) from error
        conn.password = b""
        if connect is not Connection:
            from .patched import stand_in

            conn.stand_in = stand_in(conn)
        if self.awaited:
            conn.line.watched, conn.patience = request.watched, request.patience
            conn.line.stop = stopper(conn, None if request.pooled else request.aside)
        return MysqlConnection(conn, pooled=request.pooled, reset=request.reset)

    def cursor(self, conn: Any) -> "AbstractContextManager[Any]":
        """The driver's own, with tuples."""
        from pymysql.cursors import Cursor

        return Cursor(conn)

    def in_coroutines(self, conn: Any) -> Any:
        """An object that has its methods as coroutines."""
        from .coroutines import AsyncConnection

        return AsyncConnection(conn)

    def classify(self, error: BaseException) -> Failure:
        """By the error's number, and by its text if the number says nothing."""
        return classify(error)
