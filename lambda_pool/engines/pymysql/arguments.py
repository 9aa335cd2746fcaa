"""What PyMySQL is told for one connection."""

from typing import Any

from ...errors import ConfigError
from ..base import ConnectRequest

# Arguments of PyMySQL that come as text in a URL and are no text.
_NUMBERS = ("max_allowed_packet", "client_flag")
_SECONDS = ("read_timeout", "write_timeout")
_FLAGS = ("use_unicode", "local_infile")


def pymysql_arguments(request: ConnectRequest) -> dict[str, Any]:
    password = request.credentials.password
    arguments: dict[str, Any] = {key: _typed(key, value) for key, value in request.parameters.items()}
    arguments.setdefault("charset", "utf8mb4")
    arguments.setdefault("program_name", request.application_name)
    arguments |= {
        "user": request.credentials.user or None,
        "password": "" if password is None else password.reveal(),
        "database": request.database or None,
        "autocommit": request.autocommit,
        "port": request.port,
        **request.arguments,
    }
    if isinstance(arguments["password"], str):  # which PyMySQL would encode as Latin-1
        arguments["password"] = arguments["password"].encode()
    if request.host.startswith("/"):
        arguments["unix_socket"] = request.host
    else:
        arguments["host"] = request.host or "localhost"
    arguments |= _tls_arguments(request)
    return arguments


def _tls_arguments(request: ConnectRequest) -> dict[str, Any]:
    """An SSLContext, or none at all: PyMySQL's own ssl arguments look safer than they are."""
    mode = request.tls.mode
    if mode in {"disable", "allow"} or request.host.startswith("/"):
        return {"ssl_disabled": True}
    if mode == "prefer":
        return {}
    from ...tls import context

    return {"ssl": context(request.tls, request.host)}


def _typed(key: str, value: str) -> Any:
    try:
        if key in _NUMBERS:
            return int(value)
        if key in _SECONDS:
            return float(value)
    except ValueError:
        raise ConfigError(f"the URL's {key}={value!r} is not valid: it must be a number") from None
    if key in _FLAGS:
        return value.lower() in {"1", "true", "yes", "on"}
    return value
