"""The pools behind DATABASES: one for each alias and its settings."""

import atexit
import re
from collections.abc import Mapping
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakSet

from .. import api
from .. import config as configuration
from ..config import synonyms
from ..endpoints import base as endpoints
from ..engines.base import EngineConnection
from ..errors import ConfigError
from ..pool import ConnectionPool
from .errors import SettingsError

OWN = {
    "lambda_pool": None,
    "pool": None,
    **{name: name for name in ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "connect_timeout")},
    **synonyms.TLS,
    "ssl": {"ca": "sslrootcert", "cert": "sslcert", "key": "sslkey"},
}
"""What Django projects write among the driver's OPTIONS but the pool must know, with the pool's own names."""
_GIVEN = ("auth", "endpoint", "name", "observers")
_PLACE = {"host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD", "database": "NAME"}
LOGIN = {**_PLACE, "dbname": "NAME", "db": "NAME", "passwd": "PASSWORD", "unix_socket": "HOST"}
"""What Django makes of DATABASES and the pool knows already, and its other names."""
_ELSEWHERE = re.compile(r"(connect_args or )?the URL's query|connect_args(?=[= ])")  # and not in a list of options
_THREADS = 100
"""Connections that threads may hold outside of Lambda, where a development server and tests have a thread each."""


class AliasPool:
    """The pool of one alias."""

    def __init__(self, pool: api.Pool, *, readonly: bool) -> None:
        self.pool = pool
        self.readonly = readonly
        self.core: ConnectionPool = api.core_of(pool)
        self.role: endpoints.Role = self.core.role(readonly=readonly)
        self.prepared: WeakSet[EngineConnection] = WeakSet()
        """The connections that are as Django wants them."""
        self.server_data: dict[str, Any] = {}
        """What Django's backend asked the server once, for the wrappers of other threads."""


class Wanted(NamedTuple):
    """What an alias is to be connected to, and how. Two that are equal share a pool."""

    alias: str
    engine: str
    place: tuple[Any, ...]
    options: dict[str, Any]
    max_age: Any
    autocommit: bool
    time_zone: tuple[Any, ...]


_made: list[tuple[Wanted, AliasPool]] = []
_lock = Lock()


def wanted(alias: str, engine: str, settings: Mapping[str, Any], time_zone: tuple[Any, ...]) -> Wanted:
    """What the settings of an alias say now."""
    options = settings["OPTIONS"]
    return Wanted(
        alias,
        engine,
        tuple(settings[name] for name in _PLACE.values()),
        {name: dict(value) if isinstance(value, dict) else value for name, value in options.items()},
        settings["CONN_MAX_AGE"],
        settings["AUTOCOMMIT"],
        time_zone,
    )


def shared(want: Wanted, driver: Mapping[str, Any]) -> AliasPool:
    """The pool for that, which all threads share, made if there is none. `driver`: what Django tells the driver."""
    with _lock:
        for known, found in _made:
            if known == want:
                return found
        found = make(want, driver)
        if not _made:
            atexit.register(close_all)
        _made.append((want, found))
        return found


def close_all() -> None:
    """Close what is idle in every pool: before a database is dropped, and at the end of the process."""
    for _, made in list(_made):
        made.pool.close()


def make(want: Wanted, driver: Mapping[str, Any]) -> AliasPool:
    """A pool of its own. Raises SettingsError, which names the alias."""
    try:
        return _make(want, driver)
    except SettingsError:
        raise
    except ConfigError as error:
        text = str(error)
        if any(want.place[:4]):  # otherwise the environment may well have a URL
            text = _ELSEWHERE.sub("OPTIONS", text).replace("options=-c%20NAME%3DVALUE", "{'options': '-c NAME=VALUE'}")
        raise SettingsError(f"DATABASES[{want.alias!r}]: {text}") from error


