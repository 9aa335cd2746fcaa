"""The pool as SQLAlchemy sees it: it lends what ours lends, and keeps one record for each physical connection.

With one record for each, the event `connect` and the set-up of the dialect happen once for each, and `info` lives as
long as the connection. This file relies on private names of SQLAlchemy's: `_do_get`, `_do_return_conn` and
`_invalidate`, which every pool class overrides, `_creator` and `_dispatch`, which `recreate` passes on, and
`_ConnectionRecord`.
tests/frameworks/sqlalchemy/test_private.py fails when one of them changes.
"""

from contextlib import suppress
from typing import Any, cast
from weakref import ref

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import Pool, PoolProxiedConnection
from sqlalchemy.pool.base import _ConnectionRecord

from .. import unavailable
from ..core.entry import UNOPENED
from ..errors import ConfigError
from ..invocation import Deadline
from ..waiting import pause
from .borrowed import Borrowed
from .dialect import PooledDialect

_GLANCE = 0.005  # seconds between two checks whether the first connection is set up
_INSTEAD = {
    "pool_size": "write Pool(..., max_size=...)",
    "max_overflow": "write Pool(..., max_size=...)",
    "pool_timeout": "write Pool(..., timeout=...)",
    "pool_recycle": "write Pool(..., max_lifetime=...)",
    "pool_pre_ping": "leave it out, because each checkout checks the connection anyway",
    "pool_reset_on_return": "leave it out, because a connection that comes back in a transaction is rolled back",
    "pool_use_lifo": "leave it out, because the connection that was used last is lent first anyway",
}


class _Record(_ConnectionRecord):
    """What SQLAlchemy knows of one connection. One whose clean-up fails is closed: SQLAlchemy would keep its place."""

    __slots__ = ("_lent",)

    def __init__(self, pool: "LambdaPool", lent: PooledDialect) -> None:
        super().__init__(pool, connect=False)
        self._lent = lent

    def checkin(self, _fairy_was_created: bool = True) -> None:
        borrowed = self._lent.known(self.dbapi_connection)
        returned = borrowed and borrowed.entry.returned
        try:
            super().checkin(_fairy_was_created)
        except BaseException:
            if borrowed is not None:
                self._lent.forget(borrowed.conn)
                if borrowed.entry.returned == returned:  # otherwise it came back, and may be lent to another one
                    borrowed.discard()
            raise


