"""Which encryption and which trust store for which host.

`sslrootcert` takes, besides a path: `rds` (the certificate authorities of RDS in all regions), `rds-REGION` (those
of one region), `rds-proxy` (the public ones that RDS Proxy's certificates come from) and `system` (the operating
system's). All but the last are shipped with the package.
"""

import os
from typing import TYPE_CHECKING

from . import certs
from .aws.hosts import Kind, RdsHost, recognise
from .errors import ConfigError
from .record import Record
from .secret import Secret

if TYPE_CHECKING:
    import ssl

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""libpq's `sslmode` values, weakest first: https://www.postgresql.org/docs/current/libpq-ssl.html"""

_PUBLIC = frozenset({"system", "rds-proxy"})
"""Stores of public authorities, which vouch for anybody: worth nothing unless the host name is checked."""

# Where distributions keep their authorities in one file, Lambda's first. This avoids `import ssl`, whose
# get_default_verify_paths() knows less and costs a cold start 13 ms.
_SYSTEM_FILES = (
    "/etc/pki/tls/certs/ca-bundle.crt",  # Amazon Linux, Fedora
    "/etc/ssl/certs/ca-certificates.crt",  # Debian
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS
)

_BUNDLES = {
    "aws": "https://truststore.pki.rds.amazonaws.com/{region}/{region}-bundle.pem",
    "aws-us-gov": "https://truststore.pki.us-gov-west-1.rds.amazonaws.com/{region}/{region}-bundle.pem",
    "aws-cn": "https://rds-truststore.s3.cn-north-1.amazonaws.com.cn/{region}/{region}-bundle.pem",
}
"""Where AWS publishes a region's authorities.

https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.SSL.html and its edition for China.
"""


class Tls(Record):
    """How to encrypt one connection: `mode` is libpq's sslmode, `ca_file` the trusted roots (None: the driver's own).

    `cert_file` and `key_file`: the client's own certificate and its private key, if it has one.
    """

    mode: str
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: Secret | None = None

    @property
    def required(self) -> bool:
        """True if an unencrypted connection must be refused."""
        return not weaker(self.mode, "require")

    @property
    def verifies(self) -> bool:
        """True if the server's certificate is checked against trusted roots."""
        return self.mode in {"verify-ca", "verify-full"}


def weaker(mode: str, other: str) -> bool:
    """True if the first sslmode protects less than the second."""
    return MODES.index(mode) < MODES.index(other)


def is_local(host: str, hostaddr: str = "") -> bool:
    """True for a Unix socket (empty or a path) and for loopback names and addresses.

    `hostaddr`: the address that is connected to, whatever the name says. A name is not local merely because it resolves
    to this machine.
    """
    if hostaddr:
        return is_local(host) and is_local(hostaddr)
    if _is_socket(host) or host.lower().removesuffix(".") in {"localhost", "::1"}:
        return True
    # Check more than the beginning: 127.example.com may be anybody's.
    return host.startswith("127.") and host.replace(".", "").isdigit()


def _is_socket(host: str) -> bool:
    # With a comma, libpq takes it for a list of hosts, of which only the first is a socket.
    return not host or (host.startswith(("/", "@")) and "," not in host)


def choose(
    host: str,
    mode: str | None,
    root_cert: str | None,
    *,
    proxy: bool,
    required: bool,
    hostaddr: str = "",
    default_mode: str | None = None,
    default_root_cert: str | None = None,
) -> Tls:
    """The encryption for one connection: this is the one place that decides it.

    In: where it leads (the host's name, and the address if the name is not looked up), the user's sslmode and
    sslrootcert (None: not given), whether it is an RDS Proxy, whether anything forbids plain text, and what the
    driver's own environment says. A user's own mode and CA win. Without them, every host that is neither loopback nor a
    Unix socket is verified in full. The environment's mode counts if it is the stricter one, and its CA if a
    certificate is verified. As in libpq, `require` with a CA means `verify-ca`.

    Raises ConfigError for an sslrootcert that names authorities which are not shipped, for public authorities with
    a mode that does not check the host name, and if the operating system has no trust store.
    """
    if mode is None:
        if (_is_socket(host) and not hostaddr) or (root_cert is None and is_local(host, hostaddr)):
            mode = "require" if required else "prefer"
        else:
            mode = "verify-full"
        if default_mode in MODES and weaker(mode, default_mode):
            mode = default_mode
    if root_cert is None:
        if mode not in {"verify-ca", "verify-full"}:
            return Tls(mode)
        root_cert = default_root_cert
    name, file = _store(host or hostaddr, proxy=proxy) if root_cert is None else _named(root_cert)
    if name in _PUBLIC and mode != "verify-full":
        raise ConfigError(
            f"sslmode={mode} with sslrootcert={name} would accept any certificate that a public authority ever "
            "issued: write sslmode=verify-full, or give sslrootcert=/path/to/the/server's/authorities.pem"
        )
    return Tls("verify-ca" if mode == "require" else mode, file)


