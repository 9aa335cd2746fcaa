"""psycopg's connection, as borrowers get it; it notes what the pool must know of a transaction and a session."""

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus

from ... import invocation
from ..base import cancelled
from .cursors import NOTHING_SAVED, tracked
from .fitness import unfit
from .libpq import LOOK, NoAnswerError, exchange
from .notes import Notes
from .statements import changes_session, ends_transaction, prepares

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

_IDLE, _ACTIVE, _IN_ERROR = TransactionStatus.IDLE, TransactionStatus.ACTIVE, TransactionStatus.INERROR
_NO_PIPELINE = PipelineStatus.OFF
_ENDING = frozenset({b"COMMIT", b"ROLLBACK", b"PREPARE TRANSACTION"})

log: logging.Logger = logging.getLogger("lambda_pool")


def _announced(name: str, then: Any = None) -> Any:
    """A method of the driver's whose waits are known. `then` is called with the same arguments if it ends well."""
    genuine = getattr(psycopg.Connection, name, None)  # check_driver() says it if it is gone

    def method(self: "PooledConnection", *args: Any, **named: Any) -> Any:
        with self.announced():
            answer = genuine(self, *args, **named)  # type: ignore[misc]
        if then is not None:
            then(self, *args, **named)
        return answer

    method.__name__, method.__doc__ = name, getattr(genuine, "__doc__", None)
    return method


def _note_handler(kind: str) -> Any:
    return lambda self, callback: self.pooled.handlers.append((kind, callback))


def _forget_handler(kind: str) -> Any:
    return lambda self, callback: self.pooled.handlers.remove((kind, callback))


class Baseline:
    """What a connection was once it was set up, and is again after a reset."""

    def __init__(self, conn: "PooledConnection") -> None:
        self.settings: tuple[Any, ...] = conn.settings()
        self.names: frozenset[str] = frozenset(vars(conn))
        self.adapters: AdaptersMap = AdaptersMap(conn.pooled.adapters or psycopg.adapters)
        self.handlers: list[tuple[str, Any]] = list(conn.pooled.handlers)


