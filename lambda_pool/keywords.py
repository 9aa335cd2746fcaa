"""What `Pool` takes, for type checkers. Nothing imports this at run time."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from .auth.base import Auth
from .endpoints.base import EndpointSource
from .events import Observer


class _Plain(TypedDict, total=False):
    """The options but `connect_args`; seconds are floats. The last six go with `host`; with a URL, in its query."""

    max_size: int
    min_size: int
    timeout: float
    wake_timeout: float
    connect_timeout: float
    ping_after: float
    ping_timeout: float
    max_lifetime: float
    max_idle: float | None
    keep_below: float
    session_idle: float
    autocommit: bool
    reset: str
    unsaved: str
    leak_after: float
    slow_query: float
    trace_comment: bool
    cancel_before_deadline: float
    graceful_shutdown: bool
    metrics: str
    metrics_interval: float
    sslmode: str
    sslrootcert: str
    sslcert: str
    sslkey: str
    sslpassword: str
    pooled: bool


class Options(_Plain, total=False):
    """Every option."""

    connect_args: Mapping[str, Any]


class _Where(TypedDict, total=False):
    host: str | None
    user: str | None
    password: str | None
    database: str | None
    auth: Auth | None
    endpoint: EndpointSource | None
    name: str | None
    observers: Sequence[Observer] | None


class Further(_Plain, _Where, total=False):
    """Every argument of `Pool` except the URL and those that tell the pool's type. A row factory is one of them."""


class Arguments(Options, _Where, total=False):
    """The same with `connect_args`."""
