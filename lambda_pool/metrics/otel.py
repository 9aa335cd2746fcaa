"""Metrics for OpenTelemetry, by its semantic conventions for connection pools.

https://opentelemetry.io/docs/specs/semconv/database/database-metrics/#connection-pools
"""

from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..events import CheckedOut, Closed, Event, Forked, Opened, Returned, Reused, TimedOut

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

_POOL = "db.client.connection.pool.name"
_STATE = "db.client.connection.state"

# Seconds: from a warm checkout (about 10 µs) through a new connection (5 to 100 ms) to the longest timeouts.
_BUCKETS = (0.00001, 0.0001, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class OtelMetrics:
    """Records into `meter_provider` (default: the global one) as things happen. The provider exports them.

    In Lambda the provider must be flushed before an invocation ends, as the OpenTelemetry layers do: the environment
    is frozen afterwards. Raises ConfigError if opentelemetry-api is not installed.
    """

    def __init__(self, meter_provider: "MeterProvider | None" = None) -> None:
        try:
            from opentelemetry.metrics import get_meter
        except ImportError:
            raise ConfigError("opentelemetry-api is not installed: pip install 'lambda-pool[otel]'") from None
        from .. import __version__

        meter = get_meter("lambda_pool", __version__, meter_provider)

        def seconds(name: str, meaning: str) -> Any:
            return meter.create_histogram(name, "s", meaning, explicit_bucket_boundaries_advisory=_BUCKETS)

        self._count = meter.create_up_down_counter(
            "db.client.connection.count", "{connection}", "Connections in the state that the attribute names."
        )
        self._timeouts = meter.create_counter(
            "db.client.connection.timeouts", "{timeout}", "Borrowers that gave up waiting for a connection."
        )
        self._create_time = seconds("db.client.connection.create_time", "What it took to open a connection.")
        self._wait_time = seconds("db.client.connection.wait_time", "What it took to get a connection from the pool.")
        self._use_time = seconds("db.client.connection.use_time", "From lending a connection to its return.")
        # Connections that this process has counted, by pool and state. A forked child takes them back.
        self._counted: dict[tuple[str, str], int] = {}

    def on_event(self, event: Event) -> None:
        """Record one event."""
        pool = event.pool
        if isinstance(event, Opened):
            self._create_time.record(event.seconds, {_POOL: pool})
            self._add(pool, "idle", 1)
        elif isinstance(event, Reused | CheckedOut):
            self._wait_time.record(event.seconds, {_POOL: pool})
            self._add(pool, "idle", -1)
            self._add(pool, "used", 1)
        elif isinstance(event, Returned):
            self._use_time.record(event.held, {_POOL: pool})
            self._add(pool, "used", -1)
            self._add(pool, "idle", 1)
        elif isinstance(event, Closed):
            self._add(pool, "idle", -1)
        elif isinstance(event, TimedOut):
            self._timeouts.add(1, {_POOL: pool})
        elif isinstance(event, Forked):
            for state in ("idle", "used"):
                self._add(pool, state, -self._counted.get((pool, state), 0))

    def _add(self, pool: str, state: str, connections: int) -> None:
        self._count.add(connections, {_POOL: pool, _STATE: state})
        self._counted[pool, state] = self._counted.get((pool, state), 0) + connections
