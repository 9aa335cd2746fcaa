"""Metrics as EMF on standard output, which CloudWatch takes out of a function's log for the price of the log.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from time import time
from typing import Any

from ..config import MetricsEnvironment
from .collector import Collector, Why
from .definitions import METRICS, dimensions
from .numbers import Entry

MOST_DIMENSIONS = 30
_PROVIDER = "aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch"

Document = dict[str, Any]
Format = Callable[[Entry], Document]


class EmfMetrics(Collector):
    """Writes EMF to standard output; the default inside Lambda.

    `namespace`: default POWERTOOLS_METRICS_NAMESPACE, else "lambda_pool". `service`: default POWERTOOLS_SERVICE_NAME,
    else the function's name. `interval`: seconds between two reports. Raises ConfigError.

    Powertools' EMF provider makes the documents if it is installed. Importing it takes 46 ms, because it imports all of
    Powertools. So a report that would delay the first answer, a failure or a shutdown is written without it, in the
    same form, unless the function has imported it already.
    """

    def __init__(self, *, namespace: str | None = None, service: str | None = None, interval: float = 60.0) -> None:
        super().__init__(interval)
        self._namespace = namespace
        self._service = service
        self._with_powertools: bool | None = None
        self._formats: dict[str, Format] = {}

    def _write(self, pool: str, entries: list[Entry], why: Why, environment: MetricsEnvironment) -> None:
        if self._with_powertools is None and (why is Why.INTERVAL or _PROVIDER in sys.modules):
            from .powertools import powertools_is_installed

            self._with_powertools = powertools_is_installed()
            self._formats.clear()
        make = self._formats.get(pool)
        if make is None:
            make = self._formats[pool] = self._format(pool, environment)
        write(make(entry) for entry in entries)

    def _format(self, pool: str, environment: MetricsEnvironment) -> Format:
        namespace = self._namespace or environment.namespace
        own = dimensions(self._service or environment.service, environment.function_name, pool)
        if self._with_powertools:
            from .powertools import powertools_format

            return powertools_format(namespace, own)
        return plain_format(namespace, own)


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
        # One write for the text and its line end: between two writes, another thread's output could come.
        sys.stdout.write(encode(document) + "\n")
    sys.stdout.flush()


def plain_format(namespace: str, own: Mapping[str, str]) -> Format:
    """The documents that Powertools' provider would make, made without it. `own`: their dimensions."""

    def make(entry: Entry) -> Document:
        directive = {
            "Namespace": namespace,
            "Dimensions": [list(own)],
            "Metrics": [{"Name": name, "Unit": METRICS[name].unit} for name in entry.values],
        }
        return {
            "_aws": {"Timestamp": int(time() * 1000), "CloudWatchMetrics": [directive]},
            **entry.properties,
            **own,
            **entry.values,
        }

    return make
