"""Metrics as EMF on standard output, which CloudWatch takes out of a function's log for the price of the log.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import logging
import sys
from collections.abc import Callable
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
Format = Callable[[dict[str, str], Entry], Document]


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
        self._format: Format | None = None

    def _write(self, pool: str, entries: list[Entry], *, at_leisure: bool) -> None:
        environment = self._environment
        if environment is None:
            environment = self._environment = read_metrics_environment()
        if environment.disabled:
            return
        import json

        dimensions = {
            "service": dimension(self._service or environment.service),
            "function_name": dimension(environment.function_name),
            "pool": dimension(pool),
        }
        make = self._find_format(self._namespace or environment.namespace, at_leisure=at_leisure)
        for entry in entries:
            # One write for text and line end: threads would come between two.
            sys.stdout.write(json.dumps(make(dimensions, entry), separators=(",", ":")) + "\n")
        sys.stdout.flush()

    def _find_format(self, namespace: str, *, at_leisure: bool) -> Format:
        if self._format is not None:
            return self._format
        if at_leisure or _PROVIDER in sys.modules:
            try:
                self._format = powertools_format(namespace)
            except ImportError:
                log.warning(
                    "Powertools is not installed, so lambda_pool writes its metrics itself: "
                    "pip install 'lambda-pool[metrics]', or set LAMBDA_POOL_METRICS=off"
                )
                self._format = plain_format(namespace)
            return self._format
        return plain_format(namespace)


def dimension(value: str) -> str:
    """A value that CloudWatch takes for a dimension: ASCII, not empty, at most 1,024 characters, no leading colon."""
    text = value.encode("ascii", "replace").decode().strip().lstrip(":")
    return text[:_LONGEST_DIMENSION] or "unknown"


def powertools_format(namespace: str) -> Format:
    """Documents by Powertools' provider, with state of its own: `Metrics` would share its with the user's.

    Raises ImportError.
    """
    from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

    def make(dimensions: dict[str, str], entry: Entry) -> Document:
        provider = AmazonCloudWatchEMFProvider(namespace=namespace, dimension_set=dimensions)
        metrics = {
            name: {"Unit": METRICS[name].unit, "StorageResolution": 60, "Value": values}
            for name, values in entry.values.items()
        }
        return dict(provider.serialize_metric_set(metrics, dimensions, entry.properties))

    return make


def plain_format(namespace: str) -> Format:
    """The same documents without Powertools."""

    def make(dimensions: dict[str, str], entry: Entry) -> Document:
        return {
            "_aws": {
                "Timestamp": int(time() * 1000),
                "CloudWatchMetrics": [
                    {
                        "Namespace": namespace,
                        "Dimensions": [list(dimensions)],
                        "Metrics": [{"Name": name, "Unit": METRICS[name].unit} for name in entry.values],
                    }
                ],
            },
            **dimensions,
            **entry.properties,
            **entry.values,
        }

    return make
