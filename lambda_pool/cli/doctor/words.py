"""The doctor's words for what it finds: plain ones, where a `repr` would be for programmers only."""

from __future__ import annotations

import re
import ssl

from lambda_pool.auth.base import Auth, UrlAuth
from lambda_pool.auth.iam import IamToken
from lambda_pool.auth.secrets import SecretsManager
from lambda_pool.connector import one_line
from lambda_pool.endpoints.base import EndpointSource, FixedEndpoint
from lambda_pool.endpoints.rds import AuroraCluster, RdsProxy


def of_auth(auth: Auth) -> str:
    """Where the login comes from."""
    if isinstance(auth, UrlAuth):
        return "the configured user and password"
    if isinstance(auth, IamToken):
        return "IAM token"
    if isinstance(auth, SecretsManager):
        return f"the secret {auth.secret_id}"
    return _own(auth)


def of_endpoint(source: EndpointSource) -> str:
    """Where the host comes from."""
    if isinstance(source, FixedEndpoint):
        return "the first of the configured hosts that answers" if source.several else "the configured host"
    if isinstance(source, RdsProxy):
        return f"the RDS Proxy {source.name}"
    if isinstance(source, AuroraCluster):
        return f"the Aurora cluster {source.name}"
    return _own(source)


def of_error(error: BaseException) -> str:
    """An error's text on one line, uncut, without Python's own marks."""
    if isinstance(error, UnicodeError):
        return "it is not a host name: its parts between dots must have 1 to 63 characters"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):  # its text begins with a code in brackets and ends with a line of Python's own
        return re.sub(r"^\[[\w: ]+\] *| *\(_ssl\.c:\d+\)$", "", one_line(error, most=None))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    match error.args:
        case (int() as number, str() as text) if text:  # PyMySQL's
            return f"{' '.join(text.split())} (error {number})"
    return one_line(error, most=None)


def of_bytes(data: bytes) -> str:
    """What a stranger sent, as far as it can be read."""
    text = data.decode("latin-1")
    return text if text.isprintable() and text.isascii() else f"the bytes {data.hex(' ')}"


def _own(thing: object) -> str:
    """The user's own objects are called by the names of their types."""
    return f"your own {type(thing).__name__}"
