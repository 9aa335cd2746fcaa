"""What is passed to PyMySQL for one connection, and what may not be passed to it."""

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError
from ..arguments import REFUSED, Arguments, flag, instance, seconds, text, whole_number
from ..base import ConnectRequest

_SSL = 1 << 11  # CLIENT.SSL


def _charset(value: object) -> str:
    from pymysql.connections import Connection

    name = text(value)
    if name.lower() == "utf-8":  # everybody's name for it but MySQL's
        return "utf8mb4"
    try:
        Connection(charset=name, ssl_disabled=True, defer_connect=True)
    except (AttributeError, LookupError):
        raise ValueError("one of MySQL's character sets, usually utf8mb4") from None
    return name


def _client_flag(value: object) -> int:
    number: int = whole_number()(value)
    if number & _SSL:
        raise ValueError("without CLIENT.SSL: encryption is asked for with sslmode in the URL")
    return number


def _key(value: object) -> bytes:
    return value if isinstance(value, bytes) else text(value).encode()


def _is_cursor(value: object) -> bool:
    from pymysql.cursors import Cursor

    return isinstance(value, type) and issubclass(value, Cursor)


_VERIFIED = "write sslmode=verify-full in the URL's query, which is the default for every host that is not local"
_FILE = "a file could overrule the URL: write what it holds into the URL"

# PyMySQL's Connection(): https://pymysql.readthedocs.io/en/latest/modules/connections.html
ARGUMENTS = Arguments(
    driver="PyMySQL",
    passed={
        "bind_address": text,
        "binary_prefix": flag,
        "charset": _charset,
        "client_flag": _client_flag,
        "collation": text,
        "init_command": text,
        "local_infile": flag,
        "max_allowed_packet": whole_number(1),
        "program_name": text,
        "read_timeout": seconds,
        "server_public_key": _key,
        "sql_mode": text,
        "use_unicode": flag,
        "write_timeout": seconds,
    },
    objects={
        "auth_plugin_map": instance(lambda value: isinstance(value, Mapping), "a mapping of plugins' names to classes"),
        "conv": instance(lambda value: isinstance(value, Mapping), "a mapping of types to functions"),
        "cursorclass": instance(
            _is_cursor, "pymysql.cursors.DictCursor or another class of PyMySQL's cursors, not its name"
        ),
    },
    refused={
        **REFUSED,
        "ssl": "write sslmode, sslrootcert, sslcert and sslkey in the URL's query",
        "ssl_ca": "write sslrootcert=/path in the URL's query",
        "ssl_cert": "write sslcert=/path in the URL's query",
        "ssl_key": "write sslkey=/path in the URL's query",
        "ssl_key_password": "write sslpassword=... in the URL's query",
        "ssl_disabled": "write sslmode=disable in the URL's query, if the network itself is trusted",
        **dict.fromkeys(("ssl_verify_cert", "ssl_verify_identity"), _VERIFIED),
        **dict.fromkeys(("read_default_file", "read_default_group"), _FILE),
        **dict.fromkeys(("compress", "named_pipe"), "PyMySQL has it in its signature, but does not support it"),
        "defer_connect": "the pool decides when it connects",
        "unix_socket": "write it in the URL's query, mysql://user@/database?unix_socket=/path, or Pool(host='/path')",
    },
)


def pymysql_options(parameters: Mapping[str, str], given: Mapping[str, Any], *, pooled: bool) -> Mapping[str, Any]:
    """What to pass to PyMySQL, from a URL's parameters and from `connect_args`. Raises ConfigError."""
    from pymysql import VERSION_STRING
    from pymysql.connections import Connection

    found = ARGUMENTS.check("mysql", parameters, given)
    for name in found:
        if name not in (Connection.__init__.__kwdefaults__ or ()):
            raise ConfigError(f"{name} is not known to PyMySQL {VERSION_STRING}: take it out")
    return found


def pymysql_arguments(request: ConnectRequest) -> dict[str, Any]:
    """The arguments for PyMySQL. What the pool decides comes last, and wins."""
    password = request.credentials.password
    arguments: dict[str, Any] = {
        "charset": "utf8mb4",
        "program_name": request.application_name,
        **request.arguments,
        "user": request.credentials.user or None,
        # As bytes: PyMySQL would encode a text as Latin-1.
        "password": b"" if password is None else password.reveal().encode(),
        "database": request.database or None,
        "autocommit": request.autocommit,
        "port": request.port,
    }
    if request.host.startswith("/"):
        arguments["unix_socket"] = request.host
    else:
        arguments["host"] = request.host or "localhost"
    return arguments | _tls_arguments(request)


def _tls_arguments(request: ConnectRequest) -> dict[str, Any]:
    """An SSLContext, or none at all: PyMySQL's own ssl arguments look safer than they are."""
    mode = request.tls.mode
    if mode in {"disable", "allow"} or request.host.startswith("/"):
        return {"ssl_disabled": True}
    if mode == "prefer":
        return {}
    from ...tls import context

    return {"ssl": context(request.tls, request.host)}
