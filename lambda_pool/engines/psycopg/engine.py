"""PostgreSQL on psycopg 3."""

from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import ConfigError
from ...secret import private
from ..base import ConnectRequest, Defaults, Failure
from .arguments import OWN_ARGUMENTS, conninfo, libpq_arguments, libpq_defaults
from .errors import classify

if TYPE_CHECKING:
    from .link import PostgresLink


class PostgresEngine:
    """psycopg 3, driven through libpq's non-blocking calls so that our own clock bounds each attempt."""

    name = "postgresql"
    default_port = 5432
    arguments: ClassVar[Callable[..., Mapping[str, Any]]] = staticmethod(libpq_arguments)
    defaults: ClassVar[Callable[[], Defaults]] = staticmethod(libpq_defaults)

    def load(self) -> None:
        """Import psycopg. Raises ConfigError also for a version that does not fit."""
        try:
            import psycopg  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"the URL is for PostgreSQL and psycopg is not installed: pip install 'lambda-pool[postgres]' ({error})"
            ) from error
        from .fitness import check_driver

        check_driver()

    @private
    def connect(self, request: ConnectRequest) -> "PostgresLink":
        """Open one connection within `request.timeout` seconds."""
        from .connection import PooledConnection
        from .libpq import connect
        from .link import PostgresLink

        deadline = monotonic() + request.timeout
        arguments = dict(request.arguments)
        own = {key: arguments.pop(key) for key in OWN_ARGUMENTS if key in arguments}
        own.setdefault("autocommit", request.autocommit)
        if request.pooled:
            own.setdefault("prepare_threshold", None)
        conn = PooledConnection(connect(conninfo(request, arguments).decode(), deadline, pooled=request.pooled))
        conn.configure(own)
        conn.pooled.slow_query, conn.pooled.on_slow = request.slow_query, request.on_slow
        return PostgresLink(conn, "transaction" if request.pooled else request.reset)

    def classify(self, error: BaseException) -> Failure:
        """By SQLSTATE where there is one, else by type and text."""
        return classify(error)