def with_certificate(tls: Tls, cert_file: str, key_file: str, key_password: Secret | None) -> Tls:
    """The same encryption with a client's certificate. Raises ConfigError for a file that is not there.

    The files are looked for at each connect, because a function may write them to /tmp first. It is done here, because
    libpq would do without a certificate that it does not find.
    """
    for name, file in (("sslcert", cert_file), ("sslkey", key_file)):
        if not os.path.isfile(file):  # noqa: PTH113 - importing pathlib takes 4 ms of a cold start
            raise ConfigError(f"{name}={file!r} is not valid: there is no such file inside the function")
    return tls.replace(cert_file=cert_file, key_file=key_file, key_password=key_password)


def _store(host: str, *, proxy: bool) -> tuple[str, str]:
    """The trust store that fits the host's name: what sslrootcert calls it, and its file."""
    rds = recognise(host)
    if rds is None:
        return "system", _system(host)
    if rds.proxy or (proxy and rds.kind is Kind.OTHER):
        return "rds-proxy", _shipped("proxy")
    # "all" is for a region that opened after this release, or a global database, whose writer may be anywhere.
    return "rds", (rds.region and certs.path(rds.region)) or _shipped("all")


def _named(root_cert: str) -> tuple[str, str]:
    """The trust store that an sslrootcert means: its name (empty for a file of the user's) and its file."""
    if root_cert == "system":
        return "system", _system("")
    if root_cert == "rds":
        return "rds", _shipped("all")
    region = root_cert.removeprefix("rds-")
    # This must not take rds-combined-ca-bundle.pem, a file that many people have, for a region.
    if region == root_cert or not region.replace("-", "").isalnum() or not region.isascii():
        return "", root_cert
    file = certs.path(region)
    if file is None:
        raise ConfigError(
            f"sslrootcert={root_cert}: no certificate authorities are shipped for a region {region!r}. Write "
            "rds-REGION as in rds-eu-central-1, or download that region's bundle "
            f"({_bundle_url(region)}) into the function's package and give its path"
        )
    return root_cert, file


def _shipped(name: str) -> str:
    file = certs.path(name)
    if file is None:
        raise ConfigError(f"lambda_pool/certs/{name}.pem is missing: install lambda-pool again")
    return file


def _system(host: str) -> str:
    """One file with the operating system's authorities."""
    # A path, because libpq's own "system" looks in the folder of the machine that built psycopg's binary wheel.
    # SSL_CERT_FILE is the variable that OpenSSL itself reads.
    chosen = os.environ.get("SSL_CERT_FILE")
    if chosen:
        return chosen
    for file in _SYSTEM_FILES:
        if os.path.isfile(file):  # noqa: PTH113 - importing pathlib takes 4 ms of a cold start
            return file
    raise ConfigError(
        f"no trust store was found to verify {host or 'the server'} with (looked for {', '.join(_SYSTEM_FILES)}): "
        "give the server's certificate authorities as sslrootcert=/path/to/file.pem"
    )


