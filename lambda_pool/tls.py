"""Which encryption and which trust store for which host."""

from dataclasses import dataclass

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""libpq's `sslmode` values, weakest first: https://www.postgresql.org/docs/current/libpq-ssl.html"""


@dataclass(frozen=True, slots=True)
class Tls:
    """How to encrypt one connection: `mode` as libpq's sslmode, `ca_file` the trusted roots (None: the driver's default)."""

    mode: str
    ca_file: str | None = None

    @property
    def required(self) -> bool:
        """True if an unencrypted connection must be refused."""
        return MODES.index(self.mode) >= MODES.index("require")

    @property
    def verifies(self) -> bool:
        """True if the server's certificate is checked against trusted roots."""
        return self.mode in {"verify-ca", "verify-full"}


def is_local(host: str) -> bool:
    """True for a Unix socket (empty or a path) and for loopback names and addresses."""
    return not host or host.startswith(("/", "@", "127.")) or host in {"localhost", "::1"}


def choose(host: str, mode: str | None, root_cert: str | None, *, proxy: bool, required: bool) -> Tls:
    """The encryption for one connect.

    In: the host, the user's sslmode and sslrootcert (None: not given), whether an RDS Proxy stands there, and whether
    the credentials or the endpoint forbid plain text. A user's own mode and CA win; without them every host that is
    neither loopback nor a Unix socket is verified in full.
    """
    if mode is None:
        mode = "verify-full" if not is_local(host) else "require" if required else "prefer"
    return Tls(mode, root_cert)
