"""Logs in with a user name and password from AWS Secrets Manager, and follows their rotation.

It asks through botocore. From process start to a client, that takes 150 ms of CPU time. boto3 takes 162 ms.
Powertools' parameters take 180 ms, and put a second cache in front.
"""

import json
import threading
import time
from typing import Any

from ..age import Birth, Clock
from ..aws import environment as aws_environment
from ..aws.hosts import RDS_ENGINES, checked_region, is_region
from ..aws.identity import AwsIdentity
from ..aws.sdk import bare, code_of, create_client, load_session, no_bodies_logged
from ..config import is_sendable, plain
from ..endpoints.base import Endpoint
from ..errors import ConfigError, CredentialsError
from ..record import Record
from ..secret import Forgetful, Secret, private
from ..waiting import pause, while_held
from .base import Credentials

MAX_AGE = 300.0
"""Seconds that a secret is used without asking again.

A rotation needs no shorter time, because after a refused login the secret is fetched again at once. This bounds
how long a withdrawn secret stays in use. Connections live for 30 minutes, so asking every five costs about one
API call for each connect.
"""

_PAUSE = 0.2
"""Seconds before a throttled or broken request is sent again."""

_CURRENT, _PENDING = "AWSCURRENT", "AWSPENDING"

_FINAL = {
    "ResourceNotFoundException": (
        "there is no such secret, or no version with this stage, in region {region}: check the region and the name, "
        "or use the full ARN"
    ),
    "AccessDeniedException": (
        "the function's role may not read it: allow secretsmanager:GetSecretValue on the secret and, if it has its own "
        "key, kms:Decrypt on that key"
    ),
    "DecryptionFailure": (
        "its KMS key cannot decrypt it: check that the key is enabled and allow kms:Decrypt to the function's role"
    ),
    "InvalidRequestException": "it cannot be read in its present state. If it is marked for deletion, restore it",
    "InvalidParameterException": "the name, ARN or version stage is not valid: check them",
    "ValidationException": "the name, ARN or version stage is not valid: check them",
}
"""What Secrets Manager says about the secret itself. After these, what was known is no longer used."""
_OF_KEYS = {
    "UnrecognizedClientException": "the AWS credentials are not valid in {region}: check the role or the profile",
    "InvalidSignatureException": "the AWS credentials or this machine's clock are wrong",
    "ExpiredTokenException": "the AWS credentials have expired: log in again, or let Lambda provide them",
}
_FIXES = _FINAL | _OF_KEYS
_UNREACHABLE = (
    "Secrets Manager did not answer in region {region}. In a VPC without a NAT gateway, create the interface endpoint "
    "com.amazonaws.{region}.secretsmanager, with private DNS and a security group that lets the function in on port 443"
)


_SERVICE = "secretsmanager"
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_+=.@-:!")
"""The characters of names and ARNs (CreateSecret, Name). Names of secrets that RDS manages hold an exclamation mark."""


class _Answer(Record):
    """One version of the secret. `body` is None if it is not a text."""

    version: str
    body: Secret | None


class _Problem(Record):
    """Why there is no answer. `passing`: it may pass with time. `final`: it says that what was known is not true."""

    error: CredentialsError
    passing: bool
    final: bool


class _Login(Record):
    """What the secret says, checked. `user` may be empty; `engine` is the URL's scheme, empty if unknown."""

    version: str
    user: str
    password: Secret
    host: str | None
    port: int | None
    database: str | None
    engine: str


