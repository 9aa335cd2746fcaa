"""What libpq and psycopg are told for one connection."""

from typing import Any

from ...errors import ConfigError
from ...tls import MODES
from ..base import ConnectRequest
from ..bounded_socket import UNACKNOWLEDGED

# Arguments of psycopg.Connection.connect() that never reach libpq.
OWN_ARGUMENTS = ("autocommit", "prepare_threshold", "context", "row_factory", "cursor_factory")


def conninfo(request: ConnectRequest, arguments: dict[str, Any]) -> bytes:
    """What libpq is told, as it reads it."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import make_conninfo

    mode = arguments.get("sslmode")
    if mode in MODES and MODES.index(mode) < MODES.index(request.tls.mode):
        raise ConfigError(
            f"sslmode={mode!r} in connect_args is weaker than the {request.tls.mode!r} that holds for this connection: "
            "if that is what you want, write it in the URL"
        )
    try:
        text = make_conninfo(**(_libpq_parameters(request) | arguments)).encode()
    except ProgrammingError as error:
        # libpq names the option, never its value.
        raise ConfigError(f"connect_args or the URL's query is not valid for libpq: {str(error).strip()}") from None
    except UnicodeError:  # this error quotes the whole text
        raise ConfigError("connect_args holds a text with characters that UTF-8 cannot carry") from None
    if b"\0" in text:  # where libpq would stop to read, and know nothing of sslmode, for one
        raise ConfigError("connect_args or the URL holds a NUL character, which PostgreSQL cannot be told")
    return text


def _libpq_parameters(request: ConnectRequest) -> dict[str, Any]:
    password = request.credentials.password
    parameters: dict[str, Any] = {
        # A search for Kerberos tickets, which no login here uses, would come before each connect.
        "gssencmode": "disable",
        "tcp_user_timeout": int(UNACKNOWLEDGED * 1000),
        "application_name": request.application_name,
        **request.parameters,
        "host": request.host or None,
        "port": request.port,
        "dbname": request.database or None,
        "user": request.credentials.user or None,
        "password": None if password is None else password.reveal(),
        "sslmode": request.tls.mode,
        "sslrootcert": request.tls.ca_file,
    }
    return {key: value for key, value in parameters.items() if value is not None}
