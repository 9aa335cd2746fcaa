"""Fails a test that sends anything that pins a session behind an RDS Proxy, and names it and the line that sent it."""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from types import FrameType, TracebackType
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from lambda_pool.testing.network import FaultyProxy
from lambda_pool.testing.pinning import reason, shown

_SHOWN = 200
# Seconds to find the code that waits for the answer to what was just sent, which is passed on only afterwards.
_LOOK = 0.5
_DRIVERS = ("lambda_pool", "psycopg", "pymysql", "socket", "ssl")
_NOT_THE_USERS = (sysconfig.get_paths()["stdlib"], f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

_WITHOUT_TYPE = {80877102, 80877103, 80877104}
_QUERY, _PREPARE, _CHANGE_USER, _RESET = 0x03, 0x16, 0x11, 0x1F
_COMMANDS = {
    _PREPARE: "it is prepared on the server",
    _CHANGE_USER: "it changes the user of the session",
    _RESET: "it resets the session",
}
_FULL_PACKET = 0xFFFFFF


class Pin(NamedTuple):
    """One thing that was sent and pins: the statement without the texts in it, why, and the line that sent it."""

    statement: str
    reason: str
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {self.statement}: {self.reason}"


class PinnedError(AssertionError):
    """Something was sent that pins a session behind an RDS Proxy."""


class PinCheck:
    """Stands between code under test and its database as an RDS Proxy would, and reads what is sent.

        with PinCheck(postgres_server.url()) as check:
            place_order(Pool(check.url))

    In: the URL of the database. `url` leads through the check, unencrypted and with `pooled=true`; `pins` is what was
    found so far. At the end of the block everything found is raised as PinnedError, unless the block itself raised.
    Raises ValueError for a URL that names several hosts, or its host among the parameters.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if "," in parts.netloc.rpartition("@")[2]:
            raise ValueError("PinCheck works in front of one server: give a URL with one host")
        asked = parse_qsl(parts.query)
        around = {"host", "hostaddr", "port", "unix_socket"}.intersection(key for key, _ in asked)
        if around:  # the driver would follow it, and nothing would be checked
            raise ValueError(f"PinCheck does not follow {min(around)}= in a URL: write it as //user@host:port/database")
        self._engine = "mysql" if parts.scheme.startswith(("mysql", "mariadb")) else "postgresql"
        port = parts.port or (3306 if self._engine == "mysql" else 5432)
        self._proxy = FaultyProxy(parts.hostname or "localhost", port, listen=self._listen)
        kept = [(key, value) for key, value in asked if not key.startswith("ssl") and key != "pooled"]
        query = urlencode([*kept, ("sslmode", "disable"), ("pooled", "true")])
        login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        self.url: str = parts._replace(netloc=f"{login}127.0.0.1:{self._proxy.port}", query=query).geturl()
        self.pins: list[Pin] = []

    def __enter__(self) -> Self:
        self._proxy.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._proxy.__exit__(kind, error, trace)
        if kind is None and self.pins:
            raise PinnedError("this pins a session behind an RDS Proxy:\n" + "\n".join(map(str, self.pins)))

    def _listen(self, port: int) -> Callable[[bytes], None]:
        """What to call with each piece that the client with this port sends."""
        read = _read_mysql() if self._engine == "mysql" else _read_postgres()
        next(read)

        def heard(data: bytes) -> None:
            for statement, known in read.send(data):
                why = known or reason(statement, self._engine)
                if why:
                    text = shown(statement[: 16 * _SHOWN], self._engine)
                    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
                    self.pins.append(Pin(text, why, _sender(port)))

        return heard


_Found = list[tuple[str, str | None]]
"""Statements, each with the reason why the way that it is sent pins, if it does."""
_Reader = Generator[_Found, bytes, None]


def _read_postgres() -> _Reader:
    """By https://www.postgresql.org/docs/current/protocol-message-formats.html ."""
    data, typed = b"", False
    found: _Found = []
    while True:
        data += yield found
        found = []
        while len(data) >= 4 + typed:
            size = int.from_bytes(data[typed : typed + 4], "big") + typed
            if len(data) < size or size < 4:
                break
            message, data = data[:size], data[size:]
            if not typed:
                code = int.from_bytes(message[4:8], "big")
                typed = code not in _WITHOUT_TYPE
                if b"\0options\0" in message:
                    found.append(("the login", "it has the parameter 'options', which an RDS Proxy refuses"))
            elif message[:1] == b"Q":
                found.append((_text(message[5:].partition(b"\0")[0]), None))
            elif message[:1] == b"P":
                name, _, rest = message[5:].partition(b"\0")
                found.append((_text(rest.partition(b"\0")[0]), "it is prepared under a name" if name else None))


def _read_mysql() -> _Reader:
    """By https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html ."""
    data, whole, more = b"", b"", False
    found: _Found = []
    while True:
        data += yield found
        found = []
        while len(data) >= 4:
            size, number = int.from_bytes(data[:3], "little"), data[3]
            if len(data) < size + 4:
                break
            packet, data = data[4 : size + 4], data[size + 4 :]
            if number and not more:  # a packet of the login, or of a file that is loaded
                continue
            whole, more = whole + packet, size == _FULL_PACKET
            if not more:
                command, text, whole = whole[0] if whole else 0, _text(whole[1:]), b""
                if command == _QUERY:
                    found.append((text, None))
                elif command in _COMMANDS:
                    found.append((text if command == _PREPARE else "a command", _COMMANDS[command]))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _sender(port: int) -> str:
    """File and line of the user's code that waits on the connection with this local port."""
    until = time.monotonic() + _LOOK
    unknown = "(sent by a task of an event loop, or by another process)"
    while True:
        for thread, frame in sys._current_frames().items():
            if thread != threading.get_ident() and _waits(frame, port):
                found = _place(frame)
                if found is not None:
                    return found
                # Or a function sent it that has returned since, and no longer shows its caller.
                unknown = "(not sent by your code)"
        if time.monotonic() > until:
            return unknown
        time.sleep(0.002)


def _waits(frame: FrameType | None, port: int) -> bool:
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _DRIVERS:
            with suppress(Exception):  # no socket, or closed meanwhile
                twin = socket.socket(fileno=os.dup(frame.f_locals["self"].fileno()))
                with twin:
                    if twin.getsockname()[1] == port:
                        return True
        frame = frame.f_back
    return False


def _place(frame: FrameType | None) -> str | None:
    while frame is not None:
        file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] not in _DRIVERS and not any(part in file for part in _NOT_THE_USERS):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return None
