"""What the environment says. The only reader of the pool's environment variables."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ConfigError
from ..record import Record
from ..secret import SecretMapping, private
from . import synonyms
from .options import DEFAULT_PREFIX, OPTIONS
from .parts import PARTS, from_parts
from .platform import never_frozen
from .url import Url
from .values import closest, flag


class Environment(Record):
    """What the environment says: the URL or its parts, who authenticates, where the endpoint is found, and options."""

    url: str | None
    name: str | None
    auth: str | None
    secret_id: str | None
    rds_proxy: str | None
    aurora_cluster: str | None
    url_variable: str | None = None
    parts: Mapping[str, str] = SecretMapping({})
    options: Mapping[str, str] = SecretMapping({})

    _hidden = frozenset({"url", "options"})

    @property
    def login(self) -> str:
        """Who authenticates: `url`, `iam` or `secret`."""
        return self.auth or ("secret" if self.secret_id else "url")


_NAMES = ("url", "name", "auth", "secret_id", "rds_proxy", "aurora_cluster")
VARIABLES = (*_NAMES, *PARTS, *OPTIONS)
"""Every variable's name, without the prefix and in lower case."""
_INSTEAD = {
    "url": ("host",),
    "host": ("url",),
    "database": ("name",),
    "password": ("auth", "secret_id"),
    "secret_id": ("password",),
}
"""The variables that can stand in for another one: where one of them is set, the other one is not missing."""


@private
def read_environment(prefix: str = DEFAULT_PREFIX, environ: Mapping[str, str] | None = None) -> Environment:
    """Read the variables under `prefix`; `DATABASE_URL` stands in where neither LAMBDA_POOL_URL nor its parts are set.

    NAME is the pool's name. Under the user's own prefix, with HOST and USER but no DATABASE, it is the database's name.

    Raises ConfigError for settings that contradict each other, and for a variable under the prefix that means nothing.
    Under the user's own prefix, other programs may have variables too. There, only a variable that stands for one of
    our settings is an error, and only if that setting is not given.
    """
    environ = os.environ if environ is None else environ
    if not isinstance(prefix, str):
        raise ConfigError(f"prefix is not valid: it must be a string such as DB_, not {type(prefix).__name__}")
    found = {key[len(prefix) :].lower(): value for key, value in environ.items() if key.startswith(prefix)}
    _check_prefix(prefix, environ)
    _check_names(found, prefix)

    def called(name: str) -> str:
        return prefix + name.upper()

    parts = {key: found[key] for key in PARTS if found.get(key)}
    if parts and found.get("url"):
        also = ", ".join(map(called, parts))
        raise ConfigError(f"{called('url')} and {also} are both set: keep either the URL or its parts")
    if prefix != DEFAULT_PREFIX and parts and "database" not in parts and found.get("name"):
        # Under the user's own prefix, NAME beside HOST and USER is the database's name.
        parts["database"] = found.pop("name")
    environment = settings(found, called).replace(
        url_variable=called("url"),
        parts=SecretMapping(parts),
        options=SecretMapping({key: value for key, value in found.items() if key in OPTIONS}),
    )
    if prefix == DEFAULT_PREFIX and environment.url is None and not parts and environ.get("DATABASE_URL"):
        return environment.replace(url=environ["DATABASE_URL"], url_variable="DATABASE_URL")
    return environment


def _check_prefix(prefix: str, environ: Mapping[str, str]) -> None:
    """Raise ConfigError for a prefix that misses the variables only by an underscore or by its case."""
    if not prefix:
        raise ConfigError("the prefix '' is not valid: give what your variables begin with, such as DB_")
    if "://" in prefix:
        raise ConfigError("the prefix is not valid: it is a URL. Give what your variables begin with, such as DB_")
    if prefix == DEFAULT_PREFIX or _is_used(prefix, environ):
        return
    for right in (f"{prefix}_", prefix.upper(), f"{prefix.upper()}_"):
        if _is_used(right, environ):
            raise ConfigError(
                f"the prefix {prefix!r} is not valid: the variables are called {right}..., so write {right}"
            )


def _is_used(prefix: str, environ: Mapping[str, str]) -> bool:
    return any(key.startswith(prefix) and key[len(prefix) :].lower() in VARIABLES for key in environ)


