"""One psycopg connection as the pool drives it."""

import logging
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import psycopg
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus, TransactionStatus

from ...errors import LambdaPoolError
from ..base import Condition, Link, Outcome, rest, uncertain
from ..bounded_socket import dead_end, shut_down
from .connection import PooledConnection

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

log: logging.Logger = logging.getLogger("lambda_pool")

_OK = ConnStatus.OK
_IDLE, _ACTIVE = TransactionStatus.IDLE, TransactionStatus.ACTIVE
_IN_TRANSACTION, _IN_ERROR = TransactionStatus.INTRANS, TransactionStatus.INERROR
_NO_PIPELINE = PipelineStatus.OFF

# Seconds to read the rest of a result that a borrower left unread, where no deadline says better.
_DRAIN_TIMEOUT = 30.0
# The same where the block was interrupted while it waited: nothing is lost if the connection is closed instead.
_INTERRUPTED_TIMEOUT = 1.0

_AT_WORK = (
    "the connection was still at work when it was given back: finish or close a cursor.stream(), a conn.notifies(), "
    "a conn.pipeline() or a thread before its block ends; nothing was committed"
)
_LEFT_PREPARED = (
    "a block left the prepared transaction %s behind: it is neither saved nor undone, and holds its locks, until "
    "tpc_commit() or tpc_rollback() with its xid ends it, on any connection"
)

# DISCARD ALL without DEALLOCATE ALL: what psycopg has prepared stays, and psycopg knows it. In one message with COMMIT,
# where DISCARD ALL itself is not allowed.
_RESET = (
    b"CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(); "
    b"DISCARD TEMP; DISCARD SEQUENCES"
)
# What the borrower has prepared himself, which `PREPARE` tells from what came over the protocol.
_DEALLOCATE = (
    b"; DO $$ DECLARE name text; BEGIN FOR name IN SELECT p.name FROM pg_catalog.pg_prepared_statements p "
    b"WHERE p.from_sql LOOP EXECUTE pg_catalog.format('DEALLOCATE %I', name); END LOOP; END $$"
)


def _is_answer(result: "PGresult", end: bytes) -> bool:
    """Whether it is the answer to the first statement of a message that begins with `end`."""
    return result.status == ExecStatus.COMMAND_OK and (not end or result.command_status == end.partition(b";")[0])