def _make(want: Wanted, driver: Mapping[str, Any]) -> AliasPool:
    said = want.options.get("lambda_pool", {})
    if not isinstance(said, Mapping) or not all(isinstance(name, str) for name in said):
        raise ConfigError("OPTIONS['lambda_pool'] is not valid: it must be a dict of Pool's keywords")
    if want.options.get("pool"):
        raise ConfigError("OPTIONS['pool'] is not valid with lambda_pool, because lambda_pool is the pool: take it out")
    for name in (*_PLACE, "engine", "url", "autocommit"):
        if name in said:
            instead = {**_PLACE, "autocommit": "AUTOCOMMIT"}.get(name, "HOST, USER, NAME and ENGINE")
            raise ConfigError(f"OPTIONS['lambda_pool'] holds {name!r}: write {instead} in DATABASES")
    for name, instead in {**LOGIN, "hostaddr": "HOST", "autocommit": "AUTOCOMMIT"}.items():
        if name in want.options:
            raise ConfigError(f"OPTIONS holds {name!r}: write {instead} in DATABASES")
    options = _own_options(want) | dict(said)
    readonly = options.pop("readonly", False)
    if not isinstance(readonly, bool):
        raise ConfigError("OPTIONS['lambda_pool']['readonly'] is not valid: it must be True or False")
    given = {name: options.pop(name, None) for name in _GIVEN}
    own = {name: options.pop(name) for name in synonyms.OWN if name in options}
    options["connect_args"] = {**driver, **options.get("connect_args", {})}
    _complete(options, want)
    where = _where(want, own)
    # Django says None for no database at all, to create or to drop one. Empty means that it is said elsewhere.
    database = {None: "postgres" if want.engine == "postgresql" else "", "": None}.get(want.place[4], want.place[4])
    pool = api.pool_at(where, want.engine, database, **given, options=options)
    made = AliasPool(pool, readonly=readonly)
    if readonly and pool.config.url.pooled and not made.core.connector.endpoint.has_reader:
        raise ConfigError(
            "OPTIONS['lambda_pool']['readonly'] is not valid behind a pooler (pooled=true), because others use its "
            "sessions too: give it an endpoint that has a reader, such as AuroraCluster('id'), or a user that may "
            "only read"
        )
    return made


def _own_options(want: Wanted) -> dict[str, Any]:
    found = {}
    for name, ours in OWN.items():
        if name not in want.options or ours is None:
            continue
        value = want.options[name]
        if isinstance(ours, str):
            found[ours] = synonyms.mode(name, str(value)) if ours == "sslmode" else value
        elif want.engine == "mysql" and isinstance(value, dict) and value.keys() <= ours.keys():
            found |= {ours[key]: path for key, path in value.items()}
        else:
            raise ConfigError(f"OPTIONS[{name!r}] is not valid: write sslmode, sslrootcert, sslcert and sslkey instead")
    return found


def _complete(options: dict[str, Any], want: Wanted) -> None:
    """What Django's settings say besides, and what holds where nobody says anything."""
    options["autocommit"] = want.autocommit
    age = want.max_age
    if age and not isinstance(age, str):  # Django adds it to a time
        try:
            options.setdefault("max_lifetime", configuration.seconds("CONN_MAX_AGE", age))
        except ConfigError as error:
            raise ConfigError(f"{error} (or None, or 0)") from None
    elif age is not None and (age != 0 or isinstance(age, bool | str)):
        raise ConfigError(f"CONN_MAX_AGE={age!r} is not valid: it must be a number of seconds, None, or 0")
    if "max_size" not in configuration.read_environment().options and not configuration.in_lambda():
        options.setdefault("max_size", _THREADS)


def _where(want: Wanted, own: dict[str, Any]) -> configuration.Url | None:
    """Where DATABASES leads to; None if it names nothing but a database: the environment says it."""
    parts = {key: value for key, value in zip(_PLACE, want.place, strict=True) if value not in {"", None}}
    if not parts.keys() - {"database"}:
        if own:
            raise ConfigError(
                f"OPTIONS holds {', '.join(map(repr, own))} without HOST or USER in DATABASES: write it in the URL's "
                "query, in the environment"
            )
        return None
    return configuration.from_parts(
        {**parts, **own, "engine": want.engine}, lambda name: _PLACE.get(name, name), needs_host=False
    )
