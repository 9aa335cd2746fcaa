"""One psycopg connection as the pool drives it."""

import select
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...errors import LambdaPoolError
from ..base import Condition, Link, Outcome, cancelled, rest, uncertain
from ..bounded_socket import dead_end, shut_down

if TYPE_CHECKING:
    from collections.abc import Generator

    import psycopg
    from psycopg.adapt import AdaptersMap
    from psycopg.pq import PGnotify
    from psycopg.pq.abc import PGconn, PGresult

# libpq's enumerations as plain numbers (libpq-fe.h): psycopg's IntEnum members would cost an import and 30 ns each.
_CONNECTION_OK = 0
_IDLE, _ACTIVE, _IN_TRANSACTION, _IN_ERROR = 0, 1, 2, 3
_WHOLE = (_IDLE, _IN_TRANSACTION)
_POLLING_READING, _POLLING_WRITING, _POLLING_OK = 1, 2, 3
_PIPELINE_OFF = 0
_EMPTY_QUERY, _COMMAND_OK, _FATAL_ERROR = 0, 1, 7
_REFUSALS = (_FATAL_ERROR, 3, 4, 8)  # COPY out, in, both
_CLEAN, _UNCOMMITTED, _CHANGED = Condition.CLEAN, Condition.UNCOMMITTED, Condition.CHANGED
_READ, _WRITE = 1, 2

# Seconds after which psycopg's wait lets Python handle a signal; its own 0.1 would take a third of the time that a
# cancel before the deadline leaves. And it begins anew with each signal, so that an alarm that rings as often would
# keep it from ever looking at the clock.
_SIGNAL_INTERVAL = 0.02
_LOOK = 20  # the same in milliseconds, for waits of our own

# Seconds to read the rest of a result that a borrower left unread, where no deadline says better.
_DRAIN_TIMEOUT = 30.0

_AT_WORK = (
    "the connection was still at work when it was given back: finish or close a cursor.stream(), a conn.notifies(), "
    "a conn.pipeline() or a thread before its block ends; nothing was committed"
)
# What a server sends after so many reads is counted, and is not to fill the function's memory: a login takes up to ten,
# any other answer one. FIONREAD, here by its number on Linux, tells how much is there to be read.
LOGIN_READS = 8
_MOST = 1 << 20
_FIONREAD = 0x541B
# After how many results the clock is looked at.
_PAUSE = 1000
# No kind of result.
_NONE = -1


