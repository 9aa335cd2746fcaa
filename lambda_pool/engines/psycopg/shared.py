"""What borrowers' psycopg connections for threads and for asyncio have in common."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from operator import attrgetter
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus

from ... import invocation
from ...errors import DeadlineExceeded
from ...waiting import READ, poll
from ..base import (
    AUTOCOMMITTED,
    INVALIDATES_POOL,
    MIN_IO_TIMEOUT,
    Failure,
    cancelled,
    cause,
    lost_answer,
    uncertain,
)
from .cursors import NOTHING_SAVED, at_once, is_a_cursors
from .errors import classify
from .fitness import unfit
from .libpq import BusyError, is_struck, is_unanswered, request_cancel
from .notes import Announced, Baseline, Notes
from .overridden import OVERRIDDEN, overridden
from .statements import changes_session, commits, ends_transaction, prepared_by, prepares, saves_nothing

_IDLE, _ACTIVE, _IN_ERROR = TransactionStatus.IDLE, TransactionStatus.ACTIVE, TransactionStatus.INERROR
_AT_WORK_OR_LOST = (_ACTIVE, TransactionStatus.UNKNOWN)
_MAY_SAVE = frozenset({TransactionStatus.INTRANS, TransactionStatus.ACTIVE})  # the latter in a pipeline
_LOOKS = 3  # reads of a socket that has more to say, before COMMIT is sent: a FATAL message, and the end
_TWO_PHASES = frozenset({b"PREPARE TRANSACTION", b"COMMIT PREPARED", b"ROLLBACK PREPARED"})
_ENDING = frozenset({b"COMMIT", b"ROLLBACK", b"PREPARE TRANSACTION"})
# What psycopg, an adapter or a row factory raises about values; a lost connection raises OperationalError.
_NOT_THE_SERVERS = (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError)
_PERHAPS = "a cursor that conn.cursor() did not make was at work, so perhaps a "

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    _Connection = psycopg.BaseConnection[Any]
else:
    _Connection = object


def _noted(name: str) -> Any:
    """A driver setting that only a reset of the session puts back."""
    genuine = getattr(psycopg.BaseConnection, name)

    def put(self: "Shared", value: Any) -> None:
        self.pooled.touched = True
        genuine.fset(self, value)

    return property(genuine.fget, put, doc=genuine.__doc__)


class Shared(_Connection):
    """A mixin in front of one of psycopg's connection classes."""

    lock: Any  # in place of psycopg's own, of threads or of tasks

    tracked: Callable[[Any], Any]
    """Makes a cursor class tell its connection what was sent."""
    me: Callable[[], Any]
    """The current thread or task, which may wait for the server."""
    exchange: Callable[..., None]
    """Sends a query outside of psycopg's transaction handling, and reads its results. See `libpq.exchange`."""

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        for name, then in OVERRIDDEN.items():
            genuine = getattr(super(), name, None)  # check_driver() reports it if it is gone
            setattr(cls, name, overridden(name, genuine, then))

    def __init__(self, pgconn: Any) -> None:
        self.pooled: Notes = Notes()
        super().__init__(pgconn)
        self.pooled.unasked.listen(pgconn)
        super().add_notice_handler(self.pooled.unasked.notice)

    def __del__(self, *warn: Any) -> None:
        """A pool's connection may stay open until the program ends: psycopg must not warn of it."""

    # --- waiting ------------------------------------------------------------------------------------------------------

    def within(self, timeout: float | None, work: Callable[[], object]) -> None:
        """Do some work of the pool's own, in at most `timeout` seconds (None: no bound). Raises NoAnswerError too."""
        before = self.pooled.until
        self.pooled.unasked.own = True
        self.pooled.until = None if timeout is None else monotonic() + timeout
        try:
            work()
        finally:
            self.pooled.unasked.own = False
            self.pooled.until = before

    def ask(self, query: bytes, kind: ExecStatus) -> None:
        """As `exchange` for a short answer: a single result of this kind. Raises OperationalError for any other."""
        answers: list[PGresult] = []
        self.exchange(query, answers, bounded=True)
        if [answer.status for answer in answers] != [kind]:
            # This answered something else. The right answer may still come, and would be taken for the next borrower's.
            raise psycopg.OperationalError(f"the server did not answer with exactly one result of kind {kind}")

    def announced(self) -> Announced:
        """In this block, this thread's or task's waits are the driver's own, or belong to statements that are noted."""
        return Announced(self)

    def _about_to_wait(self, gen: Any) -> bool:
        """Note what is known before a wait. True if nobody saw the statement that is waited for, and it may commit."""
        noted, status = self.pooled, self.pgconn.transaction_status
        noted.waits += 1
        if status not in _AT_WORK_OR_LOST:
            noted.before = status
        if noted.cancelled and status != _ACTIVE:
            noted.cancelled = False  # said on another thread of a statement that had just ended
        if noted.knows(self.me()) or (noted.piped and not is_a_cursors(gen)):
            return False
        # An untracked cursor waits (a tracked one announces that): its statement is unknown.
        return noted.note_unheard(self.me(), in_transaction=status in _MAY_SAVE, autocommit=self.autocommit)

    def _patience_for(self, timeout: float) -> float:
        """Seconds that a borrower's cancel may wait: `timeout` (0: no bound), at most until the invocation ends."""
        left = invocation.remaining()
        return timeout if left is None else max(min(timeout or left, left), MIN_IO_TIMEOUT)

    def _listening_for(self, timeout: float | None) -> float | None:
        """Seconds that notifies() may wait: `timeout` (None: no bound), at most until the invocation ends."""
        left = invocation.remaining()
        return timeout if left is None else max(left if timeout is None else min(timeout, left), 0.0)

    def cancel(self) -> None:
        """Like the driver's, but it ends when the invocation has no more time, and other threads go on meanwhile."""
        if self.closed or (self.pooled.two_phase and self.pooled.left_prepared):
            super().cancel()  # which sends nothing
            return
        request_cancel(self.pgconn, monotonic() + (self._patience_for(0) or inf))

    def not_called(self, name: str) -> NoReturn:
        """Raise ConfigError: the driver did not call the method that is overridden here."""
        self.pooled.ended = self.pooled.changed = True
        unfit(f"its cursors no longer call Connection.{name}()")

    # --- what is noted ------------------------------------------------------------------------------------------------

    def note(self, query: Any, tags: list[bytes] | None) -> None:
        """Note a statement that was sent, and the tags of its answers (None: it failed, or they are not known)."""
        if not self.pooled.noting:
            return
        if self.pooled.guarded and not self.pooled.ended:
            may = tags is None or any(tag in _ENDING for tag in tags)
            self.pooled.ended = self.pgconn.transaction_status == _IDLE or (may and ends_transaction(query))
        if not (self.pooled.changed and self.pooled.prepared) and changes_session(query, tags):
            self.pooled.changed = True
            self.pooled.prepared = self.pooled.prepared or prepares(query)
        for tag in tags or ():
            if tag in _TWO_PHASES:
                self.pooled.left_prepared = prepared_by(query) if tag == b"PREPARE TRANSACTION" else ""

    # --- transactions -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """BEGIN, with the connection's own characteristics."""
        words = ["BEGIN"]
        if self.isolation_level is not None:
            words.append("ISOLATION LEVEL " + psycopg.IsolationLevel(self.isolation_level).name.replace("_", " "))
        if self.read_only is not None:
            words.append("READ ONLY" if self.read_only else "READ WRITE")
        if self.deferrable is not None:
            words.append("DEFERRABLE" if self.deferrable else "NOT DEFERRABLE")
        self.ask(" ".join(words).encode(), ExecStatus.COMMAND_OK)

    def _refuse(self, name: str) -> None:
        if self.pooled.guarded:
            raise psycopg.ProgrammingError(
                f"Explicit {name}() forbidden inside Pool.run(), which ends the transaction itself: return to "
                "commit it, raise to undo it, or use `with conn.transaction():` for a part"
            )

    @contextmanager
    def committing(self, *, blocks: int | None = 0, two_phase: bool = False) -> Iterator[None]:
        """In this block the open transaction is committed: if the answer is lost, that is CommitUncertain.

        `blocks`: how many of the driver's own blocks are open where COMMIT is sent; None if this block sends none. With
        more of them, or in a two-phase transaction, the driver refuses it. `two_phase`: COMMIT PREPARED is sent. Raises
        InFailedSqlTransaction if nothing was saved, and the driver's error if the connection is lost before it is sent.
        """
        noted, status = self.pooled, self.pgconn.transaction_status
        sent = two_phase or (status in _MAY_SAVE and noted.blocks == blocks and not noted.two_phase)
        own = sent and noted.saving is None
        for _ in range(_LOOKS if own and not self.lock.locked() else 0):
            if self.pgconn.status != ConnStatus.OK or not poll(self.pgconn.socket, READ):
                break
            self.pgconn.consume_input()
        noted.saving = self.me() if own else noted.saving
        try:
            with self.announced():
                yield
        finally:
            if own:
                noted.saving = None
        if status == _IN_ERROR:
            raise InFailedSqlTransaction(NOTHING_SAVED)

    @contextmanager
    def _piped(self) -> Iterator[None]:
        """A block around a borrower's pipeline. Raises InFailedSqlTransaction if a COMMIT in it saved nothing."""
        noted = self.pooled
        outer, noted.piped = noted.piped, True
        try:
            yield
            if not outer and any(cursor.statusmessage == "ROLLBACK" for cursor in noted.doubtful):
                raise InFailedSqlTransaction(NOTHING_SAVED)
        finally:
            noted.piped = outer
            if not outer:
                noted.saving = None
                noted.doubtful.clear()

    def shut(self) -> None:
        """The driver's own close(), which waits for nothing: it may be called where no event loop runs."""
        at_once(super().close())  # type: ignore[misc]

    def answered(self, error: BaseException) -> bool:
        """Whether it is the server's own "no" to COMMIT on a live connection, or has nothing to do with the answer."""
        # COMMIT was not sent, or came after what failed.
        if isinstance(error, BusyError | psycopg.errors.PipelineAborted):
            return True
        # In a pipeline, a COMMIT that comes after what failed is not executed.
        busy = self.pgconn.transaction_status == _ACTIVE and not self.pgconn.pipeline_status
        if self.pgconn.status != ConnStatus.OK or busy or not isinstance(error, psycopg.Error):
            return False
        state = error.sqlstate
        if state is None:  # not the server's: nothing was sent, all was answered, or a pipeline still waits for it
            return isinstance(error, _NOT_THE_SERVERS)
        return len(state) == 5 and not state.startswith("08") and state != "40003"  # with these, nobody knows

    def tell(self, error: BaseException, *, unheard: bool) -> None:
        """Note what an error of a wait means, and raise what it stands for: CommitUncertain, or DeadlineExceeded.

        `unheard`: nobody saw the statement that was waited for, and it may be a borrower's COMMIT.
        """
        own = self.pooled.saving is not None and self.pooled.saving == self.me()
        if not isinstance(error, psycopg.Error):
            if (own or unheard) and is_struck(self.pgconn, error):
                self._doubt(error, "" if own else _PERHAPS)
            return
        kind = classify(error)
        if kind in INVALIDATES_POOL and not (kind is Failure.READ_ONLY and self.read_only):
            self.pooled.hidden = kind
        if (own or (unheard and is_unanswered(self.pgconn))) and not self.answered(error):
            self._doubt(error, "" if own else _PERHAPS)
        if self.pooled.cancelled:
            raise cancelled(error, answered=error.sqlstate is not None) from error

    def tell_of_statement(self, query: Any, error: BaseException) -> None:
        """Raise CommitUncertain if a statement that failed with `error` commits, and its answer was lost.

        In autocommit mode any statement may have been saved. Then the driver's own error stays, and a borrower that
        swallows it is told later.
        """
        said = cause(error)
        lost = isinstance(said, psycopg.Error) and not self.answered(said)
        if (lost or is_struck(self.pgconn, said)) and commits(query):
            self._doubt(said)
        if (
            is_unanswered(self.pgconn)
            and not self.pooled.lost_commit
            and self.pooled.alone(self.autocommit)
            and not saves_nothing(query)
        ):
            if isinstance(error, DeadlineExceeded):
                self._doubt(said, AUTOCOMMITTED)
            self.pooled.lost_commit = lost_answer(said, AUTOCOMMITTED)

    def _doubt(self, error: BaseException, perhaps: str = "") -> NoReturn:
        # Only the text is kept: the error itself refers to its frames, and so to this connection.
        self.pooled.lost_commit = lost_answer(error, perhaps)
        raise uncertain(self.pooled.lost_commit) from error

    # --- settings -----------------------------------------------------------------------------------------------------

    def put(self, name: str, value: Any) -> None:
        """Set one of its settings, for the pool. It must be idle."""
        setattr(self, name, value)

    def drain_notifies(self) -> None:
        """Read the notifications that came for the last borrower, and forget them. It must be idle."""
        raise NotImplementedError

    @property
    def cursor_factory(self) -> Any:
        """The class of its cursors."""
        return self.pooled.cursor_class[self.pooled.making]

    @cursor_factory.setter
    def cursor_factory(self, value: Any) -> None:
        self.pooled.altered = True
        self.pooled.cursor_class = value, self._class_for(value)

    @property
    def server_cursor_factory(self) -> Any:
        """The class of its server-side cursors."""
        return self.pooled.server_cursor_class[self.pooled.making]

    @server_cursor_factory.setter
    def server_cursor_factory(self, value: Any) -> None:
        self.pooled.touched = True
        self.pooled.server_cursor_class = value, self._class_for(value)

    prepare_threshold: Any = _noted("prepare_threshold")
    prepared_max: Any = _noted("prepared_max")

    def comment_statements(self) -> None:
        """From now on each statement ends with a comment that names the current trace."""
        self.pooled.commenting = True
        self.cursor_factory = self.cursor_factory
        self.server_cursor_factory = self.server_cursor_factory

    def _class_for(self, asked: Any) -> Any:
        if not self.pooled.commenting:
            return self.tracked(asked)
        from .commented import commented

        return commented(self.tracked(asked))

    @property
    def adapters(self) -> AdaptersMap:
        """How it converts values."""
        self.pooled.touched = True
        if self.pooled.adapters is None:
            base = self.pooled.baseline
            self.pooled.adapters = AdaptersMap((base and base.adapters) or psycopg.adapters)
        return self.pooled.adapters

    def cursor(self, *args: Any, **named: Any) -> Any:
        noted = self.pooled
        touched, noted.making = noted.touched, True
        try:
            return super().cursor(*args, **named)  # type: ignore[misc]
        finally:
            noted.touched, noted.making = touched, False  # making a cursor reads the adapters, and changes nothing

    def configure(self, arguments: dict[str, Any]) -> None:
        """Do what psycopg.Connection.connect() does with its own arguments once libpq is connected."""
        if arguments.get("row_factory"):
            self.row_factory: Any = arguments["row_factory"]
        if arguments.get("cursor_factory"):
            self.cursor_factory = arguments["cursor_factory"]
        if arguments.get("context"):
            self.pooled.adapters = AdaptersMap(arguments["context"].adapters)
        if "prepare_threshold" in arguments:
            self.prepare_threshold = arguments["prepare_threshold"]
        if arguments.get("autocommit"):
            self.put("autocommit", True)

    def set_baseline(self, *, noting: bool) -> None:
        """Make its current state the one that a reset restores. `noting`: note what outlives a transaction."""
        self.pooled.noting = noting
        self.pooled.changed = self.pooled.prepared = self.pooled.altered = self.pooled.touched = False
        self.pooled.baseline = Baseline(self)

    def settings(self) -> tuple[Any, ...]:
        """What a borrower may set on it."""
        return _settings_of(self)

    def is_as_lent(self, *, wholly: bool) -> bool:
        """Whether each setting is as in the baseline. `wholly`: and so is everything else that lives in the driver."""
        assert self.pooled.baseline is not None
        base = self.pooled.baseline
        if self.pooled.altered:  # and perhaps put back, as Django does with autocommit
            self.pooled.altered = _light_settings_of(self) != base.settings[:_LIGHT]
        if self.pooled.altered or self.row_factory is not base.settings[_ROW_FACTORY]:
            return False
        return not wholly or (
            not self.pooled.touched
            and len(vars(self)) == len(base.names)
            and self.pooled.handlers == base.handlers
            and not self.pooled.unasked.notified
        )

    def put_back(self, *, wholly: bool) -> None:
        """Restore the baseline; it must be idle. `wholly`: including what only a reset of the session undoes."""
        assert self.pooled.baseline is not None
        base = self.pooled.baseline
        names = _SETTINGS if wholly else _SETTINGS[:_LIGHT]
        # OpenTelemetry notes in attributes of the connection which cursors it has put there.
        instrumented = self.cursor_factory != base.settings[_CURSOR_FACTORY]
        for name, now, then in zip(names, self.settings(), base.settings, strict=False):
            if now != then:
                self.put(name, then)
        self.pooled.altered = False
        self.pooled.piped = False
        self.pooled.knowing.clear()
        if wholly or instrumented:
            for name in vars(self).keys() - base.names:
                delattr(self, name)
        if not wholly:
            return
        if self.pooled.touched:
            self.pooled.adapters = None
            self.pooled.touched = False
        handlers, unasked = self.pooled.handlers, self.pooled.unasked
        if handlers == base.handlers and not unasked.notified:
            return
        for kind, callback in list(handlers):
            getattr(self, f"remove_{kind}")(callback)
        self.drain_notifies()
        unasked.notified = False
        for kind, callback in base.handlers:
            getattr(self, f"add_{kind}")(callback)


_SETTINGS = (
    *("row_factory", "autocommit", "isolation_level", "read_only", "deferrable", "cursor_factory"),
    *("server_cursor_factory", "prepare_threshold", "prepared_max"),
)
_ROW_FACTORY, _CURSOR_FACTORY = 0, 5
_LIGHT = 6  # the first six are put back after each borrower
_settings_of = attrgetter(*_SETTINGS)
_light_settings_of = attrgetter(*_SETTINGS[:_LIGHT])
