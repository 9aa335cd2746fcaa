"""One PyMySQL connection as the pool drives it."""

from collections.abc import Callable
from contextlib import suppress
from time import monotonic

import pymysql
from pymysql.constants import CR

from ... import invocation
from ...errors import LambdaPoolError
from ...waiting import OverdueError
from ..base import (
    Condition,
    EngineConnection,
    Facts,
    Failure,
    Outcome,
    Status,
    at_work,
    lost_answer,
    rest,
    uncertain,
    warn_left_prepared,
)
from ..bounded_socket import shut_down
from . import private
from .baseline import PING, BaselineConnection
from .connecting import IN_TRANSACTION
from .cursors import read_on
from .errors import is_read_only, is_refusal
from .killing import kill_query
from .wire import Bounds, query

# Only the transaction that `begin` began has this: it ends with that, and a later one has none.
_SAVEPOINT = "SAVEPOINT lambda_pool_run"
_IS_IT_THERE = "RELEASE SAVEPOINT lambda_pool_run"
_READ_ONLY = "SET SESSION TRANSACTION READ ONLY"
_ASKING = 1.0  # seconds


class MysqlConnection(BaselineConnection):
    """One PyMySQL connection."""

    def limited(self, timeout: float) -> Bounds:
        """The socket bounds it."""
        return Bounds(self.driver_connection, timeout, float("inf"), ours=False)

    def read_rest(self, timeout: float | None) -> None:
        """Read the rest of all results of the last statement."""
        with self.driver_connection.bounded(timeout, most=float("inf")):
            read_on(self.driver_connection)

    # --- the warm path ------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """From the flags of the last answer, and what the connection noted about its statements.

        A streamed result counts until it is read: whether somebody waits for its next row cannot be seen from here.
        """
        conn = self.driver_connection
        if conn.line.ours:
            return Status.ENDING
        if conn.line.response_pending:
            if conn.alone and not conn.open and not conn.saves:
                return Status.IDLE  # lost during a statement that saves nothing
            return Status.COMMITTING if conn.alone or conn.saves else Status.BUSY
        in_transaction = conn.server_status & IN_TRANSACTION
        result = private.result_of(conn)
        if result is not None and result.unbuffered_active:
            return Status.BUSY if in_transaction else Status.STREAMING
        return Status.IN_TRANSACTION if in_transaction else Status.IDLE

    def inspect(self, *, ask: bool = False) -> Facts:
        """From the server's word and what the connection noted; `ask` looks for the savepoint of guarded work."""
        conn, noted = self.driver_connection, self.driver_connection.noted
        return Facts(
            self._condition(),
            conn.closed_by_user,
            conn.closed_in_transaction,
            noted.read_only or self._always_read_only,
            Failure.READ_ONLY if is_read_only(noted.failed_with) else Failure.OTHER,
            not noted.ended and (not noted.unsure or (ask and self._is_marked())),
            noted.ended,
        )

    # --- everything else ----------------------------------------------------------------------------------------------

    def ping(self, timeout: float) -> None:
        """COM_PING; but if the server has sent something already, that is read instead.

        Otherwise it would be taken for the answer, and the real answer for the next borrower's.
        """
        conn = self.driver_connection
        unasked = not self.is_silent() or conn.overheard
        with conn.bounded(timeout):
            if unasked:
                conn.line.ahead.append(PING)  # nothing is sent
            conn.ping()
        if unasked:
            raise pymysql.OperationalError(CR.CR_COMMANDS_OUT_OF_SYNC, "the server sent unexpected data")
        if not self.is_silent() or self._condition() is not Condition.CLEAN:
            raise OverdueError("the connection is not idle after a ping")

    def sessions(self, timeout: float) -> tuple[int, int]:
        """From the server's counters."""
        from .occupancy import sessions

        return sessions(self.driver_connection, timeout, spoken=not self.is_silent())

    def begin(self, *, readonly: bool, guarded: bool, timeout: float) -> None:
        """Begin an explicit transaction: MySQL's implicit ones cannot be read-only, and nobody sees them end.

        If it is read-only, so is each later one of the session, until the pool ends one: DDL ends the transaction that
        it is sent in, and a server refuses it only by what the session says. A guarded one is marked by a savepoint.
        All goes out in one write; but not behind a pooler, which may not take two in one, and may pin the session.
        """
        conn = self.driver_connection
        said = []
        if readonly and not (self._pooled or self._always_read_only or conn.reads_only):
            said.append(_READ_ONLY)
            conn.reads_only = True
        if readonly or guarded or self._autocommit:  # for sql_mode=ORACLE, BEGIN begins a block of statements
            said.append("START TRANSACTION READ ONLY" if readonly else "START TRANSACTION")
        if guarded and not self._pooled:
            said.append(_SAVEPOINT)
        with conn.bounded(timeout), self.uncounted():
            conn.line.following = [query(statement.encode()) for statement in said[1:]]
            for statement in said:
                conn.query(statement)
        conn.noted = conn.noted.for_transaction(readonly=readonly, guarded=guarded)

    def _is_marked(self) -> bool:
        """Ask for the savepoint. If it is gone, either the server undid all, or the work saved it: nobody knows."""
        conn = self.driver_connection
        if self._pooled or not conn.open or conn.line.response_pending or conn.unfinished:
            return False
        kept = conn.noted.failed_with
        try:
            with conn.bounded(invocation.at_most(_ASKING)):
                conn.ask_if_undone()
                if conn.noted.undone is not None:
                    return False
                conn.query(_IS_IT_THERE)
        except pymysql.MySQLError:
            return False
        finally:
            conn.noted.failed_with = kept
        return True

    def commit(self, timeout: float | None, *, last: bool = True) -> Outcome:
        """COMMIT, if a transaction is, or may be, open."""
        return self._finish(commit=True, timeout=timeout, last=last)

    def rollback(self, timeout: float | None, *, last: bool = True) -> Outcome:
        """ROLLBACK, if a transaction is, or may be, open."""
        return self._finish(commit=False, timeout=timeout, last=last)

    def _finish(self, *, commit: bool, timeout: float | None, last: bool) -> Outcome:
        conn = self.driver_connection
        deadline, noted = None if timeout is None else monotonic() + timeout, conn.noted
        guarded, noted.guarded = noted.guarded, False
        if noted.left_prepared:
            warn_left_prepared(noted.left_prepared, "XA COMMIT or XA ROLLBACK")
            noted.left_prepared = ""
        taken = conn.line.is_taken()
        if conn.line.response_pending or taken:
            own = conn.saves or (conn.alone and taken)
            self.abort()  # first: another thread may wait for the answer
            conn.abandon()
            if commit and (own or taken) and not noted.lost_commit:
                raise at_work("let each task and thread that uses it end", saving=own)
        if conn.line.silent or not conn.open:
            if commit and noted.lost_commit:
                raise uncertain(noted.lost_commit)
            if commit and noted.unclear:
                raise noted.failed()
            # If nothing was open, all that was answered is saved.
            return Outcome.NONE if conn.alone and noted.undone is None else Outcome.FAILED
        if conn.unfinished:
            if not commit:
                # Reading perhaps a million rows, only to roll back, costs more than a new connection.
                raise LambdaPoolError("a streamed result was left unread")
            self.read_rest(timeout)
        conn.settle_stream()
        if commit:
            with conn.bounded(rest(deadline)):
                conn.ask_if_undone()
        lost, error = noted.take_failure(told=commit and (guarded or noted.unclear))
        outcome = self._end(commit=commit and not lost, timeout=rest(deadline), last=last)
        if error is not None:
            raise error
        return Outcome.FAILED if lost else outcome

    def _end(self, *, commit: bool, timeout: float | None, last: bool) -> Outcome:
        """Send COMMIT or ROLLBACK if it is due, together with a reset if one is due."""
        conn = self.driver_connection
        self._rolled_back, self._was_reset = not commit, False
        if not conn.in_transaction:
            return Outcome.NONE
        if last and self._needs_reset():
            self._follow_with_reset()
        elif conn.reads_only:
            conn.line.following = [query(self._read_write)]
        if commit:
            self._commit(timeout)
        else:
            with conn.bounded(timeout):
                conn.rollback()
        if conn.line.ahead and not self._resetting:
            try:
                with conn.bounded(timeout):
                    self._let_write()
            except pymysql.MySQLError:  # what became of the transaction is known all the same
                self.discard()
        return Outcome.COMMITTED if commit else Outcome.ROLLED_BACK

    def _commit(self, timeout: float | None) -> None:
        conn = self.driver_connection
        try:
            with conn.bounded(timeout):
                conn.commit()
        except pymysql.MySQLError as error:  # also for an answer that cannot be read
            # The server's own "no", on a live connection, is an answer. Nothing else is.
            if not conn.noted.saving or (conn.open and is_refusal(error)):
                raise
            raise uncertain(lost_answer(error)) from error

    # --- ending it ----------------------------------------------------------------------------------------------------

    def cancel(self, timeout: float, aside: Callable[[str], EngineConnection]) -> bool:
        """KILL QUERY, which needs a second login. Not through a pooler, where the number may be somebody else's."""
        return not self._pooled and kill_query(self.driver_connection, self.backend_id, timeout, aside)

    def close(self, timeout: float) -> None:
        """COM_QUIT."""
        conn = self.driver_connection
        conn.drop_result()
        if conn.line.silent or not conn.open:
            return
        if conn.line.is_taken():  # another thread or task waits on the descriptor, which must not be closed under it
            self.abort()
            return
        try:
            with conn.bounded(timeout):
                conn.close()
            conn.closed_by_user = False
        except Exception:  # noqa: BLE001 - a connection that cannot be closed politely is dropped
            self.discard()

    def discard(self) -> None:
        """Close the descriptor alone."""
        self.driver_connection.drop_result()
        self.driver_connection.abandon()

    def abort(self, *, cancelled: bool = False) -> None:
        """shutdown() on the socket; PyMySQL notices at its next read."""
        if cancelled:
            self.driver_connection.cancelled = True
        with suppress(Exception):  # already closed: nothing is left to abort
            shut_down(self.driver_connection.sock.fileno())
