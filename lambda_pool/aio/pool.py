"""The public `AsyncPool`: a `Pool` for `async def`."""

import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, overload

from .. import borrower, replay
from .. import config as configuration
from ..api import Described, Pool, core_of
from ..core.entry import Entry
from ..decorator import Unavailable, decorate
from ..errors import ConfigError, LambdaPoolError
from ..invocation import Deadline
from ..pool import ConnectionPool
from ..pooled_context import Conn, borrow
from ..secret import private
from ..signature import Signature
from ..waiting import finish
from ..warming import warm
from .loop import EnvironmentLoop
from .waits import Unbroken, loop_runs, require_loop, spawn

if TYPE_CHECKING:
    from typing import Unpack

    import psycopg

    from ..engines.pymysql.coroutines import AsyncConnection
    from ..keywords import Arguments, PlainArguments

P = ParamSpec("P")
R = TypeVar("R")


class _Awaited(Pool):
    """A pool whose connections wait on the event loop. Users never see it."""

    _awaited = True


class AsyncPool(Described, Generic[Conn]):
    """Connections to one logical database for asyncio, kept across warm invocations and event loops.

    Make it at module scope: that opens nothing. In: the same arguments as `Pool`. Raises ConfigError, also if the
    extra `asyncio` is missing. It may be used from several event loops, one after the other or in threads at once.
    A type checker learns the type of connections as with `Pool`: `orders: AsyncPool[psycopg.AsyncConnection]`.
    """

    __module__ = "lambda_pool"

    @overload
    def __init__(
        self: "AsyncPool[psycopg.AsyncConnection]",
        url: str | None = None,
        *,
        engine: Literal["postgresql"],
        port: int | str | None = None,
        **arguments: "Unpack[PlainArguments]",
    ) -> None: ...
    @overload
    def __init__(
        self: "AsyncPool[psycopg.AsyncConnection]",
        url: None = None,
        *,
        port: Literal[5432, "5432"],
        **arguments: "Unpack[PlainArguments]",
    ) -> None: ...
    @overload
    def __init__(
        self: "AsyncPool[psycopg.AsyncConnection[Any]]",
        url: str | None = None,
        *,
        engine: Literal["postgresql"],
        port: int | str | None = None,
        connect_args: Mapping[str, Any],
        **arguments: "Unpack[PlainArguments]",
    ) -> None: ...
    @overload
    def __init__(
        self: "AsyncPool[AsyncConnection]",
        url: str | None = None,
        *,
        engine: Literal["mysql"],
        port: int | str | None = None,
        **arguments: "Unpack[Arguments]",
    ) -> None: ...
    @overload
    def __init__(
        self: "AsyncPool[AsyncConnection]",
        url: None = None,
        *,
        port: Literal[3306, "3306"],
        **arguments: "Unpack[Arguments]",
    ) -> None: ...
    @overload
    def __init__(
        self: "AsyncPool[Any]",
        url: str | None = None,
        *,
        engine: str | None = None,
        port: int | str | None = None,
        **arguments: "Unpack[Arguments]",
    ) -> None: ...

    @private
    def __init__(
        self,
        url: str | None = None,
        *,
        engine: str | None = None,
        port: int | str | None = None,
        **arguments: "Unpack[Arguments]",
    ) -> None:
        self._take(_Awaited(url, engine=engine, port=port, **arguments))

    @classmethod
    def from_env(cls, prefix: str = configuration.DEFAULT_PREFIX) -> "AsyncPool[Any]":
        """A pool configured only by environment variables that begin with `prefix`. Raises ConfigError."""
        pool: AsyncPool[Any] = cls.__new__(cls)
        pool._take(_Awaited.from_env(prefix))
        return pool

    def _take(self, pool: Pool) -> None:
        self._pool = pool
        self._core = core_of(pool)
        self._lent = self._core.connector.engine.in_coroutines

    def __repr__(self) -> str:
        return f"<Async{repr(self._core)[1:]}"

    def connection(self, *, readonly: bool = False, timeout: float | None = None) -> "AsyncPooledContext[Conn]":
        """Borrow a connection for an `async with` block: commit if it ends normally, roll back if it raises.

        `readonly`, `timeout` and what it raises: see `Pool.connection`. The block yields psycopg's AsyncConnection,
        or PyMySQL's connection with its methods as coroutines. If a task is cancelled while its block commits, the pool
        first waits for the answer. So a block that ends with CancelledError has saved nothing.
        """
        wait = None if timeout is None else configuration.seconds("timeout", timeout)
        return AsyncPooledContext(self._core, self._lent, wait, readonly=readonly)

    async def run(self, work: Callable[[Conn], Awaitable[R]], *, attempts: int = 3, readonly: bool = False) -> R:
        """Await `work(conn)` in one transaction and return its result. See `Pool.run`."""
        require_loop("AsyncPool.run()")
        lent = self._lent
        if not callable(work):
            raise replay.not_callable(work)

        def call(conn: Any) -> R:
            doing = work(lent(conn))
            if not inspect.isawaitable(doing):
                raise ConfigError(f"work must be async def, but {_named(work)} returned a {type(doing).__name__}")
            return finish(doing)

        call.__name__ = _named(work)
        return await spawn(replay.run, self._core, call, attempts, readonly=readonly, frame=sys._getframe(1))

    async def warm(self, *, strict: bool = False) -> None:
        """Open `min_size` connections (at least one) now. See `Pool.warm`."""
        require_loop("AsyncPool.warm()")
        await spawn(warm, self._core, Deadline(self._core.config.timeout), strict=strict)

    async def close(self) -> None:
        """Close every connection: idle ones now, lent ones when they are returned. A later checkout opens a new one."""
        require_loop("AsyncPool.close()")
        await spawn(self._core.close)

    @overload
    def handler(
        self, fn: Callable[P, R], *, inject: str = "conn", on_unavailable: Unavailable | None = None
    ) -> Callable[..., Any]: ...

    @overload
    def handler(
        self, fn: None = None, *, inject: str = "conn", on_unavailable: Unavailable | None = None
    ) -> Callable[[Callable[P, R]], Callable[..., Any]]: ...

    def handler(
        self, fn: Callable[P, R] | None = None, *, inject: str = "conn", on_unavailable: Unavailable | None = None
    ) -> Any:
        """Decorate a Lambda handler that is `async def`: what `Pool.handler` does, on one event loop per environment.

        A plain function, such as Mangum(app) or one that calls `asyncio.run`, gets the deadline, clean-up and metrics,
        and borrows with `connection()`. Tasks that still run when the handler ends are cancelled, with a warning.
        Raises ConfigError.
        """
        if configuration.lambda_initialization() == "provisioned-concurrency":
            from .loop import environment_loop

            environment_loop().run_until_complete(self.warm())
        loop = EnvironmentLoop(self._lend, "a connection for asyncio")
        return decorate(fn, inject, on_unavailable, loop=loop, whose=self)

    async def _lend(self, signature: Signature) -> tuple[Any, Callable[[BaseException | None], Awaitable[None]]]:
        entry = await spawn(borrow, self._core, None, readonly=False)
        entry.where = signature.where

        async def give_back(error: BaseException | None) -> None:
            await release(self._core, entry, error)

        return self._lent(entry.link.driver_connection), give_back


