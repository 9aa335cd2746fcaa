"""A secret in a Secrets Manager on loopback, and the rotation of a user's password that it follows."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from tests.on_lambda.databases import PASSWORD
from tests.support.moto import moto_server
from tests.unit.auth.conftest import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN

from .ground import Ground


class Vault:
    """Makes secrets and changes them."""

    def __init__(self, url: str) -> None:
        import boto3

        self.env = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_SESSION_TOKEN": SESSION_TOKEN,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._client: Any = boto3.client(
            "secretsmanager",
            region_name="us-east-1",
            endpoint_url=url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


class Rotating:
    """One user's secret. The database learns of a new password first, and the secret later, as in a rotation."""

    def __init__(self, vault: Vault, ground: Ground, user: str, port: int) -> None:
        # Two runs in one process share moto's memory.
        self.name = f"{user}-{uuid4()}"
        self._user = user
        self._vault = vault
        self._ground = ground
        self._port = port
        self._turn = 0
        self._password = PASSWORD
        self._vault._client.create_secret(Name=self.name, SecretString=self._text())

    def _text(self) -> str:
        return json.dumps({"username": self._user, "password": self._password, "host": "localhost", "port": self._port})

    def change_password(self) -> None:
        """In the database."""
        self._turn += 1
        self._password = f"{PASSWORD}-{self._turn}"
        self._ground.set_password(self._user, self._password)

    def store(self) -> None:
        """In the secret."""
        self._vault._client.put_secret_value(SecretId=self.name, SecretString=self._text())


@contextmanager
def open_vault() -> Iterator[Vault]:
    """A Secrets Manager that runs in this process."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    with moto_server() as url:
        vault = Vault(url)
        try:
            yield vault
        finally:
            vault.close()