class LambdaPool(Pool):
    """Lends the connections of a `lambda_pool.Pool`. Made by SQLAlchemy, with the dialect that knows that pool."""

    def __init__(
        self,
        creator: Any,
        dialect: Any = None,
        echo: Any = None,
        logging_name: str | None = None,
        events: Any = None,
        timeout: Any = None,
        recycle: Any = None,
        pre_ping: Any = None,
        reset_on_return: Any = None,
        use_lifo: Any = None,
        pool_size: Any = None,
        max_overflow: Any = None,
        _dispatch: Any = None,
    ) -> None:
        """SQLAlchemy's own arguments. Raises ConfigError for those that another pool class has."""
        self._lent = cast(PooledDialect, dialect)
        if isinstance(recycle, int | float) and recycle >= self._lent.pool.config.max_lifetime:
            recycle = -1  # our pool replaces them sooner; Flask-SQLAlchemy asks for two hours on MySQL by itself
        for option, value, default in (
            ("pool_size", pool_size, None),
            ("max_overflow", max_overflow, None),
            ("pool_timeout", timeout, None),
            ("pool_recycle", recycle, -1),
            ("pool_pre_ping", pre_ping, False),
            ("pool_reset_on_return", reset_on_return, None),
            ("pool_use_lifo", use_lifo, False),
        ):
            if value is not None and value != default:
                raise ConfigError(f"{option}={value!r} is not valid with lambda_pool: {_INSTEAD[option]}")
        super().__init__(
            creator,
            echo=echo,
            logging_name=logging_name,
            events=events,
            dialect=dialect,
            reset_on_return=None,
            _dispatch=_dispatch,
        )
        event.listen(self, "connect", self._check, insert=True)  # before any other listener
        event.listen(self, "detach", self._note_detached)
        self._records: dict[Any, _Record] = {}
        self._first: object | None = None  # stands for whoever sets up the first connection now
        self._had_first = False

    @classmethod
    def in_place_of(cls, other: Pool, dialect: PooledDialect) -> "LambdaPool":
        """One with the settings and the listeners of a pool that SQLAlchemy has made."""
        return cls(
            other._creator, dialect=dialect, echo=other.echo, logging_name=other.logging_name, _dispatch=other.dispatch
        )

    # --- what a pool class is asked for -------------------------------------------------------------------------------

    def connect(self) -> PoolProxiedConnection:
        """Like its base's. It remembers who holds a connection, in case that is detached."""
        held = super().connect()
        with suppress(ConfigError):  # taken away already, as at the end of an invocation
            self._lent.borrowed(held.dbapi_connection).holder = ref(held)
        return held

    def _do_get(self) -> _Record:
        """Borrow. Raises what `Pool.connection()` raises, or what a listener of `connect` raises."""
        pool, readonly = self._lent.pool, self._lent.readonly
        deadline = Deadline(pool.config.timeout, wake=pool.config.wake_timeout)
        first = True
        while True:
            borrowed = self._lent.borrow(deadline)
            try:
                record, borrowed = self._record(borrowed, deadline)
                if readonly:
                    borrowed.begin_read_only(pool.begin_timeout(borrowed.entry, deadline))
            except BaseException as error:
                if self._lent.forget(borrowed.conn) is not None:  # otherwise SQLAlchemy has closed it
                    borrowed.fail(error)
                # The dialect's own questions go through SQLAlchemy, which wraps what the driver raises. That error has
                # no name here: it refers to this frame, and would keep all that the frames below hold.
                if not unavailable.may_try_another(
                    pool, (isinstance(error, DBAPIError) and error.orig) or error, deadline, first=first
                ):
                    raise
                first = False
            else:
                return record

    def _record(self, borrowed: Borrowed, deadline: Deadline) -> tuple[_Record, Borrowed]:
        """The record of a connection, and what it stands for in the end: SQLAlchemy may have asked for another one."""
        conn = borrowed.conn
        record = self._records.get(conn)
        if record is None or record.dbapi_connection is None:
            self._forget_gone()
            record, me = _Record(self, self._lent), object()
            try:
                self._await_first(me, deadline)
                with self._lent.connects(borrowed), borrowed.limited(deadline):
                    conn = record.get_connection()
                self._had_first = True
            finally:
                if self._first is me:
                    self._first = None
        else:
            borrowed.set_up = True
            conn = record.get_connection()
        self._records[conn] = record
        borrowed = self._lent.borrowed(conn)
        if not borrowed.set_up:
            borrowed.settle()
        return record, borrowed

    def _await_first(self, me: object, deadline: Deadline) -> None:
        """Wait while somebody else sets up the first connection; note, if there is none yet, that `me` does.

        SQLAlchemy's own lock for that belongs to one event loop: the loops of other threads would get an error, or
        never be woken. Raises what a full pool raises.
        """
        pool = self._lent.pool
        while not self._had_first:
            with pool.lock:
                self._first = self._first or me
            if self._first is me:
                return
            if pool.connector.left(deadline) <= 0:
                raise unavailable.timed_out(pool, deadline)
            pause(_GLANCE)

    def _check(self, conn: Any, record: Any) -> None:
        """Raises ConfigError for a connection that is not the pool's."""
        self._lent.borrowed(conn)

    def _note_detached(self, conn: Any, record: Any) -> None:
        """Note that no record of SQLAlchemy's takes care of this connection any more."""
        with suppress(ConfigError):
            self._lent.borrowed(conn).detached = True

    def _forget_gone(self) -> None:
        """Forget the records of connections that the pool has closed, and tell listeners of `close`."""
        pool, records = self._lent.pool, self._records.copy()
        with pool.lock:
            known = {id(self._lent.adapt(entry.link)) for entry in pool.state.entries if entry.link is not UNOPENED}
        for conn, record in records.items():
            if id(conn) in known or record.in_use or self._records.pop(conn, None) is None:
                continue
            if record.dbapi_connection is conn:  # otherwise SQLAlchemy has closed it, and told them
                self.dispatch.close(conn, record)

    def _do_return_conn(self, record: Any) -> None:
        conn = record.dbapi_connection
        if conn is None:  # closed, or detached: then it is given back when it is closed
            return
        if self._lent.pool.config.reset == "session" and self._lent.known(conn) is not None:
            self._records.pop(conn, None)  # it must be set up again
        self._lent.give_back(conn)

    def _invalidate(
        self, connection: PoolProxiedConnection, exception: BaseException | None = None, _checkin: bool = True
    ) -> None:
        """Invalidate this connection only: the pool itself decides which others a failure condemns."""
        if _checkin and connection.is_valid:
            with suppress(NotImplementedError):  # the first one, while it is set up: `_do_get` takes care of that
                if connection.is_detached:  # SQLAlchemy only lets go of it, and its place would stay taken
                    self._lent.do_terminate(connection.dbapi_connection)
            connection.invalidate(exception)

    # --- the pool as a whole ------------------------------------------------------------------------------------------

    def dispose(self) -> None:
        """Close idle connections now, and lent ones when they come back."""
        self._lent.pool.close()
        self._forget_gone()

    def recreate(self) -> "LambdaPool":
        """The same one: the connections are not its own, and it opens nothing before a checkout asks for it."""
        return self

    def status(self) -> str:
        """`str(Pool.stats())`."""
        return str(self._lent.pool.stats())
