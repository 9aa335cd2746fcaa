"""A URL and options, checked and frozen. The only reader of the pool's environment variables."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from .errors import ConfigError
from .record import Record
from .secret import Secret, SecretMapping, private
from .tls import MODES

ENGINES = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}
DEFAULT_PREFIX = "LAMBDA_POOL_"
_MAX_PORT = 65535
_SHOWN = 100  # characters of a wrong value
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


class Config(Record):
    """Everything a pool was told, checked. Seconds are floats; see the option table in the README."""

    url: Url
    name: str
    max_size: int = 1
    min_size: int = 0
    timeout: float = 5.0
    connect_timeout: float = 3.0
    ping_after: float = 5.0
    ping_timeout: float = 1.0
    max_lifetime: float = 1800.0
    max_idle: float | None = None
    autocommit: bool = False
    reset: str = "transaction"
    unsaved: str = "raise"
    leak_after: float = 0.0
    slow_query: float = 0.0
    cancel_before_deadline: float = 0.0
    graceful_shutdown: bool = True
    metrics: str = "auto"
    metrics_interval: float = 60.0
    connect_args: Mapping[str, Any] = SecretMapping({})


# --- values -----------------------------------------------------------------------------------------------------------


def _bad(name: str, value: object, wanted: str) -> ConfigError:
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001 - a number of 5,000 digits, or an object of the user's own
        shown = f"<{type(value).__name__}>"
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    return ConfigError(f"{name}={shown} is not valid: it must be {wanted}")


def _integer(least: int) -> Callable[[str, object], int]:
    wanted = f"a whole number of at least {least}"

    def check(name: str, value: object) -> int:
        if isinstance(value, str):
            try:
                value = int(value)
            except ValueError:
                raise _bad(name, value, wanted) from None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _bad(name, value, wanted)
        return value

    return check


def _seconds(*, zero: str = "") -> Callable[[str, object], float]:
    """Seconds above 0; `zero` says what 0 means where it is allowed."""
    wanted = f"a number of seconds above 0{f', or 0 {zero}' if zero else ''}"

    def check(name: str, value: object) -> float:
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                raise _bad(name, value, wanted) from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _bad(name, value, wanted)
        # "not (a < x)" refuses NaN too; 10 ** 9 seconds are 31 years, and poll() takes no more than 2 ** 31 ms.
        if not (0 < value < 1e6) and not (zero and value == 0):
            raise _bad(
                name,
                value,
                wanted + " (at most 1000000)" if isinstance(value, int | float) and value > 0 else wanted,
            )
        return float(value)

    return check


seconds = _seconds()
"""Check a number of seconds above 0: `seconds(name, value)`. Raises ConfigError."""


def _optional_seconds(name: str, value: object) -> float | None:
    if value is None or (isinstance(value, str) and value in {"", "none", "None"}):
        return None
    return _seconds()(name, value)


def _flag(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"true", "1", "yes", "on"}:
        return True
    if isinstance(value, str) and value.lower() in {"false", "0", "no", "off"}:
        return False
    raise _bad(name, value, "true or false")


def _one_of(*choices: str) -> Callable[[str, object], str]:
    wanted = " or ".join(repr(choice) for choice in choices)

    def check(name: str, value: object) -> str:
        if value not in choices:
            raise _bad(name, value, wanted)
        return str(value)

    return check


def _mapping(name: str, value: object) -> Mapping[str, Any]:
    if isinstance(value, str):
        import json

        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            # The value may hold a password: it is not shown.
            raise ConfigError(f"{name} is not valid: it must be a JSON object of the driver's arguments") from None
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} is not valid: it must be a mapping of the driver's argument names to values")
    return SecretMapping(value)


_OPTIONS: dict[str, Callable[[str, object], Any]] = {
    "max_size": _integer(1),
    "min_size": _integer(0),
    "timeout": _seconds(),
    "connect_timeout": _seconds(),
    "ping_after": _seconds(zero="to ping at each checkout"),
    "ping_timeout": _seconds(),
    "max_lifetime": _seconds(),
    "max_idle": _optional_seconds,
    "autocommit": _flag,
    "reset": _one_of("changed", "transaction", "session"),
    "unsaved": _one_of("raise", "warn"),
    "leak_after": _seconds(zero="to switch it off"),
    "slow_query": _seconds(zero="to switch it off"),
    "cancel_before_deadline": _seconds(zero="to switch it off"),
    "graceful_shutdown": _flag,
    "metrics": _one_of("auto", "emf", "cloudwatch", "off"),
    "metrics_interval": _seconds(zero="to report at the end of each invocation"),
    "connect_args": _mapping,
}


def _closest(name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"


@private
def make(
    url: str | None,
    name: str | None,
    options: Mapping[str, object],
    from_environment: Mapping[str, str],
    prefix: str = DEFAULT_PREFIX,
    variable: str | None = None,
) -> Config:
    """Check a URL and options; `options` win over those that stood in the environment under `prefix`.

    `variable` is where the URL stood, if it did not come from the code. Raises ConfigError for the first that is wrong.
    """
    if url is None:
        also = " (or DATABASE_URL)" if prefix == DEFAULT_PREFIX else ""
        raise ConfigError(
            f"no database URL: pass one to Pool(), or set {prefix}URL{also}, e.g. postgresql://user@host:5432/database"
        )
    checked: dict[str, Any] = {}
    for key, text in from_environment.items():
        checked[key] = _OPTIONS[key](prefix + key.upper(), text)
    for key, value in options.items():
        check = _OPTIONS.get(key)
        if check is None:
            raise ConfigError(f"{key} is not an option of Pool: {_closest(key, list(_OPTIONS))}")
        checked[key] = check(key, value)
    try:
        parsed = parse_url(url)
    except ConfigError as error:
        if variable is None:
            raise
        raise ConfigError(f"{variable}: {error}") from None
    if name is not None and (not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable()):
        raise _bad("name", name, "a text of 1 to 100 printable characters")
    if name is not None and "://" in name:
        raise ConfigError("name is not valid: it looks like a URL, and would stand in logs and metrics")
    config = Config(url=parsed, name=name or parsed.database or parsed.engine, **checked)
    if config.min_size > config.max_size:
        raise _bad("min_size", config.min_size, f"at most max_size ({config.max_size})")
    if config.url.pooled:
        check_pooled(config)
    return config


def check_pooled(config: Config) -> None:
    """Raise ConfigError for what cannot be done through an RDS Proxy or another transaction-mode pooler."""
    if config.reset == "session":
        raise ConfigError(
            "reset='session' is not valid behind an RDS Proxy or a pooler (pooled=true): there DISCARD ALL and "
            "COM_RESET_CONNECTION pin the connection, or reset what others use. Leave reset out; between transactions "
            "nothing is kept there anyway"
        )


# --- URLs -------------------------------------------------------------------------------------------------------------


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
        raise _bad("the URL's host", host, "a host name without spaces")
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
            raise _bad("sslmode", mode, f"one of {', '.join(MODES)}")
        special["sslmode"] = mode
    if "sslrootcert" in parameters:
        special["sslrootcert"] = _root_cert(parameters.pop("sslrootcert"))
    if "pooled" in parameters:
        special["pooled"] = _flag("pooled", parameters.pop("pooled"))
    return special, parameters


def _root_cert(path: str) -> str:
    if not path:
        raise _bad("sslrootcert", path, "the path of a file of trusted certificates (PEM)")
    return path


# --- environment ------------------------------------------------------------------------------------------------------


class Environment(Record):
    """What the environment says: the URL, who authenticates, where the endpoint is found, and options."""

    url: str | None
    name: str | None
    auth: str | None
    secret_id: str | None
    rds_proxy: str | None
    aurora_cluster: str | None
    url_variable: str | None
    options: Mapping[str, str]

    _hidden = frozenset({"url", "options"})


@private
def read_environment(prefix: str = DEFAULT_PREFIX, environ: Mapping[str, str] | None = None) -> Environment:
    """Read the variables under `prefix`; `DATABASE_URL` stands in for a missing LAMBDA_POOL_URL.

    Raises ConfigError for a variable under the prefix that means nothing, and for settings that contradict each other.
    """
    environ = os.environ if environ is None else environ
    found = {key[len(prefix) :].lower(): value for key, value in environ.items() if key.startswith(prefix)}
    known = [name for name in Environment._fields if name not in {"url_variable", "options"}]
    for key in found:
        if key not in known and key not in _OPTIONS:
            names = [(prefix + name.upper()) for name in (*known, *_OPTIONS)]
            raise ConfigError(
                f"{prefix}{key.upper()} is not a variable of lambda_pool: {_closest(prefix + key.upper(), names)}"
            )
    special = {key: found.get(key) or None for key in known}
    if special["auth"] not in {None, "url", "iam", "secret"}:
        # Not shown: it may be a password.
        raise ConfigError(f"{prefix}AUTH is not valid: it must be 'url' or 'iam' or 'secret'")
    if special["auth"] == "secret" and special["secret_id"] is None:
        raise ConfigError(f"{prefix}AUTH is 'secret': set {prefix}SECRET_ID to the secret's name or ARN")
    if special["secret_id"] is not None and special["auth"] in {"url", "iam"}:
        raise ConfigError(
            f"{prefix}SECRET_ID is set but {prefix}AUTH is {special['auth']!r}: keep one, or set it to 'secret'"
        )
    if special["rds_proxy"] is not None and special["aurora_cluster"] is not None:
        raise ConfigError(f"{prefix}RDS_PROXY and {prefix}AURORA_CLUSTER are both set: keep one")
    special["url_variable"] = prefix + "URL"
    if prefix == DEFAULT_PREFIX and special["url"] is None and environ.get("DATABASE_URL"):
        special["url"], special["url_variable"] = environ["DATABASE_URL"], "DATABASE_URL"
    options = {key: value for key, value in found.items() if key in _OPTIONS}
    return Environment(options=options, **special)


def in_lambda() -> bool:
    """True inside a Lambda function's environment."""
    return "AWS_LAMBDA_FUNCTION_NAME" in os.environ


