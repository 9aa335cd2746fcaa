"""Checks the settings from the code and the environment, and makes one frozen Config of them."""

from .environment import (
    VARIABLES,
    Environment,
    MetricsEnvironment,
    graceful_shutdown,
    read_environment,
    read_metrics_environment,
    settings,
    url_of,
)
from .options import DEFAULT_PREFIX, OPTIONS, Config, check_pooled, make
from .parts import PARTS, PORTS, engine_of, from_parts
from .platform import (
    function_and_version,
    in_lambda,
    is_web_function,
    lambda_initialization,
    never_frozen,
    runtime_api,
    web_timeout,
)
from .synonyms import advice
from .url import Url, parse_url
from .values import closest, is_sendable, plain, seconds

__all__ = [
    "DEFAULT_PREFIX",
    "OPTIONS",
    "PARTS",
    "PORTS",
    "VARIABLES",
    "Config",
    "Environment",
    "MetricsEnvironment",
    "Url",
    "advice",
    "check_pooled",
    "closest",
    "engine_of",
    "from_parts",
    "function_and_version",
    "graceful_shutdown",
    "in_lambda",
    "is_sendable",
    "is_web_function",
    "lambda_initialization",
    "make",
    "never_frozen",
    "parse_url",
    "plain",
    "read_environment",
    "read_metrics_environment",
    "runtime_api",
    "seconds",
    "settings",
    "url_of",
    "web_timeout",
]
