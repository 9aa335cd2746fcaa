"""RDS Proxy and Aurora: endpoints that are found by name, and kept across warm invocations."""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..age import Birth, Clock
from ..aws.hosts import checked_region
from ..config import plain
from ..errors import ConfigError, EndpointError
from ..secret import Forgetful
from ..waiting import while_held
from .answers import read_cluster, read_proxy, read_proxy_reader
from .api import Calls, NoAnswerError, NotFoundError, RdsApi
from .base import Endpoint, Role

_MAX_AGE = 3600.0
"""Seconds. RDS changes an endpoint's name only when somebody renames or recreates it. Then connects fail, and it is
looked up again at once. An hour bounds how long a new reader or a changed setting goes unnoticed."""

_REFRESH_EVERY = 10.0
"""Seconds between two look-ups of a known endpoint, however many connects fail. A failover takes about 30 s and leaves
the names as they are: https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/Concepts.AuroraHighAvailability.html"""

_ASK_EVERY = 1.0
"""Seconds between two look-ups if the last one failed and no endpoint is known. Until then, its error is raised again:
RDS throttles the calls of a whole account and region, so a missing proxy must not use up everybody's share."""

_log = logging.getLogger("lambda_pool")


@dataclass(slots=True)
class _Known:
    endpoint: Endpoint
    born: Birth
    failed: bool = False


class _Discovered(Forgetful):
    """An endpoint per role, looked up when needed. Thread-safe: one thread asks, the others use what is known."""

    has_reader = True
    _fetched = frozenset({"_asking", "_known", "_asked", "_problems", "_warned"})
    _what = ""
    _name = ""

    def __init__(
        self, name: str, *, region: str | None = None, max_age: float = _MAX_AGE, clock: Clock = time.time
    ) -> None:
        shown = f"{type(self).__name__}({name!r})"
        letters = name.replace("-", "") if isinstance(name, str) else ""
        if not (letters.isalnum() and letters.isascii() and len(name) <= 63):
            raise ConfigError(
                f"{shown} is not valid: give the {self._name} as the RDS console shows it, with letters, digits and "
                "hyphens only. It is neither an ARN nor a host name (which belongs in the URL)"
            )
        region = checked_region(f"{shown}: region={region!r}", region)
        if isinstance(max_age, bool) or not isinstance(max_age, int | float) or not 0 < max_age < float("inf"):
            raise ConfigError(f"{shown}: max_age={max_age!r} is not a number of seconds above 0")
        self.name: str = plain(name)
        self._max_age = float(max_age)
        self._clock = clock
        self._api = RdsApi(region)
        self.forget()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def forget(self) -> None:
        """Forget everything cached, and the SDK's session (before a snapshot, after a fork)."""
        # The lock is new as well: after a fork, a thread that is gone may hold the old one.
        # Reentrant, because a signal handler may ask while it interrupts the thread that asks.
        self._asking = threading.RLock()
        self._known: dict[Role, _Known] = {}
        self._asked: Birth | None = None
        self._problems: dict[Role, tuple[str, Birth]] = {}
        self._warned = False
        self._api.forget()

    def failed(self, endpoint: Endpoint) -> None:
        """Look this endpoint up again at the next `resolve`, unless that was done less than 10 s (or `max_age`) ago."""
        for known in list(self._known.values()):
            if known.endpoint == endpoint:
                known.failed = True

    def resolve(self, role: Role, timeout: float) -> Endpoint:
        """The endpoint for `role`: from the cache if fresh, else from the RDS API within `timeout` seconds.

        When the API does not answer, its last answer is used, however old. Raises EndpointError if there is nothing of
        that name, if it is not available, or if the API does not answer and never did; ConfigError without botocore.
        """
        deadline = time.monotonic() + timeout
        known = self._known.get(role)
        if known is not None and self._good(known):
            return known.endpoint
        # A caller with a known endpoint does not wait for the thread that asks.
        found = while_held(self._asking, 0.0 if known else timeout, self._resolve, role, deadline)
        if found is not None:
            return found
        if known is not None:
            return known.endpoint
        raise EndpointError(f"another thread was still looking up {self._what} {self.name!r} after {timeout:.1f} s")

    def _resolve(self, role: Role, deadline: float) -> Endpoint:
        known = self._known.get(role)
        if known is not None and self._good(known):
            return known.endpoint
        return self._ask(role, known, deadline - time.monotonic())

    def _good(self, known: _Known) -> bool:
        if not known.failed and known.born.age(self._clock) <= self._max_age:
            return True
        # With a shorter `max_age`, the user wants to ask more often.
        return self._asked is not None and self._asked.age(self._clock) < min(_REFRESH_EVERY, self._max_age)

    def _ask(self, role: Role, known: _Known | None, timeout: float) -> Endpoint:
        problem = self._problems.get(role)
        if known is None and problem and problem[1].age(self._clock) < _ASK_EVERY:
            raise EndpointError(problem[0])
        asked = Birth(self._clock)
        # If an endpoint is known, half of the time is kept for connecting to it.
        allowed = timeout if known is None else timeout / 2
        try:
            with self._api.calls(allowed) as calls:
                found = self._look_up(calls, role)
        except NoAnswerError as error:
            self._asked = asked
            if known is None:
                text = f"{self!r}: {error}"
                self._problems[role] = text, asked
                raise EndpointError(text) from error.__cause__
            if not self._warned:
                self._warned = True
                _log.warning("%r: %s. The last known address stays in use: %s", self, error, known.endpoint.host)
            return known.endpoint
        except EndpointError as error:
            # The API's word is final: what was known is no longer true.
            self._known = {}
            self._problems[role] = str(error), asked
            raise
        self._asked, self._warned = asked, False
        self._known = self._known | {each: _Known(endpoint, asked) for each, endpoint in found.items()}
        return found[role]

    def _list(self, calls: Calls, operation: str, key: str, parameter: str) -> list[Any]:
        """List what has this source's name. Raises EndpointError if there is nothing."""
        try:
            return calls.list(operation, key, **{parameter: self.name})
        except NotFoundError as error:
            raise self._missing(calls) from error.__cause__

    def _missing(self, calls: Calls) -> EndpointError:
        return EndpointError(
            f"there is no {self._what} {self.name!r} in region {calls.region} of this account: check the name, or give "
            "region="
        )

    def _look_up(self, calls: Calls, role: Role) -> Mapping[Role, Endpoint]:
        """Ask the API for at least `role`. Raises EndpointError, NoAnswerError where the API is to blame."""
        raise NotImplementedError


