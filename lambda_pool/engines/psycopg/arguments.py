"""What is passed to libpq and psycopg for one connection, and what may not be passed to them."""

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError
from ..arguments import REFUSED, Arguments, instance, one_of, text, whole_number
from ..base import ConnectRequest, Defaults
from ..bounded_socket import UNACKNOWLEDGED

# Arguments of psycopg.Connection.connect() that never reach libpq.
OWN_ARGUMENTS = ("autocommit", "prepare_threshold", "context", "row_factory", "cursor_factory")

NO_OPTIONS = (
    "start-up options are not valid behind an RDS Proxy or a pooler (pooled=true), which refuses them: take 'options' "
    "out of the URL, of connect_args and of PGOPTIONS, and write ALTER ROLE ... SET ... (or ALTER DATABASE ... SET "
    "...) instead"
)
_NO_PREPARING = (
    "prepare_threshold is not valid behind an RDS Proxy or a pooler (pooled=true), where a prepared statement is lost "
    "or pins the connection: leave it out"
)


def _threshold(value: object) -> int | None:
    if value is None or (isinstance(value, str) and value.lower() in {"", "none"}):
        return None
    number: int = whole_number()(value)
    return number


def _is_cursor(value: object) -> bool:
    from psycopg import AsyncCursor, Cursor

    return isinstance(value, type) and issubclass(value, Cursor | AsyncCursor)


def _is_row_factory(value: object) -> bool:
    made = getattr(value, "__origin__", value)  # DictRow is dict[str, Any]
    # A class is called with the cursor, and then its object with each row. A dict is only the row itself.
    return any("__call__" in vars(each) for each in made.__mro__) if isinstance(made, type) else callable(made)


_SWITCH = one_of("0", "1")
_TLS_VERSION = one_of("TLSv1.2", "TLSv1.3")  # what the pool insists on with either driver

# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS, those of later versions included.
ARGUMENTS = Arguments(
    driver="libpq",
    passed={
        "application_name": text,
        "channel_binding": one_of("disable", "prefer", "require"),
        "client_encoding": text,
        "fallback_application_name": text,
        "gssdelegation": _SWITCH,
        "gssencmode": one_of("disable"),  # it would take the place of TLS
        "gsslib": text,
        "keepalives": _SWITCH,
        "keepalives_count": whole_number(),
        "keepalives_idle": whole_number(),
        "keepalives_interval": whole_number(),
        "krbsrvname": text,
        "load_balance_hosts": one_of("disable", "random"),
        "max_protocol_version": text,
        "min_protocol_version": text,
        "oauth_client_id": text,
        "oauth_client_secret": text,
        "oauth_issuer": text,
        "oauth_scope": text,
        "options": text,
        "passfile": text,
        "prepare_threshold": _threshold,
        "require_auth": text,
        "requirepeer": text,
        "ssl_max_protocol_version": _TLS_VERSION,
        "ssl_min_protocol_version": _TLS_VERSION,
        "sslcertmode": one_of("disable", "allow", "require"),
        "sslcompression": _SWITCH,
        "sslcrl": text,
        "sslcrldir": text,
        "sslnegotiation": one_of("postgres", "direct"),
        "sslsni": _SWITCH,
        "target_session_attrs": one_of("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
        "tcp_user_timeout": whole_number(),
    },
    objects={
        "context": instance(lambda value: hasattr(value, "adapters"), "an object with adapters"),
        "cursor_factory": instance(_is_cursor, "psycopg.ClientCursor or another class of psycopg 3, not of psycopg2"),
        "row_factory": instance(
            _is_row_factory, "a row factory such as psycopg.rows.dict_row or class_row(Order), not the class of a row"
        ),
    },
    refused={
        **REFUSED,
        "conninfo": "write it as a URL, postgresql://user:password@host:port/database",
        "hostaddr": "write it in the URL's query, beside the host's name: the certificate is verified for that name",
        "replication": "a pool's connections are not for replication",
        "requiressl": "write sslmode=require in the URL's query",
        **dict.fromkeys(
            ("scram_client_key", "scram_server_key"), "write the password: it would be overruled, and so would a token"
        ),
        **dict.fromkeys(
            ("service", "servicefile"),
            "a service may name another server than the URL does: write its host, port, user and database into the "
            "URL, or name it in PGSERVICE, which is read if the URL has no host",
        ),
        "sslkeylogfile": "anybody who can read that file can decrypt the connection",
    },
    unknown=" (a setting of the server is written as options=-c%20NAME%3DVALUE)",
)


def libpq_arguments(
    parameters: Mapping[str, str], given: Mapping[str, Any], *, pooled: bool, awaited: bool = False
) -> Mapping[str, Any]:
    """What to pass to libpq and psycopg, from a URL's parameters and from `connect_args`. Raises ConfigError.

    `awaited`: to psycopg's asyncio half.
    """
    from psycopg.pq import Conninfo, version

    found = ARGUMENTS.check("postgresql", parameters, given)
    known = {each.keyword.decode() for each in Conninfo.get_defaults()} if found else set()
    for name in found:
        if name not in known and name not in OWN_ARGUMENTS:
            raise ConfigError(
                f"{name} is not known to libpq {version() // 10000}, which psycopg uses here: take it out"
            )
    if pooled and found.get("options"):
        raise ConfigError(NO_OPTIONS)
    if pooled and found.get("prepare_threshold") is not None:
        raise ConfigError(_NO_PREPARING)
    if "cursor_factory" in found:
        _check_cursor(found["cursor_factory"], awaited=awaited)
    return found


def _check_cursor(factory: type, *, awaited: bool) -> None:
    from psycopg import AsyncCursor, AsyncServerCursor, Cursor, ServerCursor

    if issubclass(factory, ServerCursor | AsyncServerCursor) or issubclass(factory, AsyncCursor) is not awaited:
        wanted = AsyncCursor if awaited else Cursor
        raise ConfigError(
            f"cursor_factory in connect_args is not valid: {'an AsyncPool' if awaited else 'a Pool'} needs "
            f"psycopg.{wanted.__name__} or a subclass of it, and not {factory.__name__}. A server-side cursor needs no "
            "factory: conn.cursor(name) makes one"
        )


def libpq_defaults() -> Defaults:
    """What libpq's own variables and service file say. Raises ConfigError."""
    from psycopg.pq import Conninfo

    said = {each.keyword: each.val.decode() for each in Conninfo.get_defaults() if each.val}
    port = said.get(b"port", "")
    if not port.isdigit():
        raise ConfigError("PGPORT (or the port in a service file) is not valid: it must be a whole number")
    if "," in said.get(b"host", "") + said.get(b"hostaddr", ""):
        raise ConfigError(
            "PGHOST or PGHOSTADDR (or a service file) names several hosts: name one, or write them into the URL"
        )
    return Defaults(
        host=said.get(b"host", ""),
        hostaddr=said.get(b"hostaddr", ""),
        port=int(port),
        sslmode=said.get(b"sslmode"),
        sslrootcert=said.get(b"sslrootcert"),
    )


def conninfo(request: ConnectRequest, arguments: dict[str, Any]) -> str:
    """The connection string for libpq. What the pool decides comes last, and wins."""
    from psycopg.conninfo import make_conninfo

    defaults: dict[str, Any] = {
        # Otherwise libpq looks for Kerberos tickets, which no login here uses, before each connect.
        "gssencmode": "disable",
        "tcp_user_timeout": int(UNACKNOWLEDGED * 1000),
        "application_name": request.application_name,
    }
    try:
        return make_conninfo(**defaults | arguments | _decided(request))
    except UnicodeError:  # this error quotes the whole text
        raise ConfigError("the user, password or database holds characters that UTF-8 cannot encode") from None


def _decided(request: ConnectRequest) -> dict[str, Any]:
    # psycopg leaves out what is None.
    password, tls = request.credentials.password, request.tls
    login = {
        "dbname": request.database or None,
        "user": request.credentials.user or None,
        "password": None if password is None else password.reveal(),
    }
    for name, value in login.items():
        if value is not None and "\0" in value:  # libpq would stop reading there, and not see sslmode, for example
            raise ConfigError(f"the {name} holds a NUL character, which PostgreSQL does not accept")
    return {
        **login,
        # Empty ones too, so that nothing from libpq's environment takes their place.
        "host": request.host,
        "hostaddr": request.hostaddr,
        "port": request.port,
        "sslmode": tls.mode,
        "sslrootcert": tls.ca_file,
        "sslcert": tls.cert_file,
        "sslkey": tls.key_file,
        "sslpassword": None if tls.key_password is None else tls.key_password.reveal(),
    }
