"""Async generators that nobody reads to their end: the loop closes each in a task of its own, soon after."""

import asyncio
from collections.abc import Callable
from typing import Any

_CLOSES = "async_generator_athrow"  # the type that aclose() returns, which no module names
TURNS = 10
"""How often other tasks may run until the loop has begun to close one. Nested generators need two turns each."""


def closing(loop: asyncio.AbstractEventLoop) -> list["asyncio.Task[Any]"]:
    """The tasks in which the loop closes generators now."""
    return [task for task in asyncio.all_tasks(loop) if type(task.get_coro()).__name__ == _CLOSES and not task.done()]


async def turn() -> None:
    """Let the other tasks run."""
    await asyncio.sleep(0)


async def closed(holds: Callable[[], bool], seconds: float) -> None:
    """Wait at most `seconds` for the loop to close generators, as long as `holds()`: one may give a connection back."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    turns = TURNS
    while turns and holds() and (left := until - loop.time()) > 0:
        if tasks := closing(loop):
            await asyncio.wait(tasks, timeout=left)
        else:
            await turn()
            turns -= 1
