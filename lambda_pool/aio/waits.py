"""The asyncio half of `waiting`: synchronous code runs in a greenlet, and each of its waits switches to the event loop.

Greenlets that SQLAlchemy starts for its asyncio extension work as well as ours: the same attribute marks both.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from math import inf
from threading import get_ident
from types import FrameType, TracebackType
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from .. import waiting
from ..endpoints.base import Role
from ..errors import ConfigError
from ..invocation import at_most
from ..waiting import READ, WRITE, OverdueError
from . import threads

try:
    from greenlet import getcurrent, greenlet
except ImportError as _error:
    raise ConfigError(f"asyncio needs greenlet: pip install 'lambda-pool[asyncio]' ({_error})") from _error

P = ParamSpec("P")
T = TypeVar("T")

# Seconds until a postponed cancellation is delivered.
_A_MOMENT = 0.05

_PROVIDER = "__sqlalchemy_greenlet_provider__"


class Waiter(greenlet):
    """Runs synchronous code for a task."""

    __sqlalchemy_greenlet_provider__ = True


async def spawn(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run synchronous code whose waits go to the event loop. Raises what it raises."""
    me = getcurrent()
    waiter = Waiter(call, me)
    waiter.gr_context = me.gr_context
    wanted = waiter.switch(*arguments, **named)
    while not waiter.dead:
        try:
            value = await wanted
        except BaseException:  # noqa: BLE001 - raised again out of the wait, where the code handles it
            waiter.parent = getcurrent()  # an eager task may have begun in another greenlet
            wanted = waiter.throw(*sys.exc_info())
        else:
            waiter.parent = getcurrent()
            wanted = waiter.switch(value)
    return wanted  # type: ignore[no-any-return]


def require_loop(what: str) -> None:
    """Raises ConfigError if no event loop runs, or if it is another library's."""
    if loop_runs():
        return
    other = "trio" if "trio" in sys.modules else "another library"
    raise ConfigError(
        f"{what} needs a running asyncio event loop, but this code runs on {other} or on none: AsyncPool works with "
        "asyncio, and with anyio on its asyncio backend; use Pool elsewhere"
    )


def loop_runs() -> bool:
    """True if an asyncio event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def in_greenlet() -> bool:
    """True if this code runs in a greenlet whose waits go to the event loop."""
    return bool(getattr(getcurrent(), _PROVIDER, False))


# --- a descriptor -----------------------------------------------------------------------------------------------------


async def ready(fd: int, events: int, timeout: float | None) -> int:
    """See `waiting.ready`."""
    loop = asyncio.get_running_loop()
    until = None if timeout is None else loop.time() + timeout
    if (limit := _limit()) != inf:
        until = limit if until is None else min(until, limit)
    while True:
        found = 0
        woken = loop.create_future()

        def wake(which: int, woken: asyncio.Future[None] = woken) -> None:
            nonlocal found
            found |= which
            if not woken.done():
                woken.set_result(None)

        timer = None if until is None else loop.call_at(until, wake, 0)
        try:
            if events & READ:
                loop.add_reader(fd, wake, READ)
            if events & WRITE:
                loop.add_writer(fd, wake, WRITE)
            await woken
        except asyncio.CancelledError:
            until = _put_off(loop, until)
            # anyio cancels in each round of the loop, which then never handles what its selector has found.
            found = waiting.poll(fd, events)
            if found or loop.time() >= until:
                return found
        else:
            return found
        finally:
            if timer is not None:
                timer.cancel()
            if events & READ:
                loop.remove_reader(fd)
            if events & WRITE:
                loop.remove_writer(fd)


# --- cancellation -----------------------------------------------------------------------------------------------------


class Unbroken:
    """A block that puts off a task's cancellation until it ends."""

    __slots__ = ("_again", "_before", "_nested", "_seconds", "_task", "limit")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._again = False
        self._task = asyncio.current_task()
        self._nested = self._task in _unbroken
        # Not zero, if code of the user's has swallowed a cancellation earlier.
        self._before = 0 if self._task is None else self._task.cancelling()
        self.limit: float | None = None
        """Until when the block may wait, by the loop's clock; None before a cancellation has come."""

    def __enter__(self) -> None:
        if not self._nested and self._task is not None:
            _unbroken[self._task] = self

    def put_off(self, now: float, until: float | None) -> float:
        """Put off a cancellation, the first or another one. Out: until when to wait from now on."""
        if self.limit is None:
            self.limit = now + at_most(self._seconds)
            if self._task is not None:  # it may have come before the block, and be raised only now
                self._before = min(self._before, self._task.cancelling() - 1)
        self._again = self._again or not _by_a_scope()
        return self.limit if until is None else min(until, self.limit)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = self._task
        if self._nested or task is None:
            return
        del _unbroken[task]
        if self._again:
            # Not at once: the code around the block must be able to end well too, such as SQLAlchemy's session, which
            # closes itself in a task of its own.
            task.get_loop().call_later(_A_MOMENT, _cancel_again, task, self._before)


_unbroken: WeakKeyDictionary["asyncio.Task[Any]", Unbroken] = WeakKeyDictionary()


