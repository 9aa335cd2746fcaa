"""A database URL, taken apart."""

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..record import Record
from ..secret import Secret, SecretMapping
from ..tls import MODES
from .values import bad, flag

ENGINES = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}
_MAX_PORT = 65535
_ESCAPES = "in a user or a password write : / ? # @ % as %3A %2F %3F %23 %40 %25"


class Url(Record):
    """The parts of a database URL. `host` may be a Unix socket's path; `port` is None where the default is meant."""

    engine: str
    host: str = ""
    port: int | None = None
    user: str = ""
    password: Secret | None = None
    database: str = ""
    sslmode: str | None = None
    sslrootcert: str | None = None
    pooled: bool = False
    parameters: Mapping[str, str] = SecretMapping({})


def _decode(part: str, text: str) -> str:
    if "%" in text:
        from urllib.parse import unquote  # 7 ms that a MySQL function's cold start does without

        try:
            text = unquote(text, errors="strict")
        except UnicodeDecodeError:
            raise ConfigError(f"the URL's {part} is not valid: its %-escapes are not UTF-8") from None
    # Surrogates come from bytes in the environment that are not UTF-8; a driver's error would quote the whole text.
    if "\0" in text or (not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)):
        raise ConfigError(f"the URL's {part} is not valid: it holds a NUL, or bytes that are not UTF-8")
    return text


def parse_url(text: str) -> Url:
    """Take a database URL apart. Raises ConfigError, which never shows the password.

    `postgresql://user:password@host:port/database?sslmode=verify-full`; a Unix socket as `?host=/directory`
    (PostgreSQL) or `?unix_socket=/path` (MySQL). Names SQLAlchemy knows (`postgres`, `mysql+pymysql`, …) are accepted.
    """
    if not isinstance(text, str):
        raise ConfigError(f"the URL must be a text, not {type(text).__name__}")
    scheme, colon, rest = text.strip().partition("://")
    engine = ENGINES.get(scheme.partition("+")[0].lower())
    if not colon or engine is None:
        # Not shown unless it looks like a scheme: what was given may be a password.
        shown = repr(scheme) if colon and scheme.replace("+", "").isalnum() else "what was given"
        raise ConfigError(f"the URL must start with postgresql:// or mysql://, and {shown} does not")
    rest, hash_mark, _ = rest.partition("#")
    if hash_mark:
        raise ConfigError(f"the URL holds a '#' ({_ESCAPES})")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    if "/" in path or "@" in path:
        raise ConfigError(f"the URL's path must be one database name ({_ESCAPES})")
    if any("@" in pair and not _is_abstract_socket(pair) for pair in query.split("&")):
        # What looks like a host or a query may be half a password, and is not shown.
        raise ConfigError(f"the URL holds a '?' in front of its '@' ({_ESCAPES})")
    user, password, address = _split_authority(authority)
    host, port = _split_address(address)
    special, parameters = _split_query(query)
    socket = parameters.pop("host" if engine == "postgresql" else "unix_socket", None)
    if socket is not None:
        if host:
            raise ConfigError(f"the URL names two hosts: {host!r}, and {socket!r} in its query; keep one")
        host = socket
    for reserved in ("user", "password", "passwd", "port", "dbname", "database", "db"):
        if reserved in parameters:
            raise ConfigError(
                f"the URL's query holds {reserved!r}: write it in front, as user:password@host:port/database"
            )
    return Url(
        engine=engine,
        host=host,
        port=port,
        user=_decode("user", user),
        password=None if password is None else Secret(_decode("password", password)),
        database=_decode("database", path),
        parameters=SecretMapping(parameters),
        **special,
    )


def _is_abstract_socket(pair: str) -> bool:
    """Whether a piece of the query names one, which begins with the only '@' that stands in a query as it is."""
    name, _, value = pair.partition("=")
    return name in {"host", "unix_socket"} and value.startswith("@") and "@" not in value[1:] and "/" not in value


def _split_authority(authority: str) -> tuple[str, str | None, str]:
    login, at, address = authority.rpartition("@")
    if not at:
        return "", None, authority
    if "@" in login:
        raise ConfigError(f"the URL holds more than one '@' ({_ESCAPES})")
    user, colon, password = login.partition(":")
    return user, password if colon else None, address


def _split_address(address: str) -> tuple[str, int | None]:
    if address.startswith("["):
        host, bracket, tail = address[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise ConfigError(f"the URL's host [{host} is not valid: an IPv6 address stands in brackets, as [::1]:5432")
        port = tail[1:]
    else:
        host, _, port = address.partition(":")
        if "," in address:
            raise ConfigError(
                "the URL names several hosts: name one (RdsProxy and AuroraCluster find readers themselves)"
            )
        if ":" in port:
            raise ConfigError(f"the URL's host is not valid: an IPv6 address stands in brackets ({_ESCAPES})")
    host = _decode("host", host)
    if not host.startswith("/") and not address.startswith("[") and ("@" in host[1:] or ":" in host):
        # Not shown: a whole login that was escaped along with the host, password and all.
        raise ConfigError("the URL's host is not valid: write '@' and ':' around it as they are, not as %40 and %3A")
    if any(character.isspace() or not character.isprintable() for character in host):
        raise bad("the URL's host", host, "a host name without spaces")
    if not port:
        return host, None
    # Not shown where it is not a number: it may be half a password that was not escaped.
    if not (port.isascii() and port.isdigit()):
        raise ConfigError(f"the URL's port is not valid: it must be a whole number from 1 to 65535 ({_ESCAPES})")
    if len(port) > 5 or not 1 <= int(port) <= _MAX_PORT:
        raise ConfigError(f"the URL's port {port[:20]} is not valid: it must be a whole number from 1 to 65535")
    return host, int(port)


def _split_query(query: str) -> tuple[dict[str, Any], dict[str, str]]:
    parameters: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, equals, value = pair.partition("=")
        key = _decode("query", key)
        if not equals or not key:
            raise ConfigError(f"the URL's query holds {key!r} without a value: write name=value, joined by '&'")
        if not key.isidentifier():
            raise ConfigError(f"the URL's query holds {key!r}, which is no parameter's name: correct or remove it")
        if key in parameters:
            raise ConfigError(f"the URL's query holds {key!r} twice: keep one")
        parameters[key] = _decode(key, value.replace("+", " "))
    special: dict[str, Any] = {}
    if "sslmode" in parameters:
        mode = parameters.pop("sslmode")
        if mode not in MODES:
            raise bad("sslmode", mode, f"one of {', '.join(MODES)}")
        special["sslmode"] = mode
    if "sslrootcert" in parameters:
        special["sslrootcert"] = _root_cert(parameters.pop("sslrootcert"))
    if "pooled" in parameters:
        special["pooled"] = flag("pooled", parameters.pop("pooled"))
    return special, parameters


def _root_cert(path: str) -> str:
    if not path:
        raise bad("sslrootcert", path, "the path of a file of trusted certificates (PEM)")
    return path