class PooledConnection(psycopg.Connection[Any]):
    """A psycopg connection that belongs to a pool.

    `with conn:` does not close it; an outermost `conn.transaction()` is a savepoint in the block's own transaction.
    """

    def __init__(self, pgconn: Any) -> None:
        self.pooled: Notes = Notes()
        super().__init__(pgconn)
        self.pooled.unasked.listen(pgconn)
        super().add_notice_handler(self.pooled.unasked.notice)

    def __del__(self, *warn: Any) -> None:
        """A pool's connection may end with the program: nothing is to be warned of."""

    # --- waiting ------------------------------------------------------------------------------------------------------

    def wait(self, gen: Any, interval: float = LOOK, timeout: float | None = None) -> Any:
        """As the driver's, bounded where the pool waits. Raises NoAnswerError too, DeadlineExceeded after a cancel."""
        self.pooled.waits += 1
        if self.pooled.cancelled and self.pgconn.transaction_status != _ACTIVE:
            self.pooled.cancelled = False  # said on another thread of a statement that had just ended
        if not (self.pooled.known or self.pooled.piped):
            self._unknown()
        until = self.pooled.until
        if until is not None:
            left = max(until - monotonic(), 0.0)
            timeout = left if timeout is None else min(timeout, left)
        try:
            return super().wait(gen, min(interval, LOOK), timeout)
        except psycopg.Error as error:
            if self.pooled.watched and self.pooled.cancelled:
                raise cancelled(error) from error
            if until is not None and error.sqlstate is None and monotonic() >= until:
                raise NoAnswerError("no answer in time") from error
            raise

    @contextmanager
    def announced(self) -> Iterator[None]:
        """The waits in this block are the driver's own, or those of statements that are noted."""
        known, self.pooled.known = self.pooled.known, True
        try:
            yield
        finally:
            self.pooled.known = known

    def within(self, timeout: float | None, work: Callable[[], object]) -> None:
        """Do some work of the pool's own, in at most `timeout` seconds (None: no bound). Raises NoAnswerError too."""
        self.pooled.unasked.own = self.pooled.known = True
        self.pooled.until = None if timeout is None else monotonic() + timeout
        try:
            work()
        finally:
            self.pooled.unasked.own = self.pooled.known = False
            self.pooled.until = None

    def tell(self, query: bytes | None, answers: Any, *, bounded: bool = False) -> None:
        """Send a query past psycopg's transactions, and read its results. See `exchange`."""
        with self.lock, self.announced():
            self.wait(exchange(self.pgconn, query, answers, self.pooled.unasked, bounded=bounded))

    def ask(self, query: bytes, kind: ExecStatus) -> None:
        """The same where the answer is short: a single result of this kind. Raises OperationalError for any other."""
        answers: list[PGresult] = []
        self.tell(query, answers, bounded=True)
        if [answer.status for answer in answers] != [kind]:
            # The answer to something else: the one to this may still come, and be taken for the next borrower's.
            raise psycopg.OperationalError(f"the server answered with something else than one result of kind {kind}")

    def not_called(self, name: str) -> NoReturn:
        """The driver went another way than the one that is overridden here."""
        self.pooled.ended = self.pooled.changed = True
        unfit(f"its cursors no longer call Connection.{name}()")

    # --- what is noted ------------------------------------------------------------------------------------------------

    def note(self, query: Any, tags: list[bytes] | None) -> None:
        """A statement that was sent, and the tags of its answers (None: it failed, or they are not known)."""
        if not self.pooled.noting:
            return
        if self.pooled.guarded and not self.pooled.ended:
            may = tags is None or any(tag in _ENDING for tag in tags)
            self.pooled.ended = self.pgconn.transaction_status == _IDLE or (may and ends_transaction(query))
        if not (self.pooled.changed and self.pooled.prepared) and changes_session(query, tags):
            self.pooled.changed = True
            self.pooled.prepared = self.pooled.prepared or prepares(query)

    def _unknown(self) -> None:
        """A cursor that this connection did not make: nobody knows what it said."""
        self.pooled.ended = self.pooled.changed = self.pooled.prepared = True

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

    @contextmanager
    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Iterator[Any]:
        """As the driver's, but that without autocommit it is never outermost: the pool ends that transaction."""
        if not self.autocommit and self.pgconn.transaction_status == _IDLE:
            self.pooled.ended = True  # whoever ended it, it was not the pool
            if self.pgconn.pipeline_status == _NO_PIPELINE:
                self.begin()
            else:
                self.execute("")
        block = super().transaction(savepoint_name, force_rollback)
        with self.announced():
            inner = block.__enter__()
        self.pooled.blocks += 1
        try:
            yield inner
        except BaseException as error:
            with self.announced():
                if not block.__exit__(type(error), error, error.__traceback__):
                    raise
        else:
            failed = self.pgconn.transaction_status == _IN_ERROR and not force_rollback
            with self.announced():
                block.__exit__(None, None, None)
            if failed:
                raise InFailedSqlTransaction(NOTHING_SAVED)
        finally:
            self.pooled.blocks -= 1

    def commit(self) -> None:
        """As the driver's. Raises ProgrammingError in `Pool.run`, and InFailedSqlTransaction where nothing is saved."""
        self._refuse("commit")
        failed = self.pgconn.transaction_status == _IN_ERROR
        self.end(commit=True)
        if failed:
            raise InFailedSqlTransaction(NOTHING_SAVED)

    def rollback(self) -> None:
        """As the driver's. Raises ProgrammingError in `Pool.run`."""
        self._refuse("rollback")
        self.end(commit=False)

    def end(self, *, commit: bool) -> None:
        """The driver's own commit() or rollback()."""
        with self.announced():
            if commit:
                super().commit()
            else:
                super().rollback()

    def _refuse(self, name: str) -> None:
        if self.pooled.guarded:
            raise psycopg.ProgrammingError(
                f"Explicit {name}() forbidden inside Pool.run(), which ends the transaction itself: return to "
                "commit it, raise to undo it, or use `with conn.transaction():` for a part"
            )

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Commit, or roll back after an error; the connection stays open for its pool."""
        if self.closed:
            return
        if exc_type is None:
            self.commit()
            return
        try:
            self.rollback()
        except Exception as error:  # noqa: BLE001 - the block's own error is to come out
            log.debug("error ignored in rollback on %s: %s", self, error)

    def _note_two_phase(self, prepared: bool, xid: Any = "") -> None:
        self.pooled.two_phase, self.pooled.two_phase_prepared = (
            str(xid) or (self.pooled.two_phase if prepared else ""),
            prepared,
        )

    tpc_begin: Any = _announced("tpc_begin", lambda self, xid: self._note_two_phase(False, xid))
    tpc_prepare: Any = _announced("tpc_prepare", lambda self: self._note_two_phase(True))
    tpc_commit: Any = _announced("tpc_commit", lambda self, xid=None: self._note_two_phase(False))
    tpc_rollback: Any = _announced("tpc_rollback", lambda self, xid=None: self._note_two_phase(False))

    def close(self) -> None:
        """As the driver's."""
        self.pooled.closed_in_transaction = not self.closed and self.pgconn.transaction_status != _IDLE
        super().close()

    @contextmanager
    def pipeline(self) -> Iterator[Any]:
        """As the driver's."""
        piped, self.pooled.piped = self.pooled.piped, True
        try:
            with super().pipeline() as pipeline:
                yield pipeline
        finally:
            self.pooled.piped = piped

    # --- settings -----------------------------------------------------------------------------------------------------

    def _note_setting(self, value: Any) -> None:
        self.pooled.altered = True

    set_autocommit: Any = _announced("set_autocommit", _note_setting)
    set_isolation_level: Any = _announced("set_isolation_level", _note_setting)
    set_read_only: Any = _announced("set_read_only", _note_setting)
    set_deferrable: Any = _announced("set_deferrable", _note_setting)

    @property
    def cursor_factory(self) -> Any:
        """The class of its cursors."""
        return self.pooled.cursor_class[self.pooled.making]

    @cursor_factory.setter
    def cursor_factory(self, value: Any) -> None:
        self.pooled.altered = True
        self.pooled.cursor_class = value, tracked(value)

    @property
    def server_cursor_factory(self) -> Any:
        """The class of its server-side cursors."""
        return self.pooled.server_cursor_class[self.pooled.making]

    @server_cursor_factory.setter
    def server_cursor_factory(self, value: Any) -> None:
        self.pooled.server_cursor_class = value, tracked(value)

    @property
    def adapters(self) -> AdaptersMap:
        """How it converts values."""
        self.pooled.touched = True
        if self.pooled.adapters is None:
            self.pooled.adapters = AdaptersMap(
                self.pooled.baseline.adapters if self.pooled.baseline else psycopg.adapters
            )
        return self.pooled.adapters

    def cursor(self, *args: Any, **named: Any) -> Any:
        """As the driver's."""
        noted = self.pooled
        touched, noted.making = noted.touched, True
        try:
            return super().cursor(*args, **named)
        finally:
            noted.touched, noted.making = touched, False  # it reads the adapters, and changes nothing

    add_notice_handler: Any = _announced("add_notice_handler", _note_handler("notice_handler"))
    add_notify_handler: Any = _announced("add_notify_handler", _note_handler("notify_handler"))
    remove_notice_handler: Any = _announced("remove_notice_handler", _forget_handler("notice_handler"))
    remove_notify_handler: Any = _announced("remove_notify_handler", _forget_handler("notify_handler"))

    def notifies(self, *, timeout: float | None = None, stop_after: int | None = None) -> Generator[psycopg.Notify]:
        """As the driver's, and it ends when the invocation has no more time."""
        left = invocation.remaining()
        if left is not None:
            timeout = max(left if timeout is None else min(timeout, left), 0.0)
        with self.announced():
            yield from super().notifies(timeout=timeout, stop_after=stop_after)

    def configure(self, arguments: dict[str, Any]) -> None:
        """What psycopg.Connection.connect() does with its own arguments once libpq is connected."""
        if arguments.get("row_factory"):
            self.row_factory: Any = arguments["row_factory"]
        if arguments.get("cursor_factory"):
            self.cursor_factory = arguments["cursor_factory"]
        if arguments.get("context"):
            self.pooled.adapters = AdaptersMap(arguments["context"].adapters)
        if "prepare_threshold" in arguments:
            self.prepare_threshold = arguments["prepare_threshold"]
        if arguments.get("autocommit"):
            self.autocommit = True

    def set_baseline(self, *, noting: bool) -> None:
        """Take what it is now for what a reset brings back. `noting`: note what outlives a transaction."""
        self.pooled.noting = noting
        self.pooled.changed = self.pooled.prepared = self.pooled.altered = self.pooled.touched = False
        self.pooled.baseline = Baseline(self)

    def settings(self) -> tuple[Any, ...]:
        """What a borrower may set on it."""
        return tuple(getattr(self, name) for name in _SETTINGS)

    def is_as_lent(self, *, wholly: bool) -> bool:
        """Whether no setting differs from the baseline. `wholly`: nor anything else that lives in the driver."""
        assert self.pooled.baseline is not None
        base = self.pooled.baseline
        if self.pooled.altered:  # and perhaps put back, as Django does with autocommit
            light = tuple(getattr(self, name) for name in _SETTINGS[:_LIGHT])
            self.pooled.altered = light != base.settings[:_LIGHT]
        if self.pooled.altered or self.row_factory is not base.settings[_ROW_FACTORY]:
            return False
        return not wholly or (
            not self.pooled.touched
            and len(vars(self)) == len(base.names)
            and self.pooled.handlers == base.handlers
            and not self.pooled.unasked.notified
            and self.settings() == base.settings
        )

    def put_back(self, *, wholly: bool) -> None:
        """Make it as the baseline is; it must be idle. `wholly`: with what only a reset of the session undoes."""
        assert self.pooled.baseline is not None
        base = self.pooled.baseline
        names = _SETTINGS if wholly else _SETTINGS[:_LIGHT]
        for name, now, then in zip(names, self.settings(), base.settings, strict=False):
            if now != then:
                setattr(self, name, then)
        self.pooled.altered = False
        self.pooled.known = self.pooled.piped = False
        if not wholly:
            return
        for name in vars(self).keys() - base.names:
            delattr(self, name)
        if self.pooled.touched:
            self.pooled.adapters = AdaptersMap(base.adapters)
            self.pooled.touched = False
        handlers, unasked = self.pooled.handlers, self.pooled.unasked
        if handlers == base.handlers and not unasked.notified:
            return
        for kind, callback in list(handlers):
            getattr(self, f"remove_{kind}")(callback)
        with self.announced():
            for _ in super().notifies(timeout=0):  # what came in for this borrower
                pass
        unasked.notified = False
        for kind, callback in base.handlers:
            getattr(self, f"add_{kind}")(callback)


_SETTINGS = (
    *("row_factory", "autocommit", "isolation_level", "read_only", "deferrable", "cursor_factory"),
    *("server_cursor_factory", "prepare_threshold", "prepared_max"),
)
_ROW_FACTORY = 0
_LIGHT = 6  # of them are put back after each borrower
