"""`manage.py dbshell`: the server's own client, with the address and the login that the pool uses."""

from types import SimpleNamespace
from typing import Any

from ..engines.base import ConnectRequest
from ..invocation import Deadline
from .pools import AliasPool


class CompletedClient:
    """A mixin in front of Django's DatabaseClient."""

    connection: Any

    def runshell(self, parameters: list[str]) -> None:
        """Like Django's, with the address and the login (a token, a secret) that the pool finds."""
        wrapper = self.connection
        self.connection = SimpleNamespace(settings_dict=_completed(wrapper.settings_dict, _request(wrapper.home())))
        try:
            super().runshell(parameters)  # type: ignore[misc]
        finally:
            self.connection = wrapper


def _request(home: AliasPool) -> ConnectRequest:
    """What the pool would pass to the driver. Raises CredentialsError, EndpointError or ConfigError."""
    config, connector = home.core.config, home.core.connector
    deadline = Deadline(config.timeout)
    endpoint = connector.resolve(home.role, deadline)
    credentials = connector.login(endpoint, deadline)
    return connector.request(endpoint, credentials, deadline)


def _completed(settings: dict[str, Any], request: ConnectRequest) -> dict[str, Any]:
    password, tls = request.credentials.password, request.tls
    files = {"ca": tls.ca_file, "cert": tls.cert_file, "key": tls.key_file}
    return {
        **settings,
        "HOST": request.host,
        "PORT": str(request.port),
        "USER": request.credentials.user or "",
        "PASSWORD": "" if password is None else password.reveal(),
        "NAME": request.database,
        "OPTIONS": {
            **settings["OPTIONS"],
            "sslmode": tls.mode,
            **{f"ssl{'rootcert' if name == 'ca' else name}": path for name, path in files.items() if path},
            "ssl": {name: path for name, path in files.items() if path},
        },
    }
