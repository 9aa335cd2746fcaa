"""Logs in with an IAM token instead of a password."""

import threading
import time

from ..age import Birth, Clock
from ..aws import environment as aws_environment
from ..aws.environment import AwsCredentials
from ..aws.hosts import checked_region, dsql_region, recognise
from ..aws.identity import AwsIdentity
from ..config import PORTS
from ..endpoints.base import Endpoint
from ..errors import ConfigError, CredentialsError
from ..secret import Forgetful, Secret, private
from .base import Credentials
from .signature import VALID_FOR, sign, sign_dsql

REFRESH_AFTER = VALID_FOR * 2 / 3
"""Seconds after which a new token is signed: ten of its fifteen minutes.

The remaining five are for a clock here that lags behind the server's, and for the connect itself. Signing
costs 0.1 ms, so nothing is gained by using a token to its end.
"""

MAX_TOKENS = 32
"""How many tokens one object keeps at most: more than any function has endpoints times users, at 1.3 kB each."""

_SDK_TIMEOUT = 5.0
"""Seconds that `token()` may spend on finding AWS credentials: the pool's default `timeout`."""

_HOST_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
_IPV6_CHARACTERS = frozenset("abcdefABCDEF0123456789:.")

_Key = tuple[str, str, str, AwsCredentials]


class IamToken(Forgetful):
    """Signs a login token for the endpoint that the pool connects to, with the function's own AWS credentials.

    For Aurora DSQL, recognised by its host name, the token is for DbConnectAdmin if the user is `admin`, otherwise for
    DbConnect.

    `region` is the database's region. By default it is the region in an RDS or DSQL host name, else AWS_REGION, else
    AWS_DEFAULT_REGION. The host name comes first because RDS checks the signature against its own region, and Lambda
    sets AWS_REGION to the function's region, which a database in another region would refuse.

    Credentials come from the access keys in the environment, as Lambda provides them. Then no AWS SDK is needed.
    Without access keys, or in a restored SnapStart environment, botocore finds the credentials.

    `clock` tells the wall-clock time (seconds since 1970): for tests that change the time.

    Raises ConfigError if `region` cannot be a region.
    """

    needs_tls = True
    _fetched = frozenset({"_lock", "_tokens", "_identity"})

    def __init__(self, region: str | None = None, *, clock: Clock = time.time) -> None:
        self._region = checked_region(f"IamToken(region={region!r})", region)
        self._clock = clock
        self._tokens: dict[_Key, tuple[Secret, Birth]]
        self.forget()

    def token(self, host: str, port: int, user: str) -> str:
        """A token for `user` at exactly this endpoint, to be used as the password. It is valid for five minutes or
        more.

        Raises ConfigError for a host, port or user that cannot be signed for, or if no region is found;
        CredentialsError if there are no AWS credentials.
        """
        return self._token(host, port, user, _SDK_TIMEOUT)[0].reveal()

    def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Credentials:
        """The user and a token for this endpoint. Raises as `token` does."""
        port = endpoint.port or PORTS.get(endpoint.engine)
        if port is None:
            raise ConfigError(f"IamToken signs the port too: name it in the URL, after the host {endpoint.host!r}")
        token, cached = self._token(endpoint.host, port, user, timeout)
        return Credentials(user=user, password=token, cached=cached, iam=True)

    def rejected(self, credentials: Credentials) -> None:
        """Forget the refused token and what the SDK found: the next token is signed from scratch."""
        # A new dict, and no lock: at worst, a token that is being signed right now is signed once more.
        known = list(self._tokens.items())
        self._tokens = {key: found for key, found in known if found[0] != credentials.password}
        self._identity = AwsIdentity()

    def forget(self) -> None:
        """Forget all tokens and credentials. Takes no lock: after a fork, a thread that is gone may hold it."""
        # Reentrant, because a signal handler may sign while it interrupts the thread that signs.
        self._lock = threading.RLock()
        self._tokens = {}
        self._identity = AwsIdentity()

    def check(self, host: str | None, user: str) -> None:
        """Raise ConfigError if nothing can be signed for this user, or at this host (None: not known yet)."""
        _check_user(user)
        if host is not None:
            _authority(host, 1)

    def hint(self, host: str, user: str) -> str:
        """What to check when a fresh token for `user` at `host` was refused."""
        region = self._region_for(host)
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self._clock()))
        if dsql_region(host):
            return (
                f"Check that the role allows dsql:{_dsql_action(user)} on the cluster; that the database role {user!r} "
                f"exists and is granted to that role (AWS IAM GRANT); that {region} is the cluster's region; that it "
                f"is now {clock} UTC"
            )
        return (
            f"Check that user {user!r} may log in with IAM (PostgreSQL: GRANT rds_iam TO it; MySQL: IDENTIFIED WITH "
            "AWSAuthenticationPlugin AS 'RDS'; behind a proxy: no grant, but the proxy must allow IAM authentication "
            "for the user); that the role allows rds-db:connect on "
            f"arn:...:rds-db:{region}:ACCOUNT:dbuser:RESOURCE-ID/{user}; that {host!r} is the name AWS gave the "
            f"endpoint, not an alias or address; that {region} is the database's region; that it is now {clock} UTC"
        )

    def __repr__(self) -> str:
        return f"IamToken(region={self._region!r})"

    @private
    def _token(self, host: str, port: int, user: str, timeout: float) -> tuple[Secret, bool]:
        authority = _authority(host, port)
        region = self._region_for(host)
        if not region:
            raise ConfigError(f"the AWS region of {host!r} is unknown: write IamToken(region='...'), or set AWS_REGION")
        _check_user(user)
        key = (authority, user, region, self._identity.credentials(timeout))
        with self._lock:
            tokens = self._tokens
            token, birth = tokens.get(key, (None, None))
            if token is not None and birth is not None and birth.age(self._clock) < REFRESH_AFTER:
                return token, True
            birth = Birth(self._clock)
            token = _signed(key, birth.wall)
            tokens.pop(key, None)
            while len(tokens) >= MAX_TOKENS:
                tokens.pop(next(iter(list(tokens))), None)  # a signal handler may sign and do the same just here
            tokens[key] = token, birth
            return token, False

    def _region_for(self, host: str) -> str | None:
        rds = recognise(host)
        return self._region or (rds.region if rds else dsql_region(host)) or aws_environment.region()


