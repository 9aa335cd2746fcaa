"""Metrics as EMF on standard output, which CloudWatch takes out of a function's log for the price of the log.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import logging
import sys
from collections.abc import Callable, Iterable
from time import time
from typing import Any

from ..config import MetricsEnvironment, read_metrics_environment
from .collector import Collector
from .definitions import METRICS
from .numbers import Entry

log = logging.getLogger("lambda_pool")

_LONGEST_DIMENSION = 1024
_PROVIDER = "aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch"

Document = dict[str, Any]
Format = Callable[[Entry], Document]


class EmfMetrics(Collector):
    """Writes EMF to standard output; the default inside Lambda.

    `namespace`: default POWERTOOLS_METRICS_NAMESPACE, else "lambda_pool". `service`: default POWERTOOLS_SERVICE_NAME,
    else the function's name. `interval`: seconds between two reports. Raises ConfigError.

    Documents are made by Powertools' EMF provider, where it is installed. Importing it costs 46 ms (all of Powertools
    comes along), so a report that a first response, a failure or a shutdown waits for is written without it, in the
    same form, unless the function has loaded it already.
    """

    def __init__(self, *, namespace: str | None = None, service: str | None = None, interval: float = 60.0) -> None:
        super().__init__(interval)
        self._namespace = namespace
        self._service = service
        self._environment: MetricsEnvironment | None = None
        self._with_powertools: bool | None = None
        self._formats: dict[str, Format] = {}

    def _write(self, pool: str, entries: list[Entry], *, at_leisure: bool) -> None:
        environment = self._environment
        if environment is None:
            environment = self._environment = read_metrics_environment()
        if environment.disabled:
            return
        if self._with_powertools is None and (at_leisure or _PROVIDER in sys.modules):
            self._with_powertools = powertools_is_installed()
            self._formats.clear()
        make = self._formats.get(pool)
        if make is None:
            make = self._formats[pool] = self._format(pool, environment)
        write(make(entry) for entry in entries)

    def _format(self, pool: str, environment: MetricsEnvironment) -> Format:
        namespace = self._namespace or environment.namespace
        dimensions = {
            "service": dimension(self._service or environment.service),
            "function_name": dimension(environment.function_name),
            "pool": dimension(pool),
        }
        return (powertools_format if self._with_powertools else plain_format)(namespace, dimensions)


class _Encoder:
    """The JSON encoder, made at the first report: Lambda's runtime has imported json by then."""

    encode: Callable[[Document], str] | None = None


def write(documents: Iterable[Document]) -> None:
    """Write each document to standard output, as a line of its own."""
    encode = _Encoder.encode
    if encode is None:
        from json import JSONEncoder

        encode = _Encoder.encode = JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    for document in documents:
        # One write for text and line end: another thread's output would come between two.
        sys.stdout.write(encode(document) + "\n")
    sys.stdout.flush()


def dimension(value: str) -> str:
    """A value that CloudWatch takes for a dimension: ASCII, not empty, at most 1,024 characters, no leading colon."""
    text = value.encode("ascii", "replace").decode().strip().lstrip(":")
    return text[:_LONGEST_DIMENSION] or "unknown"


def powertools_is_installed() -> bool:
    """Import Powertools' provider. Warns once if there is none."""
    try:
        import aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch  # noqa: F401
    except ImportError:
        log.warning(
            "Powertools is not installed, so lambda_pool writes its metrics itself: "
            "pip install 'lambda-pool[metrics]', or set LAMBDA_POOL_METRICS=off"
        )
        return False
    return True


def powertools_format(namespace: str, dimensions: dict[str, str]) -> Format:
    """Documents by Powertools' provider, with state of its own: `Metrics` would share its with the user's."""
    from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

    provider = AmazonCloudWatchEMFProvider(namespace=namespace, dimension_set=dimensions)

    def make(entry: Entry) -> Document:
        metrics = {
            name: {"Unit": METRICS[name].unit, "StorageResolution": 60, "Value": values}
            for name, values in entry.values.items()
        }
        return dict(provider.serialize_metric_set(metrics, dimensions, entry.properties))

    return make


def plain_format(namespace: str, dimensions: dict[str, str]) -> Format:
    """The same documents without Powertools."""

    def make(entry: Entry) -> Document:
        directive = {
            "Namespace": namespace,
            "Dimensions": [list(dimensions)],
            "Metrics": [{"Name": name, "Unit": METRICS[name].unit} for name in entry.values],
        }
        return {
            "_aws": {"Timestamp": int(time() * 1000), "CloudWatchMetrics": [directive]},
            **dimensions,
            **entry.properties,
            **entry.values,
        }

    return make