class PostgresLink:
    """One psycopg connection. `reset`: see ConnectRequest."""

    def __init__(self, conn: PooledConnection, reset: str = "transaction") -> None:
        self.conn = conn
        self.backend_id: int = conn.pgconn.backend_pid
        self._libpq = conn.pgconn
        self._after = reset
        self._resets = reset != "transaction"
        self._poller = select.poll()
        self._poller.register(conn.pgconn.socket, select.POLLIN)
        self._set_up = False  # a framework changed the session, which no reset may undo
        self.set_baseline()

    def set_baseline(self) -> None:
        """What the server was told, it is not told again: a connection that needs a reset is then closed."""
        self._set_up = self._set_up or self.conn.pooled.changed
        self.conn.set_baseline(noting=self._resets)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is noted of the session is as before the block. Of the driver's settings, each can be put back."""
        noted = self.conn.pooled
        before = noted.changed, noted.prepared
        yield
        noted.changed, noted.prepared = before

    def read_rest(self, timeout: float | None) -> None:
        """`finish` does that."""

    # --- checkout -----------------------------------------------------------------------------------------------------

    def quiet(self) -> bool:
        """The free check, and libpq's own word: a closed descriptor's number may be somebody else's now."""
        return not self._poller.poll(0) and self._libpq.status == _OK

    def at_rest(self) -> bool:
        """By libpq's word for the transaction."""
        return self._libpq.transaction_status == _IDLE

    def ping(self, timeout: float) -> None:
        """An empty query: what every server and pooler answers, and nothing that a proxy would pin for."""
        self._ask_nothing(timeout)
        self._check_idle()

    def begin(self, *, readonly: bool, guarded: bool, timeout: float) -> None:
        """Settings that shape the BEGIN that psycopg sends with the first statement. Guarded, BEGIN is sent here."""
        conn = self.conn
        if conn.autocommit:
            conn.autocommit = False
        if readonly:
            conn.read_only = True
        if guarded:
            conn.pooled.ended = False
            conn.pooled.guarded = conn.pooled.noting = True
            try:
                conn.within(timeout, conn.begin)
            except BaseException:
                self.sever()  # BEGIN may be answered yet
                raise

    # --- what is known ------------------------------------------------------------------------------------------------

    def condition(self) -> Condition:
        """By libpq's word for the transaction; psycopg's settings are attributes."""
        conn = self.conn
        status = self._libpq.transaction_status
        if (
            conn.is_as_lent(wholly=self._resets)
            and self._libpq.pipeline_status == _NO_PIPELINE
            and not conn.pooled.guarded
            and not conn.pooled.was_reset  # the driver's half is still to be done
            # In its own transaction block, and in a two-phase commit, psycopg refuses COMMIT: the next borrower's too.
            and not conn.pooled.blocks
            and not conn.pooled.two_phase
        ):
            if status == _IN_TRANSACTION:
                return Condition.UNCOMMITTED
            # Locked it is by a notifies() that waits to go on.
            if status == _IDLE and not self._due() and not conn.lock.locked():
                return Condition.CLEAN
        return Condition.CHANGED

    def _due(self) -> bool:
        """Whether the session is to be reset."""
        return self._after == "session" or (self._after == "changed" and self.conn.pooled.changed)

    def closed_by_user(self) -> bool:
        """Psycopg tells a close from a loss."""
        return self.conn.closed and not self.conn.broken

    def closed_in_transaction(self) -> bool:
        """As it was noted when the borrower closed it."""
        return self.conn.pooled.closed_in_transaction

    def read_only(self) -> bool:
        """What psycopg sends with BEGIN."""
        return bool(self.conn.read_only)

    def refused_write(self) -> bool:
        """By libpq's last message (English, as on RDS): outside of a transaction nothing else is left of an error."""
        if self._libpq.transaction_status != _IN_ERROR:
            return False
        return self._libpq.error_message.partition(b"\n")[0].endswith(b" in a read-only transaction")

    def replayable(self, *, ask: bool = False) -> bool:
        """By what was noted of its statements, and libpq's word. A COMMIT whose own answer is lost is noted too."""
        pgconn = self._libpq
        return not (self.conn.pooled.ended or (pgconn.status == _OK and pgconn.transaction_status == _IDLE))

    # --- return -------------------------------------------------------------------------------------------------------

    def commit(self, timeout: float | None) -> bool:
        """COMMIT, and with it the reset that is due."""
        if self.conn.lock.locked():
            raise LambdaPoolError(_AT_WORK)
        self._commit(timeout, reset=self._due() and not self._set_up)
        return self.condition() is Condition.CLEAN

    def finish(self, *, commit: bool, timeout: float | None, last: bool = True) -> Outcome:
        """COMMIT or ROLLBACK, where a transaction is open, and with it the reset that is due."""
        pgconn, conn = self._libpq, self.conn
        if pgconn.status != _OK:
            return Outcome.FAILED
        if pgconn.pipeline_status != _NO_PIPELINE:
            raise LambdaPoolError(_AT_WORK)
        if conn.pooled.two_phase_prepared:
            log.warning(_LEFT_PREPARED, conn.pooled.two_phase)
        if pgconn.transaction_status == _IDLE:
            return Outcome.NONE
        if conn.lock.locked():
            raise LambdaPoolError(_AT_WORK)
        deadline = None if timeout is None else monotonic() + timeout
        if pgconn.transaction_status == _ACTIVE:  # a COPY cannot be read to its end
            bound = _DRAIN_TIMEOUT if commit else _INTERRUPTED_TIMEOUT
            conn.within(bound if timeout is None else min(timeout, bound), partial(conn.tell, None, None))
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
            # ROLLBACK cannot fail: whatever that was, it was not the answer.
            self.drop()
            raise
        return Outcome.FAILED if commit else Outcome.ROLLED_BACK

    def _commit(self, timeout: float | None, *, reset: bool) -> None:
        deadline = None if timeout is None else monotonic() + timeout
        if not self.quiet():
            # If that is the server's good-bye, COMMIT is never sent, and nothing is uncertain.
            self._ask_nothing(_DRAIN_TIMEOUT if timeout is None else timeout)
            timeout = rest(deadline)
        conn, pgconn = self.conn, self._libpq
        answers: list[PGresult] = []
        try:
            if reset and not (conn.pooled.blocks or conn.pooled.two_phase):
                self._end_and_reset(b"COMMIT; ", answers, timeout)
            else:
                conn.within(timeout, partial(conn.end, commit=True))
            pgconn.is_busy()  # what came in behind the answer libpq drops while it is idle
            if pgconn.transaction_status != _IDLE:
                raise psycopg.OperationalError("the transaction is still open")
        except psycopg.Error as error:
            if answers and _is_answer(answers[0], b"COMMIT; "):  # saved it is; the connection cannot be kept
                log.debug("resetting a session failed: %s", error)
                return
            if not self._answered(error):
                raise uncertain(error) from error
            raise

    def _answered(self, error: psycopg.Error) -> bool:
        """Whether it is the server's own "no" to COMMIT, on a connection that lives, or psycopg's before it is sent."""
        pgconn = self._libpq
        if isinstance(error, psycopg.ProgrammingError) and pgconn.transaction_status == _IN_TRANSACTION:
            return True
        state = error.sqlstate
        if pgconn.status != _OK or pgconn.transaction_status == _ACTIVE or state is None:
            return False
        return len(state) == 5 and not state.startswith("08") and state != "40003"  # these say that nobody knows

    def _rollback(self, timeout: float | None, *, reset: bool) -> None:
        conn = self.conn
        if reset:
            self._end_and_reset(b"ROLLBACK; ", [], timeout)
        elif conn.pooled.blocks or conn.pooled.two_phase:  # where psycopg's own refuses
            conn.within(timeout, partial(conn.ask, b"ROLLBACK", ExecStatus.COMMAND_OK))
        else:
            conn.within(timeout, partial(conn.end, commit=False))
        self._libpq.is_busy()

    def _end_and_reset(self, end: bytes, answers: "list[PGresult]", timeout: float | None) -> None:
        """End the transaction and reset the session, in one round trip."""
        conn = self.conn
        prepared = conn.pooled.prepared or self._after == "session"
        message = end + _RESET + (_DEALLOCATE if prepared else b"")
        conn.within(timeout, partial(conn.tell, message, answers))
        if len(answers) != bool(end) + _RESET.count(b";") + 1 + prepared or not _is_answer(answers[0], end):
            raise psycopg.OperationalError("the server did not answer to each statement of a reset")
        conn.pooled.changed = conn.pooled.prepared = False
        conn.pooled.was_reset = True

    def restore(self, timeout: float | None) -> bool:
        """Settings live in the driver: putting them back costs no round trip. A session that was changed costs one."""
        pgconn, conn = self._libpq, self.conn
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
        conn.pooled.noting = self._resets
        conn.put_back(wholly=False)
        if self._after == "changed" and (
            conn.pooled.changed or conn.pooled.was_reset or not conn.is_as_lent(wholly=True)
        ):
            self.reset_session(timeout)
        return self._after == "session" or self.condition() is Condition.CLEAN

    def reset_session(self, timeout: float | None) -> None:
        """What is left of DISCARD ALL to be done, and the settings of a new connection again."""
        conn = self.conn
        if self._due() and not conn.pooled.was_reset:
            self._end_and_reset(b"", [], timeout)
            self._check_idle()
        conn.within(timeout, partial(conn.put_back, wholly=True))
        conn.pooled.was_reset = False

    # --- the end ------------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Every method of a psycopg connection waits through its `wait`."""
        self.conn.pooled.watched = True

    def running(self) -> bool:
        """What libpq knows, without a look at the socket. Our own COMMIT or ping is not the borrower's statement."""
        return self._libpq.transaction_status == _ACTIVE and not self.conn.pooled.unasked.own

    def cancel(self, timeout: float, aside: Callable[[], Link]) -> bool:
        """PostgreSQL's own cancel request."""
        self.conn.pooled.cancelled = True
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
        """Close it, and let go of its memory and its descriptor now: psycopg leaves those of one that was lost."""
        self.conn.close()
        self._libpq.finish()

    def drop(self) -> None:
        """Put a dead end in the socket's place, so that libpq's Terminate reaches nobody."""
        with suppress(Exception):  # already closed: nothing is left to drop
            dead_end(self._libpq.socket)
            self._release()

    def cut(self) -> None:
        """As `sever`, noted for `watch`."""
        self.conn.pooled.cancelled = True
        self.sever()

    def sever(self) -> None:
        """shutdown() on the socket; libpq notices at its next call."""
        with suppress(Exception):  # already closed: nothing is left to sever
            shut_down(self._libpq.socket)

    def _ask_nothing(self, timeout: float) -> None:
        self.conn.within(timeout, partial(self.conn.ask, b"", ExecStatus.EMPTY_QUERY))

    def _check_idle(self) -> None:
        if self._libpq.status != _OK or self._libpq.transaction_status != _IDLE:
            raise psycopg.OperationalError("the connection is not idle after a ping or a reset")
