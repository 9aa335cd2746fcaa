"""Texts from code and environment, checked, to one frozen Config."""

from .environment import (
    VARIABLES,
    Environment,
    MetricsEnvironment,
    graceful_shutdown,
    in_lambda,
    lambda_initialization,
    never_frozen,
    read_environment,
    read_metrics_environment,
    runtime_api,
    url_of,
)
from .options import DEFAULT_PREFIX, OPTIONS, Config, check_pooled, make
from .parts import PARTS, engine_of, from_parts
from .synonyms import advice
from .url import ENGINES, Url, parse_url
from .values import closest, is_sendable, seconds

__all__ = [
    "DEFAULT_PREFIX",
    "ENGINES",
    "OPTIONS",
    "PARTS",
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
    "graceful_shutdown",
    "in_lambda",
    "is_sendable",
    "lambda_initialization",
    "make",
    "never_frozen",
    "parse_url",
    "read_environment",
    "read_metrics_environment",
    "runtime_api",
    "seconds",
    "url_of",
]
