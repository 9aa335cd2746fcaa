"""A server in front of PostgreSQL that refuses everything that Aurora DSQL's documentation lists as not supported."""

import re
import socket
import socketserver
import struct
import threading
from types import TracebackType
from typing import Self

REFUSED = re.compile(
    rb"\s*(savepoint|release|rollback\s+to|discard|set\s+session|set\s+transaction|reset|listen|unlisten|notify|"
    rb"lock|prepare|deallocate|vacuum|truncate|declare|create\s+(temp|temporary|extension|trigger|materialized)|"
    rb"begin\s+isolation\s+level\s+(serializable|read))\b|.*\bpg_(try_)?advisory_|.*\bset_config\b|.*\bsetval\b",
    re.IGNORECASE | re.DOTALL,
)
_START_UP_WITH = frozenset({b"user", b"database", b"client_encoding", b"application_name"})


class DsqlLike:
    """Listens on a free port of loopback, without TLS. `refused`: the requests that it refused."""

    def __init__(self, port: int) -> None:
        self.refused: list[bytes] = []
        self.statements: list[bytes] = []
        outer = self

        class Session(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer.serve(self.request, port)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, client: socket.socket, port: int) -> None:
        """One session: messages to the server are passed on one by one, its answers unchanged."""
        with socket.create_connection(("127.0.0.1", port)) as server, client:
            reader = client.makefile("rb")
            (length,) = struct.unpack("!i", start := reader.read(4))
            rest = reader.read(length - 4)
            names = rest[4:].split(b"\0")[::2]
            self.refused += [name for name in names if name and name not in _START_UP_WITH]
            server.sendall(start + rest)
            threading.Thread(target=self._answers, args=(server, client), daemon=True).start()
            while head := reader.read(5):
                (length,) = struct.unpack("!i", head[1:])
                body = reader.read(length - 4)
                text = body if head[:1] == b"Q" else body.partition(b"\0")[2] if head[:1] == b"P" else b""
                self._look(text.partition(b"\0")[0], named=head[:1] == b"P" and not body.startswith(b"\0"))
                try:
                    server.sendall(head + (body if not self.refused else b"\0" * len(body)))
                except OSError:
                    return

    def _look(self, text: bytes, *, named: bool) -> None:
        if text:
            self.statements.append(text)
        if REFUSED.match(text) or named:
            self.refused.append(text)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                client.sendall(data)
        except OSError:
            pass
        finally:
            client.close()
