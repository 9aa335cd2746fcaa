"""The one door to botocore: opened late, because importing it costs 100 ms of CPU time.

It is not boto3, which costs 12 ms more and adds nothing that is needed here.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from ..errors import ConfigError
from ..secret import private
from .environment import AwsCredentials

_SHORTEST = 0.01  # seconds: botocore refuses 0
_quiet = threading.local()


def load_session() -> Any:
    """A new botocore session. Raises ConfigError where botocore is not installed."""
    try:
        import botocore.session
    except ImportError as error:
        raise ConfigError(
            "botocore is not installed; it is needed for Secrets Manager, and for AWS credentials other than access "
            "keys in the environment: pip install 'lambda-pool[aws]'"
        ) from error
    return botocore.session.get_session()


@private
def create_client(
    session: Any, service: str, region: str, keys: AwsCredentials, deadline: float, part: float = 1.0
) -> Any:
    """A client of one service, for calls that end by `deadline` (monotonic, seconds).

    `part` of the time until then is for connecting, to all addresses together, and as much for each wait.
    """
    from botocore.config import Config

    def make(connect_timeout: float, read_timeout: float) -> Any:
        return session.create_client(
            service,
            region_name=region,
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key.reveal(),
            aws_session_token=keys.session_token.reveal() if keys.session_token else None,
            config=Config(
                connect_timeout=connect_timeout,
                read_timeout=read_timeout,
                # botocore's own retries know no deadline.
                retries={"total_max_attempts": 1, "mode": "standard"},
            ),
        )

    addresses = count_addresses(make(1.0, 1.0))  # a second client on a session costs only 2 ms
    share = max(_SHORTEST, (deadline - monotonic()) * part)
    return make(max(_SHORTEST, share / addresses), share)


def count_addresses(client: Any) -> int:
    """How many addresses the client's host has, each of which botocore tries for its connect_timeout."""
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(client.meta.endpoint_url)
    try:
        return len(socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)) or 1
    except (OSError, UnicodeError):
        # An HTTP proxy may know the name. If none does, botocore's own error says more.
        return 1


def _not_quiet(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG or not getattr(_quiet, "active", False)


@contextmanager
def no_bodies_logged() -> Iterator[None]:
    """Inside this block, botocore logs no DEBUG lines from this thread.

    Those lines quote requests and answers in full: secrets, session tokens, credentials. A filter stays on
    botocore's loggers afterwards; it lets everything through outside of this block.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.startswith("botocore.") and isinstance(logger, logging.Logger):
            logger.addFilter(_not_quiet)
    before = getattr(_quiet, "active", False)  # True if a signal handler interrupted another such block
    _quiet.active = True
    try:
        yield
    finally:
        _quiet.active = before


def code_of(error: BaseException) -> str:
    """The error code of AWS's answer; empty if no answer came."""
    answer = getattr(error, "response", None)
    fault = answer.get("Error") if isinstance(answer, dict) else None
    code = fault.get("Code") if isinstance(fault, dict) else None
    return code if isinstance(code, str) else ""


# Answers to a wrong signature. Their text quotes the request that should have been signed, with the session token.
_QUOTING = frozenset(
    {"IncompleteSignature", "IncompleteSignatureException", "InvalidSignatureException", "SignatureDoesNotMatch"}
)


def bare(error: BaseException) -> BaseException:
    """The error without anything that would show a secret: its frames and the errors behind it hold whole answers."""
    error.__cause__ = error.__context__ = None
    code = code_of(error)
    if code in _QUOTING:
        said = error.response["Error"]  # type: ignore[attr-defined]
        said["Message"] = f"{code} (AWS's text is not shown: it quotes the request)"
        error.args = (said["Message"],)
    return error.with_traceback(None)
