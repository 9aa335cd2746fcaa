"""Read-only calls to the RDS API, bounded in time, with errors that say what to do.

botocore is loaded at the first call. From process start to a client, CPU time on a 2-core machine: boto3 199 ms,
botocore 163 ms; each further client of the same session 3 ms. A host name in the URL costs none of it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import waiting
from ..aws import environment as aws_environment
from ..aws.identity import AwsIdentity
from ..aws.sdk import bare, code_of, create_client, load_session, no_bodies_logged
from ..backoff import backoff
from ..errors import ConfigError, CredentialsError, EndpointError
from ..secret import Forgetful, private

_MIN_TIMEOUT = 0.1
"""Seconds. With less time left, no call is begun: a TLS handshake and an answer take longer."""
_TOO_LATE = "there was no time left to ask the RDS API: raise the option timeout"
_PAGES = 100
"""Most pages of one listing. With 100 entries on each (the API's default), that is beyond every quota of RDS."""
_ACTIONS = {
    "describe_db_proxies": "rds:DescribeDBProxies",
    "describe_db_proxy_endpoints": "rds:DescribeDBProxyEndpoints",
    "describe_db_clusters": "rds:DescribeDBClusters",
}
"""The operations that are called, and the IAM actions that allow them."""
# https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/CommonErrors.html
_THROTTLED = frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded"})
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation"})
_BAD_KEYS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)


class NotFoundError(Exception):
    """The API answered that there is nothing of that name."""


class NoAnswerError(EndpointError):
    """The API gave no answer: out of reach, throttled or not allowed. What it said before may well still be true."""


class RdsApi(Forgetful):
    """The RDS API of one region (None: the function's own). Used by one thread at a time."""

    _fetched = frozenset({"_session", "_identity"})

    def __init__(self, region: str | None) -> None:
        self._region = region
        self._session: Any = None
        self._identity = AwsIdentity()

    def forget(self) -> None:
        """Forget the session and the credentials."""
        self._session = None
        self._identity = AwsIdentity()

    @contextmanager
    def calls(self, timeout: float) -> Iterator["Calls"]:
        """A context for calls that together take at most `timeout` seconds from now.

        Raises NoAnswerError without credentials, a region or time, ConfigError without botocore.
        """
        deadline = time.monotonic() + timeout
        try:
            client = self._client(deadline)
        except (ConfigError, NoAnswerError):
            raise
        except CredentialsError as error:
            raise NoAnswerError(f"the RDS API could not be asked: {error}") from error
        except Exception as error:  # noqa: BLE001 - botocore parses the user's own files and variables here
            raise NoAnswerError(f"the RDS API could not be asked: {type(error).__name__}: {error}") from bare(error)
        calls = Calls(client, deadline)
        try:
            yield calls
        finally:
            # No idle connection is left to die in a frozen environment.
            client.close()
            if calls.keys_refused:
                self._identity = AwsIdentity()  # somebody may log in again

    def _client(self, deadline: float) -> Any:
        try:
            session = self._session = self._session or load_session()
        except ConfigError as error:
            raise ConfigError(
                "RdsProxy and AuroraCluster ask the RDS API through botocore, which is not installed: pip install "
                "'lambda-pool[aws]', or write the host name into the URL instead"
            ) from error
        keys = self._identity.credentials(max(_MIN_TIMEOUT, deadline - time.monotonic()))
        region = self._region or aws_environment.region() or session.get_config_variable("region")
        if not region:
            raise NoAnswerError("the AWS region is not known: give region=, or set AWS_REGION")
        client = create_client(session, "rds", region, keys, deadline, 1 / 4)
        if deadline - time.monotonic() < _MIN_TIMEOUT:
            raise NoAnswerError(_TOO_LATE)
        return client


