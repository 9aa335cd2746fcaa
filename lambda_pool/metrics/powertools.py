"""Metrics through Powertools: its EMF provider, and the namespace of a `Metrics` that the function already has."""

import logging
from collections.abc import Mapping
from typing import Any

from ..config import MetricsEnvironment
from ..errors import ConfigError
from .collector import Collector, Why
from .definitions import METRICS, dimension, dimensions
from .emf import MOST_DIMENSIONS, Document, Format, write
from .numbers import Entry

log: logging.Logger = logging.getLogger("lambda_pool")


class PowertoolsMetrics(Collector):
    """Writes EMF under the namespace, service and default dimensions of the user's own `Metrics`.

    The report shares nothing else with it. Nothing is added to the user's metric set, which all `Metrics` of a process
    share: otherwise the first one that is flushed would report the pool's metrics under its namespace. The order of the
    decorator and `log_metrics` makes no difference. `interval`: seconds between two reports. Raises ConfigError.
    """

    def __init__(self, metrics: Any, *, interval: float = 60.0) -> None:
        super().__init__(interval)
        try:
            from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider
        except ImportError:
            raise ConfigError("Powertools is not installed: pip install 'lambda-pool[metrics]'") from None
        provider = getattr(metrics, "provider", metrics)
        if not isinstance(provider, AmazonCloudWatchEMFProvider):
            raise ConfigError(f"metrics={metrics!r} is not valid: it must be a Powertools Metrics that writes EMF")
        if not provider.namespace:
            raise ConfigError("this Metrics has no namespace: give it one, or set POWERTOOLS_METRICS_NAMESPACE")
        self._provider = provider

    def _write(self, pool: str, entries: list[Entry], why: Why, environment: MetricsEnvironment) -> None:
        user = self._provider
        own = dimensions(user.service or environment.service, environment.function_name, pool)
        for name, value in user.default_dimensions.items():
            if len(own) < MOST_DIMENSIONS:
                own.setdefault(name, dimension(str(value)))
        make = powertools_format(str(user.namespace), own)
        write(make(entry) for entry in entries)


def powertools_is_installed() -> bool:
    """Import Powertools' provider. Warns if there is none."""
    try:
        import aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch  # noqa: F401
    except ImportError:
        log.warning(
            "Powertools is not installed, so lambda_pool writes its metrics itself: "
            "pip install 'lambda-pool[metrics]', or set LAMBDA_POOL_METRICS=off"
        )
        return False
    return True


def powertools_format(namespace: str, dimension_set: Mapping[str, str]) -> Format:
    """Documents by a Powertools provider with its own state: a new `Metrics` would share its state with the user's."""
    from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

    own = dict(dimension_set)
    provider = AmazonCloudWatchEMFProvider(namespace=namespace, dimension_set=own)

    def make(entry: Entry) -> Document:
        metrics = {
            name: {"Unit": METRICS[name].unit, "StorageResolution": 60, "Value": value}
            for name, value in entry.values.items()
        }
        # A property with the name of one of the user's dimensions would replace that dimension.
        properties = {name: value for name, value in entry.properties.items() if name not in own}
        return dict(provider.serialize_metric_set(metrics, own, properties))

    return make
