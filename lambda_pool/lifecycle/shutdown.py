"""A polite end: Lambda sends SIGTERM only to an environment with an extension, so this process registers as one.

A Web Function gets SIGTERM anyway, and then has one second. There the server ends the process, see `in_server`.

An internal extension lives in the function's own process: no layer, no second process, no thread. It registers during
Init and then asks for its next event on a socket that nobody ever reads; without that question Init would not end.
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html
"""

import logging
import os
import signal
import socket
import sys
import threading
from _thread import start_new_thread
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any

from .. import config as configuration
from ..events import Closing
from ..reclaim import shut_down
from ..waiting import pause, plainly
from . import pools

log: logging.Logger = logging.getLogger("lambda_pool")

_API = "/2020-01-01/extension"
_NAME = "lambda_pool"
# Seconds for the local API's answer, which takes one millisecond; a function must not wait longer for a courtesy.
_PATIENCE = 1.0
# Seconds for closing all connections together, out of at least 300 ms that Lambda leaves; each is a single packet.
_CLOSING = 0.2
_MIN_TIMEOUT = 0.01
# Seconds after SIGTERM in which a server's requests may end, out of the one second that a Web Function has.
_REQUESTS_END = 0.6
# Seconds for ending what the remaining requests run, all together. In a Web Function Lambda kills the process before
# that, which does the rest: a process that is gone has no connections.
_CANCELLING = 2.0
_AGAIN = 0.1
_NO_SHUTDOWN = "connections are not closed at the end of this environment, nor cut when an invocation times out"


class _Installed:
    """The one registration of this process."""

    done = False
    waiting: socket.socket | None = None
    previous: Callable[[int, FrameType | None], Any] | int | None = None


def install() -> None:
    """Register the extension and take SIGTERM, once for each process: when the package is imported in Lambda.

    If something prevents it, the log says what. LAMBDA_POOL_GRACEFUL_SHUTDOWN=false switches it off.
    """
    if configuration.is_web_function():
        in_server()
        return
    if _Installed.done or not configuration.graceful_shutdown() or _in_child():
        return
    _Installed.done = True
    if threading.current_thread() is not threading.main_thread():
        log.warning("%s: lambda_pool was not imported on the main thread", _NO_SHUTDOWN)
        return
    try:
        _Installed.waiting = _register(configuration.runtime_api())
    except (OSError, ValueError) as error:
        log.warning(
            "%s: Lambda refused to register the extension (%s); import lambda_pool at module scope", _NO_SHUTDOWN, error
        )
        return
    _Installed.previous = signal.signal(signal.SIGTERM, _on_sigterm)


def _in_child() -> bool:
    """True while a process that `multiprocessing` has spawned imports its modules. Its parent hears of the end."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.current_process().name != "MainProcess"


def _register(address: str) -> socket.socket:
    """Register in two raw exchanges, 1.5 ms in all: importing http.client would cost 20 ms."""
    host, _, port = address.partition(":")
    body = b'{"events":[]}'
    with socket.create_connection((host, int(port or 80)), _PATIENCE) as connection:
        connection.sendall(
            f"POST {_API}/register HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n"
            f"Lambda-Extension-Name: {_NAME}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        identifier = _identifier(connection)
    waiting = socket.create_connection((host, int(port or 80)), _PATIENCE)
    waiting.sendall(
        f"GET {_API}/event/next HTTP/1.1\r\nHost: {address}\r\n"
        f"Lambda-Extension-Identifier: {identifier}\r\n\r\n".encode()
    )
    return waiting


def _identifier(connection: socket.socket) -> str:
    """The extension's identifier, from the answer's headers. Raises ValueError if the API refused."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = connection.recv(4096)
        if not piece:
            break
        answer += piece
    status, *headers = answer.partition(b"\r\n\r\n")[0].decode("latin1").split("\r\n")
    for header in headers:
        name, _, value = header.partition(":")
        if name.lower() == "lambda-extension-identifier" and " 200" in status:
            return value.strip()
    raise ValueError(f"the runtime API answered {status!r}")


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    """Close, report, run the handler that was there before, and end."""
    try:
        with plainly():
            _close_all()
        previous = _Installed.previous
        if callable(previous):
            previous(number, frame)
    finally:
        # Not sys.exit: on Python 3.13.0 awslambdaric then hangs until it is killed.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def in_server() -> None:
    """Take SIGTERM ahead of the handler that has it now: that of a Web Function's server, once it has begun to listen.

    The middlewares call this each time a server says that it begins. It does nothing outside of a Web Function.
    """
    if not (configuration.is_web_function() and configuration.graceful_shutdown()):
        return
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)
    if isinstance(before, _InFront) or before is None:  # None: a handler in C, which Python cannot call
        return
    signal.signal(signal.SIGTERM, _InFront(before))


class _InFront:
    """A SIGTERM handler that closes idle connections at once, others as they come back, and finally cuts the rest."""

    def __init__(self, before: Callable[[int, FrameType | None], Any] | int) -> None:
        self._before = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not callable(self._before):
            # No server is there to wait for the requests.
            _on_sigterm(number, frame)
            return
        # Start the thread without any lock of Python's own: the signal may have come in the middle of anything.
        start_new_thread(_close_in_server, ())
        self._before(number, frame)


def _close_in_server() -> None:
    began = monotonic()
    for pool in pools():
        if pool.config.graceful_shutdown:
            pool.close()
    _tell_closing()
    while monotonic() - began < _REQUESTS_END and any(pool.state.entries for pool in pools()):
        pause(0.02)
    _tell_closing()  # for the requests that ended meanwhile, before Lambda's patience ends
    end = began + _REQUESTS_END + _CANCELLING
    while monotonic() < end and any(pool.state.entries for pool in pools()):
        for pool in pools():
            if pool.config.graceful_shutdown:
                shut_down(pool, end, _MIN_TIMEOUT, idle=False)
        pause(_AGAIN)  # a request that began late may only now hold what must be cut
    _tell_closing()


def _close_all() -> None:
    """Close idle connections politely, and abort lent ones, so that the server rolls back now."""
    deadline = monotonic() + _CLOSING
    for pool in pools():
        if pool.config.graceful_shutdown:
            shut_down(pool, deadline, _MIN_TIMEOUT)
    _tell_closing()  # only now: writing may take longer than Lambda waits


def _tell_closing() -> None:
    for pool in pools():
        pool.events.emit(Closing(pool.name))