def _check_names(found: Mapping[str, str], prefix: str) -> None:
    """Raise ConfigError for a variable that is meant for a pool, but that no pool reads."""
    for key in found:
        if key in VARIABLES:
            continue
        variable, near = f"{prefix}{key.upper()}", synonyms.meant(key, VARIABLES)
        if near and (prefix == DEFAULT_PREFIX or not any(found.get(name) for name in (near, *_INSTEAD.get(near, ())))):
            raise ConfigError(f"{variable} is not a variable of lambda_pool: did you mean {prefix}{near.upper()}?")
        if prefix == DEFAULT_PREFIX:
            # Without the prefix, which would make any two names alike.
            instead = synonyms.keyword(key) or closest(key, VARIABLES, called=lambda name: prefix + name.upper())
            raise ConfigError(f"{variable} is not a variable of lambda_pool: {instead}")


@private
def settings(found: Mapping[str, str], called: Callable[[str], str]) -> Environment:
    """The URL, who authenticates and where the endpoint is, from texts that may be empty.

    `called` gives the name that a setting has where it was given. Raises ConfigError if they contradict each other.
    """
    special: dict[str, Any] = {key: found.get(key) or None for key in _NAMES}
    if special["auth"] not in {None, "url", "iam", "secret"}:
        # The value is not shown: it may be a password.
        raise ConfigError(f"{called('auth')} is not valid: it must be 'url' or 'iam' or 'secret'")
    if special["auth"] == "secret" and special["secret_id"] is None:
        raise ConfigError(f"{called('auth')} is 'secret': set {called('secret_id')} to the secret's name or ARN")
    if special["secret_id"] is not None and special["auth"] in {"url", "iam"}:
        raise ConfigError(
            f"{called('secret_id')} is set but {called('auth')} is {special['auth']!r}: keep one, or set it to 'secret'"
        )
    if special["rds_proxy"] is not None and special["aurora_cluster"] is not None:
        raise ConfigError(f"{called('rds_proxy')} and {called('aurora_cluster')} are both set: keep one")
    return Environment(**special)


def url_of(environment: Environment, prefix: str, *, auth: bool = False, endpoint: bool = False) -> Url | str | None:
    """The URL that the environment describes, whole or by its parts; None if it describes none.

    `auth`, `endpoint`: whether the code says who logs in, and where. Raises ConfigError.
    """
    if not environment.parts:
        return environment.url
    if "password" in environment.parts and (auth or environment.login != "url"):
        raise ConfigError(
            f"{prefix}PASSWORD is set, and auth=... or {prefix}AUTH or {prefix}SECRET_ID says who logs in: keep one"
        )
    elsewhere = endpoint or auth or environment.rds_proxy or environment.aurora_cluster or environment.secret_id
    return from_parts(environment.parts, lambda name: prefix + name.upper(), needs_host=not elsewhere)


def graceful_shutdown() -> bool:
    """False where LAMBDA_POOL_GRACEFUL_SHUTDOWN says so, and on Managed Instances, whose processes get SIGTERM anyway.

    A wrong value is left to the pool, which raises ConfigError.
    """
    if never_frozen():
        return False
    said = os.environ.get(f"{DEFAULT_PREFIX}GRACEFUL_SHUTDOWN", "true")
    try:
        return flag("graceful_shutdown", said)
    except ConfigError:
        return True


class MetricsEnvironment(Record):
    """What metrics take from the environment: Powertools' variables, and Lambda's own name for the function."""

    namespace: str
    service: str
    function_name: str
    disabled: bool


_TRUE = {"1", "y", "yes", "t", "true", "on"}


def read_metrics_environment() -> MetricsEnvironment:
    """Read POWERTOOLS_METRICS_NAMESPACE (else "lambda_pool"), POWERTOOLS_SERVICE_NAME (else the function's name),
    AWS_LAMBDA_FUNCTION_NAME (else "local"), and whether Powertools' variables switch metrics off.

    https://docs.powertools.aws.dev/lambda/python/latest/#environment-variables
    """
    function_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME") or "local"
    disabled = os.environ.get("POWERTOOLS_METRICS_DISABLED") or os.environ.get("POWERTOOLS_DEV") or ""
    return MetricsEnvironment(
        namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE") or "lambda_pool",
        service=os.environ.get("POWERTOOLS_SERVICE_NAME") or function_name,
        function_name=function_name,
        disabled=disabled.lower() in _TRUE,
    )
