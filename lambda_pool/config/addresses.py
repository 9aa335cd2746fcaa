"""Hosts and ports as people write them: one, or several joined by commas."""

from ..errors import ConfigError
from .values import bad, decoded

MAX_PORT = 65535
HOST = "a host name of letters, digits, '-' and '_' with dots in between, or an IP address"
ESCAPES = "in a user or a password write : / ? # @ % as %3A %2F %3F %23 %40 %25"

Address = tuple[str, int | None]
"""A host (a name, an IP address, or a Unix socket's path) and its port, or None for the default port."""


def split_addresses(text: str) -> list[Address]:
    """Take `host:port` apart, or several of them that commas join. Raises ConfigError."""
    if "," not in text:
        return [_split(text)]
    found = [_split(each) for each in text.split(",")]
    if not all(host for host, _ in found):
        raise ConfigError(
            "the URL's list of hosts is not valid: a host is missing at a comma; write it like "
            "one.example:5432,two.example:5432"
        )
    return found


def _split(address: str) -> Address:
    if address.startswith("/"):  # a Unix socket's directory, whose name may hold a colon
        return checked_host("the URL's host", address), None
    if address.startswith("["):
        host, bracket, tail = address[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise ConfigError(f"the URL's host [{host} is not valid: put an IPv6 address in brackets, as in [::1]:5432")
        port = tail[1:]
    else:
        host, _, port = address.partition(":")
        if ":" in port:
            raise ConfigError(f"the URL's host is not valid: put an IPv6 address in brackets ({ESCAPES})")
    host = decoded("host", host)
    if not host.startswith("/") and not address.startswith("[") and ("@" in host[1:] or ":" in host):
        # The host is not shown: it may hold a whole login that was escaped along with it, with the password.
        raise ConfigError("the URL's host is not valid: write '@' and ':' around it as they are, not as %40 and %3A")
    if "," in host:
        raise ConfigError("the URL's host is not valid: write the comma between two hosts as it is, not as %2C")
    checked_host("the URL's host", host)
    if not port:
        return host, None
    # A port that is not a number is not shown: it may be half a password that was not escaped.
    if not (port.isascii() and port.isdigit()):
        raise ConfigError(f"the URL's port is not valid: it must be a whole number from 1 to 65535 ({ESCAPES})")
    if len(port) > 5 or not 1 <= int(port) <= MAX_PORT:
        raise ConfigError(f"the URL's port {port[:20]} is not valid: it must be a whole number from 1 to 65535")
    return host, int(port)


def checked_host(name: str, host: str) -> str:
    """Return a host as it is. Raises ConfigError for a text that cannot be one."""
    if not may_be_host(host):
        raise bad(name, host, HOST)
    return host


def may_be_host(host: str) -> bool:
    """False for a text that is no host's name, no IP address and no Unix socket, such as a quoted name or an ARN."""
    if host[:1] in {"/", "@"}:
        return host.isprintable()
    if ":" in host:
        return _is_address(host)
    labels = host.removesuffix(".").split(".")
    return not host or all(label and all(map(_may_be_in_a_name, label)) for label in labels)


def _may_be_in_a_name(each: str) -> bool:
    # Not only letters and digits: vowels in Hindi or Thai are marks.
    return each.isalnum() or each in "-_" or f"a{each}".isidentifier()


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def address_of(text: str) -> str:
    """Return a hostaddr, which may be empty, as it is. Raises ConfigError if it is not an IP address."""
    if text and not _is_address(text):
        raise bad("hostaddr", text, "an IP address; write a name as the URL's host")
    return text
