"""A database's address given as separate values, for users whose variables are DB_HOST, DB_USER and DB_PASSWORD."""

from collections.abc import Callable, Mapping
from contextlib import suppress

from ..errors import ConfigError
from ..secret import Secret
from . import synonyms
from .addresses import HOST, MAX_PORT, Address, may_be_host, split_addresses
from .url import ENGINES, Url, own_fields
from .values import is_sendable, plain

PARTS = ("host", "port", "user", "password", "database", "engine", *synonyms.OWN)
"""Keywords of Pool, and names of variables after the prefix. None of them may be given together with a URL."""

PORTS = {"postgresql": 5432, "mysql": 3306}
"""The usual port of each engine."""
ENGINE_AT = {port: engine for engine, port in PORTS.items()}


def from_parts(parts: Mapping[str, object], called: Callable[[str], str], *, needs_host: bool) -> Url:
    """A Url of these parts, none of which is None. They are taken as they are: nothing in them needs to be escaped.

    `called` gives the name that a part has where it was given. `needs_host`: nothing else says where the host is.
    Raises ConfigError, which shows no value that may be secret.
    """
    port = _port(called("port"), parts.get("port"))
    own = {name: _own(called(name), parts[name]) for name in synonyms.OWN if name in parts}
    addresses = [(host, own or port) for host, own in _hosts(called, parts.get("host", ""))]
    host, first_port = addresses[0]
    if needs_host and not host:
        raise ConfigError(
            f"{called('host')} is missing, but is needed with {', '.join(called(name) for name in parts)}: "
            "give the host's name, or the directory of a Unix socket (for MySQL, the path of the socket)"
        )
    password = parts.get("password")
    return Url(
        engine=engine_of(called("engine"), parts.get("engine"), first_port),
        host=host,
        port=first_port,
        further=tuple(addresses[1:]),
        user=_name(called("user"), parts.get("user", "")),
        password=None if password is None else Secret(_text(called("password"), password)),
        database=_name(called("database"), parts.get("database", "")),
        **own_fields(own),
    )


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} is not valid: it must be a string, not {type(value).__name__}")
    if not is_sendable(value):
        raise ConfigError(f"{name} is not valid: it holds a NUL character, or bytes that are not UTF-8")
    return plain(value)


def _name(name: str, value: object) -> str:
    """A user or a database, which is shown in errors, logs and metrics."""
    text = _text(name, value)
    if "://" in text:
        raise ConfigError(f"{name} is not valid: it must be only a name; pass a whole URL as url")
    return text


def _own(name: str, value: object) -> str:
    if name.lower().endswith("pooled") and isinstance(value, bool):
        return str(value)
    return _text(name, value)


def _hosts(called: Callable[[str], str], value: object) -> list[Address]:
    name = called("host")
    host = _text(name, value)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    # The value is never shown: somebody may have put a URL here, with its password.
    wanted = HOST
    if not host.startswith("/") and ("/" in host or "@" in host[1:]):
        wanted = "only a host name; pass a whole URL as url"
    elif "," in host:
        with suppress(ConfigError):
            return split_addresses(host)
        wanted = "host names with commas in between, each followed by a colon and its port if it has its own port"
    elif host.count(":") == 1:
        wanted = f"only a host name; pass the port as {called('port')}"
    elif may_be_host(host):
        return [(host, None)]
    raise ConfigError(f"{name} is not valid: it must be {wanted}")


def _port(name: str, value: object) -> int | None:
    if value is None:
        return None
    text = str(value) if isinstance(value, int | str) else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= MAX_PORT):
        raise ConfigError(f"{name} is not valid: it must be a whole number from 1 to {MAX_PORT}")
    return int(text)


def engine_of(name: str, value: object, port: int | None) -> str:
    """The engine that the setting names, or the port if there is no setting. Raises ConfigError."""
    if value is None:
        if port in ENGINE_AT:
            return ENGINE_AT[port]
        raise ConfigError(f"{name} is missing: give 'postgresql' or 'mysql' (or the port 5432 or 3306)")
    engine = ENGINES.get(value.lower()) if isinstance(value, str) else None
    if engine is None:
        raise ConfigError(f"{name} is not valid: it must be 'postgresql' or 'mysql'")
    return engine
