"""A database URL, taken apart."""

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..record import Record
from ..secret import Secret, SecretMapping
from ..tls import weaker
from . import synonyms
from .addresses import ESCAPES, Address, address_of, checked_host, split_addresses
from .values import bad, decoded, flag

ENGINES = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}
_FILES = {
    "sslrootcert": "the path of a file of trusted certificates (PEM)",
    "sslcert": "the path of the client's certificate (PEM)",
    "sslkey": "the path of the client's private key (PEM)",
}


class Url(Record):
    """The parts of a database URL, or of what was given instead of one.

    `host` may be a Unix socket's path. `hostaddr` is an address to connect to without looking up the host's name.
    `port` is None for the default port. `further`: the hosts after the first, with their ports, if there are several.
    `encrypted`: plain text is refused, although sslmode is left open.
    `options` are the pool's options in the query, `parameters` the rest of the query, for the driver.
    """

    engine: str
    host: str = ""
    hostaddr: str = ""
    port: int | None = None
    further: tuple[Address, ...] = ()
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

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Each host with its port, in the order in which they are tried."""
        return (self.host, self.port), *self.further

    @property
    def hosts(self) -> str:
        """The names of all hosts, for people."""
        return ",".join(host for host, _ in self.addresses)


def parse_url(text: str) -> Url:
    """Take a database URL apart. Raises ConfigError, which never shows the password.

    `postgresql://user:password@host:port/database?sslmode=verify-full`; a Unix socket as `?host=/directory`
    (PostgreSQL) or `?unix_socket=/path` (MySQL). Several hosts as `one:5432,two:5433`, or in the query, as SQLAlchemy
    has them (`?host=one:5432&host=two:5433`). Names SQLAlchemy knows (`postgres`, `mysql+pymysql`, …) are accepted.
    """
    if not isinstance(text, str):
        raise ConfigError(f"the URL must be a string, not {type(text).__name__}")
    scheme, colon, rest = text.strip().partition("://")
    engine = ENGINES.get(scheme.partition("+")[0].lower())
    if not colon or engine is None:
        # The text is shown only if it looks like a scheme: it may be a password.
        shown = repr(scheme) if colon and scheme.replace("+", "").isalnum() else "what was given"
        parts = "" if colon else " (or give its parts: host, user, password, database and engine)"
        raise ConfigError(f"the URL must start with postgresql:// or mysql://, but {shown} does not{parts}")
    rest, hash_mark, _ = rest.partition("#")
    if hash_mark:
        raise ConfigError(f"the URL holds a '#' ({ESCAPES})")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    if "/" in path or "@" in path:
        raise ConfigError(f"the URL's path must be one database name ({ESCAPES})")
    if any("@" in pair and not _is_abstract_socket(pair) for pair in query.split("&")):
        # What looks like a host or a query may be half a password, and is not shown.
        raise ConfigError(f"the URL holds a '?' in front of its '@' ({ESCAPES})")
    user, password, address = _split_authority(authority)
    addresses = split_addresses(address)
    own, options, parameters = synonyms.translate(engine, _split_query(query))
    hostaddr = address_of(parameters.pop("hostaddr", "")) if engine == "postgresql" else ""
    for name in ("host",) if engine == "postgresql" else ("host", "unix_socket"):
        if name in parameters:
            also = _in_query(parameters.pop(name), addresses[0][1])
            if addresses[0][0]:
                raise ConfigError(
                    f"the URL names hosts in two places: {addresses[0][0]!r}, and {also[0][0]!r} in its query; keep one"
                )
            addresses = also
    (host, port), further = addresses[0], tuple(addresses[1:])
    if hostaddr and further:
        raise ConfigError("the URL names several hosts, and hostaddr in its query: keep one")
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
        further=further,
        user=decoded("user", user),
        password=None if password is None else Secret(decoded("password", password)),
        database=decoded("database", path),
        options=SecretMapping(options),
        parameters=SecretMapping(parameters),
        **own_fields(own),
    )


def _is_abstract_socket(pair: str) -> bool:
    """Whether a piece of the query names an abstract socket, whose '@' is the only one allowed unescaped in a query."""
    name, _, value = pair.partition("=")
    return name in {"host", "unix_socket"} and value.startswith("@") and "@" not in value[1:] and "/" not in value


def _split_authority(authority: str) -> tuple[str, str | None, str]:
    login, at, address = authority.rpartition("@")
    if not at:
        return "", None, authority
    if "@" in login:
        raise ConfigError(f"the URL holds more than one '@' ({ESCAPES})")
    user, colon, password = login.partition(":")
    return user, password if colon else None, address


def _in_query(text: str, port: int | None) -> list[Address]:
    """The hosts that a query names; `port` is for those without a port of their own."""
    several = "," in text or (text.count(":") == 1 and not text.startswith(("/", "@")))
    found = split_addresses(text) if several else [(checked_host("the URL's host", text), None)]
    return [(host, own or port) for host, own in found]


def _split_query(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, equals, value = pair.partition("=")
        key = decoded("query", key)
        if not equals or not key:
            raise ConfigError(f"the URL's query holds {key!r} without a value: write name=value, joined by '&'")
        if not key.replace("-", "_").isidentifier():
            raise ConfigError(
                f"the URL's query holds {key!r}, which is not the name of a parameter: correct or remove it"
            )
        value = decoded(key, value.replace("+", " "))
        if key in parameters and key != "host":
            raise ConfigError(f"the URL's query holds {key!r} twice: keep one")
        parameters[key] = f"{parameters[key]},{value}" if key in parameters else value
    return parameters


def own_fields(own: Mapping[str, str]) -> dict[str, Any]:
    """Check our own words of a query, and return them as fields of Url. Raises ConfigError."""
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
            "sslcert and sslkey belong together: they are the client's own certificate and its private key (PEM). The "
            "authorities that the server is verified with belong in sslrootcert"
        )
    if "sslcert" in own and weaker(fields.get("sslmode", "require"), "require"):
        raise ConfigError(
            f"sslmode={fields['sslmode']} is not valid with sslcert: a client's certificate needs TLS; leave sslmode "
            "out, or make it 'verify-full'"
        )
    return fields
