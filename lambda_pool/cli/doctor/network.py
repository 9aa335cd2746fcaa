"""The way to the server without a driver: its name, its address, the first words of its protocol, and TLS."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Sequence

from lambda_pool.cli.doctor.words import of_bytes, of_error
from lambda_pool.waiting import within

Address = tuple[int, str, int]
"""Family, address and port; for a Unix socket its path, and 0."""

# https://www.postgresql.org/docs/current/protocol-message-formats.html, SSLRequest
_POSTGRES_SSL = struct.pack("!ii", 8, 80877103)
# https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_ssl_request.html
_CLIENT_PROTOCOL_41, _CLIENT_SSL, _CLIENT_SECURE_CONNECTION = 0x200, 0x800, 0x8000
_UTF8MB4 = 45
_MYSQL_SSL = struct.pack("<IIB23x", _CLIENT_PROTOCOL_41 | _CLIENT_SSL | _CLIENT_SECURE_CONNECTION, 1 << 24, _UTF8MB4)


class NoTlsError(Exception):
    """The server answered that it does not support TLS."""


class RefusedError(Exception):
    """The server answered with an error before anything was asked of it; the text is its own."""


class StrangerError(Exception):
    """What answers does not speak the database's protocol."""


class SilentError(StrangerError):
    """What accepts the connection says nothing."""


def look_up(host: str, port: int, seconds: float) -> list[Address]:
    """The addresses of a host name. Raises OSError, or TimeoutError."""
    found = within(seconds, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    return [(int(family), str(address[0]), port) for family, _, _, _, address in found]


def dial(address: Address, seconds: float) -> socket.socket:
    """A connection to one address. Raises OSError, or StrangerError if it is accepted and reset at once."""
    family, where, port = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(max(seconds, 0.001))
        if where.startswith("@"):  # how everybody writes the NUL that an abstract socket's name begins with
            where = "\0" + where[1:]
        sock.connect(where if family == socket.AF_UNIX else (where, port))
    except ConnectionResetError as error:  # something listens there: a port without a listener refuses
        sock.close()
        raise StrangerError(of_error(error)) from error
    except BaseException:
        sock.close()
        raise
    return sock


def first_to_answer(
    addresses: Sequence[Address], seconds: float
) -> tuple[Address | None, list[tuple[Address, OSError]]]:
    """The first address that answers, if any does, and what is wrong with those before it.

    The time that is left is shared among the addresses that are left.
    """
    end = time.monotonic() + seconds
    problems: list[tuple[Address, OSError]] = []
    for number, address in enumerate(addresses):
        try:
            dial(address, (end - time.monotonic()) / (len(addresses) - number)).close()
        except StrangerError:
            return address, problems
        except OSError as error:
            problems.append((address, error))
        else:
            return address, problems
    return None, problems


def start_tls(engine: str, sock: socket.socket, context: ssl.SSLContext, host: str, seconds: float) -> ssl.SSLSocket:
    """Ask the server for TLS, and shake hands.

    Raises NoTlsError, RefusedError, StrangerError, ssl.SSLError (its text says what does not verify) or OSError.
    """
    deadline = time.monotonic() + seconds
    try:
        (_ask_postgres if engine == "postgresql" else _ask_mysql)(sock, deadline)
    except TimeoutError as error:
        raise SilentError(of_error(error)) from error
    except (ConnectionResetError, BrokenPipeError, struct.error) as error:
        raise StrangerError(of_error(error)) from error
    sock.settimeout(max(deadline - time.monotonic(), 0.001))
    return context.wrap_socket(sock, server_hostname=host)


def _ask_postgres(sock: socket.socket, deadline: float) -> None:
    sock.sendall(_POSTGRES_SSL)
    answer = _read(sock, 1, deadline)
    if answer == b"N":
        raise NoTlsError
    if answer == b"E":
        sock.settimeout(1.0)
        raise RefusedError(" ".join(_words(sock.recv(2000)[4:])))
    if answer != b"S":
        raise StrangerError(f"it answered {of_bytes(answer)}")


def _words(fields: bytes) -> Sequence[str]:
    """The severity and the message of PostgreSQL's error fields."""
    return [field[1:].decode("utf-8", "replace") for field in fields.split(b"\0") if field[:1] in {b"S", b"M"}]


def _ask_mysql(sock: socket.socket, deadline: float) -> None:
    length = int.from_bytes(_read(sock, 4, deadline)[:3], "little")
    if not 1 <= length <= 1024:
        raise StrangerError(f"its greeting would be {length} bytes long")
    greeting = _read(sock, length, deadline)
    if greeting[0] == 0xFF:
        number = int.from_bytes(greeting[1:3], "little")
        text = greeting[3:].decode("utf-8", "replace")
        raise RefusedError(f"({number}) {text[6:] if text.startswith('#') else text}")
    if greeting[0] != 10:
        raise StrangerError(f"its greeting is of version {greeting[0]}")
    # The server's version ends in a zero. Then: the thread id, eight bytes of salt, a filler, the lower capabilities.
    after = greeting.partition(b"\0")[2]
    capabilities = after[4 + 8 + 1 :][:2]
    if len(capabilities) < 2:
        raise StrangerError("its greeting is cut short")
    if not int.from_bytes(capabilities, "little") & _CLIENT_SSL:
        raise NoTlsError
    sock.sendall(len(_MYSQL_SSL).to_bytes(3, "little") + b"\1" + _MYSQL_SSL)


def _read(sock: socket.socket, count: int, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        piece = sock.recv(count - len(data))
        if not piece:
            raise StrangerError("it closed the connection without an answer")
        data += piece
    return data
