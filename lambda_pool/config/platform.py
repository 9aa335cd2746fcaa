"""What Lambda itself says about this environment."""

import os

_WEB_CONCURRENCY = 64
"""How many requests a Web Function's environment gets at once, unless its configuration says otherwise:
https://docs.aws.amazon.com/lambda/latest/dg/web-functions-scaling.html"""


def in_lambda() -> bool:
    """True inside a Lambda function's environment."""
    return "AWS_LAMBDA_FUNCTION_NAME" in os.environ


def function_and_version() -> str:
    """`name:version` of this function, as the console and Database Insights show it; empty outside of Lambda."""
    if not in_lambda():
        return ""
    return f"{os.environ['AWS_LAMBDA_FUNCTION_NAME']}:{os.environ.get('AWS_LAMBDA_FUNCTION_VERSION', '')}".rstrip(":")


def lambda_initialization() -> str:
    """How Lambda initialised this environment: `on-demand`, `provisioned-concurrency`, `snap-start`,
    `lambda-managed-instances` or `native-http` (Web Functions); empty outside of Lambda.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
    """
    return os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") or ("on-demand" if in_lambda() else "")


def never_frozen() -> bool:
    """True on Managed Instances, whose processes never stop between two invocations."""
    return lambda_initialization() == "lambda-managed-instances"


def runtime_api() -> str:
    """`host:port` of Lambda's runtime API; empty outside of Lambda."""
    return os.environ.get("AWS_LAMBDA_RUNTIME_API", "")


def is_web_function() -> bool:
    """True in a Web Function, which runs a server of its own and is told where to listen.

    https://docs.aws.amazon.com/lambda/latest/dg/web-functions-revisions-env-vars.html
    """
    return "AWS_LAMBDA_HTTP_ENDPOINT" in os.environ or lambda_initialization() == "native-http"


def max_concurrency() -> int:
    """How many requests this environment may run at once, as far as it says so; otherwise 1.

    Managed Instances say it. Web Functions do not, because only their configuration has it: they get Lambda's default.
    """
    return _positive("AWS_LAMBDA_MAX_CONCURRENCY") or (_WEB_CONCURRENCY if is_web_function() else 1)


def web_timeout() -> float | None:
    """Seconds after which Lambda gives up on a request of this Web Function; None if it does not say so."""
    said = _positive("AWS_LAMBDA_FUNCTION_TIMEOUT")
    return float(said) if said and is_web_function() else None


def _positive(variable: str) -> int | None:
    """The number in a variable, from 1 to 9999; None for anything else."""
    said = os.environ.get(variable, "")
    return int(said) or None if said.isascii() and said.isdigit() and len(said) < 5 else None
