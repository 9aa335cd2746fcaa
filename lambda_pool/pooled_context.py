"""What `Pool.connection()` returns."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic

from . import borrower
from .core.entry import Entry
from .endpoints.base import Role
from .errors import LambdaPoolError
from .invocation import Deadline
from .pool import ConnectionPool

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # In an annotation, a bare `Pool` is a pool of connections of any type.
    Conn = TypeVar("Conn", covariant=True, default=Any)  # noqa: PLC0105 - as a checker's messages show it
else:
    from typing import TypeVar

    Conn = TypeVar("Conn", covariant=True)  # noqa: PLC0105


class PooledContext(Generic[Conn]):
    """One borrowed connection: commit when the block ends well, roll back when it raises.

    `timeout`: the most seconds to wait, None for the option `timeout`. `readonly`: in a read-only transaction.
    """

    __slots__ = ("_entered", "_entry", "_pool", "_readonly", "_timeout")

    def __init__(self, pool: ConnectionPool, timeout: float | None, *, readonly: bool) -> None:
        self._pool = pool
        self._timeout = timeout
        self._readonly = readonly
        self._entered = False
        self._entry: Entry | None = None

    def __enter__(self) -> Conn:
        if self._entered:
            raise LambdaPoolError("this connection() was entered twice: call pool.connection() for each block")
        self._entered = True  # before it waits, so that another thread is told
        try:
            entry = self._entry = borrow(self._pool, self._timeout, readonly=self._readonly)
        except BaseException:
            self._entered = False
            raise
        borrower.note(entry, sys._getframe(1), deep=self._pool.config.leak_after > 0)
        conn: Conn = entry.link.driver_connection
        return conn

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        entry, self._entry = self._entry, None
        self._entered = False
        if entry is not None:
            self._pool.release(entry, exc)


def borrow(pool: ConnectionPool, timeout: float | None, *, readonly: bool) -> Entry:
    """Borrow as `Pool.connection` says."""
    deadline = Deadline(timeout or pool.config.timeout, wake=0.0 if timeout else pool.config.wake_timeout)
    if readonly:
        return pool.acquire_transaction(deadline, readonly=True, guarded=False)
    return pool.acquire(Role.WRITER, deadline)
