"""The protocol of endpoint sources, and the simplest one."""

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from ..record import Record


class Role(Enum):
    """Which side of a cluster a connection is for."""

    WRITER = "writer"
    READER = "reader"


class Endpoint(Record):
    """Where one physical connect leads, resolved for it.

    `host` may be a Unix socket's directory or path, or empty if only the credentials know it. `proxy`: an RDS Proxy or
    another transaction-mode pooler stands there. `engine` is `postgresql`, `mysql`, or empty when unknown. `iam` is
    True if the service allows only IAM logins there, False if it allows none, and None if it allows other logins too or
    if this is unknown. `requires_tls`: it refuses unencrypted connections.
    """

    host: str
    port: int | None = None
    proxy: bool = False
    engine: str = ""
    iam: bool | None = None
    requires_tls: bool = False


class EndpointSource(Protocol):
    """Finds the address to connect to. One object may serve several pools and threads."""

    @property
    def has_reader(self) -> bool:
        """True where a reader's address may differ from the writer's; read-only borrowers then get their own."""

    def resolve(self, role: Role, timeout: float) -> Endpoint:
        """The address for `role`, from the cache where that is fresh enough, spending at most `timeout` seconds.

        Raises EndpointError.
        """

    def failed(self, endpoint: Endpoint) -> None:
        """A connect to this address failed, or it led to the wrong role: look it up again at the next `resolve`."""

    def forget(self) -> None:
        """Forget everything cached (before a snapshot, after a fork)."""


class FixedEndpoint:
    """The URL's own host and port, or the hosts of a URL that names several, in turn.

    A host is used for as long as it takes connections and writes. After it comes the next one in the list, and after
    the last one the first. `share` says where to begin: 0 is at the first host, and just below 1 is at the last.
    """

    has_reader = False

    def __init__(self, *endpoints: Endpoint, share: Callable[[], float] = float) -> None:
        self.endpoints: tuple[Endpoint, ...] = tuple(dict.fromkeys(endpoints))
        self._share = share
        self._current: Endpoint
        self.forget()

    @property
    def several(self) -> bool:
        """Whether there is another host to go to."""
        return len(self.endpoints) > 1

    def resolve(self, role: Role, timeout: float) -> Endpoint:
        """The host that is used now, for either role."""
        return self._current

    def failed(self, endpoint: Endpoint) -> None:
        """Go on to the next host, unless that was done already. No address is cached: DNS is asked at each connect."""
        current = self._current
        if (endpoint.host, endpoint.port) == (current.host, current.port):
            self._current = self.endpoints[(self.endpoints.index(current) + 1) % len(self.endpoints)]

    def forget(self) -> None:
        """Choose again where to begin."""
        self._current = self.endpoints[int(self._share() * len(self.endpoints))]

    def __repr__(self) -> str:
        hosts = ", ".join(f"{each.host!r}, {each.port}" for each in self.endpoints)
        return f"FixedEndpoint({hosts})"
