"""The sockets of `wire` for an event loop: they never block, and wait through the seam.

Outside of the loop, for example at the end of an invocation, they wait like other sockets.
"""

import errno
import os
import socket
import ssl
from time import monotonic
from typing import TYPE_CHECKING, Any

from ... import invocation
from ...waiting import READ, WRITE, OverdueError, ready, unbroken
from ..bounded_socket import shut_down
from .wire import BoundedSocket, BoundedTlsSocket, Line

_BUSY = (BlockingIOError, ssl.SSLWantReadError)


class _Waiting:
    """The driver's calls: each is tried again until it does not have to wait."""

    line: Line
    patience: float | None
    _asked = _stopped = False
    """A command went out whose answer has not begun; the server was asked to end it."""
    _waited = 0.0
    """When the other tasks had their turn last (monotonic)."""

    if TYPE_CHECKING:
        fileno: Any

    def settimeout(self, value: float | None) -> None:
        """It never blocks. `patience` holds what the driver wants."""
        super().settimeout(0.0)  # type: ignore[misc]

    def gettimeout(self) -> float | None:
        """What the driver wants, which `ssl` puts back after the handshake."""
        return self.patience

    def hurry(self) -> None:
        """Raises OverdueError if the deadline has passed."""
        deadline = self.line.deadline
        if deadline is not None and monotonic() >= deadline:
            raise OverdueError("no answer in time")

    def recv_into(self, buffer: Any, *arguments: Any) -> int:
        """Like the socket's. It always waits for the first piece of an answer, so that other tasks get their turn.

        If rows arrive as fast as they are read, it waits now and then too: other tasks get their turn, and the deadline
        is checked.
        """
        first, self._asked = self._asked, False
        if (first or monotonic() - self._waited > _A_MOMENT) and not self._decrypted():
            self._wait(READ, amid=not first)
        while True:
            try:
                return super().recv_into(buffer, *arguments)  # type: ignore[misc, no-any-return]
            except _BUSY:
                self._wait(READ)
            except ssl.SSLWantWriteError:
                self._wait(WRITE)

    def _decrypted(self) -> int:
        """Bytes that can be read although the descriptor does not show them."""
        return 0

    def sendall(self, data: Any, *arguments: Any) -> None:
        """Like the socket's."""
        self._asked, self._stopped = True, False
        left = memoryview(data).cast("B")
        while left:
            try:
                left = left[super().send(left, *arguments) :]  # type: ignore[misc]
            except ssl.SSLWantReadError:
                self._wait(READ)
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(WRITE)

    def connect(self, address: Any) -> None:
        """Like the socket's."""
        problem = super().connect_ex(address)  # type: ignore[misc]
        if problem == errno.EINPROGRESS:
            self._wait(WRITE)
            problem = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # type: ignore[attr-defined]
        if problem:
            raise OSError(problem, os.strerror(problem))

    def do_handshake(self) -> None:
        """Like that of a TLS socket."""
        while True:
            try:
                super().do_handshake()  # type: ignore[misc]
            except _BUSY:
                self._wait(READ)
            except ssl.SSLWantWriteError:
                self._wait(WRITE)
            else:
                return

    def _wait(self, events: int, *, amid: bool = False) -> None:
        """Wait for the server. Raises OverdueError, and CancelledError after it has ended the statement.

        `amid`: in the middle of an answer, where readable data does not mean that the whole comes in time.
        """
        self.line.attended = True
        try:
            self._wait_for(events, amid=amid)
        finally:
            self.line.attended = False
            self._waited = monotonic()

    def _wait_for(self, events: int, *, amid: bool) -> None:
        line = self.line
        left = self.patience
        if line.deadline is not None:
            bound = max(line.deadline - monotonic(), 0.0)
            left = bound if left is None else min(left, bound)
        if line.ours or line.deadline is not None or line.stop is None:
            self._ready(events, left)
            return
        remaining = invocation.remaining() if line.watched else None
        try:
            if remaining is None or (left is not None and left < remaining):
                self._ready(events, left)
                return
            if not (amid and remaining <= 0) and ready(self.fileno(), events, max(remaining, 0.0)):
                return
        except BaseException:
            with unbroken(_ASKING):
                line.stop(invocation.at_most(_ASKING))  # the server is to know that nobody wants its answer
            raise
        patience = invocation.reserve.seconds / 3
        stopped, self._stopped = self._stopped, True
        if not stopped:
            line.stop(patience)
        if stopped or not ready(self.fileno(), events, patience):
            shut_down(self.fileno())
            raise OverdueError("no answer in time")

    def _ready(self, events: int, left: float | None) -> None:
        if not ready(self.fileno(), events, left):
            raise OverdueError("no answer in time")


_ASKING = 1.0  # seconds
_A_MOMENT = 0.01  # seconds that a task may read what is there, while the others wait


class _PlainSocket(_Waiting, socket.socket):
    """A plain socket that waits through the seam."""


class _TlsSocket(_Waiting, ssl.SSLSocket):  # type: ignore[misc]
    """A TLS socket that does the same."""

    def _decrypted(self) -> int:
        return self.pending()


class AwaitedSocket(BoundedSocket, _PlainSocket):
    """A plain socket."""

    hurry: Any = _Waiting.hurry


class AwaitedTlsSocket(BoundedTlsSocket, _TlsSocket):  # type: ignore[misc]
    """A TLS socket."""

    hurry: Any = _Waiting.hurry


SOCKETS = AwaitedSocket, AwaitedTlsSocket
