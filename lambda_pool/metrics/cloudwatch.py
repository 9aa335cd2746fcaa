"""Metrics straight to CloudWatch's API, for functions whose logs are off.

A report is a round trip with a price of its own, so this is not the default.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
"""

import logging
from collections import Counter
from importlib.util import find_spec
from time import time
from typing import Any

from ..aws.sdk import bare, no_bodies_logged
from ..config import read_metrics_environment
from ..errors import ConfigError
from ..secret import private
from .collector import Collector, Why
from .definitions import METRICS
from .emf import dimension
from .numbers import Entry

log = logging.getLogger("lambda_pool")

_MOST_VALUES = 150
"""Different values of one datum (MetricDatum)."""
_BATCH = 100
"""Data of one call: with 150 values each far below 1 MB, which is reached before the 1,000 that may be sent."""
_MOST_UNSENT = 1_000
"""Data kept while CloudWatch does not take them."""
# Seconds. An invocation's end waits for the call.
_CONNECT_TIMEOUT = 1.0
_READ_TIMEOUT = 2.0
# Answers that say "not now": https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CommonErrors.html
_NOT_NOW = frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable"})


class PutMetrics(Collector):
    """Sends metrics with PutMetricData, many values in one call; details (reason, request id) have no place in it.

    `namespace`, `service`, `interval`: see EmfMetrics. Needs the action cloudwatch:PutMetricData. The first report, at
    the end of the first invocation, also loads botocore: 160 ms of CPU time, where EMF takes none. What CloudWatch
    surely did not take is sent again with the next report; what it may have taken is not. Raises ConfigError.
    """

    def __init__(self, *, namespace: str | None = None, service: str | None = None, interval: float = 60.0) -> None:
        super().__init__(interval)
        if find_spec("botocore") is None:
            raise ConfigError("botocore is not installed: pip install 'lambda-pool[aws]'")
        self._namespace = namespace
        self._service = service
        self._forget()

    def _forget(self) -> None:
        self._client: Any = None
        # By pool and metric: how often each value came.
        self._gathered: dict[tuple[str, str], Counter[int]] = {}
        self._unsent: list[dict[str, Any]] = []

    def _write(self, pool: str, entries: list[Entry], why: Why) -> None:
        environment = read_metrics_environment()
        if environment.disabled:
            return
        for entry in entries:
            for metric, value in entry.values.items():
                values = value if isinstance(value, list) else [value]
                self._gathered.setdefault((pool, metric), Counter()).update(values)
        if why is Why.FULL:  # only a report line of EMF is full
            return
        gathered, self._gathered = self._gathered, {}
        now = time()
        for (name, metric), counts in gathered.items():
            dimensions = {
                "service": dimension(self._service or environment.service),
                "function_name": dimension(environment.function_name),
                "pool": dimension(name),
            }
            self._unsent += _data(metric, counts, dimensions, now)
        self._send(self._namespace or environment.namespace, environment.region)
        if why is Why.CLOSING:
            # A restored snapshot has other credentials, and no connections.
            self._client = None

    @private
    def _send(self, namespace: str, region: str | None) -> None:
        """Send what is unsent, and keep what CloudWatch surely did not take but may take later."""
        from botocore.exceptions import BotoCoreError, ClientError

        while self._unsent:
            # Out of the list first: a call that is interrupted may have been heard.
            batch = self._unsent[:_BATCH]
            del self._unsent[:_BATCH]
            try:
                if self._client is None:
                    self._client = _client(region)
                with no_bodies_logged():
                    self._client.put_metric_data(Namespace=namespace, MetricData=batch)
            except (BotoCoreError, ClientError) as error:
                fate = "lost"
                if _not_taken(error):
                    fate = "kept for the next report"
                    self._unsent[:0] = batch
                    del self._unsent[:-_MOST_UNSENT]
                log.warning("CloudWatch did not take %d metrics, which are %s: %s", len(batch), fate, bare(error))
                return


def _data(metric: str, counts: Counter[int], dimensions: dict[str, str], now: float) -> list[dict[str, Any]]:
    values = list(counts)
    return [
        {
            "MetricName": metric,
            "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
            "Timestamp": now,
            "Unit": METRICS[metric].unit,
            "Values": values[start : start + _MOST_VALUES],
            "Counts": [counts[value] for value in values[start : start + _MOST_VALUES]],
        }
        for start in range(0, len(values), _MOST_VALUES)
    ]


def _client(region: str | None) -> Any:
    from botocore.config import Config
    from botocore.session import get_session

    config = Config(
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": 1},
    )
    return get_session().create_client("cloudwatch", region_name=region, config=config)


def _not_taken(error: Exception) -> bool:
    """True if CloudWatch surely stored nothing, and might next time."""
    from botocore.exceptions import (
        ClientError,
        ConnectionError,
        CredentialRetrievalError,
        NoCredentialsError,
        NoRegionError,
    )

    if isinstance(error, ClientError):
        return error.response.get("Error", {}).get("Code") in _NOT_NOW
    return isinstance(error, (ConnectionError, CredentialRetrievalError, NoCredentialsError, NoRegionError))