class SecretsManager(Forgetful):
    """Fetches the database's user name and password from one secret, and keeps them for `max_age` seconds.

    In: the secret's name or ARN; the version stage to read; the region (without it: the ARN's, else
    AWS_REGION, else AWS_DEFAULT_REGION, else the AWS profile's). The secret is JSON as RDS writes it, with
    `password` and normally `username`, `host`, `port`, `dbname` and `engine`; a secret without `username`
    uses the URL's user. Other keys are ignored.

    After a refused login, the next connect fetches the secret again. If it is still the version that was refused, a
    rotation may have changed the password in the database but not yet finished, and the version staged as AWSPENDING is
    tried. If Secrets Manager gives no answer about the secret, the last version stays in use unless it was refused.

    `clock` tells the wall-clock time (seconds since 1970): for tests that change the time. Raises ConfigError
    for a malformed ARN, stage, region or age.
    """

    needs_tls = False  # a host that is not local is verified in full anyway, unless the URL says otherwise
    _fetched = frozenset({"_lock", "_known", "_refused", "_identity", "_session"})

    @private
    def __init__(
        self,
        secret_id: str,
        *,
        version_stage: str = _CURRENT,
        max_age: float = MAX_AGE,
        region: str | None = None,
        clock: Clock = time.time,
    ) -> None:
        if not secret_id or not isinstance(secret_id, str):
            raise ConfigError(f"SecretsManager({secret_id!r}) is not valid: give the secret's name or ARN")
        if not _NAME_CHARACTERS.issuperset(secret_id) or "://" in secret_id:
            # The text is not shown: a template that resolves the secret puts its value here, with the password.
            raise ConfigError(
                "SecretsManager(...) was not given a secret's name or ARN. Did you give it the secret's value?"
            )
        if not version_stage or not isinstance(version_stage, str):
            raise ConfigError(
                f"SecretsManager(version_stage={version_stage!r}) is not valid: give a stage such as 'AWSCURRENT'"
            )
        if isinstance(max_age, bool) or not isinstance(max_age, int | float) or not max_age >= 0:
            raise ConfigError(
                f"SecretsManager(max_age={max_age!r}) is not valid: it must be a number of seconds, 0 or more"
            )
        region = checked_region(f"SecretsManager(region={region!r})", region)
        of_arn = _region_of_arn(secret_id)
        if region and of_arn and region != of_arn:
            raise ConfigError(f"SecretsManager(region={region!r}) contradicts {secret_id!r}: leave region out")
        self.secret_id: str = plain(secret_id)
        self._stage = plain(version_stage)
        self._max_age = max_age
        self._region = region or of_arn
        self._clock = clock
        self._known: tuple[_Login, Birth] | None
        self.forget()

    @private
    def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Credentials:
        """The secret's user name and password, and its host, port and database for where the URL has none.

        Raises ConfigError without botocore or a region, and for a secret of another engine; CredentialsError
        where the secret cannot be fetched within `timeout` seconds or holds no login.
        """
        deadline = time.monotonic() + timeout
        known = self._known
        # A caller with a known login does not wait for the thread that asks.
        found = while_held(self._lock, 0.0 if known else timeout, self._login, deadline)
        if found is not None:
            login, cached = found
        elif known is not None:
            login, cached = known[0], True
        else:
            raise CredentialsError(f"another thread was still fetching {self} after {timeout:.1f} s")
        if login.engine and endpoint.engine and login.engine != endpoint.engine:
            raise ConfigError(
                f"{self} is the login of a {login.engine} database, but the connection is for {endpoint.engine}: "
                "check the secret's name and the URL's scheme"
            )
        if not (login.user or user):
            raise CredentialsError(f"{self} has no key 'username': add it to the secret, or add a user to the URL")
        if login.host and not endpoint.host and not _is_host(login.host):
            raise CredentialsError(
                f"{self} has a key 'host' that is not the name or address of a single host: write the port under "
                "'port', or write a host into the URL"
            )
        # A version staged as AWSPENDING may be the one that the database knows by now.
        pending = not cached and self._stage == _CURRENT and login.version != ""
        where = (login.host, login.port, login.database)
        return Credentials(login.user or user, login.password, cached, *where, pending=pending)

    def rejected(self, credentials: Credentials) -> None:
        """Forget the refused login; its version is not trusted again without a look at a pending one."""
        # No lock here, because a fetch may hold it for as long as its timeout. At worst, a fetch is made for nothing.
        known = self._known
        if known is not None and known[0].password == credentials.password:
            self._refused = known[0].version
            self._known = None

    def forget(self) -> None:
        """Forget everything. Takes no lock: after a fork, a thread that is gone may hold it."""
        # Reentrant, because a signal handler may ask while it interrupts the thread that asks.
        self._lock = threading.RLock()
        self._known = None
        self._refused = ""
        self._identity = AwsIdentity()
        self._session: Any = None

    def hint(self, host: str, user: str) -> str:
        """What to check when the login that was just fetched was refused."""
        return (
            f"Check that {self} is the secret of the database at {host!r}, and that its latest rotation succeeded: "
            f"user {user!r} must exist there with this password, and be allowed in from this function's network"
        )

    def __repr__(self) -> str:
        return f"SecretsManager({self.secret_id!r})"

    def _login(self, deadline: float) -> tuple[_Login, bool]:
        known = self._known
        if known is not None and known[1].age(self._clock) < self._max_age:
            return known[0], True
        if known is not None:  # leave time to connect with what is known, in case nobody answers
            deadline -= (deadline - time.monotonic()) / 2
        birth = Birth(self._clock)
        try:
            answer = self._ask(self._stage, deadline)
        except CredentialsError:  # about AWS's credentials, which a restored environment has to fetch first
            if known is not None:
                return known[0], True
            raise
        if isinstance(answer, _Problem):
            if known is not None and not answer.final:
                return known[0], True
            raise answer.error
        if answer.version and answer.version == self._refused and self._stage == _CURRENT:
            pending = self._ask(_PENDING, deadline)
            # A half-written version is no login. Then report why the server refused the current one.
            if isinstance(pending, _Answer) and isinstance(_parse(pending), _Login):
                answer = pending
        self._refused = ""
        login = _parse(answer)
        if isinstance(login, str):
            raise CredentialsError(f"{self} {login}")
        self._known = login, birth
        return login, False

    def _ask(self, stage: str, deadline: float) -> _Answer | _Problem:
        """Ask for one version of the secret, again until `deadline` (monotonic seconds) as long as that may help."""
        while True:
            answer = self._ask_once(stage, deadline)
            left = deadline - time.monotonic()
            if isinstance(answer, _Answer) or not answer.passing or left < 2 * _PAUSE:
                return answer
            pause(_PAUSE)

    def _ask_once(self, stage: str, deadline: float) -> _Answer | _Problem:
        credentials = self._identity.credentials(deadline - time.monotonic())
        session = self._session = self._session or load_session()
        try:
            region = self._region or aws_environment.region() or session.get_config_variable("region")
            # Half of the time is for connecting, the other for the answer, a single packet.
            client = create_client(session, _SERVICE, region, credentials, deadline, 1 / 2) if region else None
        except Exception as error:  # noqa: BLE001 - botocore parses the user's own files and variables here
            return self._failed(stage, f"{type(error).__name__}: {error}", error)
        if client is None:
            raise ConfigError(f"the AWS region of {self} is unknown: use its ARN, or set AWS_REGION")
        try:
            with no_bodies_logged():
                answer = client.get_secret_value(SecretId=self.secret_id, VersionStage=stage)
            text, version = answer.get("SecretString"), answer.get("VersionId")
            if not isinstance(text, str) and not answer.get("SecretBinary"):
                # It was cut off, which botocore does not notice, or somebody else answered.
                return self._failed(stage, "the answer could not be read: it holds no secret", None)
            return _Answer(str(version or ""), Secret(text) if isinstance(text, str) else None)
        except Exception as error:  # noqa: BLE001 - whatever it was, it becomes one of ours
            return self._refusal(stage, region, error)
        finally:
            client.close()

    def _refusal(self, stage: str, region: str, error: Exception) -> _Problem:
        from botocore import exceptions

        if isinstance(error, exceptions.ClientError):
            code = code_of(error) or "unknown"
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            passing = status >= 500 or status == 429 or "Throttl" in code or code == "RequestLimitExceeded"
            fix = _FIXES.get(code, "try again" if passing else "see the cause").format(region=region)
            if code in _OF_KEYS:
                self._identity = AwsIdentity()  # somebody may log in again
            return self._failed(stage, f"{code}: {fix}", error, passing=passing, final=code in _FINAL)
        if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
            return self._failed(stage, f"{error}. {_UNREACHABLE.format(region=region)}", error, passing=True)
        if isinstance(error, exceptions.BotoCoreError):
            return self._failed(stage, str(error), error)
        # The SDK does not document this error. Its text may quote the answer, so only its name is shown.
        return self._failed(stage, f"{type(error).__name__}: the answer could not be read", None)

    def _failed(
        self, stage: str, text: str, error: Exception | None, *, passing: bool = False, final: bool = False
    ) -> _Problem:
        problem = CredentialsError(f"{self} (stage {stage}) could not be fetched: {text}")
        problem.__cause__ = None if error is None else bare(error)
        return _Problem(problem, passing, final)


