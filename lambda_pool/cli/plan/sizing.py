"""How many connections there will be, how many there may be, and what to set: only arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from lambda_pool.config import Config

DEFAULT = Config.keep_below


class Fit(Enum):
    """Whether there are as many connections as are needed."""

    FITS = "fits"
    TIGHT = "tight"
    """It fits, but eats into the headroom."""
    TOO_MANY = "too many"


class ProxyAdvice(Enum):
    """Whether an RDS Proxy, or another pooler, is needed."""

    NO = "no"
    SOON = "soon"
    """Not yet, but the next doubling of the traffic does not fit without one."""
    YES = "yes"
    THERE = "there"
    """There is one already."""


@dataclass(frozen=True)
class Figures:
    """What is known. Counts, seconds and calls per second; None where it is not known.

    `environments`: execution environments that there are, frozen ones included. `running`: invocations that run at
    once at the peak (Lambda calls this concurrency); None: as many as there are environments. `workers`: processes in
    each, 1 except on Managed Instances. `reserved`: connections that the server keeps for administrators. `others`:
    connections of everybody else. `proxy_percent`: MaxConnectionsPercent of the RDS Proxy in between. `headroom`: part
    of what is available that is left free, for deployments (old environments keep their connections for a while) and
    growth.
    """

    max_connections: int
    environments: int
    running: int | None = None
    reserved: int = 0
    others: int = 0
    workers: int = 1
    max_size: int = 1
    reserved_concurrency: int | None = None
    account_concurrency: int | None = None
    proxy_percent: int | None = None
    headroom: float = 0.2
    rate: float | None = None
    query_seconds: float | None = None
    cores: int | None = None
    spindles: int = 0

    @property
    def at_work(self) -> int:
        """The most environments that run an invocation at once."""
        return self.environments if self.running is None else min(self.running, self.environments)


@dataclass(frozen=True)
class Cost:
    """What a `keep_below` above the one to set costs: how many of those at work may find no room at the peak."""

    keep_below: float
    without_room: int


@dataclass(frozen=True)
class Fleet:
    """What frozen environments may keep. `limit`: connections that the server has for everybody but administrators."""

    limit: int
    at_work: int
    """Connections of those that run at once."""
    keep_below: float
    """The largest value with which no login is refused because of a frozen environment."""
    kept: int
    """The most connections that frozen environments have with that value."""
    costs: tuple[Cost, ...]


@dataclass(frozen=True)
class Load:
    """A number of environments at work, and what it asks of the database."""

    environments: int
    connections: int
    fit: Fit
    throttled: bool = False
    """More environments were wanted than Lambda may start."""


@dataclass(frozen=True)
class Formula:
    """A classic rule of thumb, and what it gives here. `connections` is None where a figure is missing."""

    name: str
    meaning: str
    connections: int | None
    needs: str
    """The arguments that it is made of."""


@dataclass(frozen=True)
class Plan:
    """The answer."""

    figures: Figures
    per_environment: int
    available: int
    """Connections that this function may have."""
    budget: int
    """The same, less the headroom."""
    now: Load
    doubled: Load
    most: Load | None
    """What Lambda may start at most; None where no bound is known."""
    reserved_concurrency: int | None
    """What to set, so that the budget holds whatever happens; None behind a proxy, which shares its connections."""
    proxy: ProxyAdvice
    backend: int | None
    """Connections that a proxy needs to the database at the peak; None where rate or query time are not known."""
    formulas: tuple[Formula, ...]
    fleet: Fleet | None
    """What to let frozen environments keep; None behind a proxy and on Managed Instances, where none is frozen."""


def plan(figures: Figures) -> Plan:
    """Make the plan. Raises ValueError for figures that are impossible."""
    _check(figures)
    per_environment = figures.workers * figures.max_size
    available = max(figures.max_connections - figures.reserved - figures.others, 0)
    if figures.proxy_percent is not None:
        # The proxy is a client of the database like any other, and takes no more than its share.
        available = min(available, figures.max_connections * figures.proxy_percent // 100)
    budget = math.floor(available * (1 - figures.headroom) + 1e-9)
    # Environments that Lambda may start; reserved concurrency 0 means that it starts none.
    known = (figures.reserved_concurrency, figures.account_concurrency)
    bound = min((each for each in known if each is not None), default=None)

    def load(environments: int) -> Load:
        started = environments if bound is None else min(environments, bound)
        connections = started * per_environment
        fit = Fit.FITS if connections <= budget else Fit.TIGHT if connections <= available else Fit.TOO_MANY
        return Load(started, connections, fit, started < environments)

    now, doubled = load(figures.at_work), load(2 * figures.at_work)
    most = None if bound is None else load(bound)
    backend = _backend(figures)
    return Plan(
        figures=figures,
        per_environment=per_environment,
        available=available,
        budget=budget,
        now=now,
        doubled=doubled,
        most=most,
        reserved_concurrency=None if figures.proxy_percent is not None else budget // per_environment,
        proxy=_proxy(figures, per_environment, budget),
        backend=backend,
        formulas=_formulas(figures, available, backend),
        fleet=None if figures.proxy_percent is not None or figures.workers > 1 else _fleet(figures, now.connections),
    )


def _fleet(figures: Figures, at_work: int) -> Fleet:
    """Sessions that are kept, and others', are at most `keep_below` of the limit, and those at work come on top."""
    limit = max(figures.max_connections - figures.reserved, 1)
    part = max(math.floor(100 * (1 - at_work / limit) + 1e-9), 0) / 100
    costs = tuple(
        Cost(higher, min(lacking, at_work))
        for higher in (DEFAULT, 0.8, 1.0)
        if higher > part and (lacking := math.floor(higher * limit) + at_work - limit) > 0
    )
    return Fleet(
        limit=limit,
        at_work=at_work,
        keep_below=part,
        kept=max(math.floor(part * limit) - figures.others, 0),
        costs=costs,
    )


