"""The Lambda function that writes the ledger: it runs on the genuine runtime, and notes in a diary what it was told."""

import time
from typing import Any

from lambda_pool import NotCommitted
from tests.faults.chaos import doors, endings, idioms, threading_doors
from tests.faults.chaos.call import Call, OwnError, enter
from tests.faults.chaos.pools import POOLS
from tests.faults.chaos.schedule import SPEAK_FOR_THEMSELVES


def answer(call: Call, context: Any) -> None:
    """Go through the door, and note what comes out of it."""
    name = f"{call.door}_door"
    [door] = [vars(module)[name] for module in (doors, idioms, endings, threading_doors) if name in vars(module)]
    if call.door in SPEAK_FOR_THEMSELVES:
        door(call, context)
        return
    try:
        with call.told_by_its_end():
            door(call, context)
    finally:
        if call.door == "savepoint":
            call.told("failed", f"{call.unit}.undone")


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    # The genuine context, with a deadline that differs from one invocation to the next. Lambda's own comes later, so
    # that being late can be measured, where Lambda would only end the environment.
    deadline = min(context._epoch_deadline_time_in_ms, int((time.time() + event["budget"]) * 1000))
    context._epoch_deadline_time_in_ms = deadline
    call = Call(event)
    began = time.monotonic()
    failure: BaseException | None = None
    try:
        answer(call, context)
    except Exception as error:
        failure = error
        raise
    finally:
        took = time.monotonic() - began
        text = "" if failure is None else f"{type(failure).__name__}: {failure}"[:400]
        # While a handler waits for a fault to strike, the pool has nothing to end: the wait is reported separately.
        held = max(call.held_until - deadline / 1000, 0.0)
        late = time.time() - deadline / 1000 - held
        call.note_a_thread_that_stays()
        enter(
            {
                "end": call.unit,
                "took": took,
                "late": late,
                "held": held,
                "error": text,
                "own": failure is None or isinstance(failure, OwnError) or call.undone,
                "alarm": isinstance(failure, NotCommitted) and not (call.undone or call.hides),
                "found": call.found,
            }
        )
    return {"unit": call.unit, "sizes": [pool.stats().size for pool in POOLS]}