def _authority(host: str, port: int) -> str:
    """`host:port` as it is signed. Raises ConfigError where there is nothing to sign for."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or host.startswith(("/", "@")):
        raise ConfigError(f"IamToken signs the host name: it needs the database's endpoint, not {host or 'no host'!r}")
    if bare.count(":") > 1 and _IPV6_CHARACTERS.issuperset(bare):
        bare = f"[{bare}]"
    elif bare != host or not _HOST_CHARACTERS.issuperset(host):
        raise ConfigError(f"{host!r} is not a host name: an IAM token is signed for a single endpoint, as AWS shows it")
    if not isinstance(port, int) or not 1 <= port <= 65535:
        raise ConfigError(f"port {port!r} is not between 1 and 65535")
    return f"{bare}:{port}"


def _check_user(user: str) -> None:
    if not user:
        raise ConfigError("IamToken needs the database user: name it in the URL, as in postgresql://app@host/database")
    if any("\ud800" <= character <= "\udfff" for character in user):
        raise ConfigError(f"the database user {user!r} holds characters that UTF-8 cannot encode")


def _dsql_action(user: str) -> str:
    return "DbConnectAdmin" if user == "admin" else "DbConnect"


def _signed(key: _Key, when: float) -> Secret:
    authority, user, region, credentials = key
    try:
        host = authority.rpartition(":")[0]
        if dsql_region(host):
            return Secret(sign_dsql(host, _dsql_action(user), region, credentials, when))
        return Secret(sign(authority, user, region, credentials, when))
    except UnicodeEncodeError:
        pass  # raised outside, because this error and its frames hold the credentials
    raise CredentialsError(
        "the AWS credentials hold characters that are not text: check AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
    )
