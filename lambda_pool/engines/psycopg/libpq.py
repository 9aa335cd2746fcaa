"""What goes to libpq itself, through `psycopg.pq`: connecting, and the pool's own short questions."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Generator
from fcntl import ioctl
from time import monotonic
from typing import TYPE_CHECKING, Any

from psycopg import Error, OperationalError, ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic, error_from_result
from psycopg.generators import copy_end
from psycopg.pq import ConnStatus, ExecStatus, PollingStatus, TransactionStatus
from psycopg.waiting import Ready, Wait

from ...errors import ConfigError, LambdaPoolError
from ...waiting import READ, WRITE, OverdueError, ready, within
from ..base import SILENT, may_be_handled
from .arguments import NO_OPTIONS

if TYPE_CHECKING:
    from psycopg.pq import PGnotify
    from psycopg.pq.abc import PGconn, PGresult

log: logging.Logger = logging.getLogger("lambda_pool")

LOOK = 0.02
"""Seconds after which a wait lets Python handle a signal: a third of what a cancel leaves before the deadline."""

# Bytes that a server may send for a login, or for a question of the pool's own, without notices and notifications: it
# must not fill the function's memory. On Linux, FIONREAD tells how many can be read now, and `tcp_info` has at this
# offset how many have come in.
_MOST = 8 << 20
_FIONREAD = 0x541B
_RECEIVED = 128
_MOST_RESULTS = 100
# Bytes of memory for notifications that come in meanwhile, and what each of them takes besides its text.
_MOST_NOTIFIED = 32 << 20
_NOTIFY = 256

# The first libpq whose cancel cannot wait for ever.
_CANCELS_SAFELY = 170000

_COPY = (ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH)
_UNFINISHED = "a COPY was left unfinished, so its transaction cannot be committed"


class NoAnswerError(OperationalError):
    """The server did not answer within the time that the pool gave it."""


class BusyError(ProgrammingError):
    """The thread or task itself holds the connection already: psycopg would wait for that for ever."""

    def __init__(self) -> None:
        super().__init__(
            "this connection is in the middle of a copy(), a stream() or notifies(), which has it to itself until it "
            "ends: end that first, or borrow another connection"
        )


# --- connecting -------------------------------------------------------------------------------------------------------


def connect(conninfo: str, deadline: float, *, pooled: bool) -> "PGconn":
    """Open one connection. Several addresses share the time until `deadline`, so a silent one does not hide the others.

    Raises OperationalError, NoAnswerError at the deadline, or ConfigError.
    """
    places = _places(conninfo_to_dict(conninfo), deadline)
    while True:
        if places:
            hosts, addresses, ports = (",".join(column) for column in zip(*places, strict=True))
            conninfo = make_conninfo(conninfo, host=hosts, hostaddr=addresses, port=ports)
        turn = deadline if len(places) < 2 else monotonic() + (deadline - monotonic()) / len(places)
        pgconn = pq.PGconn.connect_start(conninfo.encode())
        try:
            _connect(pgconn, turn, pooled=pooled)
        except NoAnswerError:
            at = pgconn.hostaddr.decode(), pgconn.port.decode()
            pgconn.finish()
            if turn == deadline:
                raise
            # Those before it have refused, and will refuse again at once.
            others = [place for place in places if place[1:] != at]
            places = others if len(others) < len(places) else places[1:]
        except BaseException:
            pgconn.finish()
            raise
        else:
            return pgconn


def _places(parameters: dict[str, Any], deadline: float) -> list[tuple[str, str, str]]:
    """Host, address and port, for each address of the host; none if libpq must find its own way.

    libpq itself would look up a name without any bound, and stop every thread of the process meanwhile.
    """
    host, port = parameters.get("host", ""), parameters.get("port", "5432")
    if parameters.get("hostaddr") or not host or host.startswith(("/", "@")):
        return []
    try:
        found = within(_left(deadline), socket.getaddrinfo, host, int(port), type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OperationalError(f'could not translate host name "{host}" to address: {error.strerror}') from error
    except OverdueError:
        raise NoAnswerError(f'the host name "{host}" was not translated to an address in time') from None
    except ValueError:  # libpq says what is wrong with it
        return []
    return list(dict.fromkeys((host, str(address[4][0]), port) for address in found))


def _connect(pgconn: "PGconn", deadline: float, *, pooled: bool) -> None:
    # Read from libpq, because options may also come from PGOPTIONS or a service file. Nothing was sent yet.
    if pooled and pgconn.options:
        raise ConfigError(NO_OPTIONS)
    room = _MOST
    while pgconn.status != ConnStatus.BAD:
        state = pgconn.connect_poll()
        if state == PollingStatus.OK:
            if pgconn.transaction_status != TransactionStatus.IDLE:
                raise OperationalError("the server accepted the login, but is not idle")
            pgconn.nonblocking = 1
            return
        if state not in {PollingStatus.READING, PollingStatus.WRITING}:
            break
        # The socket is asked for each time: libpq may change it between two addresses.
        events = READ if state == PollingStatus.READING else WRITE
        said = "no answer in time" if pgconn.status == ConnStatus.STARTED else SILENT
        # Wait in short pieces: a signal that comes just before the call does not end it.
        while not ready(pgconn.socket, events, min(LOOK, _left(deadline, said))):
            pass
        room -= _waiting(pgconn.socket)
        if room < 0:
            raise OperationalError("the server sends more than any login could need")
    raise OperationalError(bytes(pgconn.error_message).decode("utf-8", "replace").strip())


def request_cancel(pgconn: "PGconn", deadline: float) -> None:
    """Ask the server, over another connection, to end the statement on this one. Raises OperationalError."""
    if pq.version() < _CANCELS_SAFELY:
        try:
            within(_left(deadline), pgconn.get_cancel().cancel)
        except OverdueError:
            raise NoAnswerError("no answer in time") from None
        return
    cancel = pgconn.cancel_conn()
    cancel.start()
    while True:
        state = cancel.poll()
        if state == PollingStatus.OK:
            return
        if state == PollingStatus.FAILED:
            raise OperationalError(cancel.get_error_message())
        ready(cancel.socket, READ if state == PollingStatus.READING else WRITE, _left(deadline))


def _left(deadline: float, otherwise: str = "no answer in time") -> float:
    left = deadline - monotonic()
    if left <= 0:
        raise NoAnswerError(otherwise)
    return left


def _waiting(fd: int) -> int:
    """Bytes that can be read now."""
    return int.from_bytes(ioctl(fd, _FIONREAD, bytes(4)), sys.byteorder)


def _taken(fd: int) -> int:
    """Bytes that were read from a connection so far. 0 for a local socket, whose server is this machine."""
    with socket.socket(fileno=os.dup(fd)) as twin:
        try:
            info = twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED + 8)
        except OSError:
            return 0
    return int.from_bytes(info[_RECEIVED:], sys.byteorder) - _waiting(fd)


# --- questions --------------------------------------------------------------------------------------------------------


class Unasked:
    """What a server sends unasked, on its way to psycopg."""

    def __init__(self) -> None:
        self.size: int = 0
        """Bytes of all notices so far."""
        self.own = False
        """The pool itself asks and waits: if a borrower's handler fails meanwhile, the question has not failed."""
        self.notified: bool = False
        """There were notifications."""
        self._pass_on: Callable[[PGnotify], None] | None = None

    def listen(self, pgconn: "PGconn") -> None:
        """Step in between libpq and psycopg."""
        self._pass_on = pgconn.notify_handler
        pgconn.notify_handler = self.notify

    def notify(self, notify: "PGnotify") -> None:
        """To be called with each notification."""
        self.notified = True
        try:
            if self._pass_on is not None:
                self._pass_on(notify)
        except Exception:
            if not self.own:
                raise
            log.exception("a notify handler failed")

    def notice(self, notice: Diagnostic) -> None:
        """To be called with each notice."""
        texts = (notice.message_primary, notice.message_detail, notice.message_hint, notice.context)
        self.size += sum(len((text or "").encode()) for text in texts)


