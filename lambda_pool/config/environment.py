"""What the environment says. The only reader of the pool's environment variables."""

import os
from collections.abc import Mapping

from ..errors import ConfigError
from ..record import Record
from ..secret import private
from .options import DEFAULT_PREFIX, OPTIONS
from .values import closest, flag


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
        if key not in known and key not in OPTIONS:
            names = [(prefix + name.upper()) for name in (*known, *OPTIONS)]
            raise ConfigError(
                f"{prefix}{key.upper()} is not a variable of lambda_pool: {closest(prefix + key.upper(), names)}"
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
    options = {key: value for key, value in found.items() if key in OPTIONS}
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
        return flag("graceful_shutdown", said)
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
