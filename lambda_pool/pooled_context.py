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

    __slots__ = ("_entry", "_pool", "_readonly", "_timeout")

    def __init__(self, pool: ConnectionPool, timeout: float | None, *, readonly: bool) -> None:
        self._pool = pool
        self._timeout = timeout
        self._readonly = readonly
        self._entry: Entry | None = None

    def __enter__(self) -> Conn:
        if self._entry is not None:
            raise LambdaPoolError("this connection() was entered twice: call pool.connection() for each block")
        pool = self._pool
        deadline = Deadline(
            self._timeout or pool.config.timeout, wake=0.0 if self._timeout else pool.config.wake_timeout
        )
        if self._readonly:
            entry = self._entry = pool.acquire_transaction(deadline, readonly=True, guarded=False)
        else:
            entry = self._entry = pool.acquire(Role.WRITER, deadline)
        borrower.note(entry, sys._getframe(1), deep=pool.config.leak_after > 0)
        conn: Conn = entry.link.driver_connection
        return conn

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            self._pool.release(entry, exc)