def _check(figures: Figures) -> None:
    positive = dict.fromkeys(("max_connections", "environments", "workers", "max_size"), 1)
    for name, least in {**positive, "reserved": 0, "others": 0, "running": 1}.items():
        value = getattr(figures, name)
        if value is not None and value < least:
            raise ValueError(f"{name}={value} is not valid: it must be at least {least}")
    for name in ("reserved_concurrency", "account_concurrency", "cores", "rate", "query_seconds"):
        value = getattr(figures, name)
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{name}={value} is not valid: it must not be negative")
    if figures.rate is not None and not figures.rate * (figures.query_seconds or 0) < 1e9:
        both = f"rate={figures.rate} with query_seconds={figures.query_seconds}"
        raise ValueError(f"{both} is not a number of connections")
    if not 0 <= figures.headroom < 1:
        raise ValueError(f"headroom={figures.headroom} is not valid: it must be at least 0 and below 1, such as 0.2")
    if figures.proxy_percent is not None and not 1 <= figures.proxy_percent <= 100:
        raise ValueError(f"proxy_percent={figures.proxy_percent} is not valid: it must be from 1 to 100")


def _backend(figures: Figures) -> int | None:
    """A proxy lends a connection for a transaction: as many as run at once, by Little's law, and a fifth more."""
    if figures.rate is None or figures.query_seconds is None:
        return None
    return max(1, math.ceil(figures.rate * figures.query_seconds * 1.2 - 1e-9))


def _proxy(figures: Figures, per_environment: int, budget: int) -> ProxyAdvice:
    # Environments at work count, but not frozen ones, which keep a connection only while there is room. What is wanted
    # counts, not what Lambda lets through: a bound that throttles is a way to do without a proxy, at a price.
    if figures.proxy_percent is not None:
        return ProxyAdvice.THERE
    if figures.at_work * per_environment > budget:
        return ProxyAdvice.YES
    return ProxyAdvice.SOON if 2 * figures.at_work * per_environment > budget else ProxyAdvice.NO


def _formulas(figures: Figures, available: int, backend: int | None) -> tuple[Formula, ...]:
    disks = "cores x 2 + spindles"
    cores = None if figures.cores is None else figures.cores * 2 + figures.spindles
    return (
        Formula(disks, "what the server can work on at once; more have to wait", cores, "--cores"),
        Formula(
            "peak rate x query time x 1.2",
            "queries that run at once, and a fifth more",
            backend,
            "--rate and --query-time",
        ),
        Formula(
            "limit / environments",
            "the max_size that each environment could have",
            available // figures.at_work,
            "--environments",
        ),
    )