def lambda_initialization() -> str:
    """How Lambda initialised this environment: `on-demand`, `provisioned-concurrency`, `snap-start` or
    `lambda-managed-instances`; empty outside of Lambda.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
    """
    return os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") or ("on-demand" if in_lambda() else "")


def graceful_shutdown() -> bool:
    """False where LAMBDA_POOL_GRACEFUL_SHUTDOWN says so, and on Managed Instances, whose processes get SIGTERM anyway.

    A value that means nothing is left to the pool, which raises ConfigError.
    """
    if lambda_initialization() == "lambda-managed-instances":
        return False
    said = os.environ.get(f"{DEFAULT_PREFIX}GRACEFUL_SHUTDOWN", "true")
    try:
        return _flag("graceful_shutdown", said)
    except ConfigError:
        return True


def runtime_api() -> str:
    """`host:port` of Lambda's runtime API; empty outside of Lambda."""
    return os.environ.get("AWS_LAMBDA_RUNTIME_API", "")


class MetricsEnvironment(Record):
    """What metrics take from the environment: Powertools' variables, and Lambda's own name for the function."""

    namespace: str
    service: str
    function_name: str
    region: str | None
    disabled: bool


_TRUE = {"1", "y", "yes", "t", "true", "on"}


def read_metrics_environment() -> MetricsEnvironment:
    """Read POWERTOOLS_METRICS_NAMESPACE (else "lambda_pool"), POWERTOOLS_SERVICE_NAME (else the function's name),
    AWS_LAMBDA_FUNCTION_NAME (else "local"), AWS_REGION, and whether Powertools' variables switch metrics off.

    https://docs.powertools.aws.dev/lambda/python/latest/#environment-variables
    """
    function_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME") or "local"
    disabled = os.environ.get("POWERTOOLS_METRICS_DISABLED") or os.environ.get("POWERTOOLS_DEV") or ""
    return MetricsEnvironment(
        namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE") or "lambda_pool",
        service=os.environ.get("POWERTOOLS_SERVICE_NAME") or function_name,
        function_name=function_name,
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None,
        disabled=disabled.lower() in _TRUE,
    )
