"""One pool's numbers between two reports. Knows events and metrics, no clock and no output."""

from collections.abc import Callable
from typing import Any, TypeVar

from .. import invocation
from ..events import (
    Closed,
    ConnectFailed,
    CredentialsRefreshed,
    Crowded,
    EndpointRefreshed,
    Event,
    Leaked,
    Opened,
    Pinged,
    Replaced,
    RolledBack,
    SlowQuery,
    TimedOut,
    Waited,
)
from ..record import Record

MOST_VALUES = 100
"""Values of one metric in one EMF object:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html"""

_MOST_DETAILS = 20
_MOST_TEXT = 300

T = TypeVar("T")
Values = dict[str, int | list[int]]
"""Metric to its value: a count or a gauge is one number, times are a list of microseconds."""
Times = dict[str, list[int]]
Properties = dict[str, str | int | float]


def micros(seconds: float) -> int:
    """Seconds as whole microseconds."""
    return int(seconds * 1e6 + 0.5)


class Entry(Record):
    """What belongs in one report line: at most MOST_VALUES values of each metric, and the detail they share."""

    properties: Properties
    values: Values


class Numbers:
    """Everything that happened to one pool since the last `take`.

    Each borrow adds its seconds to `held`, and those of its checkout to `reused` or to `fresh`. These lists need no
    lock: borrowers only append to them, and `take` cuts off only what it saw.
    """

    def __init__(self) -> None:
        self.reported_wall: float = 0.0
        self.due_wall: float = 0.0
        self.due_mono: float = 0.0
        self._open = 0
        self.forget()

    def forget(self) -> None:
        """Start from nothing: in a forked child, whose parent reports what happened before."""
        self.held: list[float] = []
        self.reused: list[float] = []
        self.fresh: list[float] = []
        self._reused_before = 0
        self._times: Times = {}
        self._details: dict[tuple[tuple[str, str | int | float], ...], _Detail] = {}
        self._most_open = self._open
        self._most_used: int | None = None
        self.most_in_use: int = 0
        self.stirred: bool = False
        self.urgent: bool = False

    def forked(self) -> None:
        """The child of a fork has no connections, and nothing of its parent's to report."""
        self._open = 0
        self.forget()

    @property
    def full(self) -> bool:
        """True if warm invocations alone have filled a report line."""
        return len(self.held) >= MOST_VALUES

    @property
    def crowded(self) -> bool:
        """True if so much has gathered that it should be reported before its time."""
        return len(self._details) >= _MOST_DETAILS or any(len(t) >= MOST_VALUES for t in self._times.values())

    # --- in -----------------------------------------------------------------------------------------------------------

    def note(self, event: Event) -> bool:
        """Take in an event that is not part of the warm path. True if it should be reported at once."""
        handle = _HANDLERS.get(type(event))
        if handle is None:
            return False
        self.stirred = True
        handle(self, event)
        return self.urgent and not (isinstance(event, ConnectFailed) and event.retrying)

    def _time(self, metric: str, seconds: float) -> None:
        self._times.setdefault(metric, []).append(micros(seconds))

    def _count(self, metric: str, **properties: str | int | float) -> "_Detail":
        """Count once, under the detail that tells this case from others."""
        request_id = getattr(invocation.current(), "aws_request_id", "")
        if request_id:
            properties["request_id"] = request_id
        key = tuple((name, v[:_MOST_TEXT] if isinstance(v, str) else v) for name, v in properties.items())
        detail = self._details.setdefault(key, _Detail({}, {}))
        detail.counts[metric] = detail.counts.get(metric, 0) + 1
        return detail

    def _opened(self, event: Opened) -> None:
        self._open += 1
        self._most_open = max(self._most_open, self._open)
        detail = self._count("ConnectionsOpened", host=event.host, backend_id=event.backend_id)
        detail.times.setdefault("ConnectTime", []).append(micros(event.seconds))

    def _connect_failed(self, event: ConnectFailed) -> None:
        self.urgent = True
        self._count("ConnectErrors", error_class=event.kind, error=event.error)

    def _replaced(self, event: Replaced) -> None:
        self._count("ConnectionsReplaced", reason=event.reason.value, backend_id=event.backend_id)

    def _closed(self, event: Closed) -> None:
        self._open = max(self._open - 1, 0)
        self._count("ConnectionsClosed", reason=event.reason.value, backend_id=event.backend_id)

    def _timed_out(self, event: TimedOut) -> None:
        self.urgent = True
        self._count("PoolTimeouts", waited=round(event.seconds, 3))

    def _rolled_back(self, event: RolledBack) -> None:
        self._count("TransactionsRolledBack", reason=event.cause)

    def _leaked(self, event: Leaked) -> None:
        self.urgent = True
        self._count("ConnectionsLeaked", where=event.where, held=round(event.held, 3))

    def _credentials_refreshed(self, event: CredentialsRefreshed) -> None:
        self._count("CredentialsRefreshed")

    def _endpoint_refreshed(self, event: EndpointRefreshed) -> None:
        self._count("EndpointRefreshed", host=event.host)

    def _slow_query(self, event: SlowQuery) -> None:
        self._count("SlowQueries", statement=event.statement, seconds=round(event.seconds, 3))

    def _pinged(self, event: Pinged) -> None:
        self._time("PingTime", event.seconds)

    def _crowded(self, event: Crowded) -> None:
        used = round(100 * event.connections / max(event.limit, 1))
        self._most_used = max(self._most_used or 0, used)

    def _waited(self, event: Waited) -> None:
        self._time("WaitTime", event.seconds)

    # --- out ----------------------------------------------------------------------------------------------------------

    def take_full(self) -> list[Entry]:
        """Give out the times of warm invocations alone, and keep everything else."""
        return _entries({}, {}, self._take_borrows())

    def take(self, *, gauges: bool) -> list[Entry]:
        """Give out everything, and start again. `gauges`: with the gauges, if anything happened at all."""
        borrows = self._take_borrows()
        details, self._details = self._details, {}
        times, self._times = self._times, {}
        counts: dict[str, int] = {}
        reused, self._reused_before = self._reused_before, 0
        if reused:
            counts["ConnectionsReused"] = reused
        if gauges and self.stirred:
            self.stirred = False
            counts["ConnectionsOpen"] = self._most_open
            counts["ConnectionsInUse"] = self.most_in_use
            self._most_open = self._open
            self.most_in_use = 0
            if self._most_used is not None:
                counts["ServerConnectionsUsed"] = self._most_used
                self._most_used = None
        self.urgent = False
        entries = _entries({}, counts, borrows | times)
        for key, detail in details.items():
            entries += _entries(dict(key), detail.counts, detail.times)
        return entries

    def _take_borrows(self) -> Times:
        held = _drain(self.held)
        reused = _drain(self.reused)
        self._reused_before += len(reused)
        self.stirred = self.stirred or bool(held)
        checkouts = reused + _drain(self.fresh)
        return {"CheckoutTime": list(map(micros, checkouts)), "HoldTime": list(map(micros, held))}