class PostgresLink:
    """One psycopg connection."""

    def __init__(self, conn: "psycopg.Connection[Any]") -> None:
        self.conn = conn
        self._pgconn: PGconn = conn.pgconn
        poller = select.poll()
        poller.register(self._pgconn.socket, select.POLLIN)
        self._poll = poller.poll
        self._autocommit = conn.autocommit
        self._row_factory = conn.row_factory
        self._cursor_factory = conn.cursor_factory
        self._session = conn.server_cursor_factory, conn.prepare_threshold, conn.prepared_max
        self._adapters = _copy(conn._adapters)
        self._transaction: Any = None
        self._ended = False
        self._cancelled = False
        self._own = False
        self.backend_id: int = self._pgconn.backend_pid
        conn._start_query = self._start_query  # type: ignore[method-assign, assignment]

    # --- the warm path ------------------------------------------------------------------------------------------------

    def quiet(self) -> bool:
        """The free check, and libpq's own word: a closed descriptor's number may be somebody else's now."""
        poll = self._poll  # a variable first, here and below: CPython has no shortcut to a call of an attribute's value
        return not poll(0) and self._pgconn.status == _CONNECTION_OK

    def at_rest(self) -> bool:
        """By libpq's word for the transaction."""
        return self._pgconn.transaction_status == _IDLE

    def condition(self) -> Condition:
        """By libpq's word for the transaction; psycopg's settings are attributes."""
        conn = self.conn
        status = self._pgconn.transaction_status
        if (
            status in _WHOLE
            and conn._autocommit is self._autocommit
            and conn._isolation_level is None
            and conn._read_only is None
            and conn._deferrable is None
            and conn.row_factory is self._row_factory
            and conn.cursor_factory is self._cursor_factory
            and self._pgconn.pipeline_status == _PIPELINE_OFF
            and self._transaction is None
            # In its own transaction block, and in a two-phase commit, psycopg refuses COMMIT: the next borrower's too.
            and not conn._num_transactions
            and conn._tpc is None
        ):
            if status == _IN_TRANSACTION:
                return _UNCOMMITTED
            if not conn.lock.locked():  # as a notifies() does that waits to go on
                return _CLEAN
        return _CHANGED

    def commit(self, timeout: float | None) -> bool:
        """COMMIT, past psycopg, whose own way there takes 13,000 instructions more."""
        lock = self.conn.lock
        if lock.locked():
            raise LambdaPoolError(_AT_WORK)
        with lock:
            poll = self._poll
            if poll(0):
                timeout = self._hear_out(timeout)
            self._own = True
            try:
                self._put(b"COMMIT", timeout, _COMMAND_OK)
                if self._pgconn.transaction_status != _IDLE:
                    raise TimeoutError("the transaction is still open")
            except Exception as error:
                self._raise_unless_answered(error)
                raise
            finally:
                self._own = False
        return True

    # --- everything else ----------------------------------------------------------------------------------------------

    def ping(self, timeout: float) -> None:
        """An empty query: what every server and pooler answers, and nothing that a proxy would pin for."""
        self._ask(b"", timeout)
        self._check_idle()

    def _check_idle(self) -> None:
        pgconn = self._pgconn
        if pgconn.status != _CONNECTION_OK or pgconn.transaction_status != _IDLE:
            raise TimeoutError("the connection is not idle after a ping or a reset")

    def _hear_out(self, timeout: float | None) -> float | None:
        """Raises if it is the server's good-bye: COMMIT is then never sent, and nothing is uncertain.

        Out: the seconds that are left of `timeout`.
        """
        deadline = None if timeout is None else monotonic() + timeout
        self._ask(b"", _DRAIN_TIMEOUT if timeout is None else timeout)
        return rest(deadline)

    def _ask(self, query: bytes, timeout: float | None, *, kind: int = _EMPTY_QUERY) -> None:
        """A question of the pool's own."""
        self._own = True
        try:
            self._put(query, timeout, kind)
        finally:
            self._own = False

    def _put(self, query: bytes, timeout: float | None, kind: int) -> None:
        """Send one query and read its answer, a single result of this kind, within `timeout` seconds (None: no bound).

        Raises the server's error, OperationalError or TimeoutError.
        """
        pgconn = self._pgconn
        deadline = None if timeout is None else monotonic() + timeout
        pgconn.send_query(query)
        # Nearly always all of it goes out at once, and the answer comes so.
        look = _LOOK if timeout is None or timeout > _SIGNAL_INTERVAL else timeout * 1000
        poll = self._poll
        if not pgconn.flush() and poll(look):
            pgconn.consume_input()
        if _exchange(pgconn, deadline) != kind:
            from psycopg import OperationalError

            # The answer to something else: the one to this may still come, and be taken for the next borrower's.
            raise OperationalError(f"the server answered with something else than one result of kind {kind}")

    def _start_query(self) -> "Generator[int, int, None]":
        """In the place of psycopg's: BEGIN in front of a transaction's first statement, 13,000 instructions shorter."""
        conn = self.conn
        if conn._autocommit or self._pgconn.transaction_status != _IDLE:
            return
        if self._transaction is not None:  # a raw COMMIT or ROLLBACK has ended what `begin` began
            self._ended = True
        if conn._pipeline is not None:
            yield from type(conn)._start_query(conn)
            return
        self._put(conn._get_tx_start_command(), None, _COMMAND_OK)

    def closed_by_user(self) -> bool:
        """Psycopg tells a close from a loss."""
        return self.conn.closed and not self.conn.broken

    def closed_in_transaction(self) -> bool:
        """Nobody knows: what the driver knew is gone with its connection."""
        return self.closed_by_user()

    def read_only(self) -> bool:
        """What psycopg sends with BEGIN."""
        return bool(self.conn.read_only)

    def refused_write(self) -> bool:
        """By libpq's last message (English, as on RDS): outside of a transaction nothing else is left of an error."""
        pgconn = self._pgconn
        if pgconn.transaction_status != _IN_ERROR:
            return False
        return pgconn.error_message.partition(b"\n")[0].endswith(b" in a read-only transaction")

    def begin(self, *, readonly: bool, guarded: bool, timeout: float) -> None:
        """Settings that shape the BEGIN that psycopg sends with the first statement.

        Guarded, psycopg's own transaction block, and BEGIN is sent here: `commit()` raises in it, and inner blocks
        become savepoints.
        """
        if self.conn.autocommit:
            self.conn.autocommit = False
        if readonly:
            self.conn.read_only = True
        if guarded:
            self._ended = False
            self._transaction = self.conn.transaction()
            try:
                self._within(timeout, self._transaction.__enter__)
            except BaseException:
                self.sever()  # BEGIN may be answered yet
                raise

    def replayable(self) -> bool:
        """By libpq's word for the transaction. A raw COMMIT whose own answer is lost leaves no trace on the client."""
        pgconn = self._pgconn
        return not (self._ended or (pgconn.status == _CONNECTION_OK and pgconn.transaction_status == _IDLE))

    def finish(self, *, commit: bool, timeout: float | None) -> Outcome:
        """COMMIT or ROLLBACK, where a transaction is open."""
        pgconn = self._pgconn
        deadline = None if timeout is None else monotonic() + timeout
        if pgconn.status != _CONNECTION_OK:
            return Outcome.FAILED
        if pgconn.transaction_status == _IDLE:
            return Outcome.NONE
        if self.conn.lock.locked() or pgconn.pipeline_status != _PIPELINE_OFF:
            raise LambdaPoolError(_AT_WORK)
        if pgconn.transaction_status == _ACTIVE:
            self._drain(timeout)
            timeout = rest(deadline)
        status = pgconn.transaction_status
        if status == _IDLE:
            return Outcome.NONE
        if status == _IN_TRANSACTION and commit:
            if not self.quiet():
                timeout = self._hear_out(timeout)
            self._commit(timeout)
            return Outcome.COMMITTED
        try:
            self._within(timeout, self._rollback)
        except BaseException:
            # ROLLBACK cannot fail: whatever that was, it was not the answer.
            self.drop()
            raise
        return Outcome.FAILED if commit else Outcome.ROLLED_BACK

    def _commit(self, timeout: float | None) -> None:
        try:
            if self._transaction is None:
                self._commit_within(timeout)
            else:
                transaction, self._transaction = self._transaction, None
                self._within(timeout, partial(transaction.__exit__, None, None, None))
            if self._pgconn.transaction_status != _IDLE:
                raise TimeoutError("the transaction is still open")
        except Exception as error:
            self._raise_unless_answered(error)
            raise

    def _raise_unless_answered(self, error: Exception) -> None:
        """The server's own "no" to COMMIT, on a connection that lives, is an answer. Anything else is none.

        Psycopg's own "no", before anything is sent, is one too.
        """
        from psycopg import ProgrammingError

        pgconn = self._pgconn
        if isinstance(error, ProgrammingError) and pgconn.transaction_status == _IN_TRANSACTION:
            return
        answered = pgconn.status == _CONNECTION_OK and pgconn.transaction_status != _ACTIVE
        if not (answered and _is_answer(getattr(error, "sqlstate", None))):
            raise uncertain(error) from error

    def _commit_within(self, timeout: float | None) -> None:
        """Psycopg's `commit()`, bounded: where a borrower changed a setting, or left psycopg's own block open.

        `_within` would do, for 20,000 instructions more in a warm invocation: with `wait` shadowed CPython unlearns
        where the connection's attributes are, for the borrower's next statements too.
        """
        conn = self.conn
        self._own = True
        try:
            with conn.lock:
                type(conn).wait(conn, conn._commit_gen(), _SIGNAL_INTERVAL, timeout)
        finally:
            self._own = False

    def _rollback(self) -> None:
        if self._transaction is None:
            self.conn.rollback()
            return
        from psycopg import Rollback

        transaction, self._transaction = self._transaction, None
        transaction.__exit__(Rollback, Rollback(), None)

    def _drain(self, timeout: float | None) -> None:
        """Read a streamed result to its end, so that its transaction can be ended. An open COPY cannot be."""
        _exchange(self._pgconn, monotonic() + (_DRAIN_TIMEOUT if timeout is None else timeout), most=float("inf"))

    def restore(self, timeout: float | None) -> bool:
        """Settings live in the driver: putting them back costs no round trip."""
        # What came in behind an answer, and is none to a question of ours, libpq drops while it is idle; left where it
        # is, it would be taken for the answer to the next.
        self._pgconn.is_busy()
        if self.condition() is _CLEAN:
            return True
        conn = self.conn
        if (
            self._pgconn.transaction_status != _IDLE
            or self._pgconn.pipeline_status != _PIPELINE_OFF
            or conn.lock.locked()
        ):
            return False
        conn.row_factory = self._row_factory
        conn.cursor_factory = self._cursor_factory
        if conn.isolation_level is not None:
            conn.isolation_level = None
        if conn.read_only is not None:
            conn.read_only = None
        if conn.deferrable is not None:
            conn.deferrable = None
        if conn.autocommit is not self._autocommit:
            conn.autocommit = self._autocommit
        return self.condition() is _CLEAN

    def reset_session(self, timeout: float | None) -> None:
        """DISCARD ALL. psycopg is told which prepared statements are gone: by itself it sees the first one only."""
        self._ask(b"DISCARD ALL", timeout, kind=_COMMAND_OK)
        self._check_idle()
        prepared = self.conn._prepared
        prepared.clear()
        prepared._to_flush.clear()  # the DEALLOCATE ALL that it would send next
        conn = self.conn
        conn.server_cursor_factory, conn.prepare_threshold, conn.prepared_max = self._session
        conn._adapters = _copy(self._adapters)
        conn._notice_handlers.clear()
        conn._notify_handlers.clear()

    def watch(self) -> None:
        """Through psycopg's public seam: every method of a connection waits through its `wait`."""
        conn = self.conn
        wait = conn.wait

        def watched(generator: Any, interval: float = _SIGNAL_INTERVAL, **kwargs: Any) -> Any:
            try:
                result = wait(generator, min(interval, _SIGNAL_INTERVAL), **kwargs)
            except Exception as error:
                if not self._cancelled:
                    raise
                self._cancelled = False
                raise cancelled(error) from error
            self._cancelled = False  # the answer was faster than the cancel
            return result

        conn.wait = watched  # type: ignore[method-assign,assignment]

    def running(self) -> bool:
        """What libpq knows, without a look at the socket. Our own COMMIT or ping is not the borrower's statement."""
        return self._pgconn.transaction_status == _ACTIVE and not self._own

    def cancel(self, timeout: float, aside: Callable[[], Link]) -> bool:
        """PostgreSQL's own cancel request."""
        self._cancelled = True
        try:
            self.conn.cancel_safe(timeout=timeout)
        except Exception:  # noqa: BLE001 - whatever went wrong, the caller's answer is to sever
            return False
        return True

    def close(self, timeout: float) -> None:
        """Libpq's Terminate does not block: psycopg keeps the socket non-blocking."""
        if self.conn.lock.locked():
            # Some other thread is inside libpq: freeing the connection under it would crash the process.
            self.sever()
            return
        try:
            self._release()
        except Exception:  # noqa: BLE001 - a connection that cannot say good-bye is dropped
            self.drop()

    def _release(self) -> None:
        """Close it, and let go of its memory and its descriptor now.

        Psycopg leaves those of a connection that was lost to the garbage collector, for which what we put into it makes
        a circle.
        """
        self.conn.close()
        self._pgconn.finish()
        vars(self.conn).pop("wait", None)
        vars(self.conn).pop("_start_query", None)

    def drop(self) -> None:
        """Put a dead end in the socket's place, so that libpq's Terminate reaches nobody."""
        with suppress(Exception):  # already closed: nothing is left to drop
            dead_end(self._pgconn.socket)
            self._release()

    def cut(self) -> None:
        """As `sever`, noted for `watch`."""
        self._cancelled = True
        self.sever()

    def sever(self) -> None:
        """shutdown() on the socket; libpq notices at its next call."""
        with suppress(Exception):  # already closed: nothing is left to sever
            shut_down(self._pgconn.socket)

    def _within(self, timeout: float | None, work: Callable[[], object]) -> None:
        """Call one of the driver's methods with all its waits bound to `timeout` seconds (None: no bound).

        Through psycopg's public seam: every method of a connection waits through its `wait`, which takes a timeout.
        """
        conn = self.conn
        watched = vars(conn).get("wait")
        self._own = True
        conn.wait = partial(type(conn).wait, conn, interval=_SIGNAL_INTERVAL, timeout=timeout)  # type: ignore[method-assign]
        try:
            work()
        finally:
            del conn.wait
            if watched is not None:
                conn.wait = watched  # type: ignore[method-assign]
            self._own = False