def is_unanswered(pgconn: "PGconn") -> bool:
    """Whether the answer to what was sent last is lost, or may still come."""
    return pgconn.status != ConnStatus.OK or pgconn.transaction_status == TransactionStatus.ACTIVE


def is_struck(pgconn: "PGconn", error: BaseException) -> bool:
    """Whether a time limit of the user's own, or other code of theirs, ended the wait for an answer."""
    own = not isinstance(error, Error | LambdaPoolError)
    return own and may_be_handled(error) and is_unanswered(pgconn)


def exchange(
    pgconn: "PGconn", query: bytes | None, answers: "list[PGresult] | None", unasked: Unasked, *, bounded: bool
) -> Generator[Wait, int, None]:
    """For `Connection.wait`: send a query (None: one was sent before), and collect its results in `answers`.

    `bounded`: give up on a server that sends without end. Raises the server's first error, once all is read.
    """
    if query is not None:
        pgconn.send_query(query)
    before: int | None = None  # bytes that were taken before the answer that needs more than one read
    allowed, notified = _MOST - unasked.size, 0
    failure: Exception | None = None
    try:
        while pgconn.flush():
            if (yield Wait.RW) & Ready.R:
                pgconn.consume_input()
        while True:
            while pgconn.is_busy():
                if not (yield Wait.R):
                    continue
                pgconn.consume_input()
                pgconn.is_busy()  # this reads the notices out of what came in
                size, memory = _pass_on(pgconn)
                allowed, notified = allowed + size, notified + memory
                if not bounded or not pgconn.is_busy():  # one read is enough for nearly every answer
                    continue
                taken = _taken(pgconn.socket)
                before = taken if before is None else before
                if taken - before > allowed + unasked.size or notified > _MOST_NOTIFIED:
                    raise OperationalError("the server sends more than any answer could need")
            result = pgconn.get_result()
            if result is None:
                break
            if result.status == ExecStatus.COPY_IN:
                refusal = yield from _break_off(pgconn)
                failure = failure or refusal
                continue
            if result.status in _COPY:  # libpq would give one such "result" after another
                raise OperationalError(_UNFINISHED)
            if result.status == ExecStatus.FATAL_ERROR:
                failure = failure or error_from_result(result)
            if answers is not None:
                answers.append(result)
                if bounded and len(answers) > _MOST_RESULTS:
                    raise OperationalError("the server sends more than any answer could need")
    except OperationalError:
        if failure is None or pgconn.status == ConnStatus.OK:
            raise  # otherwise the server has said why it closes the connection
    pgconn.is_busy()  # libpq is idle now, and drops what came in behind the answer
    _pass_on(pgconn)
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # it refers to this frame, and would keep the connection until the next garbage collection


def _break_off(pgconn: "PGconn") -> Generator[Wait, int, Error | None]:
    """End a COPY that waits for more data. Out: what the server says of it."""
    try:
        yield from copy_end(pgconn, _UNFINISHED.encode())
    except Error as error:
        return error
    return None


def _pass_on(pgconn: "PGconn") -> tuple[int, int]:
    """Give notifications to psycopg. Out: their bytes, and the memory that they may take."""
    size = count = 0
    while notify := pgconn.notifies():
        size += len(notify.relname) + len(notify.extra)
        count += 1
        if pgconn.notify_handler:
            pgconn.notify_handler(notify)
    return size, size + count * _NOTIFY