class AsyncPooledContext(Generic[Conn]):
    """One borrowed connection. See `AsyncPool.connection`."""

    __slots__ = ("_entered", "_entry", "_lent", "_pool", "_readonly", "_timeout")

    def __init__(
        self, pool: ConnectionPool, lent: Callable[[Any], Any], timeout: float | None, *, readonly: bool
    ) -> None:
        self._pool = pool
        self._lent = lent
        self._timeout = timeout
        self._readonly = readonly
        self._entered = False
        self._entry: Entry | None = None

    async def __aenter__(self) -> Conn:
        require_loop("AsyncPool.connection()")
        if self._entered:
            raise LambdaPoolError("this connection() was entered twice: call pool.connection() for each block")
        frame = sys._getframe(1)
        self._entered = True  # before it waits, so that another task is told
        try:
            entry = self._entry = await spawn(borrow, self._pool, self._timeout, readonly=self._readonly)
        except BaseException:
            self._entered = False
            raise
        borrower.note(entry, frame, deep=self._pool.config.leak_after > 0)
        conn: Conn = self._lent(entry.link.driver_connection)
        return conn

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        entry, self._entry = self._entry, None
        self._entered = False
        if entry is not None:
            await release(self._pool, entry, exc)


async def release(pool: ConnectionPool, entry: Entry, error: BaseException | None) -> None:
    """Take a connection back, even if the task is cancelled meanwhile."""
    if not loop_runs():
        # A generator or a coroutine that outlived its loop is garbage-collected: nothing can be awaited any more.
        pool.release(entry, error)
        return
    with Unbroken(pool.config.timeout):
        await spawn(pool.release, entry, error)


def _named(work: Any) -> str:
    return getattr(work, "__qualname__", type(work).__name__)
