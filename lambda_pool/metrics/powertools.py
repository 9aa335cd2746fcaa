"""Metrics under the namespace of a Powertools `Metrics` that the function already has."""

from typing import Any

from ..config import MetricsEnvironment
from ..errors import ConfigError
from .collector import Collector, Why
from .definitions import dimension, dimensions
from .emf import MOST_DIMENSIONS, write
from .numbers import Entry


class PowertoolsMetrics(Collector):
    """Writes EMF under the namespace, service and default dimensions of the user's own `Metrics`.

    The report shares nothing else with it. Nothing is added to the user's metric set, which all `Metrics` of a process
    share: otherwise the first one that is flushed would report the pool's metrics under its namespace. The order of the
    decorator and `log_metrics` makes no difference. `interval`: seconds between two reports. Raises ConfigError.
    """

    def __init__(self, metrics: Any, *, interval: float = 60.0) -> None:
        super().__init__(interval=interval)
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
        write(entries, str(user.namespace), own)
