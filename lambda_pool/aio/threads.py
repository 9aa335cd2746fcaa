"""Blocking calls, each in a thread of its own: other code may keep all threads of a loop's executor busy."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..waiting import Outcome, begin_beside, outcome_of


def begin(call: Callable[[], Any]) -> asyncio.Future[Outcome]:
    """Begin a call, which goes on even if nobody waits for it any more. Out: its outcome, see `waiting.result_of`.

    Neither the loop nor the process waits for it before it ends.
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
