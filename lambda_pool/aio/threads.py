"""Calls that wait by themselves, each in a thread of its own: others may keep all those of a loop's executor."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..waiting import Outcome, begin_beside, outcome_of


def begin(call: Callable[[], Any]) -> asyncio.Future[Outcome]:
    """Begin a call, which goes on also where nobody waits for it any more. Out: its outcome, see `waiting.result_of`.

    Neither the end of the loop nor that of the process waits for it.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Outcome] = loop.create_future()

    def tell(outcome: Outcome) -> None:
        if not ended.done():
            ended.set_result(outcome)

    def run() -> None:
        outcome = outcome_of(call)
        with suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(tell, outcome)

    begin_beside(run)
    return ended
