"""A TCP proxy on any loopback address that reads along in PostgreSQL's protocol.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_PROTOCOL_3 = 196608


@dataclass(frozen=True)
class Message:
    """One message of a client: its letter, its text, and for Parse and Close the statement's name."""

    kind: str
    text: str = ""
    name: str = ""


class Tap:
    """Stands between clients and 127.0.0.1:`target`. It listens on `address` and its own `port` (0: any free one).

    `startups` and `messages` are for unencrypted clients.
    """

    def __init__(self, target: int, *, address: str = "127.0.0.1", port: int = 0) -> None:
        self._target = target
        self._listener = socket.create_server((address, port), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._clients: list[bytearray] = []
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._listener)
        self._thread.join(10)
        for each in self._sockets:
            _end(each)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                self._sockets += [client, server]
                sent = bytearray()
                self._clients.append(sent)
                threading.Thread(target=_carry, args=(client, server, sent), daemon=True).start()
                threading.Thread(target=_carry, args=(server, client, None), daemon=True).start()

    @property
    def sent(self) -> int:
        """How many bytes all clients sent in total."""
        return sum(len(sent) for sent in self._clients)

    @property
    def startups(self) -> list[dict[str, str]]:
        """The start-up parameters of each client."""
        return [_startup(bytes(sent))[0] for sent in self._clients]

    @property
    def messages(self) -> list[Message]:
        """The messages of all clients after their start-up, client by client, without passwords."""
        return [message for sent in self._clients for message in _messages(bytes(sent))]


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


def _carry(source: socket.socket, target: socket.socket, kept: bytearray | None) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if kept is not None:
                kept += data
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _startup(sent: bytes) -> tuple[dict[str, str], bytes]:
    """The start-up parameters, and what follows."""
    length, protocol = struct.unpack_from("!ii", sent)
    assert protocol == _PROTOCOL_3, f"no plain start-up message, but {protocol}"
    words = [word.decode() for word in sent[8:length].split(b"\0")]
    return dict(zip(words[0:-2:2], words[1:-2:2], strict=True)), sent[length:]


def _messages(sent: bytes) -> Iterator[Message]:
    rest = _startup(sent)[1]
    while rest:
        kind = chr(rest[0])
        (length,) = struct.unpack_from("!i", rest, 1)
        body, rest = rest[5 : length + 1], rest[length + 1 :]
        if kind == "Q":
            yield Message(kind, body[:-1].decode())
        elif kind == "P":
            name, text, _ = body.split(b"\0", 2)
            yield Message(kind, text.decode(), name.decode())
        elif kind == "C":
            yield Message(kind, name=body[1:-1].decode())
        elif kind != "p":  # a password
            yield Message(kind)
