"""A network that fails on command: a TCP proxy on loopback between a client and a server."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from types import TracebackType
from typing import Literal, Self, get_args

Direction = Literal["to_server", "to_client"]

_PIECE = 65536
_PATIENCE = 1.0
"""Seconds to wait for a thread that carries bytes: it may be busy with a piece that is held back."""


class _Fault:
    """What happens to the bytes of one connection. One object may govern several."""

    def __init__(self) -> None:
        self.swallow: set[Direction] = set()
        self.delay = 0.0
        self.halve: dict[Direction, float] = {}
        self.left: dict[Direction, int] = {}
        self.hang = False  # at the end of what is `left`, instead of a reset


class _Connection:
    """One client, its way to the server, and the two threads that carry the bytes."""

    def __init__(
        self, client: socket.socket, server: socket.socket, fault: _Fault, hear: Callable[[bytes], None] | None
    ) -> None:
        self.client = client
        self.server = server
        self.fault = fault
        self.hear = hear
        self.ended = False
        self.over = False
        self._finished = 0
        self._kept_fins: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to carry."""
        for source, target, direction in (
            (self.client, self.server, "to_server"),
            (self.server, self.client, "to_client"),
        ):
            thread = threading.Thread(target=self._carry, args=(source, target, direction), daemon=True)
            thread.start()
            self._threads.append(thread)  # only now may `wait` join it

    def wait(self) -> None:
        """Wait until the end has arrived: a socket is really closed only when no thread reads from it any more."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_PATIENCE)

    def _carry(self, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        try:
            while data := source.recv(_PIECE):
                if not self._pass_on(data, target, direction):
                    return
            if self.ended:
                return
            if direction in self.fault.swallow:
                self._kept_fins.append(target)
                return
            with suppress(OSError):  # the other side is gone as well
                target.shutdown(socket.SHUT_WR)
        except OSError:
            # One side was reset, so the other is reset too. In a black hole, the other side hears nothing.
            if not self.ended and direction not in self.fault.swallow:
                self.reset()
        finally:
            self._finish()

    def _pass_on(self, data: bytes, target: socket.socket, direction: Direction) -> bool:
        """Carry one piece, or do to it what the fault says. False once the connection is reset."""
        fault = self.fault
        if self.hear is not None and direction == "to_server":
            self.hear(data)
        if fault.delay:
            time.sleep(fault.delay)
        if direction in fault.swallow:
            return True
        left = fault.left.get(direction)
        if left is not None:
            fault.left[direction] = left - len(data[:left])
            target.sendall(data[:left])
            if len(data) < left:
                return True
            if fault.hang:
                fault.swallow = fault.swallow | {direction}
                return True
            self.reset()
            return False
        pause = fault.halve.get(direction)
        if pause is not None:
            half = (len(data) + 1) // 2
            target.sendall(data[:half])
            time.sleep(pause)
            data = data[half:]
        target.sendall(data)
        return True

    def _finish(self) -> None:
        """Close both sockets once there is nothing more to carry, in either direction."""
        with self._lock:
            self._finished += 1
            if self._finished < 2 or self._kept_fins:
                return
        self.over = True
        for end in (self.client, self.server):
            end.close()

    def deliver_fins(self) -> None:
        """Tell each side that the other has closed, if that was swallowed: a kernel would send it again and again."""
        with self._lock:
            kept, self._kept_fins = self._kept_fins, []
        for target in kept:
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)
        if kept and self._finished == 2:
            self.close()

    def reset(self) -> None:
        """RST to both sides."""
        self.ended = True
        for end in (self.client, self.server):
            _reset_at_close(end)
            _end(end)

    def close(self) -> None:
        """FIN to both sides."""
        self.ended = True
        for end in (self.client, self.server):
            _end(end)


def _reset_at_close(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _end(end: socket.socket) -> None:
    # The thread that reads from it holds the kernel's file: only shutdown wakes it, and only then close() takes effect.
    lingers = end.fileno() != -1 and end.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 1, 0)
    with suppress(OSError):
        end.shutdown(socket.SHUT_RD if lingers else socket.SHUT_RDWR)
    end.close()


def _check(direction: Direction) -> None:
    """Raise ValueError for a wrong direction: its fault would never come, and a test of it would prove nothing."""
    if direction not in get_args(Direction):
        raise ValueError(f"direction={direction!r} is not valid: it must be 'to_server' or 'to_client'")


class FaultyProxy:
    """Listens on 127.0.0.1:`port` and carries bytes to and from `host:target_port` until told otherwise.

    Each fault strikes the connections that exist (`existing`), those to come (`new`), or both; in one `direction`,
    `"to_server"` or `"to_client"`, where it has one. Use it as a context manager: leaving closes every connection.
    """

    def __init__(
        self, host: str, target_port: int, *, listen: Callable[[int], Callable[[bytes], None]] | None = None
    ) -> None:
        """`listen` is called with each client's port; what it returns is called with each piece from this client."""
        self._listen = listen
        self._target = (host, target_port)
        self._connections: list[_Connection] = []
        self._new_fault = _Fault()
        self._lock = threading.Lock()  # a client is let in before a fault, an end or a leaving, or after it
        self._over = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.accepted: int = 0
        self._start()

    def _start(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        with self._lock:
            self._over = True
        self.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, (_, port) = listener.accept()
                self.accepted += 1
                try:
                    server = socket.create_connection(self._target, timeout=10)
                except OSError as error:
                    if isinstance(error, ConnectionResetError):  # let in, and reset before the system could say so
                        _reset_at_close(client)
                    client.close()
                    continue
                server.settimeout(None)
                hear = self._listen(port) if self._listen is not None else None
                with self._lock:
                    connection = _Connection(client, server, self._new_fault, hear)
                    if self._over:
                        connection.close()
                        return
                    try:
                        for end in (client, server):
                            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    except OSError:  # one of them has reset it already
                        connection.reset()
                        continue
                    self._connections = [known for known in self._connections if not known.over]
                    self._connections.append(connection)
                    connection.start()

    def _faults(self, *, existing: bool, new: bool) -> list[_Fault]:
        """Give each connection concerned a fault of its own, so that later faults strike only those that they name."""
        found = []
        with self._lock:
            if existing:
                for connection in self._connections:
                    connection.fault = deepcopy(connection.fault)
                    found.append(connection.fault)
            if new:
                self._new_fault = deepcopy(self._new_fault)
                found.append(self._new_fault)
        return found

    def black_hole(self, *, existing: bool = True, new: bool = True) -> None:
        """Accept and read, but never forward or answer: this is what a vanished peer looks like."""
        for fault in self._faults(existing=existing, new=new):
            fault.swallow = {"to_server", "to_client"}

    def swallow(self, direction: Direction, *, after: int = 0, existing: bool = True, new: bool = True) -> None:
        """Lose every byte of one direction from now on, or once `after` more bytes were carried."""
        _check(direction)
        for fault in self._faults(existing=existing, new=new):
            if after:
                fault.left, fault.hang = fault.left | {direction: after}, True
            else:
                fault.swallow = fault.swallow | {direction}

    def halve(self, direction: Direction, *, pause: float = 0.01, existing: bool = True, new: bool = True) -> None:
        """Carry each piece of one direction in two halves, with `pause` seconds between them."""
        _check(direction)
        for fault in self._faults(existing=existing, new=new):
            fault.halve = fault.halve | {direction: pause}

    def delay(self, seconds: float, *, existing: bool = True, new: bool = True) -> None:
        """Hold every piece back for `seconds`."""
        for fault in self._faults(existing=existing, new=new):
            fault.delay = seconds

    def cut(self, *, after: int, direction: Direction, existing: bool = True, new: bool = False) -> None:
        """Carry `after` more bytes in one direction, then reset the connection."""
        _check(direction)
        for fault in self._faults(existing=existing, new=new):
            fault.left, fault.hang = fault.left | {direction: after}, False

    def heal(self) -> None:
        """Carry everything again. What was swallowed is lost, except for the news that one side has closed."""
        for fault in self._faults(existing=True, new=True):
            fault.swallow, fault.delay, fault.halve, fault.left, fault.hang = set(), 0.0, {}, {}, False
        for connection in self._connections:
            connection.deliver_fins()

    def lead_to(self, target_port: int) -> None:
        """Carry clients that come from now on to another port of the same host, as when a name leads elsewhere."""
        self._target = (self._target[0], target_port)

    def reset(self) -> None:
        """RST on every connection that exists."""
        self._end_all(_Connection.reset)

    def close(self) -> None:
        """FIN on every connection that exists."""
        self._end_all(_Connection.close)

    def _end_all(self, end: Callable[[_Connection], None]) -> None:
        with self._lock:
            ended, self._connections = self._connections, []
        for connection in ended:
            end(connection)
        for connection in ended:
            connection.wait()

    def refuse(self) -> None:
        """Stop listening: new clients get "connection refused"."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def listen(self) -> None:
        """Listen again, on the same port, after `refuse`."""
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self._start()
