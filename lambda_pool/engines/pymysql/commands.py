"""PyMySQL's connection: each command is sent alone, and what its answer said is noted, or that none came.

Imported only when the first connection is opened: importing it imports PyMySQL.
"""

from collections.abc import Callable
from threading import get_ident
from typing import Any, NoReturn, TypeVar

import pymysql
from pymysql.constants import CR, SERVER_STATUS

from ...errors import DeadlineExceeded, LambdaPoolError
from ...waiting import READ, poll
from ..base import AUTOCOMMITTED, cancelled, lost_answer, may_be_handled, uncertain
from . import private
from .connecting import IN_TRANSACTION, ConnectingConnection
from .cursors import read_on
from .errors import ends_session, is_answer, is_refusal
from .noted import again, reported
from .statements import COMMAND, Look
from .wire import BoundedTlsSocket

T = TypeVar("T")

_STATE_CHANGED = 1 << 14
_STATE_KINDS = {0, 1, 2}  # a variable, the database, anything; the other kinds are about transactions
AUTOCOMMIT: int = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT

# What comes before "COMMIT was sent" for statements that do not say COMMIT.
_IMPLICIT = "the statement commits what came before it, so a "
_PERHAPS = "the statement may commit by itself, so perhaps a "

_WAITED_FOR = (
    "another task or thread waits for an answer on this connection: let that end first, or give each a connection of "
    "its own"
)


