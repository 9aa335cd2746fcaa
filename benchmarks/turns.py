"""A relay on loopback that counts round trips: how often a client sends after it has received an answer."""

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

ONE_WAY = 0.00025
"""Seconds: a round trip of half a millisecond, as within one availability zone."""


class Relay:
    """Relays between clients and 127.0.0.1:`target` while the context lasts; clients may encrypt.

    `delay`: seconds that every piece is delayed, in both directions.
    """

    def __init__(self, target: int, delay: float = 0.0) -> None:
        self.delay = delay
        self.turns = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = [self._listener]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [client, server]
                spoke: list[bool] = [False]  # whether the client was the last to send
                threading.Thread(target=self._carry, args=(client, server, True, spoke), daemon=True).start()
                threading.Thread(target=self._carry, args=(server, client, False, spoke), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, up: bool, spoke: list[bool]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if up and not spoke[0]:
                    self.turns += 1
                spoke[0] = up
                if self.delay:
                    time.sleep(self.delay)
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
