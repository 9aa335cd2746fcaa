"""Metrics as EMF on standard output, which CloudWatch takes out of a function's log for the price of the log.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from time import time
from typing import Any

from ..config import MetricsEnvironment
from .collector import Collector, Why
from .definitions import METRICS
from .numbers import Entry

MOST_DIMENSIONS = 30


class EmfMetrics(Collector):
    """Writes EMF to standard output; the default inside Lambda.

    `namespace`: default POWERTOOLS_METRICS_NAMESPACE, else "lambda_pool". `service`: default POWERTOOLS_SERVICE_NAME,
    else the function's name. `interval`: seconds between two reports. Raises ConfigError.
    """

    def _write(self, pool: str, entries: list[Entry], why: Why, environment: MetricsEnvironment) -> None:
        write(entries, *self._about(pool, environment))


class _Encoder:
    """The JSON encoder, made at the first report: Lambda's runtime has imported json by then."""

    encode: Callable[[dict[str, Any]], str] | None = None


def write(entries: Iterable[Entry], namespace: str, own: Mapping[str, str]) -> None:
    """Write each entry to standard output, as a line of its own. `own`: its dimensions, which no property replaces."""
    encode = _Encoder.encode
    if encode is None:
        from json import JSONEncoder

        encode = _Encoder.encode = JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    for entry in entries:
        directive = {
            "Namespace": namespace,
            "Dimensions": [list(own)],
            "Metrics": [{"Name": name, "Unit": METRICS[name].unit} for name in entry.values],
        }
        about = {"Timestamp": int(time() * 1000), "CloudWatchMetrics": [directive]}
        # One write for the text and its line end: between two writes, another thread's output could come.
        sys.stdout.write(encode({"_aws": about, **entry.properties, **own, **entry.values}) + "\n")
    sys.stdout.flush()