def _limit() -> float:
    """Until when an unbroken block may wait, once it was cancelled; infinite everywhere else."""
    block = _unbroken.get(asyncio.current_task()) if _unbroken else None  # type: ignore[arg-type]
    return inf if block is None or block.limit is None else block.limit


def _put_off(loop: asyncio.AbstractEventLoop, until: float | None) -> float:
    """While CancelledError is handled: raise it again, except in an unbroken block. Out: until when to wait."""
    block = _unbroken.get(asyncio.current_task())  # type: ignore[arg-type]
    if block is None:
        raise  # noqa: PLE0704 - called where it is handled
    return block.put_off(loop.time(), until)


def _by_a_scope() -> bool:
    """True if a cancel scope of anyio's cancels this task. It does so again by itself, except where it is shielded."""
    anyio = sys.modules.get("anyio")
    return anyio is not None and bool(anyio.current_effective_deadline() == -inf)


def _cancel_again(task: "asyncio.Task[Any]", before: int) -> None:
    """Deliver a cancellation that was put off, unless it was taken back meanwhile. `before`: how many there were."""
    if not task.done() and task.cancelling() > before:
        task.uncancel()
        task.cancel()


# --- a turn -----------------------------------------------------------------------------------------------------------


class TaskTurn:
    """A task's place in a pool's queue. `wake` may come from another thread."""

    __slots__ = ("_called", "_loop", "_thread", "_woken", "owner", "role")

    def __init__(self, owner: int, role: Role) -> None:
        self.owner: int = owner
        self.role: Role = role
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._called = False
        self._woken: asyncio.Future[None] | None = None

    @property
    def abandoned(self) -> bool:
        """True if its loop does not run: it may never run again."""
        return not self._loop.is_running()

    def wait(self, seconds: float) -> bool:
        """Wait for `wake`, at most this many seconds. False if it did not come."""
        return _loop_waits.finish(self._wait(seconds))

    async def _wait(self, seconds: float) -> bool:
        if not self._called:
            woken = self._woken = self._loop.create_future()
            timer = self._loop.call_later(seconds, _wake, woken)
            try:
                await woken
            finally:
                timer.cancel()
                self._woken = None
        called, self._called = self._called, False
        return called

    def wake(self) -> None:
        """Let the task look again."""
        if self._loop.is_closed():
            return
        if get_ident() == self._thread:
            self._rouse()
            return
        with suppress(RuntimeError):  # closed at this very moment: nobody waits there any more
            self._loop.call_soon_threadsafe(self._rouse)

    def _rouse(self) -> None:
        self._called = True
        if self._woken is not None:
            _wake(self._woken)


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


# --- the seam ---------------------------------------------------------------------------------------------------------

_numbers: WeakKeyDictionary["asyncio.Task[Any]", int] = WeakKeyDictionary()
_tasks: WeakValueDictionary[int, "asyncio.Task[Any]"] = WeakValueDictionary()
_next = count(1)


async def _within(seconds: float, call: Callable[[], T]) -> T:
    """See `waiting.within`."""
    loop = asyncio.get_running_loop()
    until = min(loop.time() + seconds, _limit())
    outcome = threads.begin(call)
    while not outcome.done() and (left := until - loop.time()) > 0:
        try:
            await asyncio.wait((outcome,), timeout=left)
        except asyncio.CancelledError:
            until = _put_off(loop, until)
    if not outcome.done():
        raise OverdueError("no answer in time")
    return waiting.result_of(outcome.result())  # type: ignore[no-any-return]


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


class LoopWaits:
    """How code in a greenlet waits: each method does what the function of the same name in `waiting` does.

    `finish_alone` does what `finish` does where no loop runs.
    """

    here: Callable[[], bool] = staticmethod(in_greenlet)

    def current_borrower(self) -> int:
        # Not `id(task)`: the next task may get the id of one that is gone.
        task = asyncio.current_task()
        if task is None:
            return get_ident()
        number = _numbers.get(task)
        if number is None:
            number = _numbers[task] = -next(_next)
            _tasks[number] = task
        return number

    def cannot_go_on(self, borrower: int) -> bool:
        task = _tasks.get(borrower)
        return task is None or not task.get_loop().is_running()

    def is_stuck(self, borrower: int) -> bool:
        task = _tasks.get(borrower)
        return task is not None and not task.done() and task.get_loop().is_closed()

    def finish(self, awaitable: Awaitable[T]) -> T:
        return getcurrent().parent.switch(awaitable)  # type: ignore[union-attr, no-any-return]

    def finish_alone(self, awaitable: Awaitable[T]) -> T:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(_awaited(awaitable))
        finally:
            loop.close()

    def pause(self, seconds: float) -> None:
        self.finish(asyncio.sleep(seconds))

    def ready(self, fd: int, events: int, timeout: float | None) -> int:
        return self.finish(ready(fd, events, timeout))

    def turn(self, owner: int, role: Role) -> TaskTurn:
        return TaskTurn(owner, role)

    def within(self, seconds: float, call: Callable[[], T]) -> T:
        return self.finish(_within(seconds, call))

    def unbroken(self, seconds: float) -> Unbroken:
        return Unbroken(seconds)

    def outer(self, frame: FrameType) -> FrameType | None:
        parent = getcurrent().parent
        return parent.gr_frame if parent is not None else None


_loop_waits = LoopWaits()
waiting.install(_loop_waits)
