"""What `Pool` takes, for type checkers. Nothing imports this at run time."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from .auth.base import Auth
from .endpoints.base import EndpointSource
from .events import Observer


class _PlainOptions(TypedDict, total=False):
    """Every option but `connect_args`; seconds are floats. The last six go with `host`; with a URL, in its query."""

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


class Options(_PlainOptions, total=False):
    """Every option."""

    connect_args: Mapping[str, Any]


class _OtherArguments(TypedDict, total=False):
    """What is not an option."""

    host: str | None
    user: str | None
    password: str | None
    database: str | None
    auth: Auth | None
    endpoint: EndpointSource | None
    name: str | None
    observers: Sequence[Observer] | None


class PlainArguments(_PlainOptions, _OtherArguments, total=False):
    """Every argument of `Pool` except the URL and those that tell the pool's type.

    `connect_args` is one of these, because it may hold a row factory or a cursor class.
    """


class Arguments(Options, _OtherArguments, total=False):
    """The same with `connect_args`."""
