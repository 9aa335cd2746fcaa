"""Metrics straight to CloudWatch's API, for functions whose logs are off.

A report is a round trip with a price of its own, so this is not the default.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
"""

import logging
from collections import Counter
from importlib.util import find_spec
from time import time
from typing import Any, NamedTuple

from ..aws.environment import region
from ..aws.sdk import bare, code_of, count_addresses, no_bodies_logged
from ..config import MetricsEnvironment
from ..errors import ConfigError
from ..invocation import remaining
from ..secret import private
from .collector import Collector, Why
from .definitions import METRICS
from .numbers import Entry

log: logging.Logger = logging.getLogger("lambda_pool")

_MOST_VALUES = 150
"""Most different values of one datum (MetricDatum)."""
_BATCH = 100
"""Most data of one call. With 150 values each, they are far below 1 MB, which is reached before the 1,000 allowed."""
_MOST_UNSENT = 1_000
"""Most data that are kept while CloudWatch does not take them."""


class _Timeouts(NamedTuple):
    """Seconds of one call: for connecting, and for each wait for data. The end of an invocation waits for the call."""

    connect: float
    read: float

    @property
    def longest(self) -> float:
        """What a call may take: connecting, the TLS handshake (with the same timeout), and the answer."""
        return 2 * self.connect + self.read


_PATIENT = _Timeouts(1.0, 2.0)
# For an invocation whose time runs out, and for functions with a timeout of one to three seconds: an answer from the
# same region takes tens of milliseconds.
_HASTY = _Timeouts(0.2, 0.3)
# Answers that say "not now": https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CommonErrors.html
_NOT_NOW = frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable"})


class PutMetrics(Collector):
    """Sends metrics with PutMetricData, many values in one call, without details (reason, request id).

    `namespace`, `service`, `interval`: see EmfMetrics. Needs the action cloudwatch:PutMetricData. The first report, at
    the end of the first invocation, also loads botocore: 160 ms of CPU time, where EMF takes none. Metrics that did not
    reach CloudWatch, or that it had no room for, are sent again with the next report. Those that it may have accepted
    are not, nor those that it refused. Raises ConfigError.
    """

    def __init__(self, *, namespace: str | None = None, service: str | None = None, interval: float = 60.0) -> None:
        super().__init__(namespace=namespace, service=service, interval=interval)
        if find_spec("botocore") is None:
            raise ConfigError("botocore is not installed: pip install 'lambda-pool[aws]'")
        self._forget()

    def _forget(self) -> None:
        self._disconnect()
        # By pool and metric: how often each value came.
        self._gathered: dict[tuple[str, str], Counter[int]] = {}
        self._unsent: list[dict[str, Any]] = []

    def _disconnect(self) -> None:
        self._session: Any = None
        self._clients: dict[_Timeouts, Any] = {}

    def _write(self, pool: str, entries: list[Entry], why: Why, environment: MetricsEnvironment) -> None:
        for entry in entries:
            for metric, value in entry.values.items():
                values = value if isinstance(value, list) else [value]
                self._gathered.setdefault((pool, metric), Counter()).update(values)
        if why is Why.FULL:  # a line of EMF is full, but no lines are written here
            return
        gathered, self._gathered = self._gathered, {}
        now = time()
        for (name, metric), counts in gathered.items():
            own = self._about(name, environment)[1]
            self._unsent += _data(metric, counts, own, now)
        # A shutdown or a snapshot comes after all invocations, or interrupts one whose time is over anyway.
        self._send(self._about(pool, environment)[0], in_time=why is not Why.CLOSING)
        if why is Why.CLOSING:
            # A restored snapshot has other credentials, and no connections.
            self._disconnect()

    @private
    def _send(self, namespace: str, *, in_time: bool) -> None:
        """Send what is unsent, and keep what CloudWatch surely did not take but may take later.

        `in_time`: only as long as the invocation surely lasts. An invocation that ends too late has done its work, but
        it counts as failed and Lambda tries it again: no number is worth that.
        """
        if not self._unsent or _fitting(in_time=in_time) is None:  # also checked before botocore is loaded
            self._keep([])
            return
        from botocore.exceptions import BotoCoreError, ClientError

        while self._unsent:
            # Take them out of the list first: CloudWatch may have heard a call that is interrupted.
            batch = self._unsent[:_BATCH]
            del self._unsent[:_BATCH]
            try:
                client = self._find_client(in_time=in_time)
                if client is None:
                    self._keep(batch)
                    return
                with no_bodies_logged():
                    client.put_metric_data(Namespace=namespace, MetricData=batch)
            except (BotoCoreError, ClientError) as error:
                fate = "lost"
                if _not_taken(error):
                    fate = "kept for the next report"
                    self._keep(batch)
                log.warning("CloudWatch did not take %d metrics, which are %s: %s", len(batch), fate, bare(error))
                return

    def _keep(self, batch: list[dict[str, Any]]) -> None:
        self._unsent[:0] = batch
        del self._unsent[:-_MOST_UNSENT]

    def _find_client(self, *, in_time: bool) -> Any:
        """A client whose call ends in time; None if there is none."""
        while (timeouts := _fitting(in_time=in_time)) is not None:
            client = self._clients.get(timeouts)
            if client is not None:
                return client
            if self._session is None:
                from botocore.session import get_session

                self._session = get_session()
            # Then look at the time again, because making a client takes a while.
            self._clients[timeouts] = _client(self._session, region(), timeouts)
        return None


def _fitting(*, in_time: bool) -> _Timeouts | None:
    """The timeouts of a call that begins now; None if the invocation may end before the call (`PutMetrics._send`)."""
    left = remaining() if in_time else None
    if left is None:
        return _PATIENT
    return next((timeouts for timeouts in (_PATIENT, _HASTY) if timeouts.longest <= left), None)


def _data(metric: str, counts: Counter[int], own: dict[str, str], now: float) -> list[dict[str, Any]]:
    values = list(counts)
    return [
        {
            "MetricName": metric,
            "Dimensions": [{"Name": name, "Value": value} for name, value in own.items()],
            "Timestamp": now,
            "Unit": METRICS[metric].unit,
            "Values": values[start : start + _MOST_VALUES],
            "Counts": [counts[value] for value in values[start : start + _MOST_VALUES]],
        }
        for start in range(0, len(values), _MOST_VALUES)
    ]


def _client(session: Any, region: str | None, timeouts: _Timeouts) -> Any:
    from botocore.config import Config

    def make(connect: float) -> Any:
        config = Config(
            connect_timeout=connect,
            read_timeout=timeouts.read,
            retries={"mode": "standard", "total_max_attempts": 1},
        )
        return session.create_client("cloudwatch", region_name=region, config=config)

    client = make(timeouts.connect)
    # botocore tries each address for its connect_timeout; VPC endpoints have one in each zone.
    addresses = count_addresses(client)
    return client if addresses == 1 else make(timeouts.connect / addresses)


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
        return code_of(error) in _NOT_NOW
    return isinstance(error, (ConnectionError, CredentialRetrievalError, NoCredentialsError, NoRegionError))
