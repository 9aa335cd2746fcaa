"""PyMySQL's connection as borrowers get it: it remembers what its statements did to the transaction and the session.

Every method here that sends something overrides a public one of PyMySQL and calls it. Imported only when the first
connection is opened: importing it imports PyMySQL.
"""

from contextlib import suppress
from typing import Any

import pymysql
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor

from . import private
from .commands import AUTOCOMMIT, CommandedConnection
from .connecting import IN_TRANSACTION
from .cursors import streaming, watching
from .errors import too_long
from .statements import Look, look, prepared_by

# From this size on (bytes), a statement may be too long for the server: the lowest default limits are above it.
_LARGE = 1 << 16

_CUT = (
    "the deadline ended a statement of this transaction, and MySQL undid that statement alone: a COMMIT would save the "
    "rest without it. Nothing else is sent until conn.rollback() or ROLLBACK TO SAVEPOINT"
)

_READ_ONLY = 1792, "Cannot execute statement in a READ ONLY transaction: it would end that, and may write"

_COMMIT, _BEGIN, _ROLLBACK = (look(word, several=False) for word in ("COMMIT", "BEGIN", "ROLLBACK"))


class BoundedConnection(CommandedConnection):
    """A `pymysql.connections.Connection`; the only difference for its borrowers is that `with conn:` commits."""

    # Declared again for strict type checkers.
    server_status: int
    cancelled: bool
    closed_by_user: bool
    closed_in_transaction: bool
    _largest: int | None

    # --- every way to the server --------------------------------------------------------------------------------------

    def query(self, sql: Any, unbuffered: bool = False) -> int:
        """Run one statement (every cursor's way to the server)."""
        # Only here, because `executemany` looks at how a statement ends. What the pool sends goes out as announced.
        if self.comment is not None and not self.line.ours:
            sql = self.comment(sql)
        data = sql.encode(self.encoding) if isinstance(sql, str) else sql  # if this fails, nothing has changed yet
        self.ask_if_undone()
        seen = look(sql, several=bool(self.client_flag & CLIENT.MULTI_STATEMENTS))
        if self.noted.incomplete or self.noted.undone is not None:
            self._check_whole(seen)
        if self.noted.reader and not self.reads_only:
            self._stay_read_only(seen)
        self.noted.note(seen, tracked=self.tracked)  # before it is sent: its answer may never come
        if len(data) > _LARGE and self._largest is None:
            self._largest = 0  # also if no answer comes
            self._commanded(super().query, "SELECT @@max_allowed_packet")
            self._largest = int(private.result_of(self).rows[0][0])
        try:
            saving = seen.commits and (self.in_transaction or seen.several or seen.elsewhere)
            saving = saving or ((seen.implicit or seen.opaque) and not self.alone)
            affected = self._commanded(super().query, data, unbuffered, seen=seen, saving=saving)
        except pymysql.MySQLError as error:
            if (explained := too_long(error, len(data) + 1, self._largest)) is None:
                raise
            self.noted.ended = True  # it would fail again
            raise explained from error
        self._note_answer()
        if self.cancelled and not self._is_done(seen):  # SLEEP() and the like return early instead of failing
            self.noted.transaction_unknown = not self.alone
            early = TimeoutError("the statement returned early")
            if saving and not self.server_status & IN_TRANSACTION:
                self.noted.doubt = early, seen  # a procedure may have committed before it
            raise self._given_up(early)
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
        if noted.undone is not None and (seen.may_end or self.server_status & AUTOCOMMIT):
            raise pymysql.InternalError(noted.over())

    def _refuse_if_guarded(self, method: str) -> None:
        """`Pool.run` commits by itself: otherwise it could not know whether a replay is safe."""
        if self.noted.guarded:
            raise pymysql.ProgrammingError(
                f"{method}() is not allowed inside Pool.run(): run() commits when the work returns"
            )

    def _stay_read_only(self, seen: Look) -> None:
        """Make each transaction that a read-only borrower begins itself read-only, where the session does not do that.

        Raises what the server would, for a statement that ends the transaction and would then write.
        """
        if self.noted.reader and not (self.reads_only or self.line.ours):
            if seen.implicit or (seen.several and seen.begins_anew):
                raise pymysql.OperationalError(*_READ_ONLY)
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
        if self.server_status & AUTOCOMMIT:
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