def _region_of_arn(secret_id: str) -> str | None:
    """The region of a secret's ARN, None for a name. Raises ConfigError for what starts like an ARN but is not one."""
    if not secret_id.startswith("arn:"):
        return None
    parts = secret_id.split(":", 6)
    if (
        len(parts) < 7
        or parts[2] != "secretsmanager"
        or not is_region(parts[3])
        or parts[5] != "secret"
        or not parts[6]
    ):
        raise ConfigError(
            f"SecretsManager({secret_id!r}) is not the ARN of a secret: write it like "
            "arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-SUFFIX"
        )
    return parts[3]


def _is_host(text: str) -> bool:
    """False for a host with its port, a list or a URL: errors show the host, and a URL may hold the password."""
    if text.startswith("/"):  # a Unix socket
        return True
    return text.count(":") != 1 and not any(character in "@/,?" or not character.isprintable() for character in text)


def _parse(answer: _Answer) -> _Login | str:
    """The login in a secret's text, or what is wrong with it, without a word of the text itself."""
    if answer.body is None:
        return "is binary: store JSON text with the keys 'username' and 'password'"
    try:
        fields = json.loads(answer.body.reveal())
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return "is not a JSON object: store JSON text with the keys 'username' and 'password'"
    texts = {}
    for key in ("username", "password", "host", "dbname", "engine"):
        value = fields.get(key)
        if value is None:
            value = ""
        if not isinstance(value, str):
            return f"has a key {key!r} that is not text: make it a JSON string"
        if not is_sendable(value):
            return f"has a key {key!r} with characters that no database accepts"
        texts[key] = value
    if not texts["password"]:
        return "has no key 'password', or an empty one: store the database password under it"
    port = fields.get("port")
    if isinstance(port, str) and port.isascii() and port.isdecimal() and len(port) <= 5:
        port = int(port)
    if port in (None, ""):
        port = None
    elif isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        return "has a key 'port' that is not a port: make it a number between 1 and 65535"
    return _Login(
        version=answer.version,
        user=texts["username"],
        password=Secret(texts["password"]),
        host=texts["host"] or None,
        port=port,
        database=texts["dbname"] or None,
        engine=RDS_ENGINES.get(texts["engine"].lower(), ""),
    )