class CommandedConnection(ConnectingConnection):
    """A `pymysql.connections.Connection` that knows what became of each command."""

    # Declared again for strict type checkers.
    server_status: int
    cancelled: bool

    # --- every way to the server --------------------------------------------------------------------------------------

    def _commanded(self, call: Callable[..., T], *arguments: Any, seen: Look = COMMAND, saving: bool = False) -> T:
        """Let the driver send one command, and note how it was answered. `saving`: it may commit what was done before.

        If an earlier one was left unanswered, the connection ends: that answer would be taken for the next one's.
        """
        line = self.line
        if line.is_taken():
            self._refuse_another()
        if self.noted.saving and not line.response_pending:
            read_on(self)  # what is left belongs to the command that may commit
        self.noted.saving = False
        if line.response_pending:
            self.abandon()
        elif saving and self.open:
            self._check_it_lives()
            self.noted.saving = True
        before = self._status_before()
        if self.open:  # otherwise nothing is sent
            self.noted.seen = seen
        self.cancelled = False  # another thread cancelled a command that had just ended
        line.response_pending = True
        line.thread = get_ident()
        try:
            if not (self.open or self.closed_by_user):
                # What psycopg says: PyMySQL's own errors say nothing.
                raise pymysql.OperationalError(CR.CR_SERVER_LOST, "the connection is closed")
            answer = call(*arguments)
        except BaseException as error:
            self._failed(error, before)
            raise
        finally:
            line.thread = None
        line.response_pending = False
        self.noted.transaction_unknown = self.noted.streams = self.noted.untold = False
        self.noted.saving = saving and self.unfinished
        return answer

    def _refuse_another(self) -> None:
        """Tasks share it through SQLAlchemy, threads by mistake: while one waits for an answer, both would read it."""
        if self.line.is_taken():
            raise pymysql.InterfaceError(_WAITED_FOR)

    def _check_it_lives(self) -> None:
        """Raise the driver's error if the connection is lost already, so that a COMMIT is never sent.

        The only thing that MySQL sends unasked is that it closes the connection.
        """
        if not self.unfinished and poll(self.sock.fileno(), READ):
            self.drop_result()
            self.abandon()
            raise pymysql.OperationalError(CR.CR_SERVER_LOST, "Lost connection to MySQL server before COMMIT was sent")

    def _status_before(self) -> int:
        """The server's status before a command: its last word, and what an unread stream may have begun."""
        status = self.server_status
        if self.noted.streams and not status & AUTOCOMMIT:
            status |= IN_TRANSACTION
        return status

    def _failed(self, error: BaseException, before: int) -> None:
        """Note what an error means; raise the one that it stands for, if that is another. `before`: the last status."""
        noted, seen = self.noted, self.noted.seen
        perhaps = "" if seen.commits else _IMPLICIT if seen.implicit else _PERHAPS if seen.opaque else ""
        if (raised := self._raised_elsewhere(error)) is not None:
            self.abandon()
            if noted.saving:
                self._doubt(raised, perhaps)
            raise raised from None
        answered = isinstance(error, pymysql.MySQLError) and bool(error.args) and is_answer(error.args[0])
        noted.untold |= answered and seen.may_end
        noted.transaction_unknown = not self.alone
        if not may_be_handled(error):
            return
        noted.failed_with = error.args
        if answered and isinstance(error, pymysql.MySQLError):
            self.line.response_pending = noted.streams = False
            if before & IN_TRANSACTION and noted.doubt is None:
                noted.doubt = again(error), seen
            if ends_session(error):
                self.abandon()  # the server closes it, a moment later
        if noted.saving and not isinstance(error, LambdaPoolError):
            if not (self.open and isinstance(error, pymysql.MySQLError) and is_refusal(error)):
                self._doubt(error, perhaps)
            noted.saving = False
        elif self.line.response_pending and self.saves and not noted.lost_commit:
            if self.cancelled:
                self._doubt(error, AUTOCOMMITTED)
            noted.lost_commit = lost_answer(error, AUTOCOMMITTED)  # if the driver's error is swallowed
        if self.cancelled:
            raise self._given_up(error, answered=answered) from error

    def _doubt(self, error: BaseException, perhaps: str) -> NoReturn:
        self.cancelled = False
        self.noted.lost_commit = lost_answer(error, perhaps)
        raise uncertain(self.noted.lost_commit) from error

    def _given_up(self, error: BaseException, *, answered: bool = True) -> DeadlineExceeded:
        self.cancelled = False
        self.noted.incomplete = not self.alone  # of a transaction
        return cancelled(error, answered=answered)

    def next_result(self, unbuffered: bool = False) -> int:
        """Read the next result of a statement that has several."""
        self._refuse_another()
        # Another command may call this to read the rest of the last statement: its own answer is still to come.
        nested, self.line.response_pending = self.line.response_pending, True
        outer, self.line.thread = self.line.thread, get_ident()
        try:
            affected = super().next_result(unbuffered)
        except BaseException as error:
            self._failed(error, self.server_status)
            raise
        finally:
            self.line.thread = outer
        self.line.response_pending = nested
        self.noted.transaction_unknown = self.noted.streams = self.noted.untold = False
        self._note_answer()
        return affected

    def read_next_by(self, read: Callable[[], T]) -> T:
        """Read the next row of a streamed result."""
        self._refuse_another()
        outer, self.line.thread = self.line.thread, get_ident()
        try:
            return read()
        except BaseException as error:
            self._failed(error, self._status_before())
            raise
        finally:
            self.line.thread = outer

    def _note_answer(self) -> None:
        """Note what the answer to a statement said about the transaction and the session."""
        result = private.result_of(self)
        if result is None:
            return
        if result.unbuffered_active:
            self.noted.streams = self.noted.transaction_unknown = True
            self.noted.untold = self.noted.seen.may_end
        elif result.server_status is None:
            self._note_rows()
        elif result.server_status & _STATE_CHANGED and self.tracked and not self.noted.changed:
            self.noted.changed = bool(reported(result.message) & _STATE_KINDS)

    def _note_rows(self) -> None:
        """Note what the packet after the last row said. Otherwise a block that only reads would keep its snapshot."""
        status = self.line.status_of_rows()
        self.noted.transaction_unknown = status is None
        if status is not None:
            self.server_status = status

    def settle_stream(self) -> None:
        """If a streamed result was read to its end, note what its last packet said."""
        if self.noted.streams and not self.unfinished:
            before, self.noted.streams = self._status_before(), False
            self._note_rows()
            self.noted.untold &= self.noted.transaction_unknown
            if self.noted.transaction_unknown and before & IN_TRANSACTION:  # it ended with an error that nobody saw
                why = "a streamed result ended with an error"
                self.noted.doubt = pymysql.OperationalError(CR.CR_UNKNOWN_ERROR, why), self.noted.seen

    # --- what is known of it ------------------------------------------------------------------------------------------

    def drop_result(self) -> None:
        """Let nobody read the rest of a streamed result: PyMySQL would try that on a closed connection too."""
        result = private.result_of(self)
        if result is not None:
            result.unbuffered_active = result.has_next = False

    @property
    def alone(self) -> bool:
        """True if, by the server's last word, each statement is its own transaction: autocommit, and none is open."""
        return self.server_status & (AUTOCOMMIT | IN_TRANSACTION) == AUTOCOMMIT and not self.noted.untold

    @property
    def saves(self) -> bool:
        """True if a command that is not answered, or was lost, saves something by itself: it may be saved or not."""
        noted = self.noted
        return noted.saving or bool(noted.lost_commit) or (self.alone and not noted.seen.reads)

    @property
    def unfinished(self) -> bool:
        """True if a result waits on the wire."""
        result = private.result_of(self)
        return result is not None and bool(result.unbuffered_active or result.has_next)

    @property
    def overheard(self) -> bool:
        """True if more came than the last answer: announced, decrypted, or read already. The socket shows nothing."""
        if not self.open:
            return False
        more = self.server_status & SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS or self.line.leftover()
        return bool(more or (isinstance(self.sock, BoundedTlsSocket) and self.sock.pending()))
