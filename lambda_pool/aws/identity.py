"""Which AWS credentials a function acts with."""

import threading
import time
from typing import Any

from ..errors import CredentialsError
from ..secret import Secret
from ..waiting import pause, while_held
from .environment import AwsCredentials, access_keys, container_credentials_win
from .sdk import bare, load_session, no_bodies_logged

_CONTAINER_TIMEOUT = 2.0
"""Seconds for one request to the local credentials endpoint, as in botocore's ContainerMetadataFetcher."""


class _ContainerHttp:
    """Sends botocore's requests to the local credentials endpoint, within the caller's time."""

    def __init__(self) -> None:
        self.start(0.0)

    def start(self, deadline: float) -> None:
        """What follows is one look-up, until `deadline` (monotonic, seconds)."""
        self.deadline = deadline
        self._said = "did not answer"

    def send(self, request: Any) -> Any:
        import botocore.httpsession as http

        left = max(0.01, self.deadline - time.monotonic())
        session: Any = http.URLLib3Session  # the type stubs allow only whole seconds
        answer = session(timeout=min(_CONTAINER_TIMEOUT, left)).send(request)
        self._said = f"gave no credentials (status {answer.status_code})"
        return answer

    def sleep(self, seconds: float) -> None:
        if time.monotonic() + seconds >= self.deadline:
            raise CredentialsError(
                f"the credentials endpoint at AWS_CONTAINER_CREDENTIALS_FULL_URI {self._said} in time"
            )
        pause(seconds)


class AwsIdentity:
    """The environment's access keys, as Lambda provides them, else what botocore finds.

    botocore asks the container's endpoint (first of all in a restored SnapStart environment), profiles, web
    identity, SSO and instance roles. What it found is kept, and refreshes itself before it expires. A
    restored snapshot's container endpoint is asked within the caller's timeout; the others are bounded by
    botocore's own settings.
    """

    def __init__(self) -> None:
        # Reentrant, because a signal handler may ask while it interrupts the thread that asks.
        self._lock = threading.RLock()
        self._found: Any = None
        self._http = _ContainerHttp()

    def credentials(self, timeout: float) -> AwsCredentials:
        """Valid credentials, within `timeout` seconds.

        Raises ConfigError if botocore is needed but not installed, CredentialsError if there are no credentials.
        """
        keys = None if container_credentials_win() else access_keys()
        if keys is not None:
            return keys
        answer = while_held(self._lock, timeout, self._find, timeout)
        if answer is None:
            raise CredentialsError(f"another thread was still fetching AWS credentials after {timeout:.1f} s")
        found, problem = answer
        if isinstance(problem, CredentialsError):
            raise problem
        if problem is not None:
            raise CredentialsError(
                f"AWS credentials could not be loaded ({type(problem).__name__}: {problem}). Give the "
                "function an execution role; elsewhere set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_PROFILE after a fresh login"
            ) from problem
        if found is None:
            raise CredentialsError(
                "no AWS credentials were found. Give the function an execution role; elsewhere set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        return found

    def _find(self, timeout: float) -> tuple[AwsCredentials | None, BaseException | None]:
        # Returns the error instead of raising it: the frames on its way hold the credentials.
        self._http.start(time.monotonic() + timeout)
        session = load_session() if self._found is None else None
        try:
            with no_bodies_logged():
                if session is not None:
                    self._found = self._from_container() if container_credentials_win() else session.get_credentials()
                if self._found is None:
                    return None, None
                frozen = self._found.get_frozen_credentials()
                keys = frozen.access_key, frozen.secret_key
                if not all(keys) or not all(isinstance(text, str) for text in (*keys, frozen.token or "")):
                    raise ValueError("the access key, the secret key or the token is missing or not text")
                token = Secret(frozen.token) if frozen.token else None
                return AwsCredentials(frozen.access_key, Secret(frozen.secret_key), token), None
        except Exception as error:  # noqa: BLE001 - a dozen providers raise whatever they like
            self._found = None
            return None, bare(error)

    def _from_container(self) -> Any:
        from botocore.credentials import ContainerProvider
        from botocore.utils import ContainerMetadataFetcher

        fetcher: Any = ContainerMetadataFetcher(session=self._http, sleep=self._http.sleep)
        return ContainerProvider(fetcher=fetcher).load()
