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
    """One metric."""

    unit: str
    meaning: str


METRICS: dict[str, Definition] = {
    "ConnectionsOpened": Definition(COUNT, "Physical connections opened."),
    "ConnectionsReused": Definition(COUNT, "Checkouts served by a cached connection."),
    "ConnectionsReplaced": Definition(COUNT, "Cached connections replaced by a new one, by reason."),
    "ConnectionsClosed": Definition(COUNT, "Connections closed, by reason."),
    "ConnectErrors": Definition(COUNT, "Attempts to connect that failed, by error_class."),
    "ConnectTime": Definition(MICROSECONDS, "How long a successful attempt to connect took."),
    "CheckoutTime": Definition(MICROSECONDS, "How long a checkout took, including waiting and connecting."),
    "WaitTime": Definition(MICROSECONDS, "How long a borrower queued before it got a connection."),
    "HoldTime": Definition(MICROSECONDS, "How long a connection was lent."),
    "PingTime": Definition(MICROSECONDS, "How long a ping took."),
    "PoolTimeouts": Definition(COUNT, "Borrowers that gave up, in the queue or while connecting."),
    "CredentialsRefreshed": Definition(COUNT, "Cached credentials that were rejected and fetched again."),
    "EndpointRefreshed": Definition(COUNT, "Addresses looked up again after a failure or a failover."),
    "TransactionsRolledBack": Definition(COUNT, "Transactions rolled back at return, by reason."),
    "ConnectionsLeaked": Definition(COUNT, "Connections held past leak_after or the invocation's end."),
    "ConnectionsOpen": Definition(COUNT, "Most connections open at once since the last report."),
    "ConnectionsInUse": Definition(COUNT, "Most connections lent at once since the last report."),
    "ServerConnectionsUsed": Definition(
        PERCENT, "Share of the server's allowed connections that are in use, by everybody."
    ),
    "SlowQueries": Definition(COUNT, "Statements slower than slow_query."),
}
