"""One psycopg connection as the pool drives it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import psycopg
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus, TransactionStatus

from ...errors import DeadlineExceeded
from ...waiting import FreeCheck
from ..base import (
    Condition,
    EngineConnection,
    Facts,
    Failure,
    Outcome,
    Status,
    at_work,
    cause,
    lost_answer,
    rest,
    uncertain,
    warn_left_prepared,
)
from ..bounded_socket import dead_end, shut_down
from .cursors import at_once
from .libpq import is_struck, request_cancel

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from .async_connection import AsyncPooledConnection
    from .connection import PooledConnection

log: logging.Logger = logging.getLogger("lambda_pool")

_OK = ConnStatus.OK
_IDLE, _ACTIVE = TransactionStatus.IDLE, TransactionStatus.ACTIVE
_IN_TRANSACTION, _IN_ERROR = TransactionStatus.INTRANS, TransactionStatus.INERROR
_NO_PIPELINE = PipelineStatus.OFF
_STATUS: dict[int, Status] = {
    _IDLE: Status.IDLE,
    _IN_TRANSACTION: Status.IN_TRANSACTION,
    _IN_ERROR: Status.FAILED,
    TransactionStatus.UNKNOWN: Status.CLOSED,
}

# Seconds to read the rest of a result that a borrower left unread, unless a deadline is earlier.
_DRAIN_TIMEOUT = 30.0
# The same if the block was interrupted while it waited: nothing is lost if the connection is closed instead.
_INTERRUPTED_TIMEOUT = 1.0

_USERS = "finish or close a cursor.stream(), a conn.notifies(), a conn.pipeline(), a task or a thread"
# DISCARD ALL without DEALLOCATE ALL: psycopg relies on the statements that it has prepared. It goes out in one message
# with COMMIT, where DISCARD ALL itself is not allowed.
_RESET = (
    b"CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(); "
    b"DISCARD TEMP; DISCARD SEQUENCES"
)
# Finds what sets up a session at its login, and is not called again after a reset.
_AT_LOGIN = b"; SELECT FROM pg_catalog.pg_event_trigger WHERE evtevent = 'login' AND evtenabled IN ('O', 'A')"
_KNOWS_LOGIN = 170000  # the first version with such triggers
# Ends statements that the borrower prepared with SQL's PREPARE; `from_sql` tells them from the protocol's.
_DEALLOCATE = (
    b"; DO $$ DECLARE name text; BEGIN FOR name IN SELECT p.name FROM pg_catalog.pg_prepared_statements p "
    b"WHERE p.from_sql LOOP EXECUTE pg_catalog.format('DEALLOCATE %I', name); END LOOP; END $$"
)


def _is_answer(result: "PGresult", end: bytes) -> bool:
    """Whether it is the answer to the first statement of a message that begins with `end`."""
    return result.status == ExecStatus.COMMAND_OK and (not end or result.command_status == end.partition(b";")[0])


class PostgresConnection:
    """One psycopg connection. `reset`, `session_idle`: see ConnectRequest."""

    def __init__(
        self,
        conn: "PooledConnection | AsyncPooledConnection",
        reset: str,
        session_idle: float,
    ) -> None:
        self.driver_connection = conn
        self.session_idle = session_idle
        self.backend_id: int = conn.pgconn.backend_pid
        self._libpq = conn.pgconn
        self._socket = FreeCheck(conn.pgconn.socket)
        self._after = reset
        self._resets = reset != "transaction"
        self._set_up = False  # a framework changed the session, which no reset may undo
        self._at_login = _AT_LOGIN if conn.pgconn.server_version >= _KNOWS_LOGIN else b""
        self._lacks_set_up = False
        self.set_baseline()

    def set_baseline(self) -> None:
        """The server is not told again what the framework told it: a connection that needs a reset is then closed."""
        self._set_up = self._set_up or self.driver_connection.pooled.changed
        self.driver_connection.set_baseline(noting=self._resets)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Afterwards, the notes on the session are as before. The driver's settings can all be put back anyway."""
        noted = self.driver_connection.pooled
        before = noted.changed, noted.prepared
        yield
        noted.changed, noted.prepared = before

    @contextmanager
    def limited(self, timeout: float) -> Iterator[None]:
        """A wait in the block raises NoAnswerError after `timeout` seconds."""
        noted = self.driver_connection.pooled
        before, noted.until = noted.until, monotonic() + timeout
        try:
            yield
        finally:
            noted.until = before

    def read_rest(self, timeout: float | None) -> None:
        """`rollback` does that."""

    # --- checkout -----------------------------------------------------------------------------------------------------

    def is_silent(self) -> bool:
        """Asks the kernel. False if libpq has closed it: the descriptor's number may be somebody else's now."""
        return self._libpq.status == _OK and self._socket.is_silent()

    def status(self) -> Status:
        """From libpq's status of the transaction."""
        status, noted = self._libpq.transaction_status, self.driver_connection.pooled
        if status == _ACTIVE:
            own = noted.saving is not None or noted.alone(self.driver_connection.autocommit)
            return Status.ENDING if noted.unasked.own else Status.COMMITTING if own else Status.BUSY
        if noted.lost_commit:
            return Status.COMMITTING
        # It was lost while nothing was open. What a lost statement may have saved is noted by the thread that sent it.
        alone = noted.alone(self.driver_connection.autocommit) and not noted.knowing
        return Status.IDLE if status == TransactionStatus.UNKNOWN and alone else _STATUS[status]

    def ping(self, timeout: float) -> None:
        """An empty query: every server and pooler answers it, and no proxy pins for it."""
        self._ask_nothing(timeout)
        self._check_idle()

    def sessions(self, timeout: float) -> tuple[int, int]:
        """From the server's statistics."""
        from .occupancy import sessions

        return sessions(self.driver_connection, timeout)

    def begin(self, *, readonly: bool, guarded: bool, timeout: float) -> None:
        """Change the settings of the BEGIN that psycopg sends with the first statement. If guarded, send BEGIN now."""
        conn = self.driver_connection
        if conn.autocommit:
            conn.put("autocommit", False)
        if readonly:
            conn.put("read_only", True)
        if guarded:
            conn.pooled.ended = conn.pooled.unheard = False
            conn.pooled.guarded = conn.pooled.noting = True
            try:
                conn.within(timeout, conn.begin)
            except BaseException:
                self.abort()  # the answer to BEGIN may still come
                raise

    # --- what is known ------------------------------------------------------------------------------------------------

    def inspect(self, *, ask: bool = False) -> Facts:
        """From libpq's status, psycopg's attributes, and what was noted about the statements."""
        conn, pgconn, noted = self.driver_connection, self._libpq, self.driver_connection.pooled
        alive, status = pgconn.status == _OK, pgconn.transaction_status
        return Facts(
            self._condition(),
            not alive and not conn.broken,
            noted.closed_in_transaction,
            bool(conn.read_only),
            noted.hidden,
            # A COMMIT whose answer was lost was noted too.
            not (noted.ended or (alive and status == _IDLE)),
            noted.ended and not noted.unheard,
        )

    def _condition(self) -> Condition:
        conn = self.driver_connection
        status = self._libpq.transaction_status
        if (
            conn.is_as_lent(wholly=self._resets)
            and self._libpq.pipeline_status == _NO_PIPELINE
            and not conn.pooled.guarded
            # In its own transaction block, and in a two-phase commit, psycopg refuses COMMIT: the next borrower's too.
            and not conn.pooled.blocks
            and not conn.pooled.two_phase
            and not conn.pooled.left_prepared
            and not conn.pooled.lost_commit  # it came after all, and is no answer to the next borrower's
            and conn.pooled.hidden is Failure.OTHER
            and not (conn.pooled.streams and conn.pooled.open_streams())
            and not self._due()
        ):
            if status == _IN_TRANSACTION:
                return Condition.UNCOMMITTED
            # A suspended notifies() holds the lock.
            if status == _IDLE and not conn.lock.locked():
                return Condition.CLEAN
        return Condition.CHANGED

    def _due(self) -> bool:
        """Whether a reset of the session is due."""
        return self._after == "session" or (self._after == "changed" and self.driver_connection.pooled.changed)

    # --- return -------------------------------------------------------------------------------------------------------

    def commit(self, timeout: float | None, *, last: bool = True) -> Outcome:
        """COMMIT, together with a reset that is due."""
        return self._end(commit=True, timeout=timeout, last=last)

    def rollback(self, timeout: float | None, *, last: bool = True) -> Outcome:
        """ROLLBACK, together with a reset that is due."""
        return self._end(commit=False, timeout=timeout, last=last)

    def _end(self, *, commit: bool, timeout: float | None, last: bool) -> Outcome:
        pgconn, conn = self._libpq, self.driver_connection
        deadline = None if timeout is None else monotonic() + timeout
        held = conn.lock.locked() and conn.lock.is_held(timeout)
        if pgconn.status != _OK:
            if commit and conn.pooled.lost_commit:
                raise uncertain(conn.pooled.lost_commit)
            # If nothing was open, all that was answered is saved.
            return Outcome.NONE if conn.pooled.alone(conn.autocommit) else Outcome.FAILED
        if pgconn.pipeline_status != _NO_PIPELINE:
            # A sync(), which commits in autocommit mode, and an answered commit() leave no other trace.
            synced = conn.pooled.saving is not None or pgconn.transaction_status == _IDLE
            raise at_work(_USERS, saving=commit and synced)
        if conn.pooled.left_prepared:
            warn_left_prepared(conn.pooled.left_prepared, "tpc_commit() or tpc_rollback()")
            conn.pooled.left_prepared = ""
        if pgconn.transaction_status == _IDLE:
            return Outcome.NONE
        if held:
            raise at_work(
                _USERS, saving=commit and (conn.pooled.saving is not None or conn.pooled.alone(conn.autocommit))
            )
        timeout = rest(deadline)
        if pgconn.transaction_status == _ACTIVE:  # a COPY cannot be read to its end
            bound = _DRAIN_TIMEOUT if commit else _INTERRUPTED_TIMEOUT
            try:
                conn.within(bound if timeout is None else min(timeout, bound), partial(conn.exchange, None, None))
            except psycopg.Error as error:  # what is undone may have failed
                if commit and conn.pooled.lost_commit and not conn.answered(error):
                    raise uncertain(conn.pooled.lost_commit) from error
                if commit:
                    raise
            timeout = rest(deadline)
        status = pgconn.transaction_status
        if status == _IDLE:
            return Outcome.NONE
        reset = last and self._due() and not self._set_up
        if status == _IN_TRANSACTION and commit:
            self._commit(timeout, reset=reset)
            return Outcome.COMMITTED
        try:
            self._rollback(timeout, reset=reset)
        except BaseException:
            # ROLLBACK itself cannot fail, so that was not the answer to it.
            self.discard()
            raise
        return Outcome.FAILED if commit else Outcome.ROLLED_BACK

    def _commit(self, timeout: float | None, *, reset: bool) -> None:
        deadline = None if timeout is None else monotonic() + timeout
        if not self.is_silent():
            # If the server has closed the connection, COMMIT is never sent, and nothing is uncertain.
            self._ask_nothing(_DRAIN_TIMEOUT if timeout is None else timeout)
            timeout = rest(deadline)
        conn, pgconn = self.driver_connection, self._libpq
        answers: list[PGresult] = []
        try:
            if reset and not (conn.pooled.blocks or conn.pooled.two_phase):
                self._end_and_reset(b"COMMIT; ", answers, timeout)
            else:
                conn.within(timeout, partial(conn.end, commit=True))
            pgconn.is_busy()  # libpq is idle now, and drops what came in behind the answer
            if pgconn.transaction_status != _IDLE:
                raise psycopg.OperationalError("the transaction is still open")
        except (psycopg.Error, DeadlineExceeded) as error:
            if answers and _is_answer(answers[0], b"COMMIT; "):
                # The work is saved, but the connection cannot be kept.
                log.debug("resetting a session failed: %s", error)
                return
            said = cause(error)
            if not conn.answered(said):
                raise uncertain(lost_answer(said)) from said
            raise
        except BaseException as error:
            if is_struck(pgconn, error):
                raise uncertain(lost_answer(error)) from error
            raise

    def _rollback(self, timeout: float | None, *, reset: bool) -> None:
        conn = self.driver_connection
        if reset:
            self._end_and_reset(b"ROLLBACK; ", [], timeout)
        elif conn.pooled.blocks or conn.pooled.two_phase:  # where psycopg's own rollback() refuses
            conn.within(timeout, partial(conn.ask, b"ROLLBACK", ExecStatus.COMMAND_OK))
        else:
            conn.within(timeout, partial(conn.end, commit=False))
        self._libpq.is_busy()

    def _end_and_reset(self, end: bytes, answers: "list[PGresult]", timeout: float | None) -> None:
        """End the transaction and reset the session, in one round trip."""
        conn = self.driver_connection
        prepared = conn.pooled.prepared or self._after == "session"
        reset = end + _RESET + self._at_login
        count = reset.count(b";") + 1
        conn.within(timeout, partial(conn.exchange, reset + (_DEALLOCATE if prepared else b""), answers))
        if len(answers) != count + prepared or not _is_answer(answers[0], end):
            raise psycopg.OperationalError("the server did not answer every statement of a reset")
        self._lacks_set_up = bool(self._at_login) and answers[count - 1].ntuples > 0
        conn.pooled.changed = conn.pooled.prepared = False
        conn.pooled.was_reset = True

    def reset(self, timeout: float | None) -> bool:
        """Settings live in the driver: putting them back costs no round trip. A session that was changed costs one."""
        pgconn, conn = self._libpq, self.driver_connection
        pgconn.is_busy()
        if (
            pgconn.status != _OK
            or pgconn.transaction_status != _IDLE
            or pgconn.pipeline_status != _NO_PIPELINE
            or conn.lock.locked()
            or conn.pooled.blocks
            or conn.pooled.two_phase
            or (self._set_up and self._due())
        ):
            return False
        conn.pooled.guarded = False
        conn.pooled.lost_commit = ""
        conn.pooled.hidden = Failure.OTHER
        conn.pooled.noting = self._resets
        conn.put_back(wholly=False)
        # A forgotten generator may close its cursor in a later borrower's transaction, where CLOSE would fail. The
        # plain class's close() sends nothing, and after it the cursor's own sends nothing either.
        for cursor in conn.pooled.open_streams():
            at_once((psycopg.Cursor if isinstance(cursor, psycopg.Cursor) else psycopg.AsyncCursor).close(cursor))
        conn.pooled.streams.clear()
        if self._after == "changed" and (
            conn.pooled.changed or conn.pooled.was_reset or not conn.is_as_lent(wholly=True)
        ):
            self._reset_session(timeout)
        if self._after == "session":
            self._reset_session(timeout)
            return not self._lacks_set_up
        return not self._lacks_set_up and self._condition() is Condition.CLEAN

    def _reset_session(self, timeout: float | None) -> None:
        """Do what is left to do of DISCARD ALL, and restore the settings of a new connection."""
        conn = self.driver_connection
        if self._due() and not conn.pooled.was_reset:
            self._end_and_reset(b"", [], timeout)
            self._check_idle()
        conn.within(timeout, partial(conn.put_back, wholly=True))
        conn.pooled.was_reset = False

    # --- the end ------------------------------------------------------------------------------------------------------

    def cancel(self, timeout: float, aside: Callable[[str], EngineConnection]) -> bool:
        """PostgreSQL's own cancel request."""
        self.driver_connection.pooled.cancelled = True
        try:
            request_cancel(self._libpq, monotonic() + timeout)
        except Exception:  # noqa: BLE001 - whatever went wrong, the caller then aborts
            return False
        return True

    def close(self, timeout: float) -> None:
        """Libpq's Terminate does not block: psycopg keeps the socket non-blocking."""
        if self.driver_connection.lock.locked():
            # Some other thread is inside libpq: freeing the connection under it would crash the process.
            self.abort()
            return
        try:
            self._release()
        except Exception:  # noqa: BLE001 - a connection that cannot be closed politely is dropped
            self.discard()

    def _release(self) -> None:
        """Close it, and free its memory and descriptor now: psycopg does not do that for a lost connection."""
        self.driver_connection.shut()
        self._libpq.finish()

    def discard(self) -> None:
        """Put a dead end in the socket's place, so that libpq's Terminate reaches nobody."""
        with suppress(Exception):  # already closed: nothing is left to discard
            dead_end(self._libpq.socket)
            self._release()

    def abort(self, *, cancelled: bool = False) -> None:
        """shutdown() on the socket; libpq notices at its next call."""
        if cancelled:
            self.driver_connection.pooled.cancelled = True
        with suppress(Exception):  # already closed: nothing is left to abort
            shut_down(self._libpq.socket)

    def _ask_nothing(self, timeout: float) -> None:
        self.driver_connection.within(timeout, partial(self.driver_connection.ask, b"", ExecStatus.EMPTY_QUERY))

    def _check_idle(self) -> None:
        if self._libpq.status != _OK or self._libpq.transaction_status != _IDLE:
            raise psycopg.OperationalError("the connection is not idle after a ping or a reset")
