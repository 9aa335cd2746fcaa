"""The event loop of an environment: `async def` handlers run on it, one after the other, and leave nothing running."""

import asyncio
import atexit
import inspect
import logging
import warnings
from collections.abc import Awaitable, Callable
from threading import current_thread, local, main_thread
from typing import Any
from weakref import finalize

from .. import invocation
from ..decorator import Unavailable, event_and_context, handing_over
from ..errors import ConfigError
from ..finished import finished
from ..request import UNAVAILABLE
from ..signature import Signature
from .generators import closing
from .waits import loop_runs

log: logging.Logger = logging.getLogger("lambda_pool")

Lend = Callable[[Signature], Awaitable[tuple[Any, Callable[[BaseException | None], Awaitable[None]]]]]
"""Gives what the handler gets, and a function to await afterwards with the handler's error (None if it ended well)."""

# Seconds that cancelled tasks get to end, if the invocation has that much time left.
_PATIENCE = 1.0
_MIN_PATIENCE = 0.05


class _Life:
    """Ends with its thread."""


class _Mine(local):
    loop: asyncio.AbstractEventLoop | None = None
    life: _Life | None = None


_mine = _Mine()


def environment_loop() -> asyncio.AbstractEventLoop:
    """The loop of this thread, open as long as that lives. Mangum and other callers of asyncio get it too."""
    loop = _current() or _mine.loop
    if loop is None or loop.is_closed():
        loop = asyncio.new_event_loop()
        _mine.life = life = _Life()
        finalize(life, loop.close)
    elif loop is not _mine.loop and current_thread() is main_thread():
        atexit.register(loop.close)
    _mine.loop = loop
    asyncio.set_event_loop(loop)  # `asyncio.run` leaves no loop set
    return loop


def _current() -> asyncio.AbstractEventLoop | None:
    """The loop that somebody has set for this thread, as Mangum does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:
            return None
    return None if loop.is_closed() else loop


class EnvironmentLoop:
    """Runs handlers. `lend` gives what they are lent, and `what` is its name in errors."""

    def __init__(self, lend: Lend, what: str) -> None:
        self._lend = lend
        self._what = what

    def lending(
        self, signature: Signature, on_unavailable: Unavailable | None
    ) -> Callable[[tuple[Any, ...], dict[str, Any]], Any] | None:
        """A coroutine function that calls the handler with what it is lent; None if it takes nothing.

        Raises ConfigError.
        """
        if not signature.is_coroutine:
            if signature.named:
                raise ConfigError(
                    f"the handler {signature.name} is a plain function, and its {signature.inject!r} would be "
                    f"{self._what}, which can only be awaited: write async def {signature.name}, or use Pool"
                )
            return None
        if not signature.wanted:
            return None
        call_with, lend = handing_over(signature), self._lend

        async def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            try:
                lent, give_back = await lend(signature)
            except UNAVAILABLE as error:
                if on_unavailable is None:
                    raise
                return await _result(on_unavailable(*event_and_context(args, kwargs), error))
            try:
                result = finished("handler", signature.name, await _result(call_with(lent, args, kwargs)))
            except BaseException as error:
                await give_back(error)
                raise
            await give_back(None)
            return result

        return call

    def run(self, start: Callable[[], Any], *, nested: bool) -> Any:
        """What a handler returns, awaited if it must be. Ends the tasks that it left.

        A plain function may have left tasks as well, on a loop that it ran itself. `nested`: the call is inside another
        decorated handler. If that one is on a loop, it awaits the result itself.
        """
        is_plain = True
        try:
            result = start()
            if not inspect.isawaitable(result):
                return result
            is_plain = False
            if loop_runs():
                if nested:
                    return result
                if inspect.iscoroutine(result):
                    result.close()
                raise ConfigError(
                    "this handler runs its own event loop, but another one is already running here: call it from plain "
                    "code, as Lambda does, or await the function that it wraps (handler.__wrapped__)"
                )
            return environment_loop().run_until_complete(_result(result))
        finally:
            for loop in {_mine.loop, _current() if is_plain else None}:
                if loop is not None:
                    end_tasks(loop)


async def _result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel tasks that are left when the handler has ended, and warn: after a freeze they would go on much later.

    Tasks in which the loop closes an unfinished async generator may end first: they give back what it borrowed.
    """
    if loop.is_closed() or loop.is_running():
        return
    if tasks := closing(loop):
        _wait(loop, tasks, "closing an async generator failed")
    left = _left(loop)
    if not left:
        return
    names = ", ".join(sorted(_named(task) for task in left))
    log.warning(
        "the handler ended while %d of its tasks were still running, so they are cancelled: %s. Await them, or start "
        "them in an asyncio.TaskGroup",
        len(left),
        names,
    )
    for task in left:
        task.cancel()
    stubborn = _wait(loop, left, "a task that was cancelled failed")
    if stubborn:
        log.warning("tasks that were cancelled did not end: %s", ", ".join(sorted(_named(task) for task in stubborn)))


def _left(loop: asyncio.AbstractEventLoop) -> list["asyncio.Task[Any]"]:
    return [task for task in asyncio.all_tasks(loop) if not task.done()]


def _wait(loop: asyncio.AbstractEventLoop, tasks: list["asyncio.Task[Any]"], failed: str) -> set["asyncio.Task[Any]"]:
    """Give tasks a moment to end. Out: those that did not."""
    remaining = invocation.remaining()
    patience = _PATIENCE if remaining is None else max(min(remaining, _PATIENCE), _MIN_PATIENCE)
    done, stubborn = loop.run_until_complete(asyncio.wait(tasks, timeout=patience))
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s: %s: %s", failed, type(error).__name__, error)
    return stubborn


def _named(task: "asyncio.Task[Any]") -> str:
    code = getattr(task.get_coro(), "__qualname__", "")
    return f"{task.get_name()} ({code})" if code else task.get_name()
