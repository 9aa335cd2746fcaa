"""The questions of an on-call night, and the metrics, alarms and log queries that answer them.

The dashboard that is printed and the picture of it in the documentation are both made from this.
"""

from typing import NamedTuple

from .definitions import METRICS


class Line(NamedTuple):
    """One metric in a panel; `right`: on the right axis. All lines of one axis have one unit."""

    metric: str
    statistic: str
    label: str
    right: bool = False


class Panel(NamedTuple):
    """One question and the graph that answers it."""

    question: str
    lines: tuple[Line, ...]

    def unit(self, *, right: bool) -> str | None:
        """The unit of an axis; None if nothing stands on it."""
        return next((METRICS[line.metric].unit for line in self.lines if line.right is right), None)


PANELS = (
    Panel(
        "Are we out of connections?",
        (
            Line("PoolTimeouts", "Sum", "gave up"),
            Line("ConnectionsInUse", "Maximum", "in use, most at once"),
            Line("ConnectionsOpen", "Maximum", "open, most at once"),
            Line("WaitTime", "p99", "waited, p99", right=True),
        ),
    ),
    Panel(
        "Is the database refusing us?",
        (
            Line("ConnectErrors", "Sum", "attempts that failed"),
            Line("CredentialsRefreshed", "Sum", "credentials fetched again"),
            Line("EndpointRefreshed", "Sum", "addresses that changed"),
        ),
    ),
    Panel(
        "Is the server full?",
        (
            Line("ServerConnectionsUsed", "Maximum", "percent of its connections, used by anybody"),
            Line("ConnectErrors", "Sum", "attempts that failed", right=True),
        ),
    ),
    Panel(
        "Are we reconnecting too much?",
        (
            Line("ConnectionsOpened", "Sum", "opened"),
            Line("ConnectionsReplaced", "Sum", "replaced"),
            Line("ConnectionsClosed", "Sum", "closed"),
            Line("ConnectionsReused", "Sum", "reused", right=True),
        ),
    ),
    Panel(
        "Who holds a connection too long?",
        (
            Line("ConnectionsLeaked", "Sum", "leaked"),
            Line("SlowQueries", "Sum", "slow statements"),
            Line("TransactionsRolledBack", "Sum", "rolled back"),
            Line("HoldTime", "p50", "held, p50", right=True),
            Line("HoldTime", "p99", "held, p99", right=True),
        ),
    ),
    Panel(
        "How much of our latency is connecting?",
        (
            Line("CheckoutTime", "p50", "checkout, p50"),
            Line("CheckoutTime", "p99", "checkout, p99"),
            Line("ConnectTime", "p99", "connecting, p99"),
            Line("PingTime", "p99", "checking, p99"),
        ),
    ),
)


class Query(NamedTuple):
    """A query of Logs Insights over the log of a function."""

    question: str
    text: str


_BY_POOL = 'filter pool = "{pool}"'

QUERIES = (
    Query(
        "Are we out of connections? Who gave up, and how long they had waited",
        f"{_BY_POOL} and ispresent(PoolTimeouts)\n"
        "| stats sum(PoolTimeouts) as gave_up, max(waited) as seconds by bin(1m)",
    ),
    Query(
        "Is the database refusing us? What it said",
        f"{_BY_POOL} and ispresent(ConnectErrors)\n"
        "| stats sum(ConnectErrors) as failed, latest(error) as said by error_class\n| sort failed desc",
    ),
    Query(
        "Is the server full? How much of it was in use, and who closed a connection to make room",
        f"{_BY_POOL} and (ispresent(ServerConnectionsUsed) or reason = 'crowded')\n"
        "| stats max(ServerConnectionsUsed) as percent, sum(ConnectionsClosed) as closed by bin(5m)",
    ),
    Query(
        "Are we reconnecting too much? Why connections were replaced and closed",
        f"{_BY_POOL} and ispresent(ConnectionsClosed)\n"
        "| stats sum(ConnectionsReplaced) as replaced, sum(ConnectionsClosed) as closed by reason\n| sort closed desc",
    ),
    Query(
        "Who holds a connection too long? The lines that borrowed leaked connections",
        f"{_BY_POOL} and ispresent(ConnectionsLeaked)\n"
        "| stats sum(ConnectionsLeaked) as leaked, max(held) as seconds, latest(request_id) as request by where\n"
        "| sort leaked desc",
    ),
    Query(
        "Who holds a connection too long? The slowest statements",
        f"{_BY_POOL} and ispresent(SlowQueries)\n"
        "| stats sum(SlowQueries) as times, max(seconds) as slowest, latest(request_id) as request by statement\n"
        "| sort slowest desc",
    ),
    Query(
        "How much of our latency is connecting? The invocations that had to connect",
        f"{_BY_POOL} and ispresent(ConnectTime.0)\n"
        "| display @timestamp, ConnectTime.0 / 1000 as milliseconds, host, backend_id, request_id\n"
        "| sort milliseconds desc\n| limit 20",
    ),
)


class Alarm(NamedTuple):
    """An alarm: `metrics` by id, `expression` over them (None if there is only one), and when it rings.

    It rings when `minutes` of the last `of` minutes are above `above`.
    """

    name: str
    meaning: str
    metrics: dict[str, tuple[str, str]]
    expression: str | None
    above: float
    minutes: int
    of: int


ALARMS = (
    Alarm(
        "gave-up",
        "No connection was available in time: see error_class in the log; without ConnectErrors, find who holds them.",
        {"timeouts": ("PoolTimeouts", "Sum")},
        None,
        0,
        2,
        5,
    ),
    Alarm(
        "refused",
        "The database refuses connections: see error_class in the log.",
        {"errors": ("ConnectErrors", "Sum")},
        None,
        0,
        3,
        5,
    ),
    Alarm(
        "crowded",
        "More than 15 % of all logins fail. If error_class in the log is too_many, frozen environments hold too many "
        "connections: lower keep_below to what `lambda-pool plan --running` prints.",
        {"errors": ("ConnectErrors", "Sum"), "opened": ("ConnectionsOpened", "Sum")},
        "IF(FILL(errors, 0) > 10, 100 * FILL(errors, 0) / (FILL(errors, 0) + FILL(opened, 0)), 0)",
        15,
        3,
        5,
    ),
    Alarm(
        "reconnecting",
        "More than a third of all checkouts open a connection, while there is traffic: something closes them.",
        {"opened": ("ConnectionsOpened", "Sum"), "reused": ("ConnectionsReused", "Sum")},
        "IF(FILL(opened, 0) > 10, 100 * FILL(opened, 0) / (FILL(opened, 0) + FILL(reused, 0)), 0)",
        33,
        3,
        5,
    ),
    Alarm(
        "leaked",
        "A connection was held past its invocation's end or past leak_after: `where` in the log names the line.",
        {"leaked": ("ConnectionsLeaked", "Sum")},
        None,
        0,
        1,
        1,
    ),
    Alarm(
        "slow-checkout",
        "One checkout in a hundred takes longer than a second.",
        {"checkout": ("CheckoutTime", "p99")},
        None,
        1_000_000,
        3,
        5,
    ),
)
