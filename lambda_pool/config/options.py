"""Options, checked and frozen together with the URL."""

from collections.abc import Callable, Mapping
from typing import Any

from ..aws.hosts import is_dsql
from ..errors import ConfigError
from ..record import Record
from ..secret import SecretMapping, private
from . import synonyms
from .parts import PARTS
from .platform import max_concurrency
from .url import Url, parse_url
from .values import (
    bad,
    flag,
    fraction,
    integer,
    mapping,
    number_of_seconds,
    one_of,
    optional_seconds,
    plain,
    seconds,
)

DEFAULT_PREFIX = "LAMBDA_POOL_"
"""What stands before an option's name in the environment."""


class Config(Record):
    """Everything a pool was told, checked. Seconds are floats; docs/options.md has a table of the options."""

    url: Url
    name: str
    max_size: int = 1
    min_size: int = 0
    timeout: float = 5.0
    wake_timeout: float = 0.0
    connect_timeout: float = 3.0
    ping_after: float = 5.0
    ping_timeout: float = 1.0
    max_lifetime: float = 1800.0
    max_idle: float | None = None
    keep_below: float = 0.6
    session_idle: float = 60.0
    autocommit: bool = False
    reset: str = "changed"
    unsaved: str = "raise"
    leak_after: float = 0.0
    slow_query: float = 0.0
    trace_comment: bool = False
    cancel_before_deadline: float = 0.0
    graceful_shutdown: bool = True
    metrics: str = "auto"
    metrics_interval: float = 60.0
    connect_args: Mapping[str, Any] = SecretMapping({})


OPTIONS: dict[str, Callable[[str, object], Any]] = {
    "max_size": integer(1),
    "min_size": integer(0),
    "timeout": seconds,
    "wake_timeout": number_of_seconds(zero="to switch it off"),
    "connect_timeout": seconds,
    "ping_after": number_of_seconds(zero="to ping at each checkout"),
    "ping_timeout": seconds,
    "max_lifetime": seconds,
    "max_idle": optional_seconds,
    "keep_below": fraction(zero="to close each time", one="to keep always"),
    "session_idle": number_of_seconds(zero="to leave the server's own timer alone"),
    "autocommit": flag,
    "reset": one_of("changed", "transaction", "session"),
    "unsaved": one_of("raise", "warn"),
    "leak_after": number_of_seconds(zero="to switch it off"),
    "slow_query": number_of_seconds(zero="to switch it off"),
    "trace_comment": flag,
    "cancel_before_deadline": number_of_seconds(zero="to switch it off"),
    "graceful_shutdown": flag,
    "metrics": one_of("auto", "emf", "cloudwatch", "off"),
    "metrics_interval": number_of_seconds(zero="to report at the end of each invocation"),
    "connect_args": mapping,
}


_NO_OPTIONS = ("auth", "endpoint", "name", "observers", "url")


def _instead(key: str) -> str:
    """What to write for a keyword that nobody knows. Most are a driver's, so only a misspelling is corrected."""
    known = (*OPTIONS, *PARTS, *_NO_OPTIONS)
    meant = synonyms.meant(key, known)
    if meant is not None:
        return synonyms.keyword(meant) or f"did you mean {meant}?"
    return (
        f"for an argument of the driver's connect(), write connect_args={{{key!r}: ...}}; "
        f"Pool takes {', '.join(sorted(known))}"
    )


