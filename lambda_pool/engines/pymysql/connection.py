"""PyMySQL's connection over our own socket: it remembers what its statements did, and what was not answered.

Every method here that sends something overrides a public one of PyMySQL and calls it. Imported only when the first
connection is opened: importing it imports PyMySQL.
"""

from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from typing import Any, NoReturn, TypeVar

import pymysql
from pymysql.constants import CLIENT, CR, SERVER_STATUS
from pymysql.cursors import SSCursor

from ...errors import CommitUncertain, DeadlineExceeded
from ...waiting import READ, poll
from ..base import AUTOCOMMITTED, cancelled, lost_answer, uncertain
from . import private
from .connecting import IN_TRANSACTION, ConnectingConnection
from .cursors import read_on, streaming, watching
from .errors import ends_session, is_answer, is_refusal, too_long
from .noted import again, reported
from .statements import COMMAND, Look, look, prepared_by
from .wire import BoundedTlsSocket

T = TypeVar("T")

_STATE_CHANGED = 1 << 14
_STATE_KINDS = {0, 1, 2}  # a variable, the database, anything; the other kinds are about transactions
_AUTOCOMMIT = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT

# From this size on (bytes), a statement may be too long for the server: the lowest default limits are above it.
_LARGE = 1 << 16

_CUT = (
    "the deadline ended a statement of this transaction, and MySQL undid that statement alone: a COMMIT would save the "
    "rest without it. Nothing else is sent until conn.rollback() or ROLLBACK TO SAVEPOINT"
)
# What comes before "COMMIT was sent" for statements that do not say COMMIT.
_IMPLICIT = "the statement commits what came before it, so a "
_PERHAPS = "the statement may commit by itself, so perhaps a "

_WAITED_FOR = (
    "another task or thread waits for an answer on this connection: let that end first, or give each a connection of "
    "its own"
)

_COMMIT, _BEGIN, _ROLLBACK = (look(word, several=False) for word in ("COMMIT", "BEGIN", "ROLLBACK"))


