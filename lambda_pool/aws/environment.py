"""What AWS puts into a function's environment: its credentials and region.

They are read each time: a restored snapshot and a rotation change them under a running process, so a copy made at
import would go stale. The names are listed at
https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html.
"""

import os

from ..errors import CredentialsError
from ..record import Record
from ..secret import Secret


class AwsCredentials(Record):
    """What signs a request. Comparable, so that a change of credentials is noticed."""

    access_key: str
    secret_key: Secret
    session_token: Secret | None

    def __repr__(self) -> str:
        return "AwsCredentials(***)"


def access_keys() -> AwsCredentials | None:
    """The access key, secret key and session token of the environment. None without an access key.

    Raises CredentialsError if there is an access key but no secret one.
    """
    access_key = os.environ.get("AWS_ACCESS_KEY_ID")
    if not access_key:
        return None
    if not os.environ.get("AWS_SECRET_ACCESS_KEY"):
        raise CredentialsError(
            "AWS_ACCESS_KEY_ID is set but AWS_SECRET_ACCESS_KEY is not: set both, or neither to use a profile or a role"
        )
    secret_key = Secret(os.environ["AWS_SECRET_ACCESS_KEY"])
    # AWS_SECURITY_TOKEN is the old name that SDKs still read. The current name goes first: if both are set and
    # differ, the person who rotated the keys knew of the current one.
    token = os.environ.get("AWS_SESSION_TOKEN") or os.environ.get("AWS_SECURITY_TOKEN")
    return AwsCredentials(access_key, secret_key, Secret(token) if token else None)


def container_credentials_win() -> bool:
    """True in a restored SnapStart environment: its access keys, if any, are as old as the snapshot.

    https://docs.aws.amazon.com/lambda/latest/dg/snapstart-activate.html: SnapStart uses container
    credentials.
    """
    return os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start" and bool(
        os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    )


def region() -> str | None:
    """The function's own region, or what the user chose for the SDKs."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None
