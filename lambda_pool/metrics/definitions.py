"""Every metric: its name, unit and meaning. What is emitted, drawn on a dashboard or documented is taken from here."""

from ..record import Record

COUNT = "Count"
MICROSECONDS = "Microseconds"
"""The unit of RDS Proxy's own latency metrics, so that one graph can show both. Besides, reports are half as long and
half as slow with whole numbers as with fractions of milliseconds."""
PERCENT = "Percent"

DIMENSIONS = ("service", "function_name", "pool")
"""The dimensions of every metric. Anything that could take many values is a property instead."""


_LONGEST = 1024


def dimension(value: str) -> str:
    """A value that CloudWatch takes for a dimension: ASCII, not empty, at most 1,024 characters, no leading colon."""
    text = value.encode("ascii", "replace").decode().strip().lstrip(":")
    return text[:_LONGEST] or "unknown"


def dimensions(service: str, function_name: str, pool: str) -> dict[str, str]:
    """The dimensions of one pool's metrics."""
    return dict(zip(DIMENSIONS, map(dimension, (service, function_name, pool)), strict=True))


class Definition(Record):
    """One metric. `statistic` is the one that answers a question."""

    unit: str
    statistic: str
    meaning: str


METRICS: dict[str, Definition] = {
    "ConnectionsOpened": Definition(COUNT, "Sum", "Physical connections opened."),
    "ConnectionsReused": Definition(COUNT, "Sum", "Checkouts served by a cached connection."),
    "ConnectionsReplaced": Definition(COUNT, "Sum", "Cached connections replaced by a new one, by reason."),
    "ConnectionsClosed": Definition(COUNT, "Sum", "Connections closed, by reason."),
    "ConnectErrors": Definition(COUNT, "Sum", "Attempts to connect that failed, by error_class."),
    "ConnectTime": Definition(MICROSECONDS, "p99", "How long a successful attempt to connect took."),
    "CheckoutTime": Definition(MICROSECONDS, "p99", "How long a checkout took, including waiting and connecting."),
    "WaitTime": Definition(MICROSECONDS, "p99", "How long a borrower queued before it got a connection."),
    "HoldTime": Definition(MICROSECONDS, "p99", "How long a connection was lent."),
    "PingTime": Definition(MICROSECONDS, "p99", "How long a ping took."),
    "PoolTimeouts": Definition(COUNT, "Sum", "Borrowers that gave up, in the queue or while connecting."),
    "CredentialsRefreshed": Definition(COUNT, "Sum", "Cached credentials that were rejected and fetched again."),
    "EndpointRefreshed": Definition(COUNT, "Sum", "Addresses looked up again after a failure or a failover."),
    "TransactionsRolledBack": Definition(COUNT, "Sum", "Transactions rolled back at return, by reason."),
    "ConnectionsLeaked": Definition(COUNT, "Sum", "Connections held past leak_after or the invocation's end."),
    "ConnectionsOpen": Definition(COUNT, "Maximum", "Most connections open at once since the last report."),
    "ConnectionsInUse": Definition(COUNT, "Maximum", "Most connections lent at once since the last report."),
    "ServerConnectionsUsed": Definition(
        PERCENT, "Maximum", "Share of the server's allowed connections that are in use, by everybody."
    ),
    "SlowQueries": Definition(COUNT, "Sum", "Statements slower than slow_query."),
}
