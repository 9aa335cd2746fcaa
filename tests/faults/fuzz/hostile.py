"""A server on loopback that plays scripts, and a listener-in that records the real dialogues they are made of."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

Answer = bytes | Callable[[bytes], bytes]
"""What is sent when the client has said something; a function is given what the client said."""

_PIECE = 65536
# A connection of a failed test is not served for longer than this.
_LONGEST = 30.0
# Bytes per second of a flood: a gigabit, which is more than a function's network carries. libpq reads for as long as
# there is something to be read, so that a server on this machine, if faster, would have it read without end.
_PACE = 125e6


@dataclass(frozen=True)
class Script:
    """One connection's answers: one for each time that the client has sent something (the first at once for MySQL).

    drip: seconds between two bytes of the last answer, which is then sent one by one.
    then: what comes after the last answer: the end, silence, or a flood of what `endless` gives for 0, 1, 2, ….
    """

    answers: tuple[Answer, ...]
    speaks_first: bool = False
    drip: float = 0.0
    then: Literal["close", "wait", "flood"] = "close"
    endless: Callable[[int], bytes] = bytes


class Front:
    """Listens on 127.0.0.1:`port`. Each connection gets the next script; when there is none, the real server."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._scripts: list[Script] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self.port: int = self._listener.getsockname()[1]
        self.received: list[bytearray] = []
        """What each client sent, connection by connection."""
        self._spoken: list[bytes] = []
        self._client_spoke = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._listener)
        self.hang_up()

    def play(self, *scripts: Script) -> None:
        """Let the next connections have these, and forget what earlier ones said."""
        self.hang_up()
        with self._lock:
            self._scripts[:] = scripts
            self.received.clear()

    def hang_up(self) -> None:
        """End every connection."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for each in sockets:
            _end(each)

    def spoken(self) -> tuple[bytes, ...]:
        """What the real server answered since the last call, one for each time that the client spoke."""
        with self._lock:
            spoken, self._spoken = tuple(self._spoken), []
            self._client_spoke = True
        return spoken

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                said = bytearray()
                with self._lock:
                    self._sockets.append(client)
                    self.received.append(said)
                    script = self._scripts.pop(0) if self._scripts else None
                target = self._relay if script is None else self._perform
                threading.Thread(target=target, args=(client, said, script), daemon=True).start()

    def _perform(self, client: socket.socket, said: bytearray, script: Script) -> None:
        with suppress(OSError):
            client.settimeout(_LONGEST)
            for number, answer in enumerate(script.answers):
                heard = b"" if script.speaks_first and number == 0 else _listen(client, said)
                data = answer if isinstance(answer, bytes) else answer(heard)
                if script.drip and number == len(script.answers) - 1:
                    for byte in data:
                        client.sendall(bytes([byte]))
                        time.sleep(script.drip)
                else:
                    client.sendall(data)
            end = time.monotonic() + _LONGEST
            number = 0
            while script.then == "flood" and time.monotonic() < end:
                block = script.endless(number)
                client.sendall(block)
                time.sleep(len(block) / _PACE)
                number += 1
            if script.then == "wait":
                while True:
                    _listen(client, said)
        _end(client)

    def _relay(self, client: socket.socket, said: bytearray, _: None) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            _end(client)
            return
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._sockets.append(server)
            self._client_spoke = True

        def from_server(data: bytes) -> None:
            with self._lock:
                if self._client_spoke:
                    self._spoken.append(b"")
                    self._client_spoke = False
                self._spoken[-1] += data

        def from_client(data: bytes) -> None:
            said.extend(data)
            with self._lock:
                self._client_spoke = True

        threading.Thread(target=_carry, args=(server, client, from_server), daemon=True).start()
        _carry(client, server, from_client)


def _listen(client: socket.socket, said: bytearray) -> bytes:
    data = client.recv(_PIECE)
    if not data:
        raise ConnectionResetError
    said.extend(data)
    return data


def _carry(source: socket.socket, target: socket.socket, note: Callable[[bytes], None]) -> None:
    with suppress(OSError):
        while data := source.recv(_PIECE):
            note(data)
            target.sendall(data)
    _end(target)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
