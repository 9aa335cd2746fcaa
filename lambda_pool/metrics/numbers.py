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
        kind = type(event)
        if counted := _COUNTED.get(kind):
            metric, properties = counted
            detail = self._count(metric, properties(event))
            if isinstance(event, Opened):
                detail.times.setdefault("ConnectTime", []).append(micros(event.seconds))
                self._open += 1
                self._most_open = max(self._most_open, self._open)
            elif isinstance(event, Closed):
                self._open = max(self._open - 1, 0)
        elif isinstance(event, Pinged | Waited):
            self._times.setdefault(_TIMED[kind], []).append(micros(event.seconds))
        elif isinstance(event, Crowded):
            used = round(100 * event.connections / max(event.limit, 1))
            self._most_used = max(self._most_used or 0, used)
        else:
            return False
        self.stirred = True
        self.urgent = self.urgent or kind in _URGENT
        return self.urgent and not (isinstance(event, ConnectFailed) and event.retrying)

    def _count(self, metric: str, properties: Properties) -> "_Detail":
        """Count once, under the detail that tells this case from others."""
        request_id = getattr(invocation.current(), "aws_request_id", "")
        if request_id:
            properties["request_id"] = request_id
        key = tuple((name, v[:_MOST_TEXT] if isinstance(v, str) else v) for name, v in properties.items())
        detail = self._details.setdefault(key, _Detail({}, {}))
        detail.counts[metric] = detail.counts.get(metric, 0) + 1
        return detail

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


_COUNTED: dict[type[Event], tuple[str, Callable[[Any], Properties]]] = {
    Opened: ("ConnectionsOpened", lambda event: {"host": event.host, "backend_id": event.backend_id}),
    ConnectFailed: ("ConnectErrors", lambda event: {"error_class": event.kind, "error": event.error}),
    Replaced: ("ConnectionsReplaced", lambda event: {"reason": event.reason.value, "backend_id": event.backend_id}),
    Closed: ("ConnectionsClosed", lambda event: {"reason": event.reason.value, "backend_id": event.backend_id}),
    TimedOut: ("PoolTimeouts", lambda event: {"waited": round(event.seconds, 3)}),
    RolledBack: ("TransactionsRolledBack", lambda event: {"reason": event.cause}),
    Leaked: ("ConnectionsLeaked", lambda event: {"where": event.where, "held": round(event.held, 3)}),
    CredentialsRefreshed: ("CredentialsRefreshed", lambda event: {}),
    EndpointRefreshed: ("EndpointRefreshed", lambda event: {"host": event.host}),
    SlowQuery: ("SlowQueries", lambda event: {"statement": event.statement, "seconds": round(event.seconds, 3)}),
}
"""The metric that counts an event, and the properties of its line."""
_TIMED: dict[type[Event], str] = {Pinged: "PingTime", Waited: "WaitTime"}
_URGENT = frozenset({ConnectFailed, TimedOut, Leaked})


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