def _is_answer(state: str | None) -> bool:
    """True for a SQLSTATE that says that COMMIT failed; others say that nobody knows (a pooler's, for one)."""
    return state is not None and len(state) == 5 and not state.startswith("08") and state != "40003"


def _copy(adapters: "AdaptersMap | None") -> "AdaptersMap | None":
    """None stands for psycopg's own, which it looks up when it first needs them."""
    return adapters and type(adapters)(adapters)


def _exchange(pgconn: "PGconn", deadline: float | None, most: float = _MOST) -> int:
    """Flush what was sent and read every result. Out: the kind of the only one, else _NONE. Raises the server's error.

    A warm invocation's COMMIT comes by: nothing is made or imported but where it is needed.
    """
    patience: Patience | None = None
    failure: Exception | None = None
    count = 0
    only = _NONE
    if pgconn.flush():
        patience = Patience(pgconn, deadline, most)
        patience.flush()
    while True:
        if pgconn.is_busy():
            patience = patience or Patience(pgconn, deadline, most)
            patience.read()
        result = pgconn.get_result()
        if result is None:
            break
        count += 1
        kind = result.status
        if count == 1:
            only = kind
        else:
            only = _NONE
            if not count % _PAUSE:
                _left(deadline)  # what came in at once may hold any number of them
        if kind in _REFUSALS:
            failure = _refusal(result)
    pgconn.is_busy()  # see `restore`
    # What the server sent unasked came in with the answer: psycopg looks for it only when the socket turns readable.
    notify = pgconn.notifies()
    if notify is not None:
        _pass_on(pgconn, notify)
    if failure is not None:
        raise failure
    return only


