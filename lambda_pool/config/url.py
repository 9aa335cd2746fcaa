"""A database URL, taken apart."""

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..record import Record
from ..secret import Secret, SecretMapping
from ..tls import weaker
from . import synonyms
from .values import bad, flag, is_sendable

ENGINES = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}
MAX_PORT = 65535
_SEVERAL_HOSTS = "the URL names several hosts: name one (RdsProxy and AuroraCluster find readers themselves)"
_FILES = {
    "sslrootcert": "the path of a file of trusted certificates (PEM)",
    "sslcert": "the path of the client's certificate (PEM)",
    "sslkey": "the path of the client's private key (PEM)",
}
_ESCAPES = "in a user or a password write : / ? # @ % as %3A %2F %3F %23 %40 %25"


class Url(Record):
    """The parts of a database URL, or of what was given instead of one.

    `host` may be a Unix socket's path; `hostaddr` is the address to go to where the host's name is not to be looked up;
    `port` is None where the default is meant. `encrypted`: plain text is refused, though sslmode is left open.
    `options` are those of the pool that stood in the query, `parameters` what is left of it for the driver.
    """

    engine: str
    host: str = ""
    hostaddr: str = ""
    port: int | None = None
    user: str = ""
    password: Secret | None = None
    database: str = ""
    sslmode: str | None = None
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    sslpassword: Secret | None = None
    encrypted: bool = False
    pooled: bool = False
    options: Mapping[str, str] = SecretMapping({})
    parameters: Mapping[str, str] = SecretMapping({})


def _decode(part: str, text: str) -> str:
    if "%" in text:
        from urllib.parse import unquote  # 7 ms that a MySQL function's cold start does without

        try:
            text = unquote(text, errors="strict")
        except UnicodeDecodeError:
            raise ConfigError(f"the URL's {part} is not valid: its %-escapes are not UTF-8") from None
    if not is_sendable(text):  # a driver's error would quote the whole text
        raise ConfigError(f"the URL's {part} is not valid: it holds a NUL character, or bytes that are not UTF-8")
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
    own, options, parameters = synonyms.translate(engine, _split_query(query))
    hostaddr = address_of(parameters.pop("hostaddr", "")) if engine == "postgresql" else ""
    for name in ("host",) if engine == "postgresql" else ("host", "unix_socket"):
        if name in parameters:
            also = checked_host("the URL's host", parameters.pop(name))
            if host:
                raise ConfigError(f"the URL names two hosts: {host!r}, and {also!r} in its query; keep one")
            host = also
    if hostaddr and host.startswith(("/", "@")):
        raise ConfigError("the URL names a Unix socket as its host, and hostaddr in its query: keep one")
    for reserved in ("user", "password", "passwd", "port", "dbname", "database", "db"):
        if reserved in parameters:
            raise ConfigError(
                f"the URL's query holds {reserved!r}: write it before the query, as user:password@host:port/database"
            )
    return Url(
        engine=engine,
        host=host,
        hostaddr=hostaddr,
        port=port,
        user=_decode("user", user),
        password=None if password is None else Secret(_decode("password", password)),
        database=_decode("database", path),
        options=SecretMapping(options),
        parameters=SecretMapping(parameters),
        **own_fields(own),
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
            raise ConfigError(f"the URL's host [{host} is not valid: put an IPv6 address in brackets, as in [::1]:5432")
        port = tail[1:]
    else:
        host, _, port = address.partition(":")
        if "," in address:
            raise ConfigError(_SEVERAL_HOSTS)
        if ":" in port:
            raise ConfigError(f"the URL's host is not valid: put an IPv6 address in brackets ({_ESCAPES})")
    host = _decode("host", host)
    if not host.startswith("/") and not address.startswith("[") and ("@" in host[1:] or ":" in host):
        # Not shown: a whole login that was escaped along with the host, password and all.
        raise ConfigError("the URL's host is not valid: write '@' and ':' around it as they are, not as %40 and %3A")
    checked_host("the URL's host", host)
    if not port:
        return host, None
    # Not shown where it is not a number: it may be half a password that was not escaped.
    if not (port.isascii() and port.isdigit()):
        raise ConfigError(f"the URL's port is not valid: it must be a whole number from 1 to 65535 ({_ESCAPES})")
    if len(port) > 5 or not 1 <= int(port) <= MAX_PORT:
        raise ConfigError(f"the URL's port {port[:20]} is not valid: it must be a whole number from 1 to 65535")
    return host, int(port)


def _split_query(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, equals, value = pair.partition("=")
        key = _decode("query", key)
        if not equals or not key:
            raise ConfigError(f"the URL's query holds {key!r} without a value: write name=value, joined by '&'")
        if not key.replace("-", "_").isidentifier():
            raise ConfigError(
                f"the URL's query holds {key!r}, which is not the name of a parameter: correct or remove it"
            )
        if key in parameters:
            raise ConfigError(f"the URL's query holds {key!r} twice: keep one")
        parameters[key] = _decode(key, value.replace("+", " "))
    return parameters


def checked_host(name: str, host: str) -> str:
    """A host as it is. Raises ConfigError for a list of hosts, and for blanks in a name."""
    if "," in host:
        raise ConfigError(_SEVERAL_HOSTS)
    if not host.isprintable() or (not host.startswith("/") and any(character.isspace() for character in host)):
        raise bad(name, host, "a host name without spaces")
    return host


def address_of(text: str) -> str:
    """A hostaddr as it is; empty where there is none. Raises ConfigError for what is no IP address."""
    if text:
        import ipaddress

        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise bad("hostaddr", text, "an IP address; write a name as the URL's host") from None
    return text


def own_fields(own: Mapping[str, str]) -> dict[str, Any]:
    """Our own words of a query, checked: fields of Url. Raises ConfigError."""
    fields: dict[str, Any] = {}
    for name, wanted in _FILES.items():
        if name in own:
            if not own[name]:
                raise bad(name, own[name], wanted)
            fields[name] = own[name]
    if "sslmode" in own:
        fields["sslmode"] = synonyms.mode("sslmode", own["sslmode"])
    if "sslpassword" in own:
        fields["sslpassword"] = Secret(own["sslpassword"])
    for name in ("pooled", "encrypted"):
        if name in own:
            fields[name] = flag(name, own[name])
    if ("sslcert" in own) is not ("sslkey" in own):
        raise ConfigError(
            "sslcert and sslkey belong together: they are the client's own certificate and its private key (PEM); the "
            "authorities that the server is verified with are sslrootcert"
        )
    if "sslcert" in own and weaker(fields.get("sslmode", "require"), "require"):
        raise ConfigError(
            f"sslmode={fields['sslmode']} is not valid with sslcert: a client's certificate needs TLS; leave sslmode "
            "out, or make it 'verify-full'"
        )
    return fields