class _Detail(Record):
    counts: dict[str, int]
    times: Times


_HANDLERS: dict[type[Event], Callable[[Numbers, Any], None]] = {
    Opened: Numbers._opened,
    ConnectFailed: Numbers._connect_failed,
    Replaced: Numbers._replaced,
    Closed: Numbers._closed,
    TimedOut: Numbers._timed_out,
    RolledBack: Numbers._rolled_back,
    Leaked: Numbers._leaked,
    CredentialsRefreshed: Numbers._credentials_refreshed,
    EndpointRefreshed: Numbers._endpoint_refreshed,
    SlowQuery: Numbers._slow_query,
    Crowded: Numbers._crowded,
    Pinged: Numbers._pinged,
    Waited: Numbers._waited,
}


def _drain(values: list[T]) -> list[T]:
    """Take what is there now; what another thread appends meanwhile stays for the next time."""
    count = len(values)
    taken = values[:count]
    del values[:count]
    return taken


def _entries(properties: Properties, counts: dict[str, int], times: Times) -> list[Entry]:
    """Split into entries of at most MOST_VALUES values of each metric; counts stand in the first."""
    most = max(map(len, times.values()), default=0)
    entries = []
    for start in range(0, max(most, bool(counts)), MOST_VALUES):
        values: Values = {}
        for metric, every in times.items():
            if chunk := every[start : start + MOST_VALUES]:
                values[metric] = chunk
        if start == 0:
            values |= counts
        entries.append(Entry(properties, values))
    return entries
