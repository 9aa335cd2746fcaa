"""PostgreSQL on psycopg 3."""

from time import monotonic
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...secret import private
from ..base import ConnectRequest, Failure
from .arguments import NO_OPTIONS, OWN_ARGUMENTS, conninfo, libpq_arguments, libpq_defaults
from .connection import LOGIN_READS, Patience, PostgresLink
from .errors import classify

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGconn

_IDLE = 0
_POLLING_READING, _POLLING_WRITING, _POLLING_OK = 1, 2, 3
_READ, _WRITE = 1, 2


class _Pooled:
    """Stands in psycopg's `_pool`, so that a borrower's `with conn:` commits but does not close the connection."""

    def __bool__(self) -> bool:
        return True


_POOLED = _Pooled()


class PostgresEngine:
    """psycopg 3, driven through libpq's non-blocking calls so that our own clock bounds each attempt."""

    name = "postgresql"
    default_port = 5432
    arguments = staticmethod(libpq_arguments)
    defaults = staticmethod(libpq_defaults)

    def load(self) -> None:
        """Import psycopg."""
        try:
            import psycopg  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"the URL is for PostgreSQL and psycopg is not installed: pip install 'lambda-pool[postgres]' ({error})"
            ) from error

    @private
    def connect(self, request: ConnectRequest) -> PostgresLink:
        """Open one connection within `request.timeout` seconds."""
        deadline = monotonic() + request.timeout
        arguments = dict(request.arguments)
        own = {key: arguments.pop(key) for key in OWN_ARGUMENTS if key in arguments}
        own.setdefault("autocommit", request.autocommit)
        if request.pooled:
            own.setdefault("prepare_threshold", None)
        pgconn = _open(conninfo(request, arguments), deadline, pooled=request.pooled)
        conn = _connection(pgconn, own)
        if request.on_slow is not None:
            from .slow import watch

            watch(conn, request.slow_query, request.on_slow)
        return PostgresLink(conn)

    def classify(self, error: BaseException) -> Failure:
        """By SQLSTATE where there is one, else by type and text."""
        return classify(error)


def _open(conninfo: bytes, deadline: float, *, pooled: bool) -> "PGconn":
    """Libpq's non-blocking connect. Raises OperationalError, TimeoutError at the deadline, or ConfigError."""
    from psycopg import OperationalError
    from psycopg.pq import PGconn

    pgconn = PGconn.connect_start(conninfo)
    patience = Patience(pgconn, deadline, reads=LOGIN_READS)
    try:
        # Asked of libpq itself, because they may also come from PGOPTIONS or a service file. Nothing was sent yet.
        if pooled and pgconn.options:
            raise ConfigError(NO_OPTIONS)
        while pgconn.status != 1:  # CONNECTION_BAD
            state = pgconn.connect_poll()
            if state == _POLLING_OK:
                if pgconn.transaction_status != _IDLE:
                    raise OperationalError("the server let us in, and is not idle")
                pgconn.nonblocking = 1
                return pgconn
            if state not in {_POLLING_READING, _POLLING_WRITING}:
                break
            patience.wait(_READ if state == _POLLING_READING else _WRITE)
        raise OperationalError(bytes(pgconn.error_message).decode("utf-8", "replace").strip())
    except BaseException:
        pgconn.finish()
        raise


def _connection(pgconn: "PGconn", own: dict[str, Any]) -> "psycopg.Connection[Any]":
    """What psycopg.Connection.connect() does once libpq is connected."""
    import psycopg
    from psycopg.adapt import AdaptersMap

    conn: psycopg.Connection[Any] = psycopg.Connection(pgconn)
    conn._pool = _POOLED  # type: ignore[assignment]
    if own.get("row_factory"):
        conn.row_factory = own["row_factory"]
    if own.get("cursor_factory"):
        conn.cursor_factory = own["cursor_factory"]
    if own.get("context"):
        conn._adapters = AdaptersMap(own["context"].adapters)
    if "prepare_threshold" in own:
        conn.prepare_threshold = own["prepare_threshold"]
    if own.get("autocommit"):
        conn.autocommit = True
    return conn