@private
def make(
    url: Url | str | None,
    name: str | None,
    options: Mapping[str, object],
    from_environment: Mapping[str, str],
    prefix: str = DEFAULT_PREFIX,
    variable: str | None = None,
) -> Config:
    """Check a URL and options: `options` win over the environment's under `prefix`, and those win over the URL's.

    If nobody sets `max_size`, it is the number of requests that the environment may run at once. `variable` is the
    environment variable that held the URL, if it did not come from the code. Raises ConfigError for the first value
    that is wrong.
    """
    for key in options:
        if key not in OPTIONS:
            raise ConfigError(f"{key} is not an option of Pool: {synonyms.keyword(key) or _instead(key)}")
    if url is None:
        also = " (or DATABASE_URL)" if prefix == DEFAULT_PREFIX else ""
        raise ConfigError(
            f"no database URL: pass one, or set {prefix}URL{also}, e.g. postgresql://user@host:5432/database "
            f"(or give its parts: host, user, password, database and engine, or {prefix}HOST and so on)"
        )
    try:
        parsed = url if isinstance(url, Url) else _parsed(url, prefix)
    except ConfigError as error:
        if variable is None:
            raise
        raise ConfigError(f"{variable}: {error}") from None
    checked: dict[str, Any] = {"max_size": max_concurrency()}
    for word, text in parsed.options.items():
        key = synonyms.OPTIONS[word]
        checked[key] = OPTIONS[key](f"the URL's {word}", text)
    for key, text in from_environment.items():
        checked[key] = OPTIONS[key](prefix + key.upper(), text)
    for key, value in options.items():
        checked[key] = OPTIONS[key](key, value)
    if name is not None and (not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable()):
        raise bad("name", name, "a string of 1 to 100 printable characters")
    if name is not None and "://" in name:
        raise ConfigError("name is not valid: it looks like a URL, and would appear in logs and metrics")
    config = Config(url=parsed, name=plain(name or parsed.database or parsed.engine), **checked)
    if config.min_size > config.max_size:
        raise bad("min_size", config.min_size, f"at most max_size ({config.max_size})")
    if 0 < config.wake_timeout <= config.timeout:
        raise bad("wake_timeout", config.wake_timeout, f"more than timeout ({config.timeout:g}), or 0 to switch it off")
    if config.url.pooled:
        check_pooled(config)
    if config.url.further:
        _check_several(config)
    if any(is_dsql(host) for host, _ in config.url.addresses):
        _check_dsql(config)
    return config


def _parsed(text: str, prefix: str) -> Url:
    url = parse_url(text)
    for key in url.parameters:
        if key in OPTIONS:
            raise ConfigError(
                f"the URL's query holds {key!r}, an option of Pool: write Pool(..., {key}=...) or set "
                f"{prefix}{key.upper()}"
            )
    return url


_DSQL_LIFETIME = 3240.0
"""Seconds. Aurora DSQL ends each connection after 3600, and a lifetime is up to a tenth longer than the option says."""


def _check_dsql(config: Config) -> None:
    """Raise ConfigError for settings that Aurora DSQL does not allow."""
    if config.url.engine != "postgresql":
        raise ConfigError("this host is an Aurora DSQL cluster, which speaks PostgreSQL: write postgresql://...")
    if config.max_lifetime > _DSQL_LIFETIME:
        raise ConfigError(
            f"max_lifetime={config.max_lifetime:g} is not valid with Aurora DSQL, which ends each connection after 60 "
            f"minutes: give at most {_DSQL_LIFETIME:g}, or leave it out"
        )


def _check_several(config: Config) -> None:
    """Raise ConfigError for a setting that libpq decides by looking at all hosts: the pool tries them one by one."""
    if {**config.url.parameters, **config.connect_args}.get("target_session_attrs") == "prefer-standby":
        raise ConfigError(
            "target_session_attrs='prefer-standby' is not valid with several hosts: write 'standby' for a pool that "
            "only reads, or 'any' and the standbys first"
        )


def check_pooled(config: Config) -> None:
    """Raise ConfigError for what cannot be done through an RDS Proxy or another transaction-mode pooler."""
    if config.reset == "session":
        raise ConfigError(
            "reset='session' is not valid behind an RDS Proxy or a pooler (pooled=true): DISCARD ALL and "
            "COM_RESET_CONNECTION would pin the connection, or reset a session that others share. Leave reset out, and "
            "use SET LOCAL in each transaction: a plain SET may affect another function"
        )
    if config.trace_comment:
        raise ConfigError(
            "trace_comment is not valid behind an RDS Proxy or a pooler (pooled=true): with a comment that differs "
            "each time, each statement looks new to whatever prepares or counts statements there. Leave trace_comment "
            "out"
        )