def _refusal(result: "PGresult") -> Exception:
    """The server's error. Raises OperationalError for a COPY, of which libpq has one "result" after another."""
    from psycopg import OperationalError
    from psycopg.errors import error_from_result

    if result.status == _FATAL_ERROR:
        return error_from_result(result)
    raise OperationalError("a COPY was left unfinished, so its transaction cannot be committed")


def _pass_on(pgconn: "PGconn", notify: "PGnotify | None") -> None:
    while notify is not None:
        if pgconn.notify_handler:
            try:
                pgconn.notify_handler(notify)
            except Exception:
                # It came in with the answer to a question of ours, and says nothing against that.
                import logging

                logging.getLogger("lambda_pool").exception("a notify handler failed")
        notify = pgconn.notifies()


def _left(deadline: float | None) -> float:
    """Milliseconds until the deadline; infinite if there is none. Raises TimeoutError when it has passed."""
    if deadline is None:
        return float("inf")
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left * 1000


class Patience:
    """How long an exchange with the server may take, and how many bytes it may send once it talks at length."""

    __slots__ = ("_deadline", "_pgconn", "_reads", "_room")

    def __init__(self, pgconn: "PGconn", deadline: float | None, most: float = _MOST, reads: int = 0) -> None:
        self._pgconn = pgconn
        self._deadline = deadline
        self._room = most
        self._reads = reads

    def wait(self, wanted: int) -> int:
        """Wait until the socket is ready, and say for what. Raises TimeoutError at the deadline, also if it always is.

        A new poller each time: libpq may change its socket between two addresses.
        """
        fd = self._pgconn.socket
        poller = select.poll()
        poller.register(fd, (select.POLLIN if wanted & _READ else 0) | (select.POLLOUT if wanted & _WRITE else 0))
        # In short pieces: a signal that comes just before the call does not end it.
        while not (ready := poller.poll(min(_left(self._deadline), _LOOK))):
            pass
        # Errors and hang-ups count as readable: the driver finds them when it reads.
        got = ready[0][1]
        if got & ~select.POLLOUT:
            self._reads -= 1
            if self._reads < 0:
                self._count(fd)
        return (_READ if got & ~select.POLLOUT else 0) | (_WRITE if got & select.POLLOUT else 0)

    def flush(self) -> None:
        """Until all that was to be sent is. Raises TimeoutError at the deadline."""
        while self._pgconn.flush():
            if self.wait(_READ | _WRITE) & _READ:
                self._pgconn.consume_input()

    def read(self) -> None:
        """Until a whole result is there. Raises TimeoutError at the deadline."""
        while self._pgconn.is_busy():
            self.wait(_READ)
            self._pgconn.consume_input()

    def _count(self, fd: int) -> None:
        from fcntl import ioctl

        self._room -= int.from_bytes(ioctl(fd, _FIONREAD, bytes(4)), sys.byteorder)
        if self._room < 0:
            from psycopg import OperationalError

            raise OperationalError("the server sends more than any answer could need")
