"""A server that pauses when nobody is connected, like Aurora at 0 ACU: a client that comes then has to wait."""

import select
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from lambda_pool.testing.server import Server


class Sleeper:
    """Listens on 127.0.0.1:`port` for a server that it stops and starts.

    In: the server, which is asleep at first; the seconds that it takes to resume, in addition to its start; the seconds
    without any session after which it pauses.
    """

    def __init__(self, server: Server, *, resume: float = 1.0, pause: float = 0.5) -> None:
        self._server = server
        self._resume = resume
        self.pause: float = pause
        self._lock = threading.Lock()
        self._sessions = 0
        self._left = time.monotonic()
        self._over = False
        self.wakes: int = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._server.stop()
        for work in (self._accept, self._watch):
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:  # somebody may be starting or stopping the server right now
            self._over = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def asleep(self) -> bool:
        """Whether the server is stopped."""
        return self._server.pid is None

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _watch(self) -> None:
        while not self._over:
            time.sleep(0.05)
            with self._lock:
                idle = not self._sessions and time.monotonic() - self._left > self.pause
                if idle and not self._over and not self.asleep:
                    self._server.stop()

    def _serve(self, client: socket.socket) -> None:
        with client:
            with self._lock:
                if self._over:
                    return
                if self.asleep:
                    time.sleep(self._resume)
                    self._server.start()
                    self.wakes += 1
                    self._left = time.monotonic()
                self._sessions += 1
            try:
                with socket.create_connection(("127.0.0.1", self._server.port)) as session:
                    _carry(client, session)
            finally:
                with self._lock:
                    self._sessions -= 1
                    self._left = time.monotonic()


def _carry(client: socket.socket, session: socket.socket) -> None:
    """Until one side ends the connection. A frozen client does not, so the server does."""
    other = {client: session, session: client}
    with suppress(OSError):
        while True:
            for source in select.select(list(other), [], [])[0]:
                data = source.recv(65536)
                if not data:
                    return
                other[source].sendall(data)