class BoundedConnection(ConnectingConnection):
    """A `pymysql.connections.Connection`; the only difference for its borrowers is that `with conn:` commits."""

    # Declared again for strict type checkers.
    server_status: int
    cancelled: bool
    closed_by_user: bool
    closed_in_transaction: bool
    _largest: int | None

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
        if self.noted.streams and not status & SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT:
            status |= IN_TRANSACTION
        return status

    def _failed(self, error: BaseException, before: int) -> None:
        """Note what an error means; raise the one that it stands for, if that is another. `before`: the last status."""
        if (raised := self._raised_elsewhere(error)) is not None:
            self.abandon()
            raise raised from None
        noted, seen = self.noted, self.noted.seen
        answered = isinstance(error, pymysql.MySQLError) and bool(error.args) and is_answer(error.args[0])
        noted.untold |= answered and seen.may_end
        noted.transaction_unknown = not self.alone
        if not isinstance(error, Exception):
            return
        noted.failed_with = error.args
        if answered:
            self.line.response_pending = noted.streams = False
            if before & IN_TRANSACTION and noted.doubt is None:
                noted.doubt = again(error), seen
            if ends_session(error):
                self.abandon()  # the server closes it, a moment later
        if noted.saving and isinstance(error, pymysql.MySQLError):
            if not (self.open and is_refusal(error)):
                perhaps = "" if seen.commits else _IMPLICIT if seen.implicit else _PERHAPS if seen.opaque else ""
                self._doubt(error, perhaps)
            noted.saving = False
        elif self.line.response_pending and self.saves and not noted.lost_commit:
            if self.cancelled:
                self._doubt(error, AUTOCOMMITTED)
            noted.lost_commit = str(lost_answer(error, AUTOCOMMITTED))  # if the driver's error is swallowed
        if self.cancelled:
            raise self._given_up(error, answered=answered) from error

    def _doubt(self, error: BaseException, perhaps: str) -> NoReturn:
        self.cancelled = False
        self.noted.lost_commit = str(uncertain(error, perhaps))
        raise CommitUncertain(self.noted.lost_commit) from error

    def _given_up(self, error: BaseException, *, answered: bool = True) -> DeadlineExceeded:
        self.cancelled = False
        self.noted.incomplete = not self.alone  # of a transaction
        return cancelled(error, answered=answered)

    def query(self, sql: Any, unbuffered: bool = False) -> int:
        """Run one statement (every cursor's way to the server)."""
        # Only here, because `executemany` looks at how a statement ends. What the pool sends goes out as announced.
        if self.comment is not None and not self.line.ours:
            sql = self.comment(sql)
        self.ask_if_undone()
        seen = look(sql, several=bool(self.client_flag & CLIENT.MULTI_STATEMENTS))
        if self.noted.incomplete or self.noted.undone is not None:
            self._check_whole(seen)
        if self.noted.reader:
            self._stay_read_only(seen)
        self.noted.note(seen, tracked=self.tracked)  # before it is sent: its answer may never come
        if len(sql) > _LARGE and self._largest is None:
            self._largest = 0  # also if no answer comes
            self._commanded(super().query, "SELECT @@max_allowed_packet")
            self._largest = int(private.result_of(self).rows[0][0])
        try:
            saving = seen.commits and (self.in_transaction or seen.several or seen.elsewhere)
            saving = saving or ((seen.implicit or seen.opaque) and not self.alone)
            affected = self._commanded(super().query, sql, unbuffered, seen=seen, saving=saving)
        except pymysql.MySQLError as error:
            size = len(sql.encode(self.encoding) if isinstance(sql, str) else sql) + 1 if self._largest else 0
            if (explained := too_long(error, size, self._largest)) is None:
                raise
            self.noted.ended = True  # it would fail again
            raise explained from error
        self._note_answer()
        if self.cancelled and not self._is_done(seen):  # SLEEP() and the like return early instead of failing
            self.noted.transaction_unknown = not self.alone
            raise self._given_up(TimeoutError("the statement returned early"))
        if seen.begins_anew:
            self.noted.begin_anew()
        self.noted.incomplete &= not seen.to_savepoint
        if seen.xa_prepares or seen.xa_ends:
            self.noted.left_prepared = "" if seen.xa_ends else prepared_by(sql)
        if self.noted.guarded and not self.in_transaction:
            self.noted.ended = True
        return affected

    def _is_done(self, seen: Look) -> bool:
        """Whether a statement that was answered without an error is done, though the server was asked to end it."""
        result = private.result_of(self)
        whole = result is not None and result.server_status is not None  # otherwise rows came, perhaps not all
        return not seen.several and (seen.begins_anew or (whole and (seen.implicit or (seen.writes and self.alone))))

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

    def cursor(self, cursor: Any = None) -> Any:
        """A new cursor of the given class, or of the connection's."""
        made = self.cursor_type(cursor or self.cursorclass)(self)
        return made if self.stand_in is None else self.stand_in.cursor(lambda _: made)

    def cursor_type(self, asked: Any) -> Any:
        """The class of a cursor: one that streams reports errors to its connection; any may report slow statements."""
        streams = isinstance(asked, type) and issubclass(asked, SSCursor)
        made = streaming(asked) if streams else asked
        return made if self.on_slow is None else watching(made)

    # --- transactions -------------------------------------------------------------------------------------------------

    def ask_if_undone(self) -> None:
        """After a statement failed, ask whether a transaction is open, if the error does not tell.

        The server may have undone the whole transaction, or the statement may have begun one.
        """
        self.settle_stream()
        noted = self.noted
        unknown = noted.transaction_unknown and not noted.streams and not self.line.ahead  # the next answer tells
        if noted.doubt is not None or (unknown and self.open and not self.server_status & IN_TRANSACTION):
            self.ping()

    def _check_whole(self, seen: Look) -> None:
        """Raise InternalError if `seen` would save, or add to, a part of a transaction whose other part was undone.

        PostgreSQL does that by itself. In `Pool.run` the error that undid all comes again, so the work can be replayed.
        """
        self.ask_if_undone()
        noted = self.noted
        if noted.guarded and noted.undone is not None:
            raise noted.failed()
        if not (noted.incomplete or noted.undone) or seen.rolls_back:
            return
        if seen.begins and not self.server_status & IN_TRANSACTION:
            return  # nothing is left of the old one
        if noted.incomplete and not seen.to_savepoint:
            raise pymysql.InternalError(_CUT)
        # With autocommit, each statement that comes after it would be saved.
        if noted.undone is not None and (seen.may_end or self.server_status & _AUTOCOMMIT):
            raise pymysql.InternalError(noted.over())

    def _refuse_if_guarded(self, method: str) -> None:
        """`Pool.run` commits by itself: otherwise it could not know whether a replay is safe."""
        if self.noted.guarded:
            raise pymysql.ProgrammingError(
                f"{method}() is not allowed inside Pool.run(): run() commits when the work returns"
            )

    def _stay_read_only(self, seen: Look) -> None:
        """Make each transaction that the borrower of a read-only connection begins itself read-only, like the first."""
        if self.noted.reader and not self.line.ours:
            if seen.begins and self.in_transaction:
                self._commanded(super().commit)
            if not self.in_transaction:
                self.noted.isolation_changed = True  # it may wait for a transaction that never begins
                self._commanded(super().query, "SET TRANSACTION READ ONLY")

    def commit(self) -> None:
        """COMMIT; refused inside `Pool.run`, and if only a part would be saved. Also raises CommitUncertain."""
        self._refuse_if_guarded("commit")
        self._check_whole(_COMMIT)
        self._commanded(super().commit, seen=_COMMIT, saving=self.in_transaction)
        self.noted.begin_anew()

    def begin(self) -> None:
        """BEGIN, which commits what was before it; refused as `commit` is."""
        self._refuse_if_guarded("begin")
        self._check_whole(_BEGIN)
        self._stay_read_only(_BEGIN)
        self._commanded(super().begin, seen=_BEGIN, saving=self.in_transaction)
        self.noted.begin_anew()

    def rollback(self) -> None:
        """ROLLBACK."""
        self.noted.ended |= self.noted.guarded
        self._commanded(super().rollback, seen=_ROLLBACK)
        self.noted.begin_anew()

    def autocommit(self, value: bool) -> None:
        """SET autocommit. Switching it on commits, and is refused as `commit` is."""
        saving = value and not self.get_autocommit()
        if saving:
            self._refuse_if_guarded("autocommit")
            self._check_whole(_COMMIT)
        self._commanded(super().autocommit, value, seen=_COMMIT, saving=saving and self.in_transaction)

    def __exit__(self, *exc_info: object) -> None:
        """Commit on success, roll back on error; the connection stays open. Inside `Pool.run`, `run` does both."""
        failed = exc_info[0] is not None
        if not self.open:
            return
        if self.noted.guarded:
            self.noted.rollback_only |= failed
        elif failed:
            with suppress(pymysql.MySQLError):  # the block's own error is the one to see
                self.rollback()
        else:
            self.ask_if_undone()
            failure: Exception | None = pymysql.InternalError(_CUT) if self.noted.incomplete else None
            if self.noted.undone is not None:
                failure = self.noted.failed()
            if failure is not None:
                self.rollback()
                raise failure
            self.commit()

    # --- the driver's other commands ----------------------------------------------------------------------------------

    def ping(self, reconnect: bool = False) -> None:  # type: ignore[override]
        """COM_PING. It never reconnects: inside a block, that would be another session, and half of the work."""
        doubt, self.noted.doubt = self.noted.doubt, None
        self._commanded(super().ping, False)
        if self.server_status & IN_TRANSACTION:
            return
        if doubt is not None:
            self.noted.note_over(*doubt)
        if self.server_status & _AUTOCOMMIT:
            self.noted.incomplete = False

    def select_db(self, db: Any) -> None:
        """USE."""
        self.noted.moved = self.noted.changed = True
        self._commanded(super().select_db, db)

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """SET NAMES; while it connects, `setup` does that."""
        if self._connected:
            self.noted.changed = True
            told = self.alone
            self._commanded(super().set_character_set, charset, collation)
            self.noted.transaction_unknown = not told  # the driver skips what the answer says of it

    def show_warnings(self) -> Any:
        """SHOW WARNINGS."""
        rows = self._commanded(super().show_warnings)
        self._note_rows()
        return rows

    def close(self) -> None:
        """Tell the server, and close."""
        if self.line.silent and not self.open:
            return  # given up by the pool, which is not an error of the borrower's
        if self.open:
            self.closed_by_user = True
            self.closed_in_transaction = self.in_transaction or self.line.response_pending
        self.line.response_pending = True
        self.line.ahead.clear()
        super().close()

    # --- for the pool -------------------------------------------------------------------------------------------------

    def drop_result(self) -> None:
        """Let nobody read the rest of a streamed result: PyMySQL would try that on a closed connection too."""
        result = private.result_of(self)
        if result is not None:
            result.unbuffered_active = result.has_next = False

    @property
    def alone(self) -> bool:
        """True if, by the server's last word, each statement is its own transaction: autocommit, and none is open."""
        return self.server_status & (_AUTOCOMMIT | IN_TRANSACTION) == _AUTOCOMMIT and not self.noted.untold

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
