"""Async generators that nobody reads to their end: the loop closes each in a task of its own, soon after."""

import asyncio
from collections.abc import Callable
from typing import Any

_CLOSES = "async_generator_athrow"  # the type that aclose() returns, which no module names
TURNS = 10
"""Turns that other tasks get until the loop has begun to close one: two for each one around another."""


def closing(loop: asyncio.AbstractEventLoop) -> list["asyncio.Task[Any]"]:
    """The tasks in which the loop closes generators now."""
    return [task for task in asyncio.all_tasks(loop) if type(task.get_coro()).__name__ == _CLOSES and not task.done()]


async def turn() -> None:
    """Let the other tasks have theirs."""
    await asyncio.sleep(0)


async def closed(holds: Callable[[], bool], seconds: float) -> None:
    """Wait at most so many seconds for them, while something `holds` what one of them may give back."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    turns = TURNS
    while turns and holds() and (left := until - loop.time()) > 0:
        if tasks := closing(loop):
            await asyncio.wait(tasks, timeout=left)
        else:
            await turn()
            turns -= 1
