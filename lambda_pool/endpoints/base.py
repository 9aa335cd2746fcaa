"""The protocol of endpoint sources, and the simplest one."""

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
    another transaction-mode pooler stands there. `engine` is `postgresql`, `mysql`, or empty when unknown. `iam`: what
    the service says of IAM logins there (True: only those; False: none; None: both, or unknown). `requires_tls`: it
    refuses unencrypted connections.
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
        """A connect to this address failed, or it led to the wrong role: look it up anew at the next `resolve`."""

    def forget(self) -> None:
        """Forget everything cached (before a snapshot, after a fork)."""


class FixedEndpoint:
    """The URL's own host and port."""

    has_reader = False

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def resolve(self, role: Role, timeout: float) -> Endpoint:
        """The URL's host and port, for either role."""
        return self._endpoint

    def failed(self, endpoint: Endpoint) -> None:
        """Nothing is cached: DNS is asked at each connect."""

    def forget(self) -> None:
        """Nothing is cached, so there is nothing to forget."""

    def __repr__(self) -> str:
        return f"FixedEndpoint({self._endpoint.host!r}, {self._endpoint.port})"
