"""`session`: a FastAPI dependency that gives each request a SQLAlchemy session, and commits before the answer."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from anyio import CancelScope, CapacityLimiter, WouldBlock, get_current_task, move_on_after
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync
from fastapi import Depends
from fastapi.requests import HTTPConnection
from sqlalchemy.exc import IllegalStateChangeError
from sqlalchemy.orm import Session

from . import unavailable
from .invocation import Deadline
from .pool import ConnectionPool
from .sqlalchemy.sessions import check_engine, is_begun, lender
from .waiting import begin_beside, outcome_of, pause

__all__ = ["session"]

_AGAIN = 0.01
"""Seconds between two tries to end a session that another thread is using."""
_NAME = "lambda_pool.fastapi.session: write Depends(session(engine), scope='function')"
"""What FastAPI calls the dependency when it refuses it."""


async def _before_the_answer() -> None:
    """Does nothing, but FastAPI refuses every dependency that uses it and would end after the answer."""


_Scope = Annotated[None, Depends(_before_the_answer, scope="function")]


def session(engine: Any, **session_options: Any) -> Callable[..., Any]:
    """A dependency, used as `Depends(session(engine), scope="function")`: one session for each request.

    In: an engine made by `create_engine` (then a `Session`) or `create_async_engine` (an `AsyncSession`), and the
    session's options, such as `class_` for another class. The session borrows its connection with its first
    statement. It is committed when the route has returned and before its answer is sent, and rolled back when the
    route raises, HTTPException included. Without `scope="function"`, FastAPI would commit after the answer, so it
    refuses the route (`fastapi.exceptions.DependencyScopeError`). Raises ConfigError for a bad argument.
    """
    dependency = _async_session if hasattr(engine, "sync_engine") else _session
    # The same one for the same options: FastAPI opens a session for each different dependency of a request.
    known = check_engine(getattr(engine, "sync_engine", engine)).dialect.dependencies
    try:
        key = (engine, frozenset(session_options.items()))
        found: Callable[..., Any] | None = known.get(key)
    except TypeError:  # an option that cannot be hashed, such as a dictionary
        return dependency(engine, session_options)
    if found is None:
        found = known[key] = dependency(engine, session_options)
    return found


class _Gate:
    """Lets only as many requests begin a session of one pool as there are connections, and has threads to end them in.

    If a request that is inside begins another session, it does not wait here: it would wait for its own end. Nor does
    one that is inside of another pool's gate: whoever is inside here may wait for that one. Any other request that
    needs a connection waits here, on the loop. In one of the framework's few threads, it would wait for sessions whose
    routes have returned, and which need such a thread to go on.
    """

    def __init__(self, size: int) -> None:
        self._room = CapacityLimiter(size)
        self._threads = CapacityLimiter(size)
        self._sessions: Counter[int] = Counter()  # for each request's task that is inside

    async def enter(self, pool: ConnectionPool) -> int | None:
        """Wait for room. Out: the task that must leave later; None if there is no room and it may not wait.

        Raises PoolTimeout or DeadlineExceeded.
        """
        task = get_current_task().id
        if not self._sessions[task]:
            try:
                self._room.acquire_on_behalf_of_nowait(task)
            except WouldBlock:
                if any(gate._sessions[task] for gate in _gates.get().values()):
                    return None
                await self._wait(pool, task)
        self._sessions[task] += 1
        return task

    async def _wait(self, pool: ConnectionPool, task: int) -> None:
        deadline = Deadline(pool.config.timeout, wake=pool.config.wake_timeout)
        left = deadline.left()
        while True:
            with move_on_after(max(left, 0.0)):
                await self._room.acquire_on_behalf_of(task)
                return
            if (left := pool.connector.left(deadline)) <= 0:
                break
        raise unavailable.timed_out(pool, deadline)

    async def leave(self, task: int | None, give_back: Callable[[BaseException | None], None], error: Any) -> None:
        """End a session, even if the request is cancelled meanwhile. Raises what its COMMIT raises.

        `task`: what `enter` gave; None for a session that did not enter.
        """
        todo = [give_back]
        try:
            with CancelScope(shield=True):
                await run_sync(_give_back, todo, error, limiter=self._threads)
        except BaseException as cancelled:
            if todo:  # asyncio's own cancel, which no scope shields, came before the thread began
                begin_beside(partial(outcome_of, partial(_give_back, todo, cancelled)))
            raise
        finally:
            if task is not None:
                self._sessions[task] -= 1
                if not self._sessions[task]:
                    del self._sessions[task]
                    self._room.release_on_behalf_of(task)


def _give_back(todo: list[Callable[[BaseException | None], None]], error: BaseException | None) -> None:
    """End the session whose end is in the list, unless another thread has taken it out."""
    try:
        give_back = todo.pop()
    except IndexError:
        return
    give_back(error)


_gates: RunVar[WeakKeyDictionary[ConnectionPool, _Gate]] = RunVar("lambda_pool_gates")
"""The gates of each event loop."""


def _gate(pool: ConnectionPool) -> _Gate:
    try:
        gates = _gates.get()
    except LookupError:
        gates = WeakKeyDictionary()
        _gates.set(gates)
    if pool not in gates:
        gates[pool] = _Gate(pool.config.max_size)
    return gates[pool]


def _session(engine: Any, options: dict[str, Any]) -> Callable[..., Any]:
    lend = lender(engine, options, eager=False, called="session()")
    pool: ConnectionPool = engine.dialect.pool

    async def opened(scope: _Scope, client: HTTPConnection) -> AsyncIterator[Session]:
        lent, give_back = lend()
        gate = _gate(pool)
        # A WebSocket stays open and mostly waits: it would keep requests out, and its route needs no thread.
        task = await gate.enter(pool) if client.scope["type"] == "http" else None
        try:
            yield lent
        except BaseException as error:
            await gate.leave(task, partial(_end_failed, pool, lent, give_back), error)
            raise
        await gate.leave(task, give_back, None)

    opened.__name__ = _NAME
    return opened


def _end_failed(
    pool: ConnectionPool, session: Any, give_back: Callable[[BaseException | None], None], error: BaseException | None
) -> None:
    """End the session of a request that failed.

    If asyncio cancelled it, the route's thread goes on. A session that is just borrowing there is ended after that.
    """
    try:
        give_back(error)
    except IllegalStateChangeError:
        deadline = Deadline(pool.config.timeout + pool.config.wake_timeout, uncut=True)
        begin_beside(partial(outcome_of, partial(_end_later, session, deadline)))


def _end_later(session: Any, deadline: Deadline) -> None:
    """End a session once its thread has borrowed. Its connection is closed: the thread may be about to use it."""
    while deadline.left() > 0:
        pause(_AGAIN)
        with suppress(IllegalStateChangeError):
            session.invalidate()
            session.end()
            return


def _async_session(engine: Any, options: dict[str, Any]) -> Callable[..., Any]:
    from sqlalchemy.ext.asyncio import AsyncSession

    from .sqlalchemy.async_sessions import end, once_awaited

    make = once_awaited(engine, options, "session()")

    async def opened(scope: _Scope) -> AsyncIterator[AsyncSession]:
        lent = make()
        try:
            async with lent:
                yield lent
                if is_begun(lent.sync_session):  # not reached after an error, and then nothing is saved
                    await lent.commit()
        finally:
            end(lent)

    opened.__name__ = _NAME
    return opened
