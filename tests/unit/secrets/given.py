"""What the scenes are given by the test that starts them, out of the sight of whatever looks at variables."""

import json
import sys
from typing import Any
from urllib.parse import quote, urlencode

from lambda_pool.secret import Secret


class Given:
    """Facts of a run, and the URLs made of them: a scene writes `GIVEN.url()` where a user's code has a secret."""

    def __init__(self) -> None:
        self._facts = Secret("{}")

    def read(self) -> None:
        """Take the facts from standard input: arguments and the environment would show them."""
        self._facts = Secret(sys.stdin.read())

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._facts.reveal())[name]

    @property
    def postgres(self) -> bool:
        """Which of the two servers it is."""
        return bool(self["scheme"] == "postgresql")

    def secret(self, name: str) -> str:
        """One of the canaries."""
        return str(self["canaries"][name])

    def url(self, *, user: str = "canary", secret: str | None = "password", database: str = "", **query: str) -> str:
        """A URL of the server, with one of the canaries as the password."""
        login = quote(user, safe="") + (f":{quote(self.secret(secret), safe='')}" if secret else "")
        port = query.pop("port", self["port"])
        asked = {"sslmode": "verify-full", "sslrootcert": self["ca"], **query}
        return f"{self['scheme']}://{login}@localhost:{port}/{database or self['database']}?{urlencode(asked)}"

    def parts(self) -> dict[str, Any]:
        """The same server as keywords of Pool, without the password."""
        return {
            "engine": self["scheme"],
            "host": "localhost",
            "port": self["port"],
            "user": "canary",
            "database": self["database"],
            "sslmode": "verify-full",
            "sslrootcert": self["ca"],
        }


GIVEN = Given()