def context(tls: Tls, host: str) -> "ssl.SSLContext":
    """An SSLContext that does for `host` what libpq does for the same mode, roots and client's certificate.

    In: an encrypting mode (not `disable`). The context checks nothing for `require` and weaker, the chain for
    `verify-ca`, chain and host name for `verify-full`. TLS 1.2 or later. Raises ConfigError for a file that is
    missing or holds no certificate or key.
    """
    import ssl

    # Not create_default_context(): since Python 3.13 that asks for RFC 5280 to the letter (VERIFY_X509_STRICT),
    # which certificates of private authorities often miss, and which libpq does not ask for.
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not tls.verifies:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    else:
        made.check_hostname = tls.mode == "verify-full"
        _trust(made, tls.ca_file, host)
    if tls.cert_file is not None:
        password = tls.key_password
        try:
            # Without a password, give an empty one: otherwise OpenSSL would ask for it on the terminal.
            made.load_cert_chain(tls.cert_file, tls.key_file, lambda: "" if password is None else password.reveal())
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"sslcert={tls.cert_file!r} and sslkey={tls.key_file!r} cannot be used: {error}. They must be a "
                "certificate and its own private key (PEM); sslpassword is the key's password, if it has one"
            ) from error
    return made


def _trust(made: "ssl.SSLContext", ca_file: str | None, host: str) -> None:
    import ssl

    if ca_file is None:
        made.load_default_certs()
        return
    try:
        made.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"sslrootcert={ca_file!r} cannot be used to verify {host}: {error}. It must be a readable file of "
            "certificates (PEM)"
        ) from error


def advice(error: str, host: str, tls: Tls) -> str:
    """What to do about an encryption error: a few sentences to put behind its text.

    In: the text of the driver's error, the host and the encryption that was asked for.
    """
    text = error.lower()
    rds = recognise(host)
    own = advice_on_own_certificate(text)
    if own:
        return own
    if "support ssl" in text or "support it" in text:
        switch = " (rds.force_ssl, require_secure_transport)" if rds else ""
        return (
            f"The server does not support TLS. Switch it on there{switch}. Write sslmode=disable only if the network "
            "itself is trusted."
        )
    if "expired" in text or "not yet valid" in text:
        return (
            "The server's certificate is out of date, or this machine's clock is wrong. "
            f"{'Rotate the certificate of the database instance.' if rds else 'Renew it on the server.'}"
        )
    if "match" in text:
        return (
            "The certificate is for another name: connect with that name. For a name of your own in front of RDS, "
            "write RDS's own host name, or sslmode=verify-ca with sslrootcert=rds-REGION."
        )
    if "does not exist" in text:
        return "Give sslrootcert the path that the file has inside the function, or leave sslrootcert out."
    # libpq gives no reason.
    maybe = "" if "certificate verify failed:" in text else " Or it is out of date, or this machine's clock is wrong."
    return _about_roots(host, rds, tls) + maybe


_OWN_CERTIFICATE = ("private key", "could not read certificate file", "alert unknown ca", "alert bad certificate")


def advice_on_own_certificate(text: str) -> str:
    """What to do about the client's own certificate, given an error's lower-case text; empty if it is another error."""
    if "client certificate" in text or "certificate required" in text:
        return (
            "The server wants the client's own certificate: write sslcert=/path/to/certificate.pem and "
            "sslkey=/path/to/key.pem into the URL's query."
        )
    if "group or world access" in text:
        return "libpq accepts a private key only if nobody else may read its file: copy it to /tmp with mode 0600."
    if any(words in text for words in _OWN_CERTIFICATE):
        return (
            "The client's own certificate cannot be used: sslcert and sslkey must be a pair (PEM) that the server's "
            "authority signed, and sslpassword the key's password, if it has one."
        )
    return ""


def _about_roots(host: str, rds: RdsHost | None, tls: Tls) -> str:
    checked = f"None of the authorities in {tls.ca_file or 'the default store'} signed the server's certificate. "
    if rds is None:
        return checked + (
            f"If {host} is a name of your own in front of RDS, write RDS's own host name, or sslmode=verify-ca with "
            "sslrootcert=rds-REGION. Otherwise set sslrootcert to a file (PEM) with the authority that signed it."
        )
    if tls.ca_file not in {certs.path("all"), _store(host, proxy=False)[1]}:
        return checked + "Leave sslrootcert out, to use the ones that are shipped for RDS."
    if rds.proxy or not rds.region:
        return checked + "RDS may have newer ones than this release: install a newer lambda-pool."
    return checked + (
        f"RDS may have newer ones in {rds.region} than this release: install a newer lambda-pool, or put "
        f"{_bundle_url(rds.region)} into the function's package and set sslrootcert to its path."
    )


def _bundle_url(region: str) -> str:
    partition = "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
    return _BUNDLES[partition].format(region=region)
