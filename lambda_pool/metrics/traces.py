"""Spans for OpenTelemetry: what opening a connection, and waiting for one, adds to a trace."""

from time import time_ns
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..events import ConnectFailed, Event, Opened, Server, TimedOut, Waited

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

_POOL = "db.client.connection.pool.name"


class OtelTraces:
    """Adds spans to the trace that is current where a connection is borrowed.

    They go to `tracer_provider` (default: the global one).

    `connect`: one attempt to connect. `pool wait`: a borrower queued for a connection, or gave up. A warm checkout adds
    none. Their attributes follow OpenTelemetry's conventions for databases: engine, database, host and port. No span
    holds a statement, a parameter, a user, or the text of an error. Exporting is the provider's business.
    Raises ConfigError if opentelemetry-api is not installed.
    """

    def __init__(self, tracer_provider: "TracerProvider | None" = None) -> None:
        try:
            from opentelemetry import trace
        except ImportError:
            raise ConfigError("opentelemetry-api is not installed: pip install 'lambda-pool[otel]'") from None
        from .. import __version__

        self._tracer = trace.get_tracer("lambda_pool", __version__, tracer_provider)
        self._client = trace.SpanKind.CLIENT
        self._internal = trace.SpanKind.INTERNAL
        self._failed = trace.Status(trace.StatusCode.ERROR)

    def on_event(self, event: Event) -> None:
        """Record one event."""
        if isinstance(event, Opened):
            self._span("connect", event, event.seconds, event.server)
        elif isinstance(event, ConnectFailed):
            # Only the kind is recorded: a server's text may name a user or a statement.
            self._span("connect", event, event.seconds, event.server, event.kind)
        elif isinstance(event, Waited):
            self._span("pool wait", event, event.seconds, event.server)
        elif isinstance(event, TimedOut):
            self._span("pool wait", event, event.seconds, event.server, "timeout")

    def _span(self, name: str, event: Event, seconds: float, server: Server, error: str = "") -> None:
        """A span of what has just ended, after `seconds`."""
        known: dict[str, str | int] = {
            _POOL: event.pool,
            "db.system.name": server.engine,
            "db.namespace": server.database,
            "server.address": server.host,
            "server.port": 0 if server.host.startswith("/") else server.port,  # a local socket has none
            "error.type": error,
        }
        end = time_ns()
        span = self._tracer.start_span(
            name,
            kind=self._client if name == "connect" else self._internal,
            start_time=end - int(seconds * 1e9),
            attributes={key: value for key, value in known.items() if value},
        )
        if error:
            span.set_status(self._failed)
        span.end(end)