class RdsProxy(_Discovered):
    """The endpoints of an RDS Proxy, found by the proxy's name.

    In: the proxy's name; the region, if it is not the function's own; the longest time in seconds that an address is
    used without looking it up again. Read-only borrowers get a read-only endpoint of the proxy if one is available,
    otherwise the default one. The function's role needs rds:DescribeDBProxies, and with read-only borrowers
    rds:DescribeDBProxyEndpoints. Opens nothing before the first connect.
    """

    _what = "RDS Proxy"
    _name = "proxy's name"

    def _look_up(self, calls: Calls, role: Role) -> Mapping[Role, Endpoint]:
        writer = read_proxy(self._list(calls, "describe_db_proxies", "DBProxies", "DBProxyName"), self.name)
        if writer is None:
            raise self._missing(calls)
        if role is Role.WRITER:
            return {Role.WRITER: writer}
        listed = self._list(calls, "describe_db_proxy_endpoints", "DBProxyEndpoints", "DBProxyName")
        return {Role.WRITER: writer, Role.READER: read_proxy_reader(listed, self.name, writer) or writer}


class AuroraCluster(_Discovered):
    """The endpoints of an Aurora or Multi-AZ DB cluster, found by the cluster's identifier.

    In: the identifier; the region, if it is not the function's own; the longest time in seconds that an address is
    used without looking it up again. Read-only borrowers get the reader endpoint if the cluster has a reader, otherwise
    the writer's. The function's role needs rds:DescribeDBClusters. Opens nothing before the first connect.
    """

    _what = "cluster"
    _name = "cluster's identifier"

    def __init__(
        self, cluster_id: str, *, region: str | None = None, max_age: float = _MAX_AGE, clock: Clock = time.time
    ) -> None:
        super().__init__(cluster_id, region=region, max_age=max_age, clock=clock)

    def _look_up(self, calls: Calls, role: Role) -> Mapping[Role, Endpoint]:
        listed = self._list(calls, "describe_db_clusters", "DBClusters", "DBClusterIdentifier")
        found = read_cluster(listed, self.name)
        if found is None:
            raise self._missing(calls)
        return {Role.WRITER: found[0], Role.READER: found[1]}
