"""Texts from code and environment, checked, to one frozen Config."""

from .environment import (
    Environment,
    MetricsEnvironment,
    graceful_shutdown,
    in_lambda,
    lambda_initialization,
    read_environment,
    read_metrics_environment,
    runtime_api,
)
from .options import DEFAULT_PREFIX, OPTIONS, Config, check_pooled, make
from .url import ENGINES, Url, parse_url
from .values import seconds

__all__ = [
    "DEFAULT_PREFIX",
    "ENGINES",
    "OPTIONS",
    "Config",
    "Environment",
    "MetricsEnvironment",
    "Url",
    "check_pooled",
    "graceful_shutdown",
    "in_lambda",
    "lambda_initialization",
    "make",
    "parse_url",
    "read_environment",
    "read_metrics_environment",
    "runtime_api",
    "seconds",
]
