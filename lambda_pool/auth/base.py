"""The protocol of credential sources, and the simplest one."""

from typing import Protocol

from ..endpoints.base import Endpoint
from ..record import Record
from ..secret import Secret


class Credentials(Record):
    """What one physical connect logs in with: resolved for it, immutable, and thrown away after it.

    `cached` says that they were not fetched or signed for this very connect, so that a rejection may only mean that
    they are out of date. `host`, `port` and `database` are what the source itself knows (a secret often does). They are
    used where the URL and the endpoint leave them open. `iam`: the password is an IAM token. `pending`: they are fresh,
    but if they are refused, the source may know others (a rotation is half done).
    """

    user: str
    password: Secret | None
    cached: bool = False
    host: str | None = None
    port: int | None = None
    database: str | None = None
    iam: bool = False
    pending: bool = False


class Auth(Protocol):
    """A source of credentials. One object may serve several pools and threads.

    A source that can say more about a refused login also has a method `hint(host, user)`, which returns what to check.
    """

    @property
    def needs_tls(self) -> bool:
        """True where the password must never travel unencrypted; the connect is then refused before it is sent."""

    def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Credentials:
        """Credentials for one connect.

        In: where the connection will lead (`endpoint.host` may be empty if only the credentials know it), the URL's
        user (may be empty), and the seconds that may be spent. Raises CredentialsError or ConfigError.
        """

    def rejected(self, credentials: Credentials) -> None:
        """The database refused these: forget them, so that the next call fetches or signs new ones."""

    def forget(self) -> None:
        """Forget everything cached (before a snapshot, after a fork)."""


class UrlAuth:
    """The URL's own user and password."""

    needs_tls = False

    def __init__(self, password: Secret | None) -> None:
        self._password = password

    def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Credentials:
        """The URL's user and password, as they are."""
        return Credentials(user=user, password=self._password)

    def rejected(self, credentials: Credentials) -> None:
        """Nothing is cached, so there is nothing to forget."""

    def forget(self) -> None:
        """Nothing is cached, so there is nothing to forget."""

    def __repr__(self) -> str:
        return "UrlAuth()"