class Calls:
    """Calls within one deadline (monotonic seconds)."""

    def __init__(self, client: Any, deadline: float) -> None:
        self._client = client
        self._deadline = deadline
        # What one call may take, as RdsApi._client sets it. No call is begun with less time left.
        self._longest = (deadline - time.monotonic()) / 2
        self.keys_refused: bool = False

    @property
    def region(self) -> str:
        """The region that is asked."""
        return str(self._client.meta.region_name)

    @private
    def list(self, operation: str, key: str, **parameters: str) -> list[Any]:
        """Every entry under `key`, from all pages. Raises NotFoundError and NoAnswerError."""
        entries: list[Any] = []
        for _ in range(_PAGES):
            answer = self._call(operation, parameters)
            found = answer.get(key) if isinstance(answer, dict) else None
            if not isinstance(found, list):
                raise NoAnswerError(f"the answer to {_ACTIONS[operation]} holds no {key}")
            entries += found
            marker = answer.get("Marker")
            if not isinstance(marker, str) or not marker:
                return entries
            parameters["Marker"] = marker
        raise NoAnswerError(f"the answer to {_ACTIONS[operation]} has no end after {_PAGES} pages")

    def _call(self, operation: str, parameters: dict[str, str]) -> Any:
        attempt = 1
        pause = 0.0
        answer: Any = None
        while time.monotonic() + pause + self._longest <= self._deadline:
            waiting.pause(pause)
            answer = self._attempt(operation, parameters)
            if not isinstance(answer, Exception):
                return answer
            if code_of(answer).endswith("NotFoundFault"):
                raise NotFoundError from bare(answer)
            if not _passing(answer):
                break
            attempt += 1  # first, because AWS throttles for longer than a database refuses
            pause = backoff(attempt)
        if answer is None:
            raise NoAnswerError(_TOO_LATE)
        raise self._explain(operation, answer)

    def _attempt(self, operation: str, parameters: dict[str, str]) -> Any:
        # Returns the error instead of raising it: the frames on its way hold the credentials.
        try:
            with no_bodies_logged():
                return getattr(self._client, operation)(**parameters)
        except Exception as error:  # noqa: BLE001 - botocore's errors have no common root
            return error

    def _explain(self, operation: str, error: Exception) -> NoAnswerError:
        action = _ACTIONS[operation]
        code = code_of(error)
        said = " ".join(str(error).split())[:500]
        instead = "or write the host name into the URL instead"
        cause: BaseException | None = bare(error)
        if code in _DENIED:
            text = f"the function's role may not call {action}: allow it ({said}), {instead}"
        elif code in _BAD_KEYS:
            self.keys_refused = True
            text = f"the RDS API refused the AWS credentials ({code}): check them, and this machine's clock"
            # AWS's text for a wrong signature quotes the session token.
            cause = None
        elif code in _THROTTLED:
            text = f"the RDS API throttles {action}: too many environments ask at once; try again, {instead}"
        elif code:
            text = f"the RDS API answered {action} with {code}: {said}"
        elif type(error).__module__.startswith("botocore.exceptions"):
            text = (
                f"the RDS API in {self.region} gave no answer to {action} ({type(error).__name__}: {said}). In a VPC "
                f"without a NAT gateway, create the interface endpoint com.amazonaws.{self.region}.rds, with private "
                f"DNS and a security group that lets the function in on port 443, {instead}"
            )
        else:
            text = f"the RDS API's answer to {action} could not be read ({type(error).__name__})"
        made = NoAnswerError(text)
        made.__cause__ = cause
        made.__suppress_context__ = True
        return made


def _passing(error: Exception) -> bool:
    """True for an error that may be gone at another try soon: throttling, a fault at AWS, a broken connection."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        about = answer.get("ResponseMetadata")
        status = about.get("HTTPStatusCode") if isinstance(about, dict) else None
        return code_of(error) in _THROTTLED or (isinstance(status, int) and status >= 500)
    return type(error).__name__ in {"ConnectionClosedError", "EndpointConnectionError"}
